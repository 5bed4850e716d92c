"""Why a label: parts that add up to the score, for every kind of model; unknown words; the command."""

import math
import random
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from command import as_json, bad, call
from manyhot import load_run
from manyhot.toolkit.cli.explain import lines
from manyhot.toolkit.config import Config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.report.metric_names import BELOW_HALF
from manyhot.toolkit.runs.explain import Explained, Reason, owners_of_parts
from manyhot.toolkit.train import train
from tiny_texts import texts_and_sets

WORD = r"\w+"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train a linear and an mlp run on texts, and one of each on numbers and categories with missing cells."""
    folder = tmp_path_factory.mktemp("explained")
    texts, sets = texts_and_sets(60)
    pl.DataFrame({"text": texts, "labels": sets}).write_ndjson(folder / "texts.jsonl")
    columns(90).write_csv(folder / "columns.csv")
    found = {}
    for data in ("texts.jsonl", "columns.csv"):
        for model in ("linear", "mlp"):
            out = folder / f"{model}-{data.partition('.')[0]}"
            bare: Any = {"characters": "off", "neighbours": "off"} if data == "texts.jsonl" else {}
            train(Config(data=str(folder / data), model=model, out=str(out), **bare))
            found[out.name] = out
    found["whole-texts"] = folder / "whole"
    train(
        Config(data=str(folder / "texts.jsonl"), characters="on", neighbours="auto", C=1.0, out=str(folder / "whole"))
    )
    return found


def columns(rows, seed=0):
    chance = random.Random(seed)
    table = []
    for _ in range(rows):
        age, dose, colour = chance.gauss(40, 10), chance.gauss(0, 1), chance.choice(["red", "green", "blue", None])
        labels = {"old": int(age > 45), "strong": int(dose > 0.3), "warm": int(colour == "red")}
        table.append({"age": age, "dose": None if chance.random() < 0.1 else dose, "colour": colour} | labels)
    return pl.DataFrame(table)


def adds_up(run, data):
    """Explain all labels; check that parts and base are the scores, and return what is explained."""
    explained = run.explain(data, run.label_names)
    logits, probs = run.predict_logits(data), run.calibration.probs(run.predict_logits(data))
    assert len(explained) == len(logits)
    for row, found in enumerate(explained):
        assert sorted(reason.name for reason in found.labels) == sorted(run.label_names)
        assert [reason.prob for reason in found.labels] == sorted((r.prob for r in found.labels), reverse=True)
        for reason in found.labels:
            label = run.label_names.index(reason.name)
            assert (reason.score, reason.prob) == (logits[row, label], probs[row, label])
            total = reason.base + math.fsum(part.score for part in reason.parts)
            assert total == pytest.approx(reason.score, abs=1e-4)
            log_odds = reason.score / run.calibration.temperature[label] + run.calibration.offset[label]
            assert reason.prob == pytest.approx(1 / (1 + math.exp(-log_odds)), abs=1e-5)
            sizes = [abs(part.score) for part in reason.parts]
            assert sizes == sorted(sizes, reverse=True)
    return explained


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_words_add_up_to_the_score(runs, model):
    run = load_run(runs[f"{model}-texts"])
    texts, _ = texts_and_sets(20, seed=3)
    explained = adds_up(run, texts)
    for text, found in zip(texts, explained, strict=True):
        words = text.split()
        pairs = {f"{a} {b}" for a, b in pairwise(words)}
        for reason in found.labels:
            assert {part.name for part in reason.parts if part.kind == "word"} <= set(words)
            assert {part.name for part in reason.parts if part.kind == "pair"} <= pairs
            assert {part.kind for part in reason.parts} <= {"word", "pair"}
        assert (found.words, found.unknown) == (len(set(words)), [])


def test_parts_of_words_are_the_words_and_votes_a_part(runs):
    run = load_run(runs["whole-texts"])
    assert [block.what for block in run.features.blocks] == ["words", "word pairs", "parts of words"]
    texts, _ = texts_and_sets(10, seed=3)
    for text, found in zip(texts, adds_up(run, texts), strict=True):
        votes = run.votes([text])[0]
        for reason in found.labels:
            assert {part.name for part in reason.parts if part.kind == "word"} <= set(text.split())
            heard = [part.score for part in reason.parts if part.kind == "neighbours"]
            assert heard == (
                [] if run.neighbours is None else [pytest.approx(votes[run.label_names.index(reason.name)])]
            )
            assert (reason.share is None) == (run.neighbours is None)


def test_a_word_adds_its_weight_times_its_share_of_the_text(runs):
    run = load_run(runs["linear-texts"])
    (found,) = run.explain("fox and fox and tree", ["animal"])
    words = run.features.blocks[0]
    # 1 + ln 2 times idf, of all words of the text made one length.
    sizes = {w: (1 + math.log(n)) * words.idf[words.terms.index(w)] for w, n in (("fox", 2), ("and", 2), ("tree", 1))}
    length = math.sqrt(sum(size**2 for size in sizes.values()))
    weight = run.model.weight[words.terms.index("fox"), run.label_names.index("animal")]
    parts = {part.name: part.score for part in found.labels[0].parts}
    assert parts["fox"] == pytest.approx(sizes["fox"] / length * float(weight), abs=1e-6)
    assert parts["fox"] > max(parts["and"], parts["tree"])
    assert found.labels[0].parts[0].name == "fox"


def test_of_a_network_a_word_adds_gradient_times_input(runs):
    run = load_run(runs["mlp-texts"])
    texts, _ = texts_and_sets(5, seed=4)
    for text in texts:
        x = torch.tensor(run.features.transform(run._examples([text], with_labels=False)).toarray()[0])
        x = x.double().requires_grad_()
        first, offset, second, bias = (tensor.detach().double() for tensor in run.model.parameters().values())
        logits = torch.relu(x @ first + offset) @ second + bias
        (gradient,) = torch.autograd.grad(logits[2], x)
        expected = (gradient * x.detach()).numpy()
        terms = [term for block in run.features.blocks for term in block.terms]
        (found,) = run.explain(text, [run.label_names[2]])
        parts = {part.name: part.score for part in found.labels[0].parts}
        assert parts == {terms[i]: pytest.approx(expected[i], abs=1e-6) for i in np.flatnonzero(expected)}


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_columns_add_up_to_the_score(runs, model):
    run = load_run(runs[f"{model}-columns"])
    table = columns(25, seed=1)
    explained = adds_up(run, table)
    for row, found in zip(table.rows(named=True), explained, strict=True):
        kinds = ("number", "category")
        assert {part.kind for reason in found.labels for part in reason.parts} <= {*kinds, "nearness", "neighbours"}
        names = {part.name for reason in found.labels for part in reason.parts if part.kind in kinds}
        dose = "missing" if row["dose"] is None else f"{np.float32(row['dose']):g}"
        colour = "missing" if row["colour"] is None else row["colour"]
        assert names <= {f"age: {np.float32(row['age']):g}", f"dose: {dose}", f"colour: {colour}"}
        assert f"colour: {colour}" in names
        unknown = [part.score for reason in found.labels for part in reason.parts if part.name == "dose: missing"]
        assert (max(map(abs, unknown), default=0.0) > 1e-3) == (row["dose"] is None)
        assert (found.words, found.unknown) == (None, [])


def test_what_is_predicted_is_explained_and_what_is_asked_for(runs):
    run = load_run(runs["linear-texts"])
    texts, _ = texts_and_sets(8, seed=6)
    for found, labels in zip(run.explain(texts), run.predict(texts), strict=True):
        assert [reason.name for reason in found.labels] == labels
        assert all(reason.predicted for reason in found.labels)
    (found,) = run.explain("fox", ["stone", "animal"])
    assert [(reason.name, reason.predicted) for reason in found.labels] == [("animal", True), ("stone", False)]
    assert run.explain([]) == []
    with pytest.raises(InputError, match=r"explain expects labels of the run; got 'anmal' \(did you mean 'animal'"):
        run.explain("fox", ["anmal"])


def test_unknown_words_are_said_and_warned_of(runs):
    run = load_run(runs["linear-texts"])
    (found,) = run.explain("A Fox zzz qqq zzz")
    assert (found.words, found.unknown, found.known) == (4, ["a", "zzz", "qqq"], "1 of 4 words known")
    warned = "the text has more words that training did not know than words that it did: labels there are little more"
    for predict in (run.predict, run.probs, run.top):
        with pytest.warns(UserWarning, match=warned) as caught:
            predict("fox zzz qqq")
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            predict(["fox zzz", "", "fox and tree"])
    with pytest.warns(UserWarning, match="^1 of 2 texts has more"):
        run.predict(["zzz", "fox"])
    with pytest.warns(UserWarning, match="^2 of 3 texts have more"):
        run.predict(["zzz", "fox", "qqq"])


def test_parts_of_a_word_belong_to_the_words_they_stand_in():
    # As scikit-learn cuts: spaces at both ends, and a word that is shorter is one part.
    assert owners_of_parts("ab", (3, 5), WORD) == {part: {"ab": 1.0} for part in (" ab", "ab ", " ab ")}
    assert owners_of_parts("a", (3, 5), WORD) == {" a ": {"a": 1.0}}
    # "t,g" stands in both words, one character in each; "!!!" is no word.
    found = owners_of_parts("cat,go !!! Cat", (3, 3), WORD)
    assert found["t,g"] == {"cat": 0.5, "go": 0.5}
    assert found[",go"] == {"go": 1.0}
    assert found[" ca"] == found["cat"] == {"cat": 1.0}
    assert found["!!!"] == found[" !!"] == {"!!!": 1.0}
    # "ing" of "singing" and "king": two places of the one, one of the other.
    found = owners_of_parts("sing singing king", (3, 3), WORD)
    assert found["ing"] == {"sing": 0.25, "singing": 0.5, "king": 0.25}
    # A word that comes twice has twice the share.
    assert owners_of_parts("king sing king king", (3, 3), WORD)["ing"] == {"sing": 0.25, "king": 0.75}
    from sklearn.feature_extraction.text import CountVectorizer

    text = "Don't stop: the well-known naïve 'x' … ok 漢字 a,b"
    analyze = CountVectorizer(analyzer="char_wb", ngram_range=(3, 5)).build_analyzer()
    found = owners_of_parts(text, (3, 5), WORD)
    assert set(found) == set(analyze(text))
    assert [sum(words.values()) for words in found.values()] == [pytest.approx(1)] * len(found)


# The command


def test_the_command_says_why(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = runs["linear-texts"]
    stdout, stderr = call(f'explain {run} "fox and zzz"')
    first, second, *rest = stdout.splitlines()
    assert (first, stderr) == ("2 of 3 words known; not known: zzz", "")
    assert second.startswith("animal: ")
    assert rest[0].startswith("  for it      fox +")
    assert any(line.startswith("  score       +") and " of any text " in line for line in rest)
    said = as_json(f'explain {run} "fox and zzz" --label stone --label animal')
    assert [label["name"] for label in said["labels"]] == ["animal", "stone"]
    assert (said["words"], said["unknown"]) == (3, ["zzz"])
    assert set(said["labels"][0]["parts"][0]) == {"kind", "name", "score"}
    assert ", not predicted" in call(f"explain {run} fox --label stone")[0]


def test_what_the_command_cannot_explain(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bad(f"explain {runs['linear-columns']} fox").endswith(
        "expected a run that reads text alone; this one reads columns: in Python, manyhot.load_run(RUN).explain(frame) "
        "takes a frame with them."
    )
    assert "expected a run folder" in bad("explain nothing fox")
    assert bad(f"explain {runs['linear-texts']} fox --label foxes").startswith("explain expects labels of the run; got")


def test_predict_warns_of_a_file_whose_words_are_unknown(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pl.DataFrame({"text": ["fox", "zzz", "qqq zzz fox", "fox and tree"]}).write_csv("new.csv")
    _, stderr = call(f"predict {runs['linear-texts']} new.csv -o out.jsonl")
    warning, wrote = stderr.splitlines()
    assert warning.startswith("warning: 2 of 4 texts have more words that training did not know than words that it did")
    assert wrote == "wrote out.jsonl: 4 rows"
    assert Path("out.jsonl").read_text().count("\n") == 4


def test_a_label_that_is_predicted_below_a_half_says_why_that_can_be():
    low = Reason("a", 0.1, 0.3, True, 0.1, [])
    assert lines(Explained([low], None, []))[-1] == BELOW_HALF
    assert BELOW_HALF not in lines(Explained([low._replace(predicted=False), low._replace(prob=0.7)], None, []))
