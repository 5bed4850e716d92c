"""Exit codes, and what is said where one is not 0."""

import errno
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from manyhot.toolkit.cli.terminal import say
from manyhot.toolkit.errors import InputError, on_one_line

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed (disk full, internal error), 2 bad input or options, 129, 130, 143 interrupted."
)

# Names that no file system takes: whoever gave one did not mean it.
NO_NAME = (errno.ENAMETOOLONG, errno.ELOOP)


class Stopped(KeyboardInterrupt):
    """The process was told to end, by SIGTERM or SIGHUP; what it began is cleaned up as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def stop(number: int, frame: Any) -> NoReturn:
    """Handle a signal that ends the process; a second one does not cut the cleaning short."""
    signal.signal(number, signal.SIG_IGN)
    raise Stopped(number)


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Turn bad input, a full disk and Ctrl-C into one sentence and an exit code."""
    try:
        yield
    except InputError as error:
        fail(on_one_line(str(error)), 2)
    except KeyboardInterrupt as error:
        fail(f"interrupted; {_left(error)}", 128 + getattr(error, "number", signal.SIGINT))
    except MemoryError:
        fail("out of memory; use fewer columns or labels, or a machine with more memory", 1)
    except OSError as error:
        if error.errno in NO_NAME:
            fail(f"{error.filename}: expected the name of a file or folder, got: {error.strerror}; name another", 2)
        fail(f"{error.filename or 'writing'}: {error.strerror or error}; {_left(error)}", 1)
    except (typer.Exit, typer.Abort):
        raise
    except Exception:
        say(traceback.format_exc().rstrip())
        fail("this is a mistake of manyhot and not of yours; please report it with the lines above", 1)


def _left(error: BaseException) -> str:
    # A training that left a checkpoint says so in a note.
    return "; ".join(getattr(error, "__notes__", ["nothing was written"]))


def fail(message: str, code: int) -> NoReturn:
    """Say what went wrong and leave."""
    say(f"error: {message}")
    raise typer.Exit(code)
