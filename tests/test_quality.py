"""benchmarks/quality.py: the statistics, the learners of others, what is run, kept and written."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.svm import LinearSVC

from manyhot import stratified_split
from manyhot.toolkit.errors import InputError

ranks: Any = pytest.importorskip("ranks", reason="no benchmarks/ beside these tests, as for an installed wheel")
quality: Any = pytest.importorskip("quality")
others: Any = pytest.importorskip("others")
quality_page: Any = pytest.importorskip("quality_page")
quality_records: Any = pytest.importorskip("quality_records")

# --- ranks.py ---------------------------------------------------------------------------------------------------------

# Demsar 2006, table 6: AUC of C4.5, +m, +cf and +m+cf on 14 sets. The last two of `voting` are printed alike and
# ranked 2 and 3.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def test_average_ranks_of_demsar() -> None:
    assert ranks.ranks_of(DEMSAR).mean(0) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)


def test_friedman_of_demsar() -> None:
    # He prints 9.28, without a correction for ties; of his rows four hold ties: three of two, one of four.
    corrected = 9.28 / (1 - (3 * (2**3 - 2) + (4**3 - 4)) / (14 * 4 * (4**2 - 1)))
    statistic, p = ranks.friedman(DEMSAR)
    assert statistic == pytest.approx(corrected, abs=0.01)
    assert p == pytest.approx(0.0167, abs=2e-4)  # of chi square with 3 degrees of freedom, at 10.23
    assert ranks.friedman(np.ones((3, 4))) == (0.0, 1.0)


# Demsar 2006, table 5 (a): critical values of the two-tailed Nemenyi test, 2 to 10 methods.
@pytest.mark.parametrize(
    ("alpha", "table"),
    [
        (0.05, [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]),
        (0.10, [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920]),
    ],
)
def test_critical_differences_of_demsar(alpha: float, table: list[float]) -> None:
    for methods, q in enumerate(table, start=2):
        # So many sets that the root is 1.
        sets = methods * (methods + 1) / 6
        assert ranks.critical_difference(methods, sets, alpha) == pytest.approx(q, abs=1.1e-3)
    # His example: four methods, 14 sets.
    if alpha == 0.05:
        assert ranks.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_what_failed_ranks_last() -> None:
    scores = np.array([[0.2, np.nan, 0.3, 0.2], [np.nan, 0.0, np.nan, 0.1]])
    assert ranks.ranks_of(scores).tolist() == [[2.5, 4, 1, 2.5], [3.5, 2, 3.5, 1]]
    assert ranks.friedman(scores)[0] == pytest.approx(ranks.friedman(np.nan_to_num(scores, nan=-1))[0])


def test_runs_of_methods_that_are_alike() -> None:
    assert ranks.alike([1.0, 1.5, 2.4, 4.0, 4.1], 1.0) == [(0, 1), (1, 2), (3, 4)]
    assert ranks.alike([1.0, 1.5, 2.0], 1.0) == [(0, 2)]
    assert ranks.alike([1.0, 3.0, 5.0], 1.0) == []


def test_wins_ties_and_losses() -> None:
    intervals = [(0.01, 0.2), (-0.1, 0.1), (0.0, 0.1), (-0.2, -0.1), (-0.2, 0.0)]
    assert [ranks.outcome(i) for i in intervals] == ["win", "tie", "tie", "loss", "tie"]
    assert ranks.tally(intervals) == (1, 3, 1)


def test_p_values_of_normal_errors_and_holm() -> None:
    # .016 is below .05 / 3 and .019 below .05 / 2; .607 is not below .05.
    assert ranks.holm([0.019, 0.607, 0.016]) == [True, False, True]
    assert ranks.holm([0.03, 0.001, 0.04]) == [False, True, False]
    assert ranks.holm([]) == []
    assert ranks.p_value(0.1, (0.0, 0.3)) == pytest.approx(0.05)
    assert ranks.p_value(-0.1, (-0.5, 0.1)) == pytest.approx(ranks.p_value(0.1, (-0.1, 0.2)))
    assert ranks.p_value(0.0, (-0.1, 0.2)) == 1


def test_interval_of_a_mean_of_independent_differences() -> None:
    # Normal errors: the interval of the mean of draws has the width of 1.96 standard deviations of the mean.
    rng = np.random.default_rng(0)
    sigma = np.array([0.5, 1.0, 2.0])
    true = np.array([0.1, 0.2, 0.6])
    sampled = (true + sigma * rng.standard_normal((200_000, 3))).mean(1)
    value, (low, high) = ranks.mean_difference(true, np.stack([true - 1.96 * sigma, true + 1.96 * sigma], 1))
    assert value == pytest.approx(0.3)
    assert [low, high] == pytest.approx(np.quantile(sampled, [0.025, 0.975]), abs=0.02)
    # Sides are kept apart.
    _, (low, high) = ranks.mean_difference([0.0, 0.0], [(-3.0, 0.3), (-4.0, 0.4)])
    assert (low, high) == pytest.approx((-2.5, 0.25))


# --- others.py --------------------------------------------------------------------------------------------------------


@pytest.fixture
def matrices(tmp_path: Path) -> Path:
    """Write train and test matrices of which the last label has no training row, and labels that are no numbers."""
    rng = np.random.default_rng(1)
    for part, rows in (("train", 60), ("test", 40)):
        X = rng.standard_normal((rows, 5)).astype(np.float32) * [1, 2, 3, 4, 5]
        Y = (X / [1, 2, 3, 4, 5])[:, :4] + 0.3 * rng.standard_normal((rows, 4)) > 0.4
        Y[:, 3] &= part == "test"
        for name, matrix in (("X", X), ("Y", Y.astype(np.int8))):
            sp.save_npz(tmp_path / f"{part}.{name}.npz", sp.csr_matrix(matrix))
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    return tmp_path


def arrays(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    X, Y = (np.asarray(sp.load_npz(folder / f"{part}.{name}.npz").todense()) for name in "XY")
    return X, Y


def independent(make: Any, X: np.ndarray, Y: np.ndarray, X_test: np.ndarray) -> np.ndarray:
    """Predict label by label on standardised numbers."""
    mean, std = X.mean(0), X.std(0)
    preds = np.zeros((len(X_test), Y.shape[1]), dtype=np.int8)
    for i, y in enumerate(Y.T):
        if y.any():
            preds[:, i] = make().fit((X - mean) / std, y).predict((X_test - mean) / std)
    return preds


@pytest.mark.parametrize(
    ("name", "make"), [("OvR logistic", lambda: LogisticRegression(max_iter=1000)), ("OvR LinearSVC", LinearSVC)]
)
def test_a_learner_on_test_rows(matrices: Path, name: str, make: Any) -> None:
    words = [str(matrices / "train.X.npz"), "--test", str(matrices / "test.X.npz"), "--kernel", "off"]
    result = others.measured(others.LEARNERS[name], words)
    (X, Y), (X_test, Y_test) = arrays(matrices, "train"), arrays(matrices, "test")
    preds = independent(make, X, Y, X_test)
    for average in ("micro", "macro", "samples"):
        measure: Any = f1_score  # its annotations refuse zero_division=0
        want = measure(Y_test, preds, average=average, zero_division=0)
        assert result["metrics"][f"{average}_f1"] == pytest.approx(want, abs=1e-9)
    assert 0.3 < result["metrics"]["micro_f1"] < 1
    assert result["metrics"]["rare_f1"] is None
    # The best label of a row is never the one that training did not have.
    mean, std = X.mean(0), X.std(0)
    fitted = [make().fit((X - mean) / std, Y[:, i]) for i in range(3)]
    best = np.stack([model.decision_function((X_test - mean) / std) for model in fitted]).argmax(0)
    assert not Y[:, 3].any()
    assert result["metrics"]["precision_at_1"] == pytest.approx(Y_test[np.arange(40), best].mean())
    assert result["seconds"]["fit"] > 0


@pytest.mark.slow
def test_a_learner_of_more_labels_than_a_byte_counts(tmp_path: Path) -> None:
    Y = np.eye(200, dtype=np.int8).repeat(2, 0)
    for name, matrix in (("X", Y.astype(np.float32)), ("Y", Y)):
        sp.save_npz(tmp_path / f"many.{name}.npz", sp.csr_matrix(matrix))
    (tmp_path / "labels.txt").write_text("\n".join(f"l{i:03}" for i in range(200)))
    words = [str(tmp_path / "many.X.npz"), "--test", str(tmp_path / "many.X.npz")]
    assert others.measured(others.LEARNERS["OvR logistic"], words)["metrics"]["precision_at_1"] == 1


def test_a_learner_by_folds(matrices: Path) -> None:
    result = others.measured(others.LEARNERS["OvR logistic"], [str(matrices / "test.X.npz"), "--kernel", "off"])
    X, Y = arrays(matrices, "test")
    part, preds = stratified_split(Y, [1.0, 1.0, 1.0], seed=0), np.zeros_like(Y)
    for fold in range(3):
        held = part == fold
        preds[held] = independent(lambda: LogisticRegression(max_iter=1000), X[~held], Y[~held], X[held])
    assert result["metrics"]["rows"] == 40
    assert result["metrics"]["micro_f1"] == pytest.approx(f1_score(Y, preds, average="micro"), abs=1e-9)


# LightGBM has 20 rows in each leaf by default, and so splits nothing of so few sparse rows.
@pytest.mark.parametrize(("package", "sparse"), [("xgboost", False), ("xgboost", True), ("lightgbm", False)])
def test_trees(matrices: Path, package: str, sparse: bool) -> None:
    pytest.importorskip(package)
    if sparse:
        for part in ("train", "test"):
            X, Y = arrays(matrices, part)
            sp.save_npz(matrices / f"{part}.X.npz", sp.csr_matrix(np.where(X > 1.2 * np.arange(1, 6), X, 0)))
            assert Y.shape[1] == 4
    words = [str(matrices / "train.X.npz"), "--test", str(matrices / "test.X.npz")]
    name = {"xgboost": "XGBoost+prior", "lightgbm": "LightGBM+prior"}[package]
    metrics = others.measured(others.LEARNERS[name], words)["metrics"]
    # Without the rule of .5 or with rows and columns mixed up it is far below.
    assert (0.2 if sparse else 0.5) < metrics["micro_f1"] < 1
    assert metrics["macro_f1"] < 0.75  # the label that training did not have counts 0


def test_options_of_a_set_are_read_as_the_command_reads_them() -> None:
    config = others.config_of(["a.tsv", "--test", "b.tsv", "--no-header", "--text", "1,2", "--labels", "3"])
    assert (config.data, config.test, config.no_header) == ("a.tsv", "b.tsv", True)
    assert (config.text, config.labels) == (("1", "2"), ("3",))
    with pytest.raises(InputError, match="'colour' is no option"):
        others.config_of(["a.tsv", "--colour"])


@pytest.mark.slow
def test_a_learner_that_is_too_slow_or_fails_is_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(quality.ALL, "none", quality.Set(str(tmp_path / "none.csv")))
    job = quality.Job("none", "OvR logistic")
    assert "none.csv" in quality.of_others(job)["error"]
    monkeypatch.setattr(quality, "LIMIT", 0.01)
    assert quality.of_others(job) == quality.FAILED | {"error": "not finished in 0.01 s"}


# --- quality.py and its page ------------------------------------------------------------------------------------------

METHODS = ("zlpr+prior", "zlpr", "bce", "bce+threshold", "bce+label-thresholds")
# Stands in for `manyhot compare`: numbers by the length of the set's name, and a file that logs how it was called.
STAND_IN = """
import json, sys, time
from pathlib import Path
words = sys.argv[1:]
out = Path(words[words.index("--out") + 1])
with open(Path(__file__).with_name("log"), "a") as log:
    log.write(json.dumps(words) + "\\n")
if "slow" in out.name and not Path(__file__).with_name("fast").exists():
    time.sleep(60)
if "broken" in out.name:
    sys.exit(1)
out.mkdir(parents=True)
(out / "compare.json").write_text(Path(words[0]).read_text())
"""


def comparison(scores: list[float | None], seconds: float = 2.0) -> dict[str, Any]:
    """Return what compare writes, each metric the same; ours are the first two methods, None is one that failed."""
    default = 0
    methods = []
    for i, (name, score) in enumerate(zip(METHODS, scores, strict=True)):
        metrics: dict[str, Any] = dict.fromkeys(quality.METRICS, score)
        gap = (score or 0) - (scores[default] or 0)
        difference = {"than": METHODS[default], "value": gap, "interval": [gap - 0.05, gap + 0.05]}
        methods.append(
            {
                "name": name,
                "what": "",
                "loss": "zlpr" if i < 2 else "bce",
                "kind": "ours" if i < 2 else "rival",
                "error": None if score is not None else "torch said no",
                "metrics": None if score is None else metrics | {"rare_f1": None},
                "intervals": None if score is None else {"micro_f1": [score - 0.1, score + 0.1]},
                "differences": None,
                "against_default": None
                if score is None or i == default
                else {"micro_f1": difference, "macro_f1": difference},
                "label_f1": [0.123456789] * 1000,
                "chosen": [{"C": 1.0}],
                "seconds": {"search": seconds * (i + 1), "fit": seconds},
                "predict_seconds": 0.1,
                "peak_mb": 100 * (i + 1),
            }
        )
    return {
        "kind": "comparison",
        "design": {"kind": "folds", "folds": 3, "rows": 9},
        "labels": ["a", "b"],
        "seeds": [0],
        "level": 0.95,
        "methods": methods,
        "default": METHODS[default],
        "versions": {"torch": "2.13.0"},
        "platform": "Linux",
        "threads": 2,
        "seconds": 123.456789,
    }


def written_and_read(run: dict[str, Any]) -> dict[str, Any]:
    """Return a run as quality.json has it."""
    return quality_records.unpacked(quality_records.packed({"a": {"linear": run}}, ["a"]))["a"]["linear"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the script up in a folder, with four sets of which the fourth is two languages."""
    scores = {
        "one": [0.50, 0.40, 0.30, 0.44, 0.48],
        "slow": [0.60, 0.40, 0.30, 0.45, 0.70],
        "semeval2025 xx": [0.30, 0.20, 0.10, 0.32, 0.31],
        "semeval2025 yy": [0.50, 0.40, 0.10, None, 0.45],
    }
    sets = {}
    for name, numbers in scores.items():
        (tmp_path / f"{name}.csv").write_text(json.dumps(comparison(numbers)))
        sets[name] = quality.Set(str(tmp_path / f"{name}.csv"), None, ("--label-sep", ";"))
    (tmp_path / "compare.py").write_text(STAND_IN)
    for name, value in {
        "ALL": sets,
        "SETS": {name: given for name, given in sets.items() if name != "semeval2025 yy"},
        "LANGUAGES": ("xx", "yy"),
        "MLP": ("one",),
        "LEARNERS": {},
        "COMMAND": [sys.executable, str(tmp_path / "compare.py")],
        "WORK": tmp_path / "work",
        "RESULTS": tmp_path / "results" / "quality.json",
    }.items():
        monkeypatch.setattr(quality, name, value)
    monkeypatch.setattr(quality_page, "PAGE", tmp_path / "quality.md")
    monkeypatch.setattr(quality_page, "PICTURE", tmp_path / "ranks.svg")
    return tmp_path


def calls(bench: Path) -> list[list[str]]:
    return [json.loads(line) for line in (bench / "log").read_text().splitlines()]


def test_what_is_run_kept_and_gone_on_with(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quality.main(["--only", "slow", "--minutes", "0.02"]) == 0
    assert "not run or not finished: slow, linear; the same command goes on" in capsys.readouterr().out
    assert not (bench / "results").exists()
    (bench / "fast").touch()
    assert quality.main([]) == 0
    said = capsys.readouterr().out
    assert said.startswith("5 runs, about ")
    assert "not run" not in said
    folder = bench / "work" / "semeval2025-xx-linear"
    words = [str(bench / "semeval2025 xx.csv"), "--label-sep", ";", "--model", "linear"]
    assert [*words, "--out", str(folder), "--resume", "--json"] in calls(bench)
    assert len(calls(bench)) == 6
    # What was run is not run again; what a run left beside the results is taken up.
    kept = quality_records.unpacked(quality.RESULTS.read_text())
    assert set(kept) == set(quality.ALL)
    assert set(kept["one"]) == {"linear", "mlp"}
    del kept["one"]["linear"]
    quality.write(kept)
    assert quality.main([]) == 0
    assert len(calls(bench)) == 6
    kept = quality_records.unpacked(quality.RESULTS.read_text())
    assert kept["one"]["linear"] == written_and_read(quality.slim(comparison([0.50, 0.40, 0.30, 0.44, 0.48])))
    # Unless asked for.
    assert quality.main(["--again", "one"]) == 0
    assert [words[words.index("--model") + 1] for words in calls(bench)[6:]] == ["linear", "mlp"]


def test_what_is_kept_is_small() -> None:
    kept = quality.slim(comparison([0.1234567, 0.4, 0.3, None, 0.48]))
    text = quality_records.packed({"one": {"linear": kept}}, ["one"])
    assert len(text) < 1500  # and not the thousand numbers of labels that each method brings
    again = quality_records.unpacked(text)["one"]["linear"]
    assert (again["labels"], again["rows"], again["seconds"]) == (2, 9, 123.5)
    first, failed = again["methods"][0], again["methods"][3]
    assert first["metrics"]["micro_f1"] == 0.1235
    assert first["metrics"]["rare_f1"] is None
    assert (first["seconds"], first["peak_mb"], first["against_default"]) == (4.0, 100, {})
    assert again["methods"][1]["against_default"]["macro_f1"] == {"value": 0.2765, "interval": [0.2265, 0.3265]}
    assert (failed["metrics"], failed["error"]) == ({}, "torch said no")
    assert again["versions"] == {"torch": "2.13.0"}


def test_the_results_are_small_and_say_what_they_said() -> None:
    text = (quality.RESULTS).read_text()
    assert len(text) < 100_000
    assert quality_records.packed(quality_records.unpacked(text), list(quality.ALL)) == text


def test_methods_that_were_renamed_are_missed() -> None:
    renamed = comparison([0.1, 0.4, 0.3, 0.2, 0.48])
    renamed["methods"][2]["name"] = "BCE"
    with pytest.raises(RuntimeError, match="expected methods named bce: see RIVALS"):
        quality.slim(renamed)


def test_a_comparison_that_fails_does_not_stop_the_others(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(quality.ALL, "broken", quality.ALL["one"])
    assert quality.main(["--only", "broken,one"]) == 1
    streams = capsys.readouterr()
    assert streams.err.strip().endswith("broken, linear: manyhot compare exited with 1")
    assert list(quality_records.unpacked(quality.RESULTS.read_text())) == ["one"]


def test_names_that_are_no_set(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        quality.main(["--only", "one,two"])
    assert "expected names of one, slow, semeval2025 xx, semeval2025 yy; got 'two'" in capsys.readouterr().err


def test_time_is_expected_from_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    yeast, ethos = quality.Job("yeast", "linear"), quality.Job("ethos", "linear")
    trained = json.loads(quality.EVIDENCE.read_text())
    base = {name: trained[name]["seconds"] for name in ("yeast", "ethos", "scene", "emotions")}
    assert quality.expected(yeast, {}) == pytest.approx(6 * base["yeast"])
    assert quality.expected(ethos, {}) == pytest.approx(6 * 3 * base["ethos"])
    assert quality.expected(quality.Job("semeval2025 afr", "linear"), {}) == 60
    measured = {name: {"linear": {"seconds": times * base[name]}} for name, times in (("scene", 2), ("emotions", 4))}
    assert quality.expected(yeast, measured) == pytest.approx(3 * base["yeast"])


def table_after(text: str, start: str) -> list[list[str]]:
    """Return the cells of the first table after a line."""
    lines = text.partition(start)[2].partition("\n|")[2].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|--")]


def test_page(bench: Path) -> None:
    (bench / "fast").touch()
    assert quality.main([]) == 0
    text = quality_page.PAGE.read_text()
    # The languages are one set, of their mean; what failed in one of them has failed.
    micro = table_after(text, "micro-F1, per cent:")
    assert micro == [
        ["set", *METHODS],
        ["one", "**50.0**", "40.0", "30.0", "44.0", "48.0"],
        ["slow", "60.0", "40.0", "30.0", "45.0", "**70.0**"],
        ["semeval2025 (2 languages)", "**40.0**", "30.0", "10.0", "failed", "38.0"],
    ]
    said = "bce+threshold on semeval2025 (2 languages): torch said no (1 of 2 languages)"
    assert f"Failed: {said}." in text
    assert table_after(text, "rare-F1, per cent:") == [["set", *METHODS]]
    # By hand: ranks 1 4 5 3 2, 2 4 5 3 1, 1 3 4 5 2.
    ranked = table_after(text, "## Average ranks")
    assert ranked == [
        ["method", "micro-F1", "macro-F1", "samples-F1"],
        ["zlpr+prior", "**1.33**", "**1.33**", "**1.33**"],
        ["bce+label-thresholds", "1.67", "1.67", "1.67"],
        *([m, n, n, n] for m, n in (("zlpr", "3.67"), ("bce+threshold", "3.67"), ("bce", "4.67"))),
    ]
    assert "macro-F1: 3 sets, critical difference 3.52" in text  # 2.728 sqrt(5 6 / (6 3))
    assert "missing and ranked last: 1" in text
    # Pairs: SemEval has none with what failed in a language; with the others, means of .05 / sqrt 2 to each side.
    wins = table_after(text, "## Wins / ties / losses")
    assert wins == [
        ["zlpr+prior against", "micro-F1", "macro-F1"],
        *(
            [method, found, found]
            for method, found in (
                ("zlpr", "3 / 0 / 0"),
                ("bce", "3 / 0 / 0"),
                ("bce+threshold", "2 / 0 / 0"),
                ("bce+label-thresholds", "0 / 2 / 1"),
            )
        ),
    ]
    cost = table_after(text, "## Time and memory")
    assert cost[1] == ["zlpr+prior", "0.5 (0.5 to 0.5)", "0.33 (0.33 to 0.33)", "0"]
    assert cost[4][0] == "bce+threshold"
    assert cost[4][3] == "1"
    reading = text.partition("<!-- reading -->")[2].partition("<!-- end -->")[0]
    assert "macro-F1: zlpr+prior has average rank 1.33 over 3 sets, place 1 of 5; zlpr+prior has the best" in reading
    assert "is above it on 2 sets and below it on 1; by the paired intervals it wins 0" in reading
    assert "tuned by the user: reached." in reading
    assert "in micro-F1: reached." in reading
    assert table_after(text, "## One hidden layer")[1] == ["zlpr+prior", "**1.00**", "**1.00**", "**1.00**"]
    assert "critical difference](../../docs/measurements/ranks.svg)" in text
    picture = quality_page.PICTURE.read_text()
    assert all(f"{method} " in picture for method in METHODS)
    assert "critical difference 3.52" in picture


def test_page_when_ours_loses(bench: Path) -> None:
    for i, path in enumerate(sorted(bench.glob("*.csv"))):
        path.write_text(json.dumps(comparison([0.1, 0.2, 0.5 + i / 100, 0.6, 0.7])))
    (bench / "fast").touch()
    results = {
        name: {"linear": quality.slim(json.loads(Path(given.train).read_text()))} for name, given in quality.ALL.items()
    }
    # Of many sets like these, so that the critical difference is below the ranks between first and last.
    many = {f"set {i}": results["one"] for i in range(30)}
    text = quality_page.page(many, list(many), ("xx",))
    reading = text.partition("<!-- reading -->")[2].partition("<!-- end -->")[0]
    assert "zlpr+prior has average rank 5.00 over 30 sets, place 5 of 5; bce+label-thresholds has the best, 1" in (
        reading
    )
    assert "is above it on 0 sets and below it on 30" in reading
    assert "tuned by the user: not reached." in reading
    assert "in micro-F1: not reached." in reading


def test_page_before_anything_has_run() -> None:
    text = quality_page.page({}, ["yeast"], ("xx",))
    for mark in ("reading", "ranks", "others", "wins", "tables", "cost", "mlp", "machine"):
        assert text.partition(f"<!-- {mark} -->")[2].partition("<!-- end -->")[0].strip() == "Not run yet."
    assert "90.74" in text
    assert "![" not in text  # a picture that is not there yet breaks the pages


@pytest.mark.data
def test_files_of_every_set_are_there(data_root: Path) -> None:
    assert len(quality.ALL) == 19 + 25
    for given in quality.ALL.values():
        for file in (given.train, given.test):
            assert file is None or (data_root / file).is_file()
