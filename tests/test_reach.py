"""Classes and label sets out of reach, against convex hulls, other linear programmes, and inputs that are drawn."""

import builtins
import itertools
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import linprog
from scipy.spatial import ConvexHull

import manyhot
from manyhot.reach import Reach


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def widest(normals: np.ndarray, offsets: np.ndarray, low: float | None = -1.0, high: float | None = 1.0) -> float:
    """Return the largest delta with normals x + offsets >= delta norms: one programme of all constraints."""
    norms = np.linalg.norm(np.column_stack((normals, offsets)), axis=1)
    size = normals.shape[1]
    solved = linprog(
        np.append(np.zeros(size), -1.0),
        A_ub=np.column_stack((-normals, norms)),
        b_ub=offsets,
        bounds=[(low, high)] * size + [(None, None if high is not None else 1.0)],
    )
    return -solved.fun


def of_class(weight: np.ndarray, bias: np.ndarray, i: int, **bounds: Any) -> float:
    others = np.arange(len(weight)) != i
    return widest(weight[i] - weight[others], bias[i] - bias[others], **bounds)


def signs_of(reach: Reach, names: dict[str, bool]) -> list[bool]:
    return [names[status] for status in reach.status]


REACHED = {"yes": True, "no": False}


@pytest.mark.parametrize(("n", "size", "seed"), [(60, 2, 0), (200, 2, 1), (80, 3, 2), (60, 6, 3)])
def test_without_bias_the_corners_of_the_hull_are_in_reach(n: int, size: int, seed: int) -> None:
    weight = normal(seed, n, size)
    reach = manyhot.reachable_classes(weight)
    assert np.flatnonzero(reach.status == "yes").tolist() == sorted(ConvexHull(weight).vertices)
    assert np.flatnonzero(reach.status == "no").tolist() == np.flatnonzero(reach.status != "yes").tolist()
    yes = np.flatnonzero(reach.status == "yes")
    assert (weight @ reach.witness[yes].T).argmax(0).tolist() == yes.tolist()
    assert np.isnan(reach.witness[reach.status == "no"]).all()


def test_rows_are_not_normalised() -> None:
    # Of 60 Gaussian points 9 are corners of their hull; on the circle all 60 would be.
    weight = normal(0, 60, 2)
    on_circle = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    counts = [(manyhot.reachable_classes(w).status == "yes").sum() for w in (weight, on_circle)]
    assert counts == [len(ConvexHull(weight).vertices), 60]
    assert counts[0] < 15


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("nonnegative", [False, True])
def test_with_bias_as_one_programme_of_all_constraints_says(seed: int, nonnegative: bool) -> None:
    weight, bias = normal(seed, 40, 3), normal(seed + 100, 40)
    reach = manyhot.reachable_classes(weight, bias, nonnegative=nonnegative)
    low = 0.0 if nonnegative else None
    bounds = [of_class(weight, bias, i, low=low, high=None) for i in range(40)]
    assert signs_of(reach, REACHED) == [bound > 0 for bound in bounds]
    assert 3 < (reach.status == "yes").sum() < 40
    for i in np.flatnonzero(reach.status == "yes").tolist():
        x = reach.witness[i]
        assert not nonnegative or (x >= 0).all()
        slacks = (weight[i] - weight) @ x + bias[i] - bias
        norms = np.linalg.norm(np.column_stack((weight[i] - weight, bias[i] - bias)), axis=1)
        assert reach.margin[i] == pytest.approx(np.delete(slacks / np.where(norms == 0, 1, norms), i).min(), rel=1e-9)
        if np.abs(x).max() <= 1:
            best = of_class(weight, bias, i, low=0.0 if nonnegative else -1.0)
            assert reach.margin[i] <= best + 1e-7
    for i in np.flatnonzero(reach.status == "no"):
        assert bounds[i] <= reach.margin[i] + 1e-7 < 0


def test_where_a_programme_was_solved_the_margin_is_the_largest_in_the_box() -> None:
    # A thin corner: w_i as the input has class 2 on top, and so have its projections.
    weight = np.array([[1.0, 0.0], [0.999, 0.05], [0.999, -0.05], [0.9982, 0.06], [-1.0, 0.0], [0.9995, 0.0200001]])
    reach = manyhot.reachable_classes(weight)
    for i in range(len(weight)):
        best = of_class(weight, np.zeros(len(weight)), i)
        if best > 1e-7:
            assert reach.status[i] == "yes"
            assert 0 < reach.margin[i] <= best + 1e-9
        else:
            assert reach.status[i] != "yes"


def test_hull_and_bias() -> None:
    weight = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.25, 0.25]]
    combination = 0.5 * 0.0  # the inner class is a mean of the others, whose biases are 0
    status = {b: manyhot.reachable_classes(weight, [0, 0, 0, 0, combination + b]).status.tolist() for b in (-1, 0, 1)}
    assert status[-1] == ["yes"] * 4 + ["no"]
    assert status[0] == ["yes"] * 4 + ["no"]
    assert status[1] == ["yes"] * 5
    low = manyhot.reachable_classes(weight, [0, 0, 0, 0, -1])
    assert of_class(np.array(weight), np.array([0, 0, 0, 0, -1.0]), 4, low=None, high=None) <= low.margin[4] < 0


def test_ties_are_exact() -> None:
    # A copy, a point of an edge, and one that is a hair off it, for which nothing can be shown.
    square = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]
    reach = manyhot.reachable_classes([*square, [1.0, 1.0], [1.0, 0.25]])
    assert reach.status.tolist() == ["tie", "yes", "yes", "yes", "tie", "tie"]
    assert reach.margin[[0, 4, 5]].tolist() == [0, 0, 0]
    x = reach.witness[5]
    assert x[0] > 0
    assert x[1] == 0
    assert manyhot.reachable_classes([*square, [1.0 + 1e-9, 0.25]]).status[-1] == "undecided"
    assert manyhot.reachable_classes([*square, [1.0 - 1e-9, 0.25]]).status[-1] == "undecided"
    undecided = manyhot.reachable_classes([*square, [1.0 - 4e-8, 0.25]])
    assert undecided.status[-1] == "undecided"
    assert 0 <= undecided.margin[-1] < 1e-7
    assert manyhot.reachable_classes([*square, [1.0 - 1e-6, 0.25]]).status[-1] == "no"
    # With biases that make a class level at one place alone.
    assert manyhot.reachable_classes([[1.0], [-1.0], [0.0]], [0.0, 0.0, 0.0]).status.tolist() == ["yes", "yes", "no"]
    assert manyhot.reachable_classes([[1.0], [-1.0], [0.0]], [1.0, 1.0, 1.0]).status[-1] == "no"
    assert manyhot.reachable_classes([[2.0], [-2.0], [0.0]], [1.0, -1.0, 0.0]).status[-1] == "tie"
    assert manyhot.reachable_classes([[2.0], [-2.0], [0.0]], [1.0, -1.0, 0.5]).status[-1] == "yes"


def test_all_alike_and_alone() -> None:
    assert manyhot.reachable_classes([[1.0, 2.0]]).status.tolist() == ["yes"]
    assert manyhot.reachable_classes([[1.0, 2.0]] * 3).status.tolist() == ["tie"] * 3
    # A copy of a class that is out of reach is out of reach.
    status = manyhot.reachable_classes([[1.0], [-1.0], [0.5], [0.5]]).status.tolist()
    assert status == ["yes", "yes", "no", "no"]


def test_nearly_equal_rows_keep_their_digits() -> None:
    near = 1 + np.arange(4) * 1e-9
    weight = np.column_stack((near * 1e3, (near - 1) ** 2))
    reach = manyhot.reachable_classes(weight, tolerance=1e-12)
    assert reach.status[[0, 3]].tolist() == ["yes", "yes"]
    logits = weight @ reach.witness[[0, 3]].T
    assert logits.argmax(0).tolist() == [0, 3]


def test_a_common_vector_changes_nothing() -> None:
    weight = normal(5, 30, 3)
    moved = weight + 1e4 * normal(6, 3)
    assert manyhot.reachable_classes(weight).status.tolist() == manyhot.reachable_classes(moved).status.tolist()


def test_wide_heads_need_no_programme(monkeypatch: pytest.MonkeyPatch) -> None:
    without_scipy(monkeypatch)
    weight = torch.randn(2000, 256, generator=torch.Generator().manual_seed(0))
    reach = manyhot.reachable_classes(weight)
    assert (reach.status == "yes").all()
    for i in (0, 999, 1999):
        slacks = (weight[i] - weight).double().numpy() @ reach.witness[i]
        norms = np.linalg.norm((weight[i] - weight).double().numpy(), axis=1)
        assert reach.margin[i] == pytest.approx((np.delete(slacks, i) / np.delete(norms, i)).min(), rel=1e-6)


def without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("scipy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="scipy")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without_scipy(monkeypatch)
    with pytest.raises(ImportError, match=r"pip install 'manyhot\[toolkit\]'"):
        manyhot.reachable_classes([[1.0], [-1.0], [0.0]])


# --- label sets -------------------------------------------------------------------------------------------------------


def all_sets(n: int, most: int | None = None) -> np.ndarray:
    sets = np.array(list(itertools.product((0, 1), repeat=n)))
    return sets if most is None else sets[sets.sum(1) <= most]


def of_set(weight: np.ndarray, shift: np.ndarray, members: np.ndarray, **bounds: Any) -> float:
    signs = np.where(members, 1.0, -1.0)
    return widest(signs[:, None] * weight, signs * shift, **bounds)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_sets_as_one_programme_of_all_constraints_says(nonnegative: bool) -> None:
    weight, bias = normal(7, 6, 2), normal(8, 6)
    sets = all_sets(6)
    reach = manyhot.reachable_sets(weight, sets, bias=bias, threshold=0.3, nonnegative=nonnegative)
    low = 0.0 if nonnegative else None
    assert signs_of(reach, REACHED) == [of_set(weight, bias - 0.3, s, low=low, high=None) > 0 for s in sets]
    yes = reach.status == "yes"
    if not nonnegative:
        assert yes.sum() == 1 + 6 + 15  # the cells of 6 lines in the plane
    decided = manyhot.decide(reach.witness[yes] @ weight.T + bias, threshold=0.3)
    assert decided.tolist() == sets[yes].tolist()


def test_sets_of_a_head_without_bias_are_cells_around_the_origin() -> None:
    weight = normal(9, 7, 3)
    sets = all_sets(7)
    reach = manyhot.reachable_sets(weight, sets)
    # Schlaefli's count of the cells of 7 planes through the origin of space: 2 (1 + 6 + 15).
    assert (reach.status == "yes").sum() == 44
    empty = reach.status[0]
    assert empty == ("yes" if of_set(weight, np.zeros(7), sets[0]) > 1e-7 else "tie")
    assert set(reach.status[1:]) == {"yes", "no"}
    for s, margin, status in zip(sets, reach.margin, reach.status, strict=True):
        assert (of_set(weight, np.zeros(7), s) > 1e-7) == (status == "yes")
        assert margin <= of_set(weight, np.zeros(7), s) + 1e-7


def test_top_k_sets() -> None:
    weight, bias = normal(10, 6, 2), normal(11, 6)
    drawn = 30 * normal(12, 20_000, 2)
    for k in (1, 2, 3):
        sets = all_sets(6)[all_sets(6).sum(1) == k]
        reach = manyhot.reachable_sets(weight, sets, bias=bias, top_k=True)
        seen = {tuple(s) for s in manyhot.top_k(drawn @ weight.T + bias, k).tolist()}
        found = {tuple(s) for s in sets[reach.status == "yes"].tolist()}
        assert seen <= found
        for s, status in zip(sets.astype(bool), reach.status, strict=True):
            pairs = [(i, j) for i in np.flatnonzero(s) for j in np.flatnonzero(~s)]
            normals = np.array([weight[i] - weight[j] for i, j in pairs])
            offsets = np.array([bias[i] - bias[j] for i, j in pairs])
            assert (widest(normals, offsets, low=None, high=None) > 0) == (status == "yes")
        yes = reach.status == "yes"
        assert manyhot.top_k(reach.witness[yes] @ weight.T + bias, k).tolist() == sets[yes].tolist()
    assert manyhot.reachable_sets(weight, [[0] * 6, [1] * 6] @ np.eye(6, dtype=int), top_k=True).status.tolist() == [
        "yes",
        "yes",
    ]


def test_top_1_is_a_class() -> None:
    weight = normal(13, 30, 2)
    one = manyhot.reachable_sets(weight, np.eye(30, dtype=int), top_k=True)
    assert one.status.tolist() == manyhot.reachable_classes(weight).status.tolist()


def test_labels_at_the_threshold() -> None:
    weight = [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]
    sets = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]])
    # Labels 0 and 1 are opposite: only at x = 0 is neither above; a row of zeros is never above.
    assert manyhot.reachable_sets(weight, sets).status.tolist() == ["tie", "yes", "no", "no"]
    assert manyhot.reachable_sets(weight, sets, bias=[0.0, 0.0, 1.0]).status.tolist() == ["no", "no", "no", "tie"]
    twice = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]
    tie = manyhot.reachable_sets(twice, np.array([[0, 0, 1]]))
    assert tie.status.tolist() == ["tie"]
    assert manyhot.decide(tie.witness @ np.array(twice).T).tolist() == [[0, 0, 1]]
    level = manyhot.reachable_sets([[1.0], [1.0], [-1.0]], np.array([[1, 0, 0], [1, 1, 0]]), top_k=True)
    assert level.status.tolist() == ["tie", "yes"]


def test_formats_of_sets() -> None:
    weight = torch.tensor(normal(14, 5, 2))
    dense = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1]])
    want = manyhot.reachable_sets(weight, dense).status.tolist()
    listed = manyhot.IndexTargets([[0, 3], [2], [0, 1, 2, 3, 4]])
    for sets in (dense.numpy(), dense.bool(), dense.double(), listed, sp.csr_array(dense.numpy())):
        assert manyhot.reachable_sets(torch.nn.Parameter(weight), sets).status.tolist() == want
    assert manyhot.reachable_sets(weight, torch.zeros(0, 5)).status.shape == (0,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: manyhot.reachable_classes([1.0, 2.0]), ValueError, r"weight must have shape \(classes or labels, f"),
        (lambda: manyhot.reachable_classes([[1.0], [2.0]], [1.0]), ValueError, r"bias must have shape \(2,\)"),
        (lambda: manyhot.reachable_classes([[np.nan], [2.0]]), ValueError, "weight must be finite numbers; got nan"),
        (lambda: manyhot.reachable_classes([[1.0]], tolerance=0.0), ValueError, "tolerance must be above 0"),
        (lambda: manyhot.reachable_sets([[1.0]], [[0]]), TypeError, "go into manyhot.IndexTargets"),
        (lambda: manyhot.reachable_sets([[1.0]], np.array([[0, 1]])), ValueError, r"sets must have shape \(sets, 1\)"),
        (lambda: manyhot.reachable_sets([[1.0]], torch.tensor([[0.5]])), ValueError, "sets must be 0/1"),
        (lambda: manyhot.reachable_sets([[1.0]], torch.tensor([[-1]])), ValueError, "sets must be 0/1"),
        (
            lambda: manyhot.reachable_sets([[1.0]], torch.tensor([[1]]), threshold=[1.0, 2.0]),
            ValueError,
            r"threshold must be a number or of shape \(1,\)",
        ),
        (lambda: manyhot.reachable_sets([[1.0]], manyhot.IndexTargets([[3]])), ValueError, "label ids must lie in 0"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
