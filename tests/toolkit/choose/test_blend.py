"""The blend of a linear model and its neighbours: its optimum, what it leaves as it was, and what a run makes of it."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.optimize
from safetensors.numpy import load
from scipy.special import expit

from manyhot import fit_calibration, label_counts, label_prior, load_run
from manyhot.labels import CardinalityRange
from manyhot.toolkit.choose import blend as module
from manyhot.toolkit.choose.blend import blended, fit_blend, is_pooled
from manyhot.toolkit.choose.cross_fit import Choice, Fold, Held, Step, choose_tau, fixed, prior_logits, step_of
from manyhot.toolkit.config import Config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.neighbours import Neighbours
from manyhot.toolkit.train import train


def drawn(rows=400, labels=3, seed=0):
    """Draw logits of a model, two votes, and labels that depend on all three."""
    rng = np.random.default_rng(seed)
    logits, near, far = rng.normal(size=(3, rows, labels))
    targets = rng.random((rows, labels)) < expit(1.5 * logits + 0.7 * near + 0.4 * far - [0, 1, 2])
    return logits.astype(np.float32), [near.astype(np.float32), far.astype(np.float32)], targets


def log_loss(s, targets):
    return np.where(targets < 0, 0, np.logaddexp(0, s) - (targets > 0) * s).sum()


def minimised(parts, targets, *, own, bounds=None):
    """Minimise by SciPy: slopes, b and the labels' own offsets."""
    labels = targets.shape[1]

    def objective(x):
        offsets = x[4:] if own else np.zeros(labels)
        s = sum(a * part for a, part in zip(x[:3], parts, strict=True)) + x[3] + offsets
        return log_loss(s, targets) + offsets @ offsets / 2

    x = np.zeros(4 + labels * own)
    return scipy.optimize.minimize(objective, x, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14})


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("unknown", [False, True])
def test_slopes_and_offsets_are_those_of_a_general_solver(monkeypatch, pooled, unknown):
    monkeypatch.setattr(module, "BLOCK", 500)  # a label at once
    logits, votes, targets = drawn()
    if unknown:
        targets = targets.astype(np.int8)
        targets[np.random.default_rng(1).random(targets.shape) < 0.2] = -1
    calibration = fit_calibration(logits, targets)
    first = logits if pooled else logits / calibration.temperature + calibration.offset
    expected = minimised([first, *votes], targets, own=not pooled)
    found = fit_blend(logits, votes, targets, pooled=pooled)
    np.testing.assert_allclose([found.linear, *found.votes], expected.x[:3], atol=2e-4)
    own = np.zeros(3) if pooled else expected.x[4:]
    by_hand = expected.x[0] * first + expected.x[1] * votes[0] + expected.x[2] * votes[1] + expected.x[3] + own
    np.testing.assert_allclose(found.logits(logits, votes), by_hand, atol=2e-3)
    assert found.share == pytest.approx(sum(expected.x[1:3]) / sum(expected.x[:3]), abs=1e-3)


def test_no_slope_is_below_0():
    logits, votes, targets = drawn()
    against = [votes[0], -votes[1]]
    expected = minimised([logits, *against], targets, own=False, bounds=[(0, None)] * 3 + [(None, None)])
    found = fit_blend(logits, against, targets, pooled=True)
    assert found.votes[1] == 0
    np.testing.assert_allclose([found.linear, *found.votes], expected.x[:3], atol=1e-3)


def test_labels_of_which_many_are_rare_are_pooled():
    assert is_pooled(np.array([9] + [50] * 9))
    assert not is_pooled(np.array([9] + [50] * 10))
    assert not is_pooled(np.array([10] * 10))


def folds_of(rows=120, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 4)).astype(np.float32)
    targets = np.stack([np.abs(X[:, 0]) > 1, X[:, 1] * X[:, 2] > 0.5], 1)
    halves = np.arange(rows) % 2 == 0
    return [
        Fold(X[~held], targets[~held], X[held], targets[held], rows_held=np.flatnonzero(held))
        for held in (halves, ~halves)
    ]


def chosen(folds, logits, rule, cardinality):
    prior = np.concatenate([np.broadcast_to(prior_logits(f.targets), f.targets_held.shape) for f in folds])
    held = Held(logits, prior, np.concatenate([f.targets_held for f in folds]))
    return Choice(step_of(held, Step(1.0, 0.0, 0.0, 0.5, 0.0, {}), rule, cardinality, None), held, None)


def test_neighbours_of_a_held_out_row_are_of_its_own_folds_training_part(monkeypatch):
    folds, cardinality, seen = folds_of(), CardinalityRange(0, 2), []
    original = Neighbours.log_odds

    def spied(self, X, ks=module.KS):
        seen.append((self.rows, X))
        return original(self, X, ks)

    monkeypatch.setattr(Neighbours, "log_odds", spied)
    choice = chosen(folds, np.zeros((120, 2), np.float32), choose_tau, cardinality)
    counts = label_counts(np.concatenate([f.targets_held for f in folds]))
    after, blend = blended(choice, folds, 3, rule=choose_tau, cardinality=cardinality, train_counts=counts)
    assert blend is not None
    assert blend.scores == (choice.step.score, after.step.score)
    assert after.step.score > choice.step.score
    for fold, (rows, X) in zip(folds, seen, strict=True):
        np.testing.assert_array_equal(X, fold.X_held[:, :3])
        assert len(rows) == len(fold.X)
        assert not (X[:, None] / np.linalg.norm(X, axis=1)[:, None, None] == rows[None]).all(-1).any()


def test_neighbours_that_do_not_help_leave_the_choice_as_it_was():
    folds, cardinality = folds_of(), CardinalityRange(0, 2)
    truth = np.concatenate([f.targets_held for f in folds])
    choice = chosen(folds, np.where(truth, 3, -3).astype(np.float32), fixed(0.0), cardinality)
    after, blend = blended(choice, folds, 4, rule=fixed(0.0), cardinality=cardinality, train_counts=label_counts(truth))
    assert blend is None
    assert after is choice


# In a run


def table(path: Path, rows=200, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 4))
    targets = {"round": np.square(X[:, :2]).sum(1) < 1, "product": X[:, 2] * X[:, 3] > 0.3, "line": X[:, 0] > 0.5}
    columns = {f"x{i}": X[:, i] for i in range(4)} | {name: value.astype(int) for name, value in targets.items()}
    pl.DataFrame(columns).write_csv(path)


def test_of_very_many_rows_some_say_first_whether_it_is_worth_it(monkeypatch):
    rng = np.random.default_rng(0)
    X = np.abs(rng.normal(size=(400, 3))).astype(np.float32)
    like = X.argmax(1)[:, None] == np.arange(3)
    folds = [
        Fold(X[200:], like[200:], X[:200], like[:200], rows_held=np.arange(200)),
        Fold(X[:200], like[:200], X[200:], like[200:], rows_held=np.arange(200, 400)),
    ]
    asked = []
    original = Neighbours.log_odds

    def heard(self, X):
        asked.append(X.shape[0])
        return original(self, X)

    monkeypatch.setattr(Neighbours, "log_odds", heard)
    monkeypatch.setattr(module, "MANY", 400)
    monkeypatch.setattr(module, "FIRST", 100)
    options: Any = {"rule": fixed(0.0), "cardinality": CardinalityRange(1, 1), "train_counts": like.sum(0)}
    prior = np.zeros((400, 3), np.float32)

    def chosen(logits):
        held = Held(logits.astype(np.float32), prior, like)
        step = step_of(held, Step(1.0, 0.0, 0.0, 0.0, 0.0, {}), fixed(0.0), CardinalityRange(1, 1), None)
        return Choice(step, held, None)

    # A model that knows everything needs no neighbours, and the others are not asked.
    choice = chosen(np.where(like, 9.0, -9.0))
    assert blended(choice, folds, 3, **options) == (choice, None)
    assert asked == [50, 50]
    # To one that knows nothing all are asked, each once.
    asked.clear()
    choice = chosen(rng.normal(size=(400, 3)))
    after, blend = blended(choice, folds, 3, **options)
    assert blend is not None
    assert asked == [50, 50, 150, 150]
    monkeypatch.setattr(module, "MANY", 401)
    at_once, same = blended(choice, folds, 3, **options)
    assert same is not None
    assert asked[4:] == [200, 200]
    np.testing.assert_array_equal(at_once.held.logits, after.held.logits)
    np.testing.assert_array_equal(np.concatenate(same[:2]), np.concatenate(blend[:2]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("runs")
    table(folder / "d.csv")
    table(folder / "t.csv", 50, seed=1)
    options = {"with": {"kernel": "off"}, "off": {"neighbours": "off", "kernel": "off"}, "no rows": {"no_rows": True}}
    return {
        name: train(Config(data=str(folder / "d.csv"), out=str(folder / name), **given))
        for name, given in options.items()
    } | {"folder": folder}


def test_a_run_is_the_blend_of_its_model_and_its_neighbours(trained):
    heard, plain = trained["with"].run, trained["off"].run
    frame = pl.read_csv(trained["folder"] / "t.csv")
    training = pl.read_csv(trained["folder"] / "d.csv")
    assert heard.neighbours is not None
    assert heard.info["neighbours"]["score"] > heard.info["neighbours"]["score_without"]
    assert heard.rows_held == 200
    assert heard.info["C"] == plain.info["C"]
    X, X_train = (np.asarray(of[[f"x{i}" for i in range(4)]], np.float64) for of in (frame, training))
    X, X_train = (X - X_train.mean(0)) / X_train.std(0), (X_train - X_train.mean(0)) / X_train.std(0)
    # The linear part is that of the plain run, scaled and shifted a label at a time.
    linear = X @ heard.model.weight.double().numpy() + heard.model.bias.double().numpy()
    ratio = heard.model.weight.double().numpy() / plain.model.weight.double().numpy()
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape), rtol=1e-3)
    targets = training[["round", "product", "line"]].to_numpy() > 0
    similar = (X / np.linalg.norm(X, axis=1, keepdims=True)) @ (
        X_train / np.linalg.norm(X_train, axis=1, keepdims=True)
    ).T
    prior, votes = label_prior(targets), 0.0
    for k, weight in zip((5, 20), heard.neighbours.weights, strict=True):
        nearest = np.argsort(-similar, axis=1, kind="stable")[:, :k]
        w = np.maximum(np.take_along_axis(similar, nearest, 1), 0) + 1e-6
        q = (w[:, :, None] * targets[nearest]).sum(1) / w.sum(1)[:, None]
        p = (k * q + prior) / (k + 1)
        votes = votes + weight * (np.log(p / (1 - p)) - np.log(prior / (1 - prior)))
    np.testing.assert_allclose(heard.votes(frame), votes, atol=1e-4)
    np.testing.assert_allclose(heard.predict_logits(frame), linear + votes, atol=1e-4)
    assert heard.evaluate(frame)["macro_f1"] > plain.evaluate(frame)["macro_f1"]


def test_a_saved_run_has_the_same_votes(trained):
    frame = pl.read_csv(trained["folder"] / "t.csv")
    again = load_run(trained["folder"] / "with")
    np.testing.assert_array_equal(again.predict_logits(frame), trained["with"].run.predict_logits(frame))
    np.testing.assert_array_equal(again.votes(frame), trained["with"].run.votes(frame))


@pytest.mark.parametrize("name", ["off", "no rows"])
def test_a_run_without_rows_holds_none(trained, name):
    run = trained[name].run
    assert (run.neighbours, run.rows_held, run.features.kernel) == (None, 0, None)
    assert "neighbours" not in run.info
    frame = pl.read_csv(trained["folder"] / "t.csv")
    np.testing.assert_array_equal(run.votes(frame), np.zeros((50, 3)))
    if name == "off":
        weights = (trained["folder"] / name / "model.safetensors").read_bytes()
        assert b"neighbours" not in weights
        # --no-rows leaves out the hashes of the rows too.
        both = load(weights), load((trained["folder"] / "no rows" / "model.safetensors").read_bytes())
        assert both[0].pop("rows.hashes").size
        assert both[0].keys() == both[1].keys()
        assert all(np.array_equal(both[0][key], both[1][key]) for key in both[1])


def test_where_neighbours_do_not_help_a_run_is_that_without_bit_for_bit(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "GAIN", 1.0)
    config = Config(data=str(trained["folder"] / "d.csv"), kernel="off", out=str(tmp_path / "run"))
    run: Any = train(config)
    assert run.run.info["neighbours"] is None
    same = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert same == (trained["folder"] / "off" / "model.safetensors").read_bytes()
    assert run.metrics == trained["off"].metrics


def test_what_is_no_switch_is_refused(tmp_path):
    from manyhot.toolkit.config import make_config

    for key in ("neighbours", "characters", "kernel"):
        with pytest.raises(InputError, match=f"{key} expects auto or off; got 'on'"):
            make_config(None, [f"{key}=on"], {"data": "d.csv"})
        with pytest.raises(InputError, match=f"{key} is not of --task spans"):
            make_config(None, [f"{key}=off", "task=spans"], {"data": "d.jsonl"})
