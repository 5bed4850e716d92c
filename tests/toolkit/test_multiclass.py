"""`--task multiclass`: one class a row through every part of the command, and clear errors where a row has not one."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score, log_loss
from typer.testing import CliRunner

from manyhot import calibration_metrics, cardinality_range, load_run, multiclass_metrics, multiway_loss
from manyhot.toolkit.choose.cross_fit import choose, choose_tau, fixed, make_folds, prior_logits
from manyhot.toolkit.cli.main import app
from manyhot.toolkit.config import TASKS, Config, make_config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models.linear import LinearLearner, fit_linear
from manyhot.toolkit.objectives import FORMULAS
from manyhot.toolkit.train import train

CLASSES = ["apple", "fig", "pear"]
MULTICLASS: Any = {"task": "multiclass"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(rows=90, seed=0, shares=(0.75, 0.2, 0.05)):
    """Draw points around three centres, the classes rarer and rarer."""
    rng = np.random.default_rng(seed)
    ids = np.concatenate([np.arange(3), rng.choice(3, rows - 3, p=shares)])
    X = rng.normal(size=(rows, 4)).astype(np.float32) + 2 * np.eye(4, dtype=np.float32)[ids]
    return X, ids


def table(name="d.csv", rows=90, seed=0, names=CLASSES):
    X, ids = rows_of(rows, seed)
    frame = pl.DataFrame({f"x{i}": X[:, i] for i in range(4)} | {"label": [names[i] for i in ids]})
    frame.write_csv(name)
    return frame, ids


def call(command, code=0):
    result = CliRunner().invoke(app, shlex.split(command))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def refused(command):
    before = sorted(Path.cwd().rglob("*"))
    stdout, stderr = call(command, 2)
    assert stdout == ""
    assert sorted(Path.cwd().rglob("*")) == before
    return stderr.strip().splitlines()[-1]


def trained_on(config, **heard) -> Any:
    trained = train(config, Listener(**heard))
    assert trained is not None
    return trained


# --- the whole way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", TASKS["multiclass"])
def test_train_evaluate_and_predict(loss):
    table()
    frame, ids = table("test.csv", 60, seed=1)
    stdout, stderr = call(f"train d.csv --test test.csv --task multiclass --loss {loss} --verbose --out run")
    assert "90 rows, 3 classes of" in stderr
    assert "accuracy  macro-F1  rare-F1" in stderr
    assert "the class with the largest logit" in stderr
    assert "labels a row" not in stdout
    lines = stdout.splitlines()
    assert any(line.startswith("accuracy ") for line in lines)
    assert ["classes", "3", "3"] in [line.split() for line in lines]

    run = load_run("run")
    assert (run.task, run.cardinality, run.label_names) == ("multiclass", (1, 1), CLASSES)
    logits = run.predict_logits(frame)
    preds = logits.argmax(1)
    assert run.predict(frame) == [[CLASSES[i]] for i in preds]
    metrics = json.loads(Path("run/metrics.json").read_bytes())["test"]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(ids, preds))
    assert metrics["macro_f1"] == pytest.approx(f1_score(ids, preds, average="macro"))
    assert metrics["accuracy"] > 0.7  # two thirds are apples
    probs = run.probs(frame)
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-5)
    trusted = calibration_metrics(probs, ids)
    for name in ("ece", "brier", "log_loss"):
        assert metrics[name] == pytest.approx(trusted[name])
    assert metrics["log_loss_uncalibrated"] == pytest.approx(log_loss(ids, softmax(logits, axis=1)))
    assert run.evaluate(frame) == metrics
    assert metrics.items() >= multiclass_metrics(logits, ids, train_counts=run.train_counts).items()
    said = json.loads(call("evaluate run test.csv --json")[0])
    assert said.pop("drift")["said"] is None
    assert said == metrics
    call("predict run test.csv -o out.jsonl")
    first = json.loads(Path("out.jsonl").read_text().splitlines()[0])
    assert first["labels"] == [CLASSES[preds[0]]]
    assert first["scores"] == [pytest.approx(logits[0].max(), abs=1e-4)]

    call("train --config run/config.toml --out again")
    again = load_run("again")
    assert torch.equal(again.model.weight, run.model.weight)
    assert torch.equal(again.model.bias, run.model.bias)
    assert again.info == run.info
    assert (run.info["loss"], run.info["offset"]) == (loss, 0.0)
    assert run.info["tau"] == 0 or loss == "ce+prior"


def test_a_run_from_before_tasks_is_a_multilabel_run():
    table()
    run = trained_on(Config(data="d.csv", labels=("label",), C=1.0, tau=0.0, out="run")).run
    assert run.task == load_run("run").task == "multilabel"
    assert "task" in json.loads(Path("run/run.json").read_bytes())


def test_the_default_loss_is_the_task_s():
    assert make_config(None, [], {"data": "d.csv"}).loss == "bce"
    assert make_config(None, [], {"data": "d.csv", "task": "multiclass"}).loss == "ce+prior"


# --- what is minimised -----------------------------------------------------------------------------------------------


def objective(X, ids, loss, C, max_iter=500) -> Any:
    """Minimise the sum over rows of a loss + |W|^2 / (2C) in float64."""
    X, ids = torch.from_numpy(X).double(), torch.from_numpy(ids)
    weight = torch.zeros(X.shape[1], 3, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=max_iter, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(X @ weight + bias, ids) + weight.square().sum() / (2 * C)
        value.backward()
        return value

    optimizer.step(closure)
    return weight.detach(), bias.detach() - bias.detach().mean()


def scaled_multiway(logits, ids):
    """Start at n log m, where cross-entropy starts."""
    start = multiway_loss(torch.zeros_like(logits), ids)
    return multiway_loss(logits, ids) * len(ids) * np.log(3) / start


@pytest.mark.parametrize(
    ("name", "loss"),
    [("ce", lambda logits, ids: F.cross_entropy(logits, ids, reduction="sum")), ("multiway", scaled_multiway)],
)
def test_the_model_is_the_optimum_of_the_objective_that_is_named(name, loss):
    table()
    run = trained_on(Config(data="d.csv", loss=name, C=0.5, max_iter=500, out="run", **MULTICLASS)).run
    X, ids = rows_of()
    scaled = (X - X.mean(0)) / X.std(0)
    weight, bias = objective(scaled, ids, loss, 0.5)
    np.testing.assert_allclose(run.model.weight, weight, atol=5e-3)
    np.testing.assert_allclose(run.model.bias - run.model.bias.mean(), bias, atol=5e-3)


def test_a_prior_in_the_bias_is_training_with_the_prior():
    X, ids = rows_of()
    targets = np.eye(3, dtype=bool)[ids]
    log_p = torch.from_numpy(prior_logits(targets, True))
    np.testing.assert_allclose(log_p.exp(), (np.bincount(ids) + 0.5) / (len(ids) + 1.5), rtol=1e-5)
    plain, adjusted = (
        fit_linear(
            X,
            torch.from_numpy(targets),
            loss=lambda s, t, tau=tau: F.cross_entropy(s + tau * log_p, torch.from_numpy(ids), reduction="sum"),
            C=0.5,
            max_iter=500,
        )
        for tau in (0.0, 1.5)
    )
    shift = (plain.bias - 1.5 * log_p) - adjusted.bias
    np.testing.assert_allclose(shift - shift.mean(), np.zeros(3), atol=2e-2)
    np.testing.assert_allclose(plain.weight, adjusted.weight, atol=2e-2)


def test_tau_is_the_one_with_the_best_mean_of_accuracy_and_macro_f1():
    X, ids = rows_of(200)
    targets = np.eye(3, dtype=bool)[ids]
    options: Any = {"cardinality": cardinality_range(targets), "train_counts": targets.sum(0)}
    learner = LinearLearner.planned(len(X), X.shape[1], targets.shape[1], loss=FORMULAS["ce+prior"])
    options |= {"learner": learner, "C": 1.0, "multiclass": True, "on_step": lambda step: None}
    folds = make_folds(X, targets, 0)
    best: Any = choose(folds, rule=choose_tau, **options).step
    tried = [choose(folds, rule=fixed(tau / 4), **options).step for tau in range(9)]
    assert best.score == max(step.score for step in tried)
    assert best.score == pytest.approx((best.metrics["accuracy"] + best.metrics["macro_f1"]) / 2)
    assert best.tau in [step.tau for step in tried if step.score == best.score]
    assert best.offset == 0


# --- files that do not fit -------------------------------------------------------------------------------------------


def test_rows_with_several_classes_or_none_are_refused():
    frame = pl.DataFrame({"x0": range(6), "x1": [3, 1, 4, 1, 5, 9], "label": ["a", "b", "a|b", "b", "", "a|b"]})
    frame.write_csv("d.csv")
    said = refused("train d.csv --task multiclass --features x0,x1")
    assert said == (
        "error: d.csv, row 3: expected one class, as --task multiclass asks, got a, b (2 rows with several, 1 row with "
        "none); leave --task out to learn sets of labels; --drop-unlabelled leaves out rows without a class; "
        "--label-sep names another separator where a class has this one in its name"
    )
    # The separator may be part of a name.
    call("train d.csv --task multiclass --features x0,x1 --label-sep / --drop-unlabelled --set C=1 --out run")
    assert load_run("run").label_names == ["a", "a|b", "b"]


def test_rows_without_a_class_can_be_dropped():
    frame, _ = table()
    frame = frame.with_columns(pl.when(pl.int_range(pl.len()) == 4).then(None).otherwise("label").alias("label"))
    frame.write_csv("gap.csv")
    said = refused("train gap.csv --task multiclass")
    assert "gap.csv, row 5: expected one class, as --task multiclass asks, got none (1 row with none)" in said
    assert "--label-sep" not in said
    _, stderr = call("train gap.csv --task multiclass --drop-unlabelled --test gap.csv --set C=1 --out run")
    assert "89 rows, 3 classes" in stderr
    assert "1 rows without a class dropped" in stderr
    assert load_run("run").evaluate(frame.drop_nulls())["rows"] == 89


def test_the_test_file_is_checked_before_training():
    table()
    frame, _ = table("test.csv", 30)
    frame.with_columns(label=pl.lit("apple|fig")).write_csv("several.csv")
    said = refused("train d.csv --test several.csv --task multiclass --label-sep '|'")
    assert said.startswith("error: several.csv, row 1: expected one class")
    call("train d.csv --task multiclass --set C=1 --label-sep '|' --out run")
    said = refused("evaluate run several.csv")
    assert said.startswith("error: several.csv, row 1: expected one class")


def test_a_column_of_0_and_1_is_two_classes():
    frame, ids = table()
    frame = frame.with_columns(label=pl.Series(ids > 0).cast(pl.Int64))
    frame.write_csv("binary.csv")
    frame.write_parquet("binary.parquet")
    for name in ("binary.csv", "binary.parquet"):
        call(f"train {name} --task multiclass --set C=1 --out {Path(name).suffix[1:]}")
        run = load_run(Path(name).suffix[1:])
        assert run.label_names == ["0", "1"]
        assert (run.evaluate(frame)["accuracy"] or 0) > 0.8
    assert "0/1 columns" in refused("train binary.csv")


def test_classes_that_training_did_not_know_count_as_missed():
    table()
    frame, ids = table("test.csv", 30, seed=2)
    run = trained_on(Config(data="d.csv", C=1.0, loss="ce", out="run", **MULTICLASS)).run
    known = run.evaluate(frame)
    other = frame.with_columns(label=pl.when(pl.col("label") == "fig").then(pl.lit("kiwi")).otherwise("label"))
    with pytest.warns(UserWarning, match=r"1 class of this file is unknown to the run, \d+ times: kiwi"):
        metrics = run.evaluate(other)
    hits = (run.predict_logits(frame).argmax(1) == ids) & (ids != 1)
    assert metrics["accuracy"] == pytest.approx(hits.mean())
    assert metrics["accuracy"] < known["accuracy"]
    assert metrics["classes"] == 3


def test_valid_rows_of_an_unknown_class_are_left_out():
    table()
    frame, _ = table("valid.csv", 40, seed=3)
    other = frame.with_columns(label=pl.when(pl.col("label") == "fig").then(pl.lit("kiwi")).otherwise("label"))
    other.write_csv("other.csv")
    frame.filter(pl.col("label") != "fig").write_csv("valid.csv")
    warned: list[str] = []
    options: Any = {"data": "d.csv", "loss": "ce", "C": 1.0, **MULTICLASS}
    got = trained_on(Config(valid="other.csv", out="a", **options), warn=warned.append).metrics["valid"]
    assert got == trained_on(Config(valid="valid.csv", out="b", **options)).metrics["valid"]
    dropped = int((frame["label"] == "fig").sum())
    assert warned == [f"{dropped} rows of --valid left out: their class is unknown to the run"]
    frame.with_columns(label=pl.lit("kiwi")).write_csv("none.csv")
    with pytest.raises(InputError, match=r"none\.csv: expected classes of the training file, got only others"):
        train(Config(valid="none.csv", out="c", **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--task multi", "task expects one of multilabel, multiclass, spans, relations; got 'multi'."),
        (
            "--task multiclass --loss zlpr",
            "loss expects one of ce+prior, ce, multiway for --task multiclass; got 'zlpr'; zlpr goes with --task "
            "multilabel.",
        ),
        ("--loss multiway", "; multiway goes with --task multiclass."),
        ("--task multiclass --loss none", "ce+prior, ce, multiway for --task multiclass; got 'none'."),
        (
            "--task multiclass --loss ce --tau 1",
            "tau is the strength of the prior, and --loss ce has none; got 1.0. Use --loss ce+prior, or leave tau out.",
        ),
    ],
)
def test_options_that_do_not_fit(options, message):
    table()
    assert refused(f"train d.csv {options}").endswith(message)


def test_a_config_of_python_is_checked_too():
    table()
    with pytest.raises(InputError, match=r"for --task multiclass; got 'bce'"):
        train(Config(data="d.csv", out="run", **MULTICLASS))
    assert not Path("run").exists()


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_by_hand():
    logits = np.array([[3.0, 1, 0, 2], [0, 5, 1, 2], [2, 2, 0, 1], [0, 1, 2, 3]])
    metrics = multiclass_metrics(torch.from_numpy(logits), torch.tensor([0, 1, 1, 0]), train_counts=[50, 10, 3, 0])
    # Predicted 0, 1, 0 (a tie goes to the lower class), 3.
    assert metrics == {
        "accuracy": 0.5,
        "macro_f1": pytest.approx((2 * 1 / (2 + 2) + 2 * 1 / (1 + 2) + 0 + 0) / 4),
        "rare_f1": 0.0,
        "medium_f1": pytest.approx(2 / 3),
        "head_f1": 0.5,
        "accuracy_at_3": 0.75,
        "rows": 4,
        "classes": 4,
    }


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3), int), r"class ids of shape \(rows,\); got \(2, 3\) and int64 of \(2, 3\)"),
        (np.zeros((2, 3)), np.zeros(2), r"got \(2, 3\) and float64 of \(2,\)"),
        (
            np.zeros((2, 3)),
            np.array([0, 3]),
            "0 to 2, or be -1 or -100 where unknown; got 3 in row 1",
        ),
        (np.zeros((2, 3)), np.array([-2, 0]), "got -2 in row 0"),
        (np.zeros((0, 3)), np.zeros(0, int), "at least one row"),
        (np.full((1, 3), np.nan), np.array([0]), "must not be NaN"),
    ],
)
def test_metrics_refuse_what_does_not_fit(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        multiclass_metrics(logits, targets)
