"""Files as bytes and text, and the one error of bad input; every format's reader begins here."""

from __future__ import annotations

import bz2
import difflib
import gzip
import zlib
from pathlib import Path

import polars as pl

FORMATS = (
    ".csv, .tsv, .jsonl or .ndjson, .arff, .svm, .svmlight or .libsvm (each also with .gz or .bz2), .parquet, "
    "or NAME.X.npz with NAME.Y.npz and labels.txt beside it"
)
# polars panics, instead of raising, on some damaged files.
POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
PACKINGS = {".gz": gzip.open, ".bz2": bz2.open}


class InputError(Exception):
    """Bad input in one sentence: what was expected, what came, what to type next. The command exits with 2."""


def shown(value: object) -> str:
    """Write a value as an error message shows it: quoted if it is text, and never longer than about 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def first_line(error: BaseException) -> str:
    """The first line of an error's text: libraries write several, a message has one."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def check_is_file(path: Path) -> None:
    """Refuse a path that is no file, and say which file may have been meant."""
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


def read_text(path: Path) -> bytes:
    """Unpack a text file and check that it is UTF-8; the byte order mark is dropped."""
    opener = PACKINGS.get(path.suffix.lower(), open)
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
