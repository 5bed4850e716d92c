"""The stratified split: every label in every part, shares kept, the same for every form of targets, and fast."""

import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import manyhot
import reference


def long_tail(rows: int, labels: int, seed: int, mean: float = 2.5) -> np.ndarray:
    """Draw independent labels whose frequencies fall like 1/rank, `mean` of them a row."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, labels + 1)
    return (rng.random((rows, labels)) < np.minimum(0.6, mean * frequency / frequency.sum())).astype(np.int8)


def counts(targets: np.ndarray, parts: np.ndarray, num_parts: int) -> np.ndarray:
    """Count each label in each part, (parts, labels)."""
    return np.array([targets[parts == p].sum(0) for p in range(num_parts)], dtype=np.int64)


def missing(targets: np.ndarray, parts: np.ndarray, num_parts: int) -> list[tuple[int, int]]:
    """List (part, label) where a label with enough rows is not in a part."""
    due = targets.sum(0) >= num_parts
    return [(int(p), int(i)) for p, i in np.argwhere((counts(targets, parts, num_parts) == 0) & due)]


def plain(rows: int, shares: np.ndarray, seed: int) -> np.ndarray:
    """Split at random, as one would without this module."""
    bounds = np.cumsum(shares)[:-1] * rows
    return np.searchsorted(bounds, np.random.default_rng(seed).permutation(rows), side="right")


# --- every label in every part ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.9, 0.1), (1, 1, 1), (0.7, 0.2, 0.1), (1, 1, 1, 1, 1)])
@pytest.mark.parametrize("seed", range(8))
def test_every_label_is_in_every_part(shares: tuple[float, ...], seed: int) -> None:
    targets = long_tail(400, 100, seed)
    due = targets.sum(0) >= len(shares)
    assert 30 < due.sum() < 100  # some labels are too rare, and some others only just not
    parts = manyhot.stratified_split(targets, shares, seed=seed)
    assert missing(targets, parts, len(shares)) == []
    assert missing(targets, plain(400, np.array(shares) / sum(shares), seed), len(shares)) != []


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_disjoint_labels_are_in_every_part_whatever_their_counts(data: Any) -> None:
    # One label a row: nothing can forbid it.
    num_parts = data.draw(st.integers(2, 4))
    weights = data.draw(st.lists(st.integers(1, 9), min_size=num_parts, max_size=num_parts))
    of_label = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=6))
    unlabelled = data.draw(st.integers(0, 10))
    label = np.repeat(np.arange(len(of_label)), of_label)
    targets = np.zeros((label.size + unlabelled, len(of_label)), dtype=np.int8)
    targets[np.arange(label.size), label] = 1
    targets = targets[np.random.default_rng(0).permutation(len(targets))]
    parts = manyhot.stratified_split(targets, weights, seed=data.draw(st.integers(0, 5)))
    assert parts.shape == (len(targets),)
    assert set(parts.tolist()) <= set(range(num_parts))
    assert missing(targets, parts, num_parts) == []


def test_small_tables_are_covered_where_any_split_covers_them() -> None:
    # Against all assignments of 2 to 7 rows. The method is greedy with one pass of repair: it may miss a few of the
    # tables in which the labels of the rows are entangled, but not more than 1 of 300.
    rng = np.random.default_rng(1)
    missed, tried, impossible = [], 0, 0
    for trial in range(1200):
        targets = (rng.random((int(rng.integers(2, 8)), int(rng.integers(1, 5)))) < rng.choice([0.2, 0.4, 0.6])).astype(
            int
        )
        parts = manyhot.stratified_split(targets, (0.8, 0.2), seed=trial)
        if missing(targets, parts, 2):
            if reference.can_cover(targets, 2):
                missed.append(targets.tolist())
            else:
                impossible += 1
        tried += bool((targets.sum(0) >= 2).any())
    assert impossible > 0
    assert len(missed) <= tried / 300, missed[0]


def test_a_triangle_cannot_be_covered_and_does_not_hang() -> None:
    # Each pair of rows shares a label: one part gets one row, so one label is missing there.
    targets = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]])
    assert not reference.can_cover(targets, 2)
    for seed in range(10):
        for shares in ((1, 1), (0.9, 0.1), (1, 1, 1)):
            parts = manyhot.stratified_split(targets, shares, seed=seed)
            assert parts.shape == (3,)
            if len(shares) == 2:
                assert len(missing(targets, parts, 2)) == 1
    many = np.kron(np.eye(200, dtype=np.int8), targets)
    parts = manyhot.stratified_split(many, (1, 1))
    assert len(missing(many, parts, 2)) == 200
    assert abs(int((parts == 0).sum()) - 300) <= 100


def test_a_label_with_too_few_rows_goes_to_the_larger_parts() -> None:
    targets = np.zeros((100, 12), dtype=np.int8)
    targets[np.arange(12), np.arange(12)] = 1  # 12 singletons
    for seed in range(10):
        parts = manyhot.stratified_split(targets, (0.8, 0.2), seed=seed)
        assert parts[:12].tolist() == [0] * 12
        assert np.bincount(parts).tolist() == [80, 20]
        parts = manyhot.stratified_split(targets, (0.1, 0.6, 0.3), seed=seed)
        assert parts[:12].tolist() == [1] * 12
        assert np.bincount(parts).tolist() == [10, 60, 30]
    pairs = np.repeat(targets[:12], 2, 0)  # two rows a label, three parts
    pairs = np.vstack([pairs, np.zeros((76, 12), dtype=np.int8)])
    parts = manyhot.stratified_split(pairs, (0.2, 0.5, 0.3), seed=1)
    assert counts(pairs, parts, 3)[0].sum() == 0
    assert (counts(pairs, parts, 3)[1:].sum(0) == 2).all()


def test_a_part_that_is_full_comes_last() -> None:
    # Each label has one row, of which the larger part always wants more: it gets them until it is full.
    parts = manyhot.stratified_split(np.eye(10, dtype=int), (0.6, 0.4))
    assert np.bincount(parts).tolist() == [6, 4]


def test_rows_without_labels_fill_up_the_parts() -> None:
    assert np.bincount(manyhot.stratified_split(np.zeros((10, 3)), (0.8, 0.2))).tolist() == [8, 2]
    assert np.bincount(manyhot.stratified_split(np.zeros((9, 0)), (1, 1, 1))).tolist() == [3, 3, 3]
    assert manyhot.stratified_split(np.zeros((0, 3)), (0.8, 0.2)).tolist() == []
    targets = long_tail(1000, 20, 0, mean=0.5)
    assert (targets.sum(1) == 0).sum() > 400
    parts = manyhot.stratified_split(targets, (0.6, 0.4))
    assert np.bincount(parts).tolist() == [600, 400]


# --- shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.9, 0.1), (1, 1, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_shares_of_rows_and_labels(shares: tuple[float, ...], seed: int) -> None:
    targets = long_tail(3000, 80, seed)
    share = np.array(shares) / sum(shares)
    parts = manyhot.stratified_split(targets, shares, seed=seed)
    assert parts.dtype == np.int64
    # Rows: within half a percent of all rows.
    assert np.abs(np.bincount(parts, minlength=len(shares)) - 3000 * share).max() <= 15
    # Labels: nineteen of twenty as close as whole rows allow, the others within 12 rows or 3 %: what is dealt last
    # finds most of its rows taken. At random the average is three times as far off and more.
    want = np.outer(share, targets.sum(0))
    off = np.abs(counts(targets, parts, len(shares)) - want)
    assert np.mean(off < 1) >= 0.95
    assert (off <= np.maximum(12, 0.03 * targets.sum(0))).all()
    by_chance = np.abs(counts(targets, plain(3000, share, seed), len(shares)) - want)
    assert off.mean() < by_chance.mean() / 3


def test_shares_may_be_given_in_any_unit() -> None:
    targets = long_tail(300, 20, 0)
    a = manyhot.stratified_split(targets, (0.75, 0.25))
    assert a.tolist() == manyhot.stratified_split(targets, (3, 1)).tolist()
    assert a.tolist() == manyhot.stratified_split(targets, np.array([75, 25])).tolist()  # type: ignore[arg-type]


# --- seeds and forms -------------------------------------------------------------------------------------------------


def test_same_seed_same_split_other_seed_other_split() -> None:
    targets = long_tail(400, 30, 0)
    splits = [manyhot.stratified_split(targets, (0.8, 0.2), seed=seed).tolist() for seed in range(5)]
    for seed, split in enumerate(splits):
        assert manyhot.stratified_split(targets, (0.8, 0.2), seed=seed).tolist() == split
    for a in range(5):
        for b in range(a):
            assert 0.05 < np.mean(np.array(splits[a]) != np.array(splits[b])) < 0.6
    assert manyhot.stratified_split(targets, (0.8, 0.2)).tolist() == splits[0]


def test_the_global_random_state_has_no_part_in_it() -> None:
    targets = long_tail(200, 20, 0)
    np.random.seed(1)
    first = manyhot.stratified_split(targets, (1, 1), seed=3)
    state = np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    np.random.seed(2)
    assert manyhot.stratified_split(targets, (1, 1), seed=3).tolist() == first.tolist()
    np.random.seed(1)
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index,union-attr]


@pytest.mark.parametrize("seed", [0, 7])
def test_every_form_of_targets_gives_the_same_split(seed: int) -> None:
    targets = long_tail(300, 40, seed)
    want = manyhot.stratified_split(targets, (0.7, 0.3), seed=seed).tolist()
    stored_zeros = sparse.csr_array(targets)
    stored_zeros.data[::7] = 0
    forms: list[Any] = [
        targets.astype(bool),
        targets.astype(np.float32) * 0.3,
        np.where(targets, 1.0, np.where(np.arange(40) % 3, -1, np.nan)),
        torch.from_numpy(targets),
        torch.from_numpy(targets).bool(),
        torch.from_numpy(targets).float().requires_grad_(),
        sparse.csr_array(targets),
        sparse.csr_matrix(targets),
        sparse.csc_array(targets),
        sparse.coo_array(targets),
        targets.tolist(),
    ]
    for form in forms:
        assert manyhot.stratified_split(form, (0.7, 0.3), seed=seed).tolist() == want
    dense = stored_zeros.toarray()
    want = manyhot.stratified_split(dense, (0.7, 0.3), seed=seed).tolist()
    assert manyhot.stratified_split(stored_zeros, (0.7, 0.3), seed=seed).tolist() == want


def test_bfloat16_targets() -> None:
    targets = torch.from_numpy(long_tail(50, 5, 0))
    want = manyhot.stratified_split(targets, (1, 1)).tolist()
    assert manyhot.stratified_split(targets.bfloat16(), (1, 1)).tolist() == want


def test_targets_are_not_modified() -> None:
    targets = long_tail(100, 10, 0)
    before = targets.copy()
    manyhot.stratified_split(targets, (1, 1))
    np.testing.assert_array_equal(targets, before)


# --- groups ----------------------------------------------------------------------------------------------------------


def in_groups(rows: int, groups: int, seed: int) -> np.ndarray:
    """Draw groups of different sizes, the largest with a few hundredths of the rows."""
    rng = np.random.default_rng(seed)
    weight = rng.exponential(size=groups)
    return rng.choice(groups, rows, p=weight / weight.sum())


@pytest.mark.parametrize("shares", [(0.8, 0.2), (1, 1, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_groups_stay_together_and_labels_keep_their_shares(shares: tuple[float, ...], seed: int) -> None:
    targets, groups = long_tail(2000, 30, seed), in_groups(2000, 200, seed)
    parts = manyhot.stratified_split(targets, shares, groups=groups, seed=seed)
    assert all(np.unique(parts[groups == g]).size == 1 for g in np.unique(groups))
    share = np.array(shares) / sum(shares)
    off = np.abs(counts(targets, parts, len(shares)) - share[:, None] * targets.sum(0))
    # Of labels on up to 1,200 rows, where a group has up to 40 rows of a label.
    assert off.max() < 10
    assert np.abs(np.bincount(parts) - share * 2000).max() < 10
    rng = np.random.default_rng(seed)
    by_chance = rng.permutation(np.searchsorted(np.cumsum(share)[:-1] * 200, np.arange(200), side="right"))[groups]
    assert off.mean() < np.abs(counts(targets, by_chance, len(shares)) - share[:, None] * targets.sum(0)).mean() / 3


def test_groups_are_dealt_about_as_well_as_can_be() -> None:
    # Every way to halve nine groups, against which the split is measured: labels off their half, over all labels.
    ways = (np.arange(2**8)[:, None] >> np.arange(9)) & 1
    ours, best, mean = [], [], []
    for seed in range(40):
        targets, groups = long_tail(60, 6, seed), np.random.default_rng(seed).integers(9, size=60)
        held = np.array([targets[groups == g].sum(0) for g in range(9)])
        off = np.abs(ways @ held - targets.sum(0) / 2).sum(1)
        parts = manyhot.stratified_split(targets, (1, 1), groups=groups, seed=seed)
        ours.append(np.abs(targets[parts == 0].sum(0) - targets.sum(0) / 2).sum())
        best.append(off.min())
        mean.append(off.mean())
    assert all(one >= least for one, least in zip(ours, best, strict=True))
    # Greedy: a few rows more than the best of 256 ways, far fewer than a way taken at random.
    assert np.mean(ours) - np.mean(best) < (np.mean(mean) - np.mean(best)) / 4


def test_a_group_of_each_row_is_a_split_of_rows() -> None:
    targets = long_tail(400, 60, 0)
    parts = manyhot.stratified_split(targets, (1, 1, 1), groups=np.arange(400))
    off = np.abs(counts(targets, parts, 3) - targets.sum(0) / 3)
    assert (off < 2).all()
    assert np.abs(np.bincount(parts) - 400 / 3).max() <= 12


def test_groups_of_any_kind_and_without_labels() -> None:
    targets = np.zeros((12, 2), dtype=int)
    names = ["a", "b", "b", "a", "c", "c", "d", "d", "a", "b", "c", "d"]
    parts = manyhot.stratified_split(targets, (1, 1), groups=names, seed=3)
    assert np.bincount(parts).tolist() == [6, 6]
    codes = [{"a": 7, "b": 8, "c": 9, "d": 10}[name] for name in names]
    for groups in (codes, np.array(codes), torch.tensor(codes)):
        assert (manyhot.stratified_split(targets, (1, 1), groups=groups, seed=3) == parts).all()
    one = manyhot.stratified_split(np.eye(4), (3, 1), groups=[0, 0, 0, 0])
    assert one.tolist() == [0, 0, 0, 0]


def test_groups_must_be_one_a_row() -> None:
    for groups in ([0, 1], np.zeros((4, 1)), 3):
        with pytest.raises(ValueError, match=r"groups must have one entry a row, 4 in all; got shape \("):
            manyhot.stratified_split(np.eye(4), (1, 1), groups=groups)


# --- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hundred_thousand_rows_and_a_thousand_labels() -> None:
    rng = np.random.default_rng(0)
    sizes = 1 + rng.poisson(1.5, 100_000)
    row = np.repeat(np.arange(100_000), sizes)
    label = np.minimum((1000 * rng.random(row.size) ** 3).astype(np.int64), 999)
    targets = sparse.csr_array((np.ones(row.size, dtype=np.int8), (row, label)), shape=(100_000, 1000))
    targets.data[:] = 1
    start = time.perf_counter()
    parts = manyhot.stratified_split(targets, (0.8, 0.2))
    assert time.perf_counter() - start < 10
    dense = targets.toarray().astype(np.int8)
    start = time.perf_counter()
    assert (manyhot.stratified_split(dense, (0.8, 0.2)) == parts).all()
    assert time.perf_counter() - start < 10
    assert abs(int((parts == 1).sum()) - 20_000) <= 100
    total, here = dense.sum(0, dtype=np.int64), dense[parts == 1].sum(0, dtype=np.int64)
    assert np.mean(np.abs(here - 0.2 * total) < 1) >= 0.95
    assert (np.abs(here - 0.2 * total) <= np.maximum(12, 0.03 * total)).all()
    groups = np.unique(rng.integers(40_000, size=100_000), return_inverse=True)[1]
    start = time.perf_counter()
    parts = manyhot.stratified_split(targets, (0.8, 0.2), groups=groups)
    assert time.perf_counter() - start < 10
    assert (np.bincount(groups, parts) % np.bincount(groups) == 0).all()


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [(1,), (), (1, 0), (1, -1), (1, float("nan")), (1, float("inf")), ((1, 1),)])
def test_shares_that_are_none(shares: Any) -> None:
    with pytest.raises(ValueError, match=r"shares must be two or more positive numbers, such as \(0\.8, 0\.2\); got"):
        manyhot.stratified_split(np.eye(4), shares)


def test_targets_must_have_two_axes() -> None:
    for targets in (np.ones(3), torch.ones(2, 3, 4)):
        with pytest.raises(ValueError, match=r"targets must have shape \(rows, labels\); got \("):
            manyhot.stratified_split(targets, (1, 1))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_a_sparse_tensor_is_split_as_its_dense_form() -> None:
    targets = (np.random.default_rng(0).random((40, 5)) < 0.3).astype(np.float32)
    want = manyhot.stratified_split(targets, (2, 1), seed=3)
    np.testing.assert_array_equal(
        manyhot.stratified_split(torch.from_numpy(targets).to_sparse_csr(), (2, 1), seed=3), want
    )
    np.testing.assert_array_equal(manyhot.stratified_split(torch.from_numpy(targets).bfloat16(), (2, 1), seed=3), want)
    with pytest.raises(TypeError, match="IndexTargets do not say how many labels there are"):
        manyhot.stratified_split(manyhot.IndexTargets([[0]]), (1, 1))


@pytest.mark.parametrize("groups", [None, [], np.zeros(0)])
def test_no_rows_are_split_into_none(groups: Any) -> None:
    for targets in (np.zeros((0, 3)), np.zeros((0, 0)), torch.zeros(0, 3), sparse.csr_array((0, 3))):
        parts = manyhot.stratified_split(targets, (1, 1), groups=groups)
        assert parts.shape == (0,)
        assert parts.dtype == np.int64


def test_rows_without_any_label_are_dealt_out() -> None:
    assert sorted(manyhot.stratified_split(np.zeros((4, 0)), (1, 1)).tolist()) == [0, 0, 1, 1]
    assert sorted(manyhot.stratified_split(np.zeros((4, 0)), (1, 1), groups=[1, 1, 2, 2]).tolist()) == [0, 0, 1, 1]
