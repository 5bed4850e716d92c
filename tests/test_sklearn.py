"""The scikit-learn classifier: scikit-learn's own checks, the optimum, weights, formats of targets, folds."""

import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score as sklearn_f1_score
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

import manyhot
import reference
from manyhot.sklearn import MultiLabelClassifier, StratifiedMultilabelKFold, f1_score


# Fitted on so few rows, calibrated probabilities are no rounded decision and no function of weights of rows: so checks
# of scikit-learn are for the default.
@parametrize_with_checks([MultiLabelClassifier(), MultiLabelClassifier(decision="zero", prior=None)])
def test_scikit_learn_finds_nothing(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    drawn: Any = make_multilabel_classification(n_samples=120, n_features=8, n_classes=5, random_state=0)
    X, Y = drawn
    return StandardScaler().fit_transform(X), Y


def exact(**options: Any) -> MultiLabelClassifier:
    return MultiLabelClassifier(**{"tol": 1e-12, "max_iter": 5000, **options})


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_optimum_of_the_reference(rows: tuple[np.ndarray, np.ndarray], weighted: bool) -> None:
    X, Y = rows[0][:20, :3], rows[1][:20, :4]
    weight = np.random.default_rng(0).random(20) * 3 if weighted else np.ones(20)

    def objective(flat: np.ndarray) -> float:
        W, b = flat[:12].reshape(4, 3), flat[12:]
        losses = reference.zlpr(X @ W.T + b, Y, reduction="none").value
        return 0.5 * float(losses @ weight) + float(np.square(W).sum()) / 2

    best = minimize(objective, np.zeros(16), method="BFGS", options={"gtol": 1e-7})
    model = exact(C=0.5, prior=None).fit(X, Y, weight if weighted else None)
    found = np.concatenate([model.coef_.ravel(), model.intercept_])
    assert objective(found) <= best.fun + 1e-9
    np.testing.assert_allclose(found, best.x, atol=2e-4)


def test_two_classes_are_logistic_regression(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = rows[0], rows[1][:, 0]
    ours, theirs = exact(C=0.3).fit(X, y), LogisticRegression(C=0.3, tol=1e-10).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-6)
    several = np.array(["a", "b", "c"])[rows[1].argmax(1).clip(max=2)]
    ours, theirs = exact(C=0.3).fit(X, several), LogisticRegression(C=0.3, tol=1e-10).fit(X, several)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


def test_the_prior_is_taken_off_the_intercept(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = rows
    plain, lifted = exact(prior=None).fit(X, Y), exact(tau=1.5).fit(X, Y)
    given = exact(tau=1.5, prior=manyhot.label_prior(Y)).fit(X, Y)
    np.testing.assert_array_equal(plain.coef_, lifted.coef_)
    odds = np.log(manyhot.label_prior(Y)) - np.log1p(-manyhot.label_prior(Y))
    np.testing.assert_allclose(plain.intercept_ - lifted.intercept_, 0.75 * odds, atol=1e-12)
    np.testing.assert_allclose(given.intercept_, lifted.intercept_, rtol=1e-14)
    # and the loss that has the prior in it is at its minimum there
    s = torch.from_numpy(X @ lifted.coef_.T + lifted.intercept_).requires_grad_()
    manyhot.zlpr_loss(s, torch.from_numpy(Y), prior=manyhot.label_prior(Y), tau=1.5, reduction="sum").backward()
    assert s.grad is not None
    np.testing.assert_allclose(s.grad.sum(0), 0, atol=1e-3)


def test_a_row_of_weight_two_is_two_rows(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = rows[0], rows[1].astype(float)
    Y[4, 2] = np.nan
    weight = np.random.default_rng(1).integers(0, 4, len(X))
    weighted = MultiLabelClassifier().fit(X, Y, weight)
    repeated = MultiLabelClassifier().fit(np.repeat(X, weight, 0), np.repeat(Y, weight, 0))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-10)
    np.testing.assert_allclose(weighted.intercept_, repeated.intercept_, atol=1e-10)
    assert weighted.cardinality_range_ == repeated.cardinality_range_


def test_formats_of_y_and_x_are_one(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = rows
    model = MultiLabelClassifier().fit(X, Y)
    for other in (sp.csr_matrix(Y), sp.csr_array(Y), Y.astype(bool), Y.astype(float), pd.DataFrame(Y), Y.tolist()):
        again = MultiLabelClassifier().fit(X, other)
        np.testing.assert_array_equal(again.coef_, model.coef_)
        np.testing.assert_array_equal(again.intercept_, model.intercept_)
    for sparse in (sp.csr_matrix(X), sp.csr_array(X), sp.coo_array(X)):
        found = MultiLabelClassifier().fit(sparse, Y)
        np.testing.assert_allclose(found.coef_, model.coef_, atol=1e-9)
        np.testing.assert_allclose(found.decision_function(sparse), model.decision_function(X), atol=1e-8)
    named: Any = MultiLabelClassifier().fit(pd.DataFrame(X, columns=[*"abcdefgh"]), pd.DataFrame(Y))
    assert named.feature_names_in_.tolist() == [*"abcdefgh"]


def test_unknown_and_soft_cells_fit_as_the_loss_has_them(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = rows[0], rows[1].astype(float)
    Y[::3, 1], Y[5] = np.nan, np.nan
    marked = np.where(np.isnan(Y), -1, Y).astype(int)
    model, again = MultiLabelClassifier().fit(X, Y), MultiLabelClassifier().fit(X, marked)
    np.testing.assert_array_equal(model.coef_, again.coef_)
    without = MultiLabelClassifier().fit(np.delete(X, 5, 0), np.delete(Y, 5, 0))
    np.testing.assert_allclose(model.decision_function(X), without.decision_function(X), atol=1e-9)
    soft = np.clip(rows[1] * 0.8 + 0.1, 0, 1)
    assert make_pipeline(StandardScaler(), MultiLabelClassifier(prior=None)).fit(X, soft).predict(X).shape == Y.shape


def test_search_pickle_clone_and_decisions(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = rows
    pipe = make_pipeline(StandardScaler(), MultiLabelClassifier())
    for y in (Y, sp.csr_array(Y)):
        grid = {"multilabelclassifier__C": [0.01, 1.0]}
        search = GridSearchCV(pipe, grid, cv=StratifiedMultilabelKFold(3), scoring="f1_micro").fit(X, y)
        assert search.best_score_ > 0.5
    unknown = np.where(np.random.default_rng(0).random(Y.shape) < 0.1, np.nan, Y)
    scores = cross_val_score(pipe, X, unknown, cv=StratifiedMultilabelKFold(3), scoring=make_scorer(f1_score))
    assert scores.min() > 0.5
    model: Any = MultiLabelClassifier().fit(X, Y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))
    again: Any = clone(model)
    assert again.get_params() == model.get_params()
    scores = model.decision_function(X)
    np.testing.assert_array_equal(model.predict(X), manyhot.decide(scores, **model.cardinality_range_._asdict()))
    np.testing.assert_array_equal(MultiLabelClassifier(decision="zero").fit(X, Y).predict(X), scores > 0)
    assert model.score(X, Y) == (model.predict(X) == Y).all(1).mean()


def test_probabilities_are_calibrated_on_rows_held_out() -> None:
    chance = np.random.default_rng(0)
    X = chance.standard_normal((3000, 5))
    truth = 1 / (1 + np.exp(-(X @ chance.standard_normal((5, 4)) - 1.5)))
    Y = (chance.random(truth.shape) < truth).astype(int)
    plain, calibrated = (MultiLabelClassifier(calibrate=c).fit(X[:1500], Y[:1500]) for c in (False, True))
    ece = [manyhot.calibration_metrics(m.predict_proba(X[1500:]), Y[1500:])["ece"] for m in (plain, calibrated)]
    assert ece[1] < 0.03 < ece[0]
    assert calibrated.n_iter_ == plain.n_iter_
    np.testing.assert_array_equal(plain.decision_function(X), calibrated.decision_function(X))
    weight = chance.integers(0, 3, 1500)
    assert MultiLabelClassifier(calibrate=True).fit(X[:1500], Y[:1500], weight).calibration_ is not None
    for y in (Y[:, 0], Y.argmax(1)):
        probs = MultiLabelClassifier(calibrate=True).fit(X, y).predict_proba(X)
        np.testing.assert_allclose(probs.sum(1), 1)
        assert abs(probs[:, -1].mean() - (y == y.max()).mean()) < 0.02


def test_labels_that_are_always_or_never_there(rows: tuple[np.ndarray, np.ndarray]) -> None:
    Y = rows[1].copy()
    Y[:, 0], Y[:, 1] = 1, 0
    preds = MultiLabelClassifier().fit(rows[0], Y).predict(rows[0])
    assert preds[:, 0].mean() > 0.9
    assert preds[:, 1].mean() < 0.1


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        ([["a"], ["a", "b"], ["b"]], {}, "MultiLabelBinarizer"),
        ([{"a"}, {"b"}, {"a"}], {}, "MultiLabelBinarizer"),
        ([[0, 2], [1, 0], [1, 1]], {}, "got 2 in row 0, label 1"),
        ([[0.5, 1.5], [1, 0], [1, 1]], {}, r"\[0, 1\].* 1.5 in row 0, label 1"),
        ([1, 1, 1], {}, "1 class"),
        ([[0, 1], [1, 0], [1, 1]], {"loss": "hinge"}, "'zlpr' or 'bce'; got 'hinge'"),
        ([[0, 1], [1, 0], [1, 1]], {"C": 0.0}, "C must be above 0"),
        ([[0, 1], [1, 0], [1, 1]], {"prior": "test"}, '"train", None'),
        ([[0, 1], [1, 0], [1, 1]], {"prior": [0.1, 1.0]}, "inside"),
    ],
)
def test_errors_say_what_to_do(y: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiLabelClassifier(**options).fit(np.eye(3), y)


def test_warnings(rows: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.warns(DataConversionWarning, match="column-vector"):
        MultiLabelClassifier().fit(rows[0], rows[1][:, :1])
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        MultiLabelClassifier(max_iter=2).fit(*rows)


def test_folds_have_every_label() -> None:
    Y = np.repeat(np.eye(4, dtype=int), 12, axis=0)
    X = np.zeros((48, 1))
    held = [test for _, test in StratifiedMultilabelKFold(4).split(X, Y)]
    np.testing.assert_array_equal(np.sort(np.concatenate(held)), np.arange(48))
    assert all((Y[test].sum(0) == 3).all() for test in held)
    assert any((Y[train].sum(0) == 0).any() for train, _ in KFold(4).split(X, Y))  # what it is for
    groups = np.arange(48) // 2
    for train, test in StratifiedMultilabelKFold(4, random_state=3).split(X, sp.csr_array(Y), groups):
        assert not set(groups[train]) & set(groups[test])
    assert StratifiedMultilabelKFold(7).get_n_splits() == 7
    with pytest.raises(ValueError, match="StratifiedKFold takes classes"):
        next(StratifiedMultilabelKFold(2).split(X, Y[:, 0]))
    with pytest.raises(ValueError, match="as many rows"):
        next(StratifiedMultilabelKFold(5).split(X[:3], Y[:3]))


@pytest.mark.parametrize("average", ["micro", "macro", "samples"])
def test_f1_is_scikit_learns_where_all_is_known(rows: tuple[np.ndarray, np.ndarray], average: Any) -> None:
    Y = rows[1]
    preds = np.roll(Y, 1, axis=0)
    right = sklearn_f1_score(Y, preds, average=average, zero_division=0)  # pyright: ignore
    np.testing.assert_allclose(f1_score(Y, preds, average=average), right)
    np.testing.assert_allclose(f1_score(sp.csr_array(Y), sp.csr_array(preds), average=average), right)


@pytest.mark.slow  # a bound on time wants a core of its own
def test_scene_in_a_second(data_root: Path) -> None:
    folder = data_root / "mulan" / "scene"
    X, Y = (sp.load_npz(folder / f"scene-train.{kind}.npz") for kind in "XY")
    X = StandardScaler().fit_transform(X.toarray())
    with threadpool_limits(1):  # two that wait for each other beside other work take three times as long
        started = time.process_time()
        MultiLabelClassifier().fit(X, Y)
        assert time.process_time() - started < 1
