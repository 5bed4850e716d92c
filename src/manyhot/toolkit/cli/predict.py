"""`manyhot predict`."""

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from manyhot.toolkit.cli.failing import failing_clearly
from manyhot.toolkit.cli.options import FORMATS_HELP, Encoding, Json, refuse_encoding
from manyhot.toolkit.cli.terminal import predicting, print_json, say
from manyhot.toolkit.errors import InputError

if TYPE_CHECKING:
    from manyhot.toolkit.runs.predict import Run
    from manyhot.toolkit.spans.predict import SpanRun

# Lines of stdin that are predicted at once: with one a call, most of the time would go into the calls.
LINES = 256


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help=f"{FORMATS_HELP}; a text in quotes; or - for a text a line of stdin.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT", help="Of a file: a .jsonl, .csv or .parquet to write.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="COLS", help="Columns of DATA to write too, commas between; all for all.")
    ] = None,
    encoding: Encoding = None,
    as_json: Json = False,
) -> None:
    """Predict the labels of each row, best first, with scores and probabilities. DATA may be larger than memory.

    \b
    Examples:
      manyhot predict runs/reviews-1 "the soup was cold"
      manyhot predict runs/reviews-1 new.parquet -o out.jsonl --keep id
      tail -f reviews.txt | manyhot predict runs/reviews-1 - > out.jsonl
    """
    with failing_clearly():
        from manyhot.toolkit.runs.predictions import write_predictions
        from manyhot.toolkit.runs.saved_run import load_run
        from manyhot.toolkit.spans.write import write_spans

        loaded = load_run(run)
        if out is None and not _is_file(data):
            for option, given in (("--keep", keep), ("--encoding", encoding)):
                if given is not None:
                    raise InputError(f"{option} is of a file; leave it out, or name a file and -o OUT.")
            if data == "-":
                _predict_lines(loaded)
            else:
                _predict_text(loaded, data, as_json)
            return
        if out is None and not Path(data).exists():
            raise InputError(
                f"{data}: there is no such file; a text that looks like the name of one goes by stdin, with -."
            )
        if out is None:
            raise InputError(
                f"{data}: expected a file to write to; add -o {Path(data).name.partition('.')[0]}-out.jsonl."
            )
        columns = None if keep == "all" else [name.strip() for name in keep.split(",")] if keep else []
        with predicting() as progress:
            if loaded.task == "spans":
                refuse_encoding(encoding)
                rows = write_spans(out, loaded, data, keep=columns, progress=progress)
            else:
                rows = write_predictions(out, loaded, data, keep=columns, encoding=encoding, progress=progress)
        if as_json:
            print_json({"out": str(out), "rows": rows})
        else:
            say(f"wrote {out}: {rows:,} rows")


# A word that ends so is a file, whether it is there or not; else a mistyped name would be predicted as a text.
ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".arff", ".svm", ".txt", ".conll", ".npz", ".npy", ".parquet", ".json")


def _is_file(data: str) -> bool:
    if data in ("-", ""):
        return False
    try:
        if Path(data).exists():
            return True
    except OSError:  # longer than a name can be
        return False
    return " " not in data and data.removesuffix(".gz").removesuffix(".bz2").endswith(ENDINGS)


def _predict_text(run: "Run | SpanRun", text: str, as_json: bool) -> None:
    """Print a label a line with its probability; of spans, a span a line."""
    if not text.strip():
        raise InputError("expected a text, got an empty one.")
    if as_json:
        print_json(next(_predicted(run, [text])))
        return
    console = Console(soft_wrap=True, highlight=False)
    if run.task == "spans":
        spans = next(_predicted(run, [text]))["spans"]
        for span in spans:
            console.print(f"{span['label']:12} {text[span['start'] : span['end']]}", markup=False)
        if not spans:
            say("no span found")
        return
    sets = sorted(run.label_sets(run.logits([text]))[0], key=lambda label: -label.prob)
    width = max((len(label.name) for label in sets), default=0)
    for label in sets:
        console.print(f"{label.name:{width}}  {100 * label.prob:3.0f} %", markup=False)
    if not sets:
        say("no label: none is likely enough")


def _predict_lines(run: "Run | SpanRun") -> None:
    """Write a line of JSON for each line of stdin; an empty one is a text without words."""
    lines = (line.rstrip("\r\n") for line in sys.stdin)
    # On a terminal each line is answered at once.
    at_once = 1 if sys.stdin.isatty() else LINES
    while texts := list(islice(lines, at_once)):
        for row in _predicted(run, texts):
            sys.stdout.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()


def _predicted(run: "Run | SpanRun", texts: list[str]) -> Iterator[dict[str, Any]]:
    """Lay out what is predicted of texts, as the lines of a .jsonl output are."""
    if run.task == "spans":
        for text, spans in zip(texts, run.predict(texts), strict=True):
            yield {
                "text": text,
                "spans": [
                    {"start": s, "end": e, "label": name, "score": round(score, 4)} for s, e, name, score in spans
                ],
            }
        return
    from manyhot.toolkit.runs.predictions import predictions

    yield from predictions(run, run.logits(texts)).iter_rows(named=True)
