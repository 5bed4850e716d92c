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
import scipy.sparse as sp
import torch

import encoder as bench
import fine_tuning as tuning
import tiny_bert
from interrupted import Killed, contents, killed
from manyhot import load_run
from manyhot.toolkit.choose.cross_fit import score_by
from manyhot.toolkit.compare.compare import compare
from manyhot.toolkit.compare.methods import make_comparison
from manyhot.toolkit.config import Config, make_config
from manyhot.toolkit.disk.fits import UNSAVED
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models import encoder as module
from manyhot.toolkit.models import pretrained
from manyhot.toolkit.models.adamw import descend
from manyhot.toolkit.models.early_stopping import mean_loss
from manyhot.toolkit.models.encoder import FineTuned
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.kinds import learner_for, listed_learner_for
from manyhot.toolkit.models.meaning import Meaning
from manyhot.toolkit.models.model import unheard
from manyhot.toolkit.models.pooling import Pooling
from manyhot.toolkit.models.pretrained import Encoder
from manyhot.toolkit.objectives import FORMULAS, LISTED_LOSSES
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.train import train
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


def last_layer(folder, text, limit=12):
    """The last layer (tokens, width) of one text, alone and unpadded, from transformers itself."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=limit)
        return network(**encoded).last_hidden_state[0].double().numpy()


def by_hand(folder, text):
    return last_layer(folder, text).mean(0)


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


# By hand, of one row's last layer (tokens, width), from the definitions of sentence-transformers.
POOLED = {
    "cls": lambda h: h[0],
    "max": lambda h: h.max(0),
    "mean": lambda h: h.mean(0),
    "mean_sqrt_len": lambda h: h.sum(0) / len(h) ** 0.5,
    "weightedmean": lambda h: np.average(h, axis=0, weights=np.arange(1, len(h) + 1)),
    "lasttoken": lambda h: h[-1],
}


@pytest.mark.parametrize("mode", POOLED)
def test_pooling_is_what_its_name_says_beside_longer_rows(mode):
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(length, 3)) for length in (1, 4, 7)]
    hidden = np.stack([np.vstack([row, np.full((7 - len(row), 3), 9.0)]) for row in rows])
    known = torch.tensor([[i < len(row) for i in range(7)] for row in rows])
    found = Pooling((mode,))(torch.from_numpy(hidden), known)
    np.testing.assert_allclose(found, [POOLED[mode](row) for row in rows], atol=1e-12)


def sentences(checkpoint, to, pooling, *modules, inner="", **limits):
    """Save the tiny BERT as sentence-transformers saves one."""
    folder = copied(checkpoint, to)
    (folder / inner).mkdir(exist_ok=True)
    if inner:
        for path in [path for path in folder.iterdir() if path.is_file()]:
            path.rename(folder / inner / path.name)
    paths = {"Transformer": inner, "Pooling": "1_Pooling", **{name: f"{i}_{name}" for i, name in enumerate(modules, 2)}}
    kinds = [{"type": f"sentence_transformers.models.{name}", "path": path} for name, path in paths.items()]
    (folder / "modules.json").write_text(json.dumps(kinds))
    (folder / inner / "sentence_bert_config.json").write_text(json.dumps(limits))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16} | pooling))
    return folder


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ["cls"]),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True, "include_prompt": True}, ["max", "mean"]),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ["mean_sqrt_len"]),
        ({"pooling_mode_lasttoken": True}, ["lasttoken"]),
        ({"pooling_mode": "weightedmean"}, ["weightedmean"]),
        ({"pooling_mode": ["mean_sqrt_len_tokens", "cls"]}, ["cls", "mean_sqrt_len"]),
    ],
)
def test_a_folder_of_sentence_transformers_keeps_its_pooling_limit_and_length(checkpoint, tmp_path, pooling, modes):
    inner = "0_Transformer" if modes == ["cls"] else ""
    options = {"inner": inner, "max_seq_length": 6, "do_lower_case": False}
    folder = sentences(checkpoint, tmp_path / "mine", pooling, "Normalize", **options)
    encoder = Encoder.read(str(folder), "cpu")
    assert (encoder.name, encoder.tokens.limit, encoder.width) == ("mine", 6, 16 * len(modes))
    texts = ["fox", "rose and moss and flint", ""]
    numbers = encoder.transform(texts)
    for text, row in zip(texts, numbers, strict=True):
        hidden = last_layer(checkpoint, text, 6)
        expected = np.concatenate([POOLED[mode](hidden) for mode in modes])
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-6)
    state, arrays = encoder.state()
    again = Encoder.from_state(json.loads(json.dumps(state)), arrays, "cpu")
    np.testing.assert_array_equal(again.transform(texts), numbers)


def test_a_pooling_that_is_not_known_is_named(checkpoint, tmp_path):
    folder = sentences(checkpoint, tmp_path / "mine", {"pooling_mode": "attention"})
    with pytest.raises(
        InputError, match=r"mine: expected modules\.json .*; expected a pooling of cls, .*; got attention"
    ):
        Encoder.read(str(folder), "cpu")


def test_long_texts_are_cut_or_the_mean_of_all_their_tokens(checkpoint):
    texts = ["fox", "rose and " * 13, "moss"]
    cut, mean = (Encoder.read(str(checkpoint), "cpu", long) for long in ("cut", "mean"))
    short = [0, 2]
    np.testing.assert_allclose(mean.transform(texts)[short], cut.transform(texts)[short], atol=1e-6)
    ids, texts_of = mean.tokens.pieces(texts)
    assert texts_of.tolist() == [0, 1, 1, 1, 2]  # 26 words in pieces of 10
    assert [(row >= 0).sum() for row in ids] == [3, 12, 12, 8, 3]
    words = texts[1].split()
    pieces = [last_layer(checkpoint, " ".join(words[i : i + 10])) for i in (0, 10, 20)]
    np.testing.assert_allclose(mean.transform(texts)[1], np.vstack(pieces).mean(0), atol=1e-5)
    np.testing.assert_allclose(cut.transform(texts)[1], pieces[0].mean(0), atol=1e-5)


def test_the_numbers_of_the_training_texts_are_made_once(checkpoint, monkeypatch):
    files()
    made = []
    original = pretrained.embed
    monkeypatch.setattr(pretrained, "embed", lambda n, p, ids, *a: (made.append(len(ids)), original(n, p, ids, *a))[1])
    train(Config(data="d.jsonl", test="t.jsonl", model=f"encoder:{checkpoint}", C=1.0, out="run"))
    first, others = (set(pl.read_ndjson(name)["text"].to_list()) for name in ("d.jsonl", "t.jsonl"))
    assert made == [len(first), len(others - first)]
    made.clear()
    train(Config(data="d.jsonl", model=f"encoder:{checkpoint}", out="no"), dry_run=True)
    assert made == [len(set(pl.read_ndjson("d.jsonl")["text"].to_list()[:16]))]
    assert not Path("no").exists()


def test_a_second_run_and_a_comparison_make_no_numbers_again(checkpoint, tmp_path, monkeypatch):
    files()
    monkeypatch.setenv("MANYHOT_CACHE", str(tmp_path / "cache"))
    made, said = [], []
    original = pretrained.embed
    monkeypatch.setattr(pretrained, "embed", lambda n, p, ids, *a: (made.append(len(ids)), original(n, p, ids, *a))[1])
    config = Config(data="d.jsonl", test="t.jsonl", model=f"encoder:{checkpoint}", C=1.0)
    first: Any = train(replace(config, out="first"), Listener(say=said.append))
    unique = len(set(pl.read_ndjson("d.jsonl")["text"].to_list()))
    assert made[0] == unique
    (sentence,) = (line for line in said if line.startswith("numbers of tiny-bert"))
    assert f"{unique} made, {60 - unique} known; all that are kept lie in {tmp_path}/cache/numbers, 0.0 MB" in sentence
    made.clear()
    train(replace(config, out="second"))
    assert contents("first") == contents("second")
    compared = compare(make_comparison(config, "bce,bce+prior", 3, 1), Listener(), command=[])
    assert made == []
    ours = next(row for row in compared.result["methods"] if row["name"] == "bce+prior")
    assert ours["metrics"] == {key: first.metrics["test"][key] for key in ours["metrics"]}
    train(replace(config, long="mean", out="third"))
    assert made[0] == unique  # other numbers, though no text is long
    texts, _ = texts_and_sets(5, seed=7)
    loaded: Any = load_run("second")
    made.clear()
    loaded.predict([f"{text} and {text}" for text in texts])
    assert made == [5]
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 4  # what a loaded run predicts is not kept


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
    trained: Any = train(config, Listener(say=said.append, detail=said.append))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert trained.metrics["test"]["micro_f1"] > 0.8
    (sentence,) = (line for line in said if line.startswith("model: "))
    assert ("texts of at most 12 tokens" if fine_tune else "word pairs + 16 numbers of mine (mean)") in sentence
    assert ("mine fine-tuned, AdamW in mini-batches on CPU" if fine_tune else "full-batch L-BFGS") in sentence
    for path in folder.iterdir():
        path.unlink()
    loaded: Any = load_run("run")
    texts, _ = texts_and_sets(30, seed=1)
    np.testing.assert_array_equal(loaded.predict_logits(texts), trained.run.predict_logits(texts))
    assert loaded.evaluate(pl.read_ndjson("t.jsonl")) == trained.metrics["test"]
    for found in loaded.explain(texts[:3]):
        for reason in found.labels:
            assert reason.base + sum(part.score for part in reason.parts) == pytest.approx(reason.score, abs=1e-4)
            # Beside words, all that the encoder says is one part.
            meaning = [part.name for part in reason.parts if part.kind == "meaning"]
            assert meaning == ([] if fine_tune else ["mine"])
            assert any(part.kind == "word" for part in reason.parts)
    if fine_tune:
        with_it, without = loaded.predict_logits(["fox and tree", " and tree"])
        (found,) = loaded.explain("fox and tree", ["animal"])
        label = loaded.label_names.index("animal")
        lost = {part.name: part.score for part in found.labels[0].parts}
        assert lost["fox"] == pytest.approx(with_it[label] - without[label], abs=1e-5)
    # Fine-tuning changes the network, and freezing does not.
    before = {"encoder." + name: value for name, value in _weights(checkpoint).items()}
    arrays = trained.run.features.state()[1] if not fine_tune else trained.run.model.arrays()
    name = "embeddings.word_embeddings.weight"
    after = arrays["encoder." + name if not fine_tune else "network." + name]
    assert np.array_equal(after, before["encoder." + name]) != fine_tune


def _weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_fine_tuning_keeps_the_pooling_of_a_folder(checkpoint, tmp_path):
    files()
    folder = sentences(checkpoint, tmp_path / "mine", {"pooling_mode": ["cls", "mean"]}, "Normalize")
    trained: Any = train(Config(data="d.jsonl", model=f"encoder:{folder}", fine_tune=True, out="run"))
    assert trained.run.model.pooling == Pooling(("cls", "mean"))  # not of length 1
    assert trained.run.model.weight.shape[0] == 32
    texts, _ = texts_and_sets(30, seed=1)
    loaded: Any = load_run("run")
    np.testing.assert_array_equal(loaded.predict_logits(texts), trained.run.predict_logits(texts))


@pytest.mark.slow
def test_fine_tuning_from_lists_and_after_a_kill(checkpoint, monkeypatch):
    files()
    monkeypatch.setattr("manyhot.toolkit.plan.MOST_CELLS", 100)
    monkeypatch.setattr(Examples, "dense_targets", lambda self: pytest.fail("rows x labels were written out"))
    config = Config(
        data="d.jsonl", test="t.jsonl", model=f"encoder:{checkpoint}", fine_tune=True, loss="zlpr", out="run"
    )
    trained: Any = train(config)
    assert trained.run.keeps_best
    assert trained.metrics["test"]["micro_f1"] > 0.8
    assert "psp_at_1" in trained.metrics["test"]
    texts, _ = texts_and_sets(30, seed=1)
    loaded: Any = load_run("run")
    np.testing.assert_array_equal(loaded.predict_logits(texts), trained.run.predict_logits(texts))
    assert loaded.evaluate(pl.read_ndjson("t.jsonl")) == trained.metrics["test"]
    monkeypatch.setattr("manyhot.toolkit.disk.checkpoint.WRITE_SECONDS", 0.0)
    monkeypatch.setattr("manyhot.toolkit.disk.checkpoint.SHARE", 1e9)
    written, replace_file = [], os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *given: written.append(given) or replace_file(*given))
        train(replace(config, out="counted"))
    restored, original = [], FineTuned.restored
    monkeypatch.setattr(FineTuned, "restored", lambda *given: restored.append(given) or original(*given))
    # In the middle of the first of four fits, and when two are done, which are then restored.
    for share in (0.05, 0.6):
        place = replace(config, out=f"after{share}")
        assert killed(place, monkeypatch, after=int(share * len(written)))
        train(place, resume=True)
        assert contents(place.out) == contents("run")
        assert bool(restored) == (share == 0.6)


def test_text_and_numbers_together(checkpoint):
    texts, sets = texts_and_sets(60)
    frame = pl.DataFrame({"text": texts, "x": np.random.default_rng(0).normal(size=60), "labels": sets})
    frame.write_parquet("d.parquet")
    config = Config(data="d.parquet", text=("text",), features=("x",), model=f"encoder:{checkpoint}", out="run")
    trained: Any = train(config)
    words = sum(len(block.terms) for block in trained.run.features.blocks)
    assert trained.run.model.weight.shape[0] == words + 17
    loaded: Any = load_run("run")
    np.testing.assert_array_equal(loaded.predict_logits(frame), trained.run.predict_logits(frame))
    with pytest.raises(InputError, match="this run was trained on text, x; give a file, or in Python a frame"):
        loaded.predict(texts)
    with pytest.raises(
        InputError, match="fine_tune reads text alone; name its columns with --text, or leave fine_tune out"
    ):
        train(replace(config, fine_tune=True, out="other"))


def test_numbers_stand_beside_words_as_a_block_of_its_own_length(checkpoint):
    encoder = Encoder.read(str(checkpoint), "cpu")
    texts, _ = texts_and_sets(60)
    examples = Examples("d", texts, None, None, [])
    features, words = Features.fit(examples, encoder), Features.fit(examples)
    X, beside = features.transform(examples).toarray(), words.transform(examples).toarray()
    assert X.shape == (60, features.size) == (60, words.size + 16)
    np.testing.assert_array_equal(X[:, :-16], beside)
    numbers = np.array([by_hand(checkpoint, text) for text in texts])
    expected = (numbers - numbers.mean(0)) / numbers.std(0) / 4
    np.testing.assert_allclose(X[:, -16:], expected, atol=1e-4)
    np.testing.assert_allclose((X[:, -16:] ** 2).sum(1).mean(), 1, rtol=1e-5)
    alone = Features.fit(examples, encoder, words=False)
    np.testing.assert_array_equal(alone.transform(examples), X[:, -16:])  # dense
    state, arrays = features.state()
    again = Features.from_state(json.loads(json.dumps(state)), arrays)
    np.testing.assert_array_equal(again.transform(examples).toarray(), X)
    assert not again.reads_numbers
    assert again.reads_text


def test_numbers_that_are_all_the_same_are_0(checkpoint):
    encoder = Encoder.read(str(checkpoint), "cpu")
    meaning = Meaning.fit(encoder, ["fox"] * 3)
    np.testing.assert_array_equal(meaning.transform(["fox", "rose"]), np.zeros((2, 16)))


def test_words_can_be_left_out(checkpoint):
    files()
    config = Config(data="d.jsonl", test="t.jsonl", model=f"encoder:{checkpoint}", C=1.0, words=False, out="run")
    trained: Any = train(config)
    assert trained.run.features.blocks == []
    assert trained.run.model.weight.shape[0] == 16
    loaded: Any = load_run("run")
    texts, _ = texts_and_sets(30, seed=1)
    np.testing.assert_array_equal(loaded.predict_logits(texts), trained.run.predict_logits(texts))


def test_it_needs_text(checkpoint):
    pl.DataFrame({"a": [1.5, 2, 3, 4], "b": [2.5, 1, 7, 3], "y1": [0, 1, 0, 1], "y2": [1, 0, 0, 1]}).write_csv("d.csv")
    with pytest.raises(InputError, match=r"d\.csv: an encoder reads text, got only numbers; use --model linear or mlp"):
        train(Config(data="d.csv", labels=("y1", "y2"), model=f"encoder:{checkpoint}"))
    assert os.listdir() == ["d.csv"]


@pytest.mark.parametrize("fine_tune", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(checkpoint, monkeypatch, fine_tune):
    monkeypatch.setattr("manyhot.toolkit.disk.checkpoint.WRITE_SECONDS", 0.0)
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


# benchmarks/encoder.py


def test_the_benchmark_starts_where_it_says_and_measures_what_it_says(checkpoint, monkeypatch):
    files(100)
    encoder = Encoder.read(str(checkpoint), "cpu")
    task = bench.Task(Config(data="d.jsonl", test="t.jsonl"), len(KINDS), rows=80)
    rows = bench.rows_of(task, encoder)
    assert len(rows.X) + len(rows.X_held) == 80
    assert len(rows.X_test) == 30
    third = rows.third()
    assert len(third.X) == pytest.approx(len(rows.X) / 3, abs=2)
    assert list(bench.fitted(encoder, third, bench.KINDS["ZLPR"], 1e-2, 0, epochs=1)["decisions"]["rule"]) == [
        *("tau", "offset", "held_micro", "held_macro")
    ]
    starts = []
    original = bench.descend
    monkeypatch.setattr(bench, "descend", lambda p, *a, **o: (starts.append(p["bias"].tolist()), original(p, *a, **o)))
    fits = {name: bench.fitted(encoder, rows, kind, 1e-2, 0, epochs=3) for name, kind in bench.KINDS.items()}
    share = (rows.targets.sum(0) + 0.5) / (len(rows.targets) + 1)
    odds = np.log(share / (1 - share))
    for start, scale in zip(starts, (0.5, 0, 1, 1), strict=True):
        np.testing.assert_allclose(start, scale * odds, atol=1e-4)
    again = bench.fitted(encoder, rows, bench.KINDS["ZLPR"], 1e-2, 0, epochs=3)
    assert {**again, "seconds": 0} == {**fits["ZLPR"], "seconds": 0}
    batches = -(-len(rows.X) // 16)
    assert fits["ZLPR"]["curve"][-1]["step"] == 3 * batches
    for fit in fits.values():
        decisions = fit["decisions"]
        assert list(decisions) == ["s > 0", "rule", "one threshold"]
        assert decisions["s > 0"]["offset"] == decisions["one threshold"]["tau"] == 0
        # The rule may take tau 0, so it is as good where it chose.
        sums = {name: part["held_micro"] + part["held_macro"] for name, part in decisions.items()}
        assert sums["rule"] >= sums["one threshold"] - 1e-9


def test_the_benchmark_goes_on_and_says_what_is_missing(tmp_path):
    made = []

    def trial(task, kind, rate, seed, third):
        made.append((bench.KINDS[kind].loss, rate, seed))
        micro = 0.9 if rate == 5e-5 else 0.5
        part = {"held_micro": micro, "held_macro": 0.5, "test_micro": micro - 0.01 * seed, "test_macro": 0.25}
        if len(made) == 14:
            raise Killed
        curve = [{"step": step, "held": 0.5 + step / 10000} for step in (500, 1000, 1003)]
        return {"decisions": dict.fromkeys(bench.DECISIONS, part), "curve": curve, "rows": 600, "seconds": 1.0}

    titles, results = {"set": "28 labels", "other": "2 labels"}, tmp_path / "encoder.json"
    with pytest.raises(Killed):
        bench.measure(["set"], trial, results, hours=1)
    assert len(json.loads(results.read_bytes())) == 13  # four kinds at three rates, and the first seed of one kind
    page = bench.page_of(json.loads(results.read_bytes()), titles)
    assert "| ZLPR | 5e-05 | 90.0 / 25.0 | 90.0 / 25.0 | 90.0 / 25.0 |" in page
    assert "## set, 28 labels\n\n600 rows fitted.\n\n| | rate |" in page
    assert "Missing: set: 2 of 3 seeds of ZLPR, 3 of 3 seeds of BCE from zero, " in page
    assert page.endswith("; other: all.\n")
    assert bench.measure(["set"], trial, results, hours=-1) == json.loads(results.read_bytes())
    done = bench.measure(["set"], trial, results, hours=1)
    assert len(done) == 12 + 4 * 3
    assert len(made) == len(done) + 1  # the one that was interrupted
    assert all(rate == 5e-5 for _, rate, _ in made[12:])
    del titles["other"]
    page = bench.page_of(done, titles)
    assert "| focal with prior | 5e-05 | 89.0 (88.0 to 90.0) / 25.0 (25.0 to 25.0) |" in page
    assert "| | 500 | 1,003 |\n|---|---|---|\n| ZLPR | 55.0 | 60.0 |" in page
    assert "Nothing is missing." in page


def test_settings_are_compared_on_training_rows(checkpoint, monkeypatch):
    files(100)
    encoder = Encoder.read(str(checkpoint), "cpu")
    whole = bench.rows_of(bench.Task(Config(data="d.jsonl", test="t.jsonl"), len(KINDS), rows=80), encoder)
    rows = tuning.cut_once_more(whole)
    sizes = [len(X) for X in (rows.X, rows.X_held, rows.X_test)]
    assert sum(sizes) == 80
    assert sizes == pytest.approx([54, 6, 20], abs=2)
    made = {
        name: tuning.judged(encoder, rows, setting._replace(rate=1e-2, epochs=3))
        for name, setting in tuning.SETTINGS.items()
        if name in ("as in the code", "head of frozen numbers", "decay 0.8")
    }
    assert all(0 <= fit[rule] <= 1 and 1 <= fit["epoch"] <= fit["epochs"] <= 3 for fit in made.values()
               for rule in ("rule", "plain"))  # fmt: skip
    net: Any = planned(checkpoint).draw(rows.X, torch.from_numpy(rows.targets))
    score = score_by(rows.cardinality)
    weight, bias = tuning.frozen_head(net, rows, score)
    found = module.embed(net.network, net.pooling, rows.X, 16) @ weight.numpy() + bias.numpy()
    # A row here is words of its labels, which a linear model on the numbers of any encoder finds.
    assert score(found, rows.targets) > 0.9


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
        ({"model": "encoder:"}, "model expects one of linear, mlp, encoder:NAME_OR_DIR; got 'encoder:'"),
        ({"model": "encoder"}, "model expects one of linear, mlp, encoder:NAME_OR_DIR; got 'encoder'"),
        ({"fine_tune": True}, "fine_tune is of --model encoder:NAME_OR_DIR; leave it out, or name an encoder"),
        ({"fine_tune": "yes", "model": "encoder:x"}, "fine_tune expects true or false; got 'yes'"),
        (
            {"long": "mean", "model": "encoder:x", "fine_tune": True},
            "long mean is of a frozen --model encoder:NAME_OR_DIR",
        ),
        ({"long": "all", "model": "encoder:x"}, "long expects one of cut, mean; got 'all'"),
        (
            {"words": False},
            "words=false is of a frozen --model encoder:NAME_OR_DIR; without one, words are all there is",
        ),
        ({"words": 0, "model": "encoder:x"}, "words expects true or false; got 0"),
        ({"rate": 1e-3}, r"rate is of networks: --model mlp, an encoder with fine_tune, and spans; got 0\.001"),
        ({"epochs": 3, "model": "encoder:x"}, "epochs is of networks: .* fine_tune, and spans; got 3. Leave it out"),
        ({"fine_tune": True, "model": "encoder:x", "C": 2}, "C is of the linear model, and fine_tune has none: "),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(InputError, match=message):
        make_config(None, [], {"data": "d.csv"} | options)


def planned(checkpoint, loss="zlpr", listed=False, **options) -> Any:
    """Return the learner of a fine-tuned encoder as the command plans it."""
    config = make_config(
        None, [], {"data": "d.jsonl", "model": f"encoder:{checkpoint}", "fine_tune": True, "loss": loss} | options
    )
    encoder = Encoder.read(str(checkpoint), "cpu")
    if listed:
        return listed_learner_for(config, 60, 0, 3, hits, encoder).net
    return learner_for(config, 60, 0, 3, FORMULAS[loss], hits, encoder)


def hits(logits, targets):
    return float(((logits > 0) == targets).mean())


@pytest.mark.parametrize(("loss", "share"), [("zlpr", 0.5), ("bce", 1), ("focal", 1), ("subset", 0), ("two-way", 0)])
@pytest.mark.parametrize("listed", [False, True])
def test_biases_start_at_a_share_of_the_log_odds(checkpoint, loss, share, listed):
    if listed and loss not in LISTED_LOSSES:
        return
    targets = np.random.default_rng(0).random((60, 3)) < [0.5, 0.1, 0.0]
    counts = targets.sum(0)
    given = sp.csr_array(targets) if listed else torch.from_numpy(targets)
    net: Any = planned(checkpoint, loss, listed).draw(np.zeros((60, 4), dtype=np.int64), given)
    np.testing.assert_allclose(net.bias.detach(), share * np.log((counts + 0.5) / (60 - counts + 0.5)), rtol=1e-5)


def test_rates_fall_by_layer_from_the_head_down(checkpoint):
    from transformers import BertConfig, BertModel

    small: Any = {"hidden_size": 4, "num_attention_heads": 1, "intermediate_size": 4, "vocab_size": 9}
    network = BertModel(BertConfig(num_hidden_layers=12, **small))
    setting = tuning.Setting(decay=0.5, head=10)
    found = {name: tuning.multiplier(f"network.{name}", 12, setting) for name, _ in network.named_parameters()}
    assert {value for name, value in found.items() if name.startswith("embeddings.")} == {0.5**13}
    for layer in range(12):
        inside = {value for name, value in found.items() if name.startswith(f"encoder.layer.{layer}.")}
        assert inside == {0.5 ** (12 - layer)}
    assert [tuning.multiplier(name, 12, setting) for name in ("weight", "bias")] == [10, 10]
    low, top, alone = (torch.ones(2, requires_grad=True) for _ in range(3))
    tuning.ByParameter.multipliers = {low: 0.25, top: 1.0}
    together, plain = tuning.ByParameter([low, top], lr=1.0), torch.optim.AdamW([alone], lr=0.025)
    for point in (low, top, alone):
        point.grad = torch.tensor([1.0, -2.0])
    for options in together.param_groups:
        options["lr"] = 0.1  # as descend does
    together.step()
    plain.step()
    torch.testing.assert_close(low, alone)
    assert not torch.allclose(low, top)


def rows_of_ids(rows=60, length=12):
    rng = np.random.default_rng(0)
    ids = np.where(np.arange(length) < rng.integers(2, length + 1, (rows, 1)), rng.integers(4, 9, (rows, length)), -1)
    return ids, torch.from_numpy(rng.random((rows, 3)) < 0.4)


@pytest.mark.parametrize(
    ("has", "fast"),
    [({}, False), ({"avx512_f": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)],
)
def test_an_encoder_is_trained_in_bfloat16_where_the_processor_multiplies_it(checkpoint, monkeypatch, has, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    learner = planned(checkpoint)
    assert learner.memory.how.endswith("on CPU in bfloat16" if fast else "on CPU")
    network = learner.draw(*rows_of_ids()).network
    for part in network.modules():
        part.p = 0.0  # what drops out would differ
    ids = torch.from_numpy(rows_of_ids()[0]).long()
    known, tokens = ids >= 0, ids.clamp(min=0)
    direction = torch.randn(network.config.hidden_size, generator=torch.Generator().manual_seed(0))

    def precisely() -> torch.Tensor:
        return network(input_ids=tokens, attention_mask=known.long()).last_hidden_state

    def gradients(hidden):
        network.zero_grad()
        (hidden[known] @ direction).square().mean().backward()
        found = [p.grad for p in network.parameters() if p.grad is not None]
        assert {gradient.dtype for gradient in found} == {torch.float32}
        return torch.cat([gradient.flatten() for gradient in found])

    network.train()
    exact, found = precisely(), pretrained.last_layer(network, tokens, known)
    assert found.dtype == torch.float32
    assert torch.equal(exact, found) != fast
    torch.testing.assert_close(found, exact, atol=0.03, rtol=0)  # numbers about 1, a factor has 8 bits
    wanted = gradients(exact)
    assert (gradients(found) - wanted).norm() < 0.02 * wanted.norm()
    with torch.no_grad():  # what is predicted
        network.eval()
        assert torch.equal(pretrained.last_layer(network, tokens, known), precisely())


def test_tables_whose_gradients_hold_few_rows_end_where_others_do(checkpoint, monkeypatch):
    X, targets = rows_of_ids()
    monkeypatch.setattr(pretrained, "bfloat16_is_fast", lambda device: False)
    monkeypatch.setattr(module, "TOKENS", 30)  # gradients of several parts add up
    ends = []
    for small, sparse in ((10**6, 0), (0, 3)):  # words, positions, segments
        monkeypatch.setattr(pretrained, "SMALL_TABLE", small)
        learner = planned(checkpoint, epochs=2, rate=1e-3)
        net: Any = learner.draw(X, targets)
        assert sum(getattr(part, "sparse", False) for part in net.network.modules()) == sparse
        options: Any = {"seed": 0, "bookmark": UNSAVED, "progress": unheard, **learner.lengths.cutting(X, 16)}
        descend(net.parameters(), 60, mean_loss(net, X, targets, learner.loss), learner.schedule, **options)
        ends.append(net.arrays())
    table = "network.embeddings.word_embeddings.weight"
    assert np.abs(ends[0][table] - learner.draw(X, targets).arrays()[table]).max() > 1e-3
    for name, array in ends[0].items():
        np.testing.assert_allclose(ends[1][name], array, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("loss", ["zlpr", "two-way"])
def test_a_mini_batch_of_many_tokens_is_taken_in_parts_where_its_loss_is_a_sum(checkpoint, monkeypatch, loss):
    X, targets = rows_of_ids()
    ends, seen = [], []
    monkeypatch.setattr(pretrained, "bfloat16_is_fast", lambda device: False)  # sums in parts would differ
    original = module.pooled
    monkeypatch.setattr(module, "pooled", lambda n, p, ids: (seen.append(ids.shape[0]), original(n, p, ids))[1])
    for tokens in (10**6, 30):
        monkeypatch.setattr(module, "TOKENS", tokens)
        learner = planned(checkpoint, loss, epochs=2, rate=1e-3)
        net: Any = learner.draw(X, targets)
        assert net.network.config.hidden_dropout_prob == 0.1
        for part in net.network.modules():
            part.p = 0.0  # what drops out would differ
        options: Any = {"seed": 0, "bookmark": UNSAVED, "progress": unheard, **learner.lengths.cutting(X, 16)}
        descend(net.parameters(), 60, mean_loss(net, X, targets, learner.loss), learner.schedule, **options)
        ends.append(net.arrays())
    whole = [16, 16, 16, 12]
    assert sorted(seen[:4], reverse=True) == whole
    assert (len(seen) > 16) == (loss == "zlpr")
    for name, array in ends[0].items():
        np.testing.assert_allclose(ends[1][name], array, atol=1e-5, err_msg=name)
    step = {coupled: planned(checkpoint, "two-way" if coupled else "zlpr").memory.bytes for coupled in (False, True)}
    assert step[True] > step[False]


def test_the_rate_and_the_epochs_that_were_asked_for(checkpoint):
    for listed in (False, True):
        schedule = planned(checkpoint, "bce", listed, rate=3e-4, epochs=2).schedule
        assert (schedule.rate, schedule.epochs) == (3e-4, 2)


def test_the_factor_of_the_rate_rises_and_falls():
    assert [module.warmed(share) for share in (0, 0.05, 0.1, 0.55, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])
