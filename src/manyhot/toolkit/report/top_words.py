"""The words, or columns, that speak most for each label of a linear model, on the rows that have it."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from manyhot.toolkit.models.features import DesignMatrix
from manyhot.toolkit.models.label_blocks import SparseLinear
from manyhot.toolkit.models.linear import Linear
from manyhot.toolkit.runs.predict import Run

# Words named for each label.
NAMED = 6


def top_words(run: Run, X: DesignMatrix, targets: sp.csr_array) -> list[list[str]]:
    r"""Name for each label what adds most to its score, in the mean over the training rows that have it.

    .. math::
        \frac{w_{ji}}{n_i} \sum_{\text{rows with } i} x_j

    So a word counts that is frequent among these rows and speaks for the label, and not the one that is rarest.

    Args:
        run: the run.
        X: its matrix of the training rows.
        targets: of these rows, (rows, labels).

    Returns:
        Names for each label, the one that adds most first; none for a model that is not linear.
    """
    names = column_names(run)
    if not isinstance(run.model, Linear | SparseLinear) or not any(names):
        return [[] for _ in run.label_names]
    weight: Any = sp.csc_array(run.model.weight) if isinstance(run.model, SparseLinear) else run.model.weight.numpy()
    named = np.array([name is not None for name in names])
    found: list[list[str]] = []
    sums: Any = sp.csr_array(targets.astype(np.float32).T) @ (X if isinstance(X, np.ndarray) else sp.csr_array(X))
    sums = sp.csr_array(sums)
    for label in range(len(run.label_names)):
        cells = slice(sums.indptr[label], sums.indptr[label + 1])
        columns, values = sums.indices[cells], sums.data[cells]
        of_label = weight[:, [label]].toarray()[:, 0] if sp.issparse(weight) else weight[:, label]
        adds = np.where(named[columns], values * of_label[columns], 0)
        said: list[str] = []
        for i in np.argsort(-adds, kind="stable")[: 2 * NAMED].tolist():
            name = _with_direction(names[columns[i]] or "", float(values[i]))
            # A pair of words that stand there says nothing new.
            if adds[i] > 0 and len(said) < NAMED and not set(name.split(" ")) <= set(said):
                said.append(name)
        found.append(said)
    return found


def _with_direction(name: str, value: float) -> str:
    """Write a word or category as it is, a number with whether it is high or low in these rows."""
    return f"{name[1:]} {'high' if value > 0 else 'low'}" if name.startswith(NUMBER) else name


# Begins the name of a number, which a word never does.
NUMBER = "\0"


def column_names(run: Run) -> list[str | None]:
    """Name the columns of the matrix; None where a column means nothing by itself."""
    features, columns = run.features, run.columns
    names: list[str | None] = []
    for block in features.blocks:
        alone = block.parameters["analyzer"] == "char_wb"
        names += [None] * len(block.terms) if alone else block.terms
    if features.reader is not None:
        return names + [None] * (features.size - len(names))
    if features.std is not None:
        known = len(columns.features) == features.std.size
        names += [NUMBER + name for name in columns.features] if known else [None] * features.std.size
        names += [f"{columns.features[i]} missing" if known else None for i in features.missing]
    for name, category in zip(columns.categories, features.categories, strict=True):
        names += [f"{name}: {'missing' if value is None else value}" for value in category.values]
        names.append(None)
    return names + [None] * (features.size - len(names))
