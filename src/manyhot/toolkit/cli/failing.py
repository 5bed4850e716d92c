"""Exit codes, and what is said where one is not 0."""

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from manyhot.toolkit.cli.terminal import say
from manyhot.toolkit.errors import InputError

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed (disk full, internal error), 2 bad input or options, 130 interrupted, 129 and 143 "
    "stopped by SIGHUP and SIGTERM."
)


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP: what Ctrl-C cleans up is cleaned up for these too."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def heed_signals() -> None:
    """Have SIGTERM and SIGHUP end a command as Ctrl-C does; nohup, which ignores a signal, goes on ignoring it."""

    def stop(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one would cut the cleaning short
        raise Stopped(number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Turn bad input, a full disk and signals into a sentence and an exit code; a fault of ours keeps its traceback."""
    try:
        yield
    except InputError as error:
        fail(str(error), 2)
    except Stopped as error:
        fail(f"stopped by {signal.Signals(error.number).name}; {_left(error)}", 128 + error.number)
    except KeyboardInterrupt as error:
        fail(f"interrupted; {_left(error)}", 130)
    except MemoryError:
        fail("out of memory; use fewer columns or labels, or a machine with more memory", 1)
    except OSError as error:
        fail(f"{error.filename or 'writing'}: {error.strerror or error}; {_left(error)}", 1)
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        say(traceback.format_exc().rstrip())
        fail(
            f"a fault of manyhot and not of the data ({type(error).__name__}); report it with the lines above to "
            f"whoever you have manyhot from; {_left(error)}",
            1,
        )


def _left(error: BaseException) -> str:
    # A training that left a checkpoint says so in a note.
    return "; ".join(getattr(error, "__notes__", ["nothing was written"]))


def fail(message: str, code: int) -> NoReturn:
    """Say what went wrong and leave."""
    say(f"error: {message}")
    raise typer.Exit(code)
