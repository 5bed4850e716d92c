"""Steps of an optimiser on a chunk of weights, for the losses of :func:`manyhot.linear_zlpr_loss`.

    SGD        W -= lr (G + decay W)
    Adafactor  W -= lr (U / max(1, rms U) + decay W)      U = G / sqrt(V)      V = r c^T / mean(c)

Called inside of backward as ``update(weight, gradient, labels)``, once for each slice of labels, in their order.

A step is mostly smaller than the last digit of a bfloat16 weight, and rounded to nearest nothing would ever move: such
weights are rounded up or down at random, so that the mean is right (ELMO, arXiv 2510.11168).
"""

import torch
from torch import Tensor

from manyhot.losses.hyperparameters import LossModule


class SGDUpdate(LossModule):
    """Gradient descent on a chunk of weights: no state, so that training takes the memory of the weights alone.

    Args:
        lr: > 0, the length of a step; may be set between steps, as a schedule does.
        weight_decay: >= 0, a part of the gradient, as in torch.optim.SGD.

    Example:
        >>> import torch, manyhot
        >>> layer = manyhot.LinearZLPRLoss(4, 1000, update=manyhot.SGDUpdate(lr=0.5))
        >>> before = layer.weight.detach().clone()
        >>> layer(torch.ones(2, 4), manyhot.IndexTargets([[1], [2, 3]])).backward()
        >>> layer.weight.grad is None, torch.equal(layer.weight, before)
        (True, False)
    """

    def __init__(self, lr: float, *, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.lr, self.weight_decay = _checked("lr", lr), _checked("weight_decay", weight_decay)

    @torch.no_grad()
    def forward(self, weight: Tensor, gradient: Tensor, labels: slice) -> None:
        """Take a step on the weights of some labels, in place."""
        _step(weight, gradient, self.lr, self.weight_decay)


class AdafactorUpdate(LossModule):
    r"""Adafactor on a chunk of weights: a second moment for each label and one for each feature.

    .. math::
        r \leftarrow \beta r + (1-\beta)\,\text{mean}_j\,g_{ij}^2,\quad
        c \leftarrow \beta c + (1-\beta)\,\text{mean}_i\,g_{ij}^2,\quad
        v_{ij} = r_i c_j / \text{mean}(c), \qquad \beta = 1 - t^{-0.8}

    Steps are of about the same length for frequent and rare labels, where plain gradient descent hardly moves rare
    ones. The mean over labels is known after the last chunk, so c is that of the step before; in the first step it is
    the chunk's own. The state, labels + 2 features numbers, stands in `state_dict`.

    Args:
        num_labels: of the layer; with label_shard those of this process.
        in_features: of the layer.
        lr: > 0, the root mean square of a step; may be set between steps.
        weight_decay: >= 0, decoupled from the gradient, as in torch.optim.Adafactor.

    Example:
        >>> import torch, manyhot
        >>> layer = manyhot.LinearZLPRLoss(4, 1000, update=manyhot.AdafactorUpdate(1000, 4, lr=0.01))
        >>> layer(torch.ones(2, 4), manyhot.IndexTargets([[1], [2, 3]])).backward()
        >>> sorted(name for name, _ in layer.named_buffers())
        ['update.columns', 'update.gathered', 'update.rows', 'update.step']

    References:
        Shazeer and Stern, arXiv 1804.04235, without its relative steps.
    """

    rows: Tensor
    columns: Tensor
    gathered: Tensor
    step: Tensor

    def __init__(self, num_labels: int, in_features: int, lr: float, *, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.lr, self.weight_decay = _checked("lr", lr), _checked("weight_decay", weight_decay)
        self.register_buffer("rows", torch.zeros(num_labels))
        self.register_buffer("columns", torch.zeros(in_features))
        self.register_buffer("gathered", torch.zeros(in_features))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, weight: Tensor, gradient: Tensor, labels: slice) -> None:
        """Take a step on the weights of some labels, in place."""
        if labels.start == 0:
            self.step += 1
        first = int(self.step) == 1
        beta = 1 - int(self.step) ** -0.8
        g = gradient.float()
        square = g.square().add_(1e-30)
        self.gathered += square.sum(0)
        rows = self.rows[labels].mul_(beta).add_(square.mean(1), alpha=1 - beta)
        columns = square.mean(0) if first else self.columns
        moved = g / (rows.unsqueeze(-1) * (columns / columns.mean())).sqrt()
        length = moved.square().mean().sqrt().clamp(min=1)
        _step(weight, moved / length, self.lr, self.weight_decay)
        if labels.stop == len(self.rows):
            self.columns.mul_(beta).add_(self.gathered / len(self.rows), alpha=1 - beta)
            self.gathered.zero_()


def _step(weight: Tensor, direction: Tensor, lr: float, decay: float) -> None:
    """Subtract lr (direction + decay weight), in place."""
    if weight.dtype != torch.bfloat16:
        if decay:
            weight.mul_(1 - lr * decay)
        weight.sub_(direction.to(weight.dtype), alpha=lr)
        return
    exact = weight.float().mul_(1 - lr * decay).sub_(direction.float(), alpha=lr)
    # bfloat16 is the first half of a float32: what a random number below the other half carries over, rounds up.
    bits = exact.view(torch.int32)
    weight.copy_(((bits + torch.randint_like(bits, 1 << 16)) & -(1 << 16)).view(torch.float32))


def _checked(name: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be 0 or more; got {value}.")
    return value
