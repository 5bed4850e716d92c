"""Label sets from logits, against plain Python, in torch and NumPy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import manyhot
import reference

NAN, INF = math.nan, math.inf

# Multiples of 1/4: s - threshold is exact, so ties are ties, and there are many.
quarters = st.integers(-8, 8).map(lambda x: x / 4)
scores = st.lists(quarters | st.sampled_from([NAN, INF, -INF]), min_size=1, max_size=6)


def table(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# --- decide ----------------------------------------------------------------------------------------------------------


def test_hand_values() -> None:
    logits = table([[2, -1, 3], [-3, -1, -2], [0.5, 1.5, 1.0]])
    assert manyhot.decide(logits).tolist() == [[1, 0, 1], [0, 0, 0], [1, 1, 1]]
    assert manyhot.decide(logits, min_labels=1).tolist() == [[1, 0, 1], [0, 1, 0], [1, 1, 1]]
    assert manyhot.decide(logits, max_labels=1).tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert manyhot.decide(logits, min_labels=2, max_labels=2).tolist() == [[1, 0, 1], [0, 1, 1], [0, 1, 1]]
    assert manyhot.decide(logits, threshold=1.0).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert manyhot.decide(logits, max_labels=0).sum() == 0


def test_a_label_on_the_threshold_is_not_above_it() -> None:
    assert manyhot.decide(table([[0.0, -0.0, 1e-300]])).tolist() == [[0, 0, 1]]
    assert manyhot.decide(table([[0.5, 0.5]]), threshold=0.5).tolist() == [[0, 0]]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        tiny = torch.tensor([[0.0, torch.finfo(dtype).tiny]], dtype=dtype)
        assert manyhot.decide(tiny).tolist() == [[0, 1]]


@settings(max_examples=300)
@given(scores, st.data())
def test_decide_equals_brute_force(row: list[float], data: Any) -> None:
    threshold = data.draw(st.lists(quarters, min_size=len(row), max_size=len(row)))
    low = data.draw(st.integers(0, len(row) + 1))
    high = data.draw(st.none() | st.integers(low, len(row) + 2))
    want = reference.decide(row, threshold, low, high)
    options: dict[str, Any] = {"min_labels": low, "max_labels": high}
    logits = table([row])
    assert manyhot.decide(logits, threshold=table([threshold]), **options).tolist() == [want]
    assert manyhot.decide(logits[0], threshold=table([threshold])[0], **options).tolist() == want
    array = manyhot.decide(logits.numpy(), threshold=np.array(threshold), **options)
    assert array.tolist() == [want]
    zero = reference.decide(row, [0.0] * len(row), low, high)
    assert manyhot.decide(logits, **options).tolist() == [zero]


@given(st.lists(st.lists(quarters | st.just(NAN), min_size=4, max_size=4), min_size=1, max_size=5), st.data())
def test_rows_of_a_batch_are_decided_one_by_one(rows: list[list[float]], data: Any) -> None:
    low = data.draw(st.integers(0, 3))
    high = data.draw(st.integers(low, 4))
    threshold = data.draw(st.lists(quarters, min_size=len(rows), max_size=len(rows)))
    want = [reference.decide(row, [s0] * 4, low, high) for row, s0 in zip(rows, threshold, strict=True)]
    got = manyhot.decide(table(rows), threshold=table([threshold]).t(), min_labels=low, max_labels=high)
    assert got.tolist() == want


def test_more_labels_never_replace_better_ones() -> None:
    # Ties go to the lower index, both when filling up and when cutting.
    assert manyhot.decide(table([[-1, -1, -1]]), min_labels=2).tolist() == [[1, 1, 0]]
    assert manyhot.decide(table([[1, 1, 1]]), max_labels=2).tolist() == [[1, 1, 0]]
    assert manyhot.decide(torch.ones(1, 4000), max_labels=7)[0].nonzero().flatten().tolist() == list(range(7))


def test_nan_and_minus_infinity_are_never_chosen() -> None:
    logits = table([[NAN, -INF, -5.0], [NAN, NAN, -INF], [INF, NAN, 1.0]])
    assert manyhot.decide(logits, min_labels=3).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 1]]
    assert manyhot.decide(logits, min_labels=1, max_labels=1).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_the_order_of_labels_is_kept_when_the_threshold_is_large() -> None:
    # A threshold that is the same for all labels cannot change which of them is best, also not through rounding.
    logits = torch.tensor([[1e-9, 2e-9, 3e-9]])
    assert manyhot.decide(logits, threshold=100.0, min_labels=1).tolist() == [[0, 0, 1]]
    half = torch.tensor([[3e4, 6e4, 5e4]], dtype=torch.float16)
    assert manyhot.decide(half, threshold=-6e4, max_labels=1).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64], ids=str)
def test_tensors_give_tensors_of_int64(dtype: torch.dtype) -> None:
    preds = manyhot.decide(torch.tensor([[2, -1, 3], [-3, -1, -2]]).to(dtype), min_labels=1)
    assert preds.dtype == torch.int64
    assert preds.tolist() == [[1, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_arrays_give_arrays_of_int64(dtype: Any) -> None:
    array = np.array([[2, -1, 3], [-3, -1, -2]], dtype=dtype)
    for logits in (array, np.asfortranarray(array), array[::1, ::-1][:, ::-1]):
        preds = manyhot.decide(logits, min_labels=1)
        assert isinstance(preds, np.ndarray)
        assert preds.dtype == np.int64
        assert preds.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert array.tolist() == [[2, -1, 3], [-3, -1, -2]]


def test_inputs_are_not_modified_and_no_graph_is_kept() -> None:
    logits = torch.tensor([[NAN, -1.0, 3.0, 2.0]], requires_grad=True)
    before = logits.detach().clone()
    preds = manyhot.decide(logits, min_labels=1, max_labels=1)
    assert preds.tolist() == [[0, 0, 1, 0]]
    assert not preds.requires_grad
    torch.testing.assert_close(logits.detach(), before, equal_nan=True, rtol=0, atol=0)
    learned = torch.nn.Parameter(torch.tensor(2.5))
    assert manyhot.decide(logits, threshold=learned).tolist() == [[0, 0, 1, 0]]


def test_leading_axes_and_empty_batches() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    flat = manyhot.decide(logits.view(6, 5), min_labels=2, max_labels=3)
    assert manyhot.decide(logits, min_labels=2, max_labels=3).tolist() == flat.view(2, 3, 5).tolist()
    assert manyhot.decide(torch.zeros(0, 5), min_labels=1).shape == (0, 5)
    assert manyhot.decide(np.zeros((0, 5)), min_labels=1).shape == (0, 5)


def test_exclusive_labels_need_a_minimum() -> None:
    # mathematics.md section 1: on exactly-one-label rows with p = .4, .3, .2, .1 no label is above 0.
    logits = table([[-0.06, -0.42, -0.83, -1.48]])
    assert manyhot.decide(logits).sum() == 0
    assert manyhot.decide(logits, min_labels=1).tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize(("low", "high"), [(-1, None), (2, 1), (0, -1)])
def test_an_empty_range_is_an_error(low: int, high: int | None) -> None:
    text = rf"0 <= min_labels <= max_labels; got min_labels={low}, max_labels={high}"
    zeros: list[Any] = [torch.zeros(1, 3), np.zeros((1, 3))]
    for logits in zeros:
        with pytest.raises(ValueError, match=text):
            manyhot.decide(logits, min_labels=low, max_labels=high)


# --- top_k -----------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(scores, st.data())
def test_top_k_equals_brute_force(row: list[float], data: Any) -> None:
    k = data.draw(st.integers(0, len(row)))
    want = reference.top_k(row, k)
    logits = table([row])
    assert manyhot.top_k(logits, k).tolist() == [want]
    assert manyhot.top_k(logits[0], k).tolist() == want
    assert manyhot.top_k(logits, torch.tensor([k])).tolist() == [want]
    array = manyhot.top_k(logits.numpy(), np.array([k]))
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.int64
    assert array.tolist() == [want]


def test_top_k_with_one_k_a_row() -> None:
    logits = table([[2, -1, 3], [-3, -1, -2], [1, 1, 1]])
    assert manyhot.top_k(logits, torch.tensor([1, 2, 0])).tolist() == [[0, 0, 1], [0, 1, 1], [0, 0, 0]]
    assert manyhot.top_k(logits.numpy(), np.array([1, 2, 2])).tolist() == [[0, 0, 1], [0, 1, 1], [1, 1, 0]]
    deep = manyhot.top_k(logits.view(1, 3, 3), torch.tensor([[1, 2, 3]]))
    assert deep.tolist() == [[[0, 0, 1], [0, 1, 1], [1, 1, 1]]]


def test_top_k_chooses_neither_nan_nor_minus_infinity() -> None:
    assert manyhot.top_k(table([[NAN, -INF, -5.0, INF]]), 4).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("k", [-1, 4])
def test_top_k_out_of_range(k: int) -> None:
    text = rf"k must lie between 0 and the number of labels, 3; got {k}"
    zeros: list[Any] = [torch.zeros(2, 3), np.zeros((2, 3))]
    for logits in zeros:
        with pytest.raises(ValueError, match=text):
            manyhot.top_k(logits, k)
    with pytest.raises(ValueError, match="k must lie between 0 and the number of labels, 3"):
        manyhot.top_k(torch.zeros(2, 3), torch.tensor([1, k]))


def test_top_k_does_not_modify_its_input() -> None:
    logits = torch.tensor([[NAN, 1.0]], requires_grad=True)
    preds = manyhot.top_k(logits, 1)
    assert preds.tolist() == [[0, 1]]
    assert not preds.requires_grad
    assert logits[0, 0].isnan()


# --- types, arrays and what is no number ------------------------------------------------------------------------------

WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@pytest.mark.parametrize("large", [2**24, 2**53, 2**62])
def test_large_integers_keep_their_order(large: int) -> None:
    # float32 holds 2^24 and 2^24 + 2, float64 2^53 and 2^53 + 2.
    logits = torch.tensor([[large, large + 1, large - 1], [large + 1, large, large + 1]])
    forms: Any = (logits, logits.numpy(), logits.numpy().astype(">i8"))
    for form in forms:
        for got in (manyhot.decide(form, max_labels=1), manyhot.top_k(form, 1)):
            assert got.tolist() == [[0, 1, 0], [1, 0, 0]]
        assert manyhot.decide(-form, min_labels=2).tolist() == [[1, 0, 1], [1, 1, 0]]
    if large < 2**53:
        assert manyhot.decide(logits, threshold=float(large)).tolist() == [[0, 1, 0], [1, 0, 1]]
        per_label = torch.tensor([large, large, large - 2.0], dtype=torch.float64)
        assert manyhot.decide(logits, threshold=per_label, max_labels=1).tolist() == [[0, 1, 0], [0, 0, 1]]


def test_every_type_of_number_is_decided_alike() -> None:
    want = [[1, 0, 0, 1], [0, 0, 1, 0]]
    rows = [[2, 0, 0, 1], [0, 0, 3, 0]]
    for dtype in (*WHOLE, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        logits = torch.tensor(rows).to(dtype)
        assert manyhot.decide(logits).tolist() == want
        assert manyhot.decide(logits, min_labels=1, max_labels=1).tolist() == manyhot.top_k(logits, 1).tolist()
    assert manyhot.decide(torch.tensor(rows) > 0, max_labels=1).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
    for name in ("?", "u2", "i4", "u8", "f2", "f4", ">f4", ">f8", "g"):
        array = np.array(rows).astype(name)
        assert manyhot.decide(array).tolist() == want
        if name not in ("u2", "u8"):  # torch does not sort these
            assert manyhot.decide(array, max_labels=1).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]


@pytest.mark.filterwarnings("error")
def test_arrays_that_must_not_be_written_to_are_taken_quietly() -> None:
    logits, threshold, k = np.array([[2.0, -1.0, 3.0]]), np.zeros(3), np.array([1])
    for array in (logits, threshold, k):
        array.flags.writeable = False
    assert manyhot.decide(logits, threshold=threshold).tolist() == [[1, 0, 1]]
    assert manyhot.decide(torch.tensor(logits.tolist()), threshold=threshold).tolist() == [[1, 0, 1]]
    assert manyhot.top_k(logits, k).tolist() == [[0, 0, 1]]
    assert manyhot.proba(torch.tensor([[0.0, 0.0, 0.0]]), threshold=threshold).tolist() == [[0.5] * 3]
    prior = np.full(3, 0.3)
    prior.flags.writeable = False
    batch = torch.zeros(1, 3), torch.ones(1, 3)
    assert manyhot.zlpr_loss(*batch, prior=prior) == manyhot.ZLPRLoss(prior=prior)(*batch)
    assert manyhot.bce_loss(*batch, prior=prior) == manyhot.BCELoss(prior=prior)(*batch)
    one = torch.zeros(1, 3), torch.tensor([1])
    assert manyhot.logit_adjusted_loss(*one, prior=prior) == manyhot.LogitAdjustedLoss(prior=prior)(*one)
    manyhot.adjust_logits(batch[0], prior=prior)
    manyhot.margin_softmax_loss(*one, radius=prior)  # pyright: ignore[reportArgumentType]
    matrix = sparse.csr_matrix(np.eye(3))
    for array in (matrix.data, matrix.indices, matrix.indptr):
        array.flags.writeable = False
    assert manyhot.zlpr_loss(torch.zeros(3, 3), matrix) == manyhot.zlpr_loss(torch.zeros(3, 3), torch.eye(3))
    assert manyhot.label_counts(matrix).tolist() == [1, 1, 1]


def test_a_threshold_that_is_no_number_is_refused() -> None:
    logits = torch.zeros(2, 3)
    forms: Any = (logits, logits.numpy())
    for threshold in (NAN, torch.tensor([0.0, NAN, 0.0]), np.array([[0.0], [NAN]])):
        for form in forms:
            with pytest.raises(ValueError, match="threshold must be numbers; got NaN"):
                manyhot.decide(form, threshold=threshold)
            with pytest.raises(ValueError, match="threshold must be finite; got"):
                manyhot.proba(form, threshold=threshold)
    # A label that is never predicted, or always.
    assert manyhot.decide(logits, threshold=torch.tensor([INF, -INF, 0.0])).tolist() == [[0, 1, 0]] * 2
    for scale in (NAN, INF, 0.0):
        with pytest.raises(ValueError, match="scale must be above 0; got"):
            manyhot.proba(logits, scale=scale)


def test_no_rows_are_decided() -> None:
    for lead in ((0,), (2, 0)):
        empty = torch.zeros(*lead, 3)
        for got in (manyhot.decide(empty, min_labels=1), manyhot.top_k(empty, 2), manyhot.top_k(empty.numpy(), 2)):
            assert got.shape == (*lead, 3)


def test_a_recorded_decision_is_that_of_other_rows_too(generator: torch.Generator) -> None:
    first, other = (torch.randn(5, 7, generator=generator) for _ in range(2))
    options: dict[str, Any] = {"min_labels": 2, "max_labels": 3, "threshold": torch.linspace(-1, 1, 7)}

    class Model(torch.nn.Module):
        def forward(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return manyhot.decide(logits, **options), manyhot.top_k(logits, 2)

    record = torch.export.export(Model(), (first,)).module()
    torch._dynamo.reset()
    for recorded in (record, torch.compile(Model(), fullgraph=True, backend="eager")):
        for got, want in zip(recorded(other), Model()(other), strict=True):
            assert torch.equal(got, want)
