"""Probabilities: against scipy's minimisers, scikit-learn's scores, plain loops, and populations that are known."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import brier_score_loss, log_loss

import manyhot
from manyhot import calibration


def problem(rows: int = 300, labels: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(-0.5, 1.5, (rows, labels))
    slopes, offsets = random.uniform(0.5, 2.5, labels), random.uniform(-1, 1, labels)
    return logits, (random.random((rows, labels)) < expit(slopes * logits + offsets)).astype(np.int64)


# --- proba -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "threshold"), [(1.0, 0.0), (2.5, 0.0), (0.5, -1.0)])
def test_proba_is_where_the_soft_loss_is_smallest(scale: float, threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand((6, 9), generator=generator, dtype=torch.float64) * 0.9 + 0.05
    logits = torch.zeros_like(targets, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-9, tolerance_change=0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = manyhot.zlpr_loss(logits, targets, scale=scale, threshold=threshold, margin=0.3, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(manyhot.proba(logits, scale=scale, threshold=threshold).detach(), targets, atol=1e-5)


def test_proba_of_tensors_and_arrays() -> None:
    values = np.array([[0.5, -30.0, 1000.0], [-1e4, 0.0, np.inf]])
    expected = expit(2 * 1.5 * (values - np.array([0.0, 0.5, 1.0])))
    found = manyhot.proba(values, scale=1.5, threshold=np.array([0.0, 0.5, 1.0]))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    tensor = manyhot.proba(torch.tensor(values), scale=1.5, threshold=torch.tensor([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(tensor, expected, rtol=1e-14)
    half = manyhot.proba(torch.tensor(values).bfloat16())
    assert half.dtype == torch.float32
    np.testing.assert_allclose(half, expit(2 * torch.tensor(values).bfloat16().double().numpy()), rtol=1e-5)
    assert manyhot.proba(values.astype(np.float16)).dtype == np.float32
    logits = torch.zeros(2, requires_grad=True)
    manyhot.proba(logits).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="scale must be above 0; got 0"):
        manyhot.proba(values, scale=0)


# --- fit_calibration -------------------------------------------------------------------------------------------------


def by_scipy(logits: np.ndarray, targets: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """Minimise what the docstring says with scipy: (2, labels) of slope and offset."""
    known = np.ones(logits.shape, bool) if known is None else known

    def loss(z: np.ndarray, t: np.ndarray) -> float:
        return float((np.logaddexp(0, z) - t * z).sum())

    options: Any = {"method": "BFGS", "options": {"gtol": 1e-8}}

    def pooled(x: np.ndarray) -> float:
        return loss(x[0] * logits[known] + x[1], targets[known]) + 1.5 * (x[0] - 1) ** 2 + 0.5 * x[1] ** 2

    common = minimize(pooled, [1.0, 0.0], **options).x
    own = []
    for s, t, k in zip(logits.T, targets.T, known.T, strict=True):

        def drawn(x: np.ndarray, s: np.ndarray = s, t: np.ndarray = t, k: np.ndarray = k) -> float:
            return loss(x[0] * s[k] + x[1], t[k]) + 1.5 * (x[0] - common[0]) ** 2 + 0.5 * (x[1] - common[1]) ** 2

        own.append(minimize(drawn, common, **options).x)
    return np.array(own).T


@pytest.mark.parametrize("block", [10, 10**6])
def test_the_fit_is_the_minimum_of_what_is_documented(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(calibration, "_BLOCK", block)
    logits, targets = problem()
    found = manyhot.fit_calibration(logits, targets)
    slope, offset = by_scipy(logits, targets)
    np.testing.assert_allclose(1 / found.temperature, slope, rtol=1e-5)
    np.testing.assert_allclose(found.offset, offset, atol=1e-5)
    np.testing.assert_allclose(found.probs(logits), expit(slope * logits + offset), atol=1e-5)


def test_unknown_cells_do_not_count() -> None:
    logits, targets = problem(seed=1)
    known = np.random.default_rng(2).random(targets.shape) < 0.7
    slope, offset = by_scipy(logits, targets, known)
    for unknown in (-1, -100, np.nan):
        found = manyhot.fit_calibration(logits, np.where(known, targets, unknown))
        np.testing.assert_allclose(1 / found.temperature, slope, rtol=1e-5)
        np.testing.assert_allclose(found.offset, offset, atol=1e-5)


def test_tensors_shares_and_dtypes() -> None:
    logits, targets = problem(seed=3)
    from_arrays = manyhot.fit_calibration(logits.astype(np.float32), targets * 0.8 + 0.1)
    from_tensors = manyhot.fit_calibration(torch.tensor(logits).float(), torch.tensor(targets).double() * 0.8 + 0.1)
    np.testing.assert_array_equal(from_arrays.temperature, from_tensors.temperature)
    probs = from_tensors.probs(torch.tensor(logits))
    assert isinstance(probs, torch.Tensor)
    assert probs.dtype == torch.float64
    np.testing.assert_array_equal(probs, from_arrays.probs(logits))
    assert from_tensors.probs(torch.tensor(logits).half()).dtype == torch.float32
    assert from_arrays.probs(logits.astype(np.float16)).dtype == np.float32


def test_logits_that_are_all_the_wrong_way_round_keep_their_order() -> None:
    """Without a least slope for what labels have in common, temperatures are negative and rankings turned round."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(500, 3))
    targets = random.random((500, 3)) < expit(-2 * logits)
    found = manyhot.fit_calibration(logits, targets)
    # The common slope is held at .01, that of a label at .01 of it.
    np.testing.assert_allclose(found.temperature, 1e4)
    np.testing.assert_array_equal(found.probs(logits).argsort(0), logits.argsort(0))
    np.testing.assert_allclose(found.probs(logits).mean(0), targets.mean(0), atol=0.01)
    ids = logits.argmin(1)
    of_classes = manyhot.fit_calibration(logits, ids)
    np.testing.assert_allclose(of_classes.temperature, 100)
    np.testing.assert_array_equal(of_classes.probs(logits).shape, (500, 3))


def test_logits_that_are_far_too_large() -> None:
    """From a slope of 1, where all of them are sure, a whole step of Newton's goes too far."""
    random = np.random.default_rng(0)
    logits = 20 * random.normal(size=(600, 3))
    targets = (random.random((600, 3)) < expit(logits / 40)).astype(float)
    found = manyhot.fit_calibration(logits, targets)
    slope, offset = by_scipy(logits, targets)
    np.testing.assert_allclose(1 / found.temperature, slope, rtol=1e-4)
    np.testing.assert_allclose(found.offset, offset, atol=1e-4)
    assert 0.01 < slope.min() < slope.max() < 0.05


def test_a_label_that_says_little_keeps_what_all_have_in_common() -> None:
    logits, targets = problem(2000, 4)
    targets[:, 0] = 0
    targets[:, 1] = logits[:, 1] > 0  # told apart without a mistake: alone, its slope would grow without end
    targets[:, 2] = logits[:, 2] < 0  # the wrong way round
    found = manyhot.fit_calibration(logits, targets)
    assert np.isfinite(found.temperature).all()
    assert np.isfinite(found.offset).all()
    assert (found.temperature > 0).all()
    probs = found.probs(logits)
    assert probs[:, 0].max() < 0.02
    assert found.temperature[1] < found.temperature[3]
    # The order within a label stays, and the wrong one keeps its frequency.
    for i in range(4):
        assert (np.diff(probs[np.argsort(logits[:, i]), i]) >= 0).all()
    assert abs(probs[:, 2].mean() - targets[:, 2].mean()) < 0.01
    few = manyhot.fit_calibration(logits[:1], targets[:1])
    np.testing.assert_allclose(few.temperature, few.temperature[0], rtol=0.3)


def optimum_of_zlpr(targets: torch.Tensor) -> torch.Tensor:
    """Return the constant logits (contexts, labels) with the least mean ZLPR over (contexts, rows, labels)."""
    logits = torch.zeros(targets.shape[0], 1, targets.shape[2], requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = manyhot.zlpr_loss(logits.expand(targets.shape), targets, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach()[:, 0]


# mathematics.md, section 1: the slope for so many expected positives a row.
@pytest.mark.parametrize(
    ("positives", "low", "high"), [(0.5, 1.0, 1.12), (2, 1.15, 1.45), (3, 1.35, 1.65), (10, 1.8, 2.0)]
)
def test_simulated_populations(positives: float, low: float, high: float) -> None:
    generator = torch.Generator().manual_seed(0)
    contexts, rows, labels = 6, 8000 if positives < 1 else 3000, 40
    p = torch.rand((contexts, 1, labels), generator=generator) + 0.02
    p = (p * positives / p.sum(-1, keepdim=True)).clamp(max=0.9)
    sets = torch.rand((contexts, 2 * rows, labels), generator=generator) < p
    logits = optimum_of_zlpr(sets[:, :rows])[:, None].expand(contexts, rows, labels).reshape(-1, labels)
    held = sets[:, rows:].reshape(-1, labels)
    true = p.expand(contexts, rows, labels).reshape(-1, labels).numpy()
    # All labels as one: the slope of the population, which chance moves least.
    assert low < 1 / manyhot.fit_calibration(logits.reshape(-1, 1), held.reshape(-1, 1)).temperature[0] < high
    fitted = manyhot.fit_calibration(logits, held)
    probs = fitted.probs(logits).numpy()

    def error(found: Any) -> float:
        return float(np.abs(np.asarray(found) - true).mean() / true.mean())

    assert error(probs) < 0.1
    assert error(probs) < 0.7 * max(error(torch.sigmoid(logits)), error(manyhot.proba(logits)))
    metrics = manyhot.calibration_metrics(probs, held)
    assert metrics["ece"] < 0.004


def test_classes_against_scipy() -> None:
    random = np.random.default_rng(0)
    frequency = np.array([0.6, 0.25, 0.1, 0.05])
    logits = random.normal(size=(500, 4))
    ids = np.array([random.choice(4, p=softmax(2 * s + np.log(frequency))) for s in logits])
    found = manyhot.fit_calibration(logits, ids)
    counts = (np.bincount(ids, minlength=4) + 0.5) / (500 + 2)

    def loss(x: np.ndarray) -> float:
        scores = log_softmax(x[0] * logits + x[1] * np.log(counts), axis=1)
        return -float(scores[np.arange(500), ids].sum()) + 1.5 * (x[0] - 1) ** 2 + 0.5 * x[1] ** 2

    expected = minimize(loss, [1.0, 0.0], method="BFGS", options={"gtol": 1e-8}).x
    np.testing.assert_allclose(1 / found.temperature, expected[0], rtol=1e-5)
    np.testing.assert_allclose(found.offset, expected[1] * np.log(counts), rtol=1e-5)
    probs = found.probs(logits)
    np.testing.assert_allclose(probs, softmax(expected[0] * logits + expected[1] * np.log(counts), axis=1), atol=1e-6)
    np.testing.assert_allclose(probs.sum(1), 1)
    np.testing.assert_allclose(found.probs(torch.tensor(logits[:3])), probs[:3])


def test_classes_told_apart_without_a_mistake() -> None:
    ids = np.arange(60) % 3
    found = manyhot.fit_calibration(np.eye(3)[ids] * 4, ids)
    assert np.isfinite(found.probs(np.eye(3))).all()


# --- calibration_metrics ---------------------------------------------------------------------------------------------


def ece_by_hand(probs: np.ndarray, truth: np.ndarray, bins: int) -> float:
    """Sort, cut into equal parts, move equal values to the part of the first of them."""
    order = sorted(range(len(probs)), key=lambda i: probs[i])
    parts: dict[int, list[int]] = {}
    for place, i in enumerate(order):
        while place and probs[order[place - 1]] == probs[i]:
            place -= 1
        parts.setdefault(place * bins // len(order), []).append(i)
    return sum(abs(sum(truth[i] - probs[i] for i in part)) for part in parts.values()) / len(order)


def test_metrics_against_scikit_learn_and_by_hand() -> None:
    random = np.random.default_rng(0)
    probs = random.random((200, 4)).round(2)
    targets = (random.random((200, 4)) < probs**2).astype(float)
    targets[:50, 1] = -1
    targets[:, 3] = np.nan
    found = manyhot.calibration_metrics(probs, targets, bins=7)
    known = targets >= 0
    np.testing.assert_allclose(found["brier"], brier_score_loss(targets[known], probs[known]))
    np.testing.assert_allclose(found["log_loss"], log_loss(targets[known], probs[known]))
    np.testing.assert_allclose(found["ece"], ece_by_hand(probs[known], targets[known], 7))
    for i in range(3):
        rows = known[:, i]
        t, p = targets[rows, i], probs[rows, i]
        np.testing.assert_allclose(found["label_brier"][i], brier_score_loss(t, p))
        np.testing.assert_allclose(found["label_log_loss"][i], log_loss(t, p))
        np.testing.assert_allclose(found["label_ece"][i], ece_by_hand(p, t, 7))
    for name in ("label_brier", "label_log_loss", "label_ece"):
        assert np.isnan(found[name][3])
    np.testing.assert_equal(found, manyhot.calibration_metrics(torch.tensor(probs), torch.tensor(targets), bins=7))


def test_equal_probabilities_share_a_bin() -> None:
    # Half of the rows are positive and all say 1/2: perfectly calibrated, in whatever order the rows come.
    probs, targets = np.full((100, 2), 0.5), np.repeat([[1, 1], [0, 0]], 50, axis=0)
    assert manyhot.calibration_metrics(probs, targets)["ece"] == 0
    assert manyhot.calibration_metrics(probs, targets * 0)["ece"] == 0.5


def test_metrics_of_classes() -> None:
    random = np.random.default_rng(0)
    probs = softmax(random.normal(size=(300, 3)), axis=1)
    ids = random.integers(0, 3, 300)
    found = manyhot.calibration_metrics(probs, ids, bins=10)
    onehot = np.eye(3)[ids]
    np.testing.assert_allclose(found["log_loss"], log_loss(ids, probs))
    np.testing.assert_allclose(found["brier"], ((probs - onehot) ** 2).sum(1).mean())
    np.testing.assert_allclose(found["ece"], ece_by_hand(probs.max(1), (probs.argmax(1) == ids).astype(float), 10))
    np.testing.assert_allclose(found["label_ece"][1], ece_by_hand(probs[:, 1], onehot[:, 1], 10))


def test_sure_and_wrong_is_large_and_finite() -> None:
    found = manyhot.calibration_metrics(np.array([[1.0, 0.0]]), np.array([[0, 0]]))
    np.testing.assert_allclose(found["log_loss"], 52 * np.log(2) / 2, rtol=1e-6)


# --- what is unknown, and every form of the same ----------------------------------------------------------------------


def same_fit(found: manyhot.Calibration, want: manyhot.Calibration) -> None:
    np.testing.assert_array_equal(found.temperature, want.temperature)
    np.testing.assert_array_equal(found.offset, want.offset)
    assert found.classes == want.classes


def test_unknown_classes_and_what_stands_beside_unknown_cells_are_left_out() -> None:
    logits, ids = problem()[0], np.arange(300) % 5
    known = np.arange(300) % 4 > 0
    want = manyhot.fit_calibration(logits[known], ids[known])
    junk = np.where(known[:, None], logits, np.nan)
    for unknown in (-1, -100):
        coded = np.where(known, ids, unknown)
        same_fit(manyhot.fit_calibration(junk, coded), want)
        found = manyhot.calibration_metrics(softmax(junk, axis=1), coded)
        expected = manyhot.calibration_metrics(softmax(logits[known], axis=1), ids[known])
        np.testing.assert_array_equal(found["label_ece"], expected["label_ece"])
        assert found["log_loss"] == expected["log_loss"]
    logits, targets = problem()
    known = np.random.default_rng(1).random(targets.shape) < 0.6
    want = manyhot.fit_calibration(np.where(known, logits, 0.0), np.where(known, targets, -1))
    for value in (np.nan, np.inf):
        found = manyhot.fit_calibration(np.where(known, logits, value), np.where(known, targets, -1))
        same_fit(found, want)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_every_form_of_targets_calibrates_alike() -> None:
    logits, targets = problem()
    want = manyhot.fit_calibration(logits, targets)
    probs = want.probs(logits)
    lists = manyhot.IndexTargets([np.flatnonzero(row).tolist() for row in targets])
    for form in (sparse.csr_array(targets), torch.from_numpy(targets).to_sparse_csr(), lists, targets.tolist()):
        same_fit(manyhot.fit_calibration(logits, form), want)
        assert manyhot.calibration_metrics(probs, form)["brier"] == manyhot.calibration_metrics(probs, targets)["brier"]


def test_bfloat16_is_calibrated_as_float32() -> None:
    logits, targets = problem()
    half = torch.from_numpy(logits).bfloat16()
    for truth in (torch.from_numpy(targets), torch.arange(300) % 5):
        want = manyhot.fit_calibration(half.float(), truth)
        same_fit(manyhot.fit_calibration(half, truth), want)
        assert torch.equal(want.probs(half), want.probs(half.float()))
        probs = want.probs(half).bfloat16()
        found = manyhot.calibration_metrics(probs, truth)
        assert found["log_loss"] == manyhot.calibration_metrics(probs.float(), truth)["log_loss"]
    shares = torch.from_numpy(targets).bfloat16() / 2
    same_fit(manyhot.fit_calibration(half, shares), manyhot.fit_calibration(half, shares.float()))


def test_arrays_and_tensors_have_the_same_probabilities_of_soft_targets() -> None:
    logits = np.linspace(-3, 3, 13)
    for dtype in (np.float64, np.float32):
        got = manyhot.proba(logits.astype(dtype), scale=0.1)
        want = manyhot.proba(torch.from_numpy(logits.astype(dtype)), scale=0.1).numpy()
        np.testing.assert_allclose(got, want, rtol=4 * float(np.finfo(dtype).eps))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (np.zeros(3), np.zeros(3), r"logits must have shape \(rows, labels\) with at least one row.*\(3,\) and \(3,\)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), r"at least one row"),
        (np.zeros((2, 3)), np.zeros((3, 3)), r"got \(2, 3\) and \(3, 3\)"),
        (np.zeros((2, 3)), np.array([[0, 1, 0], [0, 2, 0]]), r"targets must lie in \[0, 1\].*got 2 in row 1, label 1"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), np.zeros((2, 2)), r"logits must be finite; got NaN.*in row 1"),
        (np.zeros((2, 3)), np.full((2, 3), -1), r"needs known targets"),
        (np.zeros((2, 3)), np.array([0, 3]), r"class ids .* whole numbers in 0 to 2, or -1 .* unknown; got 3 in row 1"),
        (np.array([[np.nan, 0.0], [0.0, np.inf], [0.0, 1.0]]), np.array([-1, 0, 1]), "logits must be finite.*in row 1"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), r"class ids must be whole numbers in 0 to 2; got float64"),
    ],
)  # fmt: skip
def test_what_fit_calibration_refuses(logits: Any, targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        manyhot.fit_calibration(logits, targets)


def test_what_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"probs must lie in \[0, 1\]; got others in row 1"):
        manyhot.calibration_metrics(np.array([[0.5, 1.0], [1.5, 0.0]]), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"probs must lie in \[0, 1\]; got others in row 0"):
        manyhot.calibration_metrics(np.array([[np.nan, 1.0]]), np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"probs must lie in \[0, 1\]; got others in row 2"):
        manyhot.calibration_metrics(np.array([[9.0, 1.0], [0.5, 0.5], [1.0, 1.5]]), np.array([-1, 0, 1]))
    with pytest.raises(ValueError, match="bins must be 1 or more; got 0"):
        manyhot.calibration_metrics(np.zeros((1, 2)), np.zeros((1, 2)), bins=0)
    with pytest.raises(ValueError, match="calibration_metrics needs known targets"):
        manyhot.calibration_metrics(np.zeros((1, 2)), np.full((1, 2), np.nan))
    with pytest.raises(ValueError, match=r"logits must have 2 labels, as the calibration has; got shape \(4, 3\)"):
        manyhot.Calibration(np.ones(2), np.zeros(2)).probs(np.zeros((4, 3)))
