"""Probabilities from noise: how often each logit is the largest once noise is added; accuracy under noise as a loss.

p_i = P(s_i + e_i is the largest)             e independent; an integral, see largest.py
EXACT: -p_y or -log p_y                       of the class y
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from manyhot.largest import BLOCK, DENSITIES, log_prob_of, log_probs
from manyhot.losses.hyperparameters import LossModule, keep, kept
from manyhot.losses.one_class import one_class
from manyhot.reduction import Reduction, reduce

Noise = Literal["gumbel", "normal", "logistic", "laplace", "exponential", "uniform"]

# So many scales of the noise below another logit, a class never wins.
FAR = 1e6
# The same for noise that is drawn, whose last digits still count at this distance.
DRAWN_FAR = 1e4


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
        return torch.where(absent, -math.inf, log_probs(self.noise, mu))

    @torch.no_grad()
    def inclusion_probabilities(
        self, logits: Tensor, k: int, *, samples: int = 1000, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate how often each label is among the k largest after noise, by sampling; k = 1 estimates `probs`.

        The error of a probability p is about sqrt(p (1 - p) / samples). No gradient. Labels of +inf come first, of
        -inf last, equal ones by chance.

        Returns:
            The shape of logits (..., labels), float32 (float64 for float64 logits), each row summing to k.
        """
        _check_logits(logits)
        if not 0 <= k <= logits.shape[-1]:
            raise ValueError(f"k must lie in 0 to {logits.shape[-1]}, the number of labels; got {k}.")
        if samples < 1:
            raise ValueError(f"samples must be 1 or more; got {samples}.")
        mu = logits.to(_wide(logits)) / self.scale
        finite = mu.isfinite()
        # From the best one, so that the digits of the noise are kept.
        mu = mu - _or_0(torch.where(finite, mu, -math.inf).amax(-1, keepdim=True))
        least = _or_0(torch.where(finite, mu, math.inf).amin(-1, keepdim=True))
        mu = torch.where(finite, mu, torch.where(mu > 0, DRAWN_FAR, least - DRAWN_FAR))
        counts = torch.zeros_like(mu)
        at_once = max(1, BLOCK // max(mu.numel(), 1))
        for start in range(0, samples, at_once):
            shape = (min(at_once, samples - start), *mu.shape)

            def draw(shape: tuple[int, ...] = shape) -> Tensor:
                return torch.empty(shape, dtype=mu.dtype, device=mu.device).exponential_(generator=generator)

            noise = -draw().log() if self.noise == "gumbel" else DENSITIES[self.noise].sample(draw)
            chosen = (mu + noise).topk(k, dim=-1).indices
            counts += torch.zeros_like(noise).scatter_(-1, chosen, 1).sum(0)
        return (counts / samples).to(_returned(logits))


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
        log_p = log_prob_of(noise, mu, y)
    log_p = torch.where(absent.gather(-1, y), -math.inf, log_p).squeeze(-1)
    loss = (-log_p if log else -log_p.exp()).to(rows.logits.dtype)
    return reduce(loss, known_rows=rows.known_rows, sample_weight=sample_weight, reduction=reduction)


class ExactLoss(LossModule):
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


def _wide(logits: Tensor) -> torch.dtype:
    return torch.float32 if logits.device.type == "mps" else torch.float64


def _or_0(values: Tensor) -> Tensor:
    return torch.where(values.isinf(), 0, values)


def _finite(logits: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return finite logits over scale, and which classes have no chance: -inf, or beside one that is +inf."""
    mu = logits.to(_wide(logits)) / scale
    certain = mu == math.inf
    mu = torch.where(certain.any(-1, keepdim=True), torch.where(certain, 0, -math.inf), mu)
    absent = mu == -math.inf
    mu = torch.where(absent, -math.inf, mu)
    # From the best one, so that differences keep their digits; an absent class is too far below for any noise, also
    # halfway to the last of the others, where that one would win.
    mu = mu - _or_0(mu.detach().amax(-1, keepdim=True))
    least = _or_0(torch.where(absent, math.inf, mu.detach()).amin(-1, keepdim=True))
    return torch.where(absent, (2 * least - FAR).clamp(min=torch.finfo(mu.dtype).min), mu), absent
