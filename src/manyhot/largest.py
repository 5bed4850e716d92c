"""The probability that each of some numbers is the largest once noise is added to all: an integral for each of them.

p_i = integral r(z - s_i) G(z) dz                                   e independent, density f, distribution function F
G(z) = prod_j F(z - s_j), r = f/F                                   z the largest of all: one grid serves every i
dp_i/ds_k = -integral r(z - s_i) r(z - s_k) G(z) dz, k != i         symmetric, rows sum to 0, no derivative of f

In logarithms throughout. Every density here is log-concave, so each integrand has one peak, and a window around it is
found by looking.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyhot.tracing import traced

# Below e^-745 nothing is left in float64; a peak that is e^45 higher swallows what is beside it.
DEPTH, PEAK = 745.0, 45.0
# Numbers that are in memory at a time, of each of a few tensors.
BLOCK = 2**18
LOOKS, POINTS = 4, 64
PANELS, LEVELS, MANY = 32, 96, 2**13
GAUSS = tuple(x.tolist() for x in np.polynomial.legendre.leggauss(8))


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


def log_probs(noise: str, mu: Tensor) -> Tensor:
    """Compute log p of every class, (..., classes); mu finite, its best class near 0."""
    density, parts = DENSITIES[noise], []
    for rows in _rows(mu.reshape(-1, mu.shape[-1])):
        with torch.no_grad():
            z, log_width = _nodes_of_all(density, rows)
        parts.append(_LogProbs.apply(rows, None, z, log_width, noise)[0])
    return torch.cat(parts).reshape(mu.shape)


def log_prob_of(noise: str, mu: Tensor, classes: Tensor) -> Tensor:
    """Compute log p of one class a row, however small it is, (..., 1)."""
    density, parts = DENSITIES[noise], []
    of_rows = _rows(mu.reshape(-1, mu.shape[-1]))
    for rows, y in zip(of_rows, classes.reshape(-1, 1).split([len(rows) for rows in of_rows]), strict=True):
        with torch.no_grad():
            mine, top = rows.gather(-1, y), rows.amax(-1)
            low = torch.maximum(mine.squeeze(-1) - density.below, top + density.start)
            high = top + density.above(38 + math.log(mu.shape[-1]))

            def exponent(z: Tensor, rows: Tensor = rows, mine: Tensor = mine) -> Tensor:
                return density.log_ratio(z - mine) + _log_cdf_of_all(density, z, rows)

            low, high = _look(exponent, low, high, PEAK)
            if density.kink is None:
                # Between two distant classes logistic noise has a plateau, as long as their distance.
                widest = MANY * density.step / 8 if traced() else _widest(low, high)
                count = min(max(math.ceil(widest / density.step), 4 * POINTS), MANY)
                z, log_width = _trapezoid(low, high, count)
            else:
                z, log_width = _panels(density, rows, low, high, PANELS)
        parts.append(_LogProbs.apply(rows, y, z, log_width, noise)[0])
    return torch.cat(parts).reshape(classes.shape)


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
        # Whether more derivatives follow is not known here: torch.func enables gradients in the first one too.
        transformed = torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore
        differentiable = torch.is_grad_enabled() and (transformed or not traced())
        if differentiable and density.kink is None:
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
        slope = slope + own if classes is None else slope.scatter_add(-1, classes, own)
        if differentiable and density.kink is not None:
            slope = _NoMoreDerivatives.apply(slope, ctx.noise)
        return slope, None, None, None, None  # pyright: ignore


class _NoMoreDerivatives(torch.autograd.Function):
    """The identity, up to here: a density with kinks has derivatives that the integral over nodes does not see."""

    generate_vmap_rule = True

    @staticmethod
    def forward(slope: Tensor, noise: str) -> Tensor:
        return slope.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.noise = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(
            f"{ctx.noise} noise has no second derivatives here; gumbel, normal and logistic noise have them."
        )


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
        count = min(count, math.ceil(_widest(low, high) / density.step) + 1)
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


def _look(exponent: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, drop: float) -> tuple[Tensor, Tensor]:
    """Narrow a window of each row to where a concave exponent is within `drop` of its largest value."""
    for _ in range(LOOKS):
        width = (high - low) / POINTS
        value = exponent(_spread(low, high, POINTS))
        inside = (value >= value.amax(-1, keepdim=True) - drop).to(torch.uint8)
        first, last = inside.argmax(-1), POINTS - 1 - inside.flip(-1).argmax(-1)
        low, high = low + width * (first - 0.5).clamp(min=0), low + width * (last + 1.5).clamp(max=POINTS)
    return low, high


def _widest(low: Tensor, high: Tensor) -> float:
    return (high - low).nan_to_num().max().item() if len(low) else 0.0


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
    point, weight = (mu.new_tensor(x) for x in GAUSS)
    width = edges.diff(dim=-1).unsqueeze(-1) / 2
    z = edges[:, :-1].unsqueeze(-1) + width * (point + 1)
    return z.flatten(1), (width * weight).log().flatten(1)
