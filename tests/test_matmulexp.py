"""log_matmul_exp: the product where it keeps all digits, the sum in blocks where it does not."""

import math

import mpmath
import pytest
import torch
from torch import Tensor

import manyhot
from manyhot import matmulexp

# Su's two tasks of three classes, as the factors e^-S and e^S of a product: shifted by its maxima, the entry (0, 2) is
# e^-197, which is 0 in float32.
FAR = torch.tensor([[-200.0, 0.0, -197.0], [0.0, -200.0, 0.0]])


def close(got: Tensor, want: Tensor, *, rtol: float = 1e-12, atol: float = 1e-13) -> None:
    torch.testing.assert_close(got.double(), want.double(), rtol=rtol, atol=atol)


def exact(a: Tensor, b: Tensor) -> Tensor:
    """Add up with 40 digits."""

    def cell(j: int, k: int) -> float:
        with mpmath.workdps(40):
            terms = [mpmath.exp(mpmath.mpf(a[j, i].item()) + mpmath.mpf(b[i, k].item())) for i in range(a.shape[1])]
            total = mpmath.fsum(terms)
            return float(mpmath.log(total)) if total else -math.inf

    return torch.tensor([[cell(j, k) for k in range(b.shape[1])] for j in range(a.shape[0])], dtype=torch.float64)


def streamed(a: Tensor, b: Tensor) -> bool:
    """Say whether the product was refused; the function under test decides the same way."""
    return matmulexp._shifted_product(a, b) is None


def spread(generator: torch.Generator, size: float, *shape: int) -> Tensor:
    return size * torch.randn(shape, generator=generator, dtype=torch.float64)


def test_hand_value() -> None:
    # log(e^(-200 + 200) + e^(0 + 1)) = log(1 + e)
    got = manyhot.log_matmul_exp(torch.tensor([[-200.0, 0.0]]), torch.tensor([[200.0], [1.0]]))
    assert got.shape == (1, 1)
    assert got.item() == pytest.approx(math.log(1 + math.e), rel=1e-6)


@pytest.mark.parametrize(("size", "by_product"), [(1.0, True), (100.0, False), (1e4, False)])
def test_equals_forty_digits_both_ways(size: float, by_product: bool, generator: torch.Generator) -> None:
    for dtype, limit in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        for _ in range(5):
            a, b = spread(generator, size, 4, 6).to(dtype), spread(generator, size, 6, 5).to(dtype)
            if dtype == torch.float32:
                assert streamed(a, b) is not by_product
            got = manyhot.log_matmul_exp(a, b)
            assert got.dtype == dtype
            close(got, exact(a, b), rtol=limit, atol=limit)


def test_both_ways_agree_in_value_and_gradient(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = spread(generator, 2.0, 3, 4, 50).requires_grad_(), spread(generator, 2.0, 50, 6).requires_grad_()
    weight = spread(generator, 1.0, 3, 4, 6)
    results = []
    for block in (None, 1, 1000, 10**6):
        if block is not None:
            monkeypatch.setattr(matmulexp, "_shifted_product", lambda a, b: None)
            monkeypatch.setattr(matmulexp, "BLOCK", block)
        value = manyhot.log_matmul_exp(a, b)
        results.append((value, *torch.autograd.grad((weight * value).sum(), (a, b))))
    for result in results[1:]:
        for got, want in zip(result, results[0], strict=True):
            close(got, want)


def test_the_product_is_refused_where_it_lost_an_entry() -> None:
    a, b = -FAR.mT, FAR
    assert streamed(a, b)
    naive = ((a - a.amax(-1, keepdim=True)).exp() @ (b - b.amax(-2, keepdim=True)).exp()).log()
    assert naive[0, 2] == -math.inf
    got = manyhot.log_matmul_exp(a, b)
    assert got[0, 2].item() == pytest.approx(math.log(math.exp(3) + 1), rel=1e-6)
    close(got, exact(a, b), rtol=1e-6, atol=1e-6)


def test_minus_infinity_is_a_factor_of_zero() -> None:
    inf, nan = math.inf, math.nan
    a = torch.tensor([[-inf, 1.0, -inf], [-inf, -inf, -inf]], requires_grad=True)
    b = torch.tensor([[inf, 1.0, nan], [2.0, -inf, 3.0], [inf, inf, inf]], requires_grad=True)
    got = manyhot.log_matmul_exp(a, b)
    assert got.tolist() == [[3.0, -inf, 4.0], [-inf] * 3]
    slopes = torch.autograd.grad(got[got.isfinite()].sum(), (a, b))
    assert [x.tolist() for x in slopes] == [[[0, 2, 0], [0, 0, 0]], [[0, 0, 0], [1, 0, 1], [0, 0, 0]]]


def test_infinity_and_nan() -> None:
    a = torch.tensor([[0.0, 1.0], [math.inf, 1.0]], requires_grad=True)
    b = torch.tensor([[0.0], [2.0]], requires_grad=True)
    got = manyhot.log_matmul_exp(a, b)
    assert got[1].item() == math.inf
    assert got[0].item() == pytest.approx(math.log(1 + math.exp(3)))
    slopes = torch.autograd.grad(got.sum(), (a, b))
    assert all(x.isfinite().all() for x in slopes)
    assert slopes[0][1].tolist() == [0, 0]
    odd = manyhot.log_matmul_exp(torch.tensor([[0.0, 1.0], [0.0, math.nan]]), b)
    assert odd.isnan().tolist() == [[False], [True]]


@pytest.mark.parametrize("far", [False, True])
def test_gradcheck_of_first_and_second_order(far: bool, generator: torch.Generator) -> None:
    a, b = spread(generator, 1.0, 2, 3, 4), spread(generator, 1.0, 4, 2)
    if far:
        a, b = a + 1e3 * torch.arange(4), b - 1e3 * torch.arange(4).unsqueeze(-1)
    assert streamed(a, b) is far
    inputs = (a.requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(manyhot.log_matmul_exp, inputs)
    assert torch.autograd.gradgradcheck(manyhot.log_matmul_exp, inputs)


def test_second_derivative_in_float32_at_the_edge_of_the_product() -> None:
    # e^-34 is just large enough; e^-36 is not.
    a, b = torch.tensor([[0.0, -34.0], [0.0, 0.0]]), torch.tensor([[-34.0, 0.0], [0.0, -34.0]])
    assert streamed(torch.where(a < 0, -36.0, a), torch.where(b < 0, -36.0, b))
    a, b = a.requires_grad_(), b.requires_grad_()
    assert not streamed(a, b)
    value = manyhot.log_matmul_exp(a, b).square().sum()
    (slope,) = torch.autograd.grad(value, a, create_graph=True)
    assert torch.autograd.grad(slope.sum(), (a, b))[0].isfinite().all()


def test_traced_calls_write_the_sum_out(generator: torch.Generator) -> None:
    a, b = spread(generator, 300.0, 5, 4, 3), spread(generator, 300.0, 5, 3, 6)
    want = manyhot.log_matmul_exp(a, b)
    close(torch.func.vmap(manyhot.log_matmul_exp)(a, b), want)
    torch._dynamo.reset()
    compiled = torch.compile(manyhot.log_matmul_exp, fullgraph=True, backend="eager")
    close(compiled(a, b), want)


def test_dtypes_broadcasting_and_empty_sums(generator: torch.Generator) -> None:
    a, b = spread(generator, 2.0, 3, 1, 4, 6), spread(generator, 2.0, 2, 6, 5)
    want = manyhot.log_matmul_exp(a, b)
    assert want.shape == (3, 2, 4, 5)
    close(want[2, 1], exact(a[2, 0], b[1]))
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        got = manyhot.log_matmul_exp(a.to(dtype), b.to(dtype))
        assert got.dtype == torch.float32
        assert torch.equal(got, manyhot.log_matmul_exp(a.to(dtype).float(), b.to(dtype).float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = manyhot.log_matmul_exp(a.float(), b.float())
    assert torch.equal(inside, manyhot.log_matmul_exp(a.float(), b.float()))
    assert manyhot.log_matmul_exp(torch.zeros(2, 0), torch.zeros(0, 3)).tolist() == [[-math.inf] * 3] * 2


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3), ValueError, r"needs shapes \(\.\.\., j, i\) and \(\.\.\., i, k\); got"),
        (torch.zeros(3), torch.zeros(3, 1), ValueError, r"got \(3,\) and \(3, 1\)"),
        (torch.zeros(2, 3).int(), torch.zeros(3, 2), TypeError, "a must be a floating-point tensor .* torch.int32"),
        (torch.zeros(2, 3), [[1.0]], TypeError, "b must be a floating-point tensor of logarithms; got list"),
    ],
)
def test_errors(a: Tensor, b: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        manyhot.log_matmul_exp(a, b)
