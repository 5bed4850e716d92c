"""The one error of bad input, and how values stand in its sentence."""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What a terminal does something at: controls, and what turns the direction of writing round.
OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class InputError(Exception):
    """Bad input in one sentence: what was expected, what came, what to type next. The command exits with 2."""


def shown(value: object) -> str:
    """Write a value as an error message shows it: quoted if it is text, and never longer than about 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def reading(source: Any) -> Iterator[None]:
    """Turn whatever a reader of users' data raises into bad input that names the file.

    Every format has its own checks; this is for what they did not foresee, such as an integer of 5,000 digits that the
    JSON of Python takes and no library does. The error stays behind it as its cause.
    """
    try:
        yield
    except (InputError, FileNotFoundError, MemoryError):
        raise
    except OSError as error:
        raise InputError(
            f"{source}: expected a file that can be read, got: {error.strerror or error}; check the path and its "
            "permissions"
        ) from error
    except Exception as error:
        raise InputError(
            f"{source}: expected data that its reader can take, got something else ({type(error).__name__}: "
            f"{shown(first_line(error))}); correct the file, or write it again"
        ) from error


def visible(text: str) -> str:
    r"""Write control characters, which a terminal obeys, as escapes such as \x1b; line ends stay."""
    if text.isprintable():
        return text
    return OBEYED.sub(lambda found: found[0] if found[0] == "\n" else repr(found[0])[1:-1], text)


def on_one_line(text: str) -> str:
    """Write line ends as escapes too: a name that has one does not begin a line of its own."""
    return visible(text).replace("\n", "\\n")


def typed(path: object) -> str:
    """Write a path as it is typed in a shell, on one line."""
    return on_one_line(shlex.quote(str(path)))


def first_line(error: BaseException) -> str:
    """The first line of an error's text: libraries write several, a message has one."""
    return next(iter(str(error).splitlines()), type(error).__name__)
