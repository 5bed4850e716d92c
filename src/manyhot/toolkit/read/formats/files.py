"""Files as bytes and text; every format's reader begins here."""

from __future__ import annotations

import bz2
import codecs
import difflib
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from manyhot.toolkit.errors import InputError, first_line

FORMATS = (
    ".csv, .tsv, .jsonl or .ndjson, .arff, .svm, .svmlight or .libsvm, .txt of the Extreme Classification Repository "
    "(each also with .gz or .bz2), .parquet, or NAME.X.npz with NAME.Y.npz and labels.txt beside it"
)
# Endings of names, in any case and packings aside: of tags a token, and of all that holds rows, matrices aside.
TAGGED = (".conll", ".iob2", ".iob", ".bio", ".bmes", ".bioes")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arff", ".svm", ".svmlight", ".libsvm", ".txt", *TAGGED)
# polars panics, instead of raising, on some damaged files.
POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
PACKINGS = {".gz": gzip.open, ".bz2": bz2.open}
# What is read at a time: tens of megabytes in all with what is made of it, and time enough for each to hide its cost.
BLOCK_BYTES = 2**23
# What a file may begin with that says how it is written; UTF-32 first, as its mark begins with that of UTF-16.
_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
# Beyond this a row is taken for a mistake: memory has an end, and a quote that is never closed makes one row of a file.
MAX_ROW_BYTES = 2**23


def check_encoding(path: Path, encoding: str | None) -> None:
    """Refuse an encoding of no such name, one of what is no text, and any for a file that is no text."""
    if encoding is None:
        return
    kind, _ = kind_of_file(path)
    if kind in (".parquet", ".npz", ".npy", ""):
        raise InputError(f"{path}: expected a text file with --encoding, got another; leave --encoding out")
    try:
        "".encode(encoding)
    except (LookupError, UnicodeError):
        raise InputError(
            f"{path}: expected an encoding such as windows-1252, latin-1, gb18030 or utf-16, got {encoding!r}; name "
            "another --encoding"
        ) from None


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


class TextFile(io.RawIOBase):
    """The bytes of a text file as UTF-8, unpacked and without a byte order mark; it knows how much of it is read.

    Args:
        path: the file; its last ending says how it is packed.
        old_line_ends: carriage returns end its lines, and are read as line feeds.
        encoding: how it is written; UTF-8 if left out, or what its byte order mark says.
        lines: refuse a line of more than `MAX_ROW_BYTES`: files of zeros unpack to gigabytes without a line end.

    Raises:
        InputError: the file may not be read, or is truncated or corrupt, or written in another encoding than said; also
            later on, where that shows.
    """

    def __init__(
        self, path: Path, *, old_line_ends: bool = False, encoding: str | None = None, lines: bool = True
    ) -> None:
        self.path, self.old_line_ends = path, old_line_ends
        try:
            self.packed = open(path, "rb")
        except PermissionError:
            raise InputError(f"{path}: expected a file that may be read, got no permission; chmod +r it") from None
        self.size = os.fstat(self.packed.fileno()).st_size
        opener = PACKINGS.get(path.suffix.lower())
        self.unpacked: Any = self.packed if opener is None else opener(self.packed)
        self.encoding, self.lines = encoding, 1
        self.most, self.unended, self.ended = MAX_ROW_BYTES if lines else None, 0, 0
        self.decoder: codecs.IncrementalDecoder | None = None
        start = self._unpacked(4)
        mark = next((mark for mark in _MARKS if start.startswith(mark)), None)
        if mark is not None or (encoding is not None and codecs.lookup(encoding).name != "utf-8"):
            self.encoding = _MARKS[mark] if mark else encoding
            self.decoder = codecs.getincrementaldecoder(str(self.encoding))()
            self.head = self._decoded(self.decoder, start) or self._take(2**10)
        else:
            self.head = start.replace(b"\r", b"\n") if old_line_ends else start
        self.head = self.head.removeprefix(b"\xef\xbb\xbf") or self._take(2**10)

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or a part of it."""
        self.head = self.head or self._take(len(buffer))
        data, self.head = self.head[: len(buffer)], self.head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self.packed.close()
        super().close()

    @property
    def share(self) -> float:
        """How much of the file is read, from 0 to 1."""
        return self.packed.tell() / self.size

    def _take(self, size: int) -> bytes:
        data = self._unpacked(size)
        if self.decoder is not None:
            text = b""
            while data and not (text := self._decoded(self.decoder, data)):
                data = self._unpacked(size)
            data = text or self._decoded(self.decoder, b"", final=True)
        self._check_line(data)
        return data.replace(b"\r", b"\n") if self.old_line_ends else data

    def _check_line(self, data: bytes) -> None:
        if self.most is None:
            return
        last = max(data.rfind(b"\n"), data.rfind(b"\r"))
        self.ended += data.count(b"\n")
        self.unended = self.unended + len(data) if last < 0 else len(data) - last - 1
        if self.unended > self.most:
            raise row_too_long(self.path, self.ended + 1)

    def _decoded(self, decoder: codecs.IncrementalDecoder, data: bytes, *, final: bool = False) -> bytes:
        try:
            text = decoder.decode(data, final).encode()
        except UnicodeError as error:
            line = self.lines + (data.count(b"\n", 0, error.start) if isinstance(error, UnicodeDecodeError) else 0)
            raise InputError(
                f"{self.path}, line {line}: expected {self.encoding} text, got something else "
                f"({first_line(error)}); name another --encoding, or leave it out for UTF-8"
            ) from None
        self.lines += text.count(b"\n")
        return text

    def _unpacked(self, size: int) -> bytes:
        try:
            return self.unpacked.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"{self.path}: expected a whole {self.path.suffix.lstrip('.')} file, got a truncated or corrupt one "
                f"({error}); download or write it again"
            ) from None


def kind_of_file(path: Path) -> tuple[str, str]:
    """Split the end of a name into the format, such as .csv, and how it is packed: .gz, .bz2 or nothing."""
    name = path.name.lower()
    packing = next((end for end in PACKINGS if name.endswith(end)), "")
    return Path(name.removesuffix(packing)).suffix, packing


def read_text(path: Path, encoding: str | None = None, *, lines: bool = True, told: bool = True) -> bytes:
    """Unpack a text file and check that it is UTF-8, or make it that; the byte order mark is dropped."""
    with TextFile(path, encoding=encoding, lines=lines) as file:
        data = file.readall()
    if not data.strip():
        raise empty(path)
    check_utf8(path, data, told=told)
    return data


class NoRows(InputError):
    """A file that is whole and has nothing in it: one among many may."""


def empty(path: Path) -> NoRows:
    """The error of a text file without text."""
    return NoRows(f"{path}: expected text, got an empty file; check that this is the file you meant")


def row_too_long(path: Path, line: int) -> InputError:
    """The error of a row that no memory is planned for."""
    return InputError(
        f"{path}, line {line}: expected a row of at most {MAX_ROW_BYTES >> 20} MB, got one that goes on; check the "
        "line ends, and that every quote is closed"
    )


def no_rows(path: Path) -> NoRows:
    """The error of a file without rows."""
    return NoRows(f"{path}: expected rows of data, got none; check that this is the file you meant")


def not_parquet(path: Path, error: BaseException) -> InputError:
    """The error of a file that is no Parquet, whatever its reader said."""
    return InputError(
        f"{path}: expected a Parquet file, got something else or a damaged one ({first_line(error)}); write it again"
    )


def check_utf8(path: Path, data: bytes, line: int = 1, *, told: bool = True) -> None:
    """Refuse lines of a file, the first of which has the number `line`, that are not UTF-8.

    Args:
        path: the file, for messages.
        data: its lines.
        line: the number of the first.
        told: `--encoding` may say how it is written.
    """
    if line == 1 and b"\0" in data[:64]:
        guess = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
        raise InputError(
            f"{path}, line 1: expected UTF-8 text, got NUL bytes; "
            + (f"say how it is written: --encoding {guess}" if told else f"convert it: iconv -f {guess} -t utf-8")
        )
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise InputError(
            f"{path}, line {line}: expected UTF-8 text, got the byte 0x{data[error.start]:02x}; "
            + (
                "say how it is written, such as --encoding windows-1252, or save it as UTF-8"
                if told
                else "convert it: iconv -f windows-1252 -t utf-8"
            )
        ) from None


def cut_blocks(
    path: Path,
    file: io.RawIOBase | io.BytesIO,
    end_of_rows: Callable[[bytes], int],
    size: int = BLOCK_BYTES,
    *,
    told: bool = True,
) -> Iterator[tuple[int, bytes]]:
    """Cut text into blocks of whole rows, with the number of the line on which each begins.

    Args:
        path: the file, for messages.
        file: the text, from its first byte.
        end_of_rows: says where the last whole row in some bytes ends, 0 where there is none.
        size: bytes of a block; more where a row is longer.
        told: as of :func:`check_utf8`.

    Raises:
        InputError: a row of more than `MAX_ROW_BYTES`, or a block that is not UTF-8.
    """
    line, data = 1, b""
    while True:
        chunk = file.read(size) or b""
        data += chunk
        end = end_of_rows(data) if chunk else len(data)
        if end:
            block, data = data[:end], data[end:]
            check_utf8(path, block, line, told=told)
            yield line, block
            line += block.count(b"\n")
        elif len(data) > MAX_ROW_BYTES:
            raise row_too_long(path, line)
        if not chunk:
            return


def end_of_lines(data: bytes) -> int:
    """Say where the last whole line ends."""
    return data.rfind(b"\n") + 1
