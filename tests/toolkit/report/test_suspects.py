"""Labels to check in a report: those that audit finds, marks in worst rows, and no row where none is wanted."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from command import as_json, call
from manyhot.toolkit.report.suspects import rows_shown

WORDS = {"refund": "money back refund", "late": "late parcel days waiting", "broken": "broken glass crack"}
WRONG, MISSING = 31, 71


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suspects")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(200):
        names = [name for name in WORDS if rng.random() < 0.4]
        said = " ".join(word for name in names for word in WORDS[name].split() if rng.random() < 0.9)
        if i == WRONG - 1:
            said, names = "late parcel days waiting", ["broken", "late"]
        if i == MISSING - 1:
            said, names = "late parcel days waiting late parcel", []
        rows.append({"text": f"{said} number{i}", "labels": names})
    pl.DataFrame(rows).write_ndjson(folder / "t.jsonl")
    call(f"train {folder / 't.jsonl'} --out {folder / 'run'} --set C=10")
    return folder


def test_they_are_those_of_audit_and_marked_among_the_worst_rows(folder):
    found = json.loads((folder / "run" / "findings.json").read_text())
    audited = as_json(f"audit {folder / 't.jsonl'} --set C=10")
    said = found["suspects"]
    assert {key: said[key] for key in ("rows", "missing", "wrong")} == {
        key: audited[key] for key in ("rows", "missing", "wrong")
    }
    assert said["labels"] == audited["labels"][:10]
    order = [(cell["looks"], -abs(cell["prob"] - (cell["looks"] == "wrong"))) for cell in said["worst"]]
    assert order == sorted(order)
    planted = [cell for cell in said["worst"] if (cell["row"], cell["name"]) == (WRONG, "broken")]
    assert [cell["looks"] for cell in planted] == ["wrong"]
    assert f"number{WRONG - 1}" in planted[0]["text"]
    row = next(row for row in found["worst"] if row["row"] == WRONG)
    assert [label.get("looks") for label in row["missed"] if label["name"] == "broken"] == ["wrong"]
    assert all("looks" not in label for row in found["worst"] for label in row["right"])
    added = [(row["row"], label) for row in found["worst"] for label in row["added"]]
    marked = {(row, label["name"]) for row, label in added if label.get("looks") == "missing"}
    assert (MISSING, "late") in marked
    assert all(label["prob"] >= 0.5 for row, label in added if (row, label["name"]) in marked)
    page = (folder / "run" / "report.html").read_text()
    assert "Labels to check" in page
    assert "looks wrong in the data" in page


def test_excerpts_are_counted_once_a_row_and_left_out_where_none_are_wanted(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = json.loads((folder / "run" / "findings.json").read_text())
    places = {row["row"] for row in found["worst"]} | {cell["row"] for cell in found["suspects"]["worst"]}
    assert rows_shown(found) == len(places)
    call(f"report {folder / 'run'} -o page.html --no-rows")
    page = Path("page.html").read_text()
    assert "Labels to check" in page
    assert f"number{WRONG - 1}" not in page
    call(f"train {folder / 't.jsonl'} --out bare --set C=10 --no-rows")
    bare = json.loads(Path("bare/findings.json").read_text())
    assert bare["suspects"]["worst"] is None
    assert bare["suspects"]["wrong"] == sum(label["wrong"] for label in bare["suspects"]["labels"])
    assert f"number{WRONG - 1}" not in Path("bare/report.html").read_text()


def test_classes_have_none(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pl.DataFrame({"text": [f"{'red' if i % 2 else 'blue'} {i}" for i in range(40)], "y": ["a", "b"] * 20})
    frame.write_csv("c.csv")
    call("train c.csv --task multiclass --labels y --out run")
    assert json.loads(Path("run/findings.json").read_text())["suspects"] is None
