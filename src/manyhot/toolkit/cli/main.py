"""The command `manyhot`: options in, one call of the toolkit, tables or one JSON object out.

Nothing heavy is imported before a command runs, so that `manyhot --help` answers at once.
"""

import os
import signal
import sys

try:
    import typer

    from manyhot.toolkit.cli.compare import compare
    from manyhot.toolkit.cli.demo import demo
    from manyhot.toolkit.cli.evaluate import evaluate
    from manyhot.toolkit.cli.failing import EXIT_CODES, heed_signals
    from manyhot.toolkit.cli.predict import predict
    from manyhot.toolkit.cli.report import report
    from manyhot.toolkit.cli.train import train
except ImportError as error:  # the losses alone were installed
    sys.exit(f"the command needs {error.name}: pip install 'manyhot[toolkit]'")

app = typer.Typer(
    help="Choosing k of n labels as easily as 1 of n: train on a table, get label sets, never set a threshold.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (train, compare, evaluate, predict, report, demo):
    app.command(epilog=EXIT_CODES)(command)


def take_streams() -> None:
    """Have stdin, stdout and stderr stand for something, and take every character.

    A stream that was closed is the number of the next file that is opened, and what is printed would go into it. An
    encoding without some character of a file's name writes it as an escape.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the command."""
    # OpenMP threads that spin at a barrier burn the core that the thread they wait for needs: on 2 cores, beside one
    # busy process, fits took many times longer than with threads that sleep. It must be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    take_streams()
    heed_signals()
    # A closed pipe, as in `manyhot evaluate ... | head`, is no error.
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    app()
