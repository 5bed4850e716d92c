"""A pretrained encoder, frozen and fine-tuned: a tiny BERT of random weights, made here, read as data alone."""

import importlib.util
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import tiny_bert
from interrupted import Killed, contents, killed
from manyhot import load_run
from manyhot.toolkit.config import Config, make_config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models import encoder as module
from manyhot.toolkit.models import pretrained
from manyhot.toolkit.models.pretrained import Encoder
from manyhot.toolkit.train import Listener, train
from tiny_texts import KINDS, texts_and_sets

pytestmark = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not here")

WORDS = [*tiny_bert.SPECIAL, "and", *" ".join(KINDS.values()).split()]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Save a BERT of one layer with a word-level tokenizer."""
    return tiny_bert.save(tmp_path_factory.mktemp("encoder") / "tiny-bert", WORDS[len(tiny_bert.SPECIAL) :])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Tiny and random: it learns by steps larger than those that suit a pretrained network.
    monkeypatch.setattr(module, "SCHEDULE", replace(module.SCHEDULE, rate=1e-2, epochs=20, patience=5))


def files(rows=60):
    for name, seed, number in (("d.jsonl", 0, rows), ("t.jsonl", 1, 30)):
        texts, sets = texts_and_sets(number, seed)
        pl.DataFrame({"text": texts, "labels": sets}).write_ndjson(name)


def by_hand(folder, text):
    """The numbers of one text, alone and unpadded, from transformers itself."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=12)
        return network(**encoded).last_hidden_state[0].double().mean(0).numpy()


def test_numbers_are_the_mean_of_the_last_layer_whatever_is_beside_them(checkpoint):
    encoder = Encoder.read(str(checkpoint), "cpu")
    texts = ["fox", "rose and moss and flint", "", "unknown words", "fox and " * 20]
    numbers = encoder.transform(texts)
    assert numbers.shape == (5, encoder.width) == (5, 16)
    assert numbers.dtype == np.float32
    for text, row in zip(texts, numbers, strict=True):
        np.testing.assert_allclose(row, by_hand(checkpoint, text), atol=1e-5)
    assert encoder.tokens.limit == 12  # two less than the positions: RoBERTa's begin at 2
    many = texts * 20
    np.testing.assert_allclose(encoder.transform(many), np.tile(numbers, (20, 1)), atol=1e-5)


def test_the_numbers_of_the_training_texts_are_made_once(checkpoint, monkeypatch):
    files()
    made = []
    original = pretrained.embed
    monkeypatch.setattr(pretrained, "embed", lambda n, ids, *a: (made.append(len(ids)), original(n, ids, *a))[1])
    train(Config(data="d.jsonl", test="t.jsonl", model=f"encoder:{checkpoint}", C=1.0, out="run"))
    assert made == [60, 30]
    made.clear()
    train(Config(data="d.jsonl", model=f"encoder:{checkpoint}", out="no"), dry_run=True)
    assert made == [16]
    assert not Path("no").exists()


@pytest.mark.parametrize("fine_tune", [False, True])
def test_a_run_stands_by_itself(checkpoint, tmp_path, fine_tune):
    files(100)
    state = torch.random.get_rng_state()
    folder = Path(tmp_path / "mine")
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    said = []
    config = Config(data="d.jsonl", test="t.jsonl", model=f"encoder:{folder}", fine_tune=fine_tune, out="run")
    trained: Any = train(config, Listener(say=said.append))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert trained.metrics["test"]["micro_f1"] > 0.8
    (sentence,) = (line for line in said if line.startswith("model: "))
    assert ("texts of at most 12 tokens" if fine_tune else "the mean of mine's last layer + 16 numbers") in sentence
    assert ("mine fine-tuned, AdamW in mini-batches on CPU" if fine_tune else "full-batch L-BFGS") in sentence
    for path in folder.iterdir():
        path.unlink()
    loaded: Any = load_run("run")
    texts, _ = texts_and_sets(30, seed=1)
    np.testing.assert_array_equal(loaded.predict_logits(texts), trained.run.predict_logits(texts))
    assert loaded.evaluate(pl.read_ndjson("t.jsonl")) == trained.metrics["test"]
    # Fine-tuning changes the network, and freezing does not.
    before = {"encoder." + name: value for name, value in _weights(checkpoint).items()}
    arrays = trained.run.features.state()[1] if not fine_tune else trained.run.model.arrays()
    name = "embeddings.word_embeddings.weight"
    after = arrays["encoder." + name if not fine_tune else "network." + name]
    assert np.array_equal(after, before["encoder." + name]) != fine_tune


def _weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def test_text_and_numbers_together(checkpoint):
    texts, sets = texts_and_sets(60)
    frame = pl.DataFrame({"text": texts, "x": np.random.default_rng(0).normal(size=60), "labels": sets})
    frame.write_parquet("d.parquet")
    config = Config(data="d.parquet", text=("text",), features=("x",), model=f"encoder:{checkpoint}", out="run")
    trained: Any = train(config)
    assert trained.run.model.weight.shape[0] == 17
    loaded: Any = load_run("run")
    np.testing.assert_array_equal(loaded.predict_logits(frame), trained.run.predict_logits(frame))
    with pytest.raises(InputError, match="this run was trained on text, x; give a frame"):
        loaded.predict(texts)
    with pytest.raises(
        InputError, match="fine_tune reads text alone; name its columns with --text, or leave fine_tune out"
    ):
        train(replace(config, fine_tune=True, out="other"))


def test_it_needs_text(checkpoint):
    pl.DataFrame({"a": [1.5, 2, 3, 4], "b": [2.5, 1, 7, 3], "y1": [0, 1, 0, 1], "y2": [1, 0, 0, 1]}).write_csv("d.csv")
    with pytest.raises(InputError, match=r"d\.csv: an encoder reads text, got only numbers; use --model linear or mlp"):
        train(Config(data="d.csv", labels=("y1", "y2"), model=f"encoder:{checkpoint}"))
    assert os.listdir() == ["d.csv"]


@pytest.mark.parametrize("fine_tune", [False, True])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(checkpoint, monkeypatch, fine_tune):
    monkeypatch.setattr("manyhot.toolkit.disk.checkpoint.EVERY", 0.0)
    monkeypatch.setattr("manyhot.toolkit.disk.checkpoint.SHARE", 1e9)
    files()
    options: Any = {"data": "d.jsonl", "valid": "t.jsonl", "model": f"encoder:{checkpoint}", "fine_tune": fine_tune}
    options |= {} if fine_tune else {"C": 1.0}
    train(Config(**options, out="whole"))
    for after in (3, 9):
        config = Config(**options, out=f"run{after}")
        assert killed(config, monkeypatch, after=after)
        said = []
        train(config, Listener(say=said.append), resume=True)
        assert said[0].startswith("going on")
        assert contents(config.out) == contents("whole")
    assert Killed


# Folders that are none


def copied(checkpoint, to):
    to.mkdir()
    for path in checkpoint.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def changed(path, **values):
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | values))


EXPECTED = "expected a checkpoint folder of transformers: config.json, *.safetensors, tokenizer.json; "


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: [p.unlink() for p in f.iterdir()], EXPECTED + "there is no config.json. Name the folder after"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), EXPECTED + "there are no safetensors, "),
        (lambda f: (f / "model.safetensors").write_bytes(b"none"), EXPECTED),
        (lambda f: (f / "config.json").write_text("{"), EXPECTED),
        (lambda f: (f / "config.json").write_text("{}"), EXPECTED),
        (lambda f: changed(f / "config.json", model_type="mine", auto_map={"AutoModel": "mine.Mine"}), EXPECTED),
        (lambda f: changed(f / "config.json", num_hidden_layers=2), EXPECTED + "the weights lack encoder.layer.1."),
        (lambda f: changed(f / "config.json", hidden_size=32), EXPECTED),
        (lambda f: [p.unlink() for p in f.glob("tokenizer*")], EXPECTED + "there is no tokenizer. Save it"),
    ],
)
def test_a_folder_that_is_no_checkpoint(checkpoint, tmp_path, spoil, message):
    files()
    folder = copied(checkpoint, tmp_path / "mine")
    spoil(folder)
    with pytest.raises(InputError) as caught:
        train(Config(data="d.jsonl", model=f"encoder:{folder}"))
    assert str(caught.value).startswith(f"{folder}: {message}")
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir()) == ["d.jsonl", "mine", "t.jsonl"]


def test_code_in_a_folder_is_not_executed(checkpoint, tmp_path):
    files()
    folder = copied(checkpoint, tmp_path / "mine")
    (folder / "evil.py").write_text("from pathlib import Path\nPath('executed').write_text('')\nclass Evil: pass\n")
    auto = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    changed(folder / "config.json", auto_map=auto, _attn_implementation="someone/kernel")
    train(Config(data="d.jsonl", model=f"encoder:{folder}", C=1.0, out="run"))
    state = json.loads(Path("run/run.json").read_bytes())
    assert "auto_map" not in json.dumps(state)
    assert "someone" not in json.dumps(state)
    load_run("run")
    assert not Path("executed").exists()


def test_without_transformers_the_command_to_type_is_named(checkpoint, monkeypatch):
    files()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"an encoder needs transformers: pip install 'manyhot\[encoder\]'"):
        train(Config(data="d.jsonl", model=f"encoder:{checkpoint}"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "encoder:"}, "model expects one of linear, mlp, encoder:DIR; got 'encoder:'"),
        ({"model": "encoder"}, "model expects one of linear, mlp, encoder:DIR; got 'encoder'"),
        ({"fine_tune": True}, "fine_tune is of --model encoder:DIR; leave it out, or name an encoder"),
        ({"fine_tune": "yes", "model": "encoder:x"}, "fine_tune expects true or false; got 'yes'"),
        ({"fine_tune": True, "model": "encoder:x", "C": 2}, "C is of the linear model, and fine_tune has none: "),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(InputError, match=message):
        make_config(None, [], {"data": "d.csv"} | options)


def test_the_factor_of_the_rate_rises_and_falls():
    assert [module.warmed(share) for share in (0, 0.05, 0.1, 0.55, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])
