"""The command `manyhot`: options in, one call of the toolkit, tables or one JSON object out.

Nothing heavy is imported before a command runs, so that `manyhot --help` answers at once.
"""

import os
import signal
import sys
from typing import Annotated

try:
    import typer

    from manyhot.toolkit.cli.audit import audit
    from manyhot.toolkit.cli.compare import compare
    from manyhot.toolkit.cli.demo import demo
    from manyhot.toolkit.cli.evaluate import evaluate
    from manyhot.toolkit.cli.explain import explain
    from manyhot.toolkit.cli.export import export
    from manyhot.toolkit.cli.failing import EXIT_CODES, stop
    from manyhot.toolkit.cli.predict import predict
    from manyhot.toolkit.cli.report import report
    from manyhot.toolkit.cli.train import train
except ImportError as error:  # the losses alone were installed
    sys.exit(f"the command needs {error.name}: pip install 'manyhot[toolkit]'")

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
WHAT = "Choosing k of n labels as easily as 1 of n: train on a table, get label sets, never set a threshold."
BEGIN = """\
Three commands to begin with:
  manyhot demo                 train on a small table of ours, and see what comes out
  manyhot train reviews.csv    train on a table of yours: texts or numbers, and labels
  manyhot predict runs/reviews-1 "the soup was cold"
"""


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"manyhot {version('manyhot')}")
        raise typer.Exit


@app.callback(invoke_without_command=True, help=f"{WHAT}\n\n\b\n{BEGIN}", epilog=EXIT_CODES)
def begin(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Say which version this is, and stop.")
    ] = False,
) -> None:
    """Say how to begin, where no command is named."""
    if context.invoked_subcommand is None:
        typer.echo(f"{WHAT}\n\n{BEGIN}\nAll of them: manyhot --help")


for command in (train, compare, evaluate, predict, explain, export, report, audit, demo):
    app.command(epilog=EXIT_CODES)(command)


def main() -> None:
    """Run the command."""
    # OpenMP threads that spin at a barrier burn the core that the thread they wait for needs: on 2 cores, beside one
    # busy process, fits took many times longer than with threads that sleep. It must be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A closed pipe, as in `manyhot evaluate ... | head`, is no error.
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for name in ("SIGTERM", "SIGHUP"):
        # Ignored is how nohup leaves SIGHUP.
        if (number := getattr(signal, name, None)) is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # A stream that was closed is the number of the next file that is opened: what is printed would go there.
            os.open(os.devnull, os.O_RDWR)
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed, as by >&-
            setattr(sys, stream, open(os.devnull, "w"))
        elif hasattr(getattr(sys, stream), "reconfigure"):
            # A file name or a label that the terminal has no characters for is written as escapes.
            getattr(sys, stream).reconfigure(errors="backslashreplace")
    app()
