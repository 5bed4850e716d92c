"""The comparison: each method is what `manyhot train` would give, on rows it did not see; failures are rows."""

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import polars as pl
import pytest

from command import as_json, bad, call
from manyhot import cardinality_range, decide, multilabel_metrics, stratified_split
from manyhot.toolkit.compare import compare as module
from manyhot.toolkit.compare.methods import NAMES
from manyhot.toolkit.config import make_config
from manyhot.toolkit.disk.checkpoint import Checkpoint
from manyhot.toolkit.disk.run_folder import COMPARISON, read_folder
from manyhot.toolkit.objectives import FORMULAS
from manyhot.toolkit.runs.predict import read_for
from manyhot.toolkit.runs.saved_run import load_run

TRUTHS = ("micro_f1", "macro_f1", "samples_f1", "exact_match")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def numbers(name, rows=60, seed=0, labels=4, extra=False):
    """Write a table of numbers that say something about its labels, the last ones rare."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 6))
    Y = X[:, :labels] + 0.5 * rng.normal(size=(rows, labels)) > np.linspace(0, 1.2, labels)
    Y[:, 0] |= ~Y.any(1)
    frame = pl.DataFrame({f"x{i}": X[:, i] for i in range(6)})
    names = [[f"l{i}" for i in np.flatnonzero(row)] for row in Y]
    if extra:
        names[0].append("new")
    frame.with_columns(pl.Series("labels", ["|".join(row) for row in names])).write_csv(name)
    return Y


def compared(words) -> dict[str, Any]:
    return as_json(f"compare {words}")


def by_name(result):
    return {method["name"]: method for method in result["methods"]}


def same(metrics, want):
    assert set(metrics) == set(want)
    for key, value in want.items():
        assert metrics[key] == (value if value is None else pytest.approx(value, rel=1e-6)), key


OF_TRAIN = {
    "zlpr": "--loss zlpr --tau 0",
    "zlpr+prior": "--loss zlpr --neighbours off",
    "zlpr+prior+neighbours": "--loss zlpr",
    "subset": "--loss subset --tau 0",
    "subset+prior": "--loss subset --neighbours off",
    "bce": "--loss bce --tau 0",
    "bce+prior": "--loss bce --neighbours off",
    "bce+prior+neighbours": "--loss bce",
    "bce+pos_weight": "--loss bce+pos_weight --tau 0",
    "focal": "--loss focal --tau 0",
    "asymmetric": "--loss asymmetric --tau 0",
    "two-way": "--loss two-way --tau 0",
}
DEFAULT = "bce+prior+neighbours"


@pytest.mark.parametrize(
    ("names", "penalty"),
    [pytest.param(NAMES, "--set C=1", marks=pytest.mark.slow), (("bce", DEFAULT), "")],
    ids=["each loss", "penalty searched"],
)
def test_every_method_is_what_train_gives(names, penalty):
    numbers("d.csv")
    numbers("t.csv", rows=40, seed=1)
    methods = by_name(compared(f"d.csv --test t.csv --losses {','.join(names)} {penalty} --set kernel=off --out c"))
    assert tuple(methods) == names
    for name in OF_TRAIN.keys() & set(names):
        run = as_json(f"train d.csv --test t.csv {OF_TRAIN[name]} {penalty} --set kernel=off")
        want = {key: value for key, value in run["test"].items() if key in methods[name]["metrics"]}
        same(methods[name]["metrics"], want)
        chosen = methods[name]["chosen"][0]
        assert [chosen[key] for key in ("C", "tau")] == [run[key] for key in ("C", "tau")]
        assert chosen["offset"] == pytest.approx(run["offset"], abs=1e-6)
        # Probabilities are calibrated as a run's are.
        findings = json.loads((Path(run["run"]) / "findings.json").read_bytes())
        np.testing.assert_allclose(methods[name]["reliability"], findings["reliability"], rtol=1e-4, atol=1e-4)


def test_tuned_thresholds_differ_from_bce_by_a_shift_of_its_logits():
    numbers("d.csv", rows=150)
    numbers("t.csv", rows=40, seed=1)
    result = compared("d.csv --test t.csv --losses bce,bce+threshold,bce+label-thresholds --set C=1 --out c")
    methods = by_name(result)
    call("train d.csv --loss bce --tau 0 --set C=1 --out run")
    run = load_run("run")
    examples = read_for(run, "t.csv", with_labels=True)
    logits, truth = run.logits(examples), examples.targets.toarray()
    low, high = run.cardinality
    one, each = (methods[f"bce+{name}"]["chosen"][0] for name in ("threshold", "label-thresholds"))
    assert (one["thresholds"], each["thresholds"]) == ("one", "per label")
    assert one["offset"] != 0
    preds = decide(logits + np.float32(one["offset"]), min_labels=low, max_labels=high)
    want = multilabel_metrics(preds, truth, logits, train_counts=run.train_counts)
    for metric in TRUTHS:
        assert methods["bce+threshold"]["metrics"][metric] == pytest.approx(want[metric], rel=1e-6)
    # A threshold a label changes the order of labels within a row; one for all does not.
    assert methods["bce+threshold"]["metrics"]["lrap"] == pytest.approx(methods["bce"]["metrics"]["lrap"])
    assert methods["bce+label-thresholds"]["metrics"]["lrap"] != methods["bce"]["metrics"]["lrap"]


@pytest.mark.slow
def test_without_test_rows_each_row_is_measured_by_a_model_that_did_not_see_it():
    Y = numbers("d.csv", rows=70)
    result = compared("d.csv --losses bce+prior+neighbours,bce --folds 2 --out c")
    assert result["design"] == {"kind": "folds", "folds": 2, "file": "d.csv", "rows": 70, "drawn": "rows"}
    frame = pl.read_csv("d.csv")
    names = sorted({name for cell in frame["labels"] for name in cell.split("|")})
    assert result["labels"] == names
    part = stratified_split(Y, [1.0, 1.0], seed=0)
    for name in (DEFAULT, "bce"):
        logits, preds = np.empty(Y.shape, np.float32), np.empty(Y.shape, int)
        for p in (0, 1):
            frame.filter(pl.Series(part != p)).write_csv("in.csv")
            frame.filter(pl.Series(part == p)).write_csv("out.csv")
            call(f"train in.csv {OF_TRAIN[name]} --out {name}{p}")
            run = load_run(f"{name}{p}")
            held = run.logits(read_for(run, "out.csv", with_labels=True))
            logits[part == p] = held
            low, high = cardinality_range(Y[part != p])
            preds[part == p] = decide(held, min_labels=low, max_labels=high)
        want = multilabel_metrics(preds, Y, logits, train_counts=Y.sum(0))
        same(by_name(result)[name]["metrics"], want)


def test_the_command_that_repeats_it_can_be_pasted(monkeypatch):
    numbers("my data.csv")
    monkeypatch.setattr("sys.argv", ["manyhot", "compare", "my data.csv"])
    assert compared("'my data.csv' --losses bce --set C=1")["command"] == "manyhot compare 'my data.csv'"


def test_what_is_written_is_what_is_printed():
    numbers("d.csv")
    numbers("t.csv", rows=40, seed=1)
    result = compared("d.csv --test t.csv --losses bce+prior+neighbours,bce,focal --out c")
    files = read_folder(Path("c"), COMPARISON)
    assert json.loads(files["compare.json"]) == result
    assert b"<html" in files["report.html"]
    assert make_config("c/config.toml", (), {}).data == "d.csv"
    truth = result["test_counts"]
    assert sum(truth) == sum(n * rows for n, rows in enumerate(result["methods"][0]["cardinality"]["true"]))
    for method in result["methods"]:
        m = method["metrics"]
        assert np.mean(method["label_f1"]) == pytest.approx(m["macro_f1"], abs=1e-5)
        predicted = method["cardinality"]["predicted"]
        assert sum(predicted) == 40
        assert sum(n * rows for n, rows in enumerate(predicted)) == pytest.approx(40 * m["labels_per_row_predicted"])
        for metric in TRUTHS:
            low, high = method["intervals"][metric]
            assert low < m[metric] < high
        assert sum(method["scores"]["positives"]) == sum(truth)
        assert sum(method["scores"]["negatives"]) == 40 * len(result["labels"]) - sum(truth)
        assert method["seconds"]["search"] > 0
        assert method["peak_mb"] > 50
    ours = by_name(result)[DEFAULT]
    best = max(("bce", "focal"), key=lambda name: by_name(result)[name]["metrics"]["macro_f1"])
    difference = ours["differences"]["macro_f1"]
    assert difference["than"] == best
    assert difference["value"] == pytest.approx(
        ours["metrics"]["macro_f1"] - by_name(result)[best]["metrics"]["macro_f1"]
    )
    assert difference["interval"][0] < difference["value"] < difference["interval"][1]
    for rival in ("bce", "focal"):
        against = by_name(result)[rival]["against_default"]
        assert by_name(result)[rival]["differences"] == against
        assert against["macro_f1"]["than"] == DEFAULT
    assert ours["against_default"] is None


def test_it_says_what_is_wrong_with_the_data_and_which_rows_are_hard():
    numbers("d.csv")
    numbers("t.csv", rows=40, seed=1)
    lines = Path("d.csv").read_text().splitlines()
    Path("t.csv").write_text("\n".join([*Path("t.csv").read_text().splitlines(), lines[1]]) + "\n")
    result = compared("d.csv --test t.csv --losses bce+prior+neighbours,bce --out c")
    said = [warning["text"] for warning in result["warnings"]]
    assert any(text.startswith("1 row is in t.csv and among the training rows alike") for text in said)
    assert result["hard"]
    assert all(row["f1"] < 1 for row in result["hard"])
    assert "Rows that most methods get wrong" in Path("c/report.html").read_text()
    hidden = compared("d.csv --test t.csv --losses bce+prior+neighbours,bce --no-rows --out n")
    assert hidden["hard"] is None
    assert "<blockquote" not in Path("n/report.html").read_text()
    twice = compared("t.csv --losses bce --folds 2")
    assert not any("alike" in warning["text"] for warning in twice["warnings"])


def test_the_table_and_the_verdict(monkeypatch):
    numbers("d.csv")
    numbers("t.csv", rows=40, seed=1)
    words = "compare d.csv --test t.csv --losses bce+prior+neighbours,bce"
    monkeypatch.setattr("sys.argv", ["manyhot", *shlex.split(words)])
    stdout, stderr = call(words)
    said, _, lines = stdout.partition("\n\n")
    lines = lines.splitlines()
    assert re.match(
        r"Use .*; manyhot train d\.csv --test t\.csv|"
        r"No clear difference: take the default, bce\+prior\+neighbours; manyhot train d\.csv --test t\.csv$",
        said,
        re.M,
    )
    assert re.search(r"^micro-F1: (ahead|behind|no clear difference), .* beside bce, the best rival$", said, re.M)
    assert lines[0].split() == ["micro-F1", "macro-F1", "rare-F1", "labels", "time", "memory"]
    assert {line.split()[0] for line in lines[1:]} == {DEFAULT, "bce"}
    assert max(map(len, lines)) <= 80
    assert (
        "saved runs/d-compare-1, look at runs/d-compare-1/report.html, with excerpts of "
        f"{len(json.loads(Path('runs/d-compare-1/compare.json').read_bytes())['hard'])} row" in stderr
    )


@pytest.mark.parametrize("failure", ["raises", "is nan"])
def test_a_loss_that_fails_is_a_row_that_says_why(monkeypatch, failure):
    def broken(logits, targets):
        if failure == "raises":
            raise RuntimeError("no such luck\nand more")
        return (logits * math.nan).sum()

    numbers("d.csv")
    numbers("t.csv", rows=40, seed=1)
    monkeypatch.setitem(FORMULAS, "focal", broken)
    result = compared("d.csv --test t.csv --losses bce+prior+neighbours,focal,bce --out c")
    rows = by_name(result)
    assert rows["focal"]["metrics"] is None
    assert rows["focal"]["error"].startswith("test: RuntimeError: no such luck" if failure == "raises" else "test: ")
    assert "and more" not in rows["focal"]["error"]
    assert [rows[name]["error"] for name in (DEFAULT, "bce")] == [None, None]
    assert rows[DEFAULT]["differences"]["macro_f1"]["than"] == "bce"
    _, stderr = call("compare d.csv --test t.csv --losses bce+prior+neighbours,focal,bce")
    assert "focal failed: test: " in stderr


def test_where_all_fail_the_rows_say_so(monkeypatch):
    def broken(logits, targets):
        raise RuntimeError("no")

    numbers("d.csv")
    monkeypatch.setitem(FORMULAS, "bce", broken)
    result = compared("d.csv --losses bce")
    assert result["methods"][0]["error"]
    assert result["best"]["micro_f1"] == {"ours": None, "rival": None}
    assert result["hard"] is None
    assert not any("never predicted" in warning["text"] for warning in result["warnings"])


def test_labels_that_training_did_not_know_count_as_missed():
    numbers("d.csv")
    numbers("t.csv", rows=40, seed=1, extra=True)
    result = compared("d.csv --test t.csv --losses bce --out c")
    run = as_json("train d.csv --test t.csv --loss bce --tau 0")
    method = result["methods"][0]
    assert result["labels"][-1] == "new"
    assert (result["train_counts"][-1], result["test_counts"][-1], method["label_f1"][-1]) == (0, 1, 0)
    for metric in TRUTHS:
        assert method["metrics"][metric] == pytest.approx(run["test"][metric], rel=1e-6)


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on(monkeypatch):
    words = "d.csv --losses zlpr,zlpr+prior,bce,bce+threshold --folds 2 --out c"
    numbers("d.csv")
    whole = compared(words.replace("--out c", "--out whole"))
    monkeypatch.setattr("manyhot.toolkit.disk.checkpoint.WRITE_SECONDS", 0.0)
    monkeypatch.setattr("manyhot.toolkit.disk.checkpoint.SHARE", 1e9)  # every result is written at once
    try_method = module.try_method
    calls = []

    def interrupted(method, *rest):
        calls.append(method.name)
        if len(calls) == 6:  # in the second fold
            raise KeyboardInterrupt
        return try_method(method, *rest)

    monkeypatch.setattr(module, "try_method", interrupted)
    _, stderr = call(f"compare {words}", 130)
    assert "--resume goes on from the checkpoint" in stderr
    assert not Path("c").exists()
    _, stderr = call(f"compare {words.replace('bce,', '')} --resume", 2)
    assert "losses was " in stderr
    result = compared(f"{words} --resume")
    assert calls == [
        "zlpr",
        "zlpr+prior",
        "bce",
        "bce+threshold",
        "zlpr",
        "zlpr+prior",
        "zlpr+prior",
        "bce",
        "bce+threshold",
    ]
    for now, before in zip(result["methods"], whole["methods"], strict=True):
        for key in ("metrics", "intervals", "differences", "label_f1", "cardinality", "chosen"):
            assert now[key] == before[key], key
    assert not list(Path().glob(".c.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sequential", pytest.param("loky", marks=pytest.mark.slow)])
def test_losses_fitted_side_by_side_give_the_same_numbers(backend):
    numbers("train.csv")
    words = "train.csv --losses zlpr,zlpr+prior,bce --folds 2"
    one = compared(words)
    with joblib.parallel_config(backend=backend):
        both = compared(f"{words} --jobs 2")
    assert [(m["metrics"], m["intervals"], m["chosen"]) for m in both["methods"]] == [
        (m["metrics"], m["intervals"], m["chosen"]) for m in one["methods"]
    ]
    assert all(m["seconds"]["fit"] > 0 for m in both["methods"])


def test_fits_are_let_go_of_once_their_loss_is_done(monkeypatch):
    numbers("d.csv")
    kept = []
    forget = Checkpoint.forget

    def watched(self, start):
        forget(self, start)
        kept.append(sorted(self.waiting))

    monkeypatch.setattr(Checkpoint, "forget", watched)
    compared("d.csv --losses bce,zlpr --folds 2 --set C=1")
    assert kept[-1] == [f"fold {i} of 2, {name}: done" for i in (1, 2) for name in ("bce", "zlpr")]


def test_an_mlp_is_trained_with_several_seeds():
    numbers("d.csv", rows=40)
    numbers("t.csv", rows=20, seed=1)
    result = compared("d.csv --test t.csv --model mlp --losses bce --seeds 2 --out c")
    method = result["methods"][0]
    assert [run["seed"] for run in method["by_seed"]] == result["seeds"] == [0, 1]
    for metric in ("micro_f1", "macro_f1"):
        assert method["metrics"][metric] == pytest.approx(np.mean([run[metric] for run in method["by_seed"]]))
    assert method["chosen"][0]["C"] is None
    _, stderr = call("compare d.csv --test t.csv --losses bce --seeds 2")
    assert "linear fits are the same for every seed: one is enough" in stderr


def test_groups_stay_on_one_side_and_are_drawn_together():
    numbers("d.csv", rows=60)
    frame = pl.read_csv("d.csv").with_columns(pl.Series("who", [i // 6 for i in range(60)]))
    frame.write_csv("g.csv")
    result = compared("g.csv --group who --losses bce --folds 2 --set C=1")
    assert result["design"]["drawn"] == "groups"
    trials = []
    made = module.Trials.__init__

    def kept(self, *rest):
        made(self, *rest)
        trials.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Trials, "__init__", kept)
        compared("g.csv --group who --losses bce --folds 2 --set C=1")
    for held in trials[0].parts:
        assert (held.reshape(10, 6).sum(1) % 6 == 0).all()


@pytest.mark.parametrize("group", ["", "--group who"])
def test_too_few_rows_for_folds_of_folds(group):
    numbers("d.csv", rows=2 if not group else 20)
    frame = pl.read_csv("d.csv")
    frame.with_columns(pl.Series("who", [i % 2 for i in range(len(frame))])).write_csv("d.csv")
    what = "groups" if group else "rows"
    said = bad(f"compare d.csv {group} --features x0,x1 --labels labels")
    assert said.startswith(f"d.csv: expected 3 {what} or more")
    assert "--test FILE" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--losses bce,sofmax", r"--losses expects some of zlpr, zlpr\+prior, .*two-way, commas between; got 'sofmax'"),
        ("--folds 1", "--folds expects a number of 2 or more; got 1"),
        ("--seeds 0", "--seeds expects a number of 1 or more; got 0"),
        ("--set task=multiclass", "compare expects --task multilabel, spans or relations; got 'multiclass'"),
        (
            "--model encoder:here --set fine_tune=true",
            "compare expects --model linear, mlp or a frozen encoder; leave ",
        ),
        ("--set tau=1", "tau is what compare chooses; leave it out"),
        ("--test nothing.csv", "nothing.csv"),
        ("--set folds=3", "'folds' is no option"),
    ],
)
def test_bad_options_are_one_sentence(words, message):
    numbers("d.csv")
    assert re.search(message, bad(f"compare d.csv {words}"))
