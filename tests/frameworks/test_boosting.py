"""ZLPR in XGBoost and LightGBM: the derivatives, every format of targets, early stopping, files, and the offset."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import manyhot
from framework_cases import CASES, FrameworkCase, check
from framework_leaves import boosting, tensors_of

xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")

from manyhot.boosting import (  # noqa: E402
    LGBMMultiLabel,
    XGBMultiLabel,
    ZLPRObjective,
    prior_offset,
    zlpr_metric,
    zlpr_objective,
)
from manyhot.sklearn import StratifiedMultilabelKFold, f1_score  # noqa: E402

ESTIMATORS = [XGBMultiLabel, LGBMMultiLabel]
ONE_THREAD = {"nthread": 1}


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(0)
    X = chance.standard_normal((300, 6))
    Y = X @ chance.standard_normal((6, 5)) + chance.standard_normal((300, 5)) > [0, 0.5, 1, 2, 4]
    return X, Y.astype(np.float64)


@pytest.mark.parametrize("case", [c for c in CASES.values() if c.name != "threshold"], ids=lambda case: case.name)
def test_value_and_gradient(case: FrameworkCase) -> None:
    check(case, *boosting(case), "float64")


@pytest.mark.parametrize("name", ["hard", "soft", "unknown", "prior", "label weight"])
def test_the_diagonal_is_that_of_the_hessian(name: str) -> None:
    case = CASES[name]
    options: Any = {key: value for key, value in case.options.items() if key != "threshold"}
    _, _, diagonal = ZLPRObjective(**options).derivatives(case.labels, case.logits)
    _, _, tensors = tensors_of(case)
    for row in range(5):
        s = torch.from_numpy(np.where(np.isfinite(case.logits[row]), case.logits[row], 0)).double()
        t = torch.from_numpy(np.where(np.isfinite(case.logits[row]), case.labels[row], np.nan)).double()
        known = np.isfinite(case.labels[row]) & (case.labels[row] >= 0) & np.isfinite(case.logits[row])
        if not np.isfinite(case.logits[row][np.isfinite(case.labels[row]) & (case.labels[row] >= 0)]).all():
            continue  # a known cell with an infinite logit has no second derivative
        hessian = torch.autograd.functional.hessian(
            lambda x, t=t: manyhot.zlpr_loss(x, t, impl="eager", reduction="sum", **tensors), s
        )
        assert isinstance(hessian, torch.Tensor)
        np.testing.assert_allclose(diagonal[row][known], hessian.diagonal().numpy()[known], atol=1e-14)


def test_weights_of_rows_and_the_floor() -> None:
    case = CASES["hard"]
    weight = np.arange(len(case.logits), dtype=float)
    plain, weighted = (ZLPRObjective()(case.labels, case.logits * 5, w) for w in (None, weight))
    np.testing.assert_allclose(weighted[0], plain[0] * weight[:, None])
    assert plain[1].min() == weighted[1].min() == 1e-6
    unknown = ZLPRObjective()(np.full((2, 3), -1), np.ones((2, 3)))
    assert (unknown[0] == 0).all()
    assert (unknown[1] == 1e-6).all()


def test_xgbclassifier_takes_it_for_its_own(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = rows
    model = xgboost.XGBClassifier(objective=ZLPRObjective(manyhot.label_prior(Y)), n_estimators=20, n_jobs=1)
    model = pickle.loads(pickle.dumps(clone(model))).fit(X, Y.astype(int), sample_weight=np.ones(len(X)))
    margins = model.predict(X, output_margin=True)
    np.testing.assert_array_equal(model.predict(X), margins > 0)
    np.testing.assert_allclose(model.predict_proba(X), 1 / (1 + np.exp(-margins)), rtol=1e-5)
    assert f1_score(Y, model.predict(X)) > 0.9


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_formats_of_targets(rows: tuple[np.ndarray, np.ndarray], estimator: Any) -> None:
    X, Y = rows
    margins = estimator(10, params=ONE_THREAD).fit(X, Y).decision_function(X)
    assert margins.shape == Y.shape
    for other in (Y.astype(int), Y > 0, sp.csr_matrix(Y), sp.csr_array(Y), torch.from_numpy(Y)):
        again = estimator(10, params=ONE_THREAD).fit(X, other).decision_function(X)
        np.testing.assert_array_equal(again, margins)
    unknown = np.where(np.random.default_rng(0).random(Y.shape) < 0.2, np.nan, Y)
    by_nan, by_mark = (
        estimator(10, params=ONE_THREAD).fit(X, y) for y in (unknown, np.where(np.isnan(unknown), -1, unknown))
    )
    np.testing.assert_array_equal(by_nan.decision_function(X), by_mark.decision_function(X))
    assert f1_score(Y, by_nan.predict(X)) > 0.75
    soft = estimator(150, 0.3, prior=None, params=ONE_THREAD).fit(X, Y * 0.8 + 0.1)
    assert abs(manyhot.proba(soft.decision_function(X)) - (Y * 0.8 + 0.1)).mean() < 0.1
    assert estimator(5, params=ONE_THREAD).fit(X, Y[:, :1]).predict(X).shape == (300, 1)
    assert estimator(5, params=ONE_THREAD).fit(sp.csr_array(X), Y).predict(sp.csr_array(X)).shape == Y.shape


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_weight_is_as_good_as_a_row_left_out(rows: tuple[np.ndarray, np.ndarray], estimator: Any) -> None:
    X, Y = rows
    weight = np.ones(len(X))
    weight[:250] = 1e-9
    few = estimator(20, prior=None, params=ONE_THREAD).fit(X, Y, weight)
    assert (few.predict(X[250:]) == Y[250:]).mean() > (few.predict(X[:250]) == Y[:250]).mean()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_it_stops_early_and_is_read_again(rows: tuple[np.ndarray, np.ndarray], estimator: Any, tmp_path: Path) -> None:
    X, Y = rows
    options: Any = {"min_labels": 1, "max_labels": 3, "params": ONE_THREAD}
    model = estimator(400, 0.3, early_stopping_rounds=5, **options).fit(X[:200], Y[:200], eval_set=[(X[200:], Y[200:])])
    assert 0 < model.booster_.best_iteration < 390
    margins = model.decision_function(X)
    path = tmp_path / ("model.json" if estimator is XGBMultiLabel else "model.txt")
    model.save_model(path)
    again = estimator(**options).load_model(path)
    np.testing.assert_array_equal(again.decision_function(X), margins)
    np.testing.assert_array_equal(again.predict(X), manyhot.decide(margins, min_labels=1, max_labels=3))
    np.testing.assert_array_equal(again.classes_, np.arange(5))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).decision_function(X), margins)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_search(rows: tuple[np.ndarray, np.ndarray], estimator: Any) -> None:
    search = GridSearchCV(
        estimator(10, params=ONE_THREAD), {"learning_rate": [0.01, 0.3]}, cv=StratifiedMultilabelKFold(3),
        scoring="f1_micro",
    ).fit(*rows)  # fmt: skip
    assert search.best_params_ == {"learning_rate": 0.3}


def test_both_libraries_by_hand(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = rows
    D = xgboost.DMatrix(X)
    params = {"num_target": 5, "base_score": 0, "disable_default_eval_metric": 1, "nthread": 1}
    heard: dict[str, Any] = {}
    xgboost.train(
        params, D, 10, obj=zlpr_objective(Y), custom_metric=zlpr_metric(Y), evals=[(D, "train")], evals_result=heard,
        verbose_eval=False,
    )  # fmt: skip
    losses = heard["train"]["zlpr"]
    assert losses == sorted(losses, reverse=True)
    start = manyhot.zlpr_loss(torch.zeros(Y.shape), torch.from_numpy(Y)).item()
    assert losses[0] < start
    data = lightgbm.Dataset(X, label=np.zeros(len(X)))
    params = {"objective": zlpr_objective(Y), "num_class": 5, "metric": "None", "verbosity": -1, "num_threads": 1}
    record: dict[str, Any] = {}
    lightgbm.train(
        params, data, 10, valid_sets=[data], feval=zlpr_metric(Y), callbacks=[lightgbm.record_evaluation(record)]
    )
    losses = record["training"]["zlpr"]
    assert losses == sorted(losses, reverse=True)
    with pytest.raises(ValueError, match=r"cv\(\) and subsets of it do not work"):
        lightgbm.cv(params | {"objective": zlpr_objective(Y)}, lightgbm.Dataset(X, label=np.zeros(len(X))), 2, nfold=2,
                    stratified=False)  # fmt: skip


def test_the_mean_of_the_metric_is_that_of_known_rows() -> None:
    case = CASES["unknown row"]
    right = manyhot.zlpr_loss(torch.from_numpy(case.logits).double(), torch.from_numpy(case.labels)).item()
    assert zlpr_metric(case.labels)(case.logits)[1] == pytest.approx(right, rel=1e-12)


def test_the_offset_of_a_logistic_model_is_half_the_log_odds() -> None:
    prior = np.array([0.5, 0.1])
    np.testing.assert_allclose(prior_offset(prior), [0, np.log(1 / 9) / 2])
    np.testing.assert_allclose(prior_offset(prior, 2.0), [0, np.log(1 / 9)])
    with pytest.raises(ValueError, match="label_prior"):
        prior_offset([0.0, 0.5])


def test_errors_say_what_to_do(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = rows
    with pytest.raises(ValueError, match=r"eval_set=\[\("):
        XGBMultiLabel(early_stopping_rounds=3).fit(X, Y)
    with pytest.raises(ValueError, match="got 2 in row 0, label 1"):
        zlpr_objective(np.array([[0, 2]]))
    with pytest.raises(ValueError, match="got 2 in row 0, label 1"):
        ZLPRObjective()(np.array([[0, 2]]), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="scale must be positive"):
        ZLPRObjective(scale=0)
    with pytest.raises(ValueError, match="one weight a row"):
        zlpr_objective(Y, sample_weight=np.ones(3))
    with pytest.raises(ValueError, match='"train", None'):
        LGBMMultiLabel(prior="all").fit(X, Y)
