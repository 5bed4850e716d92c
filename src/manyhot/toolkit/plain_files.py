"""Files that somebody else may have put there: only regular ones are read, and no more of them than fits."""

import os
import stat
from pathlib import Path

# Bytes of a file that is parsed as text: no run that can be used has more.
MOST_TEXT = 2**29


def read_plain(path: Path, most: int | None = None) -> bytes:
    """Read a regular file; a pipe would never end, and a device might fill the memory.

    Args:
        path: the file, or a link to one.
        most: bytes it may have; None for any number.

    Raises:
        OSError: it is no regular file, is longer, or cannot be read; says which.
    """
    # A pipe that nobody writes into would be waited for as it is opened.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(0, "it is no regular file", str(path))
        if most is not None and about.st_size > most:
            raise OSError(0, f"it has {about.st_size:,} bytes, more than {most:,}", str(path))
        with open(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


def why(error: OSError) -> str:
    """Say in words why a file was not read."""
    return error.strerror or str(error)
