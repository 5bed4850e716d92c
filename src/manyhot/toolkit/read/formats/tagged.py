"""Columns of tokens and tags: a token a line, a blank line after each row; and tags to spans, whatever their scheme."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.formats.files import TAGGED, kind_of_file
from manyhot.toolkit.read.formats.marked import Mark, MarkedRow, Reading, check_tokens

# Letters of the tags of each scheme: one that begins a span, one inside, one that ends it, one that is a span alone.
SCHEMES = {"BIO": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}
KNOWN = "the schemes known are BIO, BIOES, BILOU and BMES"
OUTSIDE = "O"
_TAG = re.compile(r"([A-Z])-(\S.*)")


class Tags:
    """Tags of a file: the scheme is told by the letters of all of them, so they are kept until all are seen.

    Attributes:
        seen: of each letter, where it stood first.
        begun: spans that began with I: IOB1, in which B- is written only between two spans of a type.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: dict[str, str] = {}
        self.begun = 0

    def scheme(self) -> str:
        """Return the scheme with the fewest letters that has all that were seen.

        Raises:
            InputError: letters of two schemes.
        """
        fitting = [name for name, letters in SCHEMES.items() if set(self.seen) <= set(letters)]
        if not fitting:
            letters = sorted(self.seen)
            # The last that came is the one that does not fit.
            where = list(self.seen.values())[-1]
            raise InputError(
                f"{where}: expected tags of one scheme, got tags that begin with {', '.join(letters)} in one file; "
                f"{KNOWN}"
            )
        return fitting[0]

    def marks(self, tags: Sequence[Any], where: Callable[[int], str]) -> list[Mark]:
        """Check the tags of a row, and return spans that :meth:`joined` makes whole.

        What is returned has the tag as its type, and one token; the scheme is not known before the end of the file.

        Args:
            tags: of each token.
            where: the place of a tag by its position, for messages.
        """
        marks = []
        for position, tag in enumerate(tags):
            if tag == OUTSIDE:
                continue
            match = _TAG.fullmatch(tag) if isinstance(tag, str) else None
            if match is None or match[1] not in "BIESMLU":
                raise InputError(
                    f"{where(position)}: expected O or a tag such as B-PER, a letter and the type of the span, got "
                    f"{shown(tag)}; {KNOWN}"
                )
            if match[1] not in self.seen:
                self.seen[match[1]] = where(position)
            marks.append(Mark(position, position + 1, tag))
        return marks

    def joined(self, marks: Sequence[Mark], where: str) -> list[Mark]:
        """Join the tags of a row to spans.

        Args:
            marks: what :meth:`marks` returned.
            where: the file and the row, for messages.

        Raises:
            InputError: in another scheme than BIO, a span that does not begin or end as the scheme has it.
        """
        scheme = self.scheme()
        spans: list[Mark] = []
        if scheme == "BIO":
            for at, _, tag in marks:
                letter, kind = tag[0], tag[2:]
                last = spans[-1] if spans else None
                if letter == "I" and last is not None and last.end == at and last.type == kind:
                    spans[-1] = Mark(last.start, at + 1, kind)
                else:
                    self.begun += letter == "I"
                    spans.append(Mark(at, at + 1, kind))
            return spans
        begin, inside, end, alone = SCHEMES[scheme]
        open_: Mark | None = None
        for at, _, tag in marks:
            letter, kind = tag[0], tag[2:]
            goes_on = open_ is not None and open_.end == at and open_.type == kind
            if letter in (begin, alone) and open_ is None:
                spans.append(Mark(at, at + 1, kind))
                open_ = spans[-1] if letter == begin else None
            elif letter in (inside, end) and goes_on and open_ is not None:
                spans[-1] = Mark(open_.start, at + 1, kind)
                open_ = spans[-1] if letter == inside else None
            else:
                raise self._broken(where, scheme, at, tag, open_)
        if open_ is not None:
            raise self._broken(where, scheme, open_.end, OUTSIDE, open_)
        return spans

    def _broken(self, where: str, scheme: str, at: int, tag: str, open_: Mark | None) -> InputError:
        begin, inside, end, alone = SCHEMES[scheme]
        wanted = f"{begin}- or {alone}-" if open_ is None else f"{inside}-{open_.type} or {end}-{open_.type}"
        if open_ is not None and open_.end < at:
            at, tag = open_.end, OUTSIDE
        return InputError(
            f"{where}: expected {wanted} at token {at} (tags are {scheme} by the letters in the file), got "
            f"{shown(tag)}; {KNOWN}, one a file"
        )


class TaggedColumns:
    """Rows of a file in columns.

    Attributes:
        tags: what was seen of the tags.
        columns: which columns hold tags, counted from 1.
    """

    def __init__(self, path: Path, how: Reading, *, with_marks: bool = True) -> None:
        self.path, self.how, self.with_marks = path, how, with_marks
        self.tags = Tags(path)
        self.columns: Sequence[int] = ()
        self.width: int | None = None
        self.token = 0  # the column of the tokens, from 0

    def rows(self, lines: Iterable[tuple[int, str]]) -> Iterator[MarkedRow]:
        """Yield the rows of a file; with their tags, after the whole file is read.

        Raises:
            InputError: rows of different numbers of columns, or tags that are none.
        """
        if not self.with_marks:
            yield from (self._row(first, cells) for first, cells in self._cells(lines))
            return
        read = list(self._cells(lines))
        self._find_columns(read)
        layered = []
        for first, cells in read:
            row = self._row(first, cells)
            layers = [
                self.tags.marks(
                    [line[c - 1] for line in cells], lambda i, f=first, c=c: f"{self.path}, line {f + i}, column {c}"
                )
                for c in self.columns
            ]
            layered.append((row, layers))
        for row, layers in layered:
            where = f"{self.path}, {row.place}"
            marks = [mark for layer in layers for mark in self.tags.joined(layer, where)]
            yield MarkedRow(row.place, row.tokens, None, marks)

    def described(self) -> str:
        """Say where tags were found, and in which scheme."""
        many = f"columns {', '.join(map(str, self.columns))}" if len(self.columns) > 1 else f"column {self.columns[0]}"
        note = ""
        if self.tags.begun:
            note = f", of which {self.tags.begun:,} spans begin with I, as in IOB1"
        return f"{many}, {self.tags.scheme()} tags{note}"

    def _cells(self, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, list[list[str]]]]:
        """Yield the lines of each row, as cells, with the number of the first."""
        held: list[list[str]] = []
        first = 0
        for number, line in lines:
            if not line.strip(" \t"):
                if held:
                    yield first, held
                held = []
                continue
            if not held and line.startswith(("#\t", "# ")) and not self._is_token(line):
                continue
            cells = line.rstrip(" \t").split("\t") if "\t" in line else line.split(" ")
            cells = cells if "\t" in line else [cell for cell in cells if cell]
            if cells[0] == "-DOCSTART-":
                continue
            if self.width is None:
                self.width = len(cells)
                # GermEval counts the tokens of a row in a column before them.
                self.token = int(len(cells) > 2 and cells[0] == "1")
            if len(cells) != self.width:
                raise InputError(
                    f"{self.path}, line {number}: expected {self.width} columns as in the lines before, got "
                    f"{len(cells)}; write a token and its tags on every line, and a blank line after each row"
                )
            if not held:
                first = number
            held.append(cells)
        if held:
            yield first, held

    def _is_token(self, line: str) -> bool:
        """Say whether a line that begins with # is a token of a row, by what its other cells are."""
        cells = line.rstrip(" \t").split("\t") if "\t" in line else line.split()
        return len(cells) == self.width and len(cells) > 1 and all(_is_tag(cell) for cell in cells[1:])

    def _row(self, first: int, cells: list[list[str]]) -> MarkedRow:
        tokens = [line[self.token] for line in cells]
        check_tokens(f"{self.path}, line {first}", tokens)
        return MarkedRow(f"line {first}", tokens, None)

    def _find_columns(self, rows: list[tuple[int, list[list[str]]]]) -> None:
        width = self.width or 0
        if self.how.tags is not None:
            wrong = [c for c in self.how.tags if not self.token + 1 < c <= width]
            if wrong:
                raise InputError(
                    f"{self.path}: expected --tags among the columns {self.token + 2} to {width}, got {wrong[0]}; "
                    "columns are counted from 1"
                )
            self.columns = self.how.tags
            return
        if width < 2 + self.token:
            raise InputError(
                f"{self.path}, line {rows[0][0] if rows else 1}: expected a token and its tags on every line, got a "
                "token alone; add the tags, O where there are none"
            )
        others = range(self.token + 1, width)
        lines = [line for _, cells in rows for line in cells]
        layers = tuple(c + 1 for c in others if all(_is_tag(line[c]) for line in lines))
        # Where columns of something else are between, as parts of speech, the last is the one that is meant.
        self.columns = layers if len(layers) == len(others) else (width,)


def is_span_file(path: Path) -> bool:
    """Say whether the name of a file says that it holds marked spans."""
    return kind_of_file(path)[0] in (*TAGGED, ".json")


def _is_tag(cell: str) -> bool:
    return cell == OUTSIDE or _TAG.fullmatch(cell) is not None


def written_in_columns(tokens: Sequence[str], marks: Sequence[Mark]) -> str:
    """Write a row of flat spans as IOB2, and a blank line.

    Raises:
        InputError: a token or a type that columns have no place for.
    """
    for text in (*tokens, *(kind for *_, kind in marks)):
        if any(mark in text for mark in "\t\n\r"):
            raise InputError(
                f".conll: expected tokens and types without tabs and line ends, which end columns, got {shown(text)}; "
                "write .jsonl, .csv or .parquet"
            )
    tags = [OUTSIDE] * len(tokens)
    for start, end, kind in marks:
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return "".join(f"{token}\t{tag}\n" for token, tag in zip(tokens, tags, strict=True)) + "\n"
