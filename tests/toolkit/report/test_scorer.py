"""The weights that a page holds: what they say, how much is left out, and when there is no box at all."""

import base64
import json

import numpy as np
import polars as pl
import pytest

from manyhot import load_run
from manyhot.toolkit.config import Config
from manyhot.toolkit.models.neighbours import Neighbours
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.report import scorer as module
from manyhot.toolkit.report.render import render_run
from manyhot.toolkit.report.scorer import Scorer, box_of, front_coded, scorer_of, written
from manyhot.toolkit.train import train
from tiny_texts import texts_and_sets


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scorer")
    texts, sets = texts_and_sets(120)
    pl.DataFrame({"text": texts, "labels": sets}).write_ndjson(folder / "texts.jsonl")
    options = {"C": 10.0, "neighbours": "off", "characters": "off"}
    train(Config(data=str(folder / "texts.jsonl"), out=str(folder / "run"), **options))
    return folder


def weights_of(run) -> Scorer:
    found = scorer_of(run)
    assert isinstance(found, Scorer), found
    return found


def examples(texts):
    return Examples("new", texts, None, None, [])


def test_nothing_in_it_is_obeyed():
    data = written({"names": ["a\u202eb\x9b</script>"]}).decode()
    assert data == '{"names":["a\\u202eb\\u009b\\u003c/script>"]}'
    assert json.loads(data) == {"names": ["a\u202eb\x9b</script>"]}


def test_what_the_page_says_is_what_the_run_says(folder):
    run = load_run(folder / "run")
    texts, _ = texts_and_sets(40, seed=5)
    texts += ["", "nothing known", "fox fox fox and"]
    scorer = weights_of(run)
    np.testing.assert_allclose(
        scorer.probs(examples(texts)), run.calibration.probs(run.predict_logits(texts)), atol=2e-3
    )


def test_a_page_holds_what_its_data_say(folder):
    """Decode the data by hand, as a page has to, and score a text with them."""
    run = load_run(folder / "run")
    data = json.loads(written(weights_of(run).data()))
    words, text = data["blocks"][0], "fox and fox and tree"
    terms, before = [], ""
    for coded in words["terms"]:
        before = before[: int(coded[0], 36)] + coded[1:]
        terms.append(before)
    assert terms == run.features.blocks[0].terms

    def numbers(name, kind):
        return np.frombuffer(base64.b64decode(words[name]), kind)

    idf = 1 + 0.05 * numbers("idf", "u1")
    ends = np.cumsum(numbers("counts", "u1").astype(int))
    levels, labels = numbers("levels", "<u2").astype(int), numbers("labels", "u1")
    least, most = words["range"]
    weights = np.zeros((len(terms), len(data["names"])))
    for i in range(len(terms)):
        for place in range(ends[i - 1] if i else 0, ends[i]):
            size = least * (most / least) ** ((levels[place] % 2**15) / (2**15 - 1))
            weights[i, labels[place]] = -size if levels[place] >= 2**15 else size
    expected = run.model.arrays()["weight"][: len(terms)]
    np.testing.assert_allclose(weights, expected, rtol=1e-3)
    counts = np.array([text.split().count(term) for term in terms], dtype=float)
    x = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * idf
    (own,) = weights_of(run).terms[0].logits([text])
    np.testing.assert_allclose(x / np.sqrt((x**2).sum()) @ weights, own, atol=1e-9)


def test_of_many_weights_the_strongest_are_kept(folder, monkeypatch):
    run = load_run(folder / "run")
    whole = len(written(weights_of(run).data()))
    monkeypatch.setattr(module, "MOST_BYTES", whole - 250)
    monkeypatch.setattr(module, "TERMS_SHARE", 0.9)
    fewer = weights_of(run)
    assert len(written(fewer.data())) <= whole - 250
    weight = run.model.arrays()["weight"]
    for part, start in zip(fewer.terms, (0, len(run.features.blocks[0].terms)), strict=True):
        block = part.block
        moves = (
            np.abs(weight[start : start + len(block.terms)]) * (np.exp(-block.idf) * block.idf * block.weight)[:, None]
        )
        kept = np.zeros(moves.shape, dtype=bool)
        # A level of 0 is a weight too, the smallest: where they stand counts, not what they are.
        kept[np.repeat(part.kept, np.diff(part.weights.indptr)), part.weights.indices] = True
        assert 0 < kept.sum()
        others = moves[~kept & np.isin(np.arange(len(kept)), part.kept)[:, None]]
        assert moves[kept].min() >= others.max(initial=0)
    assert any(0 < part.weights.nnz < len(part.kept) * 4 for part in fewer.terms)


def test_where_too_much_is_left_out_there_is_no_box(folder, monkeypatch):
    run = load_run(folder / "run")
    texts, _ = texts_and_sets(60, seed=5)
    found = box_of(run, examples(texts))
    assert (found["why"], found["rows"], found["off"]) == (None, 60, 0)
    # Room for the terms and a few weights.
    whole = weights_of(run)
    weights = sum(part.weights.nnz for part in whole.terms)
    monkeypatch.setattr(module, "MOST_BYTES", len(written(whole.data())) - int(0.8 * weights * 4))
    monkeypatch.setattr(module, "TERMS_SHARE", 0.99)
    found = box_of(run, examples(texts))
    assert found["model"] is None
    assert found["why"] == f"what fits into a page was more than 2 points off in {found['off']} of 60 rows"
    assert found["off"] > 3
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    assert box_of(run, examples(texts))["why"] == "its weights are too many"
    findings = json.loads((folder / "run" / "findings.json").read_bytes())
    page = render_run(findings | {"box": found})
    assert "There is no box to type in here: what fits into a page was more than 2 points off" in page
    assert "In a terminal, <code>manyhot predict RUN -</code>, with the run's folder for RUN, labels each text" in page
    assert 'id="model"' not in page
    assert "const scorer" not in page
    page = render_run(findings)
    assert 'id="model"' in page
    assert "const scorer" in page


@pytest.mark.parametrize(("weight", "has_box"), [(1e-4, True), (-1.0, False)])
def test_where_training_rows_vote_a_box_is_there_if_they_say_little(folder, weight, has_box):
    run = load_run(folder / "run")
    texts, sets = texts_and_sets(120)
    targets = np.array([[name in row for name in run.label_names] for row in sets])
    run.neighbours = Neighbours.of(run.features.transform(examples(texts)), targets).weighing((weight, weight))
    found = box_of(run, examples(texts_and_sets(60, seed=5)[0]))
    assert (found["model"] is not None) == has_box
    if not has_box:
        assert found["why"].startswith("training rows have a vote in this run, which a page does not hold, and without")
        assert f"in {found['off']} of 60 rows; a run that is trained with --neighbours off" in found["why"]


def test_a_run_that_is_not_linear_has_no_box(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    pl.DataFrame(X, schema=["a", "b", "c"]).with_columns(y=(pl.col("a") > 0) * 1, z=(pl.col("b") > 0.2) * 1).write_csv(
        tmp_path / "d.csv"
    )
    train(Config(data=str(tmp_path / "d.csv"), model="mlp", out=str(tmp_path / "run")))
    assert scorer_of(load_run(tmp_path / "run")) == "this model is not linear"
    assert (
        "There is no box to type in here: this model is not linear." in (tmp_path / "run" / "report.html").read_text()
    )


def test_front_coding_has_one_digit_of_javascript_characters_a_term():
    terms = ["a", "ab", "abc", "b", "x" * 40, "x" * 41, "é", "éa", "😀a", "😀b"]
    coded = front_coded(terms)
    assert coded == ["0a", "1b", "2c", "0b", "0" + "x" * 40, "z" + "x" * 6, "0é", "1a", "0😀a", "0😀b"]


def test_data_inside_of_a_page_cannot_end_it():
    assert written({"names": ["</script><!--"]}) == b'{"names":["\\u003c/script>\\u003c!--"]}'
