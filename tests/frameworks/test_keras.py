"""ZLPR in Keras: the table of cases, compile and fit, saving, and what Keras' mean does with unknown rows.

The backend is that of KERAS_BACKEND, chosen once a process; `make frameworks` runs this file for each.
"""

# pyright: reportMissingImports=false

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import manyhot
from framework_cases import CASES, FrameworkCase, check
from framework_leaves import in_keras

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

import manyhot.keras as leaf  # noqa: E402

# Keras' own conversion of tensors to arrays, and of its variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.mark.parametrize("case", [c for c in CASES.values() if c.name != "label weight"], ids=lambda case: case.name)
def test_value_and_gradient(case: FrameworkCase) -> None:
    check(case, *in_keras(case), "float32")


@pytest.mark.parametrize("axis", [1, -2])
def test_labels_on_another_axis(axis: int) -> None:
    case = CASES["leading axes"]
    found = leaf.zlpr(np.moveaxis(case.labels, -1, 1), np.moveaxis(case.logits, -1, 1), axis=axis)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), case.expected().value, rtol=1e-6)


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(0)
    X = chance.standard_normal((300, 8)).astype("float32")
    Y = X @ chance.standard_normal((8, 5)) + 0.5 * chance.standard_normal((300, 5)) > 1
    return X, Y.astype("float32")


def network() -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(5)])


def test_it_fits_and_is_saved_with_the_model(rows: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    X, Y = rows
    partly = Y.copy()
    partly[::7, 2], partly[::5, 1] = np.nan, -1
    model = network()
    loss = leaf.ZLPR(prior=manyhot.label_prior(Y))
    model.compile(keras.optimizers.Adam(0.02), loss=loss, metrics=[leaf.F1Score(), leaf.F1Score("macro", 5)])
    history = model.fit(X, partly, epochs=12, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] / 2
    assert history["micro_f1"][-1] > 0.8
    logits = model.predict(X, verbose=0)
    measured: Any = manyhot.multilabel_metrics(manyhot.decide(logits), partly, logits)
    _, micro, macro = model.evaluate(X, partly, verbose=0)
    assert micro == pytest.approx(measured["micro_f1"], abs=1e-5)
    assert macro == pytest.approx(measured["macro_f1"], abs=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(X, verbose=0), logits)
    assert isinstance(again.loss, leaf.ZLPR)
    assert again.loss.get_config() == loss.get_config()
    assert manyhot.decide(logits, min_labels=1).sum(1).min() == 1


def test_the_mean_of_keras_counts_rows_of_which_nothing_is_known() -> None:
    case = CASES["hard"]
    logits, labels = case.logits[:4], case.labels[:4].copy()
    labels[1] = -1
    right = manyhot.zlpr_loss(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    assert float(leaf.ZLPR()(labels, logits)) == pytest.approx(right * 3 / 4, rel=1e-6)
    weight = (labels != -1).any(1).astype("float32")
    loss = leaf.ZLPR(reduction="mean_with_sample_weight")
    assert float(loss(labels, logits, sample_weight=weight)) == pytest.approx(right, rel=1e-6)


def test_sample_weight_and_metric_counts() -> None:
    case = CASES["hard"]
    weight = np.arange(len(case.labels), dtype="float32")
    losses = leaf.ZLPR(reduction=None)(case.labels, case.logits, sample_weight=weight)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(losses), case.expected().value * weight, rtol=1e-5)
    metric = leaf.F1Score("macro")
    for part in (slice(0, 10), slice(10, 30)):
        metric.update_state(case.labels[part], case.logits[part])
    right: Any = manyhot.multilabel_metrics(manyhot.decide(case.logits), case.labels, case.logits)["macro_f1"]
    assert float(metric.result()) == pytest.approx(right, rel=1e-6)
    metric.reset_state()
    metric.update_state(case.labels[:1].repeat(2, 0), case.logits[:1].repeat(2, 0), sample_weight=np.array([1.0, 0.0]))
    once = leaf.F1Score("macro")
    once.update_state(case.labels[:1], case.logits[:1])
    assert float(metric.result()) == pytest.approx(float(once.result()))
    assert leaf.F1Score.from_config(metric.get_config()).average == "macro"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"from_logits": False}, "leave the sigmoid out"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"margin": -1.0}, "margin must be 0 or more"),
        ({"prior": [0.0, 0.5]}, "label_prior"),
        ({"y_true": np.zeros(2)}, "one_hot"),
    ],
)
def test_errors_say_what_to_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        leaf.zlpr(**{"y_true": np.zeros((2, 2)), "y_pred": np.zeros((2, 2), "float32"), **options})
    with pytest.raises(ValueError, match='"micro" or "macro"'):
        leaf.F1Score("samples")  # pyright: ignore
