"""The model card: the head as YAML, every number of the findings, and nothing of rows or of Markdown from the data."""

import json
import re

import pytest

from command import as_json, bad
from manyhot.toolkit.report.card import card
from manyhot.toolkit.report.metric_names import TITLES, written
from reported import NAMES, SCRIPT, train_hostile

yaml = pytest.importorskip("yaml")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return train_hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def page(hostile, tmp_path_factory):
    out = tmp_path_factory.mktemp("card") / "card.md"
    said = as_json(f"report {hostile} --card {out}")
    assert said == {"out": str(out), "kind": "run", "rows": 0}
    return out.read_text(encoding="utf-8")


def test_head_is_yaml_as_the_hub_reads_it(hostile, page):
    findings = json.loads((hostile / "findings.json").read_text())
    _, head, body = page.split("---\n", 2)
    read = yaml.safe_load(head)
    assert read["library_name"] == "manyhot"
    assert read["pipeline_tag"] == "text-classification"
    assert read["tags"] == ["manyhot", "multi-label-classification"]
    result = read["model-index"][0]["results"][0]
    part = findings["measured"]["part"]
    assert result["dataset"]["split"] == part
    assert {m["type"]: m["value"] for m in result["metrics"]} == {
        key: round(findings["metrics"][part][key], 4) for key in ("micro_f1", "macro_f1")
    }
    assert body.startswith("\n# ")


def test_every_number_and_label_of_the_findings_is_in_it(hostile, page):
    findings = json.loads((hostile / "findings.json").read_text())
    metrics = findings["metrics"][findings["measured"]["part"]]
    for key, title in TITLES.items():
        if key in metrics:
            assert f"| {title} | {written(key, metrics[key])} |" in page
    table = [line for line in page.splitlines() if line.count(" | ") == 3]
    assert len(table) == 1 + len(findings["labels"])
    for sentence in findings["warnings"]:
        assert re.split("[^\\w ]", sentence["text"])[0].strip() in page


def test_nothing_of_the_data_is_markup_and_no_row_is_in_it(hostile, page):
    assert SCRIPT not in page
    assert "<" not in page.split("---\n", 2)[2]
    assert any("<" in name or "`" in name for name in NAMES)
    findings = json.loads((hostile / "findings.json").read_text())
    texts = [row["text"] for row in findings["worst"]]
    assert texts
    assert not any(text in page for text in texts if len(text) > 20)
    # A pipe or a line end in a label would break the table.
    assert all(line.endswith("|") for line in page.splitlines() if line.startswith("|"))


def test_nothing_turns_the_direction_round(hostile):
    findings = json.loads((hostile / "findings.json").read_text())
    findings["labels"][0]["name"] = findings["data"] = "a\u202eb\x1bc"
    page = card(findings)
    assert "a\\\\u202eb" in page
    assert not any(mark in page for mark in "\u202e\x1b")


def test_more_labels_than_a_page_holds_are_counted(hostile):
    findings = json.loads((hostile / "findings.json").read_text())
    findings["labels"] = [dict(findings["labels"][0], name=f"label {i}", train_rows=i) for i in range(100)]
    page = card(findings)
    assert "| label 99 |" in page
    assert "| label 60 |" in page
    assert "| label 59 |" not in page
    assert "| and 60 more | | | |" in page


def test_a_card_ends_in_md_and_lies_outside_of_the_run(hostile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "ends in .md" in bad(f"report {hostile} --card card.html")
    assert "outside of the folder" in bad(f"report {hostile} --card {hostile}/card.md")
    assert "card.md" not in bad("report nowhere --card card.md")
