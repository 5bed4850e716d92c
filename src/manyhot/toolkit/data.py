"""Files to polars frames and sparse matrices, with errors that name the file, the line and the column.

CSV and TSV columns stay strings here: what a column means is decided over the whole column, in `columns`, so that the
code 007 is never turned into 7.
"""

from __future__ import annotations

import bz2
import csv
import difflib
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp

FORMATS = (
    ".csv, .tsv, .jsonl or .ndjson (each also with .gz or .bz2), .parquet, "
    "or NAME.X.npz with NAME.Y.npz and labels.txt beside it"
)
# polars panics, instead of raising, on some damaged files.
_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
_CELLS_A_BATCH = 1_000_000


class InputError(Exception):
    """Bad input in one sentence: what was expected, what came, what to type next. The command exits with 2."""


@dataclass(frozen=True)
class Matrix:
    """Features and targets stored as sparse matrices: NAME.X.npz, NAME.Y.npz and labels.txt.

    Attributes:
        features: (rows, features), float32, every value finite.
        targets: (rows, labels), bool; None when there is no NAME.Y.npz, which prediction does not need.
        label_names: one name for each column of `targets`; None with `targets`.
    """

    features: sp.csr_array
    targets: sp.csr_array | None
    label_names: list[str] | None


def read_file(path: str | Path) -> pl.DataFrame | Matrix:
    """Read one data file; its name says which format it is.

    Args:
        path: a file in one of `FORMATS`. For sparse matrices DIR/NAME.X.npz, DIR/NAME.Y.npz and DIR/NAME all mean the
            same three files; the names of the labels come from NAME.labels.txt or else from labels.txt.

    Returns:
        A frame with at least one row, CSV and TSV cells as strings; or a `Matrix`.

    Raises:
        InputError: the file is missing, empty, damaged, of another format or not of the format its name says.
    """
    path = Path(path)
    stem = _matrix_stem(path)
    if stem is not None:
        return _read_matrix(stem)
    _check_is_file(path)
    name = path.name.lower()
    packing = next((end for end in (".gz", ".bz2") if name.endswith(end)), "")
    kind = Path(name.removesuffix(packing)).suffix
    if kind == ".parquet" and not packing:
        frame = _read_parquet(path)
    elif kind in (".csv", ".tsv"):
        frame = _read_delimited(path, _read_text(path), "," if kind == ".csv" else "\t")
    elif kind in (".jsonl", ".ndjson"):
        frame = _read_jsonl(path, _read_text(path))
    else:
        raise InputError(
            f"{path}: expected a file in one of these formats: {FORMATS}, got {path.name!r}; "
            "convert the file or give it the ending of its format"
        )
    if frame.is_empty():
        raise InputError(f"{path}: expected rows of data, got none; check that this is the file you meant")
    return frame


def files_of(path: str | Path) -> list[Path]:
    """List the files that :func:`read_file` reads for a path: one, or those of a matrix."""
    stem = _matrix_stem(Path(path))
    if stem is None:
        return [Path(path)]
    return [file for file in (Path(f"{stem}.X.npz"), Path(f"{stem}.Y.npz"), _names_path(stem)) if file.exists()]


def read_label_names(path: str | Path) -> list[str]:
    """Read a list of label names, one a line, in the order of the file.

    Args:
        path: a UTF-8 text file; white space round a name is dropped, and so are empty lines at the end.

    Raises:
        InputError: the file is missing or empty, a line is blank, or a name comes twice.
    """
    path = Path(path)
    _check_is_file(path)
    names = [line.strip() for line in _read_text(path).decode().rstrip().split("\n")]
    if names == [""]:
        raise InputError(f"{path}: expected one label name a line, got an empty file; write the names into it")
    first: dict[str, int] = {}
    for line, name in enumerate(names, 1):
        if not name:
            raise InputError(f"{path}, line {line}: expected a label name, got a blank line; delete the line")
        if name in first:
            raise InputError(
                f"{path}, line {line}: expected each label name once, got {name!r} again after line {first[name]}; "
                "delete or rename one of them"
            )
        first[name] = line
    return names


def shown(value: object) -> str:
    """Write a value as an error message shows it: quoted if it is text, and never longer than about 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _check_is_file(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        raise InputError(f"{path}: expected a file, got a folder; name one file in it, one of: {FORMATS}")
    if path.exists():
        raise InputError(f"{path}: expected a file that can be read twice, got a pipe or device; save it first")
    if not path.parent.is_dir():
        raise InputError(f"{path}: expected a file, but there is no folder {path.parent}; check the path")
    close = difflib.get_close_matches(path.name, sorted(entry.name for entry in path.parent.iterdir()))
    hint = f"did you mean {' or '.join(str(path.parent / name) for name in close)}?" if close else "check the path"
    raise InputError(f"{path}: expected a file, but there is none of this name; {hint}")


def _read_text(path: Path) -> bytes:
    """Unpack a text file and check that it is UTF-8; the byte order mark is dropped."""
    opener = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as file:
            data: bytes = file.read()
    except PermissionError:
        raise InputError(f"{path}: expected a file that may be read, got no permission; chmod +r it") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: expected a whole {path.suffix.lstrip('.')} file, got a truncated or corrupt one ({error}); "
            "download or write it again"
        ) from None
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise InputError(f"{path}: expected text, got an empty file; check that this is the file you meant")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        guess = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
        raise InputError(
            f"{path}, line {line}: expected UTF-8 text, got the byte 0x{data[error.start]:02x}; "
            f"save it as UTF-8 (iconv -f {guess} -t UTF-8)"
        ) from None
    return data


def _read_delimited(path: Path, data: bytes, separator: str) -> pl.DataFrame:
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")  # the line ends of old Macs, which polars takes for one long header
    names = _header(path, data, separator)
    try:
        frame = pl.read_csv(data, separator=separator, infer_schema=False)
    except _POLARS_ERRORS:
        return _read_delimited_exactly(path, data, separator, names)
    # polars fills up a short row with nulls, and a null in the last column is the only trace that this leaves.
    may_be_short = frame.to_series(-1).has_nulls() and not _is_even(data, separator, len(names))
    if frame.width != len(names) or may_be_short:
        return _read_delimited_exactly(path, data, separator, names)
    frame.columns = names  # polars leaves doubled quotes in a name as they are
    return frame


def _is_even(data: bytes, separator: str, width: int) -> bool:
    """Say at once that no row is short, where no quotes make it hard to tell."""
    mark = separator.encode()
    return b'"' not in data and all(line.count(mark) == width - 1 for line in io.BytesIO(data))


def _read_delimited_exactly(path: Path, data: bytes, separator: str, names: list[str]) -> pl.DataFrame:
    """Read with the standard reader: slower than polars, but it knows its line and takes stray quotes in a field."""
    width = len(names)
    batches: list[pl.DataFrame] = []
    rows: list[list[str]] = []

    def flush() -> None:
        columns = zip(*rows, strict=True) if rows else ((),) * width
        batches.append(pl.DataFrame(dict(zip(names, columns, strict=True)), schema=dict.fromkeys(names, pl.String)))
        rows.clear()

    records = _records(path, data, separator)
    next(records)
    for line, record in records:
        if not record:
            if width > 1:
                continue
            record = [""]  # in a file of one column a blank line is a row: predictions must keep their place
        if len(record) != width:
            advice = "fill in the missing fields" if len(record) < width else "put quotes round a field with separators"
            raise InputError(
                f"{path}, line {line}: expected {width} fields as in the header, got {len(record)}; {advice}"
            )
        rows.append(record)
        if len(rows) * width >= _CELLS_A_BATCH:
            flush()
    flush()
    return pl.concat(batches).with_columns(pl.all().replace("", None))


def _header(path: Path, data: bytes, separator: str) -> list[str]:
    line, names = next(_records(path, data, separator))
    if len(names) == 1 and separator == "," and (";" in names[0] or "\t" in names[0]):
        found = ";" if ";" in names[0] else "\\t"
        raise InputError(
            f"{path}, line {line}: expected names separated by commas, got {shown(names[0])}; rewrite it with: python "
            f"""-c "import polars; polars.read_csv('{path}', separator='{found}').write_csv('commas.csv')\""""
        )
    for position, name in enumerate(names, 1):
        first = names.index(name) + 1
        if first < position:
            raise InputError(
                f"{path}, line {line}: expected a different name for each column, got {shown(name)} for columns "
                f"{first} and {position}; rename one of them, or write a header above the first row"
            )
    return names


def _records(path: Path, data: bytes, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record starts, and its fields; blank lines before the header are left out."""
    limit = csv.field_size_limit(len(data) + 1)
    try:
        text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")
        reader = csv.reader(text, delimiter=separator, strict=True)
        started = False
        while True:
            line = reader.line_num + 1
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                got = "one that is never closed" if "end of data" in str(error) else "text after a closing quote"
                raise InputError(
                    f"{path}, line {line}: expected a quoted field to end with a quote, got {got}; write a quote "
                    'inside quotes twice, as in "say ""yes"" twice"'
                ) from None
            started = started or bool(record)
            if started:
                yield line, record
    finally:
        csv.field_size_limit(limit)


def _read_jsonl(path: Path, data: bytes) -> pl.DataFrame:
    # polars turns numbers into text where a column holds both, and keeps one of two equal keys: both are refused here.
    seen: dict[str, tuple[str, int]] = {}
    for line, text in enumerate(io.BytesIO(data), 1):
        if text.isspace():
            continue
        for name, value in _json_object(path, line, text).items():
            kind = _json_kind(value)
            if kind is None:
                continue
            where = f"{path}, line {line}, column {shown(name)}"
            if kind == "number" and math.isinf(value):
                raise InputError(f"{where}: expected a finite number, got one that is too large; write null instead")
            if kind == "list of mixed types":
                raise InputError(
                    f"{where}: expected a list of one type, got {shown(value)}; write all its items as text"
                )
            known, first = seen.setdefault(name, (kind, line))
            if known == "list" and kind.startswith("list"):
                seen[name] = (kind, line)
            elif kind != known and not (kind == "list" and known.startswith("list")):
                raise InputError(
                    f"{where}: expected a {known} as on line {first}, got a {kind}, {shown(value)}; "
                    "write the column as one type"
                )
    try:
        return pl.read_ndjson(data, infer_schema_length=None)
    except _POLARS_ERRORS as error:
        raise InputError(
            f"{path}: expected columns of one type each, also inside nested values, got: "
            f"{_first_line(error)}; leave nested columns out"
        ) from None


def _json_object(path: Path, line: int, text: bytes) -> dict[str, Any]:
    where = f"{path}, line {line}"
    try:
        record = json.loads(text.decode(), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
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


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON, a missing value is null")


_JSON_KINDS = {bool: "true/false", int: "number", float: "number", str: "string", list: "list", dict: "object"}


def _json_kind(value: Any) -> str | None:
    """Name the type of a value as messages do; lists also by what is in them, where that is known."""
    if not isinstance(value, list):
        return _JSON_KINDS.get(type(value))
    items = {_JSON_KINDS[type(item)] for item in value if item is not None}
    if len(items) > 1:
        return "list of mixed types"
    return f"list of {items.pop()}s" if items else "list"


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except (OSError, *_POLARS_ERRORS) as error:
        raise InputError(
            f"{path}: expected a Parquet file, got something else or a damaged one ({_first_line(error)}); "
            "write it again"
        ) from None


def _matrix_stem(path: Path) -> str | None:
    """Say which NAME a path to sparse matrices means, or None where it means another format."""
    text = str(path)
    for end in (".X.npz", ".Y.npz"):
        if text.endswith(end):
            return text.removesuffix(end)
    return text if not path.is_file() and Path(f"{text}.X.npz").is_file() else None


def _names_path(stem: str) -> Path:
    own = Path(f"{stem}.labels.txt")
    return own if own.exists() else own.with_name("labels.txt")


def _read_matrix(stem: str) -> Matrix:
    features_path, targets_path = Path(f"{stem}.X.npz"), Path(f"{stem}.Y.npz")
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite and is reported as such
        features = _load_sparse(features_path).astype(np.float32)
    _check_values(features_path, features, np.isfinite(features.data), "a finite number that float32 can hold")
    if not targets_path.exists():
        return Matrix(features, None, None)
    targets = _load_sparse(targets_path)
    _check_values(targets_path, targets, np.isin(targets.data, (0, 1)), "0 or 1")
    targets.eliminate_zeros()
    if targets.shape[0] != features.shape[0]:
        raise InputError(
            f"{targets_path}: expected {features.shape[0]} rows as in {features_path.name}, got {targets.shape[0]}; "
            "write both from the same rows"
        )
    names_path = _names_path(stem)
    names = read_label_names(names_path)
    if len(names) != targets.shape[1]:
        raise InputError(
            f"{names_path}: expected {targets.shape[1]} label names, one for each column of {targets_path.name}, "
            f"got {len(names)}; write one name a line"
        )
    return Matrix(features, targets.astype(bool), names)


def _load_sparse(path: Path) -> Any:  # a csr_array; scipy has no types, and what pyright infers instead is wrong
    _check_is_file(path)
    matrix: Any = None
    try:
        with path.open("rb") as file:  # numpy leaves a damaged file open that it opened itself
            # scipy loads with allow_pickle=False: nothing in the file is executed.
            stored: Any = sp.load_npz(file)
        if stored.format in ("csr", "csc", "bsr"):
            stored.check_format(full_check=True)  # indices outside the matrix would be followed unchecked later on
        matrix = sp.csr_array(stored)
        matrix.sum_duplicates()
        problem = "" if matrix.ndim == 2 and matrix.dtype.kind in "biuf" else f"a {matrix.ndim}-d {matrix.dtype} array"
    except Exception as error:  # bytes of any kind make numpy, zipfile, zlib and scipy raise nearly anything
        problem = f"something else or a damaged file ({_first_line(error)})"
    if problem:
        raise InputError(
            f"{path}: expected a matrix of numbers written by scipy.sparse.save_npz, got {problem}; write it again"
        )
    rows, columns = matrix.shape
    if not rows or not columns:
        raise InputError(
            f"{path}: expected rows and columns, got {rows} x {columns}; check that this is the file you meant"
        )
    return matrix


def _check_values(path: Path, matrix: Any, good: np.ndarray, expected: str) -> None:
    if good.all():
        return
    place = int(np.argmin(good))
    row = int(np.searchsorted(matrix.indptr, place, side="right"))
    raise InputError(
        f"{path}, row {row}, column {matrix.indices[place] + 1}: expected {expected}, got {matrix.data[place]}; "
        "correct the value"
    )
