"""CSV and TSV to a frame of strings, with errors that name the line.

polars reads what is plain. What it refuses, and what it would repair in silence, is read by the standard reader, which
knows its line.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from manyhot.toolkit.files import POLARS_ERRORS, InputError, shown

_CELLS_A_BATCH = 1_000_000
_WHOLE_QUOTED = re.compile(rb'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class Dialect:
    """How a file is written: what stands between fields, whether quotes hold fields together, the columns' names.

    Attributes:
        separator: one character.
        quoted: False where quotes are text like any other.
        names: one for each column; 1, 2, ... where the file has no header.
        header: whether the first record is the names.
    """

    separator: str
    quoted: bool
    names: list[str]
    header: bool


def read_delimited(path: Path, data: bytes, separator: str, *, header: bool = True) -> pl.DataFrame:
    """Read the bytes of a CSV or TSV file; every cell stays a string, an empty one is null.

    Raises:
        InputError: a short or long row, a quote that is never closed, two columns of one name.
    """
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")  # the line ends of old Macs, which polars takes for one long header
    dialect = find_dialect(path, data, separator, header=header)
    width = len(dialect.names)
    try:
        frame = pl.read_csv(
            data,
            separator=dialect.separator,
            infer_schema=False,
            has_header=header,
            quote_char='"' if dialect.quoted else None,
        )
    except POLARS_ERRORS:
        return _read_exactly(path, data, dialect)
    # polars fills up a short row with nulls, and a null in the last column is the only trace that this leaves.
    may_be_short = frame.to_series(-1).has_nulls() and not (
        (not dialect.quoted or b'"' not in data) and _is_even(data, dialect.separator, width)
    )
    if frame.width != width or may_be_short:
        return _read_exactly(path, data, dialect)
    frame.columns = dialect.names  # polars leaves doubled quotes in a name as they are
    return frame


def find_dialect(path: Path, data: bytes, separator: str, *, header: bool = True) -> Dialect:
    """Look at the first record, and at every quote of a TSV, before a row is read.

    A .csv whose first record has no comma, but semicolons or tabs, is separated by these. In a TSV the fields of which
    could not all be quoted ones, quotes are text: that is how TSV is written by most, and one unpaired quote would
    swallow rows.

    Raises:
        InputError: two columns of one name, or a header with a quote that is never closed.
    """
    if separator == ",":
        _, names = _first_record(path, data, separator)
        if len(names) == 1:
            separator = next((mark for mark in (";", "\t") if mark in names[0]), separator)
    quoted = separator != "\t" or b'"' not in data or not _quotes_are_text(data)
    line, names = _first_record(path, data, separator, quoted=quoted)
    if not header:
        return Dialect(separator, quoted, [str(position) for position in range(1, len(names) + 1)], False)
    for position, name in enumerate(names, 1):
        first = names.index(name) + 1
        if first < position:
            raise InputError(
                f"{path}, line {line}: expected a different name for each column, got {shown(name)} for columns "
                f"{first} and {position}; rename one of them, or write a header above the first row, or say that "
                "there is none: --no-header"
            )
    return Dialect(separator, quoted, names, True)


def records(
    path: Path, lines: Iterable[str], separator: str, *, quoted: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record starts, and its fields; blank lines before the first are left out.

    Args:
        path: the file, for messages.
        lines: the text with its line ends, as a file opened with newline="" gives it.
        separator: what stands between fields.
        quoted: False where quotes are text.

    Raises:
        InputError: a quoted field that does not end as it should.
    """
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
    started = False
    while True:
        line = reader.line_num + 1
        # The limit is one for the whole process: it is put back before anything else runs.
        limit = csv.field_size_limit(2**31 - 1)
        try:
            record = next(reader, None)
        except csv.Error as error:
            got = "one that is never closed" if "end of data" in str(error) else "text after a closing quote"
            raise InputError(
                f"{path}, line {line}: expected a quoted field to end with a quote, got {got}; write a quote "
                'inside quotes twice, as in "say ""yes"" twice"'
            ) from None
        finally:
            csv.field_size_limit(limit)
        if record is None:
            return
        started = started or bool(record)
        if started:
            yield line, record


def check_width(path: Path, line: int, record: list[str], width: int, *, header: bool = True) -> None:
    """Refuse a record with more or fewer fields than there are columns."""
    if len(record) == width:
        return
    where = "as in the header" if header else "as in the first row"
    advice = "fill in the missing fields" if len(record) < width else "put quotes round a field with separators"
    raise InputError(f"{path}, line {line}: expected {width} fields {where}, got {len(record)}; {advice}")


def _first_record(path: Path, data: bytes, separator: str, *, quoted: bool = True) -> tuple[int, list[str]]:
    return next(records(path, _lines(data), separator, quoted=quoted))


def _lines(data: bytes) -> Iterable[str]:
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")


def _quotes_are_text(data: bytes) -> bool:
    """Say whether some field of a TSV starts with a quote and is no quoted field, with every line read by itself.

    Where lines read by themselves have different numbers of fields, quotes may hold line ends.
    """
    marks = data[: data.find(b"\n")].count(b"\t")
    odd = False
    for line in io.BytesIO(data):
        if line.count(b"\t") != marks and line.strip():
            return False
        if not odd and b'"' in line:
            fields = line.rstrip(b"\r\n").split(b"\t")
            odd = any(field.startswith(b'"') and not _WHOLE_QUOTED.fullmatch(field) for field in fields)
    return odd


def _is_even(data: bytes, separator: str, width: int) -> bool:
    """Say at once that no row is short, where no quotes make it hard to tell."""
    mark = separator.encode()
    return all(line.count(mark) == width - 1 for line in io.BytesIO(data))


def _read_exactly(path: Path, data: bytes, dialect: Dialect) -> pl.DataFrame:
    """Read with the standard reader: slower than polars, but it knows its line and takes stray quotes in a field."""
    names, width = dialect.names, len(dialect.names)
    batches: list[pl.DataFrame] = []
    rows: list[list[str]] = []

    def flush() -> None:
        columns = zip(*rows, strict=True) if rows else ((),) * width
        batches.append(pl.DataFrame(dict(zip(names, columns, strict=True)), schema=dict.fromkeys(names, pl.String)))
        rows.clear()

    found = records(path, _lines(data), dialect.separator, quoted=dialect.quoted)
    if dialect.header:
        next(found)
    for line, record in found:
        if not record:
            if width > 1:
                continue
            record = [""]  # in a file of one column a blank line is a row: predictions must keep their place
        check_width(path, line, record, width, header=dialect.header)
        rows.append(record)
        if len(rows) * width >= _CELLS_A_BATCH:
            flush()
    flush()
    return pl.concat(batches).with_columns(pl.all().replace("", None))
