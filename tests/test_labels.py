"""Counts, priors, groups and cardinality of training targets: torch, NumPy and scipy.sparse give the same."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import manyhot
from manyhot.labels import label_groups

HARD = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
FORMS = [
    pytest.param(lambda x: x, id="array"),
    pytest.param(lambda x: x.astype(bool), id="bool array"),
    pytest.param(lambda x: x.astype(np.uint8), id="uint8 array"),
    pytest.param(torch.from_numpy, id="tensor"),
    pytest.param(lambda x: torch.from_numpy(x).half(), id="half tensor"),
    pytest.param(lambda x: torch.from_numpy(x).bool(), id="bool tensor"),
    pytest.param(sparse.csr_matrix, id="csr_matrix"),
    pytest.param(sparse.csc_array, id="csc_array"),
    pytest.param(lambda x: sparse.coo_array(x.astype(bool)), id="bool coo_array"),
    pytest.param(lambda x: x.tolist(), id="list"),
]


@pytest.mark.parametrize("form", FORMS)
def test_counts_priors_and_cardinality_in_every_form(form: Any) -> None:
    targets = form(HARD)
    counts = manyhot.label_counts(targets)
    assert isinstance(counts, np.ndarray)
    assert counts.dtype == np.float64
    assert counts.tolist() == [3, 1, 1, 0]
    # (count + 1/2) / (rows + 1)
    prior = manyhot.label_prior(targets)
    assert isinstance(prior, torch.Tensor if isinstance(targets, torch.Tensor) else np.ndarray)
    assert prior.dtype == (torch.float32 if isinstance(targets, torch.Tensor) else np.float64)
    assert prior.tolist() == pytest.approx([0.7, 0.3, 0.3, 0.1], abs=6e-8)
    assert manyhot.cardinality_range(targets) == (0, 2)


def test_soft_targets_add_up() -> None:
    soft = np.array([[0.25, 1.0], [0.5, 0.0]])
    for targets in (soft, torch.from_numpy(soft), sparse.csr_array(soft)):
        assert manyhot.label_counts(targets).tolist() == [0.75, 1.0]
        assert manyhot.label_prior(targets).tolist() == pytest.approx([1.25 / 3, 1.5 / 3], abs=6e-8)


@pytest.mark.parametrize("unknown", [-1, -100, math.nan])
def test_unknown_cells_count_neither_as_positive_nor_as_row(unknown: float) -> None:
    targets = np.array([[1, unknown, 0], [1, 1, unknown], [0, unknown, unknown]])
    for form in (targets, torch.from_numpy(targets)):
        assert manyhot.label_counts(form).tolist() == [2, 1, 0]
        # known rows: 3, 1, 1
        assert manyhot.label_prior(form).tolist() == pytest.approx([2.5 / 4, 1.5 / 2, 0.5 / 2], abs=6e-8)


def test_a_prior_stays_inside_0_and_1_and_fits_the_loss() -> None:
    targets = torch.zeros(1000, 3)
    targets[:, 0] = 1
    prior = manyhot.label_prior(targets)
    assert prior.tolist() == pytest.approx([1000.5 / 1001, 0.5 / 1001, 0.5 / 1001], rel=1e-6)
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert manyhot.zlpr_loss(logits, targets[:5], prior=prior).isfinite()
    assert manyhot.zlpr_loss(logits, targets[:5], prior=prior.numpy()).isfinite()


def test_label_groups() -> None:
    counts = np.array([0, 1, 8, 9, 34, 35, 10_000])
    groups = label_groups(counts)
    assert {name: counts[group].tolist() for name, group in groups.items()} == {
        "rare": [1, 8],
        "medium": [9, 34],
        "head": [35, 10_000],
    }
    assert all(group.dtype == bool for group in groups.values())


# --- cardinality -----------------------------------------------------------------------------------------------------


def rows_with(*counts: int) -> np.ndarray:
    return np.array([[1] * k + [0] * (max(counts) - k) for k in counts])


def test_the_minimum_is_what_almost_all_rows_reach_and_the_maximum_what_any_has() -> None:
    # 1 of 200 rows is .5 %: 99.5 % reach 1, so one faulty row does not count; two do.
    assert manyhot.cardinality_range(rows_with(0, *[1] * 198, 3)) == (1, 3)
    assert manyhot.cardinality_range(rows_with(0, 0, *[1] * 197, 3)) == (0, 3)
    assert manyhot.cardinality_range(rows_with(0, *[2] * 198, 7), share=1.0) == (0, 7)
    assert manyhot.cardinality_range(rows_with(1, 2, 3, 4), share=0.5) == (3, 4)
    assert manyhot.cardinality_range(rows_with(1, 2, 3, 4), share=0.75) == (2, 4)
    assert manyhot.cardinality_range(rows_with(2, 2)) == (2, 2)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 200))
def test_cardinality_equals_its_definition(counts: list[int], thousandths: int) -> None:
    share = thousandths / 200
    largest = max(a for a in range(7) if 200 * sum(k >= a for k in counts) >= thousandths * len(counts))
    targets = np.array([[1] * k + [0] * (6 - k) for k in counts])
    found = manyhot.cardinality_range(targets, share)
    assert found == (largest, max(counts))
    assert isinstance(found, manyhot.CardinalityRange)
    assert (type(found.min_labels), type(found.max_labels)) == (int, int)
    assert manyhot.cardinality_range(sparse.csr_array(targets), share) == found
    assert manyhot.cardinality_range(torch.from_numpy(targets), share) == found


def test_a_share_that_float64_rounds_counts_as_written() -> None:
    # (1 - .9) * 10 is .99999...: one row of ten may still have fewer.
    for rows, share in ((5, 0.8), (10, 0.9), (20, 0.9), (30, 0.8), (25, 0.56)):
        fewer = round((1 - share) * rows)
        assert manyhot.cardinality_range(rows_with(*[1] * fewer, *[2] * (rows - fewer)), share) == (2, 2)
        assert manyhot.cardinality_range(rows_with(*[1] * (fewer + 1), *[2] * (rows - fewer - 1)), share) == (1, 2)


def test_cardinality_feeds_decide() -> None:
    low, high = manyhot.cardinality_range(rows_with(1, 2, 2))
    logits = torch.tensor([[-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]])
    assert manyhot.decide(logits, min_labels=low, max_labels=high).tolist() == [[1, 0, 0], [0, 1, 1]]


def test_unknown_cells_are_no_labels_of_a_row() -> None:
    assert manyhot.cardinality_range(np.array([[1, -1, 1], [1, 1, -100]])) == (2, 2)


@pytest.mark.parametrize("function", [manyhot.label_counts, manyhot.label_prior, manyhot.cardinality_range])
def test_targets_must_have_two_axes(function: Any) -> None:
    for targets in (np.ones(3), torch.ones(2, 3, 4)):
        with pytest.raises(ValueError, match=r"targets must have shape \(rows, labels\); got \("):
            function(targets)


def test_no_rows() -> None:
    with pytest.raises(ValueError, match="at least one row with a known target; got none"):
        manyhot.cardinality_range(np.zeros((0, 3)))
    assert manyhot.label_counts(np.zeros((0, 3))).tolist() == [0, 0, 0]
    assert manyhot.label_prior(np.zeros((0, 3))).tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
def test_a_share_outside_0_and_1_is_an_error(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        manyhot.cardinality_range(rows_with(1, 2, 3, 4), share=share)


def test_targets_are_not_modified() -> None:
    targets = np.array([[1.0, -1.0], [math.nan, 0.0]])
    before = targets.copy()
    manyhot.label_counts(targets)
    manyhot.label_prior(targets)
    manyhot.cardinality_range(targets)
    np.testing.assert_array_equal(targets, before)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")  # torch on making one
def test_a_sparse_tensor_counts_like_the_dense_one() -> None:
    dense = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0.5, 0]])
    sparse = dense.to_sparse_csr()
    assert manyhot.label_counts(sparse).tolist() == manyhot.label_counts(dense).tolist() == [2, 0, 1.5, 0]
    assert manyhot.label_prior(sparse).tolist() == manyhot.label_prior(dense).tolist()
    assert manyhot.cardinality_range(sparse) == manyhot.cardinality_range(dense) == (0, 2)


def test_listed_targets_do_not_know_the_number_of_labels() -> None:
    with pytest.raises(TypeError, match=r"IndexTargets do not say how many labels.*dense\(num_labels\)"):
        manyhot.label_prior(manyhot.IndexTargets([[0, 2]]))


def csr(rows: int, labels: int, cells: list[tuple[int, int, float]], dtype: Any = np.float32) -> Any:
    """Write a CSR matrix with its entries as they come, repeated ones too."""
    cells = sorted(cells, key=lambda cell: cell[0])
    indptr = np.searchsorted([row for row, *_ in cells], np.arange(rows + 1))
    ids, values = [label for _, label, _ in cells], [value for *_, value in cells]
    return sparse.csr_matrix((np.array(values, dtype=dtype), np.array(ids), indptr), shape=(rows, labels))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
def test_a_label_that_a_sparse_row_lists_twice_counts_once() -> None:
    matrix = csr(3, 4, [(0, 2, 1), (0, 0, 1), (0, 2, 1), (2, 3, 1), (2, 3, 1), (2, 3, 1)])
    tensor = torch.sparse_csr_tensor(
        *(torch.from_numpy(x) for x in (matrix.indptr, matrix.indices, matrix.data)), size=(3, 4)
    )
    for targets in (matrix, matrix.astype(bool), tensor):
        assert manyhot.label_counts(targets).tolist() == [1, 0, 1, 1]
        assert manyhot.label_prior(targets).tolist() == pytest.approx([1.5 / 4, 0.5 / 4, 1.5 / 4, 1.5 / 4], abs=6e-8)
        assert manyhot.cardinality_range(targets) == (0, 2)
        assert manyhot.stratified_split(targets, (1, 1)).shape == (3,)
    # Of a soft one that is there twice, a tensor takes the larger; scipy adds entries up, as its toarray does.
    soft = csr(1, 2, [(0, 1, 0.25), (0, 1, 0.5)])
    assert manyhot.label_counts(soft).tolist() == [0, 0.75]
    tensor = torch.sparse_csr_tensor(torch.tensor([0, 2]), torch.tensor([1, 1]), torch.tensor([0.5, 0.25]), size=(1, 2))
    assert manyhot.label_counts(tensor).tolist() == [0, 0.5]
    for targets in (soft, tensor):
        dense = torch.tensor([manyhot.label_counts(targets).tolist()])
        logits = torch.tensor([[0.3, -0.2]])
        assert manyhot.zlpr_loss(logits, targets).item() == pytest.approx(manyhot.zlpr_loss(logits, dense).item())


FUNCTIONS = [manyhot.label_counts, manyhot.label_prior, manyhot.cardinality_range]
FUNCTIONS += [lambda targets: manyhot.stratified_split(targets, (1, 1))]


@pytest.mark.parametrize("function", FUNCTIONS, ids=["counts", "prior", "cardinality", "split"])
@pytest.mark.parametrize("value", [7, -2, 1.5, math.inf])
def test_other_values_than_targets_are_refused(function: Any, value: float) -> None:
    targets = np.array([[0.0, 1.0], [1.0, value]])
    for form in (targets, torch.from_numpy(targets), torch.from_numpy(targets).bfloat16(), targets.tolist()):
        with pytest.raises(ValueError, match=rf"targets must lie in \[0, 1\].*got {value:g} in row 1, label 1"):
            function(form)
    for form in (sparse.csr_array(targets), sparse.coo_matrix(targets)):
        with pytest.raises(ValueError, match=rf"listed targets must lie in \[0, 1\]; got {value:g} in row 1, label 1"):
            function(form)


def test_unknown_cells_have_no_place_in_a_sparse_matrix() -> None:
    for unknown in (-1.0, math.nan):
        with pytest.raises(ValueError, match=r"listed targets must lie in \[0, 1\].*row 0, label 0.*mask"):
            manyhot.label_prior(sparse.csr_array(np.array([[unknown, 1.0]])))


def test_bfloat16_targets_count() -> None:
    targets = torch.tensor([[1, 0.5], [math.nan, -1]], dtype=torch.bfloat16)
    assert manyhot.label_counts(targets).tolist() == [1, 0.5]
    assert manyhot.stratified_split(targets, (1, 1)).shape == (2,)


def test_small_weights_of_rows_give_the_same_range() -> None:
    targets = np.array([[1, 0, 0], [1, 1, 1], [1, 1, 0]])
    for weight in (1.0, 1e-10, 1e10):
        assert manyhot.cardinality_range(targets, sample_weight=np.full(3, weight)) == (1, 3)
