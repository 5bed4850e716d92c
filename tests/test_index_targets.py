"""Listed and sparse targets: the numbers of the same targets written out, whatever the form; and what is refused."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.utils.data import DataLoader, StackDataset

import manyhot
import reference
from manyhot import IndexTargets
from manyhot.kernels import native

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")  # torch, once a process
needs_kernel = pytest.mark.skipif(native.MISSING is not None, reason=str(native.MISSING))
IMPLS = [pytest.param("eager"), pytest.param("native", marks=needs_kernel), pytest.param("blocked")]
EVERY_IMPL = pytest.mark.parametrize("impl", IMPLS)

# What each function makes of a row, and the reference of it.
LOSSES: dict[str, tuple[Callable[..., Tensor], Any]] = {
    "zlpr": (manyhot.zlpr_loss, reference.zlpr),
    "pairwise": (manyhot.pairwise_loss, reference.pairwise),
    "single_log": (manyhot.single_log_loss, reference.single_log),
}
ROWS, LABELS = 6, 9


@pytest.fixture
def hard(generator: torch.Generator) -> Tensor:
    """Return targets with an empty row, a full one, and others."""
    targets = torch.rand(ROWS, LABELS, generator=generator) < 0.4
    targets[1], targets[4] = False, True
    return targets


@pytest.fixture
def soft(hard: Tensor, generator: torch.Generator) -> Tensor:
    """Return soft targets in float32, some of them 0 and 1."""
    values = torch.rand(ROWS, LABELS, generator=generator).round(decimals=1)
    values[4, :4] = torch.tensor([1e-30, 1 - 2**-24, 1.0, 0.0])
    return torch.where(hard, values, 0)


@pytest.fixture
def logits(generator: torch.Generator) -> Tensor:
    return 3 * torch.randn(ROWS, LABELS, generator=generator, dtype=torch.float64)


# --- forms -----------------------------------------------------------------------------------------------------------


def padded(where: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    """List the labels of each row in no order, with padding in between and an all-padding column."""
    ids = torch.where(where, torch.arange(where.shape[-1]), -1)
    order = torch.randperm(where.shape[-1], generator=torch.Generator().manual_seed(1))
    return torch.cat((ids[..., order], torch.full_like(ids[..., :1], -1)), -1).to(dtype)


def offsets(where: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.cat((torch.zeros(1, dtype=torch.int64), where.sum(-1).cumsum(0))).to(dtype)


def torch_csr(targets: Tensor, dtype: torch.dtype) -> Tensor:
    return targets.to(dtype).to_sparse_csr()


def split_entries(targets: Tensor) -> sp.coo_array:
    """Write each entry of a matrix as two that add up to it, and some zeros."""
    row, label = targets.nonzero().unbind(-1)
    values = targets[row, label].double().numpy()
    zeros = np.zeros(3)
    data = np.concatenate((values * 0.25, values * 0.75, zeros))
    places = [np.concatenate((x.numpy(), x.numpy(), [0, 2, 5])) for x in (row, label)]
    return sp.coo_array((data, places), shape=targets.shape)


HARD_FORMS: dict[str, Callable[[Tensor], Any]] = {
    "padded": lambda t: IndexTargets(padded(t)),
    "padded int32": lambda t: IndexTargets(padded(t, torch.int32)),
    "padded view": lambda t: IndexTargets(padded(t).repeat_interleave(2, -1)[:, ::2]),
    "lists": lambda t: IndexTargets([row.nonzero().flatten().tolist() for row in t]),
    "tuples": lambda t: IndexTargets(tuple(tuple(row.nonzero().flatten().numpy()) for row in t)),
    "offsets": lambda t: IndexTargets(t.nonzero()[:, 1], offsets(t)),
    "offsets int32": lambda t: IndexTargets(t.nonzero()[:, 1].int(), offsets(t, torch.int32)),
    **{f"torch CSR {d}": lambda t, d=d: torch_csr(t, d) for d in (torch.bool, torch.int64, torch.float32)},
    **{f"scipy CSR {d}": lambda t, d=d: sp.csr_array(t.numpy().astype(d)) for d in ("bool", "int8", "f4", "f8")},
    "scipy CSC": lambda t: sp.csc_matrix(t.numpy()),
    "scipy COO": lambda t: sp.coo_matrix(t.numpy().astype("int32")),
    "scipy LIL": lambda t: sp.lil_array(t.numpy().astype("f4")),
    "scipy COO in parts": split_entries,
}
SOFT_FORMS: dict[str, Callable[[Tensor], Any]] = {
    "padded": lambda t: IndexTargets(padded(t > 0), soft=_soft_of(t, padded(t > 0))),
    "padded float64": lambda t: IndexTargets(padded(t > 0), soft=_soft_of(t, padded(t > 0)).double()),
    "offsets": lambda t: IndexTargets(t.nonzero()[:, 1], offsets(t > 0), soft=t[t > 0]),
    "torch CSR": lambda t: torch_csr(t, torch.float32),
    "scipy CSR": lambda t: sp.csr_array(t.numpy()),
    "scipy CSC float64": lambda t: sp.csc_array(t.double().numpy()),
}


def _soft_of(targets: Tensor, ids: Tensor) -> Tensor:
    """Return the target of each id; at padding something that must not be read."""
    return torch.where(ids < 0, torch.nan, targets.gather(-1, ids.clamp(min=0)))


def loss_and_gradient(loss: str, logits: Tensor, targets: Any, **options: Any) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = LOSSES[loss][0](leaf, targets, reduction="none", **options)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def check(
    loss: str, logits: Tensor, targets: Any, of: Tensor, impl: str, *, unit: float = 1e-13, **options: Any
) -> None:
    """Compare with the float64 reference of the targets written out, and in float32 with our own dense result."""
    arrays: dict[str, Any] = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in options.items()}
    want = LOSSES[loss][1](logits.numpy(), of.double().numpy(), reduction="none", **arrays)
    # The order of a sum, and the last digits of exp: a few 1e-16 of exponents up to 100.
    for got, exact in zip(loss_and_gradient(loss, logits, targets, impl=impl, **options), want, strict=True):
        torch.testing.assert_close(got, torch.as_tensor(exact), rtol=10 * unit, atol=unit)
    options = {name: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for name, x in options.items()}
    listed, dense = (loss_and_gradient(loss, logits.float(), t, impl=impl, **options) for t in (targets, of))
    for got, same in zip(listed, dense, strict=True):
        torch.testing.assert_close(got, same, rtol=1e-6, atol=1e-6)


@EVERY_IMPL
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("form", HARD_FORMS)
def test_every_form_equals_dense(form: str, loss: str, impl: str, logits: Tensor, hard: Tensor) -> None:
    check(loss, logits, HARD_FORMS[form](hard), hard, impl)


@EVERY_IMPL
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("form", SOFT_FORMS)
def test_every_soft_form_equals_dense(form: str, loss: str, impl: str, logits: Tensor, soft: Tensor) -> None:
    check(loss, logits, SOFT_FORMS[form](soft), soft, impl)


OPTIONS: dict[str, Callable[[torch.Generator], dict[str, Any]]] = {
    "mask": lambda g: {"mask": torch.rand(ROWS, LABELS, generator=g) < 0.7},
    "mask of labels": lambda g: {"mask": torch.rand(LABELS, generator=g) < 0.7},
    "mask of rows": lambda g: {"mask": torch.rand(ROWS, 1, generator=g) < 0.7},
    "label_weight": lambda g: {"label_weight": torch.tensor([0, 1e-30, 1e30, 1, 2, 0.1, 0, 1, 3]).double()},
    "threshold": lambda g: {"threshold": torch.randn(LABELS, generator=g).double(), "scale": 1.5, "margin": 0.3},
    "prior": lambda g: {"prior": torch.linspace(0.01, 0.9, LABELS).double(), "tau": 1.4},
    "smoothing": lambda g: {"label_smoothing": 0.2, "mask": torch.rand(ROWS, LABELS, generator=g) < 0.7},
    "uniform": lambda g: {"label_smoothing": 0.3, "smoothing": "uniform"},
}


@EVERY_IMPL
@pytest.mark.parametrize("option", OPTIONS)
def test_options(option: str, impl: str, logits: Tensor, hard: Tensor, soft: Tensor, generator: Any) -> None:
    options = OPTIONS[option](generator)
    # Smoothing writes float32 targets, but for float64 ones.
    unit = 1e-7 if "label_smoothing" in options else 1e-13
    losses = LOSSES if options.keys() <= {"mask", "label_weight"} else ("zlpr",)
    for loss in losses:
        for form in ("padded", "lists", "torch CSR torch.bool", "scipy CSR f8"):
            check(loss, logits, HARD_FORMS[form](hard), hard, impl, unit=unit, **options)
        for form in ("scipy CSC float64", "padded float64"):
            check(loss, logits, SOFT_FORMS[form](soft), soft, impl, unit=unit, **options)


@EVERY_IMPL
def test_the_two_sums(impl: Any, logits: Tensor, hard: Tensor, soft: Tensor) -> None:
    for of, forms in ((hard, HARD_FORMS), (soft, SOFT_FORMS)):
        want = reference.signed_logsumexp(logits.numpy(), of.double().numpy())
        for name, form in forms.items():
            got = manyhot.signed_logsumexp(logits, form(of), impl=impl)
            for side, exact in zip(got, want, strict=True):
                torch.testing.assert_close(side, torch.as_tensor(exact), rtol=1e-12, atol=1e-13, msg=name)


@EVERY_IMPL
def test_several_leading_axes(impl: Any, logits: Tensor, hard: Tensor, soft: Tensor) -> None:
    shape = (2, 3, LABELS)
    for loss in LOSSES:
        ids = padded(hard).reshape(2, 3, -1)
        check(loss, logits.reshape(shape), IndexTargets(ids), hard.reshape(shape), impl)
        ids = padded(soft > 0).reshape(2, 3, -1)
        targets = IndexTargets(ids, soft=_soft_of(soft.reshape(shape), ids))
        check(loss, logits.reshape(shape), targets, soft.reshape(shape), impl)
        check(loss, logits[0], IndexTargets(padded(hard[0])), hard[0], impl)


@EVERY_IMPL
def test_nothing_listed(impl: str, logits: Tensor) -> None:
    nothing = torch.zeros(ROWS, LABELS, dtype=torch.bool)
    empty = torch.zeros(0, dtype=torch.int64)
    for targets in (
        IndexTargets([[]] * ROWS),
        IndexTargets(torch.full((ROWS, 2), -1)),
        IndexTargets(torch.zeros(ROWS, 0, dtype=torch.int64)),
        IndexTargets(empty, torch.zeros(ROWS + 1, dtype=torch.int64)),
        IndexTargets(empty, torch.zeros(ROWS + 1, dtype=torch.int64), soft=torch.zeros(0)),
        sp.csr_array((ROWS, LABELS)),
        torch_csr(nothing, torch.float32),
    ):
        check("zlpr", logits, targets, nothing, impl)
    for targets in (IndexTargets([]), IndexTargets(empty.reshape(0, 3)), sp.csr_array((0, LABELS), dtype=bool)):
        assert loss_and_gradient("zlpr", logits[:0], targets, impl=impl)[0].shape == (0,)
        assert manyhot.zlpr_loss(logits[:0], targets, impl=impl) == 0  # type: ignore[arg-type]


@EVERY_IMPL
def test_a_label_listed_twice_counts_once(impl: str, generator: torch.Generator) -> None:
    logits = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    of = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1]])
    check("zlpr", logits, IndexTargets([[1, 1, 1], [0, 3, 0]]), of, impl)
    check("zlpr", logits, IndexTargets(torch.tensor([[1, -1, 1], [3, 0, 3]])), of, impl)
    # Soft: the larger of the two, in whatever order; 0 is no target, whether listed or not.
    ids, soft = torch.tensor([[1, 2, 1], [3, 0, 3]]), torch.tensor([[0.25, 0.0, 0.75], [0.5, 1.0, 0.125]])
    larger = torch.tensor([[0, 0.75, 0, 0], [1, 0, 0, 0.5]])
    check("zlpr", logits, IndexTargets(ids, soft=soft), larger, impl)
    check("zlpr", logits, IndexTargets(ids.flatten(), torch.tensor([0, 3, 6]), soft=soft.flatten()), larger, impl)


@EVERY_IMPL
def test_entries_that_a_csr_matrix_has_twice_are_added(impl: str, logits: Tensor, hard: Tensor, soft: Tensor) -> None:
    """As scipy does: such a matrix is not canonical, and is what toarray() says nevertheless."""
    for of in (hard, soft):
        parts: Any = split_entries(of)
        order = np.argsort(parts.coords[0], kind="stable")
        ends = np.concatenate(([0], np.bincount(parts.coords[0], minlength=ROWS).cumsum()))
        matrix = sp.csr_array((parts.data[order], parts.coords[1][order], ends), shape=of.shape)
        np.testing.assert_allclose(matrix.toarray(), of.double().numpy(), rtol=1e-15)
        check("zlpr", logits, matrix, of, impl)
        assert matrix.nnz == len(order)  # and is left as it came


@EVERY_IMPL
def test_many_labels_over_tiles_and_segments(impl: str, generator: torch.Generator) -> None:
    """Labels at the ends of what the kernel reads at once, listed in no order."""
    logits = torch.randn(2, 66_000, generator=generator, dtype=torch.float64)
    ids = [[65_535, 0, 1023, 65_536], [1024, 65_999, 2047, 2048, 66_000 - 465]]
    of = torch.zeros(2, 66_000, dtype=torch.bool)
    for row, listed in enumerate(ids):
        of[row, listed] = True
    for loss in ("zlpr", "pairwise"):
        check(loss, logits, IndexTargets(ids), of, impl)


@EVERY_IMPL
def test_half_logits_and_mean_over_known_rows(impl: Any, logits: Tensor, hard: Tensor) -> None:
    mask = torch.ones(ROWS, LABELS, dtype=torch.bool)
    mask[2] = False
    want = reference.zlpr(logits.bfloat16().double().numpy(), hard.numpy(), mask=mask.numpy()).value
    got = manyhot.zlpr_loss(logits.bfloat16(), HARD_FORMS["lists"](hard), mask=mask, impl=impl)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(float(want), rel=2e-6)


def test_compiled(logits: Tensor, hard: Tensor) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda s, ids: manyhot.zlpr_loss(s, IndexTargets(ids)), backend="eager", fullgraph=True)
    got, want = compiled(logits, padded(hard)), manyhot.zlpr_loss(logits, hard, impl="eager")
    assert torch.equal(got, want)


@needs_kernel
def test_nothing_of_rows_times_labels_is_made_but_the_gradient(tmp_path: Path) -> None:
    rows, labels = 64, 100_000
    logits = torch.randn(rows, labels, requires_grad=True)
    targets = (
        IndexTargets(torch.randint(labels, (rows, 5))),
        sp.random_array((rows, labels), density=1e-4, format="csr"),
    )
    for listed in targets:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
            manyhot.zlpr_loss(logits, listed, impl="native").backward()
        profiled.export_chrome_trace(str(tmp_path / "trace.json"))
        events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        memory = [event["args"] for event in events if event["name"] == "[memory]"]
        before = memory[0]["Total Allocated"] - memory[0]["Bytes"]
        peak = max(use["Total Allocated"] for use in memory) - before
        assert 1 <= peak / (4 * rows * labels) < 1.1
        logits.grad = None


# --- rows, memory and a DataLoader ------------------------------------------------------------------------------------


def three_forms(generator: torch.Generator, rows: int = 9, labels: int = 6) -> list[manyhot.IndexTargets]:
    """List the same rows with offsets and padded, and both with soft targets."""
    dense = torch.rand(rows, labels, generator=generator) < 0.4
    dense[2], dense[5] = False, True
    lists = [row.nonzero().flatten().tolist() for row in dense]
    padded = torch.tensor([[*ids, *[-1] * (labels - len(ids))] for ids in lists])
    joined = manyhot.IndexTargets(lists)
    shares = torch.rand(padded.shape, generator=generator)
    return [
        joined,
        manyhot.IndexTargets(padded),
        manyhot.IndexTargets(joined.labels, joined.offsets, soft=shares[padded >= 0]),
        manyhot.IndexTargets(padded, soft=shares),
    ]


def test_rows_are_taken_as_of_a_tensor(generator: torch.Generator) -> None:
    order = torch.randperm(9, generator=generator)
    taken: list[Any] = [0, 8, -1, -9, slice(None), slice(2, 7), slice(1, 9, 3), slice(4, 4)]
    taken += [
        order,
        order.tolist(),
        order > 3,
        (order > 3).numpy(),
        torch.tensor([2, 2, 5]),
        torch.tensor(3),
        [True] * 9,
    ]
    for targets in three_forms(generator):
        dense = targets.dense(6)
        for rows in taken:
            part = targets[rows]
            assert part.shape == dense[rows].shape[:-1]
            assert torch.equal(part.dense(6), dense[rows])
        for wrong in (9, -10, [0, 9], (0, 0), dense > 0, torch.ones(8).bool()):
            with pytest.raises(IndexError):
                targets[wrong]
        assert [torch.equal(row.dense(6), want) for row, want in zip(targets, dense, strict=True)] == [True] * 9  # type: ignore[call-overload]
        with pytest.raises(IndexError, match="one row has no rows to take"):
            targets[0][0]


def test_rows_with_several_axes_are_taken(generator: torch.Generator) -> None:
    flat = three_forms(generator, rows=8)[3]
    targets = manyhot.IndexTargets(flat.labels.view(2, 4, 6), soft=flat.soft.view(2, 4, 6))  # type: ignore[union-attr]
    dense, mask = targets.dense(6), torch.tensor([[1, 0, 0, 1], [0, 1, 1, 1]]).bool()
    for rows in (1, (1, 2), (slice(None), 3), mask, (mask,), ([0, 1], [2, 0])):
        assert torch.equal(targets[rows].dense(6), dense[rows])
    for wrong in ((0, 0, 0), (..., 0), (mask, 0), (None, 0)):
        with pytest.raises(IndexError):
            targets[wrong]


def test_a_loss_of_taken_rows_is_that_of_the_rows(generator: torch.Generator) -> None:
    logits, order = torch.randn(9, 6, generator=generator), torch.randperm(9, generator=generator)[:5]
    for targets in three_forms(generator):
        each = manyhot.zlpr_loss(logits, targets, reduction="none")
        got = manyhot.zlpr_loss(logits[order], targets[order], reduction="none")
        torch.testing.assert_close(got, each[order])
        torch.testing.assert_close(manyhot.zlpr_loss(logits[3], targets[3]), each[3])


def test_copies_keep_what_they_copy(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def pinned(self: torch.Tensor) -> torch.Tensor:
        asked.append(self)
        return self.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)  # without an accelerator there is none
    for targets in three_forms(generator):
        copies = (targets.to("cpu"), targets.to("cpu", non_blocking=True), targets.pin_memory())
        for copy in (*copies, pickle.loads(pickle.dumps(targets))):
            assert torch.equal(copy.dense(6), targets.dense(6))
            assert (copy.offsets is None, copy.soft is None) == (targets.offsets is None, targets.soft is None)
    assert len(asked) == 2 + 1 + 3 + 2


@pytest.mark.parametrize("pin_memory", [False, True])
def test_a_data_loader_makes_batches_of_them(pin_memory: bool, generator: torch.Generator) -> None:
    if pin_memory and not torch.accelerator.is_available():
        pytest.skip("no accelerator, so no memory to pin")
    x = torch.arange(9.0)
    for targets in three_forms(generator):
        data = StackDataset(x=x, targets=targets)  # type: ignore[arg-type]
        loader = DataLoader(data, batch_size=4, collate_fn=manyhot.collate, pin_memory=pin_memory)  # pyright: ignore
        batches = list(loader)
        assert [len(batch["targets"]) for batch in batches] == [4, 4, 1]
        assert torch.equal(torch.cat([batch["x"] for batch in batches]), x)
        assert torch.equal(torch.cat([batch["targets"].dense(6) for batch in batches]), targets.dense(6))


def test_collate_takes_what_stands_beside_them() -> None:
    rows = manyhot.IndexTargets([[0, 2], [], [1]])
    got = manyhot.collate([(torch.tensor([1.0]), 7, "a", rows[0]), (torch.tensor([2.0]), 8, "b", rows[2])])
    assert got[0].tolist() == [[1], [2]]
    assert (got[1].tolist(), got[2]) == ([7, 8], ("a", "b"))
    assert got[3].dense(3).tolist() == [[True, False, True], [False, True, False]]
    assert manyhot.collate([torch.zeros(2), torch.ones(2)]).tolist() == [[0, 0], [1, 1]]


def test_collate_stacks_rows_with_axes_and_soft_targets() -> None:
    hard = manyhot.IndexTargets([[0, 2], [], [1]])
    soft = manyhot.IndexTargets(torch.tensor([[1], [0], [-1]]), soft=torch.tensor([[0.25], [1], [0.5]]))
    for several in ([hard, hard], [hard, soft], [soft, soft], [soft[0], hard[1]]):
        got = manyhot.collate(several)
        assert got.shape == (2, *several[0].shape)
        assert torch.equal(got.dense(3).float(), torch.stack([x.dense(3).float() for x in several]))
    with pytest.raises(ValueError, match=r"rows of a batch must have the same axes; got \(3,\), \(\)"):
        manyhot.collate([hard, hard[0]])
