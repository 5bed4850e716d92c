"""From a file with unknown label cells to a run, its numbers and its report: what nobody knows moves nothing."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from manyhot import decide, load_run, multilabel_metrics
from manyhot.toolkit.cli.main import app
from manyhot.toolkit.compare.bootstrap import Counts, resampled
from manyhot.toolkit.compare.compare import compare
from manyhot.toolkit.compare.methods import make_comparison
from manyhot.toolkit.config import LABEL_LOSSES, Config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.read.cells import counted
from manyhot.toolkit.read.columns import Columns
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.read.inputs import read
from manyhot.toolkit.report.hard_rows import hard_rows
from manyhot.toolkit.runs.evaluate import Aligned
from manyhot.toolkit.runs.predict import read_for
from manyhot.toolkit.train import train

NAMES = ["p", "q", "r", "s"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(name, rows=120, *, seed=0, share=0.25, bare=()):
    """Write x, z and four labels; return the truth and which cells are unknown, those of rows `bare` all."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 3))
    truth = X @ rng.normal(size=(3, 4)) + rng.normal(0, 0.7, (rows, 4)) > 0.4
    unknown = rng.random((rows, 4)) < share
    unknown[list(bare)] = True
    words = np.array(["", "NA", "?", "NaN"])[rng.integers(4, size=(rows, 4))]
    columns = {"x": X[:, 0], "z": X[:, 1], "v": X[:, 2]}
    for i, label in enumerate(NAMES):
        columns[label] = np.where(unknown[:, i], words[:, i], truth[:, i].astype(int).astype(str))
    pl.DataFrame(columns).write_csv(name)
    return truth, unknown


def coded(truth, unknown):
    return np.where(unknown, -1, truth).astype(np.int8)


def run_of(**options):
    trained = train(Config(data="d.csv", C=1.0, **options))
    assert trained is not None
    return trained


@pytest.mark.parametrize(
    "loss",
    [pytest.param(loss, marks=() if loss in ("bce", "zlpr", "subset") else pytest.mark.slow) for loss in LABEL_LOSSES],
)
def test_every_loss_trains_on_what_is_known(loss):
    truth, unknown = table("d.csv")
    trained = run_of(loss=loss)
    numbers = pl.read_csv("d.csv", infer_schema=False).select(["x", "z", "v"]).to_numpy().astype(np.float32)
    # On cells that training did not know, the run is right more often than the more frequent answer.
    right = (trained.run.predict_logits(numbers) > 0) == truth
    assert right[unknown].mean() > max(truth[unknown].mean(), 1 - truth[unknown].mean()) + 0.05


def test_the_numbers_of_a_run_are_those_of_known_cells():
    lost = table("d.csv", bare=[3, 50])[1].all(1).sum()
    truth, unknown = table("t.csv", 60, seed=1, bare=[7])
    said, warned = [], []
    trained = train(Config(data="d.csv", test="t.csv", C=1.0), Listener(say=said.append, warn=warned.append))
    assert trained is not None
    assert trained.path is not None
    assert f"{lost} rows left out: all of their labels are unknown" in said
    run, kept = load_run(trained.path), ~unknown.all(1)
    cells = unknown[kept]
    assert warned == [
        f"{counted((~kept).sum(), 'row')} left out: all of their labels are unknown",
        f"{cells.sum()} label cells of t.csv are unknown ({100 * cells.mean():.1f} %), and are left out of every "
        "number",
    ]
    numbers = pl.read_csv("t.csv", infer_schema=False).select(["x", "z", "v"]).to_numpy().astype(np.float32)[kept]
    logits = run.predict_logits(numbers)
    low, high = run.cardinality
    preds = decide(logits, min_labels=low, max_labels=high)
    expected = multilabel_metrics(preds, coded(truth, unknown)[kept], logits, train_counts=run.train_counts)
    assert {key: trained.metrics["test"][key] for key in expected} == expected
    assert expected["rows"] == kept.sum()
    known = ~unknown[kept]
    hits, sizes = (preds.astype(bool) & truth[kept] & known).sum(), ((preds > 0) & known).sum()
    assert expected["micro_f1"] == pytest.approx(2 * hits / (sizes + (truth[kept] & known).sum()))
    # The same through evaluate, by files, frames and arrays.
    with pytest.warns(UserWarning, match=r"rows? left out|label cells of the data are unknown") as caught:
        assert run.evaluate(pl.read_csv("t.csv", infer_schema=False)) == trained.metrics["test"]
    said = [str(warning.message).replace("the data", "t.csv") for warning in caught]
    assert said == warned
    with pytest.warns(UserWarning, match="label cells of the data are unknown"):
        assert run.evaluate(numbers, coded(truth, unknown)[kept]) == trained.metrics["test"]
    with pytest.raises(InputError, match=r"expected targets of 0 and 1, or NaN, -1 or -100 where nobody knows; got 7"):
        run.evaluate(numbers, np.full((kept.sum(), 4), 7))
    result = CliRunner().invoke(app, ["evaluate", str(trained.path), "t.csv", "--json"])
    assert json.loads(result.stdout)["micro_f1"] == expected["micro_f1"]
    # Prediction asks for no labels.
    result = CliRunner().invoke(app, ["predict", str(trained.path), "t.csv", "--out", "p.csv"])
    assert result.exit_code == 0, result.output
    assert pl.read_csv("p.csv").height == 60


def test_a_run_reads_minus_one_as_its_training_did():
    truth, unknown = table("words.csv")
    frame = pl.read_csv("words.csv", infer_schema=False)
    marks = coded(truth, unknown)
    frame.with_columns(pl.Series(n, marks[:, i].astype(str)) for i, n in enumerate(NAMES)).write_csv("d.csv")
    for uncertain, value in ((None, -1), ("negative", 0), ("positive", 1)):
        trained = run_of(labels=tuple(NAMES), uncertain=uncertain, out=f"run-{uncertain}")
        assert trained.path is not None
        run = load_run(trained.path)
        assert run.columns.uncertain == uncertain
        targets = np.where(marks == -1, value, marks)
        np.testing.assert_array_equal(run.train_counts, (targets == 1).sum(0))
        kept = targets[(targets >= 0).any(1)]
        assert run.cardinality.max_labels >= (kept == 1).sum(1).max()
        result = CliRunner().invoke(app, ["evaluate", str(trained.path), "d.csv", "--json"])
        measured = json.loads(result.stdout)
        assert measured["labels_per_row_true"] == pytest.approx((kept == 1).sum(1).mean())


def test_a_table_that_is_all_known_gives_the_run_it_gave():
    truth, _ = table("d.csv", share=0)
    trained = run_of(loss="subset")
    assert trained.run.cardinality == (truth.sum(1).min(), truth.sum(1).max())
    assert read(Config(data="d.csv")).train.unknown is None


def test_networks_and_one_class_a_row():
    truth, unknown = table("d.csv", 90)
    trained = train(Config(data="d.csv", model="mlp", device="cpu"))
    assert trained is not None
    assert np.isfinite(trained.metrics["cross_fitted"]["micro_f1"])
    # One class a row: rows whose class is not known are left out.
    frame = pl.read_csv("d.csv", infer_schema=False)
    ids = truth[:, 0].astype(int)
    marks = np.array([["1", "0"], ["0", "1"]])[ids]
    lost = np.flatnonzero(unknown[:, 0])
    marks[lost] = ""
    two = frame.select("x", "z", "v").with_columns(pl.Series("no", marks[:, 0]), pl.Series("yes", marks[:, 1]))
    two.write_csv("m.csv")
    said = []
    trained = train(
        Config(data="m.csv", labels=("no", "yes"), task="multiclass", C=1.0, loss="ce+prior"), Listener(say=said.append)
    )
    assert trained is not None
    assert f"{len(lost)} rows left out: their class is unknown" in said
    np.testing.assert_array_equal(trained.run.train_counts, np.bincount(np.delete(ids, lost)))


def loss_by_hand(run, file, row):
    """Return the log-loss of the known cells of a row."""
    frame = pl.read_csv(file, infer_schema=False)
    cells = frame.select(["x", "z", "v"]).to_numpy().astype(np.float32)
    probs = run.probs(cells)[row]
    said = [(p, frame[name][row]) for p, name in zip(probs, NAMES, strict=True)]
    return -sum(np.log(p if cell == "1" else 1 - p) for p, cell in said if cell in ("0", "1"))


def test_the_report_judges_known_cells_alone():
    truth, unknown = table("d.csv", 80)
    trained = run_of()
    assert trained.path is not None
    found = json.loads((trained.path / "findings.json").read_text())
    known = ~unknown
    for i, row in enumerate(found["labels"]):
        assert row["rows"] == (truth & known)[:, i].sum()
        assert row["right"] <= min(row["rows"], row["predicted"])
        assert row["predicted"] <= known[:, i].sum()
    assert np.sum(found["scores"]["positives"]) == (truth & known).sum()
    assert np.sum(found["scores"]["negatives"]) == (~truth & known).sum()
    assert np.sum(found["reliability"][0]) == known.sum()
    table("t.csv", 40, seed=3)
    tested = run_of(test="t.csv", out="tested")
    assert tested.path is not None
    for row in json.loads((tested.path / "findings.json").read_text())["worst"]:
        assert row["loss"] == pytest.approx(loss_by_hand(tested.run, "t.csv", row["row"] - 1), abs=2e-3)
    for row in found["worst"]:
        at = row["row"] - 1
        for label in (*row["missed"], *row["added"], *row["right"]):
            assert known[at, NAMES.index(label["name"])]
    (warning,) = [w for w in found["warnings"] if "label cells" in w["text"]]
    share = 100 * unknown.sum() / unknown.size
    assert f"{unknown.sum()} label cells of 80 training rows are unknown ({share:.1f} %)" in warning["text"]
    assert set(warning["labels"]) == set(NAMES)
    assert "unknown" in (trained.path / "report.html").read_text()


def test_repeated_rows_contradict_each_other_only_in_what_is_known_of_both():
    rows = ["x,z,p,q"] + ["1,2,1,1", "1,2,,1", "3,4,1,0", "3,4,0,0", "5,6,1,", "7,8,0,1", "9,1,1,1"] * 2
    Path("d.csv").write_text("\n".join(rows) + "\n")
    trained = run_of()
    assert trained.path is not None
    found = json.loads((trained.path / "findings.json").read_text())
    (said,) = [w["text"] for w in found["warnings"] if "repeat" in w["text"]]
    # 14 rows of 5 kinds; only those of 3,4 differ from the first of their kind: once in each half.
    assert said.startswith("9 rows repeat an earlier training row, 2 of them with other labels.")


@pytest.mark.slow
def test_methods_are_compared_by_known_cells():
    truth, unknown = table("d.csv", 90)
    config = Config(data="d.csv", C=1.0, out="cmp")
    result = compare(make_comparison(config, None, 3, 1), Listener(), command=["x"]).result
    assert [method["name"] for method in result["methods"] if method["error"]] == []
    kept = ~unknown.all(1)
    targets = coded(truth, unknown)[kept]
    assert result["test_counts"] == (targets == 1).sum(0).tolist()
    for method in result["methods"]:
        assert method["metrics"]["labels_per_row_true"] == pytest.approx((targets == 1).sum(1).mean())
        low, high = method["intervals"]["micro_f1"]
        assert low < method["metrics"]["micro_f1"] < high
        assert np.sum(method["scores"]["negatives"]) == (targets == 0).sum()
    lost = int(table("t.csv", 30, seed=4, bare=[2])[1].all(1).sum())
    warned = []
    config = Config(data="d.csv", test="t.csv", C=1.0, out="cmp-test")
    result = compare(make_comparison(config, "zlpr,bce", 3, 1), Listener(warn=warned.append), command=["x"]).result
    assert warned == [f"{counted(lost, 'row')} of t.csv left out: all of their labels are unknown"]
    assert result["design"]["rows"] == 30 - lost


def test_resamples_of_known_cells():
    rng = np.random.default_rng(0)
    truth, preds, unknown = (rng.random((40, 5)) < share for share in (0.4, 0.4, 0.3))
    unknown[:, 3] = True
    targets = coded(truth, unknown)
    found = Counts.of(preds, targets)
    other = Counts.of(np.where(unknown, ~preds, preds), targets)
    measured = multilabel_metrics(preds, targets, rng.normal(size=(40, 5)))
    np.testing.assert_array_equal(found.by_row, other.by_row)
    assert found.by_row[:, 0].mean() == pytest.approx(measured["samples_f1"])
    assert found.by_row[:, 1].mean() == measured["exact_match"]
    assert found.label_f1()[found.known].mean() == pytest.approx(measured["macro_f1"])
    drawn = resampled({"a": [found], "b": [other]}, np.ones(5), resamples=20)
    for metric, values in drawn["a"].items():
        np.testing.assert_array_equal(values, drawn["b"][metric])


def test_hard_rows_are_hard_in_known_cells():
    targets = np.array([[1, -1], [0, 1], [-1, 0]], dtype=np.int8)
    preds = np.array([[1, 1], [1, 1], [1, 0]], dtype=bool)
    examples = Examples("t.csv", ["a", "b", "c"], None, None, ["p", "q"])
    aligned = Aligned(targets, np.zeros((3, 0), dtype=bool), [])
    (row,) = hard_rows([preds], examples, aligned, ["p", "q"], Columns(text=("t",)))
    assert row["row"] == 2
    assert [label["name"] for label in row["others"]] == ["p"]


def test_rows_to_measure_on_whose_empty_cells_mean_no_are_refused_or_said():
    table("d.csv")
    trained = run_of()
    assert trained.path is not None
    frame = pl.read_csv("d.csv", infer_schema=False)
    ones = frame.with_columns(pl.when(pl.col(name) == "1").then(pl.lit("1")).alias(name) for name in NAMES)
    ones.write_csv("ones.csv")
    run = load_run(trained.path)
    with pytest.raises(InputError, match=r"ones.csv: expected 0 where a label does not apply, got"):
        run.evaluate_examples(read_for(run, "ones.csv", with_labels=True))
    result = CliRunner().invoke(app, ["train", "d.csv", "--test", "ones.csv", "--out", "again"])
    assert result.exit_code == 2
    assert "expected 0 where a label does not apply" in result.stderr
    # A row with 0 in one column is enough to measure, and not to be silent about the others.
    one = frame.filter(pl.col(NAMES[0]) == "0").head(1)
    pl.concat([ones, one.with_columns(pl.lit("").alias(name) for name in NAMES[1:])]).write_csv("most.csv")
    notes = run.evaluate_examples(read_for(run, "most.csv", with_labels=True)).notes
    said = f"most.csv: no row is known to be without {', '.join(NAMES[1:])}; where an empty cell says so, write 0"
    assert notes[-1] == said
