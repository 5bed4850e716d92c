"""Spans from a file to a run and back: train, evaluate, predict, go on after an interruption."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import manyhot
from command import as_json, bad, call
from interrupted import goes_on_to_the_same_run
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.run_folder import SPAN_RUN, sha256
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.spans import fit as fitting
from manyhot.toolkit.spans.train import train_spans
from span_rows import in_text, sentences, write_jsonl

ROWS = sentences(120)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train once on tokens; what is written beside the run is its data."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_jsonl(folder / "train.jsonl", ROWS)
    test = write_jsonl(folder / "test.jsonl", sentences(40, 1))
    config = Config(data=data, test=test, task="spans", loss="zlpr", model="cnn", epochs=6, out=str(folder / "run"))
    train_spans(config)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_finds_spans_and_gives_them_by_name(trained: Path) -> None:
    run = manyhot.load_run(trained / "run")
    metrics = json.loads((trained / "run" / "metrics.json").read_text())
    assert metrics["test"]["micro_f1"] > 0.9
    assert set(metrics) == {"held_out", "test"}
    with pytest.warns(UserWarning, match="stand in the training data"):  # sentences of few words repeat
        assert run.evaluate(trained / "test.jsonl") == metrics["test"]
    tokens = "Emmy Noether visited Oslo .".split()
    (found,) = run.predict([tokens])
    assert {(span.start, span.end, span.label) for span in found} == {(0, 2, "PER"), (3, 4, "LOC")}
    assert found[0].score >= found[1].score > 0
    # The same in a text, by characters.
    (found,) = run.predict(["Emmy Noether  visited Oslo."])
    assert {(span.start, span.end, span.label) for span in found} == {(0, 12, "PER"), (22, 26, "LOC")}
    assert run.predict(["", "  "]) == [[], []]
    assert run.predict([]) == []
    rows = sentences(10, 5)
    with pytest.warns(UserWarning, match="stand in the training data"):
        assert run.evaluate([tokens for tokens, _ in rows], [spans for _, spans in rows])["rows"] == 10


def test_a_run_holds_its_files_and_no_others(trained: Path) -> None:
    assert {path.name for path in (trained / "run").iterdir()} == {*SPAN_RUN.files, "manifest.json"}
    state = json.loads((trained / "run" / "run.json").read_text())
    assert (state["task"], state["nested"], state["encoder"]) == ("spans", False, "cnn")
    assert [label["name"] for label in state["labels"]] == ["LOC", "ORG", "PER"]
    assert state["max_width"] == 6
    config = (trained / "run" / "config.toml").read_text()
    assert 'task = "spans"' in config
    assert "tau" not in config


def test_a_run_that_was_cut_short_or_changed_is_refused(trained: Path, here: Path) -> None:
    shutil.copytree(trained / "run", "cut")
    with open("cut/model.safetensors", "r+b") as file:
        file.truncate(100)
    assert "cut/model.safetensors: changed since training" in bad("evaluate cut new.jsonl")
    shutil.copytree(trained / "run", "gone")
    Path("gone/terms.json").unlink()
    assert "gone/terms.json: missing from the run" in bad("evaluate gone new.jsonl")
    # Edited by hand, and the checksum too.
    shutil.copytree(trained / "run", "edited")
    state = json.loads(Path("edited/run.json").read_text())
    state["labels"].pop()
    content = json.dumps(state).encode()
    Path("edited/run.json").write_bytes(content)
    manifest = json.loads(Path("edited/manifest.json").read_text())
    manifest["sha256"]["run.json"] = sha256(content)
    Path("edited/manifest.json").write_text(json.dumps(manifest))
    assert "expected a run of this manyhot, but its parts do not fit" in bad("evaluate edited new.jsonl")


def test_the_scores_of_a_row_do_not_depend_on_the_rows_beside_it(trained: Path) -> None:
    run = manyhot.load_run(trained / "run")
    rows = [tokens for tokens, _ in sentences(40, 2)]
    together = run.predict(rows)
    assert together == [run.predict([row])[0] for row in rows]
    assert together == run.predict(rows[:7]) + run.predict(rows[7:])


def test_predictions_in_every_form(trained: Path, here: Path) -> None:
    rows = sentences(12, 3)
    write_jsonl("tokens.jsonl", rows)
    write_jsonl("texts.jsonl", rows, "text")
    Path("new.txt").write_text("".join(in_text(*row)[0] + "\n" for row in rows))
    run = trained / "run"
    expected = manyhot.load_run(run).predict([tokens for tokens, _ in rows])
    assert as_json(f"predict {run} tokens.jsonl -o out.jsonl") == {"out": "out.jsonl", "rows": 12}
    written = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["tokens"] for row in written] == [tokens for tokens, _ in rows]
    assert [row["entities"] for row in written] == [[list(span[:3]) for span in spans] for spans in expected]
    call(f"predict {run} texts.jsonl -o texts_out.jsonl")
    call(f"predict {run} new.txt -o text_out.jsonl")
    assert Path("texts_out.jsonl").read_text() == Path("text_out.jsonl").read_text()
    first = json.loads(Path("text_out.jsonl").read_text().splitlines()[0])
    assert set(first) == {"text", "spans"}
    for span in first["spans"]:
        assert set(span) == {"start", "end", "label", "score"}
    call(f"predict {run} new.txt -o out.csv")
    call(f"predict {run} new.txt -o out.parquet")
    table = pl.read_parquet("out.parquet")
    assert table.columns == ["row", "start", "end", "label", "score", "text"]
    assert table.equals(pl.read_csv("out.csv"))
    assert len(table) == sum(map(len, expected))
    call(f"predict {run} tokens.jsonl -o out.conll")
    # There and back: what was predicted is all right.
    assert as_json(f"evaluate {run} out.conll")["micro_f1"] == 1.0
    assert as_json(f"evaluate {run} out.jsonl")["micro_f1"] == 1.0
    assert as_json(f"evaluate {run} text_out.jsonl")["micro_f1"] == 1.0
    assert "dry run" in call("train out.conll --task spans --dry-run")[1]


def test_names_that_are_taken_and_rows_that_have_more(trained: Path, here: Path) -> None:
    run, tokens = trained / "run", ["Emmy", "Noether", "visited", "Oslo", "."]
    rows = [{"tokens": tokens, "row": 1, "input_row": 2, "scores": 3, "input_scores": 4}] * 2
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call(f"predict {run} d.jsonl -o out.jsonl --keep all")
    written = json.loads(Path("out.jsonl").read_text().splitlines()[0])
    assert [written[key] for key in ("row", "input_row", "input_input_scores", "input_scores")] == [1, 2, 3, 4]
    call(f"predict {run} d.jsonl -o out.csv --keep row,input_row")
    assert pl.read_csv("out.csv").columns[:2] == ["input_input_row", "input_row"]
    Path("d.jsonl").write_text("".join(json.dumps({"tokens": tokens, key: 1}) + "\n" for key in "ab"))
    for name in ("more.csv", "more.parquet"):
        assert "line 2: expected what the first row has, with --keep all" in bad(
            f"predict {run} d.jsonl -o {name} --keep all"
        )
    call(f"predict {run} d.jsonl -o more.jsonl --keep all")


def test_what_is_kept(trained: Path, here: Path) -> None:
    Path("d.jsonl").write_text('{"id": 7, "text": "It rains today .", "meta": {"a": [1]}}\n')
    call(f"predict {trained}/run d.jsonl -o out.jsonl --keep id,meta")
    assert json.loads(Path("out.jsonl").read_text())["meta"] == {"a": [1]}
    call(f"predict {trained}/run d.jsonl -o out2.jsonl --keep all")
    assert Path("out.jsonl").read_text() == Path("out2.jsonl").read_text()
    assert "expected 'met' to keep, got a row without it (did you mean 'meta'?)" in bad(
        f"predict {trained}/run d.jsonl -o o.jsonl --keep met"
    )


def test_an_interrupted_training_goes_on_to_the_same_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_jsonl("d.jsonl", ROWS[:40])
    config = Config(data=data, task="spans", loss="zlpr", model="cnn", epochs=3, out="whole")
    goes_on_to_the_same_run(config, monkeypatch, (1, 2, 4, 7), folder=SPAN_RUN, train=train_spans)


def test_a_loss_that_is_not_finite_is_said(here: Path) -> None:
    data = write_jsonl("d.jsonl", ROWS[:40])
    said = bad_training(Config(data=data, task="spans", loss="zlpr", model="cnn", rate=1e30, epochs=3))
    assert "expected a finite loss, got" in said
    assert "the learning rate may be too high: --set rate=3e+29" in said


def bad_training(config):
    with pytest.raises(InputError) as caught:
        train_spans(config)
    return str(caught.value)


@pytest.mark.parametrize("loss", ["bce", "bce+bias", "focal"])
def test_rivals_are_fitted(here: Path, loss: str) -> None:
    data = write_jsonl("d.jsonl", ROWS[:30])
    trained = train_spans(Config(data=data, task="spans", model="cnn", loss=loss, epochs=2))
    assert trained is not None
    assert trained.run.info["loss"] == loss


def test_the_bias_starts_at_half_the_logit_of_the_share(here: Path) -> None:
    from manyhot.toolkit.spans.inputs import read_spans

    config = Config(data=write_jsonl("d.jsonl", ROWS), task="spans", loss="zlpr", model="cnn")
    training = read_spans(config)
    learner = fitting.plan(config, training, None, "cpu")
    network, _ = learner.draw(training, training.train)
    width = training.max_width
    cells = sum(min(width, n) * n - min(width, n) * (min(width, n) - 1) // 2 for n in map(len, training.train.tokens))
    share = (training.counts + 0.5) / (cells + 1)
    expected = 0.5 * np.log(share / (1 - share))
    np.testing.assert_allclose(network.head.end.bias.detach().numpy(), expected, rtol=1e-5)


def test_few_rows_are_fitted_without_any_held_out(here: Path) -> None:
    data = write_jsonl("d.jsonl", ROWS[:6])
    trained = train_spans(Config(data=data, task="spans", loss="zlpr", model="cnn", epochs=2))
    assert trained is not None
    assert trained.metrics == {}
    assert trained.path is not None
    found = json.loads((trained.path / "findings.json").read_text())
    assert found["measured"]["part"] == "train"
    assert any("too few rows" in warning["text"] for warning in found["warnings"])


def test_validation_rows_groups_and_parts(here: Path) -> None:
    data = write_jsonl("d.jsonl", ROWS[:40])
    valid = write_jsonl("v.jsonl", sentences(12, 9))
    said = call(f"train {data} --valid {valid} --task spans --set epochs=2 --json")[0]
    assert set(json.loads(said)) >= {"run", "valid", "offset", "epochs"}
    rows = [json.loads(line) for line in Path(data).read_text().splitlines()]
    parts = [row | {"part": ("train", "train", "dev", "test")[i % 4], "doc": i // 5} for i, row in enumerate(rows)]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in parts))
    _, said = call("train p.jsonl --task spans --split-column part --group doc --dry-run")
    assert "rows by part: 20 train, 10 valid, 10 test" in said
    assert "groups: doc (8 groups)" in said
    types = r"^types: .*\(\d+\); [12] types? seen fewer than 9 times \((ORG|LOC|PER)[^)]*\)$"
    assert re.search(types, said, re.MULTILINE)


def test_types_that_training_does_not_know_count_as_missed(trained: Path, here: Path) -> None:
    Path("d.jsonl").write_text('{"tokens": ["Oslo", "rains"], "entities": [[0, 1, "LOC"], [1, 2, "ODD"]]}\n')
    _, said = call(f"evaluate {trained}/run d.jsonl")
    assert "warning: 1 type of this file is unknown to the run, with 1 span: ODD" in said


def test_the_same_table_on_stdout_and_as_json(trained: Path, here: Path) -> None:
    stdout, _ = call(f"evaluate {trained}/run {trained}/test.jsonl")
    assert stdout.splitlines()[1].startswith("micro-F1")
    assert "F1 of borders alone" in stdout
    assert as_json(f"evaluate {trained}/run {trained}/test.jsonl")["spans"] > 30


# What is typed, the file, and what is said: the kinds of mistake that only the whole of it shows.
REFUSED = [
    ('{"tokens": ["a"], "entities": []}\n' * 3, "", "expected rows with spans, got 3 rows without any"),
    ('{"tokens": ["a"], "entities": [[0, 1, "X"]]}\n', "", "expected two rows or more to learn from, got one"),
    (
        '{"tokens": ["a", "b"], "entities": [[0, 2, "X"], [1, 2, "Y"]]}\n' * 3,
        "--nested no",
        "line 1: expected spans that do not overlap with --nested no, got (0, 2, 'X') and (1, 2, 'Y'); leave one "
        "out, or "
        "type --nested yes",
    ),
    ('{"tokens": ["a"], "entities": [[0, 1, "X"]]}\n' * 3, "--labels x", "labels is not of --task spans; got ('x',)."),
    (
        '{"tokens": ["a"], "entities": [[0, 1, "X"]]}\n' * 3,
        "--model mlp",
        "model expects one of cnn, encoder:NAME_OR_DIR; got",
    ),
    ('{"tokens": ["a"], "entities": [[0, 1, "X"]]}\n' * 3, "--long mean", "long is not of --task spans; got 'mean'."),
    ('{"tokens": ["a"], "entities": [[0, 1, "X"]]}\n' * 3, "--set words=false", "words is not of --task spans; got"),
    ('{"tokens": ["a"], "entities": [[0, 1, "X"]]}\n' * 3, "--loss dice", "loss expects one of zlpr, bce, bce+bias"),
    ('{"tokens": ["a"], "entities": [[0, 1, "X"]]}\n' * 3, "--nested maybe", "nested expects one of auto, yes, no"),
    (
        '{"tokens": ["a"], "entities": [[0, 1, "X"]]}\n' * 3,
        "--group doc",
        "line 1: expected a group under 'doc', got no",
    ),
    ('{"tokens": ["a"], "entities": [[0, 1, "X"]]}\n' * 3, "--set epochs=0", "epochs expects auto or a whole number"),
]


@pytest.mark.parametrize(("content", "options", "said"), REFUSED)
def test_what_is_refused(here: Path, content: str, options: str, said: str) -> None:
    Path("d.jsonl").write_text(content)
    assert said in bad(f"train d.jsonl --task spans {options}")


def test_what_may_be_wrong_is_said_and_goes_on(here: Path) -> None:
    texts = ["Ada met Bo in Lakeside ."] * 120
    marks = [[(0, 3, "PER"), (8, 10, "PER")] for _ in texts]
    marks[7].append((14, 18, "LOC"))  # within a token
    marks[8] += [(4, 10, "X"), (8, 13, "X")]
    records = [
        {"text": text, "spans": [{"start": a, "end": b, "label": k} for a, b, k in spans]}
        for text, spans in zip(texts, marks, strict=True)
    ]
    records[9]["spans"].append({"start": 14, "end": 24, "label": "ONCE"})
    Path("d.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    _, said = call("train d.jsonl --task spans --dry-run")
    assert "1 of 244 spans have a border inside of a token, the first on line 8: 'Lake' in the token 'Lakeside'" in said
    assert "warning: 1 pairs of spans cross, neither inside of the other" in said
    assert "warning: 1 type with one training span: ONCE." in said


def test_a_run_of_another_task_and_its_options_are_refused(trained: Path, here: Path) -> None:
    Path("t.csv").write_text("text,labels\n" + "good film,praise|film\nbad film,film\n" * 5)
    call("train t.csv --set C=2 --tau 0")
    assert "expected a file of spans in one of these formats" in bad(f"predict {trained}/run t.csv -o o.jsonl")
    assert "nested is of --task spans" in bad("train t.csv --nested yes")


@pytest.mark.parametrize("form", ["tokens", "text"])
def test_a_file_of_spans_given_without_the_task_is_recognised(here: Path, form: str) -> None:
    said = bad("train " + write_jsonl("d.jsonl", ROWS[:10], form))
    assert "are learned with --task spans" in said
    Path("d.conll").write_text("a O\n\nb B-X\n")
    assert "are learned with --task spans" in bad("train d.conll")
