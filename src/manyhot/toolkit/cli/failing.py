"""Exit codes, and what is said where one is not 0."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from manyhot.toolkit.cli.terminal import say
from manyhot.toolkit.errors import InputError

EXIT_CODES = "Exit codes: 0 done, 1 failed (disk full, internal error), 2 bad input or options, 130 interrupted."


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Turn bad input, a full disk and Ctrl-C into one sentence and an exit code."""
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
