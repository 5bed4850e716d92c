"""What the training rows are, before anything is said of a model: labels a row, rows a label, lengths of texts."""

from typing import Any

import numpy as np

from manyhot.toolkit.models.term_blocks import writes_without_spaces
from manyhot.toolkit.read.examples import Examples

BINS = 24


def overview_of(train: Examples) -> dict[str, Any]:
    """Count labels a row, (at most) so many bins of text lengths, and say what else rows hold; JSON-able."""
    numbers = 0 if train.numbers is None else int(train.numbers.shape[1])
    categories = 0 if train.categories is None else train.categories.width
    sizes = np.diff(train.targets.indptr)
    return {
        "sizes": np.bincount(sizes).tolist(),
        "numbers": numbers,
        "categories": categories,
        "lengths": None if train.texts is None else lengths_of(train.texts),
    }


def lengths_of(texts: list[str]) -> dict[str, Any]:
    """Count the words of texts, or their characters where words are written together."""
    together = writes_without_spaces(texts)
    return binned(
        [len(text) if together else len(text.split()) for text in texts], "characters" if together else "words"
    )


def binned(of_rows: list[int], unit: str) -> dict[str, Any]:
    """Count lengths in bins of equal width up to what 99 of 100 rows have; the last bin takes the rest."""
    lengths = np.array(of_rows, dtype=np.int64)
    most = max(int(np.quantile(lengths, 0.99)), 1)
    edges = np.unique(np.linspace(0, most + 1, BINS + 1).astype(np.int64))
    counts, _ = np.histogram(np.minimum(lengths, most), edges)
    return {
        "unit": unit,
        "median": int(np.median(lengths)),
        "longest": int(lengths.max()),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }
