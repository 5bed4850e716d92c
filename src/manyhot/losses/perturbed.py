"""Probabilities from noise: how often each logit is the largest once noise is added; accuracy under noise as a loss.

p_i = P(s_i + e_i is the largest) = integral r(z - s_i) G(z) dz     e independent, density f, distribution function F
G(z) = prod_j F(z - s_j), r = f/F                                   z the largest of all: one grid serves every i
dp_i/ds_k = -integral r(z - s_i) r(z - s_k) G(z) dz, k != i         symmetric, rows sum to 0, no derivative of f
EXACT: -p_y or -log p_y of the class y

Everything in logarithms and, where the device has it, float64. Every density here is log-concave, so each integrand has
one peak, and a window around it is found by looking.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyhot.losses.hyperparameters import keep, kept
from manyhot.losses.one_class import one_class
from manyhot.losses.reduction import Reduction, reduce
from manyhot.targets import traced

Noise = Literal["gumbel", "normal", "logistic", "laplace", "exponential", "uniform"]

# Below e^-745 nothing is left in float64; a peak that is e^45 higher swallows what is beside it.
DEPTH, PEAK = 745.0, 45.0
# Numbers that are in memory at a time, of each of a few tensors.
BLOCK = 2**18
FAR = 1e6
LOOKS, POINTS = 4, 64
PANELS, LEVELS, MANY = 32, 96, 2**13
GAUSS = tuple(torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(8))


class Density(NamedTuple):
    """What is known of one kind of noise, at scale 1."""

    log_cdf: Callable[[Tensor], Tensor]
    log_ratio: Callable[[Tensor], Tensor]  # log f - log F, -inf where f is 0
    sample: Callable[[Callable[[], Tensor]], Tensor]  # from draws of the exponential distribution
    step: float  # of the trapezoid rule; the longest panel where there are kinks
    below: float  # how far below its logit f counts
    depth: float  # how far below F falls to e^-745
    above: Callable[[float], float]  # how far above its tail is e^-x
    start: float = -math.inf  # F is 0 up to here
    kink: float | None = None  # where f or F has one, measured from the logit


def _laplace_log_cdf(x: Tensor) -> Tensor:
    return torch.where(x < 0, x - math.log(2), torch.log1p(-(-x.clamp(min=0)).exp() / 2))


def _exponential_log_cdf(x: Tensor) -> Tensor:
    return torch.where(x > 0, (-torch.expm1(-torch.where(x > 0, x, 1))).log(), -math.inf)


def _uniform_log_cdf(x: Tensor) -> Tensor:
    inside = x > -0.5
    return torch.where(inside, torch.where(inside, x + 0.5, 1).clamp(max=1).log(), -math.inf)


def _normal_log_ratio(x: Tensor) -> Tensor:
    # Each side in the form that neither overflows nor takes the difference of large numbers.
    left = math.log(2 / math.pi) / 2 - torch.special.erfcx(-x.clamp(max=0) / math.sqrt(2)).log()
    right = x.clamp(min=0)
    return torch.where(x < 0, left, -right * right / 2 - math.log(2 * math.pi) / 2 - torch.special.log_ndtr(right))


DENSITIES = {
    "normal": Density(
        torch.special.log_ndtr,
        _normal_log_ratio,
        lambda draw: (2 * draw()).sqrt() * torch.cos(2 * math.pi * (-draw()).exp()),
        step=0.1,
        below=9.0,
        depth=39.0,
        above=lambda x: math.sqrt(2 * x),
    ),
    "logistic": Density(
        F.logsigmoid,
        lambda x: F.logsigmoid(-x),
        lambda draw: draw().log() - draw().log(),
        step=0.3,
        below=PEAK,
        depth=DEPTH,
        above=lambda x: x,
    ),
    "laplace": Density(
        _laplace_log_cdf,
        lambda x: torch.where(x < 0, 0, -x - math.log(2) - _laplace_log_cdf(x)),
        lambda draw: draw() - draw(),
        step=1.5,
        below=PEAK,
        depth=DEPTH,
        above=lambda x: x,
        kink=0.0,
    ),
    "exponential": Density(
        _exponential_log_cdf,
        lambda x: torch.where(x > 0, -x - _exponential_log_cdf(torch.where(x > 0, x, 1)), -math.inf),
        lambda draw: draw(),
        step=1.5,
        below=0.0,
        depth=0.0,
        above=lambda x: x,
        start=0.0,
        kink=0.0,
    ),
    "uniform": Density(
        _uniform_log_cdf,
        lambda x: torch.where((x > -0.5) & (x < 0.5), -_uniform_log_cdf(torch.where(x > -0.5, x, 0)), -math.inf),
        lambda draw: (-draw()).exp() - 0.5,
        step=1.5,
        below=0.5,
        depth=0.5,
        above=lambda x: 0.5,
        start=-0.5,
        kink=0.5,
    ),
}


@dataclass(frozen=True)
class Perturbed:
    r"""Probabilities of choosing the largest of the logits after noise was added to each.

    .. math::
        p_i = P(s_i + \sigma e_i > s_j + \sigma e_j\ \text{for all}\ j\neq i)

    with e independent and of one distribution. They are positive or 0, sum to 1, do not change when a number is added
    to all logits, and rank as the logits do. Use them where the noise is known or another shape than softmax is wanted:
    normal noise forgets a hopeless class faster, Laplace noise as slowly as softmax.

    Args:
        noise: `"gumbel"` (softmax), `"normal"`, `"logistic"`, `"laplace"`, `"exponential"` (of mean 1, added; it has
            another result subtracted), `"uniform"` (on [-1/2, 1/2]: logits more than 1 scale below the best have 0).
        scale: > 0, of the noise.

    Numerics:
        Deterministic quadrature, computed in float64: the relative error of a probability above 1e-300 is below 1e-8
        for gumbel, normal and logistic noise and below 1e-6 for the others, for any number of classes up to 20,000.
        Time grows with the classes times some hundred nodes, or thousand where densities have kinks; memory does not
        grow with that product. Gradients are integrals of their own, as accurate; second derivatives exist for smooth
        noise alone.

    Example:
        >>> import torch, manyhot
        >>> logits = torch.tensor([0.3, -1.0, 2.0])
        >>> manyhot.Perturbed("normal").probs(logits)
        tensor([0.1120, 0.0109, 0.8771])
        >>> manyhot.Perturbed("exponential").probs(logits)
        tensor([0.0898, 0.0234, 0.8868])

    References:
        Su, kexue.fm/archives/9085.
    """

    noise: Noise = "normal"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.noise not in ("gumbel", *DENSITIES):
            raise ValueError(f"noise must be one of gumbel, {', '.join(DENSITIES)}; got {self.noise!r}.")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale of the noise must be positive; got {self.scale}.")

    def probs(self, logits: Tensor) -> Tensor:
        """Return p, the shape of logits (..., classes), float32 or, for float64 logits, float64."""
        return self._log_probs(logits).exp().to(_returned(logits))

    def log_probs(self, logits: Tensor) -> Tensor:
        """Return log p, same shape and dtype; -inf where p is 0. Below -700 use :func:`exact_loss` of a class."""
        return self._log_probs(logits).to(_returned(logits))

    def _log_probs(self, logits: Tensor) -> Tensor:
        _check_logits(logits)
        mu, absent = _finite(logits, self.scale)
        if self.noise == "gumbel":
            return torch.where(absent, -math.inf, F.log_softmax(mu, -1))
        density, flat = DENSITIES[self.noise], mu.reshape(-1, mu.shape[-1])
        parts = []
        for rows in _rows(flat):
            with torch.no_grad():
                z, log_width = _nodes_of_all(density, rows)
            parts.append(_LogProbs.apply(rows, None, z, log_width, self.noise)[0])
        log_p = torch.cat(parts).reshape(mu.shape) if parts else mu
        return torch.where(absent, -math.inf, log_p)

    @torch.no_grad()
    def inclusion_probabilities(
        self, logits: Tensor, k: int, *, samples: int = 1000, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate how often each label is among the k largest after noise, by sampling; k = 1 estimates `probs`.

        The error of a probability p is about sqrt(p (1 - p) / samples). No gradient.

        Returns:
            The shape of logits (..., labels), float32 (float64 for float64 logits), each row summing to k.
        """
        _check_logits(logits)
        if not 0 <= k <= logits.shape[-1]:
            raise ValueError(f"k must lie in 0 to {logits.shape[-1]}, the number of labels; got {k}.")
        if samples < 1:
            raise ValueError(f"samples must be 1 or more; got {samples}.")
        mu = logits.to(_returned(logits)) / self.scale
        counts = torch.zeros_like(mu)
        at_once = max(1, BLOCK // max(mu.numel(), 1))
        for start in range(0, samples, at_once):
            shape = (min(at_once, samples - start), *mu.shape)

            def draw(shape: tuple[int, ...] = shape) -> Tensor:
                return torch.empty(shape, dtype=mu.dtype, device=mu.device).exponential_(generator=generator)

            noise = -draw().log() if self.noise == "gumbel" else DENSITIES[self.noise].sample(draw)
            chosen = (mu + noise).topk(k, dim=-1).indices
            counts += torch.zeros_like(noise).scatter_(-1, chosen, 1).sum(0)
        return counts / samples


def exact_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    noise: Noise = "normal",
    scale: float = 1.0,
    margin: float | None = None,
    log: bool = False,
    mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""EXACT: minus the expected accuracy of a classifier whose logits are disturbed by noise.

    .. math::
        \ell = -P\big(s_y + \sigma e_y > s_j + \sigma e_j\ \text{for all}\ j\neq y\big)
        \qquad\text{or}\qquad -\log P

    for class y. Use it where accuracy is what counts and a few rows cannot be had right: they stop pulling, where
    cross-entropy lets them move the boundary of all others. The scale decides how far a row is seen; with `log` it is a
    likelihood, as cross-entropy is with Gumbel noise.

    Args:
        logits: (..., classes), any floating dtype, raw scores.
        targets: (...,), integer class ids; -1 and -100 mean unknown.
        noise: as in :class:`Perturbed`; normal in the paper.
        scale: > 0, of the noise. Compare it with the distance between logits, which it competes with: hold their size
            by a norm, or lower it while training.
        margin: >= 0, how far above another logit that of the class gains anything, s_y - s_j counting at most as this;
            None: without end.
        log: -log p_y in place of -p_y.
        mask: boolean, broadcastable to targets, True where a row's class is known.
        sample_weight: >= 0, one a row.
        reduction: `"mean"` over rows with a known class, `"sum"`, or `"none"` for one loss a row.

    Returns:
        float32 (float64 for float64 logits): a scalar, or the shape of targets for `reduction="none"`.

    Raises:
        TypeError: logits that are not floating-point, class ids that are no integers.
        ValueError: shapes that do not fit, options out of range and, where values can be read, ids that are no class.

    Reduces to:
        cross-entropy for Gumbel noise and `log`; minus accuracy as the scale goes to 0.

    Numerics:
        A one-dimensional integral, where the paper samples an orthant; its window follows the class, so that -log p_y
        is right where p_y underflows: about (s_j - s_y)^2 / (4 scale^2) for normal noise, which float32 holds up to a
        distance of 1e19. Uniform noise gives +inf and no gradient to a class out of reach.

    Example:
        >>> import torch, manyhot
        >>> logits, targets = torch.tensor([[0.3, -1.0, 2.0]]), torch.tensor([2])
        >>> manyhot.exact_loss(logits, targets)
        tensor(-0.8771)
        >>> manyhot.exact_loss(logits, targets, noise="gumbel", log=True)
        tensor(0.2090)

    References:
        Karpukhin et al., arXiv 2205.09615; Su, kexue.fm/archives/9098.
    """
    kind = Perturbed(noise, scale)
    if margin is not None and not margin >= 0:
        raise ValueError(f"margin must be 0 or more, or None; got {margin}.")
    rows = one_class(logits, targets, mask)
    mu, absent = _finite(rows.logits, kind.scale)
    y = rows.classes
    if margin is not None:
        least = mu.gather(-1, y) - margin / scale
        others = torch.arange(mu.shape[-1], device=mu.device) != y
        mu = torch.where(others, torch.maximum(mu, least), mu)
    if noise == "gumbel":
        log_p = F.log_softmax(mu, -1).gather(-1, y)
    else:
        log_p = _log_prob_of(noise, mu, y)
    log_p = torch.where(absent.gather(-1, y), -math.inf, log_p).squeeze(-1)
    loss = (-log_p if log else -log_p.exp()).to(rows.logits.dtype)
    return reduce(loss, known_rows=rows.known_rows, sample_weight=sample_weight, reduction=reduction)


class ExactLoss(nn.Module):
    """Module form of :func:`exact_loss`, same options.

    Example:
        >>> import torch, manyhot
        >>> manyhot.ExactLoss(scale=0.5)(torch.tensor([[0.3, -1.0, 2.0]]), torch.tensor([2]))
        tensor(-0.9919)
    """

    def __init__(
        self,
        *,
        noise: Noise = "normal",
        scale: float = 1.0,
        margin: float | None = None,
        log: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        keep(self, noise=noise, scale=scale, margin=margin, log=log, reduction=reduction)

    def forward(
        self, logits: Tensor, targets: Tensor, *, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch."""
        return exact_loss(logits, targets, mask=mask, sample_weight=sample_weight, **kept(self))


def _check_logits(logits: Tensor) -> None:
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        came = f"a tensor of {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits must be a floating-point tensor; got {came}.")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have shape (..., classes) with at least one class; got {tuple(logits.shape)}.")


def _returned(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _finite(logits: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return finite logits over scale, and which classes have no chance: -inf, or beside one that is +inf."""
    mu = logits.to(torch.float32 if logits.device.type == "mps" else torch.float64) / scale
    certain = mu == math.inf
    mu = torch.where(certain.any(-1, keepdim=True), torch.where(certain, 0, -math.inf), mu)
    absent = mu == -math.inf
    mu = torch.where(absent, -math.inf, mu)
    # From the best one, so that differences keep their digits; an absent class is too far below for any noise.
    top = mu.detach().amax(-1, keepdim=True)
    return torch.where(absent, -FAR, mu - torch.where(top.isinf(), 0, top)), absent


# --- the integral ----------------------------------------------------------------------------------------------------


class _LogProbs(torch.autograd.Function):
    """log p of the classes named, or of all, as a sum over nodes; with its gradient an integral over the same nodes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mu: Tensor, classes: Tensor | None, z: Tensor, log_width: Tensor, noise: str) -> tuple[Tensor, Tensor]:
        level = _log_cdf_of_all(DENSITIES[noise], z, mu) + log_width
        chosen = mu if classes is None else mu.gather(-1, classes)
        log_r = _log_r(noise, z)
        log_p = [torch.logsumexp(log_r(part) + level.unsqueeze(1), -1) for part in _blocks(z, chosen)]
        return torch.cat(log_p, -1), level

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        mu, classes, z, log_width, ctx.noise = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(mu, classes, z, log_width, *output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        mu, classes, z, log_width, log_p, level = ctx.saved_tensors
        density = DENSITIES[ctx.noise]
        if torch.is_grad_enabled() and not traced():
            if density.kink is not None:
                raise RuntimeError(
                    f"{ctx.noise} noise has no second derivatives here; gumbel, normal and logistic noise have them."
                )
            level = _log_cdf_of_all(density, z, mu) + log_width  # once more, with its derivative
        chosen, log_r = mu if classes is None else mu.gather(-1, classes), _log_r(ctx.noise, z)
        hazard = sum((log_r(part).exp().sum(1) for part in _blocks(z, mu)), torch.zeros_like(z))
        pull, own = torch.zeros_like(z), []
        for part, log_p_of, grad in zip(*(_blocks(z, x) for x in (chosen, log_p, grads[0])), strict=True):
            # Where z lies, given that a class wins: a share of each node.
            possible = (log_p_of > -math.inf).unsqueeze(-1)
            share = torch.where(possible, (log_r(part) + level.unsqueeze(1) - log_p_of.unsqueeze(-1)).exp(), 0)
            pull = pull + (grad.unsqueeze(-1) * share).sum(1)
            own.append(grad * (share * hazard.unsqueeze(1)).sum(-1))
        slope = -torch.cat([(log_r(part).exp() * pull.unsqueeze(1)).sum(-1) for part in _blocks(z, mu)], -1)
        own = torch.cat(own, -1)
        return (slope + own if classes is None else slope.scatter_add(-1, classes, own)), None, None, None, None


def _blocks(z: Tensor, of_classes: Tensor) -> tuple[Tensor, ...]:
    """Cut what there is of each class, so that nodes x classes fit a block."""
    return of_classes.split(max(1, BLOCK // max(z.numel(), 1)), -1)


def _log_r(noise: str, z: Tensor) -> Callable[[Tensor], Tensor]:
    """Return log r of some classes at the nodes, (rows, classes, nodes)."""
    return lambda mu: DENSITIES[noise].log_ratio(z.unsqueeze(1) - mu.unsqueeze(-1))


def _log_cdf_of_all(density: Density, z: Tensor, mu: Tensor) -> Tensor:
    """Compute log G at nodes (rows, nodes)."""
    parts = (density.log_cdf(z.unsqueeze(1) - part.unsqueeze(-1)).sum(1) for part in _blocks(z, mu))
    return sum(parts, torch.zeros_like(z))


def _rows(mu: Tensor) -> tuple[Tensor, ...]:
    return mu.split(max(1, BLOCK // (POINTS * mu.shape[-1])))


# --- where to look ---------------------------------------------------------------------------------------------------


def _nodes_of_all(density: Density, mu: Tensor) -> tuple[Tensor, Tensor]:
    """Choose nodes and the logarithms of their weights that serve every class of a row: (rows, nodes) each."""
    top, above = mu.amax(-1), density.above(38 + math.log(mu.shape[-1]))
    low, high = torch.maximum(mu.amin(-1) - density.below, top - density.depth), top + above
    low, high = _look(lambda z: _log_cdf_of_all(density, z, mu), low, high, DEPTH)
    count = math.ceil((density.depth + above) / density.step)
    if not traced():
        widest = float((high - low).nan_to_num().amax()) if len(mu) else 0.0
        count = min(count, math.ceil(widest / density.step) + 1)
    if density.kink is None:
        return _trapezoid(low, high, count)
    # A class may win where G is tiny, so panels are short where G is steep: one for eight powers of e.
    z = _spread(low, high, 4 * POINTS)
    level = _log_cdf_of_all(density, z, mu).clamp(min=-DEPTH)
    wanted = level[:, :1] + (level[:, -1:] - level[:, :1]) * torch.linspace(
        0, 1, LEVELS, dtype=z.dtype, device=z.device
    )
    steps = z.gather(-1, torch.searchsorted(level.contiguous(), wanted.contiguous()).clamp(max=z.shape[-1] - 1))
    return _panels(density, mu, low, high, max(PANELS, count), steps)


def _log_prob_of(noise: str, mu: Tensor, classes: Tensor) -> Tensor:
    """Compute log p of one class a row, however small it is, (..., 1)."""
    density, parts = DENSITIES[noise], []
    flat, ids = mu.reshape(-1, mu.shape[-1]), classes.reshape(-1, 1)
    for rows, y in zip(_rows(flat), ids.split(len(_rows(flat)[0]) if len(flat) else 1), strict=True):
        with torch.no_grad():
            mine, top = rows.gather(-1, y), rows.amax(-1)
            low = torch.maximum(mine.squeeze(-1) - density.below, top + density.start)
            high = top + density.above(38 + math.log(mu.shape[-1]))

            def exponent(z: Tensor, rows: Tensor = rows, mine: Tensor = mine) -> Tensor:
                return density.log_ratio(z - mine) + _log_cdf_of_all(density, z, rows)

            low, high = _look(exponent, low, high, PEAK)
            if density.kink is None:
                # Between two distant classes logistic noise has a plateau, as long as their distance.
                widest = MANY * density.step / 8 if traced() else float((high - low).nan_to_num().amax())
                count = min(max(math.ceil(widest / density.step), 4 * POINTS), MANY)
                z, log_width = _trapezoid(low, high, count)
            else:
                z, log_width = _panels(density, rows, low, high, PANELS)
        parts.append(_LogProbs.apply(rows, y, z, log_width, noise)[0])
    return torch.cat(parts).reshape(classes.shape) if parts else mu[..., :1]


def _look(exponent: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, drop: float) -> tuple[Tensor, Tensor]:
    """Narrow a window of each row to where a concave exponent is within `drop` of its largest value."""
    for _ in range(LOOKS):
        width = (high - low) / POINTS
        value = exponent(_spread(low, high, POINTS))
        inside = (value >= value.amax(-1, keepdim=True) - drop).to(torch.uint8)
        first, last = inside.argmax(-1), POINTS - 1 - inside.flip(-1).argmax(-1)
        low, high = low + width * (first - 0.5).clamp(min=0), low + width * (last + 1.5).clamp(max=POINTS)
    return low, high


def _spread(low: Tensor, high: Tensor, count: int) -> Tensor:
    """Place points in the middle of equal parts, (rows, count)."""
    middle = (torch.arange(count, dtype=low.dtype, device=low.device) + 0.5) / count
    return low.unsqueeze(-1) + (high - low).unsqueeze(-1) * middle


def _trapezoid(low: Tensor, high: Tensor, count: int) -> tuple[Tensor, Tensor]:
    return _spread(low, high, count), ((high - low) / count).log().unsqueeze(-1).expand(-1, count)


def _panels(
    density: Density, mu: Tensor, low: Tensor, high: Tensor, count: int, steps: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cut windows at every kink and into `count` equal parts, and put a Gauss-Legendre rule into each panel."""
    kinks = mu + (density.kink or 0.0)
    inside = (kinks > low.unsqueeze(-1)) & (kinks < high.unsqueeze(-1))
    kinks = torch.where(inside, kinks, high.unsqueeze(-1)).sort(-1).values
    if not traced() and len(mu):
        # Each but once: logits are often equal.
        new = torch.cat((kinks[:, :1] < high.unsqueeze(-1), kinks.diff(dim=-1) > 0), -1)
        most = int(new.sum(-1).amax())
        kinks = torch.where(new, kinks, high.unsqueeze(-1)).sort(-1).values[:, :most]
    even = torch.linspace(0, 1, count + 1, dtype=mu.dtype, device=mu.device)
    edges = [low.unsqueeze(-1) + (high - low).unsqueeze(-1) * even, kinks]
    edges = torch.cat(edges if steps is None else [*edges, steps], -1).sort(-1).values
    point, weight = (x.to(mu) for x in GAUSS)
    width = edges.diff(dim=-1).unsqueeze(-1) / 2
    z = edges[:, :-1].unsqueeze(-1) + width * (point + 1)
    return z.flatten(1), (width * weight).log().flatten(1)
