"""Elementary symmetric polynomials of e^s: sums over all label sets of a size, and what share of them has a label.

Every combinatorial loss stands on one number a row, the logarithm of a sum over label sets of a to b labels, and on its
gradient, the probability of each label to be in the set. Formulas: mathematics.md section 2.

With x_i = s_i - c, a set's weight is measured from the set of all heavy labels, those with x_i > 0:

    e^{sum of x_i in the set} = e^{sum of all heavy x_i} prod_{light, in the set} w_i prod_{heavy, left out} w_i

with w_i = e^{-|x_i|} <= 1. So the sum over sets is a product of two polynomials with coefficients that are all
positive, the l-th of one adding up the ways to take l light labels, the d-th of the other the ways to drop d heavy
ones, and nothing cancels. c is chosen so that sets of the wanted size are the typical ones; then both are short.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhot.checks import check_forms
from manyhot.kernels import native, subsets
from manyhot.logsumexp import logsumexp
from manyhot.targets import name_row
from manyhot.tracing import traced, values_readable

Impl = Literal["auto", "eager", "native"]
Size = int | Tensor


def log_elementary_symmetric(logits: Tensor, k: Size, *, mask: Tensor | None = None, impl: Impl = "auto") -> Tensor:
    r"""Logarithm of the sum over all sets of k labels of the product of their e^s.

    .. math::
        \log Z_k(s) = \log \sum_{|S| = k} \exp\Big(\sum_{i \in S} s_i\Big)

    the logarithm of the k-th elementary symmetric polynomial of :math:`e^{s_1}, \dots, e^{s_n}`. Its gradient is
    :func:`inclusion_probabilities`. It is the normaliser of a softmax over sets of k labels; the loss that uses it, for
    a range of sizes, is :func:`manyhot.subset_loss`.

    Args:
        logits: (..., labels), any floating dtype. -inf takes a label out.
        k: 0 to labels, a number or integers that broadcast to the leading shape of logits.
        mask: boolean, broadcastable to logits; False takes a label out.
        impl: `"eager"` is the formula in plain PyTorch, with derivatives of any order; `"native"` the C++ kernel for
            the CPU, with first derivatives; `"auto"` the fastest that fits.

    Returns:
        The leading shape of logits, float32 (float64 for float64 logits). -inf where a row has fewer than k labels.

    Raises:
        TypeError: logits that are not floating-point, k that is not an integer, a mask that is not boolean.
        ValueError: shapes that do not fit, an `impl` that does not, and k outside of 0 to labels.
        RuntimeError: second derivatives through the kernel; `impl="eager"` has them.

    Reduces to:
        0 for k = 0, ``torch.logsumexp`` for k = 1, the sum of the logits for k = labels; log C(n, k) at zero logits.

    Numerics:
        Linear in labels and in k. All terms are positive, so the relative error of a float32 sum is about 1e-6 at
        20,000 labels; common offsets of the logits cost nothing. +inf in more than k labels gives NaN.

    Example:
        >>> import torch, manyhot
        >>> manyhot.log_elementary_symmetric(torch.tensor([0.0, 1.0, 2.0]), 2).exp()  # e^1 + e^2 + e^3
        tensor(30.1929)

    References:
        Su, kexue.fm/archives/7359 section 2; the tilt and the two polynomials are ours.
    """
    return log_partition(logits, k, k, mask=mask, impl=impl)


def inclusion_probabilities(logits: Tensor, k: Size, *, mask: Tensor | None = None, impl: Impl = "auto") -> Tensor:
    r"""Probability of each label to be in a set of k labels, drawn in proportion to the product of their e^s.

    .. math::
        \pi_i = \frac{\partial \log Z_k(s)}{\partial s_i}, \qquad 0 \le \pi_i \le 1, \quad \sum_i \pi_i = k

    A differentiable top k: with logits far apart it is 1 for the k largest and 0 for the rest, and
    ``inclusion_probabilities(logits / temperature, k)`` gets there as the temperature falls.

    Args:
        logits: (..., labels), any floating dtype. -inf takes a label out.
        k: 0 to labels, a number or integers that broadcast to the leading shape of logits.
        mask: boolean, broadcastable to logits; False takes a label out.
        impl: as in :func:`log_elementary_symmetric`. The kernel gives no derivatives of probabilities, so `"auto"`
            takes the formula where they are wanted.

    Returns:
        Shape of logits, float32 (float64 for float64 logits); 0 for labels that are out.

    Raises:
        As :func:`log_elementary_symmetric`.

    Reduces to:
        ``torch.softmax`` for k = 1; k / labels at equal logits.

    Numerics:
        The smaller of pi and 1 - pi is computed without cancellation, to a relative error of about 1e-6 in float32.

    Example:
        >>> import torch, manyhot
        >>> manyhot.inclusion_probabilities(torch.tensor([0.0, 1.0, 2.0]), 2)
        tensor([0.3348, 0.7553, 0.9100])

    References:
        GradTopK in Su, kexue.fm/archives/10373.
    """
    return partition_gradient(logits, k, k, mask=mask, impl=impl)


# --- sets of a range of sizes: what the losses and Subset stand on ----------------------------------------------------


class Rows(NamedTuple):
    """A batch as rows by labels, in the type that is computed in, and the sizes that a row's sets have."""

    logits: Tensor
    point: Tensor | None
    known: Tensor | None
    smallest: Tensor
    largest: Tensor
    # The most light labels a set can have that counts, and the most heavy ones it can lack.
    degrees: tuple[int, int]
    # Any size, or any but 0: then labels are independent, and no sum over sizes is needed.
    free: bool


def log_partition(
    logits: Tensor,
    smallest: Size,
    largest: Size,
    *,
    point: Tensor | None = None,
    mask: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    r"""Compute :math:`\log \sum_{j=a}^{b} Z_j(s) - \sum_i t_i s_i` at one stroke, so that nothing cancels.

    Args:
        logits: (..., labels).
        smallest: a, a number or integers of the leading shape.
        largest: b.
        point: t, shape of logits, or None for 0. A label of a set that is -inf makes the row +inf.
        mask: boolean, broadcastable to logits; False takes a label out.
        impl: as in :func:`log_elementary_symmetric`.

    Returns:
        The leading shape of logits. Where fewer than a labels are left: +inf with a point, else -inf.
    """
    rows = rows_of(logits, smallest, largest, point, mask)
    value = subsets.log_partition(rows) if _implementation(rows, impl) == "native" else _formula(rows)
    return value.view(logits.shape[:-1])


def partition_gradient(
    logits: Tensor, smallest: Size, largest: Size, *, mask: Tensor | None = None, impl: Impl = "auto"
) -> Tensor:
    """Compute the probability of each label to be in a set of a to b labels: the gradient of :func:`log_partition`."""
    rows = rows_of(logits, smallest, largest, mask=mask)
    wanted = logits.requires_grad and torch.is_grad_enabled()
    if wanted and impl == "native":
        raise ValueError('impl="native" has no derivatives of probabilities. Use impl="eager" or impl="auto".')
    if not wanted and _implementation(rows, impl) == "native":
        probs = subsets.gradient(rows)
    else:
        probs = torch.func.grad(lambda s: _formula(rows._replace(logits=s)).sum())(rows.logits)
        present = _present(rows)
        enough = present.sum(-1, keepdim=True) >= rows.smallest.unsqueeze(-1)
        probs = torch.where(enough | ~present, probs, math.nan)
    return probs.view(logits.shape)


def rows_of(
    logits: Tensor, smallest: Size, largest: Size, point: Tensor | None = None, mask: Tensor | None = None
) -> Rows:
    """Check a batch and lay it out as rows by labels."""
    check_forms(logits, logits, mask)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    labels = logits.shape[-1]
    flat = logits.reshape(-1, labels).to(dtype)
    known = None if mask is None else mask.expand(logits.shape).reshape(-1, labels)
    if point is not None:
        point = point.reshape(-1, labels).to(dtype)
    low, high = size_of_rows("k", smallest, logits), size_of_rows("k", largest, logits)
    least, most = _bounds(smallest, low, labels)[0], _bounds(largest, high, labels)[1]
    # At the tilt c a set has between a and b labels on average, and each heavy label is in more than half of the sets:
    # there are at most 2b of them, and for the same reason at most 2(n-a) light ones. The two are for what c misses its
    # aim by.
    degrees = min(most, 2 * (labels - least) + 2, labels), min(labels - least, 2 * most + 2, labels)
    free = not isinstance(smallest, Tensor) and not isinstance(largest, Tensor) and smallest <= 1 and largest == labels
    return Rows(flat, point, known, low, high, degrees, free)


def size_of_rows(name: str, size: Size, logits: Tensor) -> Tensor:
    """Return one size a row."""
    lead = logits.shape[:-1]
    if not isinstance(size, Tensor):
        if isinstance(size, bool) or not isinstance(size, int | torch.SymInt):
            raise TypeError(f"{name} must be an integer or a tensor of integers; got {type(size).__name__}.")
        if not 0 <= size <= logits.shape[-1]:
            raise ValueError(f"{name} must lie in 0 to {logits.shape[-1]}, the number of labels; got {size}.")
        return torch.full(lead, size, dtype=torch.int64, device=logits.device).reshape(-1)
    if size.is_floating_point() or size.is_complex() or size.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer or a tensor of integers; got {size.dtype}.")
    try:
        size = size.to(logits.device, torch.int64).expand(lead)
    except RuntimeError:
        raise ValueError(f"{name} must broadcast to one size a row, {tuple(lead)}; got {tuple(size.shape)}.") from None
    if values_readable(size):
        wrong = ((size < 0) | (size > logits.shape[-1])).nonzero()
        if len(wrong):
            place = wrong[0].tolist()
            came = f"{size[tuple(place)].item()} in {name_row(place)}" if place else f"{size.item()}"
            raise ValueError(f"{name} must lie in 0 to {logits.shape[-1]}, the number of labels; got {came}.")
    return size.reshape(-1)


def _bounds(given: Size, sizes: Tensor, labels: int) -> tuple[int, int]:
    """Return the least and the largest of the sizes of all rows; of a graph that is traced only what must be so."""
    if not isinstance(given, Tensor):
        return given, given
    if traced() or sizes.numel() == 0:
        return 0, labels
    least, most = torch.aminmax(sizes)
    return int(least), int(most)


def _implementation(rows: Rows, impl: Impl) -> Impl:
    if impl not in ("auto", "eager", "native"):
        raise ValueError(f'impl must be "auto", "eager" or "native"; got {impl!r}.')
    if impl == "eager" or (impl == "auto" and rows.free):
        return "eager"
    against = subsets.against(rows)
    if impl == "native" and against:
        raise ValueError(f'impl="native" cannot compute this: {"; ".join(against)}. Use impl="auto".')
    if against == [native.MISSING]:
        native.warn_missing()
    return "eager" if against else "native"


# --- the formula ------------------------------------------------------------------------------------------------------


def _formula(rows: Rows) -> Tensor:
    return independent(rows) if rows.free else eager(rows)


def independent(rows: Rows) -> Tensor:
    r"""Compute the value for all sizes from 0 or 1 on: sum_i softplus(s_i) - t_i s_i, and where a set must not be empty

    .. math::
        \log\big(1 - e^{-u}\big), \qquad u = \sum_i \mathrm{softplus}(s_i)
    """
    present = _present(rows)
    s = torch.where(present, rows.logits.double(), -math.inf)
    heavy = s > 0
    chosen = heavy.double()
    if rows.point is not None:
        chosen = chosen - (rows.point if rows.known is None else torch.where(rows.known, rows.point, 0)).double()
    linear = chosen * torch.where(chosen == 0, 0, torch.where(s.isinf(), s.detach(), s))
    value = (linear + torch.log1p(torch.where(heavy, -s, s).exp())).sum(-1)
    not_empty = rows.smallest == 1
    u = F.softplus(s).sum(-1)
    # Where u has no digits left, 1 - e^{-u} = u = sum_i e^{s_i}.
    near = u < 1e-12
    log_u = torch.where(near, logsumexp(s), torch.log(-torch.expm1(-torch.where(near, 1, u))))
    value = torch.where(not_empty, value + log_u, value)
    enough = present.sum(-1) >= rows.smallest
    return torch.where(enough, value, -math.inf if rows.point is None else math.inf).to(rows.logits.dtype)


class Tilted(NamedTuple):
    """Rows measured from a tilt c, and the two polynomials as trees of products, from factors 1 + w z to one."""

    x: Tensor
    heavy: Tensor
    tilt: Tensor
    size: Tensor  # of the sets that the weights are measured from
    light: list[Tensor]
    dropped: list[Tensor]
    exponent: Tensor  # of the power of two that both roots together lack
    sizes: Tensor  # j, of the sets with l light labels and without d heavy ones
    weight: Tensor  # e^{c (j - size)}, 0 where sets of size j do not count


def eager(rows: Rows) -> Tensor:
    """Compute the formula in plain PyTorch: the specification of the kernel."""
    t = tilted(rows)
    enough = _present(rows).sum(-1) >= rows.smallest
    total = torch.einsum("rl,rld,rd->r", t.light[-1][:, 0].double(), t.weight, t.dropped[-1][:, 0].double())
    # heavy * c and size * c would cancel: c meets what a set has more or fewer than the heavy labels.
    x, chosen, k = rows.logits.double(), t.heavy.double(), t.heavy.sum(-1).double()
    if rows.point is not None:
        point = rows.point if rows.known is None else torch.where(rows.known, rows.point, 0)
        x, chosen, k = t.x, chosen - point, point.sum(-1, dtype=torch.float64)
        # An infinite logit on the wrong side makes the row infinite, and has no gradient.
        x = torch.where(x.isinf(), x.detach(), x)
    # What has no part in the sum has none at infinity either.
    linear = (chosen * torch.where(chosen == 0, 0, x)).sum(-1)
    value = torch.where(enough, total, 1).log() + math.log(2) * t.exponent.double() + (t.size - k) * t.tilt + linear
    value = torch.where(enough, value, -math.inf if rows.point is None else math.inf)
    return value.to(rows.logits.dtype)


def tilted(rows: Rows) -> Tilted:
    """Choose c, and multiply both polynomials out."""
    present = _present(rows)
    c, size = _tilt(rows, present)
    # Numbers of a row in float64: a common offset of 1e8 has no digits left in float32.
    x = torch.where(present, rows.logits.double() - c.unsqueeze(-1), -math.inf)
    heavy = x > 0
    # Not e^{-|x|}, which has no gradient at 0.
    w = torch.where(heavy, -x, x).to(rows.logits.dtype).exp()
    light, light_exponent = _products(torch.where(heavy, 0, w), rows.degrees[0])
    dropped, dropped_exponent = _products(torch.where(heavy, w, 0), rows.degrees[1])
    taken, lacking = (torch.arange(p[-1].shape[-1], device=x.device) for p in (light, dropped))
    sizes = heavy.sum(-1)[:, None, None] + taken[:, None] - lacking
    counts = (sizes >= rows.smallest[:, None, None]) & (sizes <= rows.largest[:, None, None])
    # At most 1: a tilt other than 0 makes the sets at that end of the range the heaviest.
    weight = torch.where(counts, ((sizes - size[:, None, None]) * c[:, None, None]).clamp(max=0).exp(), 0)
    return Tilted(x, heavy, c, size, light, dropped, light_exponent + dropped_exponent, sizes, weight)


def _present(rows: Rows) -> Tensor:
    """Say which labels a set can have; a NaN counts, and makes its row NaN."""
    present = rows.logits != -math.inf
    return present if rows.known is None else present & rows.known


def _tilt(rows: Rows, present: Tensor) -> tuple[Tensor, Tensor]:
    """Choose c, and the size that a set has on average at c; no gradient goes through c, since no value depends on it.

    Independent labels with the probabilities sigmoid(s - c) have about the wanted number; c is 0 where that is so at 0.
    Within 0.3 any c is as good, so bisection does, between the logits that the wanted number separates.
    """
    s = torch.where(present, rows.logits.detach().double(), -math.inf).clamp(max=1e300)
    labels = s.shape[-1]
    mean = s.sigmoid().sum(-1)
    size = mean.clamp(rows.smallest, rows.largest)
    place = size.nan_to_num().long().unsqueeze(-1)
    ordered = s.sort(-1, descending=True).values
    least = ordered.gather(-1, (place - 1).clamp(min=0)).squeeze(-1)
    next_one = ordered.gather(-1, place.clamp(max=labels - 1)).squeeze(-1)
    # Far between two logits all c are alike.
    slack = math.log(labels) + 2
    low, high = next_one.maximum(least - 100) - slack, least + slack
    for _ in range(12):
        middle = (low + high) / 2
        above = (s - middle.unsqueeze(-1)).sigmoid().sum(-1) > size
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    count = present.sum(-1)
    # Where every label is in the one set, below all logits any c is as good, and a near one costs size * c no digits.
    c = torch.where(size >= count, least - 1, (low + high) / 2)
    # Rows with fewer labels than a have no c, and no value.
    return torch.where((size == mean) | (count < rows.smallest), 0, c), size


def _products(terms: Tensor, degree: int) -> tuple[list[Tensor], Tensor]:
    """Multiply the factors 1 + w z of each row in pairs, up to a degree; each level is scaled by powers of two.

    Returns:
        (rows, factors, coefficients) of each level, from the leaves to one product, and the exponents left out.
    """
    level = torch.stack([torch.ones_like(terms), terms], -1)[..., : degree + 1]
    levels, exponent = [level], torch.zeros(len(terms), dtype=torch.int64, device=terms.device)
    while level.shape[1] > 1:
        level = level if level.shape[1] % 2 == 0 else torch.cat([level, _one_like(level[:, :1])], 1)
        levels[-1] = level
        level = _product(level[:, 0::2], level[:, 1::2], degree)
        peak = level.detach().amax(-1)
        power = torch.frexp(peak).exponent
        # Not ldexp of the level itself: its gradient is 0 for negative exponents (torch 2.13).
        level = level * torch.ldexp(torch.ones_like(peak), -power).unsqueeze(-1)
        exponent = exponent + power.sum(-1)
        levels.append(level)
    return levels, exponent


def _one_like(factors: Tensor) -> Tensor:
    """Return the polynomial 1."""
    return torch.cat([torch.ones_like(factors[..., :1]), torch.zeros_like(factors[..., 1:])], -1)


def _product(a: Tensor, b: Tensor, degree: int) -> Tensor:
    """Multiply polynomials, coefficients along the last axis, up to a degree."""
    terms = a.shape[-1]
    size = min(terms + b.shape[-1] - 1, degree + 1)
    windows = F.pad(b, (terms - 1, size - b.shape[-1])).unfold(-1, terms, 1)
    return (windows * a.flip(-1).unsqueeze(-2)).sum(-1)


def size_probs(rows: Rows) -> Tensor:
    """Compute the probability of each size, (rows, labels + 1)."""
    t = tilted(rows)
    joint = t.light[-1][:, 0].double().unsqueeze(-1) * t.weight * t.dropped[-1][:, 0].double().unsqueeze(-2)
    probs = torch.zeros(len(t.x), t.x.shape[-1] + 1, dtype=torch.float64, device=t.x.device)
    probs = probs.scatter_add(1, t.sizes.clamp(0, t.x.shape[-1]).flatten(1), joint.flatten(1))
    return (probs / probs.sum(-1, keepdim=True)).to(rows.logits.dtype)


# --- drawing sets -----------------------------------------------------------------------------------------------------


def sample(rows: Rows, samples: int) -> Tensor:
    """Draw label sets in proportion to the product of their e^s, exactly: 0/1, (samples, rows, labels).

    How many light labels a set has and how many heavy ones it lacks is drawn first, then these numbers are divided down
    both trees.
    """
    t = tilted(rows)
    joint = t.light[-1][:, 0].double().unsqueeze(-1) * t.weight * t.dropped[-1][:, 0].double().unsqueeze(-2)
    drawn = _draw(joint.flatten(1).expand(samples, -1, -1))
    lacking = joint.shape[-1]
    labels = t.x.shape[-1]
    taken = _divide(t.light, drawn // lacking)[..., :labels]
    dropped = _divide(t.dropped, drawn % lacking)[..., :labels]
    return torch.where(t.heavy, 1 - dropped, taken)


def _divide(levels: list[Tensor], count: Tensor) -> Tensor:
    """Draw which factors give their z, with `count` of them together; (samples, rows) -> (samples, rows, labels)."""
    count = count.unsqueeze(-1)
    for level in reversed(levels[:-1]):
        # Without the polynomial 1 that fills the level above up.
        count = count[..., : level.shape[1] // 2]
        a, b = level[:, 0::2].double(), level[:, 1::2].double()
        rest = count.unsqueeze(-1) - torch.arange(a.shape[-1], device=a.device)
        others = b.expand(*rest.shape[:-1], -1).gather(-1, rest.clamp(0, b.shape[-1] - 1))
        first = _draw(torch.where((rest >= 0) & (rest < b.shape[-1]), a * others, 0))
        count = torch.stack([first, count - first], -1).flatten(-2)
    return count


def _draw(weight: Tensor) -> Tensor:
    """Draw an index of the last axis in proportion to its weight."""
    steps = weight.cumsum(-1)
    # Below the total, so that no index without weight is drawn.
    mark = torch.rand_like(steps[..., :1]) * steps[..., -1:]
    return (steps <= mark).sum(-1).clamp(max=weight.shape[-1] - 1)
