"""The product of two matrices that are known by their logarithms: the primitive of losses that couple tasks."""

from typing import Any

import torch
from torch import Tensor

from manyhot.logsumexp import logsumexp
from manyhot.tracing import traced

# Numbers in one block of the streamed sum: 1 MB of float32 stays in the cache.
BLOCK = 1 << 18


def log_matmul_exp(a: Tensor, b: Tensor) -> Tensor:
    r"""Log of the matrix product of two exponentials: the matrix product in which log-sum-exp takes the place of sum.

    .. math::
        c_{jk} = \log\sum_i e^{a_{ji} + b_{ik}}

    Use it where a sum over i of products is wanted and the factors are logarithms of any size: class against class in
    :func:`manyhot.multiway_loss`, one step of a hidden Markov model. For sums without a product use
    ``torch.logsumexp``.

    Args:
        a: (..., j, i), any floating dtype.
        b: (..., i, k), leading axes that broadcast with those of `a`.

    Returns:
        (..., j, k), float32 (float64 where `a` or `b` is); -inf where no term is left.

    Raises:
        TypeError: what is no floating-point tensor.
        ValueError: inner sizes that differ.

    Reduces to:
        ``torch.logsumexp(a, -1)`` where b is a column of zeros; ``(a.exp() @ b.exp()).log()`` where nothing overflows.

    Numerics:
        One matrix product of ``e^(a - max)`` and ``e^(b - max)``, maxima of the rows of `a` and the columns of `b`,
        where each entry of it keeps all its digits; otherwise a sum over i in blocks, j i k exponentials, exact for
        exponents of any size, in memory of inputs and output. Which of the two is decided by one look at the product:
        on a GPU that waits for the device. Under torch.compile and torch.func nothing is looked at, and the sum is
        written out, which takes j i k numbers of memory where the compiler does not fuse it. -inf is a factor of 0, and
        takes its term away also beside +inf or NaN; +inf gives +inf and no gradient. Second derivatives exist.

    Example:
        >>> import torch, manyhot
        >>> manyhot.log_matmul_exp(torch.tensor([[-200.0, 0.0]]), torch.tensor([[200.0], [1.0]]))
        tensor([[1.3133]])
    """
    for name, x in (("a", a), ("b", b)):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            came = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{name} must be a floating-point tensor of logarithms; got {came}.")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(
            f"log_matmul_exp needs shapes (..., j, i) and (..., i, k); got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    a, b = a.to(dtype), b.to(dtype)
    if a.shape[-1] == 0:
        return a.sum(-1, keepdim=True) + b.sum(-2, keepdim=True) - torch.inf
    if traced():
        return logsumexp(_terms(a, b))
    product = _shifted_product(a, b)
    return _Streamed.apply(a, b) if product is None else product


def _shifted_product(a: Tensor, b: Tensor) -> Tensor | None:
    """Return the result by one matrix product, or None where an entry of it has lost digits."""
    rows, columns = a.detach().amax(-1, keepdim=True), b.detach().amax(-2, keepdim=True)
    # Not rows + columns: +inf and -inf would add to NaN.
    empty = (rows == -torch.inf) | (columns == -torch.inf)
    rows, columns = torch.where(rows.isfinite(), rows, 0), torch.where(columns.isfinite(), columns, 0)
    product = exact_product((a - rows).exp(), (b - columns).exp())
    # What underflowed is below tiny a term, far beyond the last digit of such an entry; and the second derivative,
    # which divides by its square, stays finite.
    right = (product >= torch.finfo(a.dtype).tiny ** 0.4) & product.isfinite()
    if not bool((right | empty).all()):
        return None
    return torch.where(empty, -torch.inf, torch.where(empty, 1, product).log() + rows + columns)


def exact_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product in the type of its factors: autocast would round them, in backward too."""
    return _Product.apply(a, b)  # pyright: ignore


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        with torch.autocast(a.device.type, enabled=False):
            return a @ b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        of_a, of_b = exact_product(grads[0], b.mT), exact_product(a.mT, grads[0])
        return of_a.sum_to_size(a.shape), of_b.sum_to_size(b.shape)


class _Streamed(torch.autograd.Function):
    """The sum over i in blocks, forward and backward; nothing of size j i k is kept."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        c = torch.full((), -torch.inf, dtype=a.dtype, device=a.device)
        for block_a, block_b in _blocks(a, b):
            c = torch.logaddexp(c, logsumexp(_terms(block_a, block_b)))
        ctx.save_for_backward(a, b, c)
        return c

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c = ctx.saved_tensors
        # Neither an empty sum nor an infinite one has a gradient.
        infinite = c.isinf().unsqueeze(-1)
        c, grad = torch.where(infinite, 0, c.unsqueeze(-1)), grads[0].unsqueeze(-1)
        of_a, of_b = [], []
        for block_a, block_b in _blocks(a, b):
            terms = torch.where(infinite, -torch.inf, _terms(block_a, block_b))
            share = (terms - c).exp() * grad
            of_a.append(share.sum(-2).sum_to_size(block_a.shape))
            of_b.append(share.sum(-3).mT.sum_to_size(block_b.shape))
        return torch.cat(of_a, -1), torch.cat(of_b, -2)


def _blocks(a: Tensor, b: Tensor) -> zip:
    """Cut both along i, so that the terms of a block fit the cache."""
    lead = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    size = max(1, BLOCK // max(1, lead.numel() * a.shape[-2] * b.shape[-1]))
    return zip(a.split(size, -1), b.split(size, -2), strict=True)


def _terms(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b, (..., j, k, i), where -inf on either side leaves no term."""
    a, b = a.unsqueeze(-2), b.mT.unsqueeze(-3)
    return torch.where((a == -torch.inf) | (b == -torch.inf), -torch.inf, a + b)
