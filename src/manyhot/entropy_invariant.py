"""Softmax whose spread does not grow with the number of options, and attention with it.

softmax(kappa log(n) s)              n the options of the row
attention softmax(kappa log(n) Q K^T / d) V
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# At this many keys the default attention is the usual one, with 1/sqrt(d).
USUAL = 512


def entropy_invariant_softmax(
    logits: Tensor, *, kappa: float = 1.0, dim: int = -1, mask: Tensor | None = None
) -> Tensor:
    r"""Softmax with the logits multiplied by the logarithm of the number of options.

    .. math::
        p = \mathrm{softmax}(\kappa\log(n)\,s)

    The entropy of a plain softmax of logits of one spread grows as log n: with more options it chooses less. Here it
    stays where it is. Use it where rows differ in their number of options: attention, choices among candidates. Where
    n is the same everywhere it is a temperature.

    Args:
        logits: any floating dtype; options along `dim`.
        kappa: > 0, sharpness.
        dim: the axis of the options.
        mask: boolean, broadcastable to logits, False for what is no option of its row. A logit of -inf is none either.

    Returns:
        float32 (float64 for float64 logits), shape of logits, 0 where masked; rows sum to 1. One option has 1; a row
        without options is all 0 and has no gradient.

    Raises:
        TypeError: logits that are not floating-point, a mask that is not boolean.
        ValueError: kappa that is not positive, a mask that does not fit.

    Numerics:
        Of N(0, 1) logits, from n = 64 to 16,384, the mean entropy stays in 2.5 to 2.9 at kappa .5 and in 1.9 to 2.3 at
        .6, while that of plain softmax grows by 5.5. Logits that hardly differ have an entropy near log n whatever
        kappa is.

    Example:
        >>> import torch, manyhot
        >>> logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [2.0, 1.0, 0.0, -1.0]])
        >>> mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
        >>> manyhot.entropy_invariant_softmax(logits, mask=mask)
        tensor([[0.7529, 0.1882, 0.0471, 0.0118],
                [0.6667, 0.3333, 0.0000, 0.0000]])

    References:
        Su, kexue.fm/archives/8823 and 9034.
    """
    return _log_softmax(logits, kappa, dim, mask).exp()


def log_entropy_invariant_softmax(
    logits: Tensor, *, kappa: float = 1.0, dim: int = -1, mask: Tensor | None = None
) -> Tensor:
    """Logarithm of :func:`entropy_invariant_softmax`, same arguments: -inf where masked, and in a row without options.

    Example:
        >>> import torch, manyhot
        >>> manyhot.log_entropy_invariant_softmax(torch.tensor([0.0, 0.0, -torch.inf]))
        tensor([-0.6931, -0.6931,    -inf])
    """
    return _log_softmax(logits, kappa, dim, mask)


def _log_softmax(logits: Tensor, kappa: float, dim: int, mask: Tensor | None) -> Tensor:
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        came = f"a tensor of {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits must be a floating-point tensor; got {came}.")
    if not 0 < kappa < math.inf:
        raise ValueError(f"kappa must be positive; got {kappa}.")
    option = logits != -torch.inf
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError(f"mask must be boolean, True for options; got {mask.dtype}. Use mask.bool().")
        try:
            option = option & mask.expand(logits.shape)
        except RuntimeError:
            raise ValueError(
                f"mask must broadcast to logits, {tuple(logits.shape)}; got {tuple(mask.shape)}."
            ) from None
    s = logits if logits.dtype == torch.float64 else logits.float()
    count = option.sum(dim, keepdim=True)
    # Rows without options are computed as if all were, and thrown away: no NaN on the way there or back.
    kept = option | (count == 0)
    # One option has 1 whatever its logit is, if +inf; and infinity times log 1 is no number.
    s = torch.where(option & (count > 1), s, 0) * (kappa * count.clamp(min=1).to(s.dtype).log())
    log_p = torch.log_softmax(torch.where(kept, s, -torch.inf), dim)
    return torch.where(option, log_p, -torch.inf)


def entropy_invariant_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    kappa: float | None = None,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    enable_gqa: bool = False,
) -> Tensor:
    r"""Attention with :func:`entropy_invariant_softmax`: as sharp over many keys as over few.

    .. math::
        \mathrm{softmax}\Big(\frac{\kappa\log n_i}{d}\,QK^\top\Big)V

    with d the size of a head and n_i the number of keys that query i may see: all of them, i + 1 where `is_causal`, or
    the True entries of row i of a boolean mask. A drop-in for `torch.nn.functional.scaled_dot_product_attention`, which
    does the work, so that its fused kernels stay in use and no matrix of attention is made.

    Use it in models that are tested on lengths other than those they were trained on.

    Args:
        query: (..., queries, d), any floating dtype.
        key: (..., keys, d).
        value: (..., keys, e).
        kappa: > 0. None is sqrt(d) / log 512, at which 512 keys are attended to as usual, with 1/sqrt(d).
        attn_mask: boolean, True where a key is seen, or numbers added to the logits, -inf where it is not;
            broadcastable to (..., queries, keys).
        is_causal: query i sees the keys 0 to i; not together with a mask.
        dropout_p: share of attention weights that are dropped. As in torch's, always: pass 0 outside of training.
        enable_gqa: fewer heads of keys and values than of queries.

    Returns:
        (..., queries, e), dtype of query; 0 for a query that sees no key.

    Raises:
        ValueError: kappa that is not positive, `is_causal` together with a mask.

    Reduces to:
        ``scaled_dot_product_attention`` at 512 keys with the default kappa.

    Example:
        >>> import torch, manyhot
        >>> query, key, value = torch.randn(3, 2, 8, 512, 16).unbind(0)
        >>> usual = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        >>> torch.allclose(manyhot.entropy_invariant_attention(query, key, value), usual, atol=1e-6)
        True

    References:
        Su, kexue.fm/archives/8823 and 9034.
    """
    size, keys = query.shape[-1], key.shape[-2]
    if kappa is None:
        kappa = math.sqrt(size) / math.log(USUAL)
    if not 0 < kappa < math.inf:
        raise ValueError(f"kappa must be positive; got {kappa}.")
    scale = kappa / size
    if attn_mask is not None:
        if is_causal:
            raise ValueError("is_causal and attn_mask exclude each other: put the causal triangle into the mask.")
        seen = attn_mask if attn_mask.dtype == torch.bool else attn_mask != -torch.inf
        count = seen.expand(*seen.shape[:-1], keys).sum(-1, keepdim=True)
    elif is_causal:
        count = torch.arange(1, query.shape[-2] + 1, device=query.device).clamp(max=keys).unsqueeze(-1)
    else:
        count = None
    if count is None:
        scale *= math.log(max(keys, 1))
    else:
        query = query * count.clamp(min=1).float().log().to(query.dtype)
    return F.scaled_dot_product_attention(
        *(query, key, value, attn_mask, dropout_p, is_causal), scale=scale, enable_gqa=enable_gqa
    )
