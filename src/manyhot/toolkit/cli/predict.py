"""`manyhot predict`."""

from pathlib import Path
from typing import Annotated

import typer

from manyhot.toolkit.cli.failing import fail, failing_clearly
from manyhot.toolkit.cli.options import Data, Encoding, Json, refuse_encoding
from manyhot.toolkit.cli.terminal import predicting, print_json, say, warn
from manyhot.toolkit.errors import InputError


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    data: Data,
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="OUT", help="Where to write: .jsonl, .csv or .parquet; of a folder, a folder."
        ),
    ],
    keep: Annotated[
        str | None, typer.Option(metavar="COLS", help="Columns of DATA to write too, commas between; all for all.")
    ] = None,
    encoding: Encoding = None,
    safe_csv: Annotated[
        bool, typer.Option("--safe-csv", help="In a .csv, write ' before cells that a spreadsheet takes for formulas.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that share the files of a folder.  [default: 1]")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Of a folder, every N-th file from the I-th on: for N machines.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Share the files of a folder on a Ray cluster; local starts one here."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict the labels of each row, best first, with scores and probabilities. DATA may be larger than memory.

    DATA may be a folder: each data file in it gets an output of its own, and one that is there is not made again.
    """
    columns = None if keep == "all" else [name.strip() for name in keep.split(",")] if keep else []
    with failing_clearly():
        if Path(data).is_dir():
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
        from manyhot.toolkit.runs.saved_run import load_run
        from manyhot.toolkit.spans.write import write_spans

        loaded = load_run(run)
        notes: list[str] = []
        with predicting() as progress:
            if loaded.task in MARKED_TEXTS:
                refuse_encoding(encoding)
                rows = write_spans(out, loaded, data, keep=columns, safe_csv=safe_csv, progress=progress)
            else:
                options = {"encoding": encoding, "safe_csv": safe_csv, "progress": progress, "warn": notes.append}
                rows = write_predictions(out, loaded, data, keep=columns, **options)
        for note in notes:
            warn(note)
        if as_json:
            print_json({"out": str(out), "rows": rows})
        else:
            say(f"wrote {out}: {rows:,} rows")


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
