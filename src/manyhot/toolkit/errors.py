"""The one error of bad input, and how values stand in its sentence."""


class InputError(Exception):
    """Bad input in one sentence: what was expected, what came, what to type next. The command exits with 2."""


def shown(value: object) -> str:
    """Write a value as an error message shows it: quoted if it is text, and never longer than about 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def first_line(error: BaseException) -> str:
    """The first line of an error's text: libraries write several, a message has one."""
    return next(iter(str(error).splitlines()), type(error).__name__)
