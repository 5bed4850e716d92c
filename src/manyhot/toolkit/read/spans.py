"""Files with marked spans to rows: which reader takes a file, what it found, and rows in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from manyhot.toolkit.errors import InputError, reading
from manyhot.toolkit.read.cells import counted
from manyhot.toolkit.read.formats.files import TAGGED, check_is_file, kind_of_file, no_rows
from manyhot.toolkit.read.formats.label_studio import LabelStudio
from manyhot.toolkit.read.formats.links import check_links
from manyhot.toolkit.read.formats.marked import AS_IT_SAYS, Form, Lines, MarkedRow, Reading
from manyhot.toolkit.read.formats.span_jsonl import SpanRecords
from manyhot.toolkit.read.formats.tagged import TaggedColumns

FORMATS = (
    ".jsonl or .ndjson, .json of such objects or of Label Studio, columns of tokens and tags "
    f"({', '.join(TAGGED)}, or .tsv and .txt with --format columns), each also with .gz or .bz2"
)

# What an object of an array has that is no task of Label Studio.
OF_RECORDS = {"tokens", "entities", "spans", "relations"}


@dataclass(frozen=True)
class MarkedFile:
    """All rows of a file, what their offsets count, and what is said of the file."""

    source: str
    rows: list[MarkedRow]
    form: Form
    said: list[str]


def read_marked(path: str | Path, how: Reading = AS_IT_SAYS) -> MarkedFile:
    """Read a file with marked spans; its name says which reader takes it, and its rows what they are.

    Raises:
        InputError: a file that is missing, empty, damaged, of another format, or has spans that are none.
    """
    with reading(path):
        return _read_marked(Path(path), how)


def _read_marked(path: Path, how: Reading) -> MarkedFile:
    check_is_file(path)
    kind = kind_of_file(path)[0]
    if kind == ".txt" and not how.columns:
        raise InputError(
            f"{path}: expected rows with spans, got .txt, which `manyhot predict` reads as a row a line; a file in "
            "columns needs --format columns"
        )
    reader, rows = _opened(path, how, with_marks=True)
    found = list(rows)
    if not found:
        raise no_rows(path)
    said = []
    if how.relations and not isinstance(reader, SpanRecords):
        raise InputError(
            f"{path}: expected rows with 'relations' beside 'entities', as .jsonl or .json has them, got "
            f"{path.name!r}; convert the file, or learn its spans: --task spans"
        )
    if isinstance(reader, SpanRecords):
        if reader.tags.seen:
            found = [replace(row, marks=reader.tags.joined(row.marks, f"{path}, {row.place}")) for row in found]
        if reader.key is not None and reader.without:
            said.append(f"{counted(reader.without, 'row')} without {reader.key!r} count as rows without spans")
        if reader.refused:
            said.append(f"{counted(reader.refused, 'row')} left out, rejected or ignored by an annotator")
    for row in found:
        check_links(f"{path}, {row.place}", row.links, len(row.marks))
    if isinstance(reader, LabelStudio) and reader.without:
        said.append(f"{counted(reader.without, 'task')} left out, without an annotation")
    types = {mark.type for row in found for mark in row.marks}
    where = "Label Studio, character offsets" if isinstance(reader, LabelStudio) else reader.described()
    first = f"spans: {where}; {counted(len(types), 'type')}"
    if how.relations:
        links = [link.type for row in found for link in row.links]
        first += f"; {len(links):,} relations of {counted(len(set(links)), 'type')}"
    return MarkedFile(path.name, found, found[0].form, [first, *said])


def read_blocks(path: str | Path, how: Reading, rows: int) -> Iterator[tuple[list[MarkedRow], float]]:
    """Yield blocks of so many rows, without their spans, and how much of the file is read, from 0 to 1.

    A .txt file is a row a line.

    Raises:
        InputError: what :func:`read_marked` refuses; a mistake in a row comes after the blocks before it.
    """
    with reading(path):
        yield from _read_blocks(Path(path), how, rows)


def _read_blocks(path: Path, how: Reading, rows: int) -> Iterator[tuple[list[MarkedRow], float]]:
    check_is_file(path)
    lines = Lines(path)
    if kind_of_file(path)[0] == ".txt" and not how.columns:
        found = (MarkedRow(f"line {number}", None, text, record={"text": text}) for number, text in lines)
    else:
        _, found = _opened(path, how, with_marks=False, lines=lines)
    none = True
    while block := list(islice(found, rows)):
        none = False
        yield block, lines.share
    if none:
        raise no_rows(path)


def _opened(
    path: Path, how: Reading, *, with_marks: bool, lines: Lines | None = None
) -> tuple[Any, Iterator[MarkedRow]]:
    kind = kind_of_file(path)[0]
    lines = lines or Lines(path)
    if how.columns or kind in TAGGED:
        columns = TaggedColumns(path, how, with_marks=with_marks)
        return columns, columns.rows(lines)
    if kind in (".jsonl", ".ndjson"):
        records = SpanRecords(path, how, with_marks=with_marks)
        return records, records.rows(lines)
    if kind == ".json":
        export = LabelStudio(path, with_marks=with_marks, inclusive=how.end == "inclusive")
        tasks = export.tasks()
        if tasks and isinstance(tasks[0], dict) and "data" not in tasks[0] and OF_RECORDS & set(tasks[0]):
            records = SpanRecords(path, how, with_marks=with_marks)
            return records, records.of((f"row {n}", task) for n, task in enumerate(tasks, 1))
        return export, export.rows(tasks)
    raise InputError(
        f"{path}: expected a file of spans in one of these formats: {FORMATS}, got {path.name!r}; convert the file, or "
        "give it the ending of its format"
    )
