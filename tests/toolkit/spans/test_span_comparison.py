"""Methods beside each other on spans, the page of it, and the page of a run."""

import json
from pathlib import Path

import numpy as np
import pytest

from command import as_json, bad, call
from manyhot.metrics_of_spans import span_metrics
from manyhot.spans import Span
from manyhot.toolkit.compare.bootstrap import resampled
from manyhot.toolkit.report.answer import train_command
from manyhot.toolkit.report.span_page import LEVELS, hues_of, marked
from manyhot.toolkit.spans.compare import _Trial as Trial
from manyhot.toolkit.spans.methods import METHODS, OF_RELATIONS
from manyhot.toolkit.spans.standings import Predicted, counts_of
from manyhot.triples import Triple
from relation_rows import linked_sentences, write_relations
from span_rows import sentences, write_jsonl


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_comparison_measures_every_method(here: Path) -> None:
    data, test = write_jsonl("d.jsonl", sentences(60)), write_jsonl("t.jsonl", sentences(30, 1))
    result = as_json(f"compare {data} --test {test} --task spans --seeds 1 --set epochs=3 --out c")
    assert [method["name"] for method in result["methods"]] == [method.name for method in METHODS]
    assert all(method["error"] is None for method in result["methods"])
    by_name = {method["name"]: method for method in result["methods"]}
    # The two share the fits of one loss, and differ in the threshold alone.
    assert by_name["bce+bias"]["curves"] == by_name["bce+threshold"]["curves"]
    assert by_name["bce+bias"]["chosen"][0]["offset"] == 0.0
    assert by_name["zlpr"]["metrics"]["micro_f1"] > by_name["bce"]["metrics"]["micro_f1"]
    assert set(by_name["zlpr"]["differences"]["micro_f1"]) == {"than", "value", "interval"}
    low, high = by_name["zlpr"]["intervals"]["micro_f1"]
    assert low <= by_name["zlpr"]["metrics"]["micro_f1"] <= high
    page = Path("c/report.html").read_text()
    assert "Epoch by epoch" in page
    assert "binary cross-entropy as people write it" in page
    _, said = call("report c -o again.html")
    assert "the report of a comparison" in said
    assert Path("again.html").read_text() == page


def test_folds_where_there_are_no_test_rows(here: Path) -> None:
    data = write_jsonl("d.jsonl", sentences(50))
    stdout, said = call(f"compare {data} --task spans --losses zlpr,bce --folds 2 --seeds 1 --set epochs=2")
    assert "2 folds, each measured by models that did not see it" in said
    assert "zlpr" in stdout
    assert "spans each" in said
    assert bad(f"compare {data} --task spans --losses dice").startswith("--losses expects some of zlpr, bce, bce+bias")


@pytest.mark.slow
def test_a_comparison_of_relations_has_both_designs(here: Path) -> None:
    data, test = (write_relations(f"{n}.jsonl", linked_sentences(rows, n)) for n, rows in enumerate((40, 15)))
    line = f"compare {data} --test {test} --task relations --seeds 1 --set epochs=4"
    names = ["gplinker-zlpr", "gplinker-bce+threshold", "cascade-zlpr"]
    stdout, _ = call(f"{line} --losses {','.join(names)} --out c")
    assert "triples: micro-F1" in stdout
    result = json.loads(Path("c/compare.json").read_text())
    assert list(result["best"]) == ["triple_micro_f1", "triple_macro_f1", "micro_f1"]
    assert result["labels"] == ["based_in", "born_in", "lives_in", "works_for"]
    by_name = {method["name"]: method for method in result["methods"]}
    assert list(by_name) == names
    assert set(by_name["gplinker-zlpr"]["chosen"][0]) == {"seed", "epochs", "offset", "triple_offset"}
    assert by_name["cascade-zlpr"]["chosen"][0]["offset"] == 0.0
    page = Path("c/report.html").read_text()
    assert '<h2 id="types">Relations</h2>' in page
    assert "triples a row" in page
    # The run of the default is the same fit, so that its numbers are too.
    call(f"train {data} --test {test} --task relations --set epochs=4 --out run")
    of_run = json.loads(Path("run/metrics.json").read_text())["test"]
    found = by_name["gplinker-zlpr"]
    for key in result["best"]:
        assert found["metrics"][key] == of_run[key]
        assert found["intervals"][key][0] <= found["metrics"][key] <= found["intervals"][key][1]
    typed = result | {"command": f"manyhot {line}"}
    assert train_command(typed, by_name["cascade-zlpr"]) == (
        f"manyhot train {data} --test {test} --task relations --set epochs=4 --design cascade"
    )
    assert bad(f"compare {data} --task relations --losses zlpr").startswith(
        f"--losses expects some of {', '.join(method.name for method in OF_RELATIONS)}"
    )


def test_fits_of_a_comparison_are_kept_whole(here: Path) -> None:
    rows, spans = 4, [[Span(0, 1, 0, 1.5)], [], [Span(1, 3, 2, 0.25), Span(0, 1, 1, 0.125)], []]
    facts = [[], [], [Triple(spans[2][0], 3, spans[2][1], 0.5)], []]
    plain = Predicted([[], spans[0], [], []], [[] for _ in range(rows)])
    trial = Trial(Predicted(spans, facts), plain, 0.5, -0.25, 3, [0.5, 0.75], 1.0, 2.0, 4)
    assert Trial.restored(trial.arrays(), rows) == trial


def test_resamples_of_spans_have_the_measured_f1_as_their_middle() -> None:
    random = np.random.default_rng(0)
    gold = [[(i, i + 1, int(random.integers(3))) for i in range(4)] for _ in range(60)]
    predicted = [[Span(a, b, t, 1.0) for a, b, t in row if random.random() < 0.7] for row in gold]
    sets = [[{span[:3] for span in row} for row in rows] for rows in (predicted, gold)]
    counts = counts_of(sets[0], sets[1], 3)
    metrics = span_metrics(predicted, gold, num_types=3)
    drawn = resampled({"m": [counts]}, np.full(3, 50.0), resamples=300)["m"]
    assert drawn["micro_f1"].mean() == pytest.approx(metrics["micro_f1"], abs=0.01)
    assert counts.label_f1().mean() == pytest.approx(metrics["macro_f1"])
    together = counts_of(sets[0], sets[1], 3, np.arange(60) // 2)
    assert together.by_row.shape == (30, 3)
    assert together.hits.sum() == counts.hits.sum()


def test_the_report_of_a_run_marks_its_errors(here: Path) -> None:
    data, test = (
        write_jsonl("d.jsonl", sentences(40, nested=True)),
        write_jsonl("t.jsonl", sentences(20, 1, nested=True)),
    )
    odd = {"tokens": ["<b>&", "\u0001x", "\u05d0"], "entities": [[0, 2, "<i>"], [2, 3, "LOC"]]}
    Path(test).write_text(Path(test).read_text() + json.dumps(odd) + "\n")
    _, said = call(f"train {data} --test {test} --task spans --set epochs=2 --out run")
    assert "nested: " in said
    page = Path("run/report.html").read_text()
    found = json.loads(Path("run/findings.json").read_text())
    assert f"learned from {sum(found['overview']['sizes'])} rows with" in page
    # Worked out anew from the file that was written.
    lines = [json.loads(line) for line in Path(data).read_text().splitlines()]
    assert found["overview"]["sizes"] == np.bincount([len(row["entities"]) for row in lines]).tolist()
    assert found["overview"]["lengths"]["longest"] == max(len(row["tokens"]) for row in lines)
    assert sum(found["overview"]["lengths"]["counts"]) == len(lines)
    for section in ("data", "glance", "types", "errors", "widths", "worst", "curve-section", "numbers", "repeat"):
        assert f'<h2 id="{section}">' in page, section
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page
    assert "\x01" not in page
    assert 'class="missed hue' in page
    assert page.count("<script") == 1
    row = next(row for row in found["worst"] if "<b>&" in row["text"])
    assert row["row"] == 21
    assert {(span["type"], span["kind"]) for span in row["spans"]} >= {("<i>", "missed"), ("LOC", "missed")}
    for span in row["spans"]:
        assert row["text"][span["start"] : span["end"]].strip()
    kinds = found["errors"]["kinds"]
    true = sum(kinds.get(kind, 0) for kind in ("right", "type", "border", "both", "missed"))
    assert true == sum(row["spans"] for row in found["types"])
    assert any("<i>" in warning["labels"] for warning in found["warnings"])
    call("report run --no-rows -o without.html")
    without = Path("without.html").read_text()
    assert "No row of the data is in this file" in without
    assert "&lt;b&gt;" not in without
    assert "expected a run whose spans do not overlap" in bad(f"predict run {data} -o o.conll")
    call(f"train {data} --task spans --set epochs=1 --no-rows --out bare")
    assert json.loads(Path("bare/findings.json").read_text())["worst"] is None


def test_marks_cover_their_text_whatever_overlaps() -> None:
    spans = [(0, 9, "A", "right"), (2, 5, "B", "missed"), (4, 7, "A", "added"), (8, 9, "C", "right")]
    row = {"text": "abcdefghi", "spans": [dict(zip(("start", "end", "type", "kind"), s, strict=True)) for s in spans]}
    runs = marked(row, hues_of(["A", "B", "C"]))
    assert "".join(run.text for run in runs) == row["text"]
    at = 0
    for run in runs:
        inside = {(s, k) for a, b, s, k in spans if a <= at and at + len(run.text) <= b}
        assert {(cover.type, cover.kind) for cover in run.covers} == inside
        levels = [cover.level for cover in run.covers]
        assert levels == sorted(set(levels))
        at += len(run.text)
    deep = {"text": "abcdef", "spans": [{"start": i, "end": 6, "type": "A", "kind": "right"} for i in range(6)]}
    last = marked(deep, {"A": 0})[-1]
    assert len(last.covers) == LEVELS
    assert last.more == 2


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_the_hues_can_be_read_on_both_themes() -> None:
    import re
    from importlib.resources import files

    style = (files("manyhot.toolkit.report") / "spans.css").read_text()
    light, dark = (re.findall(r"--h\d: (#[0-9a-f]{6})", line) for line in style.splitlines()[:2])
    for page, colours in (("#ffffff", light), ("#f4f6f8", light), ("#14171a", dark), ("#1f2429", dark)):
        assert len(colours) == 8
        for colour in colours:
            bright, dim = sorted((luminance(page), luminance(colour)), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (page, colour)
