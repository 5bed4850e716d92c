"""Spans on a pretrained encoder, trained: a tiny BERT of random weights, whose words are one piece or none."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import manyhot
import tiny_bert
from manyhot.toolkit.config import make_config
from manyhot.toolkit.models.pretrained import Encoder
from manyhot.toolkit.spans.network import Pretrained
from manyhot.toolkit.spans.train import train_spans
from relation_rows import linked_sentences, write_relations
from span_rows import sentences, write_jsonl

pytestmark = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = sorted({token for tokens, _ in sentences(200) for token in tokens if token.isalpha()})
    return tiny_bert.save(tmp_path_factory.mktemp("encoder") / "tiny-bert", words, positions=32)


def test_a_word_has_the_vector_of_its_first_piece(folder: Path) -> None:
    tokens = Encoder.read(str(folder), "cpu").tokens
    # The tokenizer cuts at signs: the second word has three pieces, the third none.
    ids, first = tokens.words(["Ada", "Ada-Ada", " ", "met"])
    assert len(ids) == 2 + 1 + 3 + 1
    assert first.tolist() == [1, 2, 5, 5]
    assert ids[first[0]] == ids[first[1]]
    assert tokens.words([])[0].tolist() == [2, 3]


def test_rows_are_cut_to_what_the_encoder_takes(folder: Path) -> None:
    encoder = Pretrained(Encoder.read(str(folder), "cpu"))
    assert encoder.most == 30 - 2
    assert encoder.sizes([["Ada", "Ada-Ada"], []])[0].tolist() == [1, 3]
    rows = [encoder.prepare(["Ada", "met"]), encoder.prepare(["Rome"])]
    assert tuple(encoder(rows, 3).shape) == (2, 3, 16)


def test_the_pooling_of_a_folder_does_not_widen_the_vectors_of_words(folder: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(folder, tmp_path / "mine")
    modules = {"Transformer": "", "Pooling": "1_Pooling"}
    kinds = [{"type": f"sentence_transformers.models.{name}", "path": path} for name, path in modules.items()]
    (whole / "modules.json").write_text(json.dumps(kinds))
    (whole / "1_Pooling").mkdir()
    (whole / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": ["cls", "mean"]}))
    read = Encoder.read(str(whole), "cpu")
    encoder = Pretrained(read)
    assert (encoder.width, read.width) == (16, 32)
    assert tuple(encoder([encoder.prepare(["Ada", "met"])], 2).shape) == (1, 2, encoder.width)


def test_an_encoder_is_trained_saved_and_used(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, test = write_jsonl("d.jsonl", sentences(80)), write_jsonl("t.jsonl", sentences(30, 1))
    options = {"data": data, "test": test, "task": "spans", "model": f"encoder:{folder}", "out": "run"}
    trained = train_spans(make_config(None, ["rate=1e-2", "epochs=10"], options))
    assert trained is not None
    assert trained.metrics["test"]["micro_f1"] > 0.6
    run = manyhot.load_run("run")
    assert run.evaluate("t.jsonl") == trained.metrics["test"]
    state = json.loads(Path("run/run.json").read_text())
    assert state["encoder"]["name"] == "tiny-bert"
    # A row of more pieces than the encoder takes is cut, and put together again.
    long = [token for tokens, _ in sentences(12, 3) for token in tokens]
    assert len(long) > 40
    assert max(span.end for span in run.predict([long])[0]) > 30
    rows = [tokens for tokens, _ in sentences(9, 4)]
    together = run.predict(rows)
    for row, spans in zip(rows, together, strict=True):
        alone = run.predict([row])[0]
        assert [span[:3] for span in alone] == [span[:3] for span in spans]
        np.testing.assert_array_equal([s.score for s in alone], [s.score for s in spans])


@pytest.mark.parametrize("design", ["gplinker", "cascade"])
def test_an_encoder_is_trained_on_relations(folder: Path, tmp_path: Path, design: str) -> None:
    options = {"task": "relations", "model": f"encoder:{folder}", "design": design, "epochs": 2, "rate": 1e-3}
    data = write_relations(tmp_path / "d.jsonl", linked_sentences(30))
    trained = train_spans(make_config(None, [], options | {"data": data, "out": str(tmp_path / "run")}))
    assert trained is not None
    assert isinstance(trained.run.network.encoder, Pretrained)
    run = manyhot.load_run(tmp_path / "run")
    rows = [tokens for tokens, *_ in linked_sentences(9, 1)]
    assert run.predict(rows) == trained.run.predict(rows) == [run.predict([row])[0] for row in rows]
