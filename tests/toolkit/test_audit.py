"""The audit of a file: planted label errors are found, and what it writes is what it says."""

import csv
import json

import numpy as np
import pytest
import scipy.sparse as sp

from command import as_json, bad, call
from manyhot.toolkit.audit import labels_alike

WORDS = {"refund": "money back refund", "late": "late parcel days waiting", "broken": "broken glass crack"}
ROWS = 240
MISSING, WRONG = (7, "refund"), (31, "broken")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Rows whose words give their labels away, one label left out, one put in, and one text twice."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("audit") / "tickets.csv"
    rows = []
    for i in range(ROWS):
        labels = {name for name in WORDS if rng.random() < 0.4}
        if i == MISSING[0] - 1:
            labels = {"refund", "late"}
        if i == WRONG[0] - 1:
            labels = {"late", "refund"}
        words = " ".join(word for name in sorted(labels) for word in WORDS[name].split() if rng.random() < 0.8)
        if i == MISSING[0] - 1:
            labels -= {"refund"}
        if i == WRONG[0] - 1:
            labels |= {"broken"}
        rows.append((f"{words} number{i}", "|".join(sorted(labels))))
    rows += [("twice the same", "late"), ("twice the same", "refund")]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("text", "labels"), *rows])
    return path


def test_planted_errors_are_the_worst_suspects(table, tmp_path):
    out = tmp_path / "suspects.csv"
    said = as_json(f"audit {table} -o {out}")
    with open(out, newline="") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == said["missing"] + said["wrong"]
    for (row, label), looks in ((MISSING, "missing"), (WRONG, "wrong")):
        # A row can have lost all words of a label by chance, and the two rows of one text never had any.
        worst = [cell for cell in cells if cell["looks"] == looks][:5]
        found = [cell for cell in worst if (cell["row"], cell["label"]) == (str(row), label)]
        assert len(found) == 1, looks
        assert f"number{row - 1}" in found[0]["text"]
        assert (float(found[0]["prob"]) > 0.5) == (looks == "missing")
    assert said["repeated"] == [[ROWS + 1, ROWS + 2]]
    assert said["rows"] == ROWS + 2
    assert said["cross_fitted"] is True
    by_label = {label["label"]: label for label in said["labels"]}
    assert sum(label["missing"] for label in by_label.values()) == said["missing"]
    assert by_label["refund"]["missing"] >= 1


def test_jsonl_has_a_line_a_row_with_labels_as_they_are_and_as_suggested(table, tmp_path):
    out = tmp_path / "suspects.jsonl"
    call(f"audit {table} -o {out}")
    lines = {line["row"]: line for line in map(json.loads, out.read_text().splitlines())}
    missing, wrong = lines[MISSING[0]], lines[WRONG[0]]
    assert (missing["labels"], missing["suggested"]) == (["late"], ["late", "refund"])
    assert (wrong["labels"], wrong["suggested"]) == (["broken", "late", "refund"], ["late", "refund"])
    assert [s["looks"] for s in missing["suspects"]] == ["missing"]
    # The words of the label speak for it.
    assert set(missing["suspects"][0]["words"]) & set(WORDS["refund"].split())
    assert list(missing["probs"]) == sorted(missing["probs"], key=lambda name: -missing["probs"][name])
    assert set(missing["probs"]) == {"late", "refund"}
    assert missing["probs"]["refund"] > 0.5 > wrong["probs"]["broken"]
    assert f"number{WRONG[0] - 1}" in wrong["text"]


def test_the_terminal_shows_rows_labels_and_what_to_do_next(table, monkeypatch):
    stdout, stderr = call(f"audit {table}")
    assert "look missing" in stdout
    assert f"number{MISSING[0] - 1}" in stdout
    assert f"row {ROWS + 1} (late), row {ROWS + 2} (refund)" in stdout
    assert "1 text stands more than once with other labels: row" in stdout
    assert "\\n" not in stdout
    assert "-o suspects.csv" in stderr
    monkeypatch.setenv("COLUMNS", "160")
    assert "words for it" in call(f"audit {table}")[0]


def test_a_run_is_asked_in_place_of_folds(table, tmp_path):
    run = tmp_path / "run"
    call(f"train {table} --out {run}")
    said = as_json(f"audit {table} --run {run}")
    assert said["cross_fitted"] is False
    assert said["rows"] == ROWS + 2
    for option in ("--labels nosuch", "--text nosuch", "--group nosuch", "--join", "--seed 5", "--drop-unlabelled"):
        name = option.split()[0].removeprefix("--").replace("-", "_")
        assert f"{name} is that of --run" in bad(f"audit {table} --run {run} {option}")


def test_bad_input_is_one_sentence(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "ends in .csv, .jsonl" in bad(f"audit {table} -o suspects.txt")
    assert "multilabel" in bad(f"audit {table} --set task=multiclass")


def test_names_of_signs_alone_are_not_alike():
    assert not labels_alike(sp.csr_array(np.eye(40)[:, :3] > 0), ["+", "-", "?!"])


def test_labels_alike_by_rows_and_by_names():
    rng = np.random.default_rng(0)
    same = rng.random(100) < 0.3
    columns = [same, same, rng.random(100) < 0.3, rng.random(100) < 0.2, rng.random(100) < 0.2, rng.random(100) < 0.2]
    names = ["cash", "money", "delivery-time", "Delivery times", "level 1", "level 2"]
    found = labels_alike(sp.csr_array(np.stack(columns, 1)), names)
    assert [(pair.labels, pair.names_alike) for pair in found] == [
        (("cash", "money"), False),
        (("delivery-time", "Delivery times"), True),
    ]
    assert found[0].share == 1.0
    assert found[0].rows == (int(same.sum()), int(same.sum()))
