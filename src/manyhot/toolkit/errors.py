"""The one error of bad input, and how values stand in its sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """Bad input in one sentence: what was expected, what came, what to type next. The command exits with 2."""


def shown(value: object) -> str:
    """Write a value as an error message shows it: quoted if it is text, and never longer than about 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# What moves the cursor of a terminal, colours it, rings or turns the direction of text, and halves of characters.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Write control characters of data as escapes, such as \x1b; line ends and tabs stay.

    Example:
        >>> visible("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def first_line(error: BaseException) -> str:
    """The first line of an error's text: libraries write several, a message has one."""
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def reading(file: object) -> Iterator[None]:
    """Turn whatever goes wrong while a file of somebody else is read into bad input: its name, and the reason.

    What readers know to be wrong they say themselves. This is for the rest: a file that the system does not give out,
    and what a library stumbles over.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except OSError as error:
        raise InputError(
            f"{file}: expected a file that can be read, got: {error.strerror or error}; check the path and its "
            "permissions"
        ) from error
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        # polars' panics are no Exception everywhere; nor is anything else that is let through.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(
            f"{file}: expected data that can be read, got some that stops its reader ({type(error).__name__}: "
            f"{first_line(error)[:200]}); look for what is unusual in the file"
        ) from error
