"""Relations from a file to a run and back, by both designs: train, evaluate, predict, go on after an interruption."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

import manyhot
from command import as_json, bad, call
from interrupted import goes_on_to_the_same_run
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.run_folder import SPAN_RUN
from manyhot.toolkit.report.card import card
from manyhot.toolkit.report.metric_names import RELATION_TITLES, written
from manyhot.toolkit.report.span_page import drawn_arrows
from manyhot.toolkit.spans.train import train_spans
from relation_rows import as_records, linked_sentences, write_relations
from span_rows import in_text

ROWS = linked_sentences(120)


@pytest.fixture(scope="module", params=["gplinker", "cascade"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train once a design; what is written beside the run is its data."""
    folder = tmp_path_factory.mktemp(request.param)
    data = write_relations(folder / "train.json", ROWS, "tags")
    test = write_relations(folder / "test.jsonl", linked_sentences(40, 1))
    config = Config(
        data=data,
        test=test,
        task="relations",
        loss="zlpr",
        model="cnn",
        design=request.param,
        epochs=12,
        out=str(folder / "run"),
    )
    train_spans(config)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_finds_triples_and_gives_them_by_name(trained: Path) -> None:
    run = manyhot.load_run(trained / "run")
    assert run.relation_names == ["based_in", "born_in", "lives_in", "works_for"]
    metrics = json.loads((trained / "run" / "metrics.json").read_text())
    assert set(metrics) == {"held_out", "test"}
    assert metrics["test"]["micro_f1"] > 0.9
    assert metrics["test"]["triple_micro_f1"] > 0.85
    assert metrics["test"]["triple_pair_overlap_recall"] > 0.8  # EPO
    assert metrics["test"]["triple_entity_overlap_recall"] > 0.7  # SEO
    with pytest.warns(UserWarning, match="stand in the training data"):  # sentences of few words repeat
        assert run.evaluate(trained / "test.jsonl") == metrics["test"]
    (found,) = run.predict(["Emmy Noether was born and still lives in Oslo ."])
    named = {(found.entities[r.head][:3], r.label, found.entities[r.tail][:3]) for r in found.relations}
    person, place = (0, 12, "PER"), (41, 45, "LOC")
    assert named == {(person, "born_in", place), (person, "lives_in", place)}
    assert found.relations[0].score >= found.relations[1].score > 0
    assert [list(some) for some in run.predict(["", " "])] == [[[], []]] * 2
    state = json.loads((trained / "run" / "run.json").read_text())
    assert (state["task"], state["design"]) == ("relations", trained.name.rstrip("0123456789"))


def test_the_card_of_a_run_has_triples_and_their_relations(trained: Path) -> None:
    findings = json.loads((trained / "run" / "findings.json").read_text())
    page, metrics = card(findings), findings["metrics"]["test"]
    assert f"Predicts spans of {len(findings['types'])} types and 4 relations between them" in page
    for key, title in RELATION_TITLES.items():
        if key in metrics:
            assert f"| {title} | {written(key, metrics[key])} |" in page
    for relation in findings["relations"]:
        line = f"| {relation['train_triples']:,} | {relation['triples']:,} | {written('f1', relation['f1'])} |"
        assert line in next(row for row in page.splitlines() if row.startswith("| " + relation["name"].split("_")[0]))
    assert f"    - type: triple_micro_f1\n      value: {round(metrics['triple_micro_f1'], 4)}\n" in page
    assert "    - type: micro_f1\n" not in page


def test_the_scores_of_a_row_do_not_depend_on_the_rows_beside_it(trained: Path) -> None:
    run = manyhot.load_run(trained / "run")
    rows = [tokens for tokens, *_ in linked_sentences(30, 2)]
    together = run.predict(rows)
    assert together == [run.predict([row])[0] for row in rows]
    assert together == run.predict(rows[:7]) + run.predict(rows[7:])


def test_predictions_in_every_form(trained: Path, here: Path) -> None:
    rows = linked_sentences(12, 3)
    write_relations("tokens.jsonl", rows)
    write_relations("texts.json", rows, "doccano")
    Path("new.txt").write_text("".join(in_text(*row[:2])[0] + "\n" for row in rows))
    run = trained / "run"
    expected = manyhot.load_run(run).predict([tokens for tokens, *_ in rows])
    assert as_json(f"predict {run} tokens.jsonl -o out.jsonl") == {"out": "out.jsonl", "rows": 12}
    written = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["relations"] for row in written] == [[list(r[:3]) for r in some.relations] for some in expected]
    assert [row["entities"] for row in written] == [[list(e[:3]) for e in some.entities] for some in expected]
    call(f"predict {run} texts.json -o texts_out.jsonl")
    call(f"predict {run} new.txt -o text_out.jsonl")
    assert Path("texts_out.jsonl").read_text() == Path("text_out.jsonl").read_text()
    # There and back: what was predicted is all right.
    for file in ("out.jsonl", "text_out.jsonl"):
        measured = as_json(f"evaluate {run} {file}")
        assert (measured["micro_f1"], measured["triple_micro_f1"]) == (1.0, 1.0)
    call(f"predict {run} new.txt -o out.csv")
    call(f"predict {run} new.txt -o out.parquet --keep text")
    table = pl.read_parquet("out.parquet")
    assert table.columns == ["input_text", *pl.read_csv("out.csv").columns]
    assert len(table) == sum(len(some.relations) for some in expected)
    for line in table.iter_rows(named=True):
        assert line["input_text"][line["head_start"] : line["head_end"]] == line["head_text"]
        assert line["input_text"][line["tail_start"] : line["tail_end"]] == line["tail_text"]
    assert "expected a run on spans, as columns have no place for relations" in bad(f"predict {run} new.txt -o o.conll")


def test_numbers_on_stdout(trained: Path, here: Path) -> None:
    stdout, _ = call(f"evaluate {trained}/run {trained}/test.jsonl")
    assert stdout.splitlines()[1].startswith("triples: micro-F1")
    assert "entities: micro-F1" in stdout
    odd = {"tokens": ["Ada", "Oslo"], "entities": [[0, 1, "PER"], [1, 2, "LOC"]], "relations": [[0, 1, "odd"]]}
    Path("odd.jsonl").write_text(json.dumps(odd) + "\n")
    _, said = call(f"evaluate {trained}/run odd.jsonl")
    assert "warning: 1 relations of this file are unknown to the run, with 1 triples: odd" in said


@pytest.mark.slow
@pytest.mark.parametrize("design", ["gplinker", "cascade"])
def test_an_interrupted_training_goes_on_to_the_same_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, design: str
) -> None:
    data = write_relations("d.jsonl", ROWS[:30])
    config = Config(data=data, task="relations", loss="zlpr", model="cnn", design=design, epochs=2, out="whole")
    goes_on_to_the_same_run(config, monkeypatch, (2, 4), folder=SPAN_RUN, train=train_spans)


@pytest.mark.parametrize("design", ["gplinker", "cascade"])
@pytest.mark.parametrize("loss", ["bce", "bce+bias", "focal"])
def test_rivals_are_fitted(here: Path, design: str, loss: str) -> None:
    data = write_relations("d.jsonl", ROWS[:30])
    trained = train_spans(Config(data=data, task="relations", model="cnn", design=design, loss=loss, epochs=2))
    assert trained is not None
    assert (trained.run.info["loss"], trained.run.info["design"]) == (loss, design)


def test_what_is_refused(here: Path) -> None:
    data = write_relations("d.jsonl", ROWS[:10])
    assert "design expects one of gplinker, cascade; got 'tree'" in bad(f"train {data} --task relations --design tree")
    assert "design is of --task relations; got 'cascade'" in bad(f"train {data} --task spans --design cascade")
    assert "nested is of --task spans" in bad("train t.csv --nested yes")
    assert "labels is not of --task relations" in bad(f"train {data} --task relations --labels x")
    records = [record | {"relations": []} for record in as_records(ROWS[:5], "tokens")]
    Path("none.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert "expected rows with relations, got 5 rows without any" in bad("train none.jsonl --task relations")


def test_few_rows_and_what_is_said_of_them(here: Path) -> None:
    data = write_relations("d.jsonl", ROWS[:8])
    _, said = call(f"train {data} --task relations --set epochs=2 --out run")
    pairs = sum(sum((h, t) == (a, b) for a, b, _ in row) > 1 for *_, row in ROWS[:8] for h, t, _ in row)
    assert f"{pairs} share both entities with another" in said
    found = json.loads(Path("run/findings.json").read_text())
    assert found["measured"]["part"] == "train"


def test_a_relation_from_one_piece_of_a_long_row_into_another_is_missed(trained: Path, here: Path) -> None:
    tokens = [*"Emmy Noether .".split(), *["rain", "."] * 300, "Oslo", "."]
    row = (tokens, [(0, 2, "PER"), (603, 604, "LOC")], [(0, 1, "lives_in")])
    assert as_json(f"evaluate {trained}/run {write_relations('long.jsonl', [row])}")["triple_micro_recall"] == 0


def test_the_report_draws_arrows_that_are_told_apart_without_colour(here: Path) -> None:
    data = write_relations("d.jsonl", [*ROWS[:20], (["<i>", "saw", "Oslo"], [(0, 1, "PER"), (2, 3, "LOC")],
        [(0, 1, "lives_in"), (1, 0, "<b>odd</b>")])])  # fmt: skip
    test = write_relations("t.jsonl", [([*"<i> saw Oslo".split()], [(0, 1, "PER"), (2, 3, "LOC")],
        [(0, 1, "lives_in"), (1, 0, "<b>odd</b>")])])  # fmt: skip
    call(f"train {data} --test {test} --task relations --set epochs=1 --out run")
    page = Path("run/report.html").read_text()
    assert '<section aria-labelledby="relations">' in page
    found = json.loads(Path("run/findings.json").read_text())
    (row,) = found["worst"]
    assert {(a["type"], a["kind"]) for a in row["arrows"]["arrows"]} >= {
        ("lives_in", "missed"),
        ("<b>odd</b>", "missed"),
    }
    assert "missed &lt;b&gt;odd&lt;/b&gt;" in page
    assert "<b>odd" not in page
    drawing = page[page.index('<svg class="arrows"') :].partition("</svg>")[0]
    assert len(re.findall('class="arc missed"', drawing)) == 2
    assert sum(row["triples"] for row in found["relations"]) == 2
    call(f"train {data} --task relations --set epochs=1 --no-rows --out bare")
    assert "<svg class=" not in Path("bare/report.html").read_text()
    assert json.loads(Path("bare/findings.json").read_text())["worst"] is None


def test_arrows_go_from_head_to_tail_and_do_not_hide_each_other() -> None:
    entities = [{"text": f"entity {i}", "type": "ABC"[i]} for i in range(3)]
    ends = [(0, 1, "right"), (1, 0, "missed"), (0, 2, "added"), (1, 1, "right")]
    arrows = [{"from": a, "to": b, "type": "r", "kind": kind} for a, b, kind in ends]
    drawing = drawn_arrows({"entities": entities, "arrows": arrows}, {"A": 0, "B": 1, "C": 2})
    assert drawing is not None
    heights, seen = set(), set()
    for arc in drawing.arcs:
        a, height, b = (float(x) for x in re.findall(r"M([\d.]+),[\d.]+ V([\d.]+) H([\d.]+)", arc.path)[0])
        inside = [[box.x <= x <= box.x + box.width for box in drawing.boxes].index(True) for x in (a, b)]
        seen.add((*inside, arc.kind))
        assert a != b
        assert 0 < height < drawing.top
        heights.add(height)
        assert arc.words == ("r" if arc.kind == "right" else f"{arc.kind} r")
    assert seen == set(ends)
    assert len(heights) == len(ends)
    assert max(box.x + box.width for box in drawing.boxes) <= drawing.width
    assert drawn_arrows({"entities": [], "arrows": []}, {}) is None
