"""The command `manyhot`: options in, one call of the toolkit, tables or one JSON object out.

Nothing heavy is imported before a command runs, so that `manyhot --help` answers at once.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, NoReturn

try:
    import typer
    from rich.console import Console

    from manyhot.toolkit.terminal import (
        listening,
        metrics_table,
        predicting,
        print_comparison,
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


# What says how to read the data: the same for every command that trains.
OptionalData = Annotated[str | None, typer.Argument(metavar="DATA", help=FORMATS_HELP)]
Valid = Annotated[str | None, typer.Option(metavar="FILE", help="Choose by these rows in place of cross-fitting.")]
Text = Annotated[str | None, typer.Option(metavar="COLS", help="Text columns, commas between. Found if left out.")]
NumericColumns = Annotated[
    str | None, typer.Option("--features", metavar="COLS", help="Numeric columns, commas between. Found if left out.")
]
Labels = Annotated[
    str | None, typer.Option(metavar="COLS", help="One column of label sets, or 0/1 columns. Found if left out.")
]
NumLabels = Annotated[
    int | None, typer.Option(metavar="N", help="The first N columns are labels; the last, if N is negative.")
]
LabelSep = Annotated[str | None, typer.Option(metavar="S", help="What separates labels in a cell.")]
LabelNames = Annotated[
    str | None, typer.Option(metavar="FILE", help="Names of labels, one a line; cells may hold their numbers from 0.")
]
NoHeader = Annotated[bool | None, typer.Option("--no-header", help="CSV and TSV without names; columns are 1, 2, ...")]
SplitColumn = Annotated[
    str | None, typer.Option(metavar="COL", help="A column that says train, valid or test of each row.")
]
Group = Annotated[str | None, typer.Option(metavar="COL", help="Rows with the same value are held out together.")]
DropUnlabelled = Annotated[
    bool | None, typer.Option("--drop-unlabelled", help="Leave out rows without labels, here and in the test file.")
]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu or cuda; the linear model is fitted on the CPU.  [default: auto]")
]
Seed = Annotated[int | None, typer.Option(help="Of the folds.  [default: 0]")]
ConfigFile = Annotated[str | None, typer.Option(metavar="FILE", help="Options from a run's config.toml.")]
Pairs = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of config.toml, such as C=10.")
]
NoRows = Annotated[
    bool | None, typer.Option("--no-rows", help="Write no excerpt of any row into the findings and the report.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the same command was interrupted or killed.")]


@app.command(epilog=EXIT_CODES)
def train(
    context: typer.Context,
    data: OptionalData = None,
    test: Annotated[str | None, typer.Option(metavar="FILE", help="Measure the run on these rows.")] = None,
    valid: Valid = None,
    text: Text = None,
    features: NumericColumns = None,
    labels: Labels = None,
    num_labels: NumLabels = None,
    label_sep: LabelSep = None,
    label_names: LabelNames = None,
    no_header: NoHeader = None,
    split_column: SplitColumn = None,
    group: Group = None,
    drop_unlabelled: DropUnlabelled = None,
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
    device: Device = None,
    tau: Annotated[
        str | None, typer.Option(metavar="X|auto", help="Strength of the prior; auto finds it.  [default: auto]")
    ] = None,
    decision: Annotated[
        str | None,
        typer.Option(
            help="f1, as many labels as give the best F1; or cardinality, as many as there are.  [default: f1]"
        ),
    ] = None,
    seed: Seed = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="The run folder.  [default: runs/NAME-N]")] = None,
    config: ConfigFile = None,
    set_: Pairs = None,
    no_rows: NoRows = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read, plan, say, and write nothing.")] = False,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train on a table and write a run folder. Columns, penalty and prior are found; there is no threshold to set."""
    with failing_clearly():
        from manyhot.toolkit.config import make_config
        from manyhot.toolkit.train import train as run_training

        settings = make_config(config, set_ or [], options_of(context))
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
def compare(
    context: typer.Context,
    data: OptionalData = None,
    test: Annotated[
        str | None, typer.Option(metavar="FILE", help="Measure on these rows.  [default: folds of DATA]")
    ] = None,
    valid: Valid = None,
    losses: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Some of zlpr, zlpr+prior, subset, subset+prior, bce, bce+prior, bce+threshold, bce+label-thresholds, "
            "bce+pos_weight, focal, asymmetric, two-way; commas between.  [default: all]",
        ),
    ] = None,
    folds: Annotated[int, typer.Option(help="Where there are no test rows.")] = 3,
    seeds: Annotated[int, typer.Option(help="Of the mlp, whose training is random.")] = 1,
    text: Text = None,
    features: NumericColumns = None,
    labels: Labels = None,
    num_labels: NumLabels = None,
    label_sep: LabelSep = None,
    label_names: LabelNames = None,
    no_header: NoHeader = None,
    split_column: SplitColumn = None,
    group: Group = None,
    drop_unlabelled: DropUnlabelled = None,
    model: Annotated[str | None, typer.Option(help="linear, or mlp, one hidden layer.  [default: linear]")] = None,
    device: Device = None,
    seed: Seed = None,
    no_rows: NoRows = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="The comparison's folder.  [default: runs/NAME-compare-N]")
    ] = None,
    config: ConfigFile = None,
    set_: Pairs = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train with each loss on the same rows and say honestly which is best: BCE with tuned thresholds among them."""
    with failing_clearly():
        from manyhot.toolkit.compare import compare as run_comparison
        from manyhot.toolkit.config import make_config
        from manyhot.toolkit.methods import make_comparison

        settings = make_comparison(make_config(config, set_ or [], options_of(context)), losses, folds, seeds)
        with listening() as listener:
            compared = run_comparison(settings, listener, command=["manyhot", *sys.argv[1:]], resume=resume)
        if as_json:
            print_json(compared.result)
        else:
            print_comparison(compared.result)
            rows = len(compared.result["hard"] or ())
            say(f"saved {compared.path}, look at {compared.path}/report.html, {rows_inside(rows)}")


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


def options_of(context: typer.Context) -> dict[str, Any]:
    """Return the options of a command that are keys of config.toml, by their names."""
    from manyhot.toolkit.config import Config

    return {field.name: context.params[field.name] for field in fields(Config) if field.name in context.params}


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
