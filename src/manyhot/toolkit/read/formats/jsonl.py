"""JSONL to a frame, with errors that name the line and the column."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from manyhot.toolkit.errors import InputError, first_line, shown
from manyhot.toolkit.parse import parse_json
from manyhot.toolkit.read.formats.files import BLOCK_BYTES, POLARS_ERRORS, TextFile, cut_blocks, end_of_lines

# polars takes 90 bytes for each value of a line, read or not: 250 MB for 8 MB of digits. Of long lines it gets what
# matters alone; Python parses them for less, one at a time.
LONG_LINE = 2**20

# Cells, lines by keys, of which one in THIN at least has a value: a key is a column, and of columns of single values
# polars holds every cell, in 60 bytes, and takes a time that grows with their square.
MOST_CELLS, THIN = 5 * 10**7, 100

# What is known of each column so far: its kind, and the line that showed it.
Kinds = dict[str, tuple[str, int]]


def read_jsonl(path: Path, data: bytes) -> pl.DataFrame:
    """Read the bytes of a JSONL file; types are those of the whole file.

    Raises:
        InputError: a line that is no JSON object, or a column of two types.
    """
    _check_lines(path, data, {})
    return _parsed(path, data)


def survey(
    path: Path,
    file: TextFile | io.BytesIO,
    size: int = BLOCK_BYTES,
    surveyed: Callable[[], None] = lambda: None,
    wanted: Sequence[str] = (),
) -> tuple[pl.Schema, int]:
    """Check a file block by block, and return its columns and the number of its rows.

    A number is read as the whole of its column is: 1 is 1.0 where another row has 0.5. So types are known only at the
    end of the file, and every row is checked before the first is read.

    Args:
        path: the file, for messages.
        file: its text.
        size: bytes that are read at a time, about.
        surveyed: called after each block.
        wanted: columns whose types matter; by default all. Lists and objects of others are left out of long lines.

    Raises:
        InputError: what :func:`read_jsonl` refuses.
    """

    def types_alone(record: dict[str, Any]) -> dict[str, Any]:
        unread = {name for name, of in record.items() if wanted and name not in wanted and isinstance(of, list | dict)}
        return {name: None if name in unread else _shortened(of) for name, of in record.items()}

    kinds: Kinds = {}
    columns, rows = pl.DataFrame(), 0
    for line, block in cut_blocks(path, file, end_of_lines, size):
        _check_lines(path, block, kinds, line)
        if block.strip():
            frame = _parsed(path, _rewritten(path, block, types_alone, line))
            rows += frame.height
            try:
                columns = pl.concat([columns, frame.clear()], how="diagonal_relaxed")
            except POLARS_ERRORS as error:
                raise _mixed(path, error) from None
        surveyed()
    return columns.schema, rows


def read_rows(
    path: Path, file: TextFile | io.BytesIO, schema: pl.Schema, size: int = BLOCK_BYTES
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file that was surveyed, in frames made of about `size` bytes each."""

    def wanted(record: dict[str, Any]) -> dict[str, Any]:
        return {name: record[name] for name in schema if name in record}

    for line, block in cut_blocks(path, file, end_of_lines, size):
        if block.strip():
            yield _parsed(path, _rewritten(path, block, wanted, line), schema)


def _check_lines(path: Path, data: bytes, kinds: Kinds, first: int = 1) -> None:
    keys: set[str | tuple[str, ...]] = set()
    values = 0
    for line, text in enumerate(io.BytesIO(data), first):
        if text.isspace():
            continue
        record = check_object(path, line, text, kinds)
        keys.update(record)
        values += len(record)
        for name, value in record.items():
            if isinstance(value, dict | list) and (inside := set(_keys_of(value, (name,)))):
                keys |= inside
                values += len(inside)
        cells = (line - first + 1) * len(keys)
        if cells > MOST_CELLS and THIN * values < cells:
            raise InputError(
                f"{path}, line {line}: expected objects with the same keys, which are the columns, got {len(keys):,} "
                f"keys in {line - first + 1:,} lines, most of them once or twice; write such keys as a list of one "
                'column, {"words": ["key", ...]}, or the file as svmlight'
            )


def _keys_of(value: Any, inside: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the keys of objects in a cell, each with the keys on the way to it."""
    if isinstance(value, dict):
        for key, of in value.items():
            yield (*inside, key)
            if isinstance(of, dict | list):
                yield from _keys_of(of, (*inside, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict | list):
        for item in value:
            yield from _keys_of(item, inside)


def _rewritten(path: Path, data: bytes, change: Callable[[dict[str, Any]], dict[str, Any]], first: int) -> bytes:
    """Change the objects of long lines."""
    if len(data) <= LONG_LINE:
        return data
    lines = io.BytesIO(data)
    return b"".join(
        text
        if len(text) <= LONG_LINE or text.isspace()
        else json.dumps(change(json_object(path, line, text))).encode() + b"\n"
        for line, text in enumerate(lines, first)
    )


def _shortened(value: Any) -> Any:
    """Keep of a list a value of each type, of numbers the extremes: what the type of a column depends on."""
    if isinstance(value, dict):
        return {name: _shortened(of) for name, of in value.items()}
    kinds = {type(item) for item in value} if isinstance(value, list) else set()
    if not kinds or (kinds & {list, dict} and len(kinds - {type(None)}) > 1):
        return value
    if list in kinds:
        return [_shortened([item for inner in value if inner is not None for item in inner])]
    if dict in kinds:
        fields: dict[str, list[Any]] = {}
        for item in value:
            for name, of in (item or {}).items():
                fields.setdefault(name, []).append(of)
        short = {name: _shortened(of) for name, of in fields.items()}
        most = max(map(len, short.values()), default=1)
        return [{name: of[i] for name, of in short.items() if i < len(of)} for i in range(most)]
    found: list[Any] = []
    for kind in kinds:
        of_kind = [item for item in value if type(item) is kind]
        found += [min(of_kind), max(of_kind)] if kind in (int, float) else of_kind[:1]
    return found


def _parsed(path: Path, data: bytes, schema: pl.Schema | None = None) -> pl.DataFrame:
    try:
        return pl.read_ndjson(data, schema=schema, infer_schema_length=None)
    except POLARS_ERRORS as error:
        raise _mixed(path, error) from None


def _mixed(path: Path, error: BaseException) -> InputError:
    return InputError(
        f"{path}: expected columns of one type each, also inside nested values, got: "
        f"{first_line(error)}; leave nested columns out"
    )


def check_object(path: Path, line: int, text: bytes, kinds: Kinds) -> dict[str, Any]:
    """Return a line as an object; refuse what is none, or has a column of another kind than the lines before it.

    polars turns numbers into text where a column holds both, and keeps one of two equal keys: both are refused here.

    Args:
        path: the file, for messages.
        line: its number.
        text: the line, not blank.
        kinds: of the columns so far; this line's are added.
    """
    record = json_object(path, line, text)
    for name, value in record.items():
        kind = _json_kind(value)
        if kind is None:
            continue
        where = f"{path}, line {line}, column {shown(name)}"
        if kind == "number" and math.isinf(value):
            raise InputError(f"{where}: expected a finite number, got one that is too large; write null instead")
        if kind == "list of mixed types":
            raise InputError(f"{where}: expected a list of one type, got {shown(value)}; write all its items as text")
        known, first = kinds.setdefault(name, (kind, line))
        if known == "list" and kind.startswith("list"):
            kinds[name] = (kind, line)
        elif kind != known and not (kind == "list" and known.startswith("list")):
            raise InputError(
                f"{where}: expected a {known} as on line {first}, got a {kind}, {shown(value)}; "
                "write the column as one type"
            )
    return record


def json_object(path: Path, line: int, text: bytes) -> dict[str, Any]:
    """Parse a line that is one JSON object; equal keys, NaN and half surrogate pairs are refused."""
    where = f"{path}, line {line}"
    try:
        record = parse_json(text, finite=False, pairs=_unique_keys)
    except ValueError as error:
        reason = f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(
            f"{where}: expected one JSON object, got {shown(text.decode().strip())} ({reason}); correct the line"
        ) from None
    if not isinstance(record, dict):
        raise InputError(
            f"{where}: expected one JSON object, got {shown(record)}; "
            'write every row as {"column": value, ...} on a line of its own'
        )
    # Half a surrogate pair is legal JSON, no Unicode, and a NUL to polars.
    if b"\\ud" in text.lower() and any(
        "\ud800" <= character <= "\udfff" for character in json.dumps(record, ensure_ascii=False)
    ):
        raise InputError(rf"{where}: expected Unicode text, got half a surrogate pair (\ud800 to \udfff); delete it")
    return record


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return record


_JSON_KINDS = {bool: "true/false", int: "number", float: "number", str: "string", list: "list", dict: "object"}


def _json_kind(value: Any) -> str | None:
    """Name the type of a value as messages do; lists also by what is in them, where that is known."""
    if not isinstance(value, list):
        return _JSON_KINDS.get(type(value))
    items = {_JSON_KINDS[type(item)] for item in value if item is not None}
    if len(items) > 1:
        return "list of mixed types"
    return f"list of {items.pop()}s" if items else "list"
