"""Softmax and attention whose entropy does not grow with the options, against sums written out."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import manyhot


def written_out(row: list[float], kappa: float) -> list[float]:
    """Return the softmax of a row of options, in Python."""
    terms = [math.exp(kappa * math.log(len(row)) * s) for s in row]
    return [term / sum(terms) for term in terms]


def test_rows_written_out() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.25, 0.0, -1.0, 2.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, True], [True, False, True, False]])
    got = manyhot.entropy_invariant_softmax(logits, kappa=0.7, mask=mask)
    assert got[0].tolist() == pytest.approx(written_out([1.0, -2.0, 0.5, 3.0], 0.7), rel=1e-12)
    assert got[1, [0, 2]].tolist() == pytest.approx(written_out([0.25, -1.0], 0.7), rel=1e-12)
    assert got[1, [1, 3]].tolist() == [0, 0]
    by_infinity = manyhot.entropy_invariant_softmax(torch.where(mask, logits, -math.inf), kappa=0.7)
    assert torch.equal(got, by_infinity)
    columns = manyhot.entropy_invariant_softmax(logits.mT, kappa=0.7, dim=0, mask=mask.mT)
    torch.testing.assert_close(columns, got.mT)
    log_p = manyhot.log_entropy_invariant_softmax(logits, kappa=0.7, mask=mask)
    torch.testing.assert_close(log_p.exp(), got)
    assert log_p[1, 1] == -math.inf


@pytest.mark.parametrize("function", [manyhot.entropy_invariant_softmax, manyhot.log_entropy_invariant_softmax])
def test_one_option_and_none(function: Any) -> None:
    logits = torch.tensor([[3.0, 1e30, math.nan], [1.0, math.inf, 2.0], [-math.inf] * 3]).requires_grad_()
    mask = torch.tensor([[True, False, False], [False, False, False], [True, True, True]])
    got = function(logits, mask=mask)
    p = got if function is manyhot.entropy_invariant_softmax else got.exp()
    assert p.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    (gradient,) = torch.autograd.grad(p.sum(), logits)
    assert gradient.tolist() == [[0, 0, 0]] * 3


def test_gradient(generator: torch.Generator) -> None:
    logits = torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    mask = torch.rand(3, 5, generator=generator) < 0.7
    assert torch.autograd.gradcheck(lambda s: manyhot.entropy_invariant_softmax(s, kappa=0.5, mask=mask), logits)


def test_dtypes(generator: torch.Generator) -> None:
    logits = torch.randn(4, 6, generator=generator)
    for dtype in (torch.float16, torch.bfloat16):
        got = manyhot.entropy_invariant_softmax(logits.to(dtype))
        assert got.dtype == torch.float32
        assert torch.equal(got, manyhot.entropy_invariant_softmax(logits.to(dtype).float()))


def entropy(p: Tensor) -> float:
    return float(torch.special.entr(p).sum(-1).mean())


@pytest.mark.parametrize(("kappa", "low", "high"), [(0.5, 2.56, 2.84), (0.6, 2.0, 2.26)])
def test_entropy_stays_where_it_is(kappa: float, low: float, high: float, generator: torch.Generator) -> None:
    sizes = (64, 512, 4096, 16384)
    drawn = [torch.randn(400, n, generator=generator) for n in sizes]
    found = [entropy(manyhot.entropy_invariant_softmax(s, kappa=kappa)) for s in drawn]
    plain = [entropy(s.softmax(-1)) for s in drawn]
    # The range over all sizes, measured with 4,000 rows a size; here the mean of a size has a standard error of .05.
    assert low - 0.15 < min(found)
    assert max(found) < high + 0.15
    assert plain[-1] - plain[0] == pytest.approx(5.5, abs=0.1)


# --- attention --------------------------------------------------------------------------------------------------------


def slowly(q: Tensor, k: Tensor, v: Tensor, kappa: float | None, seen: Tensor) -> Tensor:
    """Return attention with a matrix, row by row."""
    size = q.shape[-1]
    kappa = math.sqrt(size) / math.log(512) if kappa is None else kappa
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    seen = seen.expand(*q.shape[:-1], k.shape[-2])
    for place in torch.cartesian_prod(*map(torch.arange, q.shape[:-1])).tolist():
        head = place[:-1]
        keys = seen[tuple(place)].nonzero().flatten().tolist()
        if keys:
            logits = [float(q[tuple(place)] @ k[(*head, j)]) * math.log(len(keys)) * kappa / size for j in keys]
            top = max(logits)
            terms = [math.exp(x - top) for x in logits]
            out[tuple(place)] = sum(t / sum(terms) * v[(*head, j)] for t, j in zip(terms, keys, strict=True))
    return out


def drawn_heads(generator: torch.Generator, queries: int = 6, keys: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((2, 3, queries, 4), (2, 3, keys, 4), (2, 3, keys, 5))
    q, k, v = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return 3 * q, k, v


@pytest.mark.parametrize("kappa", [None, 0.7])
@pytest.mark.parametrize("keys", [4, 6, 9])
def test_attention_written_out(kappa: float | None, keys: int, generator: torch.Generator) -> None:
    q, k, v = drawn_heads(generator, keys=keys)
    mask = torch.rand(2, 1, 6, keys, generator=generator) < 0.6
    mask[0, 0, 2] = False
    causal = torch.ones(6, keys, dtype=torch.bool).tril()
    numbers = torch.where(mask, 0.0, -math.inf).double()
    for options, seen in (
        ({}, torch.ones(6, keys, dtype=torch.bool)),
        ({"is_causal": True}, causal),
        ({"attn_mask": mask}, mask),
        ({"attn_mask": numbers}, mask),
        ({"attn_mask": mask[..., :1]}, mask[..., :1]),
    ):
        got = manyhot.entropy_invariant_attention(q, k, v, kappa=kappa, **options)  # pyright: ignore
        torch.testing.assert_close(got, slowly(q, k, v, kappa, seen))


def test_a_query_that_sees_nothing(generator: torch.Generator) -> None:
    q, k, v = (x.requires_grad_() for x in drawn_heads(generator))
    mask = torch.ones(6, 6, dtype=torch.bool)
    mask[2] = False
    got = manyhot.entropy_invariant_attention(q, k, v, attn_mask=mask)
    assert not got[:, :, 2].any()
    assert all(g.isfinite().all() for g in torch.autograd.grad(got.sum(), (q, k, v)))


def test_at_512_keys_it_is_the_usual_attention(generator: torch.Generator) -> None:
    q, k, v = torch.randn(3, 1, 2, 512, 8, generator=generator).unbind(0)
    torch.testing.assert_close(manyhot.entropy_invariant_attention(q, k, v), F.scaled_dot_product_attention(q, k, v))
    k, v = torch.randn(2, 1, 2, 2048, 8, generator=generator).unbind(0)
    other = manyhot.entropy_invariant_attention(q, k, v)
    assert not torch.allclose(other, F.scaled_dot_product_attention(q, k, v), atol=1e-3)


def test_fewer_heads_of_keys(generator: torch.Generator) -> None:
    q, k, v = drawn_heads(generator)
    few = (q, k[:, :1], v[:, :1])
    got = manyhot.entropy_invariant_attention(*few, is_causal=True, enable_gqa=True)
    want = manyhot.entropy_invariant_attention(q, *(x[:, :1].expand(-1, 3, -1, -1) for x in (k, v)), is_causal=True)
    torch.testing.assert_close(got, want)


def test_the_fused_kernel_is_in_use(generator: torch.Generator) -> None:
    q, k, v = torch.randn(3, 1, 2, 64, 16, generator=generator).unbind(0)
    mask = torch.rand(64, 64, generator=generator) < 0.5
    for options in ({}, {"is_causal": True}, {"attn_mask": mask}):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # an error where that one cannot be
            manyhot.entropy_invariant_attention(q, k, v, **options)  # pyright: ignore


def test_memory_does_not_grow_with_the_square_of_the_length() -> None:
    script = (
        "import resource, torch, manyhot; q = torch.randn(1, 1, 8192, 16); f = manyhot.entropy_invariant_attention\n"
        "f(q[..., :64, :], q[..., :64, :], q[..., :64, :])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; f(q, q, q, is_causal=True)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 100  # MB; the matrix alone has 256


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda s: manyhot.entropy_invariant_softmax(s.int()),
            TypeError,
            "logits must be a floating-point tensor; got",
        ),
        (lambda s: manyhot.entropy_invariant_softmax(s, kappa=0), ValueError, "kappa must be positive; got 0"),
        (lambda s: manyhot.entropy_invariant_softmax(s, mask=s), TypeError, "mask must be boolean"),
        (
            lambda s: manyhot.entropy_invariant_softmax(s, mask=torch.ones(7, dtype=torch.bool)),
            ValueError,
            r"mask must broadcast to logits, \(4, 4\); got \(7,\)",
        ),
        (lambda s: manyhot.entropy_invariant_attention(s, s, s, kappa=-1.0), ValueError, "kappa must be positive"),
        (
            lambda s: manyhot.entropy_invariant_attention(s, s, s, attn_mask=s > 0, is_causal=True),
            ValueError,
            "is_causal and attn_mask exclude each other",
        ),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(torch.ones(4, 4))


def test_one_option_has_1_whatever_its_logit_is():
    for value in (math.inf, -3.0, 1e38):
        s = torch.tensor([[value, 0.0]], requires_grad=True)
        p = manyhot.entropy_invariant_softmax(s, mask=torch.tensor([[True, False]]))
        assert p.tolist() == [[1, 0]]
        p.sum().backward()
        assert s.grad is not None
        assert s.grad.isfinite().all()
