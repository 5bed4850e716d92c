"""Training end to end from tiny files of every kind to a run folder that repeats itself."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from safetensors.numpy import load_file

import manyhot
from manyhot import load_run, multilabel_metrics
from manyhot.toolkit.choose.cross_fit import FOLDS
from manyhot.toolkit.config import LABEL_LOSSES, Config, make_config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.objectives import FORMULAS, loss_of
from manyhot.toolkit.plan import CELL
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.train import Trained, train
from tiny_texts import KINDS, texts_and_sets

TRUST = {name + end for name in ("ece", "brier", "log_loss") for end in ("", "_uncalibrated")}
METRICS = set(multilabel_metrics(np.eye(2), np.eye(2), np.eye(2))) | TRUST


def frame_of_texts(rows=50, seed=0):
    texts, sets = texts_and_sets(rows, seed)
    return pl.DataFrame({"text": texts, "labels": sets}, schema_overrides={"labels": pl.List(pl.String)})


def numbers_and_targets(rows=60, seed=0, features=4):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, features)).astype(np.float32)
    targets = X @ np.linspace(-2, 2, features * 3).reshape(features, 3) + 0.3 * rng.normal(size=(rows, 3)) > 0.5
    return X, targets


def frame_of_numbers(rows=60, seed=0):
    X, targets = numbers_and_targets(rows, seed)
    return pl.DataFrame({f"x{i}": X[:, i] for i in range(4)} | {f"y{i}": targets[:, i].astype(int) for i in range(3)})


def heard_from(config, **options):
    """Train and return the result, what was said and what was warned of."""
    said, warned = [], []
    trained = train(config, Listener(say=said.append, detail=said.append, warn=warned.append), **options)
    return trained, said, warned


def trained_on(config) -> Any:
    trained = train(config)
    assert trained is not None
    return trained


def joined(sep):
    return lambda frame: frame.with_columns(pl.col("labels").list.join(sep))


def write_csv(frame, path):
    joined("|")(frame).write_csv(path)


def write_tsv(frame, path):
    joined(";")(frame).write_csv(path, separator="\t")


def write_ids(frame, path):
    names = sorted(KINDS)
    (path.parent / "names.txt").write_text("\n".join(names) + "\n")
    sets = [[names.index(label) for label in labels] for labels in frame["labels"]]
    frame.with_columns(pl.Series("labels", sets)).write_ndjson(path)


def write_indicators(frame, path):
    columns = [
        pl.col("labels").list.contains(name).cast(pl.Int8).alias(name) for name in sorted(KINDS)
    ]  # fmt: skip
    frame.select("text", *columns).write_csv(path)


FORMS = {
    "csv": ("d.csv", write_csv, {}),
    "tsv": ("d.tsv", write_tsv, {}),
    "jsonl": ("d.jsonl", lambda frame, path: frame.write_ndjson(path), {}),
    "parquet": ("d.parquet", lambda frame, path: frame.write_parquet(path), {}),
    "ids": ("d.jsonl", write_ids, {"label_names": "names.txt"}),
    "indicators": ("d.csv", write_indicators, {}),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Weights from the JSONL form, which every other form must give bitwise."""
    folder = tmp_path_factory.mktemp("reference")
    frame_of_texts().write_ndjson(folder / "d.jsonl")
    run = trained_on(Config(data=str(folder / "d.jsonl"), C=2.0, out=str(folder / "run"))).run
    return run.model.weight.numpy(), run.model.bias.numpy()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_texts_gives_the_same_weights(tmp_path, form, reference):
    name, write, options = FORMS[form]
    write(frame_of_texts(), tmp_path / name)
    (tmp_path / "test").mkdir()
    write(frame_of_texts(30, seed=1), tmp_path / "test" / name)
    options: Any = {key: str(tmp_path / value) for key, value in options.items()}
    config = Config(
        data=str(tmp_path / name), test=str(tmp_path / "test" / name), C=2.0, out=str(tmp_path / "run"), **options
    )
    trained, said, warned = heard_from(config)
    assert isinstance(trained, Trained)
    assert trained.run.label_names == sorted(KINDS)
    model: Any = trained.run.model
    np.testing.assert_array_equal(model.weight.numpy(), reference[0])
    np.testing.assert_array_equal(model.bias.numpy(), reference[1])
    assert len(warned) == 1  # texts of few words repeat
    assert warned[0].startswith("6 of 30 rows stand in the training data")
    assert said[0] == "text: text"
    texts, sets = texts_and_sets(30, seed=1)
    assert trained.metrics["test"] == trained.run.evaluate(texts, sets)
    assert trained.metrics["test"]["micro_f1"] > 0.9
    counts = [sum(label in labels for labels in texts_and_sets(50)[1]) for label in sorted(KINDS)]
    assert trained.run.train_counts.tolist() == counts


def test_numbers_in_a_table_and_in_matrices_give_the_same_weights(tmp_path):
    X, targets = numbers_and_targets()
    frame_of_numbers().write_csv(tmp_path / "d.csv")
    sp.save_npz(tmp_path / "set.X.npz", sp.csr_matrix(X))
    sp.save_npz(tmp_path / "set.Y.npz", sp.csr_matrix(targets))
    (tmp_path / "labels.txt").write_text("y0\ny1\ny2\n")
    runs = [
        trained_on(Config(data=str(tmp_path / name), C=2.0, out=str(tmp_path / name) + "-run")).run
        for name in ("d.csv", "set.X.npz", "set")
    ]
    for run in runs:
        np.testing.assert_array_equal(run.model.weight.numpy(), runs[0].model.weight.numpy())
        assert run.label_names == ["y0", "y1", "y2"]
        assert run.evaluate(*numbers_and_targets(60, seed=1))["micro_f1"] > 0.85


def test_text_and_numbers_together(tmp_path):
    texts, sets = texts_and_sets(50)
    frame = pl.DataFrame({"text": texts, "x": np.random.default_rng(0).normal(size=50), "labels": sets})
    frame.write_parquet(tmp_path / "d.parquet")
    config = Config(data=str(tmp_path / "d.parquet"), text=("text",), features=("x",), C=2.0, out=str(tmp_path / "run"))
    run = trained_on(config).run
    assert "1 number, standardised" in run.features.describe()
    loaded: Any = load_run(tmp_path / "run")
    np.testing.assert_array_equal(loaded.predict_logits(frame), run.predict_logits(frame))
    assert loaded.evaluate(frame)["micro_f1"] > 0.95
    with pytest.raises(
        InputError, match="this run was trained on text, x; give a file, or in Python a frame, with these"
    ):
        loaded.predict(texts)


# What is in a run


def test_metrics_are_saved_as_they_are_returned(tmp_path):
    frame_of_texts().write_ndjson(tmp_path / "d.jsonl")
    frame_of_texts(20, seed=1).write_ndjson(tmp_path / "t.jsonl")
    config = Config(data=str(tmp_path / "d.jsonl"), test=str(tmp_path / "t.jsonl"), out=str(tmp_path / "run"))
    steps = []
    trained = train(config, Listener(on_step=steps.append))
    assert trained is not None
    saved = json.loads((tmp_path / "run" / "metrics.json").read_bytes())
    assert saved == trained.metrics
    assert set(saved) == {"cross_fitted", "test"}
    assert set(saved["test"]) == set(saved["cross_fitted"]) == METRICS
    assert saved["cross_fitted"]["rows"] == 50
    assert saved["test"]["rows"] == 20
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["C"] for line in log] == [step.C for step in steps]
    best = max(log, key=lambda line: line["score"])
    assert (best["C"], best["tau"]) == (trained.run.info["C"], trained.run.info["tau"])
    assert best["micro_f1"] == saved["cross_fitted"]["micro_f1"]


@pytest.mark.parametrize("loss", ["zlpr", "bce"])
@pytest.mark.parametrize("solver", ["lbfgs", "adamw"])
def test_the_config_repeats_the_run_bitwise(tmp_path, monkeypatch, loss, solver):
    if solver == "adamw":
        monkeypatch.setattr("manyhot.toolkit.models.linear.LBFGS_VECTORS", 10**9)
        monkeypatch.setattr("manyhot.toolkit.models.linear.STEPS", 60)  # of 1,200, which say no more here
    frame_of_texts().write_ndjson(tmp_path / "d.jsonl")
    first = trained_on(
        Config(data=str(tmp_path / "d.jsonl"), loss=loss, seed=3, text=("text",), out=str(tmp_path / "1"))
    )
    assert first.run.info["solver"] == solver
    assert first.run.info["loss"] == loss
    again = make_config(str(tmp_path / "1" / "config.toml"), [], {"out": str(tmp_path / "2")})
    second = trained_on(again)
    for name in ("model.safetensors", "terms.json", "run.json", "metrics.json", "log.jsonl", "config.toml"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
    weights = load_file(tmp_path / "1" / "model.safetensors")
    np.testing.assert_array_equal(weights["weight"], second.run.model.weight.numpy())
    assert np.abs(weights["weight"]).max() > 0.01


def test_another_seed_is_another_cut(tmp_path):
    frame_of_texts().write_ndjson(tmp_path / "d.jsonl")
    first, second = (
        trained_on(Config(data=str(tmp_path / "d.jsonl"), C=2.0, seed=seed, out=str(tmp_path / f"{seed}")))
        for seed in (0, 1)
    )
    assert first.metrics["cross_fitted"] != second.metrics["cross_fitted"]


def test_runs_are_numbered_where_no_place_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame_of_texts().write_ndjson("reviews.jsonl")
    config = Config(data="reviews.jsonl", C=1.0, tau=0.0)
    assert [trained_on(config).path for _ in range(2)] == [Path("runs/reviews-1"), Path("runs/reviews-2")]
    assert sorted(os.listdir("runs")) == ["reviews-1", "reviews-2"]


# Options


def test_fixed_tau_and_strength(tmp_path):
    frame_of_numbers().write_csv(tmp_path / "d.csv")
    steps = []
    config = Config(data=str(tmp_path / "d.csv"), C=2.0, tau=0.0, out=str(tmp_path / "0"))
    plain: Any = train(config, Listener(on_step=steps.append))
    assert plain is not None
    # Nothing is chosen, and the rows are held out all the same: the calibration needs them.
    assert [(step.C, step.tau, step.offset) for step in steps] == [(2.0, 0.0, 0.0)]
    assert set(plain.metrics) == {"cross_fitted"}
    assert (plain.run.info["C"], plain.run.info["tau"]) == (2.0, 0.0)
    lifted = trained_on(replace(config, tau=1.5, out=str(tmp_path / "1"))).run
    np.testing.assert_allclose(lifted.model.weight.numpy(), plain.run.model.weight.numpy(), atol=1e-6)
    # The bias moves by tau/2 logit(prior), the prior being smoothed counts.
    _, targets = numbers_and_targets()
    prior = (targets.sum(0) + 0.5) / 61
    difference = plain.run.model.bias.double().numpy() - lifted.model.bias.double().numpy()
    np.testing.assert_allclose(difference, 1.5 * np.log(prior / (1 - prior)) / 2, atol=1e-5)
    chosen = trained_on(replace(config, tau="auto", out=str(tmp_path / "2")))
    assert chosen.run.info["C"] == 2.0
    assert set(chosen.metrics) == {"cross_fitted"}
    fixed = trained_on(replace(config, C="auto", tau=1.0, out=str(tmp_path / "3")))
    assert fixed.run.info["tau"] == 1.0


def test_the_chosen_tau_and_offset_are_in_the_bias(tmp_path, monkeypatch):
    monkeypatch.setattr("manyhot.toolkit.choose.cross_fit.TAUS", (1.25,))
    monkeypatch.setattr("manyhot.toolkit.choose.cross_fit.best_offset", lambda *_: (0.5, 0.75))
    _, targets = numbers_and_targets()
    frame_of_numbers().write_csv(tmp_path / "d.csv")
    options: Any = {"C": 2.0, "max_iter": 2000, "neighbours": "off"}
    config = Config(data=str(tmp_path / "d.csv"), **options, out=str(tmp_path / "a"))
    chosen = trained_on(config).run
    assert (chosen.info["tau"], chosen.info["offset"]) == (1.25, 0.75)
    plain = trained_on(replace(config, tau=0.0, out=str(tmp_path / "b"))).run
    assert plain.info["offset"] == 0
    prior = (targets.sum(0) + 0.5) / 61
    moved = chosen.model.bias.double().numpy() - plain.model.bias.double().numpy()
    # Two fits that start in different places end within the solver's tolerance of each other.
    np.testing.assert_allclose(moved, 0.75 - 1.25 * np.log(prior / (1 - prior)) / 2, atol=0.05)


def test_bce_is_another_model(tmp_path):
    frame_of_numbers().write_csv(tmp_path / "d.csv")
    runs = [
        trained_on(Config(data=str(tmp_path / "d.csv"), loss=loss, C=2.0, tau=0.0, out=str(tmp_path / loss))).run
        for loss in ("zlpr", "bce")
    ]
    assert np.abs(runs[0].model.weight.numpy() - runs[1].model.weight.numpy()).max() > 0.05
    for run in runs:
        assert run.evaluate(*numbers_and_targets(60, seed=1))["micro_f1"] > 0.85


@pytest.mark.parametrize(
    "loss", [pytest.param(loss, marks=() if loss in ("bce", "zlpr") else pytest.mark.slow) for loss in LABEL_LOSSES]
)
def test_every_loss_is_known_by_its_name_and_learns(tmp_path, loss):
    frame_of_numbers().write_csv(tmp_path / "d.csv")
    steps = []
    config = Config(data=str(tmp_path / "d.csv"), loss=loss, C=2.0, out=str(tmp_path / "run"))
    trained = train(config, Listener(on_step=steps.append))
    assert trained is not None
    assert trained.run.info["loss"] == loss
    assert np.isfinite(steps[0].loss)
    micro = trained.run.evaluate(*numbers_and_targets(60, seed=1))["micro_f1"]
    assert micro is not None
    assert micro > 0.8
    assert load_run(tmp_path / "run").info["loss"] == loss


def test_each_name_is_the_loss_it_says():
    logits = torch.linspace(-2, 3, 12).view(4, 3)
    targets = np.array([[1, 0, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]], dtype=bool)
    t = torch.from_numpy(targets)
    prior = torch.tensor([4.5 / 5, 1.5 / 5, 1.5 / 5])  # counts + 1/2 over rows + 1
    want = {
        "zlpr": manyhot.zlpr_loss(logits, t),
        "bce": manyhot.bce_loss(logits, t),
        "subset": manyhot.subset_loss(logits, t, min_labels=1, max_labels=2),
        "bce+prior": manyhot.bce_loss(logits + torch.logit(prior), t),
        "bce+pos_weight": manyhot.bce_loss(logits, t, pos_weight=(1 - prior) / prior),
        "focal": manyhot.focal_loss(logits, t),
        "asymmetric": manyhot.asymmetric_loss(logits, t),
        "dice": manyhot.tversky_loss(logits, t),
        "two-way": manyhot.two_way_loss(logits, t),
        "smooth-accuracy": manyhot.smooth_accuracy_loss(logits, t),
        "smooth-f1": manyhot.smooth_f_loss(logits, t),
        "f1-bce": manyhot.f_weighted_bce_loss(logits, t),
    }
    for name in LABEL_LOSSES:
        assert name in FORMULAS
        torch.testing.assert_close(loss_of(name, targets)(logits, t), 4 * want[name], msg=name)
    # A row held out that is longer than any of training.
    longer = torch.ones(1, 3)
    got = loss_of("subset", targets)(logits[:1], longer)
    torch.testing.assert_close(got, manyhot.subset_loss(logits[:1], longer, min_labels=1, max_labels=3))


def test_rows_to_choose_by(tmp_path):
    frame_of_texts().write_ndjson(tmp_path / "d.jsonl")
    frame_of_texts(20, seed=1).write_ndjson(tmp_path / "v.jsonl")
    frame_of_texts(25, seed=2).write_ndjson(tmp_path / "t.jsonl")
    config = Config(data=str(tmp_path / "d.jsonl"), valid=str(tmp_path / "v.jsonl"), test=str(tmp_path / "t.jsonl"))
    trained = trained_on(replace(config, out=str(tmp_path / "run")))
    assert set(trained.metrics) == {"valid", "test"}
    assert (trained.metrics["valid"]["rows"], trained.metrics["test"]["rows"]) == (20, 25)
    _, sets = texts_and_sets(20, seed=1)
    assert trained.metrics["valid"]["labels_per_row_true"] == sum(map(len, sets)) / 20
    # Fixed options are measured on these rows too, and the rows are not trained on.
    fixed = replace(config, C=2.0, tau=0.0, test=None, out=str(tmp_path / "fixed"))
    measured = trained_on(fixed)
    alone = trained_on(replace(fixed, valid=None, out=str(tmp_path / "alone"))).run
    np.testing.assert_allclose(measured.run.model.weight.numpy(), alone.model.weight.numpy(), atol=0.02)
    assert measured.metrics["valid"]["micro_f1"] == pytest.approx(
        alone.evaluate(*texts_and_sets(20, seed=1))["micro_f1"], abs=0.05
    )


def test_unknown_labels_of_the_other_files_are_warned_of(tmp_path):
    frame_of_texts().write_ndjson(tmp_path / "d.jsonl")
    pl.DataFrame({"text": ["fox", "rose"], "labels": [["animal", "ghost"], ["plant"]]}).write_ndjson(
        tmp_path / "t.jsonl"
    )
    config = Config(
        data=str(tmp_path / "d.jsonl"), test=str(tmp_path / "t.jsonl"), valid=str(tmp_path / "t.jsonl"), C=2.0,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    trained, _, warned = heard_from(config)
    assert trained is not None
    assert len(warned) == 3
    assert "2 of 2 rows stand in the training data" in warned.pop(1)
    assert all(w.startswith("1 label of this file is unknown to the run, 1 time: ghost (1).") for w in warned)
    assert trained.metrics["test"]["macro_f1"] == pytest.approx((1 + 1 + 0 + 0 + 0) / 5)
    assert trained.metrics["test"]["micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 1))


def with_unlabelled(rows, seed, empty):
    frame = frame_of_texts(rows, seed)
    more = pl.DataFrame({"text": ["nothing at all"] * empty, "labels": [[]] * empty}, schema=frame.schema)
    return pl.concat([frame, more])


def test_rows_without_labels_are_negatives_or_dropped_everywhere(tmp_path):
    with_unlabelled(50, 0, 7).write_ndjson(tmp_path / "d.jsonl")
    with_unlabelled(20, 1, 5).write_ndjson(tmp_path / "t.jsonl")
    with_unlabelled(20, 2, 3).write_ndjson(tmp_path / "v.jsonl")
    files: Any = {name: str(tmp_path / f"{name[0]}.jsonl") for name in ("data", "test", "valid")}
    kept, said, warned = heard_from(Config(**files, C=2.0, out=str(tmp_path / "kept")))
    assert kept is not None
    assert any("57 rows, 4 labels" in line and "(0 to 3), 7 rows without labels" in line for line in said)
    assert ["stand in the training data" in text for text in warned] == [True]
    assert (kept.metrics["test"]["rows"], kept.metrics["valid"]["rows"]) == (25, 23)
    assert kept.run.cardinality.min_labels == 0

    config = Config(**files, C=2.0, drop_unlabelled=True, out=str(tmp_path / "dropped"))
    dropped, said, warned = heard_from(config)
    assert dropped is not None
    assert any("50 rows, 4 labels" in line and "7 rows without labels dropped" in line for line in said)
    assert len(warned) == 2
    assert "5 rows without labels left out, as in training (--drop-unlabelled)" in warned
    assert any(text.startswith("7 of 20 rows stand in the training data") for text in warned)
    assert (dropped.metrics["test"]["rows"], dropped.metrics["valid"]["rows"]) == (20, 20)
    assert dropped.run.cardinality.min_labels == 1
    # Later evaluations of the saved run keep to it.
    loaded = load_run(tmp_path / "dropped")
    with pytest.warns(UserWarning, match="5 rows without labels left out"):
        assert loaded.evaluate(pl.read_ndjson(tmp_path / "t.jsonl"))["rows"] == 20
    assert load_run(tmp_path / "kept").evaluate(pl.read_ndjson(tmp_path / "t.jsonl"))["rows"] == 25
    with pytest.warns(UserWarning, match="5 of 25 texts have more words that training did not know"):
        assert len(loaded.predict(pl.read_ndjson(tmp_path / "t.jsonl"))) == 25


@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_file_with_no_row_left_is_refused(tmp_path, part):
    frame_of_texts().write_ndjson(tmp_path / "d.jsonl")
    empty = pl.DataFrame({"text": ["a", "b"], "labels": [[], []]}, schema=frame_of_texts(1).schema)
    empty.write_ndjson(tmp_path / "e.jsonl")
    config = Config(data=str(tmp_path / "d.jsonl"), C=2.0, drop_unlabelled=True, out=str(tmp_path / "run"))
    with pytest.raises(InputError, match=r"e\.jsonl: expected at least one row with labels"):
        train(replace(config, **{part: str(tmp_path / "e.jsonl")}))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame_of_texts().write_ndjson("d.jsonl")
    for out in (None, "x/run"):
        trained, said, _ = heard_from(Config(data="d.jsonl", out=out), dry_run=True)
        assert trained is None
        assert os.listdir() == ["d.jsonl"]
        assert any("50 rows, 4 labels" in line for line in said)
        assert any(line.startswith("model: linear on ") and "fitting takes about" in line for line in said)
    with pytest.raises(InputError):
        train(Config(data="d.jsonl", text=("nope",)), dry_run=True)


def test_bad_input_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame_of_texts().write_ndjson("d.jsonl")
    for config in (
        Config(data="missing.csv"),
        Config(data="d.jsonl", text=("nope",)),
        Config(data="d.jsonl", test="x"),
    ):
        with pytest.raises(InputError):
            train(replace(config, out="deep/er/run"))
        with pytest.raises(InputError):
            train(config)
    assert os.listdir() == ["d.jsonl"]


def test_what_does_not_fit_is_refused_before_training(tmp_path, monkeypatch):
    class Memory:
        available = 1000

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    frame_of_texts().write_ndjson(tmp_path / "d.jsonl")
    config = Config(data=str(tmp_path / "d.jsonl"), out=str(tmp_path / "run"))
    with pytest.raises(InputError, match=r"50 rows x 4 labels take about 1 MB .* With --loss bce, .* in blocks"):
        train(replace(config, loss="zlpr"))
    with pytest.raises(InputError, match=r"the model needs about .* for 50 rows x .* x 4 labels, 4 labels at a time"):
        train(config)
    assert os.listdir(tmp_path) == ["d.jsonl"]


# Hard data


@pytest.mark.parametrize("loss", ["zlpr", "bce"])
@pytest.mark.parametrize("rows", [2, 3, 4, 5])
def test_a_handful_of_rows(tmp_path, rows, loss):
    sets = [["a"], ["b"], ["a", "b"], ["c"], []][:rows]
    texts = ["red fox", "blue bird", "red bird", "green tree", "moss"][:rows]
    pl.DataFrame(
        {"text": texts, "labels": sets}, schema={"text": pl.String, "labels": pl.List(pl.String)}
    ).write_ndjson(tmp_path / "d.jsonl")
    trained = trained_on(Config(data=str(tmp_path / "d.jsonl"), loss=loss, out=str(tmp_path / "run")))
    assert trained.metrics["cross_fitted"]["rows"] == rows
    assert np.isfinite(trained.run.model.weight.numpy()).all()
    fitted = load_run(tmp_path / "run")
    assert [set(labels) for labels in fitted.predict(texts[:2])] == [{"a"}, {"b"}]


def test_rows_that_are_all_alike(tmp_path):
    pl.DataFrame({"text": ["red fox"] * 4, "labels": [["a", "b"]] * 4}).write_ndjson(tmp_path / "d.jsonl")
    run = trained_on(Config(data=str(tmp_path / "d.jsonl"), out=str(tmp_path / "run"))).run
    with pytest.warns(UserWarning, match="1 of 2 texts has more words that training did not know"):
        assert [set(labels) for labels in run.predict(["red fox", "else"])] == [{"a", "b"}, {"a", "b"}]


def test_labels_that_are_never_positive(tmp_path):
    frame = frame_of_numbers().with_columns(pl.lit(0).alias("never"))
    frame.write_csv(tmp_path / "d.csv")
    labels = ("y0", "never", "y1", "y2")
    trained, said, _ = heard_from(Config(data=str(tmp_path / "d.csv"), labels=labels, out=str(tmp_path / "run")))
    assert trained is not None
    assert trained.run.label_names == list(labels)
    assert any("1 never seen" in line for line in said)
    assert trained.run.train_counts[1] == 0
    assert np.isfinite(trained.run.predict_logits(numbers_and_targets()[0])).all()
    assert all("never" not in row for row in trained.run.predict(numbers_and_targets()[0]))
    metrics: Any = trained.run.evaluate(frame)
    assert 0.5 < metrics["macro_f1"] <= 3 / 4


def test_constant_features_and_labels_that_are_always_positive(tmp_path):
    frame = frame_of_numbers().with_columns(
        pl.lit(0.1).alias("x1"), pl.lit(0.0).alias("x2"), pl.lit(1).alias("y2")
    )  # fmt: skip
    frame.write_csv(tmp_path / "d.csv")
    features, labels = ("x0", "x1", "x2", "x3"), ("y0", "y1", "y2")
    config = Config(data=str(tmp_path / "d.csv"), features=features, labels=labels, out=str(tmp_path / "run"))
    run = trained_on(config).run
    assert np.isfinite(run.predict_logits(frame)).all()
    assert all("y2" in row for row in run.predict(frame))
    # A value never seen in a constant column does not blow up.
    moved = run.predict_logits(frame.with_columns(pl.lit(0.2).alias("x1")))
    assert np.abs(moved - run.predict_logits(frame)).max() < 1


def test_a_label_with_fewer_rows_than_folds(tmp_path):
    texts, sets = texts_and_sets(40)
    sets[0] = [*sets[0], "once"]
    pl.DataFrame({"text": texts, "labels": sets}).write_ndjson(tmp_path / "d.jsonl")
    trained = trained_on(Config(data=str(tmp_path / "d.jsonl"), out=str(tmp_path / "run")))
    assert FOLDS > 1
    assert trained.run.train_counts[trained.run.label_names.index("once")] == 1
    assert trained.metrics["cross_fitted"]["labels"] == 5


def test_the_label_list_is_that_of_the_names_file(tmp_path):
    frame_of_texts().write_ndjson(tmp_path / "d.jsonl")
    names = ["unused", *sorted(KINDS, reverse=True)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    config = Config(data=str(tmp_path / "d.jsonl"), label_names=str(tmp_path / "names.txt"), out=str(tmp_path / "run"))
    run = trained_on(config).run
    assert run.label_names == names
    assert run.train_counts[0] == 0
    assert run.evaluate(frame_of_texts(20, seed=1))["labels"] == 5


def test_a_decision_of_right_cardinality_predicts_as_many_labels_as_there_are(tmp_path):
    frame_of_numbers().write_csv(tmp_path / "d.csv")
    config = Config(data=str(tmp_path / "d.csv"), C=0.01, decision="cardinality", out=str(tmp_path / "run"))
    measured: Any = trained_on(config).metrics["cross_fitted"]
    assert round(60 * measured["labels_per_row_predicted"]) == round(60 * measured["labels_per_row_true"])
    plain: Any = trained_on(replace(config, tau=0.0, decision="f1", out=str(tmp_path / "plain"))).metrics[
        "cross_fitted"
    ]
    assert plain["labels_per_row_predicted"] != measured["labels_per_row_predicted"]


def test_rows_by_labels_that_do_not_fit_are_refused_before_any_are_made(tmp_path, monkeypatch):
    path = tmp_path / "many.svm"
    path.write_text("".join(f"{i},{999_999 - i} 1:1\n" for i in range(1000)))
    monkeypatch.setattr(Examples, "dense_targets", lambda self: pytest.fail("written out"))
    monkeypatch.setattr("manyhot.toolkit.plan.free_memory", lambda: 10**7)
    most = 10**7 // (CELL * 1000)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"loss": "zlpr"}, "With --loss bce, without weights=dense and --decision precision=..., labels are fitted in"),
        ({"weights": "dense"}, "With --loss bce, without weights=dense"),
        ({"model": "mlp", "loss": "focal"}, "With --loss zlpr or bce, without --decision precision=..., labels stay"),
    ]
    for options, advice in refused:
        said = rf"many\.svm: 1,000 rows x 2,000 labels take about .* keep the {most} most .* {re.escape(advice)}"
        for dry_run in (True, False):
            with pytest.raises(InputError, match=said):
                train(Config(data=str(path), out=str(tmp_path / "run"), **options), dry_run=dry_run)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", ["valid", "test"])
def test_rows_that_are_measured_count_too(tmp_path, monkeypatch, part):
    for name, rows in (("few", 10), ("many", 1000)):
        (tmp_path / f"{name}.svm").write_text("".join(f"{i % 20},{(i + 1) % 20} 1:{i}\n" for i in range(rows)))
    monkeypatch.setattr("manyhot.toolkit.plan.free_memory", lambda: 100 * 20 * CELL)
    named: Any = {part: str(tmp_path / "many.svm")}
    with pytest.raises(InputError, match=r"few\.svm: 1,000 rows x 11 labels take about 1 MB .* keep the 2 most"):
        train(Config(data=str(tmp_path / "few.svm"), loss="zlpr", out=str(tmp_path / "run"), **named), dry_run=True)


def test_what_a_fit_takes_is_added_to_rows_by_labels(tmp_path, monkeypatch):
    path = tmp_path / "wide.svm"
    path.write_text("".join(f"{i % 60},{(i + 1) % 60} {i + 1}:1 300000:1\n" for i in range(100)))
    monkeypatch.setattr("manyhot.toolkit.plan.free_memory", lambda: 4 * 10**7)
    monkeypatch.setattr(Examples, "dense_targets", lambda self: pytest.fail("written out"))
    with pytest.raises(InputError, match=r"wide\.svm: 100 rows x 60 labels take about .* take fewer rows, or a larger"):
        train(Config(data=str(path), loss="zlpr", weights="dense", out=str(tmp_path / "run")))


def test_more_features_than_fit_are_refused_before_they_are_scaled(tmp_path, monkeypatch):
    path = tmp_path / "wide.txt"
    path.write_text("3 900000000 5\n0 1:1\n1 2:1\n0,1 3:1\n")
    monkeypatch.setattr("manyhot.toolkit.plan.free_memory", lambda: 10**9)
    with pytest.raises(InputError, match=r"wide\.txt: 900,000,000 features take about 90\.0 GB as means and"):
        train(Config(data=str(path), out=str(tmp_path / "run")))
