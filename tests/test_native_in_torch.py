"""The C++ kernel as part of PyTorch: threads, autograd, transforms, and what it refuses."""

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import manyhot
from manyhot.kernels import blocked, native

if native.MISSING is not None:
    pytest.skip(native.MISSING, allow_module_level=True)
_native: Any = native._native

LOSSES = pytest.mark.parametrize("loss", [manyhot.zlpr_loss, manyhot.pairwise_loss, manyhot.single_log_loss])
# One exponential of float32 is known to 1e-7; what PyTorch and the kernel add up differs by a few of these.
CLOSE: dict[str, Any] = {"rtol": 2e-6, "atol": 2e-6}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    _native.use_instruction_set(_native.instruction_sets()[0])


@pytest.fixture
def logits(generator: torch.Generator) -> Tensor:
    return torch.randn(5, 7, generator=generator).requires_grad_()


@pytest.fixture
def targets(generator: torch.Generator) -> Tensor:
    return torch.rand(5, 7, generator=generator) < 0.3


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), leaf)[0]


# --- threads ---------------------------------------------------------------------------------------------------------


def results(batch: tuple[Tensor, Any], **options: Any) -> list[Tensor]:
    leaf = batch[0].detach().requires_grad_()
    found = []
    for reduction in ("mean", "none"):
        loss = manyhot.zlpr_loss(leaf, batch[1], reduction=reduction, impl="native", **options)
        found += [loss.detach(), gradient(loss, leaf)]
    return found + [x.detach() for x in manyhot.signed_logsumexp(leaf, batch[1], impl="native", **options)]


@pytest.mark.parametrize(("rows", "labels"), [(2000, 100), (3, 140_001), (1, 263_000)])
def test_the_same_bits_on_any_number_of_threads_and_in_every_run(
    rows: int, labels: int, generator: torch.Generator
) -> None:
    logits = 4 * torch.randn(rows, labels, generator=generator)
    hard = torch.rand(rows, labels, generator=generator) < 0.02
    ids = torch.randint(labels, (rows, 4), generator=generator)
    for targets in (hard, torch.rand(rows, labels, generator=generator), manyhot.IndexTargets(ids)):
        torch.set_num_threads(1)
        want = results((logits, targets))
        for threads in (2, 5, 5, 1):
            torch.set_num_threads(threads)
            for got, one in zip(results((logits, targets)), want, strict=True):
                assert torch.equal(got, one)


def test_two_python_threads_at_once(generator: torch.Generator) -> None:
    # The kernel lets go of the interpreter's lock; each call has its own scratch.
    batches = [
        (torch.randn(200, 500, generator=generator), torch.rand(200, 500, generator=generator)) for _ in range(2)
    ]
    want = [results(batch) for batch in batches]
    wrong: list[int] = []

    def work(which: int) -> None:
        for _ in range(30):
            if not all(map(torch.equal, results(batches[which]), want[which])):
                wrong.append(which)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_an_instruction_set_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="this machine has no instruction set v9"):
        _native.use_instruction_set("v9")
    assert "baseline" in _native.instruction_sets()


# --- a process of its own --------------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import sys
import numpy as np
from manyhot.kernels import _native
assert "torch" not in sys.modules

rng = np.random.default_rng(0)
s, t = rng.normal(size=(9, 21)).astype(np.float32), rng.random((9, 21)) < .3
types, links = _native.types.index, _native.links.index
batch = _native.Batch(rows=9, labels=21, logits=s.ctypes.data, logits_type=types("float32"), logits_row=21)
batch.dense(targets=t.ctypes.data, type=types("bool"), row=21)
saved, loss, one = np.empty((9, _native.saved_numbers)), np.empty(9, np.float32), np.ones(1, np.float32)
assert batch.forward(threads=1, link=links("zlpr"), saved=saved.ctypes.data, loss=loss.ctypes.data) == 0
gradient = np.empty_like(s)
batch.backward(threads=1, link=links("zlpr"), saved=saved.ctypes.data, by_loss=one.ctypes.data,
               gradient=gradient.ctypes.data, gradient_type=types("float32"))

e = np.exp(np.where(t, -1, 1) * s.astype(float))
neg, pos = (e * ~t).sum(1), (e * t).sum(1)
np.testing.assert_allclose(loss, np.log1p(neg) + np.log1p(pos), rtol=2e-6)
np.testing.assert_allclose(gradient, e * ~t / (1 + neg)[:, None] - e * t / (1 + pos)[:, None], rtol=1e-5, atol=2e-6)
assert "torch" not in sys.modules
"""

SUBNORMAL = """
import numpy as np, torch
from manyhot.kernels import _native
import manyhot
torch.set_num_threads(2)
x = torch.randn(400, 400, requires_grad=True)
manyhot.zlpr_loss(x, x > 1, impl="native").backward()
assert np.float64(1e-310) / 2 == 5e-311 != 0
assert np.float32(1e-40) / np.float32(2) != 0
# Also in the threads that the kernel has used.
assert bool((torch.full((400, 400), 1e-40) / 2 != 0).all())
"""


@pytest.mark.parametrize("code", [WITHOUT_TORCH, SUBNORMAL], ids=["numpy alone", "subnormal numbers"])
def test_in_a_process_of_its_own(code: str) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- autograd --------------------------------------------------------------------------------------------------------


@LOSSES
def test_second_derivatives_are_refused(loss: Callable[..., Tensor], logits: Tensor, targets: Tensor) -> None:
    for impl in ("native", "auto"):
        with pytest.raises(RuntimeError, match='first derivatives only; use impl="eager" with create_graph=True'):
            torch.autograd.grad(loss(logits, targets, impl=impl), logits, create_graph=True)
    neg, pos = manyhot.signed_logsumexp(logits, targets, impl="native")
    with pytest.raises(RuntimeError, match='use impl="eager"'):
        torch.autograd.grad((neg + pos).sum(), logits, create_graph=True)


@LOSSES
def test_logits_that_change_before_backward_are_noticed(loss: Callable[..., Tensor], targets: Tensor) -> None:
    # With a loss a row: where rows count alike the gradient is written in forward, and nothing can change it any more.
    leaf = torch.zeros(targets.shape, requires_grad=True)
    logits = leaf * 1
    value = loss(logits, targets, reduction="none", impl="native")
    logits.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


@LOSSES
def test_targets_that_change_before_backward_are_noticed(loss: Callable[..., Tensor], logits: Tensor) -> None:
    targets = torch.zeros(logits.shape)
    value = loss(logits, targets, reduction="none", impl="native")
    targets.fill_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


@pytest.mark.parametrize("listed", [False, True])
def test_saved_tensors_may_be_kept_elsewhere(listed: bool, logits: Tensor, generator: torch.Generator) -> None:
    ids = torch.tensor([[0, 3, -1], [1, -1, -1], [-1, -1, -1], [2, 4, 6], [5, -1, 5]])
    soft = torch.rand(5, 3, generator=generator)
    targets = manyhot.IndexTargets(ids, soft=soft) if listed else torch.rand(5, 7, generator=generator)
    options: dict[str, Any] = {
        "threshold": torch.randn(7, generator=generator, requires_grad=True),
        "mask": torch.rand(5, 7, generator=generator) < 0.8,
        "label_weight": torch.rand(7, generator=generator),
        "sample_weight": torch.rand(5, generator=generator),
        "impl": "native",
    }
    leaves = (logits, options["threshold"])
    want = torch.autograd.grad(manyhot.zlpr_loss(logits, targets, **options), leaves)

    def moved(x: Tensor) -> Tensor:
        # Elsewhere in memory, at strides of its own: backward must not lean on those of forward.
        return torch.cat((x, x)).clone() if x.ndim else x.clone()

    def back(x: Tensor) -> Tensor:
        return x[: len(x) // 2].clone() if x.ndim else x

    hooks = (torch.autograd.graph.save_on_cpu(), torch.autograd.graph.saved_tensors_hooks(moved, back))
    for hook in hooks:
        with hook:
            loss = manyhot.zlpr_loss(logits, targets, **options)
        for got, one in zip(torch.autograd.grad(loss, leaves), want, strict=True):
            assert torch.equal(got, one)


def test_a_graph_that_is_kept_gives_the_same_again(logits: Tensor, targets: Tensor) -> None:
    loss = manyhot.zlpr_loss(logits, targets, impl="native")
    first = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, logits)[0], first)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, logits)


def test_checkpointing_and_leaves_without_gradient(logits: Tensor, targets: Tensor) -> None:
    def loss(s: Tensor) -> Tensor:
        return manyhot.zlpr_loss(2 * s, targets, impl="native")

    again = checkpoint(loss, logits, use_reentrant=False)
    assert isinstance(again, Tensor)
    assert torch.equal(gradient(again, logits), gradient(loss(logits), logits))
    assert not loss(logits.detach()).requires_grad
    with torch.no_grad():
        assert not loss(logits).requires_grad
    # Only the threshold is wanted.
    threshold = torch.zeros(7, requires_grad=True)
    value = manyhot.zlpr_loss(logits.detach(), targets, threshold=threshold, impl="native")
    want = manyhot.zlpr_loss(logits.detach(), targets, threshold=threshold, impl="eager")
    torch.testing.assert_close(gradient(value, threshold), gradient(want, threshold), **CLOSE)


# --- transforms ------------------------------------------------------------------------------------------------------


def jvp(loss: Callable[..., Tensor], logits: Tensor, targets: Tensor) -> Tensor:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(logits.detach(), logits.detach().cos())
        return forward_ad.unpack_dual(loss(dual, targets)).tangent  # pyright: ignore


TRANSFORMS: dict[str, Callable[[Callable[..., Tensor], Tensor, Tensor], Any]] = {
    "grad": lambda f, s, t: torch.func.grad(f)(s, t),
    "vmap": lambda f, s, t: torch.func.vmap(f)(s, t),
    "rows' gradients": lambda f, s, t: torch.func.vmap(torch.func.grad(f))(s, t),
    "jvp": lambda f, s, t: torch.func.jvp(lambda x: f(x, t), (s,), (s.cos(),))[1],
    "forward AD": jvp,
    "hessian": lambda f, s, t: torch.func.hessian(f)(s, t),
}


@LOSSES
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own forward mode calls it
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_take_the_formula(
    transform: str, loss: Callable[..., Tensor], logits: Tensor, targets: Tensor
) -> None:
    work = TRANSFORMS[transform]
    got = work(lambda s, t: loss(s, t), logits.detach(), targets)
    want = work(lambda s, t: loss(s, t, impl="eager"), logits.detach(), targets)
    assert want.abs().max() > 0.01
    assert torch.equal(got, want)
    with pytest.raises(ValueError, match=r'impl="native" cannot compute this: .*(torch\.func|forward-mode).*"auto"'):
        work(lambda s, t: loss(s, t, impl="native"), logits.detach(), targets)


def test_compile_takes_the_formula(logits: Tensor, targets: Tensor) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(manyhot.zlpr_loss, backend="eager", fullgraph=True)
    assert torch.equal(compiled(logits, targets), manyhot.zlpr_loss(logits, targets, impl="eager"))
    # Not ValueError: what is raised while torch traces comes out in an error of its own.
    with pytest.raises(Exception, match=r'impl="native" cannot compute this: torch\.compile'):
        compiled(logits, targets, impl="native")
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["targets", "label_weight"])
def test_what_has_no_gradient_here(name: str, logits: Tensor, generator: torch.Generator) -> None:
    inner: dict[str, Any] = {
        "targets": torch.rand(5, 7, generator=generator),
        "label_weight": torch.rand(7, generator=generator),
    }
    inner[name].requires_grad_()
    given: dict[str, Any] = {"targets": inner["targets"], "label_weight": inner["label_weight"]}
    with pytest.raises(ValueError, match=f'impl="native".*no gradient with respect to {name}.*impl="auto"'):
        manyhot.zlpr_loss(logits, **given, impl="native")
    got = gradient(manyhot.zlpr_loss(logits, **given), inner[name])
    assert torch.equal(got, gradient(manyhot.zlpr_loss(logits, **given, impl="eager"), inner[name]))
    with torch.no_grad():
        native_loss = manyhot.zlpr_loss(logits, **given, impl="native")
        torch.testing.assert_close(native_loss, manyhot.zlpr_loss(logits, **given, impl="eager"), **CLOSE)


def test_a_sample_weight_may_be_learned(logits: Tensor, targets: Tensor, generator: torch.Generator) -> None:
    weight = torch.rand(5, generator=generator).requires_grad_()
    for reduction in ("mean", "sum"):
        found = []
        for impl in ("native", "eager"):
            loss = manyhot.zlpr_loss(logits, targets, sample_weight=weight, reduction=reduction, impl=impl)
            found.append(torch.autograd.grad(loss, (logits, weight)))
        for got, want in zip(*found, strict=True):
            torch.testing.assert_close(got, want, **CLOSE)


# --- without it ------------------------------------------------------------------------------------------------------


def test_a_missing_module(monkeypatch: pytest.MonkeyPatch, logits: Tensor, targets: Tensor) -> None:
    monkeypatch.setattr(native, "MISSING", "manyhot's C++ kernel is not there (no file)")
    monkeypatch.setattr(native, "_warned", False)
    used, sums = [], blocked.sums
    monkeypatch.setattr(blocked, "sums", lambda *given: used.append(1) or sums(*given))
    with pytest.raises(ValueError, match=r'impl="native" cannot compute this: .*kernel is not there \(no file\)'):
        manyhot.zlpr_loss(logits, targets, impl="native")
    assert used == []
    with pytest.warns(
        UserWarning, match=r"kernel is not there \(no file\)\. Losses on the CPU are slower.*pip install"
    ):
        loss = manyhot.zlpr_loss(logits, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(manyhot.zlpr_loss(logits, targets), loss)
    assert used == [1, 1]
    torch.testing.assert_close(loss, manyhot.zlpr_loss(logits, targets, impl="eager"), **CLOSE)
