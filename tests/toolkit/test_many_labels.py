"""Runs whose labels are fitted in blocks, with sparse targets and weights: what a run can do, and what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch

from command import as_json, bad, call
from interrupted import contents, killed
from manyhot import CardinalityRange, label_propensity, load_run, multilabel_metrics, stratified_split, top_k_metrics
from manyhot.toolkit.choose.ranked_rows import score_of_best
from manyhot.toolkit.config import Config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models.early_stopping import mean_loss
from manyhot.toolkit.models.label_blocks import SparseLinear
from manyhot.toolkit.models.listed import ListedLearner
from manyhot.toolkit.models.mlp import Mlp, plan_mlp
from manyhot.toolkit.objectives import FORMULAS, LISTED_LOSSES
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.runs.evaluate import align, measure
from manyhot.toolkit.runs.network import network_of_run
from manyhot.toolkit.runs.predict import read_for
from manyhot.toolkit.train import train

LABELS = 24


def write(path, number=180, seed=0, labels=LABELS):
    """Write rows of the Extreme Classification Repository: a word or two for each label, and others."""
    rng = np.random.default_rng(seed)
    lines = [f"{number} 60 {labels}"]
    for _ in range(number):
        true = np.unique((rng.random(rng.integers(1, 4)) ** 2 * labels).astype(int))
        words = np.unique(np.r_[true, true[rng.random(len(true)) < 0.5] + 24, rng.integers(48, 60, size=5)])
        lines.append(f"{','.join(map(str, true))} {' '.join(f'{word}:{rng.random() + 0.2:.3f}' for word in words)}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    write(folder / "train.txt")
    write(folder / "test.txt", 70, seed=1, labels=LABELS + 2)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    said: list[str] = []
    config = Config(
        data=str(folder / "train.txt"), test=str(folder / "test.txt"), weights="sparse", out=str(folder / "r")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Examples, "dense_targets", lambda self: pytest.fail("rows x labels were written out"))
        patch.setattr("manyhot.toolkit.models.label_blocks.LABELS", 7)
        found = train(config, Listener(say=said.append, warn=said.append))
    assert found is not None
    return found, said


@pytest.fixture
def here(folder, trained, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "r", "r")
    for name in ("train.txt", "test.txt"):
        shutil.copy(folder / name, name)


def test_what_is_said(trained):
    _, said = trained
    lacking = next(line for line in said if line.startswith("weights sparse"))
    assert "180 rows x 24 labels are fitted by blocks of labels" in lacking
    assert lacking.endswith("no votes of training rows, no columns of a kernel, no labels to check and no LRAP")
    (kept,) = (line for line in said if "% of the weights are kept" in line)
    assert "held-out rows is" in kept
    assert any("labels of this file are unknown to the run" in line for line in said)


def test_numbers_of_test_rows_are_those_of_all_logits(folder, trained):
    found, _ = trained
    run, metrics = found.run, found.metrics["test"]
    assert isinstance(run.model, SparseLinear)
    assert {"held_out", "test"} == set(found.metrics)
    test = read_for(run, str(folder / "test.txt"), with_labels=True)
    aligned = align(test.targets, test.label_names, run.label_names)
    wanted = measure(run.logits(test), aligned, cardinality=run.cardinality, train_counts=run.train_counts)
    assert set(wanted) - set(metrics) == {"lrap"}
    assert {key: metrics[key] for key in wanted if key in metrics} == pytest.approx(
        {key: value for key, value in wanted.items() if key in metrics}
    )
    assert {"psp_at_1", "psp_at_5", "ece", "brier", "log_loss"} <= set(metrics)
    assert metrics["micro_f1"] > 0.8
    assert metrics["labels"] == LABELS


def test_a_saved_run_predicts_and_explains_the_same(folder, trained):
    run = trained[0].run
    again = load_run(folder / "r")
    X = sp.csr_array(np.eye(60, dtype=np.float32)[:30])
    np.testing.assert_array_equal(again.predict_logits(X), run.predict_logits(X))
    assert again.predict(X) == run.predict(X)
    assert again.predict(X)[3] == ["3"]
    (explained,) = again.explain(X[[3]])
    (reason,) = [reason for reason in explained.labels if reason.name == "3"]
    assert reason.base + sum(part.score for part in reason.parts) == pytest.approx(reason.score, abs=1e-4)
    top = again.top(X[[3]], 2)
    assert top["label"][0] == "3"
    assert (again.probs(X) >= 0).all()


def test_the_command_uses_a_run(here):
    measured = as_json("evaluate r test.txt")
    assert measured["micro_f1"] == json.loads(Path("r/metrics.json").read_text())["test"]["micro_f1"]
    assert "drift" in measured
    out, _ = call("evaluate r test.txt")
    assert "PSP@5" in out
    assert "LRAP" not in out
    call("predict r test.txt -o out.jsonl")
    frame = pl.read_ndjson("out.jsonl")
    assert frame.height == 70
    call("report r -o page.html")
    page = Path("page.html").read_text()
    assert "training rows that were held out" not in page  # test rows were measured
    assert "PSP@5" in page
    assert "its labels are too many" in page
    call("report r --card card.md -o other.html")
    with pytest.raises(InputError, match="weights are sparse in this run"):
        network_of_run(load_run("r"))


def test_a_report_of_held_out_rows(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(f"train {folder}/train.txt --set weights=sparse --out r")
    found = json.loads(Path("r/findings.json").read_text())
    assert found["measured"]["part"] == "held_out"
    assert 30 < found["measured"]["rows"] < 45
    page = Path("r/report.html").read_text()
    assert "training rows that were held out, by a model that was fitted without them" in page
    chosen = found["chosen"]
    assert chosen["weights"] == "sparse"
    assert 0 < chosen["weights_kept"] <= 1
    assert chosen["dropped"] in (0.01, 0.03, 0.1, 0.3)
    assert abs(chosen["score"] - chosen["score_of_all_weights"]) < 0.05


@pytest.mark.parametrize("options", [{}, {"tau": 1.0}, {"decision": "cardinality"}, {"C": 0.5}, {"no_rows": True}])
def test_options(folder, tmp_path, options):
    config = Config(data=str(folder / "train.txt"), weights="sparse", out=str(tmp_path / "r"), **options)
    found = train(config)
    assert found is not None
    if "tau" in options:
        assert (found.run.info["tau"], found.run.info["offset"]) == (1.0, 0.0)
    if "C" in options:
        assert found.run.info["C"] == 0.5
    if options.get("decision") == "cardinality":
        measured = found.metrics["held_out"]
        assert measured["labels_per_row_predicted"] == pytest.approx(measured["labels_per_row_true"], abs=0.03)
    assert found.metrics["held_out"]["micro_f1"] > 0.6


def test_propensities_are_those_asked_for(folder, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(f"train {folder}/train.txt --test {folder}/test.txt --set weights=sparse --set propensity=0.5,0.4 --out r")
    metrics = json.loads(Path("r/metrics.json").read_text())["test"]
    run = load_run("r")
    test = read_for(run, f"{folder}/test.txt", with_labels=True)
    logits = run.logits(test)
    aligned = align(test.targets, test.label_names, run.label_names)
    targets = np.hstack([aligned.targets, aligned.unseen])
    counts = np.r_[run.train_counts, np.zeros(len(aligned.unseen_names))]
    propensity = label_propensity(counts, 180, a=0.5, b=0.4)
    first = np.argsort(-logits, 1, kind="stable")[:, :5]
    wanted = top_k_metrics(torch.from_numpy(first), torch.from_numpy(targets), ks=(1, 5), propensity=propensity)
    assert metrics["psp_at_5"] == pytest.approx(wanted["psp_at_5"])
    assert as_json(f"evaluate r {folder}/test.txt")["psp_at_5"] == metrics["psp_at_5"]
    assert metrics["psp_at_5"] != trained[0].metrics["test"]["psp_at_5"]
    for value in ("0.5", "a,b", "0.5,0.4,1", "nan,1", "-1,1"):
        assert bad(f"train {folder}/train.txt --set propensity={value}").startswith("propensity expects A and B")
    assert bad(f"train {folder}/train.txt --set propensity=0.5,0.4").startswith("propensity is of PSP@k")


def test_validation_rows_and_texts(tmp_path):
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(12)]
    rows = [[words[i] for i in np.unique(rng.integers(12, size=3))] for _ in range(120)]
    for name, part in (("train", rows[:90]), ("valid", rows[90:])):
        pl.DataFrame({"text": [" ".join([*row, "and", "so"]) for row in part], "labels": part}).write_ndjson(
            tmp_path / f"{name}.jsonl"
        )
    config = Config(
        data=str(tmp_path / "train.jsonl"),
        valid=str(tmp_path / "valid.jsonl"),
        weights="sparse",
        out=str(tmp_path / "r"),
    )
    found = train(config)
    assert found is not None
    assert found.metrics["valid"]["rows"] == 30
    assert found.metrics["valid"]["micro_f1"] > 0.9
    words_of = {
        label["name"]: label["words"] for label in json.loads((tmp_path / "r/findings.json").read_text())["labels"]
    }
    assert all(words[0] == name for name, words in words_of.items())
    again = train(
        replace(config, data=str(tmp_path / "train.jsonl"), from_run=str(tmp_path / "r"), out=str(tmp_path / "s"))
    )
    assert again is not None
    assert again.run.info["C"] == found.run.info["C"]


def test_the_score_is_that_of_dense_weights(folder, tmp_path):
    scores = {}
    for weights in ("sparse", "dense"):
        config = Config(
            data=str(folder / "train.txt"),
            test=str(folder / "test.txt"),
            weights=weights,
            neighbours="off",
            out=str(tmp_path / weights),
        )
        found = train(config)
        assert found is not None
        scores[weights] = found.metrics["test"]
    for key in ("micro_f1", "macro_f1", "precision_at_1"):
        assert scores["sparse"][key] == pytest.approx(scores["dense"][key], abs=0.04)


def test_very_many_cells_are_fitted_in_blocks_and_what_cannot_be_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("manyhot.toolkit.plan.MOST_CELLS", 1000)
    config = Config(data=str(folder / "train.txt"), out=str(tmp_path / "r"), C=1.0)
    found = train(config)
    assert found is not None
    assert isinstance(found.run.model, SparseLinear)
    others: list[dict[str, Any]] = [{"weights": "dense"}, {"loss": "zlpr"}]
    for options in others:
        dense = train(replace(config, out=str(tmp_path / f"{options}"[2:8]), **options))
        assert dense is not None
        assert not isinstance(dense.run.model, SparseLinear)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--loss zlpr", "weights sparse is of the linear model on label sets, with --loss bce"),
        ("--model mlp", "weights sparse is of the linear model on label sets"),
        ("--decision precision=0.9", "weights sparse is of the linear model on label sets"),
    ],
)
def test_what_has_no_blocks(here, options, said):
    assert bad(f"train train.txt --set weights=sparse {options}").startswith(said)
    assert bad("train train.txt --set weights=thin").startswith(
        "weights expects one of auto, sparse, dense; got 'thin'"
    )
    assert bad("compare train.txt --set weights=sparse").startswith("weights sparse is of manyhot train")


def test_unknown_cells_are_refused(tmp_path):
    pl.DataFrame({"text": ["a b", "b c", "c d", "d e"] * 5, "x": [0, 1, None, 1] * 5, "y": [1, 0, 1, 0] * 5}).write_csv(
        tmp_path / "d.csv"
    )
    with pytest.raises(InputError, match=r"d\.csv: expected label cells that are all known with weights sparse"):
        train(Config(data=str(tmp_path / "d.csv"), text=("text",), weights="sparse", out=str(tmp_path / "r")))


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("manyhot.toolkit.models.label_blocks.LABELS", 7)
    config = Config(data=str(folder / "train.txt"), weights="sparse", out="whole")
    train(config)
    monkeypatch.setattr("manyhot.toolkit.disk.checkpoint.WRITE_SECONDS", 0.0)
    monkeypatch.setattr("manyhot.toolkit.disk.checkpoint.SHARE", 1e9)
    kills = 0
    for after in (1, 8, 20, 33, 47):
        place = replace(config, out=f"after{after}")
        kills += killed(place, monkeypatch, after=after)
        train(place, resume=True)
        assert contents(place.out) == contents("whole")
    assert kills >= 3


def test_labels_of_python_callers(trained):
    run = trained[0].run
    X = sp.csr_array(np.eye(60, dtype=np.float32)[:30])
    sets = [[str(i)] if i < LABELS else [] for i in range(30)]
    measured: Any = run.evaluate(X, sets)
    wanted = multilabel_metrics(
        np.array([[name in row for name in run.label_names] for row in run.predict(X)]),
        np.array([[name in row for name in run.label_names] for row in sets]),
        run.predict_logits(X),
        train_counts=run.train_counts,
    )
    assert measured["micro_f1"] == pytest.approx(wanted["micro_f1"])
    with pytest.raises(InputError, match="expected label cells that are all known"):
        run.evaluate(X, np.where(np.eye(30, LABELS) > 0, 1.0, np.nan))


@pytest.fixture(scope="module")
def network(folder):
    """Train an mlp on so many rows x labels that its labels stay lists."""
    said: list[str] = []
    config = Config(
        data=str(folder / "train.txt"), test=str(folder / "test.txt"), model="mlp", loss="zlpr", out=str(folder / "n")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("manyhot.toolkit.plan.MOST_CELLS", 1000)
        patch.setattr(Examples, "dense_targets", lambda self: pytest.fail("rows x labels were written out"))
        found = train(config, Listener(say=said.append, warn=said.append))
    assert found is not None
    return found, said


def test_a_network_is_trained_from_lists(folder, network):
    found, said = network
    (lists,) = (line for line in said if line.startswith("labels listed"))
    assert "180 rows x 24 labels are too many for all logits" in lists
    assert not any("% of the weights are kept" in line for line in said)
    run, metrics = found.run, found.metrics["test"]
    assert run.keeps_best
    assert run.info["targets"] == "listed"
    assert run.info["C"] is None
    assert {"held_out", "test"} == set(found.metrics)
    test = read_for(run, str(folder / "test.txt"), with_labels=True)
    aligned = align(test.targets, test.label_names, run.label_names)
    wanted = measure(run.logits(test), aligned, cardinality=run.cardinality, train_counts=run.train_counts)
    shared = {key: value for key, value in wanted.items() if key in metrics}
    assert set(wanted) - set(shared) == {"lrap"}
    assert {key: metrics[key] for key in shared} == pytest.approx(shared)
    assert metrics["micro_f1"] > 0.75


def test_a_network_from_lists_is_as_good_as_from_dense_targets(folder, network, tmp_path):
    dense = train(
        Config(data=str(folder / "train.txt"), test=str(folder / "test.txt"), model="mlp", out=str(tmp_path / "d"))
    )
    assert dense is not None
    assert not dense.run.keeps_best
    for key in ("micro_f1", "macro_f1", "precision_at_1"):
        assert network[0].metrics["test"][key] == pytest.approx(dense.metrics["test"][key], abs=0.05)


def test_the_command_uses_a_network_from_lists(folder, network, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "n", "n")
    again = load_run("n")
    X = sp.csr_array(np.eye(60, dtype=np.float32)[:30])
    np.testing.assert_array_equal(again.predict_logits(X), network[0].run.predict_logits(X))
    measured = as_json(f"evaluate n {folder}/test.txt")
    assert measured["micro_f1"] == json.loads(Path("n/metrics.json").read_text())["test"]["micro_f1"]
    call(f"predict n {folder}/test.txt -o out.jsonl")
    call("report n -o page.html")
    page = Path("page.html").read_text()
    assert "PSP@5" in page
    assert "its labels are too many" in page
    state = json.loads(Path("n/run.json").read_text())
    assert state["chosen"]["rows"] == 180


@pytest.mark.parametrize("loss", ["zlpr", "bce"])
def test_the_loss_of_lists_is_that_of_dense_targets(loss):
    rng = np.random.default_rng(0)
    X, targets = rng.normal(size=(12, 5)).astype(np.float32), rng.random((12, 7)) < 0.3
    nets = [Mlp.drawn(X, 7, seed=0, device="cpu") for _ in range(2)]
    rows, random = np.array([3, 1, 8]), torch.Generator()
    values = []
    for net, given, formula in (
        (nets[0], torch.from_numpy(targets), FORMULAS[loss]),
        (nets[1], sp.csr_array(targets), LISTED_LOSSES[loss]),
    ):
        value = mean_loss(net, X, given, formula)(rows, random.manual_seed(0))
        value.backward()
        values.append(value.item())
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    for (name, one), other in zip(nets[0].parameters().items(), nets[1].parameters().values(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        np.testing.assert_allclose(one.grad.numpy(), other.grad.numpy(), atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_killed_network_goes_on_to_the_same_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("manyhot.toolkit.plan.MOST_CELLS", 1000)
    config = Config(data=str(folder / "train.txt"), model="mlp", loss="zlpr", out="whole")
    train(config)
    monkeypatch.setattr("manyhot.toolkit.disk.checkpoint.WRITE_SECONDS", 0.0)
    monkeypatch.setattr("manyhot.toolkit.disk.checkpoint.SHARE", 1e9)
    kills = 0
    for after in (2, 15, 40):
        place = replace(config, out=f"after{after}")
        kills += killed(place, monkeypatch, after=after)
        train(place, resume=True)
        assert contents(place.out) == contents("whole")
    assert kills == 3


def test_groups_are_held_out_together_where_a_network_stops(monkeypatch):
    X, targets = np.eye(40, dtype=np.float32), sp.csr_array(np.eye(40, dtype=bool))
    groups, seen = np.repeat(np.arange(20), 2), []
    original = stratified_split

    def spied(targets, shares, *, groups=None, seed=0):
        seen.append(groups)
        return original(targets, shares, groups=groups, seed=seed)

    monkeypatch.setattr("manyhot.toolkit.models.early_stopping.stratified_split", spied)
    score = score_of_best(CardinalityRange(1, 1))
    net = plan_mlp(40, 40, 40, loss=LISTED_LOSSES["zlpr"], score=score, listed=True)
    learner = ListedLearner(replace(net, schedule=replace(net.schedule, epochs=2)), Mlp.restored)
    learner.fit(X, targets, groups=groups)
    assert seen[0] is groups


def test_lists_take_no_rows_x_labels_memory():
    options: Any = {"score": lambda logits, targets: 0.0, "free": 10**15}
    dense = plan_mlp(10**6, 1000, 10**5, loss=FORMULAS["zlpr"], **options).memory.bytes
    lists = plan_mlp(10**6, 1000, 10**5, loss=LISTED_LOSSES["zlpr"], listed=True, **options).memory.bytes
    assert dense > 10**5 * 10**5 * 12
    assert lists < 3e9


def test_held_out_rows_are_no_rows_of_another_file(folder, tmp_path):
    train(Config(data=str(folder / "train.txt"), weights="sparse", out=str(tmp_path / "r")))
    found = json.loads((tmp_path / "r" / "findings.json").read_bytes())
    assert found["measured"]["part"] == "held_out"
    assert not any("among the training rows alike" in warning["text"] for warning in found["warnings"])
