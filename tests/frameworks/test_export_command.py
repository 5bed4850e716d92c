"""`manyhot export`: runs of every kind become a file that decides as they do, or the reason why none can."""

# pyright: reportMissingImports=false

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import manyhot
from command import as_json, bad, call, files
from relation_rows import linked_sentences, write_relations
from span_rows import sentences, write_jsonl

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

LABELS = ("one", "two", "three")
FAST = "--set C=2 --tau 0"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def table(name: str, rows: int, seed: int) -> None:
    """Write four numbers, some missing, a column of words, and a 0/1 column a label: two lines of them, and a ring."""
    chance = np.random.default_rng(seed)
    x, kinds = chance.standard_normal((rows, 4)).round(3), chance.choice(["red", "green", "blue"], rows)
    near = (x[:, :2] ** 2).sum(1) < 1
    y = np.stack([x[:, 0] + (kinds == "red") > 0.5, x[:, 1] - x[:, 2] > 0, near], 1).astype(int)
    with open(name, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["w", "x", "y", "z", "kind", *LABELS])
        for i in range(rows):
            out.writerow([x[i, 0], "" if i % 9 == 4 else x[i, 1], x[i, 2], x[i, 3], kinds[i], *y[i]])


def described(path: str) -> dict[str, Any]:
    return {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}


def test_numbers_categories_and_columns_of_a_kernel() -> None:
    table("d.csv", 150, 0)
    table("new.csv", 40, 1)
    # With a strength of the prior given, no rows vote; the columns stay.
    call(f"train d.csv --labels {','.join(LABELS)} {FAST} --out run")
    run = manyhot.load_run("run")
    assert run.features.kernel is not None
    stdout, stderr = call("export run -o model.onnx --check new.csv")
    assert stdout == ""
    first, second = stderr.splitlines()
    assert first == "wrote model.onnx: 3 labels"
    assert second.startswith("40 rows of new.csv: logits differ by at most ")
    assert second.endswith(", label sets of 0 rows")
    said = as_json("export run -o model.onnx --check new.csv")
    assert said.keys() == {"out", "rows", "largest", "differing"}
    assert (said["out"], said["rows"], said["differing"]) == ("model.onnx", 40, 0)
    assert 0 < said["largest"] < 1e-5
    assert as_json("export run -o again.onnx") == {"out": "again.onnx"}
    assert Path("again.onnx").read_bytes() == Path("model.onnx").read_bytes()
    # What the metadata say is enough to ask a session, without manyhot.
    meta = described("model.onnx")
    assert meta["labels"] == list(LABELS)
    with open("new.csv") as file:
        rows = list(csv.DictReader(file))
    features = np.array([[float(row[name] or "nan") for name in meta["features"]] for row in rows], dtype=np.float32)
    (column, values), *more = meta["categories"].items()
    assert not more
    codes = np.array([[values.index(row[column]) if row[column] in values else len(values)] for row in rows])
    session = onnxruntime.InferenceSession("model.onnx")
    labels, probs = session.run(["labels", "probs"], {"features": features, "categories": codes})
    call("predict run new.csv -o predicted.jsonl")
    predicted = [json.loads(line) for line in Path("predicted.jsonl").read_text().splitlines()]
    assert [[LABELS[i] for i in np.flatnonzero(row)] for row in labels] == [
        sorted(row["labels"], key=LABELS.index) for row in predicted
    ]
    right = run.probs(pl.read_csv("new.csv"))
    np.testing.assert_allclose(probs, right, atol=1e-5)


def test_a_file_that_decides_otherwise_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    table("d.csv", 60, 0)
    call(f"train d.csv --labels {','.join(LABELS)} --neighbours off --set kernel=off {FAST} --out run")
    from manyhot import onnx as leaf

    monkeypatch.setattr(leaf, "check_export", lambda *_: {"rows": 60, "largest": 0.1, "differing": 2})
    _, stderr = call("export run -o model.onnx --check d.csv", 1)
    assert stderr.splitlines()[-1] == "error: label sets of 2 of 60 rows differ from those of the run"


def test_rows_that_vote_are_refused() -> None:
    # Labels in rings around a point, which a linear model has not, and which no column of a kernel helps it with.
    chance = np.random.default_rng(0)
    x = chance.uniform(-2, 2, (240, 2)).round(3)
    rings = np.hypot(*x.T)[:, None] // [0.4, 0.7, 1.1] % 2
    lines = [",".join(map(str, [*a, *b.astype(int)])) for a, b in zip(x, rings, strict=True)]
    Path("d.csv").write_text("\n".join(["x,y,one,two,three", *lines]))
    call(f"train d.csv --labels {','.join(LABELS)} --set C=2 --set kernel=off --out run")
    assert manyhot.load_run("run").neighbours is not None
    assert "train with --neighbours off" in bad("export run -o model.onnx")


def test_words_are_refused() -> None:
    texts = ["red square", "red circle", "blue square", "blue circle"] * 8
    lines = [json.dumps({"text": text, "labels": text.split()}) for text in texts]
    Path("d.jsonl").write_text("\n".join(lines))
    call(f"train d.jsonl {FAST} --out run")
    said = bad("export run -o model.onnx")
    assert "TF-IDF is not in ONNX" in said
    assert "--model encoder:NAME --set words=false" in said


def test_spans_and_relations_are_refused() -> None:
    fast = "--set epochs=1 --device cpu"
    write_jsonl("spans.jsonl", sentences(60))
    call(f"train spans.jsonl --task spans {fast} --out spans")
    write_relations("relations.jsonl", linked_sentences(60))
    call(f"train relations.jsonl --task relations {fast} --out relations")
    for run in ("spans", "relations"):
        said = bad(f"export {run} -o model.onnx --check spans.jsonl")
        assert said == "export takes a run on texts or numbers; one on spans has no network of its own."


def test_places_that_are_none() -> None:
    table("d.csv", 60, 0)
    call(f"train d.csv --labels {','.join(LABELS)} --neighbours off --set kernel=off {FAST} --out run")
    assert "there is none" in bad("export nowhere -o model.onnx")
    before = files()
    assert "not/there/model.onnx: expected a file in a folder that exists" in bad("export run -o not/there/model.onnx")
    _, stderr = call("export run -o model.onnx --check missing.csv", 2)
    assert "missing.csv" in stderr.splitlines()[-1]
    assert files() == before
