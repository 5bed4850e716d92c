"""The command `manyhot`: options in, one call of the toolkit, tables or one JSON object out.

Nothing heavy is imported before a command runs, so that `manyhot --help` answers at once.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

try:
    import typer
    from rich.console import Console

    from manyhot.toolkit.terminal import (
        listening,
        metrics_table,
        predicting,
        print_json,
        print_result,
        rows_inside,
        say,
        warn,
    )
except ImportError as error:  # the losses alone were installed
    sys.exit(f"the command needs {error.name}: pip install 'manyhot[toolkit]'")

EXIT_CODES = "Exit codes: 0 done, 1 failed (disk full, internal error), 2 bad input or options, 130 interrupted."

app = typer.Typer(
    help="Choosing k of n labels as easily as 1 of n: train on a table, get label sets, never set a threshold.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

FORMATS_HELP = "CSV, TSV, JSONL, ARFF, svmlight (each also .gz, .bz2), Parquet, NAME.X.npz or NAME.npy"
Data = Annotated[str, typer.Argument(metavar="DATA", help=FORMATS_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]


@app.command(epilog=EXIT_CODES)
def train(
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help=FORMATS_HELP),
    ] = None,
    test: Annotated[str | None, typer.Option(metavar="FILE", help="Measure the run on these rows.")] = None,
    valid: Annotated[
        str | None, typer.Option(metavar="FILE", help="Choose by these rows in place of cross-fitting.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="COLS", help="Text columns, commas between. Found if left out.")
    ] = (None),
    features: Annotated[
        str | None, typer.Option(metavar="COLS", help="Numeric columns, commas between. Found if left out.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="COLS", help="One column of label sets, or 0/1 columns. Found if left out."),
    ] = None,
    num_labels: Annotated[
        int | None, typer.Option(metavar="N", help="The first N columns are labels; the last, if N is negative.")
    ] = None,
    label_sep: Annotated[str | None, typer.Option(metavar="S", help="What separates labels in a cell.")] = None,
    label_names: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Names of labels, one a line; cells may hold their numbers from 0."),
    ] = None,
    no_header: Annotated[
        bool | None, typer.Option("--no-header", help="CSV and TSV without names; columns are 1, 2, ...")
    ] = None,
    split_column: Annotated[
        str | None, typer.Option(metavar="COL", help="A column that says train, valid or test of each row.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="COL", help="Rows with the same value are held out together.")
    ] = None,
    drop_unlabelled: Annotated[
        bool | None, typer.Option("--drop-unlabelled", help="Leave out rows without labels, here and in the test file.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="multilabel, or multiclass where each row has one class.  [default: multilabel]"),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="zlpr, bce, or subset, which learns how many labels rows have; to compare, bce+prior, "
            "bce+pos_weight, focal, asymmetric, dice, two-way, smooth-accuracy, smooth-f1 or f1-bce; of multiclass, "
            "ce+prior, ce or multiway.  [default: zlpr, ce+prior]"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="linear; mlp, one hidden layer; or encoder:DIR, a folder of transformers, frozen, or trained with "
            "--set fine_tune=true.  [default: linear]"
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; the linear model is fitted on the CPU.  [default: auto]")
    ] = None,
    tau: Annotated[
        str | None, typer.Option(metavar="X|auto", help="Strength of the prior; auto finds it.  [default: auto]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the folds.  [default: 0]")] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="The run folder.  [default: runs/NAME-N]")] = None,
    config: Annotated[str | None, typer.Option(metavar="FILE", help="Options from a run's config.toml.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of config.toml, such as C=10.")
    ] = None,
    no_rows: Annotated[
        bool | None, typer.Option("--no-rows", help="Write no excerpt of any row into the findings and the report.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read, plan, say, and write nothing.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same command was interrupted or killed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train on a table and write a run folder. Columns, penalty and prior are found; there is no threshold to set."""
    options = {
        "data": data,
        "test": test,
        "valid": valid,
        "text": text,
        "features": features,
        "labels": labels,
        "num_labels": num_labels,
        "label_sep": label_sep,
        "label_names": label_names,
        "no_header": no_header,
        "split_column": split_column,
        "group": group,
        "drop_unlabelled": drop_unlabelled,
        "task": task,
        "model": model,
        "device": device,
        "loss": loss,
        "tau": tau,
        "seed": seed,
        "no_rows": no_rows,
        "out": out,
    }
    with failing_clearly():
        from manyhot.toolkit.config import make_config
        from manyhot.toolkit.train import train as run_training

        settings = make_config(config, set_ or [], options)
        with listening() as listener:
            trained = run_training(settings, listener, dry_run=dry_run, resume=resume)
        if trained is None:
            say("dry run: nothing written")
            if as_json:
                print_json({"dry_run": True})
            return
        if as_json:
            print_json({"run": str(trained.path), **trained.run.info, **trained.metrics})
        else:
            print_result(trained)
            say(f"saved {trained.path}, again: manyhot train --config {trained.path}/config.toml")
            say(f"report {trained.path}/report.html, {rows_inside(trained.shown_rows)}")


@app.command(epilog=EXIT_CODES)
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")], data: Data, as_json: Json = False
) -> None:
    """Measure a run on labelled rows."""
    with failing_clearly():
        from manyhot.toolkit.predict import read_for
        from manyhot.toolkit.saved_run import load_run

        loaded = load_run(run)
        measured = loaded.evaluate_examples(read_for(loaded, data, with_labels=True))
        for note in measured.notes:
            warn(note)
        if as_json:
            print_json(measured.metrics)
        else:
            Console(soft_wrap=True).print(metrics_table({Path(data).name: measured.metrics}))
            say(f"measured {run} on {data}")


@app.command(epilog=EXIT_CODES)
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    data: Data,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="Where to write: .jsonl, .csv or .parquet.")],
    keep: Annotated[
        str | None, typer.Option(metavar="COLS", help="Columns of DATA to write too, commas between; all for all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict the labels of each row, best first, with scores and probabilities. DATA may be larger than memory."""
    with failing_clearly():
        from manyhot.toolkit.predictions import check_output, write_predictions
        from manyhot.toolkit.saved_run import load_run

        check_output(out, data)
        columns = None if keep == "all" else [name.strip() for name in keep.split(",")] if keep else []
        with predicting() as progress:
            rows = write_predictions(out, load_run(run), data, keep=columns, progress=progress)
        if as_json:
            print_json({"out": str(out), "rows": rows})
        else:
            say(f"wrote {out}: {rows:,} rows")


@app.command(epilog=EXIT_CODES)
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN|COMPARISON", help="A run folder, or that of a comparison.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Where to write.  [default: NAME-report.html]")
    ] = None,
    no_rows: Annotated[bool, typer.Option("--no-rows", help="Leave out the excerpts of rows.")] = False,
    as_json: Json = False,
) -> None:
    """Write a report as one HTML file, from what the folder holds: needs neither the data nor the model."""
    with failing_clearly():
        from manyhot.toolkit.report.write import write_report

        written = write_report(folder, out, with_rows=not no_rows)
        if as_json:
            print_json({"out": str(written.out), "kind": written.kind, "rows": written.rows})
        else:
            say(f"wrote {written.out}: the report of a {written.kind}, {rows_inside(written.rows)}")


@app.command(epilog=EXIT_CODES)
def demo(
    out: Annotated[str | None, typer.Option(metavar="DIR", help="The run folder.  [default: runs/demo-N]")] = None,
    as_json: Json = False,
) -> None:
    """Train on real images of digits, one to four in a scene, beside torch's own binary cross-entropy. No network."""
    with failing_clearly():
        from manyhot.toolkit.demo import run_demo

        with listening() as listener:
            shown = run_demo(out, listener)
        if as_json:
            print_json({"run": str(shown.path), "test": shown.metrics})
            return
        console = Console(soft_wrap=True)
        for line in shown.examples:
            console.print(line, markup=False)
        console.print(metrics_table(shown.metrics))
        say(f"saved {shown.path}, use it: manyhot.load_run({str(shown.path)!r}).predict(images)")


def main() -> None:
    """Run the command."""
    # OpenMP threads that spin at a barrier burn the core that the thread they wait for needs: on 2 cores, beside one
    # busy process, fits took many times longer than with threads that sleep. It must be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A closed pipe, as in `manyhot evaluate ... | head`, is no error.
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    app()


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Turn bad input, a full disk and Ctrl-C into one sentence and an exit code."""
    from manyhot.toolkit.data import InputError

    try:
        yield
    except InputError as error:
        fail(str(error), 2)
    except KeyboardInterrupt as error:
        fail(f"interrupted; {_left(error)}", 130)
    except MemoryError:
        fail("out of memory; use fewer columns or labels, or a machine with more memory", 1)
    except OSError as error:
        fail(f"{error.filename or 'writing'}: {error.strerror or error}; {_left(error)}", 1)


def _left(error: BaseException) -> str:
    # A training that left a checkpoint says so in a note.
    return "; ".join(getattr(error, "__notes__", ["nothing was written"]))


def fail(message: str, code: int) -> NoReturn:
    """Say what went wrong and leave."""
    say(f"error: {message}")
    raise typer.Exit(code)
