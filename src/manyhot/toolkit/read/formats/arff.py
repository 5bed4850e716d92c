"""ARFF, dense and sparse: one small reader, since what there is either fails on sparse rows or is not kept up.

The format: https://waikato.github.io/weka-wiki/formats_and_processing/arff_stable/
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp

from manyhot.toolkit.errors import InputError, shown

NUMERIC = ("number", "truth")
_ROWS_A_BATCH = 10_000
_LARGEST = float(np.finfo(np.float32).max)
_TRUTHS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_NAME = re.compile(rf"\s*({_QUOTED}|[^\s{{'\"][^\s{{]*)\s*(.*)", re.DOTALL)
# A value and what ends it, in a row and in braces. Nothing is tried twice, so that no line takes long.
_VALUE = re.compile(rf"\s*+({_QUOTED}|(?!['\"])[^,]*+)\s*+(,|$)", re.DOTALL)
_DECLARED = re.compile(rf"\s*+({_QUOTED}|(?!['\"])[^,}}]*+)\s*+([,}}])", re.DOTALL)
_INDEX = re.compile(r"\s*([0-9]+)\s+")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


@dataclass(frozen=True)
class Attribute:
    """One attribute as the header declares it.

    Attributes:
        name: without quotes.
        kind: "number"; "truth", nominal with no values but 0 and 1 or false and true; "nominal"; "string"; "date".
        values: of a nominal attribute, in the order of the header, which makes the first the default of sparse rows.
    """

    name: str
    kind: str
    values: tuple[str, ...] = ()

    @property
    def default(self) -> float:
        """What a sparse row has where it says nothing of a number or truth."""
        return _TRUTHS[self.values[0].lower()] if self.kind == "truth" else 0.0


@dataclass(frozen=True)
class Relation:
    """An ARFF file.

    Attributes:
        name: what stands after @relation; Meka writes the number of labels there.
        attributes: in the order of the header.
        numbers: csr_array, (rows, attributes) float32, of numbers and truths; NaN is a missing value.
        words: all other attributes as text, null where missing.
        lines: the line of each row, for messages.
    """

    name: str
    attributes: list[Attribute]
    numbers: Any
    words: pl.DataFrame
    lines: np.ndarray


def read_arff(path: Path, data: bytes) -> Relation:
    """Read the bytes of an ARFF file.

    Raises:
        InputError: names the line, and the attribute where there is one.
    """
    lines = _content(data)
    name, attributes = _read_header(path, lines)
    batches = [_read_batch(path, attributes, batch) for batch in iter(lambda: list(islice(lines, _ROWS_A_BATCH)), [])]
    if not batches:
        raise InputError(f"{path}: expected rows of data after @data, got none; check that this is the file you meant")
    numbers: Any = sp.vstack([batch.numbers for batch in batches], format="csr", dtype=np.float32)
    return Relation(
        name,
        attributes,
        sp.csr_array(numbers),
        pl.concat([batch.words for batch in batches]),
        np.concatenate([batch.lines for batch in batches]),
    )


def _content(data: bytes) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines that are neither blank nor a comment."""
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"), 1):
        text = line.strip()
        if text and not text.startswith("%"):
            yield number, text


def _read_header(path: Path, lines: Iterator[tuple[int, str]]) -> tuple[str, list[Attribute]]:
    """Read up to @data; keywords are of any case."""
    relation, attributes = "", []
    first: dict[str, int] = {}
    for number, line in lines:
        keyword, _, rest = line.replace("\t", " ").partition(" ")
        keyword = keyword.lower()
        if keyword == "@relation":
            relation = _unquoted(rest.strip())
        elif keyword == "@attribute":
            attribute = _read_attribute(path, number, line[len(keyword) :])
            if attribute.name in first:
                raise InputError(
                    f"{path}, line {number}: expected a different name for each attribute, got "
                    f"{shown(attribute.name)} again after line {first[attribute.name]}; rename one of them"
                )
            first[attribute.name] = number
            attributes.append(attribute)
        elif keyword.startswith("@data"):
            if not attributes:
                raise InputError(f"{path}, line {number}: expected @attribute lines before @data, got none; add them")
            return relation, attributes
        else:
            raise InputError(
                f"{path}, line {number}: expected @relation, @attribute or @data, got {shown(line)}; correct the line"
            )
    raise InputError(f"{path}: expected a line @data above the rows, got none; add it")


def _read_attribute(path: Path, number: int, text: str) -> Attribute:
    match = _NAME.fullmatch(text)
    if match is None or not match[2]:
        raise InputError(
            f"{path}, line {number}: expected @attribute NAME TYPE, got {shown(text.strip())}; put quotes round a name "
            "with spaces, and name the type: numeric, string or {a,b}"
        )
    name, declared = _unquoted(match[1]), match[2].strip()
    if declared.startswith("{"):
        values = _declared_values(declared)
        if values is None:
            raise InputError(
                f"{path}, line {number}, attribute {shown(name)}: expected values in braces such as {{a,b}}, each "
                f"once, got {shown(declared)}; correct the line"
            )
        truth = {_TRUTHS.get(value.lower()) for value in values}
        return Attribute(name, "nominal" if None in truth or len(truth) < len(values) else "truth", values)
    kind = declared.split()[0].lower()
    if kind in ("numeric", "real", "integer"):
        return Attribute(name, "number")
    if kind in ("string", "date"):
        return Attribute(name, kind)
    raise InputError(
        f"{path}, line {number}, attribute {shown(name)}: expected numeric, real, integer, string, date or values in "
        f"braces, got {shown(declared)}; leave the attribute out"
    )


def _declared_values(text: str) -> tuple[str, ...] | None:
    """Read {a,'b c',d} and what may be a comment after it; None where that is not what it is."""
    split = _split(text, _DECLARED, start=1)
    if split is None:
        return None
    values, end = split
    rest = text[end:].strip()
    names = tuple(_unquoted(value) for value in values)
    return names if len(set(names)) == len(names) and "" not in names and rest[:1] in ("", "%") else None


def _split(text: str, pattern: re.Pattern[str] = _VALUE, start: int = 0) -> tuple[list[str], int] | None:
    """Split at commas outside quotes, quotes kept, and say where that ends; None where a quote does not end well."""
    values, place = [], start
    while True:
        match = pattern.match(text, place)
        if match is None:
            return None
        values.append(match[1].strip())
        place = match.end()
        if match[2] != ",":
            return values, place


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text[1:-1])
    return text


@dataclass(frozen=True)
class _Batch:
    numbers: Any
    words: pl.DataFrame
    lines: np.ndarray


def _read_batch(path: Path, attributes: list[Attribute], rows: list[tuple[int, str]]) -> _Batch:
    numbers = None
    if all(attribute.kind in NUMERIC for attribute in attributes):
        numbers = _plain_numbers(attributes, [text for _, text in rows])
    words = pl.DataFrame()
    if numbers is None:
        numbers, words = _read_exactly(path, attributes, rows)
    return _Batch(numbers, words, np.array([number for number, _ in rows]))


def _plain_numbers(attributes: list[Attribute], rows: list[str]) -> Any:
    """Read rows that are all dense, or all sparse, and hold nothing but numbers; None where one is another."""
    width, sparse = len(attributes), rows[0].startswith("{")
    if sparse:
        if any(a.default for a in attributes) or not all(row.startswith("{") and row.endswith("}") for row in rows):
            return None
        fields = [row[1:-1].replace(",", " ").split() for row in rows]
        indices = [token for row in fields for token in row[::2]]
        tokens = [token for row in fields for token in row[1::2]]
        # More digits than a number of columns has, or of another script: for the other reader to name.
        if any(len(row) % 2 for row in fields) or not all(i.isascii() and i.isdigit() and len(i) < 10 for i in indices):
            return None
        sizes = np.array([len(row) // 2 for row in fields])
        column = np.array([int(index) for index in indices], dtype=np.int64)
        row = np.repeat(np.arange(len(rows)), sizes)
        # An index beyond the last, or one that comes twice in a row, is for the other reader to name.
        if (column >= width).any() or ((np.diff(column) <= 0) & (np.diff(row) == 0)).any():
            return None
    else:
        fields = [row.split(",") for row in rows]
        if any(len(row) != width for row in fields):
            return None
        tokens = [token for row in fields for token in row]
        column, row = np.tile(np.arange(width), len(rows)), np.repeat(np.arange(len(rows)), width)
    try:
        # Python takes 1_000 for a number.
        values = np.array([float(token) if "_" not in token else np.nan for token in tokens])
    except ValueError:
        return None
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    allowed = np.array([[a.kind == "number" or digit in a.values for digit in "01"] for a in attributes])
    is_truth = np.array([a.kind == "truth" for a in attributes])[column]
    truths = values[is_truth]
    if not np.isfinite(values).all() or not np.isin(truths, (0, 1)).all():
        return None
    if not allowed[column[is_truth], truths.astype(int)].all():
        return None
    matrix: Any = sp.csr_array((values, (row, column)), shape=(len(rows), width))
    matrix.eliminate_zeros()
    return matrix


@dataclass
class _Cells:
    """Numbers and words as they are read, row by row."""

    row: list[int] = field(default_factory=list)
    column: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    words: dict[int, list[str | None]] = field(default_factory=dict)


def _read_exactly(path: Path, attributes: list[Attribute], rows: list[tuple[int, str]]) -> tuple[Any, pl.DataFrame]:
    """Read values one by one: quotes, words, missing values, and the error that names what is wrong."""
    cells = _Cells(words={i: [] for i, a in enumerate(attributes) if a.kind not in NUMERIC})
    defaults: dict[int, str | float | None] = {}
    for i, attribute in enumerate(attributes):
        if attribute.kind == "nominal":
            defaults[i] = attribute.values[0]
        elif attribute.kind not in NUMERIC:
            defaults[i] = None
        elif attribute.default:
            defaults[i] = attribute.default
    for place, (number, text) in enumerate(rows):
        where = f"{path}, line {number}"
        found = _sparse_row(where, attributes, text) if text.startswith("{") else _dense_row(where, attributes, text)
        if text.startswith("{"):
            found = defaults | found
        for i, value in found.items():
            if i in cells.words:
                cells.words[i].append(None if value is None else str(value))
            elif value != 0.0:
                cells.row.append(place)
                cells.column.append(i)
                cells.value.append(float("nan") if value is None else float(value))
    coordinates = (np.array(cells.row, dtype=np.int64), np.array(cells.column, dtype=np.int64))
    numbers: Any = sp.csr_array(
        (np.array(cells.value, dtype=np.float32), coordinates), shape=(len(rows), len(attributes))
    )
    words = {attributes[i].name: pl.Series(values, dtype=pl.String) for i, values in cells.words.items()}
    return numbers, pl.DataFrame(words)


def _dense_row(where: str, attributes: list[Attribute], text: str) -> dict[int, Any]:
    split = _split(text)
    if split is None:
        raise _stray_quote(where, text)
    values, _ = split
    if len(values) == 1 < len(attributes) and not set("'\"") & set(text):
        values = text.split()  # Weka takes white space for a comma
    if len(values) != len(attributes):
        raise InputError(
            f"{where}: expected {len(attributes)} values, one for each attribute, got {len(values)}; correct the row"
        )
    return {i: _value(where, attributes[i], value) for i, value in enumerate(values)}


def _sparse_row(where: str, attributes: list[Attribute], text: str) -> dict[int, Any]:
    if not text.endswith("}"):
        raise InputError(f"{where}: expected a sparse row to end with }}, got {shown(text[-20:])}; correct the row")
    body = text[1:-1].strip()
    found: dict[int, Any] = {}
    place = 0
    while body and place < len(body):
        index = _INDEX.match(body, place)
        if index is None:
            raise InputError(
                f"{where}: expected an index and a value, such as {{0 1, 4 2.5}}, got {shown(body[place:])}; "
                "correct the row"
            )
        digits = index[1].lstrip("0") or "0"
        i = int(digits) if len(digits) < 10 else len(attributes)
        if i >= len(attributes):
            raise InputError(
                f"{where}: expected an index from 0 to {len(attributes) - 1}, got {digits[:20]}; correct the row, or "
                "declare the attribute"
            )
        if i in found:
            raise InputError(f"{where}: expected each index once, got {i} again; correct the row")
        value = _VALUE.match(body, index.end())
        if value is None:
            raise _stray_quote(where, body[index.end() :])
        found[i] = _value(where, attributes[i], value[1].strip())
        place = value.end()
    return found


def _value(where: str, attribute: Attribute, token: str) -> str | float | None:
    """Read one value; None is a missing one."""
    if token == "?":
        return None
    text, where = _unquoted(token), f"{where}, attribute {shown(attribute.name)}"
    if attribute.kind in ("string", "date"):
        return text
    if attribute.kind == "number":
        try:
            number = float(text) if "_" not in text else np.nan
        except ValueError:
            number = np.nan
        if not abs(number) <= _LARGEST:
            raise InputError(
                f"{where}: expected a finite number that float32 can hold, got {shown(text)}; correct the value, or "
                "write ? where it is missing"
            )
        return number
    if text in attribute.values:
        return _TRUTHS[text.lower()] if attribute.kind == "truth" else text
    if attribute.kind == "truth" and text in ("0.0", "1.0") and text[0] in attribute.values:
        return float(text)
    declared = ",".join(attribute.values)
    raise InputError(
        f"{where}: expected one of {{{declared if len(declared) < 60 else declared[:57] + '...'}}}, got "
        f"{shown(text)}; correct the value, or declare it"
    )


def _stray_quote(where: str, text: str) -> InputError:
    return InputError(
        f"{where}: expected a quoted value to end with a quote, got {shown(text)}; write a quote inside quotes with "
        r"a backslash, as in 'it\'s'"
    )
