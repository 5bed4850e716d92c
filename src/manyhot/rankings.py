"""Rankings of which the first k are known: numbers that need no rows x labels scores.

precision@k = hits among the first k, over k
nDCG@k      = sum of hits / log2(place + 1), over that of the best order
PSP@k       = sum over rows of hits / propensity, over that of the best order
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from manyhot.labels import dense_cells, is_sparse, sparse_cells
from manyhot.targets import IndexTargets, array_of


def top_k_metrics(
    labels: Any, targets: Any, *, ks: Sequence[int] = (1, 3, 5), propensity: Any = None
) -> dict[str, float | int]:
    r"""Measure the first labels of each row, as rankings of very many labels are measured.

    .. math::
        \text{PSP@}k = \frac{\sum_r\sum_{i\le k} t_{r,l_i}/p_{l_i}}{\sum_r \max_{|S|=k}\sum_{l\in S} t_{r,l}/p_l}

    with :math:`l_1, l_2, \dots` the labels of row r, best first, and propensities p: a hit of a rare label counts more.
    Where scores of all labels fit, :func:`manyhot.multilabel_metrics` has precision and nDCG and much else.

    Args:
        labels: (rows, at least the largest k), distinct label ids, best first: what ``LinearZLPRLoss.top_k`` returns.
        targets: the positives of these rows: :class:`manyhot.IndexTargets`, torch.sparse_csr, scipy.sparse, or dense
            0/1.
        ks: how many labels are looked at.
        propensity: (labels,), in (0, 1]: :func:`manyhot.label_propensity`. None leaves PSP out.

    Returns:
        `precision_at_K`, `ndcg_at_K` and, with propensities, `psp_at_K` for each K, fractions from 0 to 1; and `rows`.
        A row without positives has no hits, and counts in precision and nDCG.

    Raises:
        ValueError: another number of rows, ks that are not whole numbers of 1 or more, fewer labels than the largest, a
            label below 0, or twice in a row, propensities out of range.

    Example:
        >>> import numpy as np, manyhot
        >>> metrics = manyhot.top_k_metrics([[2, 0], [1, 3]], manyhot.IndexTargets([[0], [1, 3]]), ks=(1, 2))
        >>> metrics["precision_at_1"], metrics["precision_at_2"]
        (0.5, 0.75)

    References:
        Jain, Prabhu and Varma, KDD 2016, section 4; the Extreme Classification Repository.
    """
    ids, most = array_of(labels), max(ks, default=0)
    if min(ks, default=0) < 1:
        raise ValueError(f"ks must be whole numbers of 1 or more; got {tuple(ks)}.")
    rows, positives, number = _positives(targets)
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or ids.shape[1] < most:
        raise ValueError(f"labels must be ids of shape (rows, at least {most}); got {ids.dtype} of {ids.shape}.")
    if len(ids) != number or not number:
        raise ValueError(f"labels and targets must have as many rows, at least one; got {len(ids)} and {number}.")
    ids = ids[:, :most]
    if (below := ids < 0).any():
        raise ValueError(f"labels must be ids, which count from 0; got {int(ids[below][0])}.")
    if most > 1 and (np.diff(np.sort(ids, 1), axis=1) == 0).any():
        raise ValueError("labels of a row must be distinct; a label stands twice in one.")
    size = int(max(ids.max(initial=0), positives.max(initial=0))) + 1
    keys = np.unique(rows * size + positives)
    found = np.arange(number)[:, None] * size + ids
    place = np.searchsorted(keys, found)
    hits = np.append(keys, -1)[place] == found
    truths = np.bincount(keys // size, minlength=number)
    out: dict[str, float | int] = {}
    gain = 1 / np.log2(np.arange(2, most + 2))
    best = np.concatenate(([0.0], gain.cumsum()))
    for k in ks:
        out[f"precision_at_{k}"] = float(hits[:, :k].sum(1).mean() / k)
        ideal = best[np.minimum(truths, k)]
        of_rows = (hits[:, :k] * gain[:k]).sum(1) / np.where(ideal == 0, 1, ideal)
        out[f"ndcg_at_{k}"] = float(of_rows.mean())
    if propensity is not None:
        worth = 1 / _checked(propensity, size)
        row, of_true = keys // size, worth[keys % size]
        order = np.lexsort((-of_true, row))
        starts = np.concatenate(([0], truths.cumsum()))[:-1]
        rank = np.arange(len(keys)) - np.repeat(starts, truths)
        for k in ks:
            reached = float((hits[:, :k] * worth[ids[:, :k]]).sum())
            ideal = float(of_true[order][rank < k].sum())
            out[f"psp_at_{k}"] = reached / ideal if ideal else 0.0
    return out | {"rows": number}


def _positives(targets: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the row and the id of each positive, and the number of rows."""
    if not isinstance(targets, IndexTargets):
        if is_sparse(targets):
            row, label, share = sparse_cells(targets)
            return row[share > 0], label[share > 0], targets.shape[0]
        cells = dense_cells(targets)
        row, label = np.nonzero(cells > 0)
        return row, label, len(cells)
    ids, number = targets.labels, len(targets)
    if targets.offsets is not None:
        row = np.repeat(np.arange(number), np.diff(array_of(targets.offsets)))
    else:
        row = np.repeat(np.arange(number), ids.shape[-1])
    flat = array_of(ids).reshape(-1)
    return row[flat >= 0], flat[flat >= 0], number


def _checked(propensity: Any, size: int) -> np.ndarray:
    values = np.asarray(array_of(propensity), dtype=np.float64)
    if values.ndim != 1 or len(values) < size or not ((values > 0) & (values <= 1)).all():
        raise ValueError(
            f"propensity must have a number in (0, 1] for each label, at least {size}; got shape {values.shape}. "
            "manyhot.label_propensity(counts, rows) counts it."
        )
    return values
