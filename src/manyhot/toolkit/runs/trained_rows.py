"""Which rows a run was trained on, by hashes of what they say: enough to notice them, and no row can be read off them.

A hash of a short text can be guessed by whoever tries likely texts.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import scipy.sparse as sp

from manyhot.toolkit.read.examples import Examples

BYTES = 8  # a million rows beside a million others share one by chance with a probability of 5e-8


def row_hashes(examples: Examples) -> np.ndarray:
    """Return a hash of the texts, numbers and categories of each row, (rows,) uint64; labels do not count."""

    def contents() -> Iterable[bytes]:
        numbers = sp.csr_array(examples.numbers) if sp.issparse(examples.numbers) else examples.numbers
        categories = [] if examples.categories is None else [column.to_list() for column in examples.categories]
        for row in range(examples.rows):
            parts = [] if examples.texts is None else [examples.texts[row].encode("utf-8", "surrogatepass")]
            if numbers is not None:
                # A number that is 0 is not there, and numbers come in any order: a row is the same in every format.
                if isinstance(numbers, np.ndarray):
                    places, values = np.flatnonzero(numbers[row]), numbers[row][np.flatnonzero(numbers[row])]
                else:
                    inside = slice(numbers.indptr[row], numbers.indptr[row + 1])
                    places, values = numbers.indices[inside], numbers.data[inside]
                cells = sorted(zip(places.tolist(), values.astype(np.float32).tolist(), strict=True))
                parts.append(repr([cell for cell in cells if cell[1]]).encode())
            parts += [repr(column[row]).encode("utf-8", "surrogatepass") for column in categories]
            yield b"\0".join(parts)

    return hashes(contents())


def hashes(contents: Iterable[bytes]) -> np.ndarray:
    """Return the first bytes of the SHA-256 of each content, as uint64."""
    digests = b"".join(hashlib.sha256(content).digest()[:BYTES] for content in contents)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def said_of_known(rows: np.ndarray, trained: np.ndarray) -> str | None:
    """Say how many rows that are measured were trained on; None where none was."""
    known = int(np.isin(rows, trained).sum())
    if not known:
        return None
    return (
        f"{known:,} of {len(rows):,} rows stand in the training data: a model knows these, and numbers measured on "
        "them say little of new rows"
    )
