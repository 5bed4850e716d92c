"""The skorch net: label sets, unknown cells, clone, pickle and a search."""

# pyright: reportMissingImports=false

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import manyhot
from framework_cases import CASES, FrameworkCase, check
from framework_leaves import in_skorch
from manyhot.sklearn import StratifiedMultilabelKFold, f1_score

skorch = pytest.importorskip("skorch")

from manyhot.skorch import MultiLabelNet  # noqa: E402


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(0)
    X = chance.standard_normal((200, 6)).astype(np.float32)
    Y = X @ chance.standard_normal((6, 4)) + 0.3 * chance.standard_normal((200, 4)) > 0.7
    return X, Y.astype(np.float32)


def net(**options: Any) -> MultiLabelNet:
    torch.manual_seed(0)
    shape = {"module__in_features": 6, "module__out_features": 4}
    return MultiLabelNet(torch.nn.Linear, **{"lr": 0.5, "max_epochs": 15, "verbose": 0, **shape, **options})


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_value_and_gradient(case: FrameworkCase) -> None:
    check(case, *in_skorch(case), "float32")


def test_it_learns_and_decides(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = rows
    model = net(min_labels=1, max_labels=2, criterion__prior=manyhot.label_prior(Y)).fit(X, Y)
    logits = model.decision_function(X)
    np.testing.assert_array_equal(model.predict(X), manyhot.decide(logits, min_labels=1, max_labels=2))
    np.testing.assert_allclose(model.predict_proba(X), 1 / (1 + np.exp(-logits)), rtol=1e-5)
    assert f1_score(Y, (logits > 0).astype(int)) > 0.85
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    copied: Any = clone(model)
    assert copied.max_labels == 2
    assert model.get_params()["min_labels"] == 1


def test_unknown_cells_and_a_validation_part(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = rows
    partly = np.where(np.random.default_rng(0).random(Y.shape) < 0.3, np.nan, Y).astype(np.float32)
    model = net(train_split=skorch.dataset.ValidSplit(5)).fit(X, partly)
    assert f1_score(Y, model.predict(X)) > 0.8
    assert model.history[-1, "valid_loss"] < model.history[0, "valid_loss"]


def test_search(rows: tuple[np.ndarray, np.ndarray]) -> None:
    grid = {"lr": [1e-4, 0.5], "min_labels": [0, 1]}
    search = GridSearchCV(net(max_epochs=5), grid, cv=StratifiedMultilabelKFold(3), scoring="f1_micro").fit(*rows)
    assert search.best_params_["lr"] == 0.5


def test_what_it_is_for(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = rows
    shape = {"module__in_features": 6, "module__out_features": 4}
    classifier = skorch.NeuralNetClassifier(
        torch.nn.Linear, criterion=manyhot.ZLPRLoss, train_split=None, verbose=0, **shape
    )
    assert classifier.fit(X, Y).predict(X).shape == (200,)  # one class a row
