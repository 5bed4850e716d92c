"""`manyhot evaluate`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from manyhot.toolkit.cli.failing import failing_clearly
from manyhot.toolkit.cli.options import Data, Encoding, Json, refuse_encoding
from manyhot.toolkit.cli.terminal import metrics_table, print_json, say, warn


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    data: Data,
    encoding: Encoding = None,
    as_json: Json = False,
) -> None:
    """Measure a run on labelled rows.

    \b
    Examples:
      manyhot evaluate runs/reviews-1 test.jsonl
      manyhot evaluate runs/reviews-1 test.jsonl --json
    """
    with failing_clearly():
        from manyhot.toolkit.config import MARKED_TEXTS
        from manyhot.toolkit.runs.predict import read_for
        from manyhot.toolkit.runs.saved_run import load_run

        loaded = load_run(run)
        if loaded.task in MARKED_TEXTS:
            refuse_encoding(encoding)
            measured = loaded.evaluate_file(data)
        else:
            measured = loaded.evaluate_examples(read_for(loaded, data, with_labels=True, encoding=encoding))
        for note in measured.notes:
            warn(note)
        drift = None if loaded.task in MARKED_TEXTS else loaded.drift()
        if drift is not None:
            drift.look_at_labels(measured.examples, measured.aligned.targets)
        if as_json:
            print_json(measured.metrics | ({} if drift is None else {"drift": drift.found()}))
        else:
            Console(soft_wrap=True).print(metrics_table({Path(data).name: measured.metrics}))
            say(f"measured {run} on {data}")
            if drift is not None and (note := drift.said()):
                warn(note)
