"""Rows to label next: the expected loss by hand, and the file that is written of them."""

import json

import numpy as np
import polars as pl
import pytest

from command import as_json, bad, call
from manyhot import decide
from manyhot.toolkit.config import Config
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.runs.review import Review, expected_loss
from manyhot.toolkit.runs.saved_run import load_run
from manyhot.toolkit.train import train
from tiny_texts import texts_and_sets


def expected_by_hand(probs, chosen):
    found = []
    for p, y in zip(probs.tolist(), chosen.tolist(), strict=True):
        right = sum(a for a, b in zip(p, y, strict=True) if b)
        found.append(1 - 2 * right / (sum(y) + sum(p)) if sum(y) + sum(p) else 0.0)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("review")
    texts, sets = texts_and_sets(60)
    pl.DataFrame({"text": texts, "labels": sets}).write_ndjson(folder / "train.jsonl")
    train(Config(data=str(folder / "train.jsonl"), C=5.0, tau=0.0, out=str(folder / "run")))
    return folder / "run"


def test_expected_loss_is_that_of_the_whole_set():
    rng = np.random.default_rng(0)
    probs = rng.random((50, 4)).astype(np.float32)
    chosen = (rng.random((50, 4)) < 0.5).astype(int)
    probs[0], chosen[0] = 0, 0
    assert expected_loss(probs, chosen) == pytest.approx(expected_by_hand(probs, chosen), abs=1e-6)
    # One doubtful label of six is less to worry about than one doubtful label alone.
    alone, among = np.array([[0.5, 0, 0, 0, 0, 0]]), np.array([[0.5, 1, 1, 1, 1, 1]])
    assert expected_loss(alone, alone > 0) > 2 * expected_loss(among, among > 0)
    # Where each row has one class it is the probability that this is another.
    assert expected_loss(np.array([[0.7, 0.2, 0.1]]), np.array([[1, 0, 0]])) == pytest.approx(0.3)


def test_in_parts_and_at_once_the_same_rows_and_each_text_once(run):
    loaded = load_run(run)
    texts = [*texts_and_sets(60)[0], "nothing of it known", "nothing of it known"]
    logits = loaded.logits(texts)
    probs = loaded.calibration.probs(logits)
    whole, parts = Review(loaded, 7), Review(loaded, 7)
    examples = Examples("x", texts, None, None, [])
    whole.look(examples, logits)
    for start in range(0, len(texts), 5):
        rows = np.arange(start, min(start + 5, len(texts)))
        parts.look(examples.taken(rows), logits[rows])
    assert whole.rows() == parts.rows()
    found = whole.rows()
    assert len(found) == len({row["text"] for row in found}) == 7
    sets = [{label.name for label in row} for row in loaded.label_sets(logits)]
    losses = expected_by_hand(probs, np.array([[name in of for name in loaded.label_names] for of in sets]))
    first = {text: texts.index(text) for text in texts}
    best = sorted(first.values(), key=lambda i: (-losses[i], i))[:7]
    assert [row["row"] for row in found] == [i + 1 for i in best]
    assert [row["expected_loss"] for row in found] == pytest.approx([losses[i] for i in best], abs=1e-3)


@pytest.mark.parametrize("size", [1, 2, 6])
def test_of_rows_that_are_as_doubtful_the_first_are_taken(run, size):
    review = Review(load_run(run), 3)
    texts = [f"zzz{i}" for i in range(6)]
    logits = np.zeros((6, len(review.run.label_names)), np.float32)
    for start in range(0, 6, size):
        review.look(Examples("x", texts[start : start + size], None, None, []), logits[start : start + size])
    assert [row["row"] for row in review.rows()] == [1, 2, 3]


def test_a_text_that_was_pushed_out_may_come_back_in_a_more_doubtful_row(run):
    loaded = load_run(run)
    one, (low, high) = np.ones((1, len(loaded.label_names)), np.float32), loaded.cardinality

    def loss(logit):
        chosen = decide(one * logit, min_labels=low, max_labels=high)
        return float(expected_loss(loaded.calibration.probs(one * logit), chosen)[0])

    least, middle, most = sorted((-6.0, -2.0, 0.0), key=loss)
    review = Review(loaded, 1)
    for text, logit in (("a", least), ("b", middle), ("a", most)):
        review.look(Examples("x", [text], None, None, []), one * logit)
    assert [(row["row"], row["text"]) for row in review.rows()] == [(3, "a")]


def test_the_command_writes_them_beside_the_predictions(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts, _ = texts_and_sets(30, seed=1)
    pl.DataFrame({"text": texts}).write_ndjson("new.jsonl")
    said = as_json(f"predict {run} new.jsonl -o out.jsonl --review 4")
    assert said.pop("drift")["said"] is None
    assert said == {"out": "out.jsonl", "rows": 30, "review": "out-review.jsonl"}
    rows = [json.loads(line) for line in (tmp_path / "out-review.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    predicted = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["text"] == texts[row["row"] - 1]
        assert row["labels"] == predicted[row["row"] - 1]["labels"]
        assert list(row["probs"].values()) == sorted(row["probs"].values(), reverse=True)
    losses = [row["expected_loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    _, stderr = call(f"predict {run} new.jsonl -o out.csv --review 4")
    assert "4 rows to label next" in stderr


def test_bad_input_is_one_sentence(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.csv").write_text("text\na film\n")
    (tmp_path / "folder").mkdir()
    assert "1 row or more" in bad(f"predict {run} new.csv -o out.csv --review 0")
    assert "one file with --review" in bad(f"predict {run} folder -o out --review 3")
    assert "--review is of a file" in bad(f"predict {run} 'a film' --review 3")
