"""What a linear head can never predict: classes that are no input's largest, label sets that no input gets.

class i      an input x with  w_i x + b_i > w_j x + b_j  for all other j
set P        an input x with  w_i x + b_i > s_0 for i in P and < s_0 for all others; or whose k largest are P
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyhot.halfspaces import BEYOND, CLOSE, PUSH, STEPS, Halfspaces, settle
from manyhot.targets import IndexTargets, known_cells, targets_of

# Rows times classes at once, in the products of the cheap proofs.
BLOCK = 1 << 22


class Reach(NamedTuple):
    """What is in reach: an entry a class, or a label set.

    Attributes:
        status: (n,) strings. `"yes"`: an input has it, and stays so when it is moved a little. `"tie"`: at the best an
            input where it is level with others. `"no"`: no input. `"undecided"`: nearer to the boundary than
            the tolerance.
        margin: (n,) float64, how far the witness is inside of all constraints, each divided by its own norm; 0 for a
            tie. For `"no"` the largest that an input can have, below 0, or 0 in a head without bias. It is the largest
            margin there is, of inputs with coordinates in [-1, 1], where a linear programme was solved, and a lower
            bound of it elsewhere.
        witness: (n, features) float64, an input that has it, for `"yes"` and `"tie"`; NaN elsewhere.
    """

    status: np.ndarray
    margin: np.ndarray
    witness: np.ndarray


def reachable_classes(weight: Any, bias: Any = None, *, nonnegative: bool = False, tolerance: float = 1e-7) -> Reach:
    r"""Say for each class of a linear head whether some input has it as the largest logit.

    .. math::
        \max_{x,\delta}\ \delta\quad\text{so that}\quad
        (w_i-w_j)x+b_i-b_j\ \ge\ \delta\,\lVert(w_i-w_j,\,b_i-b_j)\rVert\quad\text{for all } j\ne i

    With more classes than features + 1 a class can lie inside the hull of the others, and is then never predicted,
    whatever the input. Use it on a trained head, `reachable_classes(layer.weight, layer.bias)`. Heads of some hundred
    features hardly ever have such a class; narrow ones do.

    Args:
        weight: (classes, features), a tensor or an array, as in `torch.nn.Linear`.
        bias: (classes,).
        nonnegative: look at inputs without a negative coordinate alone, as they come out of a ReLU.
        tolerance: a class whose largest margin is nearer to 0 is `"undecided"`, unless a tie can be shown exactly.

    Returns:
        :class:`Reach`, an entry a class. In a head without bias all classes are level at x = 0; that makes no tie.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite.
        ImportError: a linear programme is needed and scipy, of the extra `toolkit`, is missing.

    Numerics:
        Computed in float64. First w_i itself is tried as the input and moved a few times, for all classes by one matrix
        product in blocks, which proves every class of a wide head; then one class at a time by linear programmes over
        the constraints that matter. A `"yes"` is checked at its witness, a `"no"` by weights of the other classes whose
        mean is w_i. 50,000 classes of 768 features and 2,000 of 2 are timed by `make bench-reach`.

    Example:
        >>> import manyhot
        >>> corners_and_middle = [[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0], [-0.2, 0.1]]
        >>> manyhot.reachable_classes(corners_and_middle).status.tolist()
        ['yes', 'yes', 'yes', 'no']
        >>> manyhot.reachable_classes(corners_and_middle, [0.0, 0.0, 0.0, 0.5]).status.tolist()
        ['yes', 'yes', 'yes', 'yes']

    References:
        Su, kexue.fm/archives/9046; Grivas, Bogoychev and Lopez, ACL 2022, arXiv 2203.06462.
    """
    rows = _rows_with_bias(weight, bias, tolerance)
    unique, inverse, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    n, size = len(unique), rows.shape[1] - 1
    found = Reach(np.full(n, "yes", "<U9"), np.zeros(n), np.zeros((n, size)))
    if n > 1:
        _cheap_proofs(unique, nonnegative, found)
    for i in np.flatnonzero(found.margin <= tolerance).tolist() if n > 1 else ():
        others = np.delete(unique, i, axis=0)
        _keep(found, i, settle(Halfspaces(unique[i : i + 1], others, None, nonnegative), found.witness[i], tolerance))
    status, margin, witness = (part[inverse] for part in found)
    # A class with a twin is never alone at the top.
    twins = (counts[inverse] > 1) & (status == "yes")
    status[twins], margin[twins] = "tie", 0.0
    return Reach(status, margin, witness)


def reachable_sets(
    weight: Any,
    sets: Any,
    *,
    bias: Any = None,
    threshold: Any = 0.0,
    top_k: bool = False,
    nonnegative: bool = False,
    tolerance: float = 1e-7,
) -> Reach:
    r"""Say for each label set whether some input of a linear head gets exactly this set.

    .. math::
        \max_{x,\delta}\ \delta\quad\text{so that}\quad
        w_ix+b_i-s_0\ \ge\ \delta\,\lVert(w_i,\,b_i-s_0)\rVert\ (i\in P),\quad
        s_0-w_jx-b_j\ \ge\ \delta\,\lVert(w_j,\,b_j-s_0)\rVert\ (j\notin P)

    With more labels than features only some of the 2^n sets are in reach. Use it on the label sets of training rows.

    Args:
        weight: (labels, features), a tensor or an array, as in `torch.nn.Linear`.
        sets: a row a set: 0/1 of shape (sets, labels), :class:`manyhot.IndexTargets`, or a sparse matrix.
        bias: (labels,).
        threshold: s_0, a number or one a label, (labels,): a label is predicted where its logit is above.
        top_k: whether P are the k largest logits instead, k the size of the set; the threshold plays no part.
        nonnegative: look at inputs without a negative coordinate alone, as they come out of a ReLU.
        tolerance: a set whose largest margin is nearer to 0 is `"undecided"`, unless a tie can be shown exactly.

    Returns:
        :class:`Reach`, an entry a set. A set that is in reach only with a label exactly at the threshold, or level with
        the k-th, is a `"tie"`.

    Raises:
        TypeError: sets in no format of targets.
        ValueError: shapes that do not fit, numbers that are not finite, sets that are not 0/1.
        ImportError: a linear programme is needed and scipy, of the extra `toolkit`, is missing.

    Example:
        >>> import manyhot
        >>> weight = [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]
        >>> manyhot.reachable_sets(weight, manyhot.IndexTargets([[0], [0, 1], [0, 1, 2]])).status.tolist()
        ['yes', 'yes', 'no']

    References:
        Grivas, Vergari and Lopez, AAAI 2024, arXiv 2310.10443.
    """
    rows = _rows_with_bias(weight, bias, tolerance)
    chosen = _sets_of(sets, len(rows))
    if not top_k:
        shift = np.asarray(_numbers("threshold", threshold), dtype=np.float64)
        if shift.ndim > 1 or (shift.ndim and len(shift) != len(rows)):
            raise ValueError(f"threshold must be a number or of shape ({len(rows)},), one a label; got {shift.shape}.")
        rows[:, -1] -= shift
    m, size = len(chosen), rows.shape[1] - 1
    found = Reach(np.full(m, "yes", "<U9"), np.zeros(m), np.zeros((m, size)))
    # The input whose logits come nearest to +1 on the set and -1 elsewhere: a proof where labels are not too many.
    wanted = np.where(chosen, 1.0, -1.0) - (0.0 if top_k else rows[:, -1])
    starts = np.linalg.lstsq(rows[:, :-1], wanted.T, rcond=None)[0].T if m else found.witness
    origin = np.zeros((1, size + 1))
    for number, (members, start) in enumerate(zip(chosen, starts, strict=True)):
        if top_k:
            upper, lower, strict = rows[members], rows[~members], None
        else:
            upper, lower, strict = np.where(members, 1.0, -1.0)[:, None] * rows, origin, members
        if len(upper) and len(lower):
            _keep(found, number, settle(Halfspaces(upper, lower, strict, nonnegative), start, tolerance))
        else:  # the top 0, or the top n
            found.margin[number] = np.inf
    return found


def _keep(found: Reach, number: int, one: Any) -> None:
    found.status[number], found.margin[number] = one.status, one.margin
    found.witness[number] = np.nan if one.witness is None else one.witness


def _cheap_proofs(rows: np.ndarray, nonnegative: bool, found: Reach) -> None:
    """Try w_i as the input of class i, and move it off the worst rival a few times; write margins and inputs found."""
    # Differences of rows stay as they are, and their squares lose fewer digits.
    V = torch.from_numpy(rows - rows.mean(0))
    W, b = V[:, :-1], V[:, -1]
    lengths = V.square().sum(1)
    x = torch.from_numpy(found.witness)
    x.copy_(W.clamp(min=0) if nonnegative else W)
    longest = _into_the_box(x)
    free = not bool(b.any())
    left = torch.arange(len(V))
    margin = torch.from_numpy(found.margin)
    at_once = max(1, BLOCK // len(V))
    for step in range(STEPS):
        for part in left.split(at_once):
            product = W[part] @ W.mT
            squares = (lengths[part, None] + lengths - 2 * (product + b[part, None] * b)).clamp_(min=0)
            # The product with w_i itself is there already.
            slacks = x[part] @ W.mT if step or nonnegative else product / longest[part]
            slacks = slacks.add_(b).neg_()
            slacks += (x[part] * W[part]).sum(1, keepdim=True) + b[part, None]
            slacks /= squares.sqrt()
            # Nearly equal rows: from their difference.
            first, second = (squares < CLOSE**2 * (lengths[part, None] + lengths)).nonzero(as_tuple=True)
            difference = V[part[first]] - V[second]
            at = torch.cat((x[part[first]], torch.ones(len(first), 1, dtype=V.dtype)), 1)
            slacks[first, second] = (difference * at).sum(1) / difference.norm(dim=1)
            slacks[torch.arange(len(part)), part] = torch.inf
            margin[part], worst = slacks.min(1)
            behind = margin[part] <= 0
            moved, rival, by = part[behind], worst[behind], PUSH - BEYOND * margin[part][behind]
            normal = V[moved] - V[rival]
            normal /= normal.norm(dim=1, keepdim=True)
            found_before = x[moved] + by[:, None] * normal[:, :-1]
            x[moved] = found_before.clamp(min=0) if nonnegative else found_before
        left = left[margin[left] <= 0]
        if not len(left):
            break
        if free:
            moved = x[left]
            _into_the_box(moved)
            x[left] = moved


def _into_the_box(x: Tensor) -> Tensor:
    """Scale rows to the largest coordinate 1, in place, and return what they were divided by; a row of zeros stays."""
    longest = x.abs().amax(1, keepdim=True)
    longest = torch.where(longest == 0, 1, longest)
    x.div_(longest)
    return longest


def _rows_with_bias(weight: Any, bias: Any, tolerance: float) -> np.ndarray:
    """Return weights and biases as rows (n, features + 1), float64."""
    weight = _numbers("weight", weight)
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"weight must have shape (classes or labels, features); got {weight.shape}.")
    bias = np.zeros(len(weight)) if bias is None else _numbers("bias", bias)
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape ({len(weight)},), one a row of weight; got {bias.shape}.")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0; got {tolerance}.")
    return np.column_stack((weight, bias))


def _numbers(name: str, values: Any) -> np.ndarray:
    values = np.asarray(values.detach().double().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite numbers; got {values[~np.isfinite(values)][0]}.")
    return values


def _sets_of(sets: Any, labels: int) -> np.ndarray:
    """Return label sets as a boolean array (sets, labels)."""
    sets = targets_of(torch.from_numpy(sets) if isinstance(sets, np.ndarray) else sets, None)
    dense = sets.dense(labels) if isinstance(sets, IndexTargets) else sets
    if dense.ndim != 2 or dense.shape[1] != labels:
        raise ValueError(f"sets must have shape (sets, {labels}), a column a row of weight; got {tuple(dense.shape)}.")
    known = known_cells(dense)
    if (known is not None and not known.all()) or not bool(((dense == 0) | (dense == 1)).all()):
        raise ValueError("sets must be 0/1: an unknown or soft label is in no set or in many.")
    return dense.bool().cpu().numpy()
