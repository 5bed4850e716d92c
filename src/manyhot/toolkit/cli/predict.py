"""`manyhot predict`."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from manyhot.toolkit.cli.failing import fail, failing_clearly
from manyhot.toolkit.cli.options import FORMATS_HELP, Encoding, Json, SafeCsv, refuse_encoding
from manyhot.toolkit.cli.stdin import lines
from manyhot.toolkit.cli.terminal import predicting, print_json, say, warn
from manyhot.toolkit.errors import InputError, on_one_line, shown

if TYPE_CHECKING:
    from manyhot.toolkit.runs.predict import Run
    from manyhot.toolkit.runs.review import Review
    from manyhot.toolkit.spans.predict import SpanRun

# Lines of stdin that are predicted at once: with one a call, most of the time would go into the calls.
LINES = 256
# Fewer where they are long.
CHARACTERS = 2**22


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help=f"{FORMATS_HELP}; a text in quotes; or - for a text a line of stdin.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help="A .jsonl, .csv or .parquet file; a folder where DATA is one.",
        ),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="COLS", help="Columns of DATA to write too, commas between; all for all.")
    ] = None,
    encoding: Encoding = None,
    safe_csv: SafeCsv = False,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that share the files of a folder.  [default: 1]")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Every N-th file of a folder from the I-th on: for N machines."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Share the files of a folder on a Ray cluster; local starts one here."),
    ] = None,
    review: Annotated[
        int | None,
        typer.Option(
            "--review",
            metavar="N",
            help="Write the N rows whose labels are least certain, to label next, to OUT-review.jsonl.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict the labels of each row, best first, with scores and probabilities. DATA may be larger than memory.

    DATA may be a folder: each data file in it gets an output of its own, and one that is there is not made again.

    \b
    Examples:
      manyhot predict runs/reviews-1 "the soup was cold"
      manyhot predict runs/reviews-1 new.parquet -o out.jsonl --keep id
      tail -f reviews.txt | manyhot predict runs/reviews-1 - > out.jsonl
    """
    columns = None if keep == "all" else [name.strip() for name in keep.split(",")] if keep else []
    with failing_clearly():
        if data and _exists(data) and Path(data).is_dir():
            if out is None:
                raise InputError(f"{data}: expected a folder to write to; add -o OUT.")
            if review is not None:
                raise InputError(f"{data}: expected one file with --review, got a folder; name a file of it.")
            if safe_csv:
                raise InputError(
                    f"{out}: --safe-csv is of a .csv output, and those of a folder are .parquet; leave it out"
                )
            _predict_folder(run, Path(data), out, columns, encoding, jobs, shard, ray, as_json)
            return
        if jobs is not None or shard is not None or ray is not None:
            raise InputError(f"{data}: expected a folder with --jobs, --shard or --ray, which share its files")
        from manyhot.toolkit.config import MARKED_TEXTS
        from manyhot.toolkit.runs.predictions import write_predictions
        from manyhot.toolkit.runs.review import review_path
        from manyhot.toolkit.runs.saved_run import load_run
        from manyhot.toolkit.spans.write import write_spans

        loaded = load_run(run)
        if out is None and not _is_file(data):
            for option, given in (("--keep", keep), ("--encoding", encoding), ("--review", review)):
                if given is not None:
                    raise InputError(f"{option} is of a file; leave it out, or name a file and -o OUT.")
            if loaded.task not in ("multilabel", "multiclass", "spans"):
                raise InputError(f"{data}: expected a file, of a run on {loaded.task}; name one, and -o OUT.")
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
        notes: list[str] = []
        drift = None
        looked = None if review is None else _reviewing(loaded, data, out, review)
        with predicting() as progress:
            if loaded.task in MARKED_TEXTS:
                refuse_encoding(encoding)
                rows = write_spans(out, loaded, data, keep=columns, safe_csv=safe_csv, progress=progress)
            else:
                options = {"encoding": encoding, "safe_csv": safe_csv, "progress": progress, "warn": notes.append}
                drift = loaded.drift()
                options |= {"looks": () if looked is None else (looked.look,), "drift": drift}
                rows = write_predictions(out, loaded, data, keep=columns, **options)
        if looked is not None:
            looked.write(review_path(out))
        for note in notes:
            warn(note)
        if as_json:
            more = {} if looked is None else {"review": str(review_path(out))}
            print_json({"out": str(out), "rows": rows} | more | ({} if drift is None else {"drift": drift.found()}))
        else:
            say(f"wrote {out}: {rows:,} rows")
            if looked is not None:
                say(f"wrote {review_path(out)}: {len(looked.rows()):,} rows to label next, the least certain first")


def _reviewing(run: Any, data: str, out: Path, number: int) -> "Review":
    """Return what keeps the rows to label next; refused before any row is read."""
    from manyhot.toolkit.disk.run_folder import check_output
    from manyhot.toolkit.runs.review import OUTPUTS, Review, review_path

    if number < 1:
        raise InputError(f"--review: expected 1 row or more; got {number}")
    if run.task not in ("multilabel", "multiclass"):
        raise InputError(
            f"--review: expected a run on label sets, whose probabilities are known; got one on {run.task}"
        )
    check_output(review_path(out), OUTPUTS, data)
    return Review(run, number)


def _is_file(data: str) -> bool:
    if data in ("-", ""):
        return False
    if _exists(data):
        return True
    # A word that ends so is a file, whether it is there or not; else a mistyped name would be predicted as a text.
    from manyhot.toolkit.read.formats.files import TABLES

    bare = data.lower().removesuffix(".gz").removesuffix(".bz2")
    return " " not in data and bare.endswith((*TABLES, ".npz", ".npy", ".json"))


def _exists(data: str) -> bool:
    try:
        return Path(data).exists()
    except OSError:  # a text longer than a name can be
        return False


def _predict_text(run: "Run | SpanRun", text: str, as_json: bool) -> None:
    """Print a label a line with its probability; of spans, a span a line."""
    from manyhot.toolkit.runs.predict import Run

    if not text.strip():
        raise InputError("expected a text, got an empty one.")
    if isinstance(run, Run) and not run.features.reads_text:
        raise InputError(
            f"{shown(text)}: expected a file, of a run that reads columns and no text; name one, and -o OUT."
        )
    if as_json:
        print_json(next(_predicted(run, [text])))
        return
    console = Console(soft_wrap=True, highlight=False)
    if not isinstance(run, Run):
        spans = next(_predicted(run, [text]))["spans"]
        for span in spans:
            console.print(on_one_line(f"{span['label']:12} {text[span['start'] : span['end']]}"), markup=False)
        if not spans:
            say("no span found")
        return
    from manyhot.toolkit.models.features import little_known
    from manyhot.toolkit.report.metric_names import below_half
    from manyhot.toolkit.runs.explain import guessed

    logits, unknown = run.logits_and_judge([text])
    if note := guessed(int(little_known(unknown).sum()), 1):
        warn(note)
    sets = run.label_sets(logits)[0]
    width = max((len(label.name) for label in sets), default=0)
    for label in sets:
        console.print(on_one_line(f"{label.name:{width}}  {100 * label.prob:3.0f} %"), markup=False)
    if not sets:
        never = bool((logits == -math.inf).all())
        say("no label: of none is the precision promised" if never else "no label: none is likely enough")
    if any(label.prob < 0.5 for label in sets):
        say(below_half(multiclass=run.task == "multiclass"))


def _predict_lines(run: "Run | SpanRun") -> None:
    """Write a line of JSON for each line of stdin; an empty one is a text without words."""
    # On a terminal each line is answered at once.
    at_once = 1 if sys.stdin is not None and sys.stdin.isatty() else LINES
    for texts in _at_once(lines(), at_once):
        for row in _predicted(run, texts):
            sys.stdout.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()


def _at_once(texts: Iterator[str], most: int) -> Iterator[list[str]]:
    held, size = [], 0
    for text in texts:
        held.append(text)
        size += len(text)
        if len(held) == most or size > CHARACTERS:
            yield held
            held, size = [], 0
    if held:
        yield held


def _predicted(run: Any, texts: list[str]) -> Iterator[dict[str, Any]]:
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


def _predict_folder(
    run: Path,
    folder: Path,
    out: Path,
    columns: list[str] | None,
    encoding: str | None,
    jobs: int | None,
    shard: str | None,
    ray: str | None,
    as_json: bool,
) -> None:
    from manyhot.toolkit.folders import Done, one_after_another, predict_folder, processes, ray_actors

    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs: expected 1 process or more; got {jobs}")
    pool = one_after_another if jobs in (None, 1) else processes(jobs)
    if ray is not None:
        pool = ray_actors(ray, jobs)
    with predicting() as progress:
        rows = 0

        def told(done: int, of: int, last: Done) -> None:
            nonlocal rows
            rows += last.rows
            progress(rows, done / of)

        summary = predict_folder(
            run, folder, out, keep=columns, encoding=encoding, shard=shard, pool=pool, progress=told
        )
    for done in summary.files:
        if done.note is not None:
            warn(f"{done.name}: {done.note}")
    for done in summary.failed:
        warn(f"{done.name}: nothing written; {done.error}")
    fine = [done for done in summary.files if done.error is None]
    counts = {"files": len(fine), "rows": sum(done.rows for done in fine), "skipped": summary.skipped}
    if as_json:
        print_json({"out": str(out), **counts, "empty": summary.empty, "failed": [d.name for d in summary.failed]})
    else:
        made = f", {summary.skipped:,} of them there already" if summary.skipped else ""
        say(f"wrote {out}: {counts['files']:,} files, {counts['rows']:,} rows{made}")
        if summary.empty:
            say(f"{summary.empty:,} files have no rows, and so have their outputs")
        if summary.left_out:
            say(f"{summary.left_out:,} other files in {folder} are no data and were left alone")
    if summary.failed:
        fail(f"{len(summary.failed):,} of {len(summary.files):,} files could not be predicted; mend and repeat", 2)
