"""The formats a target can have: dense 0/1 or soft values of any dtype with unknown cells, and lists of positives."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyhot.tracing import values_readable

# Both are in use for "not annotated": -1 in medical and missing-label data, -100 from torch's ignore_index.
UNKNOWN = (-1, -100)


class IndexTargets:
    """Targets as the list of positive labels of each row: what millions of labels need, and what files hold.

    Equal to dense targets with 1 at the listed labels and 0 elsewhere, in loss and gradient; nothing of size
    rows x labels is made. A label listed twice counts once.

    Three forms, of which the first and the last are kept as they come:

    - a padded tensor of label ids, (..., width), where -1 is padding, anywhere in the row;
    - a list of lists of label ids, one list a row, of any length;
    - the ids of all rows one after the other, (ids,), with `offsets`, (rows + 1,): row r has the ids from offsets[r]
      up to offsets[r + 1], as in the `indices` and `indptr` of a CSR matrix.

    -1 is padding here, while in dense targets it marks an unknown label: unknown labels of listed targets go into
    `mask`. The losses also take torch's sparse CSR tensors and scipy.sparse matrices as they are.

    Rows are taken as of a tensor, ``targets[3]``, ``targets[:100]``, ``targets[order]``, so that targets can be a part
    of a Dataset; :func:`manyhot.collate` makes a batch of what it gives.

    Args:
        labels: int32 or int64 ids in one of the three forms.
        offsets: int32 or int64, for the third form alone.
        soft: targets in [0, 1] of the listed labels, shape of `labels`, where they are not 1. Of a label listed twice
            the larger counts.

    Raises:
        TypeError: ids that are not integers.
        ValueError: offsets that do not cut `labels` into rows, `soft` of another shape. Ids that are no label are
            found by the loss, which names row and id.

    Example:
        >>> import torch, manyhot
        >>> logits = torch.tensor([[2.0, -1.0, 3.0], [0.5, -0.5, -2.0]])
        >>> manyhot.zlpr_loss(logits, torch.tensor([[1, 0, 1], [0, 1, 0]]))
        tensor(1.2405)
        >>> manyhot.zlpr_loss(logits, manyhot.IndexTargets([[0, 2], [1]]))
        tensor(1.2405)
        >>> manyhot.zlpr_loss(logits, manyhot.IndexTargets(torch.tensor([[2, 0], [-1, 1]])))
        tensor(1.2405)
        >>> manyhot.zlpr_loss(logits, manyhot.IndexTargets(torch.tensor([0, 2, 1]), torch.tensor([0, 2, 3])))
        tensor(1.2405)
    """

    __slots__ = ("labels", "offsets", "soft")

    def __init__(
        self, labels: Tensor | Sequence[Sequence[int]], offsets: Tensor | None = None, *, soft: Tensor | None = None
    ) -> None:
        if not isinstance(labels, Tensor):
            if offsets is not None or soft is not None:
                raise TypeError("offsets and soft go with a tensor of labels; a list of lists has its rows already.")
            labels, offsets = _joined(labels)
        self.labels = _ids("labels", labels)
        self.offsets = None if offsets is None else _ids("offsets", offsets)
        if self.offsets is None:
            if labels.ndim == 0:
                raise ValueError("labels must be padded ids of shape (..., width); got a single number.")
        elif labels.ndim != 1 or self.offsets.ndim != 1 or len(self.offsets) == 0:
            raise ValueError(
                "with offsets, labels must have shape (ids,) and offsets (rows + 1,); "
                f"got {tuple(labels.shape)} and {tuple(self.offsets.shape)}."
            )
        else:
            self._check_offsets()
        if soft is not None and (not soft.is_floating_point() or soft.shape != labels.shape):
            raise ValueError(
                f"soft must be floating-point and have the shape of labels, {tuple(labels.shape)}; "
                f"got {soft.dtype} of shape {tuple(soft.shape)}."
            )
        self.soft = soft

    def _check_offsets(self) -> None:
        """Check that offsets cut the ids into rows, where they can be read; and that both are on one device."""
        ends = self.offsets
        if ends is None:
            return
        if ends.device != self.labels.device:
            raise ValueError(f"labels and offsets must be on one device; got {self.labels.device} and {ends.device}.")
        if not values_readable(ends):
            return
        if ends[0] != 0 or ends[-1] != len(self.labels) or bool((ends.diff() < 0).any()):
            raise ValueError(
                f"offsets must rise from 0 to the number of ids, {len(self.labels)}; "
                f"got {ends[0].item()} to {ends[-1].item()}{', with a step down' * bool((ends.diff() < 0).any())}. "
                "torch.nn.EmbeddingBag leaves out the last one: append it."
            )

    @property
    def shape(self) -> torch.Size:
        """The leading shape, that of the logits without the label axis."""
        return self.labels.shape[:-1] if self.offsets is None else torch.Size([len(self.offsets) - 1])

    @property
    def device(self) -> torch.device:
        """Where the ids are."""
        return self.labels.device

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "IndexTargets":
        """Move to a device; without waiting for it where memory is pinned and `non_blocking` says so."""
        return self._with(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "IndexTargets":
        """Copy to pinned memory, as ``DataLoader(pin_memory=True)`` asks of what it loads."""
        return self._with(lambda x: x.pin_memory())

    def _with(self, moved: Callable[[Tensor], Tensor]) -> "IndexTargets":
        """Apply a copy to each tensor; what was checked stays so, and what could not be read before is checked now."""
        new = object.__new__(IndexTargets)
        for name in IndexTargets.__slots__:
            value = getattr(self, name)
            setattr(new, name, None if value is None else moved(value))
        if self.offsets is not None and not values_readable(self.offsets):
            new._check_offsets()
        return new

    def __getitem__(self, rows: Any) -> "IndexTargets":
        """Take rows: a number for one, without its axis, a slice, a list or tensor of numbers, or booleans.

        Raises:
            IndexError: a row that is not there, or more axes than rows have.
        """
        if not self.shape:
            raise IndexError("one row has no rows to take; its label ids are in `labels`.")
        if self.offsets is None:
            index = rows if isinstance(rows, tuple) else (rows,)
            axes = sum(x.ndim if _is_mask(x) else 1 for x in index)
            if axes > len(self.shape) or any(x is None or x is Ellipsis for x in index):
                raise IndexError(f"rows have the axes {tuple(self.shape)}; got {rows!r}.")
            return IndexTargets(self.labels[rows], soft=None if self.soft is None else self.soft[rows])
        chosen = torch.arange(len(self), device=self.device)[rows]
        if chosen.ndim > 1:
            raise IndexError(f"rows have one axis; got {rows!r}.")
        start, count = self.offsets[chosen], self.offsets.diff()[chosen]
        if chosen.ndim == 0:
            ids = slice(int(start), int(start + count))
            return IndexTargets(self.labels[ids], soft=None if self.soft is None else self.soft[ids])
        ends = torch.cat((count.new_zeros(1), count.cumsum(0)))
        # Each id from where its row starts here to where it starts in what is taken.
        ids = torch.arange(int(ends[-1]), device=self.device) + torch.repeat_interleave(start - ends[:-1], count)
        return IndexTargets(self.labels[ids], ends, soft=None if self.soft is None else self.soft[ids])

    def dense(self, num_labels: int) -> Tensor:
        """Write the same targets out, (..., num_labels): boolean, or of the type of `soft`.

        Raises:
            ValueError: an id that is no label, a target outside [0, 1]; names the row.
        """
        if values_readable(self.labels):
            check_listed(self, num_labels)
        return written(self, num_labels)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        parts = [repr(self.labels), *(f"{n}={v!r}" for n in ("offsets", "soft") if (v := getattr(self, n)) is not None)]
        return f"IndexTargets({', '.join(parts)})"


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor | np.ndarray) and index.dtype in (torch.bool, np.bool_)


Targets = Tensor | IndexTargets


def written(targets: IndexTargets, num_labels: int) -> Tensor:
    """Write listed targets out as they are; :meth:`IndexTargets.dense` checks them first."""
    ids, soft, device, rows = targets.labels, targets.soft, targets.device, targets.shape.numel()
    if targets.offsets is None:
        ids = ids.reshape(rows, ids.shape[-1])
        row = torch.arange(rows, device=device).unsqueeze(-1)
    else:
        row = torch.repeat_interleave(targets.offsets.diff(), output_size=len(ids))
    # Padding is written to a column of its own, which is cut off at the end.
    cell = (row * (num_labels + 1) + torch.where(ids < 0, num_labels, ids)).reshape(-1)
    size = rows * (num_labels + 1)
    if soft is None:
        cells = torch.zeros(size, dtype=torch.bool, device=device).scatter_(0, cell, True)
    else:
        cells = torch.zeros(size, dtype=soft.dtype, device=device).scatter_reduce(0, cell, soft.reshape(-1), "amax")
    return cells.view(*targets.shape, num_labels + 1)[..., :-1]


def _joined(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Turn a list of lists into ids and offsets."""
    try:
        counts = [len(row) for row in rows]
        ids = torch.tensor([label for row in rows for label in row] or [], dtype=None if any(counts) else torch.int64)
    except (TypeError, ValueError):
        raise TypeError(
            "labels must be a tensor or a list of lists of label ids, one list a row: [[0, 2], [], [1]]."
        ) from None
    return ids, torch.from_numpy(np.cumsum([0, *counts], dtype=np.int64))


def _ids(name: str, ids: Tensor) -> Tensor:
    if ids.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
        raise TypeError(f"{name} must be integers, int64 or int32; got {ids.dtype}.")
    return ids.long()


def targets_of(targets: Any, logits: Tensor | None) -> Targets:
    """Take the targets of a batch in any format, and return a dense tensor or IndexTargets.

    Without logits no shape is checked.

    Raises:
        TypeError: what is no format of targets.
        ValueError: a sparse matrix that has not the shape of the logits.
    """
    if isinstance(targets, IndexTargets):
        return targets
    if isinstance(targets, Tensor):
        if targets.layout == torch.strided:
            # What neither kernels nor torch's own operations take.
            if targets.dtype in (torch.uint16, torch.uint32, torch.uint64):
                return targets.long()
            return targets.float() if targets.is_floating_point() and targets.itemsize < 2 else targets
        if targets.layout != torch.sparse_csr or targets.ndim != 2:
            raise TypeError(
                f"sparse targets must be a two-dimensional torch.sparse_csr tensor; got {targets.layout} of shape "
                f"{tuple(targets.shape)}. Use targets.to_sparse_csr()."
            )
        arrays = (targets.col_indices(), targets.crow_indices(), targets.values())
    elif hasattr(targets, "tocsr"):
        matrix = targets.tocsr()
        if not matrix.has_canonical_format and (matrix.data != 1).any():
            # Entries that a matrix holds twice are added, as its own toarray does; ones count once.
            matrix = matrix.copy()
            matrix.sum_duplicates()
        arrays = (tensor_of(x) for x in (matrix.indices, matrix.indptr, matrix.data))
    else:
        listed = " Lists of label ids go into manyhot.IndexTargets." if isinstance(targets, list | tuple) else ""
        raise TypeError(
            "targets must be a tensor of 0/1 or of values in [0, 1], shaped like the logits, manyhot.IndexTargets, "
            f"a torch.sparse_csr tensor or a scipy.sparse matrix; got {type(targets).__name__}.{listed}"
        )
    if isinstance(logits, Tensor) and tuple(targets.shape) != tuple(logits.shape):
        raise ValueError(
            f"targets must have the shape of logits, {tuple(logits.shape)}; got a sparse matrix of {targets.shape}."
        )
    labels, offsets, values = arrays
    values = values.to(labels.device)
    hard = values.dtype == torch.bool or (values_readable(values) and bool((values == 1).all()))
    soft = None if hard else values if values.is_floating_point() else values.float()
    return IndexTargets(labels, offsets, soft=soft)


def known_cells(targets: Tensor, mask: Tensor | None = None) -> Tensor | None:
    """Say where a label is known: True per cell, shape of `targets`, or None when no cell can be unknown.

    A cell is unknown where `mask` is False or where the target is -1, -100 or NaN.
    """
    known = None
    if targets.is_floating_point():
        known = ~targets.isnan() & (targets != UNKNOWN[0]) & (targets != UNKNOWN[1])
    elif targets.dtype.is_signed:
        known = (targets != UNKNOWN[0]) & (targets != UNKNOWN[1])
    if mask is None:
        return known
    mask = mask.expand(targets.shape)
    return mask if known is None else known & mask


def array_of(values: Any) -> np.ndarray:
    """Return a tensor or what NumPy takes as an array; bfloat16 and smaller floats, which NumPy has not, in float32."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    of_numpy = (torch.float64, torch.float32, torch.float16)
    return (values.float() if values.is_floating_point() and values.dtype not in of_numpy else values).numpy()


def tensor_of(values: Any) -> Tensor:
    """Return an array, or what NumPy takes, as a tensor: a copy only where torch cannot share the memory."""
    array = np.asarray(values, order="C")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)  # torch has no longer one
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def known_rows(targets: Targets, mask: Tensor | None = None) -> Tensor | None:
    """Say which rows have a known label: True per row, or None when all have."""
    if isinstance(targets, IndexTargets):
        return None if mask is None or mask.ndim == 0 else mask.any(-1).expand(targets.shape)
    known = known_cells(targets, mask)
    return None if known is None else known.any(-1)


def check_listed(targets: IndexTargets, num_labels: int) -> None:
    """Check that every listed id is a label, and that soft targets lie in [0, 1].

    Raises:
        ValueError: names the first row and id that is none, or the target that does not.
    """
    labels, soft = targets.labels, targets.soft

    def row_of(place: list[int]) -> str:
        if targets.offsets is not None:
            place = [int((targets.offsets <= place[0]).sum()) - 1, 0]
        row = place[:-1]
        return f" in {name_row(row)}" if row else ""

    wrong = ((labels < -1) | (labels >= num_labels)).nonzero()
    if len(wrong):
        place = wrong[0].tolist()
        raise ValueError(
            f"label ids must lie in 0 to {num_labels - 1}, the last axis of the logits, or be -1 for padding; "
            f"got {labels[tuple(place)].item()}{row_of(place)}."
        )
    if soft is not None:
        wrong = (~((soft >= 0) & (soft <= 1)) & (labels >= 0)).nonzero()
        if len(wrong):
            place = wrong[0].tolist()
            raise ValueError(
                f"listed targets must lie in [0, 1]; got {soft[tuple(place)].item():g}{row_of(place)}, "
                f"label {labels[tuple(place)].item()}. Unknown labels go into mask."
            )


def name_row(row: list[int]) -> str:
    """Name a row for a message: `row 3`, or `row (0, 3)` where rows have several axes."""
    return f"row {row[0] if len(row) == 1 else tuple(row)}"


def first_cell(where: Tensor) -> str:
    """Name the first True cell for a message: `row 3, label 7`."""
    *row, label = where.nonzero()[0].tolist()
    return ", ".join([name_row(row)] * bool(row) + [f"label {label}"])
