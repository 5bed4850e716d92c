"""The numbers of texts by content: what one encoder made of a text is not made again, by whatever run or file.

A folder an encoder, named after the checksum of all that its numbers depend on, and in it files of NumPy named after
their own checksums: the hash of each text and its numbers. A file that is damaged is left out, and its numbers are made
again. The texts themselves are not kept, but numbers tell of them: whoever may not keep them sets MANYHOT_CACHE to
nothing.
"""

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from manyhot.toolkit.disk.run_folder import sha256, write_file
from manyhot.toolkit.plain_files import read_plain

VARIABLE = "MANYHOT_CACHE"
# Texts whose numbers are made and written at once: half a minute of a small encoder, lost by a kill at the most.
PART = 4096
HASH = 16  # bytes: two of a billion texts share one with a probability of 1e-21

Progress = Callable[[float], None]


def cache_folder() -> Path | None:
    """Return where numbers are kept: MANYHOT_CACHE, else the user's cache; None where the variable is empty."""
    if (named := os.environ.get(VARIABLE)) is not None:
        return Path(named) if named else None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manyhot"


class TextNumbers:
    """What is known of texts, in memory and, given a folder, on disk.

    Attributes:
        made: how many texts had their numbers made here, and not found.
        asked: how many texts were asked for.
    """

    def __init__(self, digest: str, width: int, root: Path | None) -> None:
        self.folder = None if root is None else root / "numbers" / digest
        self.row = np.dtype([("text", f"V{HASH}"), ("numbers", "<f4", (width,))])
        self.made = self.asked = 0
        self.refused = ""
        self._tables: list[np.ndarray] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        for path in sorted(self.folder.glob("*.npy")) if self.folder else ():
            if (table := self._read(path)) is not None:
                self._add(table)

    def of(
        self,
        texts: list[str],
        make: Callable[[list[str], Progress], np.ndarray],
        progress: Progress = lambda share: None,
    ) -> np.ndarray:
        """Return (texts, width) float32.

        Args:
            texts: the same one may come again.
            make: texts, in parts, to their numbers.
            progress: hears of the share that is done of what has to be made.
        """
        hashes = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:HASH] for text in texts]
        unknown = {key: text for key, text in zip(hashes, texts, strict=True) if key not in self._places}
        keys = list(unknown)
        self.asked += len(texts)
        # Parts do not depend on what a kill left: they are those that are missing, cut in the same places.
        for first in range(0, len(keys), PART):
            part = keys[first : first + PART]
            table = np.empty(len(part), dtype=self.row)
            table["text"] = np.array(part, dtype=f"V{HASH}")
            table["numbers"] = make(
                [unknown[key] for key in part],
                lambda share, first=first, part=part: progress((first + share * len(part)) / len(keys)),
            )
            self._write(table)
            self._add(table)
            self.made += len(part)
        out = np.empty((len(texts), self.row["numbers"].shape[0]), dtype=np.float32)
        for i, key in enumerate(hashes):
            number, row = self._places[key]
            out[i] = self._tables[number][row]["numbers"]
        return out

    def describe(self) -> str:
        """Say how many were made, where they are kept, how large that is and how to clear it."""
        said = f"{self.made:,} made, {self.asked - self.made:,} known"
        if self.folder is None:
            return f"{said}; none are kept" + (f" ({self.refused})" if self.refused else "")
        root = self.folder.parent
        size = sum(path.stat().st_size for path in root.rglob("*.npy"))
        return f"{said}; all that are kept lie in {root}, {size / 1e6:,.1f} MB: remove the folder to clear them"

    def _add(self, table: np.ndarray) -> None:
        self._tables.append(table)
        for row, key in enumerate(table["text"].tolist()):
            self._places.setdefault(bytes(key), (len(self._tables) - 1, row))

    def _read(self, path: Path) -> np.ndarray | None:
        try:
            content = read_plain(path)
            if sha256(content) != path.stem:
                return None
            table = np.load(io.BytesIO(content), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return table if table.dtype == self.row and table.ndim == 1 else None

    def _write(self, table: np.ndarray) -> None:
        if self.folder is None:
            return
        buffer = io.BytesIO()
        np.save(buffer, table, allow_pickle=False)
        content = buffer.getvalue()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_file(self.folder / f"{sha256(content)}.npy", content)
        except OSError as error:  # a full or a read-only disk is no reason to stop
            self.refused = f"{self.folder}: {error.strerror or error}"
            self.folder = None
