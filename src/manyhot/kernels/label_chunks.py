"""The sums of a linear layer over its labels, in chunks: the logits of a chunk are made, used and forgotten.

    e = scale (x W^T + b - shift)

    sums    neg and pos of each row; backward makes e again and from it G, the gradient of the chunk's logits
    bce     binary cross-entropy of each row, the same way; or weighted and added up, with G made in the forward pass

G goes into dX += G W, dW = G^T x and db, and is forgotten too.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from manyhot.parallel import LabelShard
from manyhot.targets import IndexTargets

# (weight, gradient, labels): changes rows `labels` of the layer's weight, which it gets as a view, in place.
Update = Callable[[Tensor, Tensor, slice], None]

CELLS = 1 << 19  # of a chunk of logits on the CPU: 2 MB, which the cache of a core holds
WEIGHTS = 1 << 22  # of a chunk of weights, whatever the rows


class Positives(NamedTuple):
    """Listed labels, each once, by label and within it by row; those of chunk i from starts[i] to starts[i + 1]."""

    row: Tensor
    label: Tensor
    target: Tensor | None  # None where all are 1
    starts: list[int]


class Layer(NamedTuple):
    """A checked linear layer with its inputs and positives."""

    features: Tensor  # (rows, in_features)
    weight: Tensor  # (labels, in_features)
    bias: Tensor | None  # (labels,) in dtype
    shift: Tensor | None  # (rows,) in dtype
    positives: Positives
    scale: float
    chunk: int
    update: Update | None
    shard: LabelShard | None
    dtype: torch.dtype  # of all that is computed from logits
    products: torch.dtype  # of the factors of a product


def chunk_size(rows: int, labels: int, in_features: int, device: torch.device) -> int:
    """Return how many labels to take at a time."""
    cells, weights = CELLS, WEIGHTS
    if device.type != "cpu":
        # A kernel is launched for each pass over a chunk, so chunks are as large as memory lets them be.
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 1 << 30
        cells = weights = min(max(free // 64, 1 << 22), 1 << 28)
    size = min(cells // max(rows, 1), weights // in_features) // 64 * 64
    return min(max(size, 64), labels)


def positives(targets: IndexTargets, rows: int, labels: slice, chunk: int, dtype: torch.dtype) -> Positives:
    """Sort listed labels within a slice of all, each once; of one that is listed twice the larger target counts."""
    ids, soft = targets.labels, targets.soft
    if targets.offsets is None:
        row = torch.arange(rows, device=ids.device).unsqueeze(-1).expand(rows, ids.shape[-1]).reshape(-1)
        ids, soft = ids.reshape(-1), None if soft is None else soft.reshape(-1)
    else:
        row = torch.repeat_interleave(targets.offsets.diff(), output_size=len(ids))
    here = (ids >= labels.start) & (ids < labels.stop)
    key = (ids[here] - labels.start) * rows + row[here]
    if soft is None:
        key, target = key.unique(), None
    else:
        soft = soft[here].to(dtype)
        key, place = key.unique(return_inverse=True)
        target = soft.new_zeros(len(key)).scatter_reduce_(0, place, soft, "amax")
    label = key // max(rows, 1)
    edges = torch.arange(0, labels.stop - labels.start + chunk, chunk, device=ids.device)
    return Positives(key - label * rows, label, target, torch.searchsorted(label, edges).tolist())


def sums(layer: Layer) -> tuple[Tensor, Tensor]:
    """Compute the two log-sum-exps of each row, (rows,): of e over negatives and of -e over positives."""
    return _Sums.apply(layer.features, layer.weight, layer.bias, layer.shift, layer)


def bce(layer: Layer, row_weight: Tensor | None) -> Tensor:
    """Compute binary cross-entropy, one number a row; with weights of the rows, (rows,), their weighted sum."""
    if row_weight is None:
        return _CrossEntropy.apply(layer.features, layer.weight, layer.bias, layer.shift, layer)
    return _SummedCrossEntropy.apply(layer.features, layer.weight, layer.bias, layer.shift, (layer, row_weight))


class _Cells(NamedTuple):
    """Where the positives of a chunk stand: places in the flat chunk, and their range among all positives."""

    place: Tensor
    which: slice


def _chunks(layer: Layer, x: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, _Cells]]:
    """Yield (labels, weight in the type of products, e, positives) of each chunk; e may be written to."""
    count, starts = len(layer.weight), layer.positives.starts
    for i, start in enumerate(range(0, count, layer.chunk)):
        labels = slice(start, min(start + layer.chunk, count))
        weight = layer.weight[labels].to(layer.products)
        bias = None if layer.bias is None else layer.bias[labels]
        if layer.products == layer.dtype and bias is not None:
            e = torch.addmm(bias, x, weight.T)
        else:
            e = torch.mm(x, weight.T).to(layer.dtype)
            if bias is not None:
                e += bias
        if layer.shift is not None:
            e -= layer.shift.unsqueeze(-1)
        if layer.scale != 1:
            e *= layer.scale
        which = slice(starts[i], starts[i + 1])
        place = layer.positives.row[which] * e.shape[1] + (layer.positives.label[which] - start)
        yield labels, weight, e, _Cells(place, which)


class _Gradients:
    """What backward returns, filled a chunk at a time."""

    def __init__(self, layer: Layer, x: Tensor, needed: Any) -> None:
        self.layer, self.x = layer, x
        rows, device, dtype = len(x), x.device, layer.dtype
        self.features = torch.zeros(x.shape, dtype=dtype, device=device) if needed[0] else None
        self.weight = torch.empty_like(layer.weight) if needed[1] and layer.update is None else None
        self.bias = torch.empty(len(layer.weight), dtype=dtype, device=device) if needed[2] else None
        self.shift = torch.zeros(rows, dtype=dtype, device=device) if needed[3] else None

    def add(self, labels: slice, weight: Tensor, gradient: Tensor) -> None:
        """Add what the gradient of a chunk's logits, (rows, labels of the chunk), gives; may change the weight."""
        if self.bias is not None:
            torch.sum(gradient, 0, out=self.bias[labels])
        if self.shift is not None:
            self.shift -= gradient.sum(1)
        factor = gradient.to(self.layer.products)
        if self.features is not None:
            if factor.dtype == self.features.dtype:
                self.features.addmm_(factor, weight)
            else:
                self.features += factor @ weight
        update = self.layer.update
        if update is not None:
            own = self.layer.weight.detach()[labels]
            update(own, (factor.T @ self.x).to(own.dtype), labels)
        elif self.weight is not None:
            if self.weight.dtype == factor.dtype:
                torch.mm(factor.T, self.x, out=self.weight[labels])
            else:
                self.weight[labels] = factor.T @ self.x

    def result(self) -> tuple[Tensor | None, ...]:
        if self.features is not None and self.layer.shard is not None:
            self.layer.shard.add(self.features)
        x = None if self.features is None else self.features.to(self.layer.features.dtype)
        return x, self.weight, self.bias, self.shift, None


class _Side(NamedTuple):
    """A log-sum-exp of each row as base + log(total): one number alone loses log(total) beside a base of 1e30."""

    base: Tensor
    total: Tensor

    @property
    def value(self) -> Tensor:
        return self.base + self.total.log()

    def factor(self, outer: Tensor) -> Tensor:
        """Return what exp(term - base) is multiplied with to be outer times the share of a term; 0 at both ends."""
        ends = (self.total == 0) | (self.total == math.inf)
        return torch.where(ends, 0, outer / torch.where(ends, 1, self.total)).to(outer.dtype)

    def merged(self, of_all: Tensor, own: Tensor) -> "_Side":
        """Take the sum of all processes in the place of that of this one."""
        # A process without a term has none of the sum of others either.
        empty = self.total == 0
        grown = torch.where(empty | (of_all == own), 0, of_all - own)
        return self._replace(total=torch.where(empty, 0, self.total * grown.exp()))


def _finite(peak: Tensor) -> Tensor:
    return torch.where(peak.isfinite(), peak, 0)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Any, shift: Any, layer: Layer) -> Any:
        with _no_autocast(features):
            negative, positive, p = _both_sides(layer)
        neg, pos = negative.value.to(layer.dtype), positive.value.to(layer.dtype)
        if layer.shard is not None:
            of_all = layer.shard.gathered(torch.stack((neg, pos))).logsumexp(0)
            negative, positive = negative.merged(of_all[0], neg), positive.merged(of_all[1], pos)
            neg, pos = of_all.unbind()
        ctx.save_for_backward(features, weight, bias, shift, p, *negative, *positive)
        ctx.layer = _without_tensors(layer)
        return neg, pos

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        _refuse_second_derivatives()
        features, weight, bias, shift, p, *sides = ctx.saved_tensors
        layer = ctx.layer._replace(features=features, weight=weight, bias=bias, shift=shift)
        negative, positive = _Side(*sides[:2]), _Side(*sides[2:])
        row, target = layer.positives.row, layer.positives.target
        with _no_autocast(features):
            x = features.to(layer.products)
            base = negative.base.to(layer.dtype).unsqueeze(-1)
            factor = negative.factor(layer.scale * outer[0]).unsqueeze(-1)
            infinite = (negative.total == math.inf).nonzero().squeeze(-1)
            share = (p - positive.base.to(layer.dtype)[row]).exp_() * positive.factor(layer.scale * outer[1])[row]
            share = torch.where(positive.total[row] == math.inf, 0, share)
            gradients = _Gradients(layer, x, ctx.needs_input_grad)
            for labels, chunk, e, cells in _chunks(layer, x):
                _take_out(e, cells, target)
                e.sub_(base).exp_().mul_(factor)
                if len(infinite):
                    e[infinite] = 0
                e.view(-1)[cells.place] -= share[cells.which]
                gradients.add(labels, chunk, e)
        return gradients.result()


def _both_sides(layer: Layer) -> tuple[_Side, _Side, Tensor]:
    """Return both sums, and the exponent of each positive."""
    x = layer.features.to(layer.products)
    row, target = layer.positives.row, layer.positives.target
    wide = layer.dtype if x.device.type == "mps" else torch.float64
    peak = torch.full((len(x),), -math.inf, dtype=layer.dtype, device=x.device)
    total = torch.zeros(len(x), dtype=wide, device=x.device)
    p = torch.empty(len(row), dtype=layer.dtype, device=x.device)
    for _, _, e, cells in _chunks(layer, x):
        p[cells.which] = -e.view(-1)[cells.place]
        _take_out(e, cells, target)
        new = torch.maximum(peak, e.amax(-1))
        base = _finite(new)
        total *= (peak - base).exp()
        total += e.sub_(base.unsqueeze(-1)).exp_().sum(-1)
        peak = new
    if target is not None:
        p += target.log()
    top = _finite(p.new_full((len(x),), -math.inf).scatter_reduce_(0, row, p, "amax"))
    of_positives = torch.zeros_like(total).index_add_(0, row, (p - top[row]).exp_().to(wide))
    return _Side(_finite(peak).to(wide), total), _Side(top.to(wide), of_positives), p


def _take_out(e: Tensor, cells: _Cells, target: Tensor | None) -> None:
    """Leave of positives what they have among the negatives: nothing, or log(1 - t) more."""
    if target is None:
        e.view(-1)[cells.place] = -math.inf
    else:
        t = target[cells.which]
        e.view(-1)[cells.place] = torch.where(t == 1, -math.inf, e.view(-1)[cells.place] + torch.log1p(-t))


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Any, shift: Any, layer: Layer) -> Tensor:
        with _no_autocast(features):
            loss = _cross_entropies(layer, None)
        if layer.shard is not None:
            loss = layer.shard.gathered(loss).sum(0)
        ctx.save_for_backward(features, weight, bias, shift)
        ctx.layer = _without_tensors(layer)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        _refuse_second_derivatives()
        features, weight, bias, shift = ctx.saved_tensors
        layer = ctx.layer._replace(features=features, weight=weight, bias=bias, shift=shift)
        with _no_autocast(features):
            x = features.to(layer.products)
            gradients = _Gradients(layer, x, ctx.needs_input_grad)
            for labels, chunk, e, cells in _chunks(layer, x):
                gradients.add(labels, chunk, _errors(e, cells, layer).mul_(outer[0].unsqueeze(-1)))
        return gradients.result()


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Any, shift: Any, job: Any) -> Tensor:
        layer, row_weight = job
        with _no_autocast(features):
            gradients = _Gradients(layer, features.to(layer.products), ctx.needs_input_grad)
            wanted = any(ctx.needs_input_grad[:4])
            loss = _cross_entropies(layer, (gradients, row_weight.unsqueeze(-1)) if wanted else None)
        if layer.shard is not None:
            loss = layer.shard.gathered(loss).sum(0)
        if wanted:
            ctx.save_for_backward(*gradients.result()[:4])
        # A row of weight 0 stays out of the sum even if its loss is infinite.
        return (torch.where(row_weight == 0, 0, loss) * row_weight).sum()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        _refuse_second_derivatives()
        one = outer[0] == 1
        return *(x if x is None or one else x * outer[0].to(x.dtype) for x in ctx.saved_tensors), None


def _cross_entropies(layer: Layer, gradients: tuple[_Gradients, Tensor] | None) -> Tensor:
    """Return one loss a row, and fill the gradients of their weighted sum on the way."""
    x, positives = layer.features.to(layer.products), layer.positives
    loss = torch.zeros(len(x), dtype=layer.dtype, device=x.device)
    for labels, chunk, e, cells in _chunks(layer, x):
        s = e.view(-1)[cells.place]
        # log(1 + e^s) - s is 0 to rounding at a large s, where log(1 + e^-s) has all its digits.
        e.view(-1)[cells.place] = -math.inf
        loss += F.softplus(e, threshold=40).sum(-1)
        terms = F.softplus(-s, threshold=40)
        if positives.target is not None:
            t = positives.target[cells.which]
            # At an infinite logit the side that does not count is no number.
            terms = torch.where(t == 0, 0, t * terms)
            terms = terms + torch.where(t == 1, 0, (1 - t) * F.softplus(s, threshold=40))
        loss.index_add_(0, positives.row[cells.which], terms)
        if gradients is not None:
            e.view(-1)[cells.place] = s
            gradients[0].add(labels, chunk, _errors(e, cells, layer).mul_(gradients[1]))
    return loss


def _errors(e: Tensor, cells: _Cells, layer: Layer) -> Tensor:
    """Turn logits into sigmoid(e) - t, in place."""
    s, target = e.view(-1)[cells.place], layer.positives.target
    e.sigmoid_()
    if target is None:
        e.view(-1)[cells.place] = -torch.sigmoid(-s)
    else:
        t = target[cells.which]
        e.view(-1)[cells.place] = (1 - t) * torch.sigmoid(s) - t * torch.sigmoid(-s)
    return e


def _no_autocast(features: Tensor) -> Any:
    """Leave the types as they were chosen: `products` is that of autocast already."""
    return torch.autocast(features.device.type, enabled=False)


def _without_tensors(layer: Layer) -> Any:
    # torch keeps and frees those that were saved.
    return layer._replace(features=None, weight=None, bias=None, shift=None)  # pyright: ignore


def _refuse_second_derivatives() -> None:
    """Raise in a backward pass that is itself to be differentiated: it runs with gradients enabled."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "a linear layer without its logits has first derivatives only; for second ones use the loss of its logits, "
            "manyhot.zlpr_loss(features @ weight.T, targets, impl='eager')."
        )
