"""CSV and TSV to frames of strings, with errors that name the line.

Text is read block by block, and a block is read alike whatever stands before and after it. polars reads what is plain.
What it refuses, and what it would repair in silence, is read by the standard reader, which knows its line.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import polars as pl

from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.formats.files import (
    BLOCK_BYTES,
    MAX_ROW_BYTES,
    POLARS_ERRORS,
    cut_blocks,
    end_of_lines,
    no_rows,
)

# The first line by which Excel is told, and tells, what stands between fields.
_SAID_BY_EXCEL = re.compile(rb'(?i)"?sep=(.)"?[,;\t]*\r?\n')
# Of a .csv, the most usual first.
SEPARATORS = (",", ";", "\t")
# By so many records, that a comma in each of two texts is no separator.
LOOKED_AT = 50
# What Python takes for a short text or a list beside its content.
OBJECT_BYTES = 64
_WHOLE_QUOTED = re.compile(rb'"(?:[^"]|"")*"')
# A carriage return that ends no line is text. The standard reader would end a row there: it is given this character,
# which Unicode keeps for such use, in its place.
_LONE_RETURN, _STAND_IN = re.compile(r"\r(?!\n)"), "\ufdd0"


@dataclass(frozen=True)
class Dialect:
    """How a file is written: what stands between fields, whether quotes hold fields together, the columns' names.

    Attributes:
        separator: one character.
        quoted: False where quotes are text like any other.
        names: one for each column; 1, 2, ... where the file has no header.
        header: whether the first record is the names.
        begins: the number of bytes before the first record, the line in which Excel says the separator.
    """

    separator: str
    quoted: bool
    names: list[str]
    header: bool
    begins: int = 0


def read_delimited(path: Path, data: bytes, separator: str, *, header: bool = True) -> pl.DataFrame:
    """Read the bytes of a CSV or TSV file; every cell stays a string, an empty one is null.

    Raises:
        InputError: a short or long row, a quote that is never closed, two columns of one name.
    """
    if has_old_line_ends([data]):
        data = data.replace(b"\r", b"\n")
    dialect = find_dialect(path, lambda: io.BytesIO(data), separator, header=header)
    return pl.concat(read_rows(path, io.BytesIO(data), dialect))


def has_old_line_ends(chunks: Iterable[bytes]) -> bool:
    """Say whether carriage returns end the lines, as on old Macs: polars would take them for one long header."""
    return not any(b"\n" in chunk for chunk in chunks)


def read_rows(
    path: Path, file: io.RawIOBase | io.BytesIO, dialect: Dialect, size: int = BLOCK_BYTES
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file in frames made of about `size` bytes each, after one without rows.

    Raises:
        InputError: a short or long row, a quote that does not end as it should, text that is not UTF-8.
    """
    yield _frame(dialect, [])
    header, quoted = dialect.header, dialect.quoted
    blocks = cut_blocks(path, file, lambda data: _end_of_rows(data) if quoted else end_of_lines(data), size)
    for line, block in blocks:
        if line == 1 and dialect.begins:
            line, block = 2, block[dialect.begins :]
        if quoted and not _are_plain_quotes(block, dialect.separator):
            quoted = False  # where rows end is known to the standard reader alone, from here on
            yield from _read_exactly(path, chain([(line, block)], blocks), dialect, size, header=header)
            return
        start = 0
        if header:
            start = _end_of_header(block, quoted=quoted)
            header = start == 0
        if start < len(block) and not header:
            yield _read_plainly(path, line + block.count(b"\n", 0, start), block[start:], dialect)


def find_dialect(
    path: Path, text: Callable[[], io.BytesIO | io.BufferedReader], separator: str, *, header: bool = True
) -> Dialect:
    """Look at the first record, and at every quote of a TSV, before a row is read.

    What a first line such as sep=; says is the separator. A .csv whose first records have as many fields by
    semicolons or tabs, and not by commas, is separated by these. In a TSV the fields of which could not all be quoted
    ones, quotes are text: that is how TSV is written by most, and one unpaired quote would swallow rows.

    Args:
        path: the file, for messages.
        text: opens it, at its first byte.
        separator: what its name says.
        header: whether the first record is the names.

    Raises:
        InputError: two columns of one name, or a header with a quote that is never closed.
    """
    said, begins = _said_by_excel(text)
    if said is not None:
        separator = said
    elif separator == ",":
        separator = _separator_of_csv(path, text)
    quoted = separator != "\t" or not _quotes_are_text(text, begins)
    line, names = _first_record(path, text(), separator, quoted=quoted, begins=begins)
    if not header:
        return Dialect(separator, quoted, [str(position) for position in range(1, len(names) + 1)], False, begins)
    for position, name in enumerate(names, 1):
        first = names.index(name) + 1
        if first < position:
            raise InputError(
                f"{path}, line {line}: expected a different name for each column, got {shown(name)} for columns "
                f"{first} and {position}; rename one of them, or write a header above the first row, or say that "
                "there is none: --no-header"
            )
    return Dialect(separator, quoted, names, True, begins)


def records(
    path: Path, lines: Iterable[str], separator: str, *, quoted: bool = True, line: int = 1
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record starts, and its fields; a blank line has none.

    Args:
        path: the file, for messages.
        lines: the text with its line ends.
        separator: what stands between fields.
        quoted: False where quotes are text.
        line: the number of the first line.

    Raises:
        InputError: a quoted field that does not end as it should.
    """
    returns = False

    def marked() -> Iterator[str]:
        nonlocal returns
        for text in lines:
            if "\r" in text:
                text, count = _LONE_RETURN.subn(_STAND_IN, text)
                returns = returns or count > 0
            yield text

    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(marked(), delimiter=separator, quoting=quoting, strict=True)
    while True:
        number = line + reader.line_num
        # The limit is one for the whole process: it is put back before anything else runs.
        limit = csv.field_size_limit(MAX_ROW_BYTES)
        try:
            record = next(reader, None)
        except csv.Error as error:
            never = "end of data" in str(error) or "limit" in str(error)
            got = "one that is never closed" if never else "text after a closing quote"
            raise InputError(
                f"{path}, line {number}: expected a quoted field to end with a quote, got {got}; write a quote "
                'inside quotes twice, as in "say ""yes"" twice"'
            ) from None
        finally:
            csv.field_size_limit(limit)
        if record is None:
            return
        yield number, [field.replace(_STAND_IN, "\r") for field in record] if returns else record


def check_width(path: Path, line: int, record: list[str], width: int, *, header: bool = True) -> None:
    """Refuse a record with more or fewer fields than there are columns."""
    if len(record) == width:
        return
    where = "as in the header" if header else "as in the first row"
    advice = "fill in the missing fields" if len(record) < width else "put quotes round a field with separators"
    raise InputError(f"{path}, line {line}: expected {width} fields {where}, got {len(record)}; {advice}")


def _first_record(
    path: Path, file: io.BytesIO | io.BufferedReader, separator: str, *, quoted: bool = True, begins: int = 0
) -> tuple[int, list[str]]:
    file.read(begins)
    # Names that are not UTF-8 are refused with the rows, where their line is known.
    with io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="\n") as lines:
        found = records(path, lines, separator, quoted=quoted, line=1 + (begins > 0))
        first = next(((line, record) for line, record in found if record), None)
    if first is None:
        raise no_rows(path)
    return first


def _separator_of_csv(path: Path, text: Callable[[], io.BytesIO | io.BufferedReader]) -> str:
    """Return what parts the first records into as many fields; where nothing does, what parts the first one."""
    even = (mark for mark in SEPARATORS if _parts_rows(path, text(), mark))
    return next(even, None) or next((mark for mark in SEPARATORS if _parts_rows(path, text(), mark, 1)), ",")


def _parts_rows(path: Path, file: io.BytesIO | io.BufferedReader, separator: str, most: int = LOOKED_AT) -> bool:
    """Say whether the first records have as many fields, two or more, by this separator."""
    with io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="\n") as lines:
        found = (len(record) for _, record in records(path, lines, separator) if record)
        try:
            sizes = list(islice(found, most))
        except InputError:  # by another separator quotes may be plain
            return False
    return len(set(sizes)) == 1 and sizes[0] > 1


def _said_by_excel(text: Callable[[], io.BytesIO | io.BufferedReader]) -> tuple[str | None, int]:
    """Find the separator that the first line says, and the number of its bytes."""
    with text() as lines:
        match = _SAID_BY_EXCEL.fullmatch(lines.readline(64))
    return (None, 0) if match is None else (match[1].decode("latin-1"), match.end())


def _quotes_are_text(text: Callable[[], io.BytesIO | io.BufferedReader], begins: int = 0) -> bool:
    """Say whether some field of a TSV starts with a quote and is no quoted field, with every line read by itself.

    Where lines read by themselves have different numbers of fields, quotes may hold line ends.
    """
    marks, odd = -1, False
    with text() as lines:
        lines.read(begins)
        for line in lines:
            marks = line.count(b"\t") if marks < 0 else marks
            if line.count(b"\t") != marks and line.strip():
                return False
            if not odd and b'"' in line:
                fields = line.rstrip(b"\r\n").split(b"\t")
                odd = any(field.startswith(b'"') and not _WHOLE_QUOTED.fullmatch(field) for field in fields)
    return odd


def _end_of_rows(data: bytes) -> int:
    """Say where the last line ends that no quotes hold together with the next."""
    end = end_of_lines(data)
    if b'"' not in data:
        return end
    quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == ord('"'))
    while (before := int(np.searchsorted(quotes, end))) % 2:  # within quotes: go back to where they opened
        end = data.rfind(b"\n", 0, int(quotes[before - 1])) + 1
    return end


def _end_of_header(block: bytes, *, quoted: bool) -> int:
    """Say where the first line ends that is not blank, and no quotes hold together with the next; 0: all are blank."""
    start = len(block) - len(block.lstrip(b"\r\n"))
    if start == len(block):
        return 0
    end = block.find(b"\n", start) + 1
    while quoted and end and block.count(b'"', start, end) % 2:
        end = block.find(b"\n", end) + 1
    return end or len(block)


def _are_plain_quotes(block: bytes, separator: str) -> bool:
    """Say whether each quote begins a field, ends one, or is one of two within quotes: then every reader agrees."""
    if b'"' not in block:
        return True
    cells = np.frombuffer(block, np.uint8)
    quotes = np.flatnonzero(cells == ord('"'))
    if len(quotes) % 2:
        return False
    opening, closing, last = quotes[::2], quotes[1::2], len(cells) - 1
    around = [ord(separator), ord("\n"), ord('"')]
    begins = np.isin(cells[opening - 1], around) | (opening == 0)
    after, next_but_one = cells[np.minimum(closing + 1, last)], cells[np.minimum(closing + 2, last)]
    ends = np.isin(after, around) | ((after == ord("\r")) & (next_but_one == ord("\n")))
    return bool(begins.all() and ends.all())


def _read_plainly(path: Path, line: int, block: bytes, dialect: Dialect) -> pl.DataFrame:
    """Read whole rows, whose quotes are plain, with polars."""
    width = len(dialect.names)
    header = dialect.separator.join(map(str, range(width))) + "\n"
    try:
        frame = pl.read_csv(
            header.encode() + block,
            separator=dialect.separator,
            infer_schema=False,
            quote_char='"' if dialect.quoted else None,
        )
    except POLARS_ERRORS:
        frame = None
    # polars fills up a short row with nulls, and a null in the last column is the only trace that this leaves.
    if frame is None or frame.width != width or (frame.to_series(-1).has_nulls() and not _is_even(block, dialect)):
        return pl.concat(_read_exactly(path, [(line, block)], dialect, len(block), header=False))
    frame.columns = dialect.names
    return _without_empty(frame) if dialect.quoted and b'""' in block else frame


def _is_even(block: bytes, dialect: Dialect) -> bool:
    """Say at once, of rows whose quotes are plain, that each has as many fields as there are columns."""
    cells = np.frombuffer(block, np.uint8)
    ends, marks = cells == ord("\n"), cells == ord(dialect.separator)
    if dialect.quoted and b'"' in block:
        outside = np.cumsum(cells == ord('"'), dtype=np.uint8) % 2 == 0  # the sum wraps round, and stays odd or even
        ends, marks = ends & outside, marks & outside
    end = np.flatnonzero(ends)
    if not block.endswith(b"\n"):
        end = np.append(end, len(block))
    counts = np.diff(np.searchsorted(np.flatnonzero(marks), end), prepend=0)
    return bool((counts == len(dialect.names) - 1).all())


def _read_exactly(
    path: Path, blocks: Iterable[tuple[int, bytes]], dialect: Dialect, size: int, *, header: bool
) -> Iterator[pl.DataFrame]:
    """Read with the standard reader: slower than polars, but it knows its line and takes stray quotes in a field."""
    blocks = iter(blocks)
    first, block = next(blocks)
    lines = (text.decode() for _, block in chain([(first, block)], blocks) for text in io.BytesIO(block))
    width = len(dialect.names)
    rows: list[list[str]] = []
    held = 0
    for line, record in records(path, lines, dialect.separator, quoted=dialect.quoted, line=first):
        if header:
            header = not record
            continue
        if not record:
            if width > 1:
                continue
            record = [""]  # in a file of one column a blank line is a row: predictions must keep their place
        check_width(path, line, record, width, header=dialect.header)
        rows.append(record)
        held += OBJECT_BYTES * (width + 1) + sum(map(len, record))
        if held >= size:
            yield _frame(dialect, rows)
            rows, held = [], 0
    yield _frame(dialect, rows)


def _frame(dialect: Dialect, rows: list[list[str]]) -> pl.DataFrame:
    columns = zip(*rows, strict=True) if rows else ((),) * len(dialect.names)
    cells = dict(zip(dialect.names, columns, strict=True))
    return _without_empty(pl.DataFrame(cells, schema=dict.fromkeys(dialect.names, pl.String)))


def _without_empty(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.all().replace("", None))
