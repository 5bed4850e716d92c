"""The choice of C and tau by held-out rows, and the identity that lets one fit serve every tau."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F

from manyhot import cardinality_range, decide, label_counts, label_prior, multilabel_metrics, zlpr_loss
from manyhot import offset as offset_module
from manyhot.labels import CardinalityRange
from manyhot.toolkit.choose import cross_fit as module
from manyhot.toolkit.choose.cross_fit import (
    Fold,
    Held,
    best_offset,
    choose,
    choose_tau,
    choose_tau_of_right_cardinality,
    fixed,
    make_folds,
    mean_f1,
    prior_logits,
    right_offset,
)
from manyhot.toolkit.models import linear as linear_module
from manyhot.toolkit.models.linear import LinearLearner, Solver, fit_linear
from manyhot.toolkit.models.model import Memory


@pytest.fixture(autouse=True)
def one_thread():
    """Keep torch's threads off each other's cores: on tensors this small they only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def zlpr(logits, targets):
    return zlpr_loss(logits, targets, reduction="sum")


def bce(logits, targets):
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")


def example(rows=120, features=8, labels=5, seed=0):
    """Draw numbers and rare to frequent labels that depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, features)).astype(np.float32)
    scores = X @ rng.normal(size=(features, labels)) + rng.normal(size=(rows, labels)) - np.linspace(1, 5, labels)
    targets = scores > 0
    assert (targets.sum(0) >= 3).all()
    return X, targets


# The identity


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_training_with_the_prior_is_training_without_it_and_lowering_the_bias(monkeypatch, tau):
    monkeypatch.setattr(linear_module, "TOLERANCE", 0.0)
    X, targets = example()
    prior = label_prior(torch.from_numpy(targets))

    def with_prior(logits, targets):
        return zlpr_loss(logits, targets, prior=prior, tau=tau, reduction="sum")

    # Strongly convex at this C, so that both stop within float32's reach of the one optimum.
    trained = {
        loss: fit_linear(X, torch.from_numpy(targets), loss=loss, C=1.0, max_iter=3000) for loss in (with_prior, zlpr)
    }
    np.testing.assert_allclose(trained[with_prior].weight.numpy(), trained[zlpr].weight.numpy(), atol=2e-3)
    lowered = trained[zlpr].bias.numpy() - tau * prior_logits(targets)
    np.testing.assert_allclose(trained[with_prior].bias.numpy(), lowered, atol=4e-3)
    # It is not the same bias: the prior of these labels moves it by far more than the tolerance.
    assert np.abs(tau * prior_logits(targets)).max() > 0.3
    # The rarer a label, the more its logit rises at prediction.
    np.testing.assert_array_less(tau * prior_logits(targets)[1:], 0)


def test_prior_logits_are_half_the_logit_of_the_smoothed_frequency():
    targets = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0]])
    expected = [np.log(p / (1 - p)) / 2 for p in (3.5 / 4, 1.5 / 4, 0.5 / 4)]
    np.testing.assert_allclose(prior_logits(targets), expected, rtol=1e-6)
    assert prior_logits(targets).dtype == np.float32


# Right cardinality


def predicted(logits, cardinality):
    low, high = cardinality
    return decide(logits, min_labels=low, max_labels=high).sum()


@pytest.mark.parametrize("cardinality", [(0, 6), (0, 3), (1, 4), (2, 5), (1, 2)])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.98])
def test_the_offset_predicts_as_many_labels_as_there_are(cardinality, share):
    low, high = cardinality
    logits = np.random.default_rng(0).normal(-2, 3, (50, 6)).astype(np.float32)
    wanted = 50 * low + round(share * 50 * (high - low))
    offset = right_offset(logits, wanted, CardinalityRange(low, high))
    assert predicted(logits + np.float32(offset), cardinality) == wanted
    # Half way between two logits: neither is nearer to the decision.
    assert predicted(logits + np.float32(offset - 1e-4), cardinality) <= wanted
    assert predicted(logits + np.float32(offset + 1e-4), cardinality) >= wanted


def test_the_offset_by_hand():
    logits = np.array([[3.0, -1.0, -5.0], [1.0, -2.0, -7.0]], dtype=np.float32)
    assert right_offset(logits, 1, CardinalityRange(0, 3)) == -2  # between 3 and 1
    assert right_offset(logits, 3, CardinalityRange(0, 3)) == 1.5  # between -1 and -2
    # With one label a row in any case, the second best logits decide.
    assert right_offset(logits, 3, CardinalityRange(1, 2)) == 1.5
    # With two a row at most, the third best do not count.
    assert right_offset(logits - np.array([0, 0, -4], dtype=np.float32), 3, CardinalityRange(0, 2)) == 1.5
    assert right_offset(logits, 3, CardinalityRange(0, 3)) == right_offset(logits[::-1], 3, CardinalityRange(0, 3))


def test_the_offset_at_the_ends_is_finite_and_changes_nothing_that_is_fixed():
    logits = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    for cardinality, labels in (((1, 1), 20), ((0, 4), 0), ((0, 4), 80), ((1, 3), 20), ((1, 3), 60), ((0, 0), 0)):
        offset = right_offset(logits, labels, CardinalityRange(cardinality[0], cardinality[1]))
        assert np.isfinite(offset)
    assert right_offset(logits, 20, CardinalityRange(1, 1)) == 0


def test_logits_stay_as_they_are():
    logits = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    before = logits.copy()
    right_offset(logits, 30, CardinalityRange(0, 4))
    choose_tau(Held(logits, np.full((20, 4), -1, np.float32), logits > 0.5), CardinalityRange(0, 4))
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("cardinality", [(0, 5), (1, 3), (0, 2), (2, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_tau_and_offset_have_the_best_score_of_all_that_are_tried(cardinality, seed):
    rng = np.random.default_rng(seed)
    targets = rng.random((200, 5)) < [0.5, 0.3, 0.1, 0.05, 0.03]
    prior = np.tile(prior_logits(targets), (200, 1))
    # Logits that lack the prior: rare labels are too low by twice its half.
    logits = (3 * targets - 1.5 + rng.normal(size=(200, 5)) + 2 * prior).astype(np.float32)
    limits = CardinalityRange(cardinality[0], cardinality[1])

    def score(tau, offset):
        shifted = logits - np.float32(tau) * prior + np.float32(offset)
        preds = decide(shifted, min_labels=limits.min_labels, max_labels=limits.max_labels)
        # By hand: multilabel_metrics ranks labels too, which takes most of the time of hundreds of candidates.
        hits, sizes = (preds.astype(bool) & targets).sum(0), preds.sum(0) + targets.sum(0)
        return (
            2 * hits.sum() / sizes.sum() + np.mean([2 * h / n if n else 0.0 for h, n in zip(hits, sizes, strict=True)])
        ) / 2

    tau, offset = choose_tau(Held(logits, prior, targets), limits)
    assert tau in module.TAUS
    scores = {}
    for candidate in module.TAUS:
        shifted = logits - np.float32(candidate) * prior
        offsets = [right_offset(shifted, round(share * targets.sum()), limits) for share in offset_module.SHARES]
        scores[candidate] = max(score(candidate, offset) for offset in (0.0, *offsets))
    assert score(tau, offset) == pytest.approx(max(scores.values()), abs=1e-9)
    assert scores[tau] == max(scores.values())
    if cardinality != (2, 2):
        assert tau > 0


@pytest.mark.parametrize("limits", [CardinalityRange(0, 5), CardinalityRange(1, 3)])
def test_as_many_labels_as_there_are(limits):
    rng = np.random.default_rng(0)
    targets = rng.random((200, 5)) < [0.5, 0.3, 0.1, 0.05, 0.03]
    targets[~targets.any(1), 0] = True
    prior = np.tile(prior_logits(targets), (200, 1))
    logits = (targets + rng.normal(size=(200, 5)) + 2 * prior).astype(np.float32)
    held = Held(logits, prior, targets)

    def preds(tau, offset):
        shifted = held.shifted(tau, offset)
        return decide(shifted, min_labels=limits.min_labels, max_labels=limits.max_labels)

    tau, offset = choose_tau_of_right_cardinality(held, limits)
    assert preds(tau, offset).sum() == targets.sum()
    others = {t: right_offset(held.shifted(t, 0.0), int(targets.sum()), limits) for t in module.TAUS}
    assert mean_f1(preds(tau, offset), targets) == max(mean_f1(preds(t, o), targets) for t, o in others.items())
    # These labels are hard to predict: F1 asks for more of them.
    assert preds(*choose_tau(held, limits)).sum() > targets.sum()


@pytest.mark.parametrize("cardinality", [(0, 4), (1, 3), (4, 4)])
def test_the_score_of_the_best_offset_is_that_of_its_predictions(cardinality):
    limits = CardinalityRange(cardinality[0], cardinality[1])
    rng = np.random.default_rng(1)
    targets = rng.random((50, 4)) < 0.3
    logits = np.round(rng.normal(size=(50, 4)) + targets, 1).astype(np.float32)  # with ties
    score, offset = best_offset(logits, targets, limits)
    preds = decide(logits + np.float32(offset), min_labels=limits.min_labels, max_labels=limits.max_labels)
    assert score == pytest.approx(mean_f1(preds, targets), abs=0.02 if limits.max_labels == 3 else 1e-9)
    metrics: Any = multilabel_metrics(preds, targets, logits)
    assert mean_f1(preds, targets) == pytest.approx((metrics["micro_f1"] + metrics["macro_f1"]) / 2)


def test_where_every_tau_is_as_good_none_is_used():
    targets = np.random.default_rng(0).random((50, 3)) < 0.4
    logits = np.where(targets, 9, -9).astype(np.float32)
    tau, _ = choose_tau(Held(logits, np.full((50, 3), -0.5, np.float32), targets), CardinalityRange(0, 3))
    assert tau == 0


# Folds


def with_row_numbers(rows=91, labels=7, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.random((rows, labels)) < np.linspace(0.08, 0.6, labels)
    return np.arange(rows, dtype=np.float32)[:, None] + 1, targets


@pytest.mark.parametrize("layout", [sp.csr_array, lambda X: X], ids=["sparse", "dense"])
def test_every_row_is_held_out_once_and_folds_are_disjoint(layout):
    X, targets = with_row_numbers()
    folds = make_folds(layout(X), targets, seed=0)
    assert len(folds) == module.FOLDS
    held = []
    for fold in folds:
        fitted, left = (np.asarray(part.sum(axis=1)).ravel().astype(int) - 1 for part in (fold.X, fold.X_held))
        assert sorted([*fitted, *left]) == list(range(91))
        np.testing.assert_array_equal(fold.targets, targets[fitted])
        np.testing.assert_array_equal(fold.targets_held, targets[left])
        held += left.tolist()
    assert sorted(held) == list(range(91))


def test_folds_are_stratified():
    X, targets = with_row_numbers(rows=300)
    counts = targets.sum(0)
    for fold in make_folds(X, targets, seed=1):
        assert abs(len(fold.X_held) - 300 / module.FOLDS) <= 4
        assert (np.abs(fold.targets_held.sum(0) - counts / module.FOLDS) <= 4).all()
    rare = np.zeros((300, 2), dtype=bool)
    rare[:, 0] = True
    rare[: module.FOLDS, 1] = True
    assert [int(fold.targets_held[:, 1].sum()) for fold in make_folds(X, rare, seed=1)] == [1] * module.FOLDS


def test_folds_depend_on_the_seed_alone():
    X, targets = with_row_numbers()
    first, second, other = (make_folds(X, targets, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a.X_held, b.X_held) for a, b in zip(first, second, strict=True))
    assert not all(np.array_equal(a.X_held, b.X_held) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("rows", [2, 3, 4, 5])
def test_few_rows_give_as_many_folds_as_can_be(rows):
    X, targets = with_row_numbers()
    folds = make_folds(X[:rows], targets[:rows], seed=0)
    assert 2 <= len(folds) <= min(rows, module.FOLDS)
    assert sorted(np.concatenate([fold.X_held[:, 0] for fold in folds])) == list(range(1, rows + 1))
    assert all(len(fold.X) for fold in folds)


# The choice


def learner_of(X, targets, loss=zlpr, solver: Solver = "lbfgs"):
    return LinearLearner(
        loss, Memory("", 0, 0, 0), solver, "all labels", False, (len(targets), X.shape[1], targets.shape[1])
    )


def chosen(X, targets, *, loss=zlpr, solver: Solver = "lbfgs", **options: Any):
    steps = []
    options = {"C": "auto", "tau": "auto"} | options
    tau = options.pop("tau")
    choice = choose(
        options.pop("folds", None) or make_folds(X, targets, seed=0),
        learner=learner_of(X, targets, loss, solver),
        cardinality=cardinality_range(targets),
        train_counts=label_counts(targets),
        rule=choose_tau if tau == "auto" else fixed(tau),
        on_step=steps.append,
        **options,
    )
    return choice.step, steps


def test_the_best_score_of_the_steps_is_chosen():
    X, targets = example()
    for tau in ("auto", 0.0):
        step, steps = chosen(X, targets, tau=tau)
        assert 2 <= len(steps) <= len(module.STRENGTHS)
        assert step is max(steps, key=lambda s: s.score)
        assert len({s.C for s in steps}) == len(steps)
        for tried in steps:
            metrics = tried.metrics
            assert tried.score == pytest.approx((metrics["micro_f1"] + metrics["macro_f1"]) / 2)


@pytest.mark.parametrize("peak", range(len(module.STRENGTHS)))
def test_the_walk_over_strengths_finds_a_single_peak(monkeypatch, peak):
    tried = []
    nothing = module.Held(*[np.empty((0, 0))] * 3)

    def score(C):
        tried.append(C)
        score = -abs(module.STRENGTHS.index(C) - peak)
        return module.Choice(module.Step(C, tau=0.0, offset=0.0, loss=0.0, score=score, metrics={}), nothing, None)

    assert module.climb(score).step.C == module.STRENGTHS[peak]
    assert tried[0] == module.STRENGTHS[1]
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize(
    ("scores", "best"), [((0, 0, 0, 0), 1), ((0, 0, 0.5, 0.5), 2), ((0.5, 0.5, 0.4, 0.9), 1), ((0.6, 0.5, 0.5, 0.9), 0)]
)
def test_the_walk_keeps_the_first_of_equal_strengths(scores, best):
    nothing = module.Held(*[np.empty((0, 0))] * 3)

    def choice_at(C):
        score = scores[module.STRENGTHS.index(C)]
        return module.Choice(module.Step(C, tau=0.0, offset=0.0, loss=0.0, score=score, metrics={}), nothing, None)

    assert module.climb(choice_at).step.C == module.STRENGTHS[best]


@pytest.mark.parametrize(("length", "C"), [(3.0, 3.3), (7.0, 1.4), (0.0123, 810.0)])
def test_a_penalty_has_two_digits(length, C):
    rows = np.full((6, 1), np.sqrt(length), dtype=np.float32)
    fold = Fold(rows, np.zeros((6, 2), bool), rows, np.zeros((6, 2), bool))
    assert module.penalty_at(10.0, [fold]) == C


def test_a_fixed_strength_and_a_fixed_tau_are_respected():
    X, targets = example()
    step, steps = chosen(X, targets, C=0.7)
    assert [s.C for s in steps] == [step.C] == [0.7]
    step, steps = chosen(X, targets, tau=1.25)
    assert {(s.tau, s.offset) for s in steps} == {(1.25, 0.0)}
    assert len(steps) > 1
    step, steps = chosen(X, targets, C=2.0, tau=0.0)
    assert steps == [step]
    assert (step.C, step.tau) == (2.0, 0.0)


def test_strengths_are_measured_by_the_size_of_the_rows():
    # Ten times larger numbers need a hundred times smaller C for the same penalty.
    X, targets = example()
    first = [s.C for s in chosen(X, targets)[1]]
    second = [s.C for s in chosen(10 * X, targets)[1]]
    np.testing.assert_allclose(np.array(first[:2]) / 100, second[:2], rtol=0.06)
    expected = module.STRENGTHS[1] / np.square(X).sum(1).mean()
    assert first[0] == pytest.approx(expected, rel=0.1)
    assert [s.C for s in chosen(sp.csr_array(X), targets)[1]] == first


@pytest.mark.parametrize("tau", ["auto", 1.5])
def test_a_step_measures_the_held_out_rows(tau):
    X, targets = example()
    folds = make_folds(X, targets, seed=0)
    step, _ = chosen(X, targets, C=0.5, tau=tau)
    fits = [fit_linear(f.X, torch.from_numpy(f.targets), loss=zlpr, C=0.5, max_iter=60, seed=0) for f in folds]
    logits = np.concatenate([model.logits(f.X_held) for model, f in zip(fits, folds, strict=True)])
    prior = np.concatenate([np.tile(prior_logits(f.targets), (len(f.X_held), 1)) for f in folds])
    held = np.concatenate([f.targets_held for f in folds])
    limits = cardinality_range(targets)
    if tau == "auto":
        assert (step.tau, step.offset) == choose_tau(Held(logits, prior, held), limits)
    else:
        assert (step.tau, step.offset) == (1.5, 0)
    shifted = logits - np.float32(step.tau) * prior + np.float32(step.offset)
    preds = decide(shifted, min_labels=limits.min_labels, max_labels=limits.max_labels)
    expected = multilabel_metrics(preds, held, shifted, train_counts=targets.sum(0))
    assert step.metrics == pytest.approx(expected, rel=1e-9)
    assert step.loss == pytest.approx(zlpr_loss(torch.from_numpy(logits), torch.from_numpy(held)).item(), rel=1e-5)


def test_the_final_fit_can_start_from_the_mean_of_the_folds():
    X, targets = example()
    folds = make_folds(X, targets, seed=0)
    options: Any = {"C": 0.5, "rule": fixed(0.0), "cardinality": cardinality_range(targets)}
    choice = choose(folds, learner=learner_of(X, targets), train_counts=label_counts(targets), **options)
    fits = [fit_linear(f.X, torch.from_numpy(f.targets), loss=zlpr, C=0.5, max_iter=60, seed=0) for f in folds]
    assert choice.start is not None
    np.testing.assert_allclose(choice.start["left"], np.mean([f.weight.numpy() for f in fits], 0), atol=1e-6)
    np.testing.assert_allclose(choice.start["bias"], np.mean([f.bias.numpy() for f in fits], 0), atol=1e-6)


def test_given_rows_can_take_the_place_of_folds():
    X, targets = example()
    valid_X, valid_targets = example(rows=160)
    fold = Fold(X, targets, valid_X[120:], valid_targets[120:])
    step, _ = chosen(X, targets, folds=[fold])
    assert step.metrics["rows"] == 40
    assert step.metrics["labels_per_row_true"] == pytest.approx(valid_targets[120:].sum() / 40)


def test_progress_says_what_is_fitted():
    X, targets = example()
    heard = []
    chosen(X, targets, C=0.5, loss=bce, progress=lambda what, n, value: heard.append(what))
    assert list(dict.fromkeys(heard)) == [f"C 0.5, fold {i} of {module.FOLDS}" for i in range(1, module.FOLDS + 1)]


def test_same_seed_same_choice(monkeypatch):
    monkeypatch.setattr("manyhot.toolkit.models.linear.STEPS", 60)
    X, targets = example()
    for solver in ("lbfgs", "adamw"):
        first, second = (chosen(X, targets, solver=solver)[1] for _ in range(2))
        assert first == second
