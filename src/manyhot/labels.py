"""What the training targets tell before training: counts, priors, groups, how many labels a row has.

Targets are (rows, labels): a torch tensor, dense or sparse CSR, a NumPy array or a scipy.sparse matrix of 0/1 or soft
values. In dense targets -1, -100 and NaN mean unknown; any other value outside of [0, 1] is an error that names its
row. A label that a sparse row lists twice counts once, as in the losses.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyhot.targets import UNKNOWN, IndexTargets, array_of, check_listed, targets_of

# Training counts that bound the groups of Huang et al. (EMNLP 2021, arXiv 2109.04712): tail <= 8, medium, head >= 35.
GROUPS = {"rare": (1, 8), "medium": (9, 34), "head": (35, None)}


class CardinalityRange(NamedTuple):
    """How many labels a row has at least and at most."""

    min_labels: int
    max_labels: int


def label_counts(targets: Any) -> np.ndarray:
    """Count the positives of each label; soft targets add up. Returns (labels,) float64.

    Example:
        >>> import torch, manyhot
        >>> manyhot.label_counts(torch.tensor([[1, 0, -1], [1, 1, 0]]))
        array([2., 1., 0.])
    """
    return _known_sums(targets, axis=0)[0]


def label_prior(targets: Any, *, sample_weight: Any = None) -> Any:
    r"""Estimate the frequency of each label, smoothed so that labels never or always seen stay finite.

    .. math::
        \pi_i = \frac{c_i + 1/2}{r_i + 1}

    with c the count of positives and r the number of rows in which the label is known. The `prior` of
    :func:`manyhot.zlpr_loss`.

    Args:
        targets: (rows, labels).
        sample_weight: (rows,), >= 0; a row of weight 2 counts as two.

    Returns:
        (labels,), inside (0, 1): a float32 tensor on the same device for a tensor, else a float64 array.

    Example:
        >>> import torch, manyhot
        >>> manyhot.label_prior(torch.tensor([[1, 0, 0], [1, 1, 0]]))
        tensor([0.8333, 0.5000, 0.1667])
    """
    counts, known = _known_sums(targets, axis=0, weight=_row_weight(targets, sample_weight))
    prior = (counts + 0.5) / (known + 1)
    if isinstance(targets, Tensor):
        return torch.as_tensor(prior, dtype=torch.float32, device=targets.device)
    return prior


def label_propensity(counts: Any, rows: int, *, a: float = 0.55, b: float = 1.5) -> np.ndarray:
    r"""Estimate how likely a label that is true of a row is written down for it, from how often it is.

    .. math::
        p_l = \frac{1}{1 + C\,(n_l + B)^{-A}}, \qquad C = (\log N - 1)(B + 1)^A

    with :math:`n_l` of N training rows. In very many labels rare ones are often forgotten. For
    :func:`manyhot.top_k_metrics`.

    Args:
        counts: (labels,), training rows of each label: :func:`label_counts`.
        rows: training rows, at least 3.
        a, b: A and B; .55 and 1.5 unless the data are known better (.5 and .4 of Wikipedia, .6 and 2.6 of Amazon).

    Returns:
        (labels,) float64 in (0, 1).

    Raises:
        ValueError: fewer than 3 rows, negative counts.

    Example:
        >>> import manyhot
        >>> manyhot.label_propensity([1, 100, 10_000], rows=100_000).round(3)
        array([0.087, 0.422, 0.901])

    References:
        Jain, Prabhu and Varma, KDD 2016, section 4.
    """
    counts = np.asarray(array_of(counts), dtype=np.float64)
    if rows < 3 or (counts < 0).any():
        raise ValueError(f"label_propensity needs 3 rows or more and counts of 0 or more; got {rows} rows.")
    return 1 / (1 + (np.log(rows) - 1) * (b + 1) ** a * (counts + b) ** -a)


def label_groups(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Group labels by training count: rare 1 to 8, medium 9 to 34, head 35 and more; (labels,) booleans by name.

    Example:
        >>> import numpy as np
        >>> from manyhot.labels import label_groups
        >>> label_groups(np.array([0, 3, 20, 50]))["rare"]
        array([False,  True, False, False])
    """
    counts = np.asarray(counts)
    return {
        name: (counts >= low) & (counts <= (np.inf if high is None else high)) for name, (low, high) in GROUPS.items()
    }


def cardinality_range(targets: Any, share: float = 0.995, *, sample_weight: Any = None) -> CardinalityRange:
    """Read off how many labels a prediction may have: the `min_labels` and `max_labels` of :func:`manyhot.decide`.

    The minimum is the largest count that at least `share` of the rows reach, so that a few faulty rows do not undo it;
    the maximum is the largest count seen, since a tighter one cuts rows that are right. A row of `sample_weight` 2,
    (rows,), counts as two, and one of 0 not at all.

    Example:
        >>> import torch, manyhot
        >>> manyhot.cardinality_range(torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0]]))
        CardinalityRange(min_labels=1, max_labels=2)
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1]; got {share}.")
    sums, known = _known_sums(targets, axis=1)
    weight = _row_weight(targets, sample_weight)
    weight = np.ones(len(sums)) if weight is None else weight
    counted = (known > 0) & (weight > 0)
    sizes, weight = np.rint(sums[counted]).astype(np.int64), weight[counted]
    if sizes.size == 0:
        raise ValueError("cardinality_range needs at least one row with a known target; got none.")
    order = np.argsort(sizes, kind="stable")
    sizes, up_to = sizes[order], weight[order].cumsum()
    # The row at this place and all behind it, a share of at least `share`, have sizes[place] labels or more.
    place = int(np.searchsorted(up_to, (1 - share + 1e-9) * up_to[-1], side="right"))
    return CardinalityRange(int(sizes[min(place, sizes.size - 1)]), int(sizes[-1]))


def _row_weight(targets: Any, sample_weight: Any) -> np.ndarray | None:
    """Return weights of rows, (rows,) float64, checked."""
    if sample_weight is None:
        return None
    weight = np.asarray(array_of(sample_weight), dtype=np.float64)
    if weight.shape != (targets.shape[0],) or not ((weight >= 0) & (weight < np.inf)).all():
        raise ValueError(f"sample_weight must be ({targets.shape[0]},) numbers of 0 or more; got shape {weight.shape}.")
    return weight


def written_out(targets: Any, num_labels: int) -> np.ndarray:
    """Write targets of any format out as an array; sparse and listed ones are checked, and have no unknown cells."""
    if is_sparse(targets):
        targets = targets_of(targets, None)
    if isinstance(targets, IndexTargets):
        targets = targets.dense(num_labels)
    values = array_of(targets)
    return values.astype(np.float64) if values.dtype.kind not in "biuf" else values


def is_sparse(targets: Any) -> bool:
    """Say whether targets are a scipy.sparse matrix or a sparse tensor."""
    return hasattr(targets, "tocsr") or (isinstance(targets, Tensor) and targets.layout != torch.strided)


def sparse_cells(targets: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the cells of sparse targets, each once, in order: rows, labels and targets.

    Raises:
        ValueError: a target outside [0, 1]; names its row.
    """
    listed = targets_of(targets, None)
    assert isinstance(listed, IndexTargets)
    assert listed.offsets is not None
    check_listed(listed, targets.shape[1])
    row = torch.repeat_interleave(listed.offsets.diff(), output_size=len(listed.labels))
    cell = (row * targets.shape[1] + listed.labels).cpu().numpy()
    share = np.ones(len(cell)) if listed.soft is None else array_of(listed.soft).astype(np.float64)
    if not (np.diff(cell) > 0).all():
        order = np.lexsort((share, cell))
        cell, share = cell[order], share[order]
        last = np.append(cell[1:] != cell[:-1], True)  # of a cell that is there twice the larger counts
        cell, share = cell[last], share[last]
    return *np.divmod(cell, targets.shape[1]), share


def known_of(values: np.ndarray) -> np.ndarray:
    """Say which of some targets are known: none that is -1, -100 or NaN."""
    if values.dtype.kind in "bu":
        return np.ones(values.shape, dtype=bool)
    return ~(np.isnan(values) | (values == UNKNOWN[0]) | (values == UNKNOWN[1]))


def _known_sums(targets: Any, axis: int, weight: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sum the known targets along an axis, and count the known cells; along rows, each as often as its weight says."""
    if is_sparse(targets):
        row, label, share = sparse_cells(targets)
        shape = tuple(targets.shape)
        share = share if weight is None else share * weight[row]
        sums = np.bincount((row, label)[1 - axis], share, minlength=shape[1 - axis])
        return sums, np.full(len(sums), shape[axis] if weight is None else weight.sum())
    values = dense_cells(targets)
    known = known_of(values)
    values = np.where(known, values, 0)
    if weight is not None:
        return weight @ values, weight @ known
    return values.sum(axis, dtype=np.float64), known.sum(axis)


def dense_cells(targets: Any) -> np.ndarray:
    """Return dense targets as an array.

    Raises:
        TypeError: listed targets.
        ValueError: another number of axes, a known target outside [0, 1]; names its row.
    """
    if isinstance(targets, IndexTargets):
        raise TypeError(
            "IndexTargets do not say how many labels there are; pass the targets as a scipy.sparse matrix or "
            "torch.sparse_csr tensor, or targets.dense(num_labels)."
        )
    values = array_of(targets)
    values = values if values.dtype == bool else values.astype(np.float64)
    if values.ndim != 2:
        raise ValueError(f"targets must have shape (rows, labels); got {values.shape}.")
    wrong = known_of(values) & ~((values >= 0) & (values <= 1))
    if wrong.any():
        row, label = np.argwhere(wrong)[0]
        raise ValueError(
            "targets must lie in [0, 1], or be -1, -100 or NaN where unknown; "
            f"got {values[row, label]:g} in row {row}, label {label}."
        )
    return values
