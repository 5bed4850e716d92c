"""Texts from standard input: bounded, and what is no text is one sentence."""

import sys
from collections.abc import Iterator
from typing import BinaryIO

from manyhot.toolkit.errors import InputError


def read_text() -> str:
    """Return all there is.

    Raises:
        InputError: more than a row may have, no UTF-8, or nothing to read from.
    """
    from manyhot.toolkit.read.formats.files import MAX_ROW_BYTES  # polars stands behind it

    data = _stream().read(MAX_ROW_BYTES + 1)
    if len(data) > MAX_ROW_BYTES:
        raise InputError(f"stdin: expected a text of at most {MAX_ROW_BYTES >> 20} MB, got one that goes on.")
    return _decoded(data, 1)


def lines() -> Iterator[str]:
    """Yield a text a line, as it comes; an empty line is an empty text.

    Raises:
        InputError: a line longer than a row may be, no UTF-8, or nothing to read from.
    """
    from manyhot.toolkit.read.formats.files import MAX_ROW_BYTES

    stream, number = _stream(), 0
    while data := stream.readline(MAX_ROW_BYTES + 2):
        number += 1
        if len(data.rstrip(b"\r\n")) > MAX_ROW_BYTES:
            raise InputError(
                f"stdin, line {number}: expected a line of at most {MAX_ROW_BYTES >> 20} MB, got one that goes on; "
                "write a text a line"
            )
        yield _decoded(data, number).rstrip("\r\n")


def _stream() -> BinaryIO:
    if sys.stdin is None:
        raise InputError("stdin: expected a text a line, got a closed stream; pipe a file into it.")
    return sys.stdin.buffer


def _decoded(data: bytes, line: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise InputError(
            f"stdin, line {line}: expected UTF-8 text, got the byte 0x{data[error.start]:02x}; convert it: "
            "iconv -f windows-1252 -t utf-8"
        ) from None
