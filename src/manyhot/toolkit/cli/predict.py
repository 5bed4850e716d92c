"""`manyhot predict`."""

from pathlib import Path
from typing import Annotated

import typer

from manyhot.toolkit.cli.failing import failing_clearly
from manyhot.toolkit.cli.options import Data, Encoding, Json, refuse_encoding
from manyhot.toolkit.cli.terminal import predicting, print_json, say, warn


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    data: Data,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="Where to write: .jsonl, .csv or .parquet.")],
    keep: Annotated[
        str | None, typer.Option(metavar="COLS", help="Columns of DATA to write too, commas between; all for all.")
    ] = None,
    encoding: Encoding = None,
    as_json: Json = False,
) -> None:
    """Predict the labels of each row, best first, with scores and probabilities. DATA may be larger than memory."""
    with failing_clearly():
        from manyhot.toolkit.config import MARKED_TEXTS
        from manyhot.toolkit.runs.predictions import write_predictions
        from manyhot.toolkit.runs.saved_run import load_run
        from manyhot.toolkit.spans.write import write_spans

        loaded = load_run(run)
        columns = None if keep == "all" else [name.strip() for name in keep.split(",")] if keep else []
        notes: list[str] = []
        with predicting() as progress:
            if loaded.task in MARKED_TEXTS:
                refuse_encoding(encoding)
                rows = write_spans(out, loaded, data, keep=columns, progress=progress)
            else:
                options = {"encoding": encoding, "progress": progress, "warn": notes.append}
                rows = write_predictions(out, loaded, data, keep=columns, **options)
        for note in notes:
            warn(note)
        if as_json:
            print_json({"out": str(out), "rows": rows})
        else:
            say(f"wrote {out}: {rows:,} rows")
