"""The model with a hidden layer: its logits and gradients against float64, what it learns, how it is saved."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch

from manyhot import cardinality_range, load_run, zlpr_loss
from manyhot.toolkit.choose.cross_fit import score_by
from manyhot.toolkit.config import Config, make_config
from manyhot.toolkit.disk.fits import Unsaved
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models import mlp as module
from manyhot.toolkit.models.linear import fit_linear
from manyhot.toolkit.models.mlp import Mlp, plan_mlp
from manyhot.toolkit.models.model import device_of, unheard
from manyhot.toolkit.train import train
from tiny_texts import texts_and_sets


def zlpr(logits, targets):
    return zlpr_loss(logits, targets, reduction="sum")


def hits(logits, targets):
    return 0.0


def numbers(rows=30, features=7, seed=0):
    """Draw a matrix with empty rows, an empty column and values of both signs."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, features)) * (rng.random((rows, features)) < 0.5)
    X[3], X[:, 2] = 0, 0
    return X.astype(np.float32)


def drawn(features=7, labels=3, hidden=11):
    random = torch.Generator().manual_seed(0)
    shapes = {"hidden_weight": (features, hidden), "hidden_bias": (hidden,), "weight": (hidden, labels)}
    return Mlp(**{k: torch.randn(v, generator=random) for k, v in (shapes | {"bias": (labels,)}).items()})


def by_hand(net, X):
    W, c, V, b = (tensor.double().detach().numpy() for tensor in net.parameters().values())
    return np.maximum(X.astype(np.float64) @ W + c, 0) @ V + b


LAYOUTS = {"sparse": sp.csr_array, "dense": lambda X: X, "columns first": np.asfortranarray}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_those_of_the_formula(layout):
    net, X = drawn(), numbers()
    logits = net.logits(LAYOUTS[layout](X))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, by_hand(net, X), atol=1e-5)
    moved = net.shifted(np.array([1, -2, 0.5], dtype=np.float32))
    np.testing.assert_allclose(moved.logits(X), by_hand(net, X) + np.array([1, -2, 0.5]), atol=1e-5)
    np.testing.assert_allclose(net.logits(X), by_hand(net, X), atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_those_of_float64(layout):
    net, X = drawn(), numbers()
    for tensor in net.parameters().values():
        tensor.requires_grad_()
    upstream = torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
    (net.hidden(LAYOUTS[layout](X)) @ net.weight + net.bias).backward(upstream)
    W, c, V, b = (t.detach().double().requires_grad_() for t in net.parameters().values())
    (torch.relu(torch.from_numpy(X).double() @ W + c) @ V + b).backward(upstream.double())
    for (name, got), wanted in zip(net.parameters().items(), (W, c, V, b), strict=True):
        assert got.grad is not None
        assert wanted.grad is not None
        np.testing.assert_allclose(got.grad.numpy(), wanted.grad.numpy(), atol=1e-4, err_msg=name)


@pytest.mark.parametrize("layout", ["sparse", "dense"])
@pytest.mark.parametrize("size", [1, 7, 255, 256, 300])
def test_a_row_has_the_same_bits_whatever_rows_come_with_it(layout, size):
    net, X = drawn(features=60, hidden=64), LAYOUTS[layout](numbers(600, 60))
    whole = net.logits(X)
    parts = np.concatenate([net.logits(X[first : first + size]) for first in range(0, 600, size)])
    np.testing.assert_array_equal(parts, whole)
    assert net.logits(X[:0]).shape == (0, whole.shape[1])


def test_dropout_drops_its_share_and_keeps_the_mean(monkeypatch):
    monkeypatch.setattr(module, "DROPOUT", 0.25)
    net = Mlp(torch.zeros(1, 4000), torch.ones(4000), torch.eye(4000), torch.zeros(4000))
    X = np.ones((5, 1), dtype=np.float32)
    hidden = net.hidden(X, torch.Generator().manual_seed(0)).numpy()
    assert set(np.unique(hidden)) == {0, np.float32(4 / 3)}
    assert (hidden == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert not np.array_equal(hidden[0], hidden[1])
    np.testing.assert_array_equal(net.logits(X), 1)


@pytest.mark.parametrize("scale", [0.01, 1, 100])
@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_what_is_drawn_has_the_same_size_whatever_the_length_of_a_row(layout, scale):
    X = LAYOUTS[layout](scale * numbers(200, 20))
    net = Mlp.drawn(X, 3, seed=0, device="cpu")
    hidden = X @ net.hidden_weight.detach().numpy()
    assert np.square(hidden).mean() == pytest.approx(module.SCALE**2, rel=0.2)
    assert all(tensor.requires_grad for tensor in net.parameters().values())


def fitted(X, targets, seed=0, fits=None):
    score = score_by(cardinality_range(targets))
    learner = plan_mlp(X.shape[0], X.shape[1], targets.shape[1], loss=zlpr, score=score, seed=seed)
    return learner.fit(X, torch.from_numpy(targets), fits=fits or Unsaved(), progress=unheard).model


@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_it_learns_what_no_linear_model_can(layout):
    rng = np.random.default_rng(0)
    X = rng.choice([-1.0, 1.0], size=(600, 3)).astype(np.float32)
    same = X[:, 0] * X[:, 1] > 0
    targets = np.stack([same, X[:, 2] > 0], 1)
    score = score_by(cardinality_range(targets))
    assert score(fitted(LAYOUTS[layout](X), targets).logits(X), targets) > 0.97
    line = fit_linear(X, torch.from_numpy(targets), loss=zlpr, C=10.0)
    assert score(line.logits(X), targets) < 0.85


def test_the_same_seed_gives_the_same_bits_and_no_other_seed_is_touched():
    X = numbers(200)
    targets = X[:, :3] + X[:, 3:6] > 0.2
    state = torch.random.get_rng_state()
    first, second, other = (fitted(sp.csr_array(X), targets, seed=seed).arrays() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
        assert not np.array_equal(value, other[name])


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_weight": np.zeros((6, 11), np.float32)},
        {"hidden_bias": np.zeros(10, np.float32)},
        {"weight": np.zeros((11, 4), np.float32)},
        {"bias": np.zeros(4, np.float32)},
    ],
)
def test_arrays_of_another_shape_are_refused(wrong):
    arrays = drawn().arrays()
    restored = Mlp.restored(arrays, 7, 3)
    np.testing.assert_array_equal(restored.logits(numbers()), drawn().logits(numbers()))
    with pytest.raises(ValueError, match=r"expected \w+ of shape \(.*; got "):
        Mlp.restored(arrays | wrong, 7, 3)


def test_the_plan_says_what_it_takes_and_refuses_what_does_not_fit():
    learner = plan_mlp(1000, 50_000, 100, loss=zlpr, score=hits, free=10**12)
    parameters = 50_000 * 512 + 512 + 512 * 100 + 100
    assert learner.memory.parameters == parameters
    assert 4 * 4 * parameters <= learner.memory.bytes <= 8 * 4 * parameters
    assert learner.memory.describe().startswith(
        f"{parameters:,} weights, 512 hidden units, AdamW in mini-batches on CPU; fitting takes about "
    )
    with pytest.raises(InputError, match=r"50,000 features x 512 hidden units x 100 labels and 1\.0 GB are free; use "):
        plan_mlp(10**7, 50_000, 100, loss=zlpr, score=hits, free=10**9)


# In a run


def frame_of_texts(rows=60, seed=0):
    texts, sets = texts_and_sets(rows, seed)
    return pl.DataFrame({"text": texts, "labels": sets}, schema_overrides={"labels": pl.List(pl.String)})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlp")
    frame_of_texts(200).write_ndjson(folder / "d.jsonl")
    frame_of_texts(50, seed=1).write_ndjson(folder / "t.jsonl")
    said = []
    config = Config(data=str(folder / "d.jsonl"), test=str(folder / "t.jsonl"), model="mlp", out=str(folder / "run"))
    return train(config, Listener(say=said.append, detail=said.append)), said, folder


def test_a_run_is_measured_saved_and_read_back(trained):
    result, said, folder = trained
    assert any(line.startswith("model: mlp on ") and "hidden units" in line for line in said)
    assert set(result.metrics) == {"cross_fitted", "test"}
    assert result.metrics["test"]["micro_f1"] > 0.95
    assert result.run.info["C"] is None
    assert result.run.info["device"] == "cpu"
    state = json.loads((folder / "run" / "run.json").read_bytes())
    assert state["model"] == "mlp"
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert [step["C"] for step in log] == [None]
    loaded = load_run(folder / "run")
    texts, _ = texts_and_sets(50, seed=1)
    np.testing.assert_array_equal(loaded.predict_logits(texts), result.run.predict_logits(texts))
    assert loaded.evaluate(pl.read_ndjson(folder / "t.jsonl")) == result.metrics["test"]


def test_the_config_repeats_the_run_bitwise(trained):
    _, _, folder = trained
    train(make_config(str(folder / "run" / "config.toml"), [], {"out": str(folder / "again")}))
    for name in ("model.safetensors", "run.json", "metrics.json", "log.jsonl", "config.toml"):
        assert (folder / "run" / name).read_bytes() == (folder / "again" / name).read_bytes(), name
    shutil.rmtree(folder / "again")


@pytest.mark.parametrize("rows", [2, 3, 5, 25])
def test_a_handful_of_rows(tmp_path, rows):
    frame_of_texts(rows).write_ndjson(tmp_path / "d.jsonl")
    result = train(Config(data=str(tmp_path / "d.jsonl"), model="mlp", out=str(tmp_path / "run")))
    assert result is not None
    assert np.isfinite(result.run.predict_logits(["fox and tree", "nothing known", ""])).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "mlp", "C": 3.0}, "C is of the linear model, and --model mlp has none: dropout and early stopping "),
        (
            {"model": "mlp", "max_iter": 7},
            "max_iter is of the linear .*; got 7. Leave max_iter out, or use --mod",
        ),
        ({"model": "forest"}, "model expects one of linear, mlp.*; got 'forest'"),
        ({"model": 3}, "model expects text; got 3"),
        ({"device": "tpu"}, "device expects one of auto, cpu, cuda; got 'tpu'"),
        ({"device": "cuda"}, "the linear model is fitted on the CPU; leave --device out, or use --model mlp"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(InputError, match=message):
        make_config(None, [], {"data": "d.csv"} | options)


def test_a_card_that_is_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (device_of("auto"), device_of("cpu")) == ("cpu", "cpu")
    with pytest.raises(InputError, match="--device cuda expects a CUDA card that PyTorch can use; there is none: use "):
        device_of("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert (device_of("auto"), device_of("cuda"), device_of("cpu")) == ("cuda", "cuda", "cpu")
