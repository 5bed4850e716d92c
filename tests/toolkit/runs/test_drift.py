"""Drift: files like the training rows stay silent, others are noticed, and a run keeps no row for it."""

import json

import numpy as np
import polars as pl
import pytest

from command import as_json, call
from manyhot.labels import CardinalityRange
from manyhot.toolkit.config import Config
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.runs.drift import Drift, Usual
from manyhot.toolkit.runs.predict import read_for
from manyhot.toolkit.runs.saved_run import load_run
from manyhot.toolkit.train import train

LABELS, ROWS = 12, 500


def some_rows(rows, seed, labels=None):
    """Texts of words as frequent as words are, some of which go with labels, and a skewed number."""
    rng = np.random.default_rng(seed)
    odds = 0.4 / np.arange(1, LABELS + 1) if labels is None else labels
    sets = rng.random((rows, LABELS)) < odds
    texts = []
    for row in sets:
        words = [f"w{int(w)}" for w in np.minimum(rng.zipf(1.3, 20), 10**6)]
        texts.append(" ".join([*words, *(f"label{i}word{rng.integers(3)}" for i in np.flatnonzero(row))]))
    names = [[f"l{i}" for i in np.flatnonzero(row)] for row in sets]
    return pl.DataFrame({"text": texts, "size": rng.lognormal(0, 1.5, rows), "labels": names})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drift")
    some_rows(ROWS, 0).write_ndjson(folder / "train.jsonl")
    config = Config(data=str(folder / "train.jsonl"), text=("text",), features=("size",), labels=("labels",), C=10.0)
    train(Config(**{**config.__dict__, "out": str(folder / "run"), "tau": 1.0}))
    return folder / "run"


def alarms(run, examples, sizes, times, *, by_labels=False):
    """Count of resamples of rows those of which something is said."""
    logits, unknown = run.logits(examples), run.features.unknown_shares(examples.texts)
    rng, loud = np.random.default_rng(1), 0
    for size in sizes:
        for _ in range(times):
            rows = rng.integers(0, examples.rows, size)
            drift, part = run.drift(), examples.taken(rows)
            if by_labels:
                drift.look_at_labels(part, part.dense_targets())
            else:
                drift.look(part, logits[rows], unknown[rows])
            loud += drift.said() is not None
    return loud


def test_resamples_of_the_training_rows_stay_silent(path):
    run = load_run(path)
    examples = read_for(run, str(path.parent / "train.jsonl"), with_labels=True)
    assert alarms(run, examples, (20, 60, 250, 1000), 50) <= 2
    assert alarms(run, examples, (20, 250), 25, by_labels=True) <= 1


def test_new_rows_of_the_same_kind_stay_silent(path, tmp_path):
    run = load_run(path)
    some_rows(2000, 5).write_ndjson(tmp_path / "new.jsonl")
    assert alarms(run, read_for(run, str(tmp_path / "new.jsonl"), with_labels=True), (30, 200, 1000), 25) <= 1


def drift_of(run, frame, path):
    frame.write_ndjson(path)
    examples = read_for(run, str(path), with_labels=True)
    drift = run.drift()
    drift.look(examples, run.logits(examples), run.features.unknown_shares(examples.texts))
    return drift.found()


def test_what_differs_is_said(path, tmp_path):
    run, where = load_run(path), tmp_path / "new.jsonl"
    odds = 0.4 / np.arange(1, LABELS + 1)
    odds[7] = 0.5
    frequent = drift_of(run, some_rows(300, 2, odds), where)
    assert [label["label"] for label in frequent["labels"]] == ["l7"]
    assert frequent["labels"][0]["share"] > 4 * frequent["labels"][0]["training"]
    assert "l7" in frequent["said"]
    assert "x as frequent" in frequent["said"]
    assert not frequent["words"]["differ"]
    same = some_rows(300, 3)
    other = drift_of(run, same.with_columns(text=pl.col("text").str.replace_all(r"w(\d)", "v$1")), where)
    assert other["words"]["unknown"] > 0.5 > 0.3 > other["words"]["training"]
    assert "of words unknown" in other["said"]
    large = drift_of(run, same.with_columns(size=pl.col("size") + 8), where)
    assert [number["column"] for number in large["numbers"]] == ["size"]
    assert "size" in large["said"]
    assert "higher" in large["said"]


def test_what_is_usual_is_the_share_of_words_that_the_other_rows_lack(path):
    run, frame = load_run(path), pl.read_ndjson(path.parent / "train.jsonl")
    sets = [set(text.lower().split()) for text in frame["text"]]
    rows_with = {word: sum(word in words for words in sets) for words in sets for word in words}
    # A word of two rows is known; without the row itself, that is one of three.
    shares = [np.mean([rows_with[word] <= 2 for word in words]) for words in sets]
    assert run.usual.words == pytest.approx((np.mean(shares), np.std(shares)), abs=1e-5)
    assert run.usual.shares * ROWS == pytest.approx(run.train_counts)


def test_the_command_says_it_in_one_line_and_in_numbers(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odds = np.full(LABELS, 0.02)
    odds[5] = 0.6
    some_rows(200, 4, odds).write_ndjson("other.jsonl")
    some_rows(200, 5).write_ndjson("same.jsonl")
    _, stderr = call(f"predict {path} other.jsonl -o out.jsonl")
    assert stderr.count("these rows differ from those of training: ") == 1
    assert "l5" in stderr
    assert "differ" not in call(f"predict {path} same.jsonl -o out.jsonl")[1]
    said = as_json(f"predict {path} other.jsonl -o out.jsonl")["drift"]
    assert said["labels"][0]["label"] == "l5"
    _, stderr = call(f"evaluate {path} other.jsonl")
    assert "these rows differ from those of training: " in stderr
    measured = as_json(f"evaluate {path} same.jsonl")["drift"]
    assert measured["said"] is None
    assert measured["words"]["training"] > 0


def test_a_run_keeps_numbers_alone_and_one_without_them_says_nothing(path):
    state = json.loads((path / "run.json").read_text())["usual"]
    assert set(state) == {"words", "shares", "given", "skewness"}
    assert Usual.restored(None) is None
    usual = Usual.restored(state)
    assert usual is not None
    assert usual.state() == state


def test_labels_by_binomial_tails():
    # 30 of 100 rows where 5 of 100 are usual; 6 of 100 are not enough to say anything.
    usual = Usual(None, np.array([0.05, 0.05, 0.3]), np.array([0.04, 0.05, 0.3]))
    drift = Drift(usual, Features(), ["a", "b", "c"], CardinalityRange(0, 3))
    logits = -np.ones((100, 3))
    logits[:30, 0] = logits[:6, 1] = 1
    drift.look(Examples("x", ["a"] * 100, None, None, []), logits, np.full(100, np.nan))
    labels = drift.found()["labels"]
    assert [(label["label"], label["share"], label["training"]) for label in labels] == [
        ("c", 0.0, 0.3),
        ("a", 0.3, 0.05),
    ]
    assert drift.found()["said"] == "c nowhere, 30 % in training; a 6 x as frequent"


def rows_of_text(rows):
    return Examples("x", ["a"] * rows, None, None, [])


@pytest.mark.parametrize(
    ("usual", "share", "differ"), [(0.1, 0.14, 0), (0.1, 0.16, 1), (0.01, 0.03, 0), (0.01, 0.05, 1)]
)
def test_unknown_words_matter_from_half_as_many_again_and_three_points_more(usual, share, differ):
    drift = Drift(Usual((usual, 0.01), np.array([0.5]), np.array([0.5])), Features(), ["a"], CardinalityRange(0, 1))
    drift.look(rows_of_text(400), np.resize([1.0, -1.0], (400, 1)), np.full(400, share))
    words = drift.found()["words"]
    assert words is not None
    assert words["differ"] == bool(differ)


def test_labels_are_counted_where_they_are_known():
    drift = Drift(Usual(None, np.array([0.3]), np.array([0.3])), Features(), ["a"], CardinalityRange(0, 1))
    targets = np.full((100, 1), -1, dtype=np.int8)
    targets[:20, 0] = np.arange(20) < 15
    drift.look_at_labels(rows_of_text(100), targets)
    assert [(label["share"], label["rows"]) for label in drift.found()["labels"]] == [(0.75, 15)]


@pytest.mark.parametrize("skewness", [6.0, -6.0])
@pytest.mark.parametrize("side", [1, -1])
def test_a_shift_to_the_long_tail_of_a_column_has_to_be_larger(skewness, side):
    # 25 rows: 3.0 / 5 deviations are beyond chance without a tail, 4.7 / 5 with it.
    features = Features(mean=np.zeros(1, np.float32), std=np.ones(1, np.float32), centred=True)
    usual = Usual(None, np.array([0.5]), np.array([0.5]), np.array([skewness]))
    drift = Drift(usual, features, ["a"], CardinalityRange(0, 1), ["size"])
    numbers = np.full((25, 1), 0.8 * side, dtype=np.float32)
    drift.look(Examples("x", None, numbers, None, []), np.resize([1.0, -1.0], (25, 1)), np.full(25, np.nan))
    assert bool(drift.found()["numbers"]) == (skewness * side < 0)
