"""Listed and sparse targets: what they are made of, and the errors that say what is wrong with them."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

import manyhot
from manyhot import IndexTargets
from manyhot.kernels import native

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta")  # torch, once a process
needs_kernel = pytest.mark.skipif(native.MISSING is not None, reason=str(native.MISSING))
EVERY_IMPL = pytest.mark.parametrize("impl", ["eager", pytest.param("native", marks=needs_kernel), "blocked"])
EVERYWHERE = pytest.mark.parametrize(
    "function",
    [manyhot.zlpr_loss, manyhot.pairwise_loss, manyhot.single_log_loss, manyhot.signed_logsumexp, manyhot.validate],
    ids=lambda f: f.__name__,
)
LOGITS = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.0, -3.0]])


def csr(labels: list[int], starts: list[int], values: list[float]) -> Tensor:
    """Build a matrix that torch does not check."""
    return torch.sparse_csr_tensor(starts, labels, torch.tensor(values), (2, 3), check_invariants=False)


def scipy_csr(labels: list[int], starts: list[int], values: list[float]) -> Any:
    matrix = sp.csr_array((np.array(values), np.array(starts[:0] + [0] * len(labels)), np.array(starts)), shape=(2, 3))
    matrix.indices[:] = labels
    return matrix


# --- parts -----------------------------------------------------------------------------------------------------------


def test_dense() -> None:
    hard = [[True, False, True], [False] * 3, [False, True, False]]
    ids = torch.tensor([0, 2, 0, 1], dtype=torch.int32)
    for targets in (
        IndexTargets([[2, 0, 2], [], [1]]),
        IndexTargets(torch.tensor([[2, -1, 0], [-1, -1, -1], [-1, 1, 1]])),
        IndexTargets(ids, torch.tensor([0, 3, 3, 4])),
    ):
        written = targets.dense(3)
        assert written.dtype == torch.bool
        assert written.tolist() == hard
        assert targets.dense(5)[:, 3:].any().item() is False
    for dtype in (torch.float16, torch.float32, torch.float64):
        soft = torch.tensor([0.5, 1.0, 0.25, 0.125], dtype=dtype)
        written = IndexTargets(ids, torch.tensor([0, 3, 3, 4]), soft=soft).dense(3)
        assert written.dtype == dtype
        assert written.tolist() == [[0.5, 0, 1], [0, 0, 0], [0, 0.125, 0]]
    several = IndexTargets(torch.tensor([[[0], [-1]], [[1], [1]]]), soft=torch.full((2, 2, 1), 0.75)).dense(2)
    assert several.tolist() == [[[0.75, 0], [0, 0]], [[0, 0.75], [0, 0.75]]]
    assert IndexTargets([]).dense(4).shape == (0, 4)
    assert IndexTargets(torch.tensor([2, 0])).dense(3).tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"label ids must lie in 0 to 1, .* got 2 in row 0"):
        IndexTargets([[1, 2]]).dense(2)


def test_shape_len_and_repr() -> None:
    for targets, shape in (
        (IndexTargets([[1], [], [0, 2]]), (3,)),
        (IndexTargets(torch.zeros(4, 5, 2, dtype=torch.int32)), (4, 5)),
        (IndexTargets(torch.zeros(4, 0, dtype=torch.int64)), (4,)),
        (IndexTargets(torch.zeros(7, dtype=torch.int64), torch.tensor([0, 7])), (1,)),
        (IndexTargets([]), (0,)),
    ):
        assert tuple(targets.shape) == shape
        assert len(targets) == shape[0]
    assert tuple(IndexTargets(torch.tensor([2, 0])).shape) == ()
    assert repr(IndexTargets(torch.tensor([[0, -1]]))) == "IndexTargets(tensor([[ 0, -1]]))"
    third = IndexTargets(torch.tensor([3, 1]), torch.tensor([0, 2]), soft=torch.tensor([0.5, 1.0]))
    assert repr(third) == "IndexTargets(tensor([3, 1]), offsets=tensor([0, 2]), soft=tensor([0.5000, 1.0000]))"


def test_to_moves_every_part() -> None:
    targets = IndexTargets(torch.tensor([3, 1]), torch.tensor([0, 2]), soft=torch.tensor([0.5, 1.0]))
    moved = targets.to("meta")
    assert moved.offsets is not None
    assert moved.soft is not None
    assert {x.device.type for x in (moved.labels, moved.offsets, moved.soft, moved)} == {"meta"}
    assert targets.device.type == "cpu"
    same = targets.to(torch.device("cpu"))
    assert same.dense(4).tolist() == [[0, 1, 0, 0.5]]
    assert IndexTargets(torch.tensor([[1]])).to("cpu").dense(2).tolist() == [[False, True]]


def test_what_is_given_is_kept_and_not_copied() -> None:
    ids, ends, soft = torch.tensor([1, 0]), torch.tensor([0, 1, 2]), torch.tensor([0.5, 0.25])
    targets = IndexTargets(ids, ends, soft=soft)
    assert targets.offsets is not None
    assert targets.soft is soft
    assert [targets.labels.data_ptr(), targets.offsets.data_ptr()] == [ids.data_ptr(), ends.data_ptr()]
    manyhot.zlpr_loss(LOGITS, targets)
    assert ids._version + ends._version + soft._version == 0


# --- ids and soft targets, which the loss looks at -------------------------------------------------------------------

WRONG_IDS = {
    "padded": (lambda i: IndexTargets(torch.tensor([[0, -1], [-1, i]])), "row 1"),
    "padded int32": (lambda i: IndexTargets(torch.tensor([[0, i], [0, 1]], dtype=torch.int32)), "row 0"),
    "lists": (lambda i: IndexTargets([[], [2, i]]), "row 1"),
    "offsets": (lambda i: IndexTargets(torch.tensor([1, i, 0]), torch.tensor([0, 2, 3])), "row 0"),
    "offsets after an empty row": (lambda i: IndexTargets(torch.tensor([i]), torch.tensor([0, 0, 1])), "row 1"),
    "torch CSR": (lambda i: csr([0, i], [0, 1, 2], [1.0, 1.0]), "row 1"),
    "scipy CSR": (lambda i: scipy_csr([0, i], [0, 1, 2], [1.0, 1.0]), "row 1"),
}


@EVERY_IMPL
@pytest.mark.parametrize("form", WRONG_IDS)
def test_ids_that_are_no_label(form: str, impl: Any) -> None:
    make, row = WRONG_IDS[form]
    for wrong in (3, 1000, -2, 2**31 - 1) if "scipy" not in form else (3, 1000):
        text = rf"label ids must lie in 0 to 2, the last axis of the logits.*-1 for padding; got {wrong} in {row}\."
        for function in (manyhot.zlpr_loss, manyhot.pairwise_loss, manyhot.signed_logsumexp):
            for logits in (LOGITS, LOGITS.double().requires_grad_()):
                with pytest.raises(ValueError, match=text):
                    function(logits, make(wrong), impl=impl)
        with pytest.raises(ValueError, match=text):
            manyhot.zlpr_loss(LOGITS, make(wrong), label_smoothing=0.1, impl=impl)
        with pytest.raises(ValueError, match=text):
            manyhot.validate(LOGITS, make(wrong))


@EVERY_IMPL
def test_the_row_of_a_wrong_id_among_several_axes(impl: Any) -> None:
    ids = torch.tensor([[[0], [1]], [[2], [7]]])
    with pytest.raises(ValueError, match=r"got 7 in row \(1, 1\)\."):
        manyhot.zlpr_loss(LOGITS.expand(2, 2, 3), IndexTargets(ids), impl=impl)
    with pytest.raises(ValueError, match=r"0 to 2, .* got 5\."):
        manyhot.zlpr_loss(LOGITS[0], IndexTargets(torch.tensor([0, 5])), impl=impl)
    # An id behind the first segment of the kernel, and one far beyond what 32 bits hold.
    wide = torch.zeros(1, 70_000)
    for wrong in (70_000, 2**40, -(2**40)):
        with pytest.raises(ValueError, match=rf"0 to 69999, .* got {wrong} in row 0\."):
            manyhot.zlpr_loss(wide, IndexTargets([[3, wrong]]), impl=impl)


@EVERY_IMPL
@pytest.mark.parametrize(("wrong", "name"), [(1.5, "1.5"), (-0.25, "-0.25"), (torch.nan, "nan"), (-1.0, "-1")])
def test_soft_targets_out_of_range(wrong: float, name: str, impl: Any) -> None:
    text = rf"listed targets must lie in \[0, 1\]; got {name} in row 1, label 2\. Unknown labels go into mask\."
    for targets in (
        IndexTargets(torch.tensor([[0, 1], [-1, 2]]), soft=torch.tensor([[1.0, 1.0], [1.0, wrong]])),
        IndexTargets(torch.tensor([0, 2]), torch.tensor([0, 1, 2]), soft=torch.tensor([0.5, wrong])),
        csr([0, 2], [0, 1, 2], [0.5, wrong]),
        scipy_csr([0, 2], [0, 1, 2], [0.5, wrong]),
    ):
        for logits in (LOGITS, LOGITS.clone().requires_grad_()):
            with pytest.raises(ValueError, match=text):
                manyhot.zlpr_loss(logits, targets, impl=impl)
        with pytest.raises(ValueError, match=text):
            manyhot.validate(LOGITS, targets)


@EVERY_IMPL
def test_counts_are_no_targets(impl: Any) -> None:
    counts = np.array([[1, 0, 0], [0, 2, 0]])
    for targets in (sp.csr_array(counts), sp.coo_array(([1, 1, 1], ([0, 1, 1], [0, 1, 1])), shape=(2, 3))):
        with pytest.raises(ValueError, match=r"listed targets must lie in \[0, 1\]; got 2 in row 1, label 1\."):
            manyhot.zlpr_loss(LOGITS, targets, impl=impl)


# --- forms, which IndexTargets and the loss look at ------------------------------------------------------------------

IDS, SOFT = torch.tensor([0, 2, 1]), torch.tensor([0.5, 1.0, 0.25])
WRONG_LISTS = [
    ((torch.tensor([[0.0, 1.0]]),), {}, TypeError, r"labels must be integers, int64 or int32; got torch\.float32"),
    ((torch.tensor([[True]]),), {}, TypeError, r"labels must be integers, int64 or int32; got torch\.bool"),
    ((IDS, torch.tensor([0.0, 3.0])), {}, TypeError, r"offsets must be integers, int64 or int32; got torch\.float32"),
    ((torch.tensor(3),), {}, ValueError, r"padded ids of shape \(\.\.\., width\); got a single number"),
    ((IDS, torch.tensor([1, 3])), {}, ValueError, r"offsets must rise from 0 to the number of ids, 3; got 1 to 3\."),
    ((IDS, torch.tensor([0, 2])), {}, ValueError, r"offsets must rise.*got 0 to 2\. torch\.nn\.EmbeddingBag.*append"),
    ((IDS, torch.tensor([0, 3, 2, 3])), {}, ValueError, r"got 0 to 3, with a step down\."),
    ((IDS, torch.tensor([0, -1, 3])), {}, ValueError, r"with a step down\."),
    ((IDS, torch.tensor([], dtype=torch.int64)), {}, ValueError, r"offsets \(rows \+ 1,\); got \(3,\) and \(0,\)"),
    ((IDS, torch.tensor([[0, 3]])), {}, ValueError, r"labels must have shape \(ids,\).*got \(3,\) and \(1, 2\)"),
    ((IDS[None], torch.tensor([0, 3])), {}, ValueError, r"labels must have shape \(ids,\).*got \(1, 3\) and \(2,\)"),
    ((IDS[None],), {"soft": SOFT}, ValueError, r"soft must be floating-point and have the shape of labels, \(1, 3\)"),
    ((IDS[None],), {"soft": torch.ones_like(IDS)[None]}, ValueError, r"soft must be floating.*got torch\.int64 of sh"),
    (([[0], [1]],), {"soft": SOFT}, TypeError, r"offsets and soft go with a tensor of labels"),
    (([[0], [1]], torch.tensor([0, 1])), {}, TypeError, r"offsets and soft go with a tensor of labels"),
    (([0, 2],), {}, TypeError, r"labels must be a tensor or a list of lists of label ids.*\[\[0, 2\], \[\], \[1\]\]"),
    (([["a"], ["b"]],), {}, TypeError, r"labels must be a tensor or a list of lists of label ids"),
    (([[0], None],), {}, TypeError, r"labels must be a tensor or a list of lists of label ids"),
    ((3,), {}, TypeError, r"labels must be a tensor or a list of lists of label ids"),
    (([[0.5], [1]],), {}, TypeError, r"labels must be integers, int64 or int32; got torch\.float32"),
]


@pytest.mark.parametrize(("given", "options", "error", "text"), WRONG_LISTS)
def test_lists_that_are_none(given: Any, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        IndexTargets(*given, **options)


DENSE = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
# Made in the test: torch warns at the first sparse tensor of a process.
WRONG_TARGETS = [
    (
        lambda: [[0], [1, 2]],
        TypeError,
        r"targets must be .*got list\. Lists of label ids go into manyhot\.IndexTargets\.",
    ),
    (lambda: ((0,), (1, 2)), TypeError, r"got tuple\. Lists of label ids go into manyhot\.IndexTargets\."),
    (lambda: DENSE.numpy(), TypeError, r"a torch\.sparse_csr tensor or a scipy\.sparse matrix; got ndarray\.$"),
    (lambda: IndexTargets([[0]]), ValueError, r"targets must list the labels of \(2,\) rows.*logits; got \(1,\)\."),
    (
        lambda: IndexTargets(torch.zeros(1, 2, 1, dtype=torch.int64)),
        ValueError,
        r"labels of \(2,\) rows.*got \(1, 2\)\.",
    ),
    (
        lambda: DENSE.to_sparse(),
        TypeError,
        r"two-dimensional torch\.sparse_csr.*got torch\.sparse_coo.*to_sparse_csr\(\)",
    ),
    (
        lambda: DENSE.to_sparse_csc(),
        TypeError,
        r"two-dimensional torch\.sparse_csr tensor; got torch\.sparse_csc of shape",
    ),
    (lambda: DENSE.expand(2, 2, 3).to_sparse_csr(), TypeError, r"got torch\.sparse_csr of shape \(2, 2, 3\)"),
    (lambda: DENSE.t().to_sparse_csr(), ValueError, r"shape of logits, \(2, 3\); got a sparse matrix of .*3, 2"),
    (lambda: sp.csr_array(DENSE.numpy().T), ValueError, r"shape of logits, \(2, 3\); got a sparse matrix of \(3, 2\)"),
    (lambda: sp.coo_matrix((2, 4)), ValueError, r"shape of logits, \(2, 3\); got a sparse matrix of \(2, 4\)"),
]


@EVERYWHERE
@pytest.mark.parametrize(("targets", "error", "text"), WRONG_TARGETS)
def test_targets_of_the_wrong_form(function: Any, targets: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        function(LOGITS, targets())


@EVERYWHERE
def test_logits_of_the_wrong_form(function: Any) -> None:
    for targets in (IndexTargets([[0], [1]]), sp.csr_array((2, 3)), DENSE.to_sparse_csr()):
        for logits in (LOGITS.long(), LOGITS.numpy()):
            with pytest.raises(TypeError, match="logits must be a floating-point tensor"):
                function(logits, targets)
        with pytest.raises(ValueError, match=r"labels of \(\) rows.*got \(2,\)|shape of logits, \(3,\)"):
            function(LOGITS[0], targets)


def test_validate_looks_behind_the_mask_of_listed_targets() -> None:
    logits = LOGITS.clone()
    logits[1, 2] = torch.nan
    for targets in (IndexTargets([[0], [1]]), sp.csr_array(DENSE.numpy()), DENSE.to_sparse_csr()):
        with pytest.raises(ValueError, match=r"got NaN at row 1, label 2"):
            manyhot.validate(logits, targets)
        manyhot.validate(logits, targets, mask=torch.tensor([True, True, False]))


def test_labels_and_offsets_are_on_one_device():
    ids, offsets = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 3])
    with pytest.raises(ValueError, match="labels and offsets must be on one device; got cpu and meta"):
        IndexTargets(ids, offsets.to("meta"))
    assert IndexTargets(ids.to("meta"), offsets.to("meta")).shape == (2,)
