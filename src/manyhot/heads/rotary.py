"""Rotary positions: a turn of each token's vector, so that products of two depend on their distance."""

import torch
from torch import Tensor


def rotary(x: Tensor, *, base: float = 10000.0, start: int = 0) -> Tensor:
    r"""Turn the pairs (2m, 2m + 1) of token i by the angle ``i * base**(-2m / size)``.

    .. math::
        (R_i q)\cdot(R_j k) = q\cdot R_{j-i}\,k

    so that the product of a turned query and a turned key depends on how far apart their tokens are, and no longer on
    where: a head can tell a span of two tokens from one of twenty.

    Args:
        x: (..., length, size), any floating dtype, size even.
        base: the slowest pair turns once in about 2 pi base tokens.
        start: the position of the first token.

    Returns:
        The shape and dtype of x; angles and products are float32 at least.

    Raises:
        TypeError: x that is not floating-point.
        ValueError: an odd size, fewer than two axes.

    Example:
        >>> import torch, manyhot
        >>> manyhot.rotary(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor([[1.0000, 0.0000],
                [0.5403, 0.8415]])

    References:
        Su et al., RoFormer, arXiv 2104.09864; kexue.fm/archives/8265.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor; got {x.dtype if isinstance(x, Tensor) else type(x)}.")
    if x.ndim < 2 or x.shape[-1] % 2 or x.shape[-1] == 0:
        raise ValueError(f"x must have shape (..., length, size) with an even size; got {tuple(x.shape)}.")
    length, size = x.shape[-2:]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    # In float64, on a CPU: at position 100,000 an angle in float32 is off by 0.004.
    speed = float(base) ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.arange(start, start + length, dtype=torch.float64).unsqueeze(-1) * speed
    cos, sin = (f.to(x.device, dtype) for f in (angle.cos(), angle.sin()))
    even, odd = x[..., 0::2].to(dtype), x[..., 1::2].to(dtype)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)
