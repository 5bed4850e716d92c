"""Rows whose spans are marked: what the readers of spans give, and what all of them check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.formats.files import BLOCK_BYTES, TextFile, cut_blocks, empty, end_of_lines

Form = Literal["tokens", "text"]
OFFSETS = "offsets count from 0 and the end is not part of the span"


class Mark(NamedTuple):
    """A marked span: where it starts, where it ends, exclusive, in tokens or in characters, and its type."""

    start: int
    end: int
    type: str


class Link(NamedTuple):
    """A relation of a row: which of its spans, counted from 0, is the head, which the tail, and its type."""

    head: int
    tail: int
    type: str


@dataclass(frozen=True)
class Reading:
    """How a file of spans is read, where the file does not say it itself.

    Attributes:
        end: "exclusive", or "inclusive" where the last token or character is named.
        columns: read as columns of tokens and tags whatever the name of the file says.
        tags: which columns hold tags, counted from 1; None where that is found.
        label_names: what the numbers of tags mean.
        relations: read "relations" beside the spans.
    """

    end: str = "exclusive"
    columns: bool = False
    tags: tuple[int, ...] | None = None
    label_names: Sequence[str] | None = None
    relations: bool = False


AS_IT_SAYS = Reading()


@dataclass(frozen=True)
class MarkedRow:
    """A row as a file has it.

    Attributes:
        place: where it stands, such as "line 3", for messages.
        tokens: its tokens; None where it is a text.
        text: its text; None where it is tokens.
        offsets: (start, end) of each token in the text, where a file has both.
        marks: its spans, in tokens, or in characters of a text.
        links: its relations, where they are asked for.
        record: all that the row says beside, by name.
    """

    place: str
    tokens: list[str] | None
    text: str | None
    marks: list[Mark] = field(default_factory=list)
    offsets: list[tuple[int, int]] | None = None
    links: list[Link] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def form(self) -> Form:
        """Say what offsets count."""
        return "tokens" if self.text is None else "text"


class Lines:
    """The lines of a text file with their numbers, a block at a time; it knows how much of the file is read."""

    def __init__(self, path: Path, size: int = BLOCK_BYTES) -> None:
        self.path, self.size = path, size
        self.share = 0.0

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Yield each line without its end."""
        blank = True
        with TextFile(self.path) as file:
            for first, block in cut_blocks(self.path, file, end_of_lines, self.size, told=False):
                self.share = file.share
                # Line ends are \n alone: a token may be any other character that Python takes for one.
                lines = block.decode().split("\n")
                if not lines[-1]:
                    lines.pop()
                for number, line in enumerate(lines, first):
                    blank = blank and not line.strip()
                    yield number, line.removesuffix("\r")
        if blank:
            raise empty(self.path)


def check_mark(where: str, start: Any, end: Any, kind: Any, size: int, *, form: Form, inclusive: bool = False) -> Mark:
    """Return a span after checking it against the row that it is in.

    Args:
        where: the file and the row, for messages.
        start: from 0.
        end: exclusive, or the last one where `inclusive`.
        kind: the type.
        size: tokens or characters of the row.
        form: which of the two.
        inclusive: `--end inclusive`.

    Raises:
        InputError: no such span.
    """
    what = f"({shown(start)}, {shown(end)}, {shown(kind)})"
    if any(not isinstance(value, int) or isinstance(value, bool) for value in (start, end)):
        raise InputError(f"{where}: expected a span with whole numbers as start and end, got {what}; correct the span")
    if not isinstance(kind, str) or not kind.strip():
        raise InputError(f"{where}: expected a span whose type is text, got {what}; name its type")
    stop = end + 1 if inclusive else end
    if not 0 <= start < stop <= size:
        unit = "tokens" if form == "tokens" else "characters"
        if inclusive:
            said = "offsets count from 0, and with --end inclusive the end is part of the span"
        elif start == end:
            said = f"{OFFSETS}; where it is part of the span, as in DyGIE's files, type --end inclusive"
        else:
            said = OFFSETS
        raise InputError(f"{where}: expected a span inside its row of {size} {unit}, got {what}; {said}")
    return Mark(start, stop, kind.strip())


def check_tokens(where: str, tokens: Sequence[Any]) -> None:
    """Refuse tokens that are not text, or are blank.

    Raises:
        InputError: names the token by its position.
    """
    for position, token in enumerate(tokens):
        if not isinstance(token, str) or not token.strip():
            what = "one that is only white space" if isinstance(token, str) else shown(token)
            raise InputError(
                f"{where}: expected tokens that are text, got {what} at position {position}; leave it out, and count "
                "offsets without it"
            )
