"""Split rows so that every label is in every part, as far as its count allows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from manyhot.labels import dense_cells, is_sparse, sparse_cells


def stratified_split(targets: Any, shares: Sequence[float], *, groups: Any = None, seed: int = 0) -> np.ndarray:
    """Assign each row to a part so that the parts have the given shares of the rows and of every label.

    The rarest label chooses first: its rows are dealt out by what each part still lacks of it, then those of the next
    label that are still free, and so on; rows without labels fill up the parts at the end. A last pass moves single
    rows into parts that miss a label.

    With `groups`, the rows of a group stay together: groups are dealt one by one, large ones and those with rare labels
    first, each to the part where the shares of its labels come out best.

    Use it for validation rows and folds of multi-label data; a random split leaves rare labels out of one side. Give
    groups where rows are related, such as sentences of one document or images of one person: a model that has seen one
    of them would be measured too well on the others.

    Args:
        targets: (rows, labels) of 0/1, a tensor, an array, torch.sparse_csr or a scipy.sparse matrix; soft targets
            count where above 0, unknown ones (-1, -100, NaN) do not.
        shares: size of each part, positive, in any unit: `(0.8, 0.2)`, or `(1, 1, 1)` for three folds.
        groups: (rows,) of numbers or text, the same for rows that belong together; None where each row is by itself.
        seed: same targets, shares and seed, same split.

    Returns:
        (rows,) int64, the part of each row. A label with at least as many rows as there are parts is in each part,
        unless labels that share rows with it forbid it; a label with fewer rows goes to the larger parts first. Part
        sizes may be off by some rows, the price of the labels' shares; with groups by as much as the size of a group.

    Raises:
        ValueError: fewer than two parts, a share that is not positive, another number of groups than rows, or targets
            outside [0, 1].

    Example:
        >>> import numpy as np, manyhot
        >>> targets = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
        >>> parts = manyhot.stratified_split(targets, (1, 1))
        >>> [int(targets[parts == part].sum(0).min()) for part in (0, 1)]
        [1, 1]

    References:
        Sechidis et al., On the stratification of multi-label data, ECML PKDD 2011; dealing whole labels at a time
        instead of single rows is ours, for speed.
    """
    share = np.asarray(shares, dtype=np.float64)
    if share.ndim != 1 or share.size < 2 or not (np.isfinite(share) & (share > 0)).all():
        raise ValueError(f"shares must be two or more positive numbers, such as (0.8, 0.2); got {shares!r}.")
    share = share / share.sum()
    num_rows, num_labels, row, label = _positives(targets)
    rng = np.random.default_rng(seed)
    if groups is not None:
        _, group = np.unique(np.asarray(groups), return_inverse=True)
        if group.shape != (num_rows,):
            raise ValueError(f"groups must have one entry a row, {num_rows} in all; got shape {np.shape(groups)}.")
        return _deal_groups(group, row, label, num_labels, share, rng)[group]
    count = np.bincount(label, minlength=num_labels)
    labels_of = np.split(label, np.searchsorted(row, np.arange(1, num_rows)))
    rows_of = np.split(row[np.argsort(label, kind="stable")], np.cumsum(count)[:-1])

    part = np.full(num_rows, -1, dtype=np.int64)
    room = share * num_rows
    have = np.zeros((share.size, num_labels), dtype=np.int64)
    for i in np.argsort(count, kind="stable"):
        free = rng.permutation(rows_of[i][part[rows_of[i]] < 0])
        if free.size == 0:
            continue
        dealt = _deal(free.size, share * count[i] - have[:, i], missing=have[:, i] == 0, room=room)
        part[free] = np.repeat(np.arange(share.size), dealt)
        room -= dealt
        for p in np.unique(part[free]):
            labels = np.concatenate([labels_of[r] for r in free[part[free] == p]])
            have[p] += np.bincount(labels, minlength=num_labels)
    free = rng.permutation(np.flatnonzero(part < 0))
    part[free] = np.repeat(np.arange(share.size), _deal(free.size, room, missing=room < 0, room=room))
    _fill_gaps(part, have, labels_of, rows_of)
    return part


def _deal_groups(
    group: np.ndarray, row: np.ndarray, label: np.ndarray, num_labels: int, share: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the part of each group; `row` and `label` list the positive cells.

    What is made small is the sum over parts and labels of (has - wanted)^2 / wanted, the rows being one label more.
    Groups that can do most harm to it come first; each goes where it does least.
    """
    # A row counts as a label that every row has, so that the parts get their sizes.
    label = np.concatenate([label, np.full(len(group), num_labels)])
    owner = np.concatenate([group[row], group])
    if not len(group):
        return np.zeros(0, dtype=np.int64)
    cells, times = np.unique(owner * (num_labels + 1) + label, return_counts=True)
    owner, kind = np.divmod(cells, num_labels + 1)
    first = np.searchsorted(owner, np.arange(owner[-1] + 2))
    wanted = share[:, None] * np.bincount(label, minlength=num_labels + 1)
    have = np.zeros_like(wanted)
    harm = np.bincount(owner, times**2 / wanted.sum(0)[kind])
    part = np.zeros(len(first) - 1, dtype=np.int64)
    shuffled = rng.permutation(len(part))
    for g in shuffled[np.argsort(-harm[shuffled], kind="stable")]:
        mine = slice(first[g], first[g + 1])
        labels, added = kind[mine], times[mine]
        aim = wanted[:, labels]
        p = int((added * (2 * (have[:, labels] - aim) + added) / aim).sum(1).argmin())
        part[g] = p
        have[p, labels] += added
    return part


def _deal(size: int, want: np.ndarray, *, missing: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Deal `size` rows to parts: what each wants, whole rows, first to parts that miss the label, then by room."""
    want = np.maximum(want, 0)
    if size == 0 or want.sum() == 0:
        want = np.maximum(room, 0) + 1e-9
    want = want * (size / want.sum())
    dealt = np.floor(want + 1e-9).astype(np.int64)
    over = want - dealt
    # A part that has nothing of the label yet comes first, a part that is full last, then the larger remainder.
    for p in np.lexsort((-room, -over, room <= 0, ~(missing & (dealt == 0))))[: size - dealt.sum()]:
        dealt[p] += 1
    return dealt


def _fill_gaps(part: np.ndarray, have: np.ndarray, labels_of: list[np.ndarray], rows_of: list[np.ndarray]) -> None:
    """Move single rows, in place, into parts that miss a label, where no other label loses its last row of a part."""
    due = have.sum(0) >= have.shape[0]
    for i in np.flatnonzero(due & (have == 0).any(0)):
        for p in np.flatnonzero(have[:, i] == 0):
            for r in rows_of[i]:
                labels = labels_of[r]
                if (have[part[r], labels[due[labels]]] > 1).all():
                    have[part[r], labels] -= 1
                    have[p, labels] += 1
                    part[r] = p
                    break


def _positives(targets: Any) -> tuple[int, int, np.ndarray, np.ndarray]:
    """List the positive cells in row order: (rows, labels, row of each cell, label of each cell)."""
    if is_sparse(targets):
        row, label, share = sparse_cells(targets)
        row, label = row[share > 0], label[share > 0]
    else:
        targets = dense_cells(targets)
        row, label = np.nonzero(targets > 0)  # NaN, -1 and -100 are unknown, and no positives
    return *targets.shape, row.astype(np.int64), label.astype(np.int64)
