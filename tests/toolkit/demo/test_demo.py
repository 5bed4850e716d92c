"""The demo: titles of packages or scenes of digits, trained as any table is, beside what people do today."""

import csv
import gzip
import json
import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files as files_of
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import load_digits

from command import as_json, bad, call
from manyhot import load_run
from manyhot.toolkit.compare.methods import METHODS
from manyhot.toolkit.compare.standings import Decided, standings
from manyhot.toolkit.config import Config
from manyhot.toolkit.demo import digits, run
from manyhot.toolkit.demo.packages import SAMPLE, packages
from manyhot.toolkit.demo.today import RIVALS, decided_today
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.read.inputs import read
from manyhot.toolkit.runs.evaluate import Aligned
from manyhot.toolkit.train import train

LINES = gzip.decompress((files_of("manyhot.toolkit.demo") / "sample" / SAMPLE).read_bytes()).decode().splitlines()
ROWS = [json.loads(line) for line in LINES]


COMMON = [tag for tag, _ in Counter(tag for row in ROWS for tag in row["tags"]).most_common(12)]


def few(part, number):
    """Some rows of the sample with the frequent tags alone."""
    kept = [row | {"tags": [tag for tag in row["tags"] if tag in COMMON]} for row in ROWS if row["part"] == part]
    return [row for row in kept if row["tags"]][:number]


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory):
    """Take some of the rows of either job."""
    path = tmp_path_factory.mktemp("few") / "few.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in few("train", 150) + few("test", 60)))

    @contextmanager
    def some():
        with packages() as job:
            yield replace(job, config=replace(job.config, data=str(path)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "ROWS", 90)
        patch.setattr(digits, "TEST_ROWS", 40)
        patch.setitem(run.JOBS, "packages", some)
        yield path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    return run.run_demo("packages", str(tmp_path_factory.mktemp("demo") / "run"), Listener())


def test_the_sample_is_small_and_no_title_is_in_both_parts():
    assert (files_of("manyhot.toolkit.demo") / "sample" / SAMPLE).stat().st_size <= 150_000  # type: ignore[attr-defined]
    assert len(ROWS) == 4000
    assert all(set(row) == {"part", "title", "tags"} and row["tags"] for row in ROWS)
    titles = {part: {row["title"].lower() for row in ROWS if row["part"] == part} for part in ("train", "test")}
    assert {part: len(found) for part, found in titles.items()} == {"train": 3000, "test": 1000}
    assert not titles["train"] & titles["test"]


def test_the_run_is_that_of_train_and_the_numbers_are_its_own(shown, small):
    trained = train(Config(data=str(small), split_column="part", out="run"))
    assert trained is not None
    texts = [row["title"] for row in few("test", 60)]
    np.testing.assert_array_equal(load_run(shown.path).predict_logits(texts), trained.run.predict_logits(texts))
    said = shown.metrics["manyhot"]
    assert {key: trained.metrics["test"][key] for key in said} == said
    assert list(shown.metrics) == ["manyhot", *RIVALS.values()]
    assert shown.use == f'manyhot predict {shown.path} "a chess game for the terminal"'


def test_rivals_are_bce_as_compare_fits_it_with_no_range_of_labels(shown, small):
    config = Config(data=str(small), split_column="part")
    training = read(config)
    assert training.test is not None
    fits: dict[str, dict[str, np.ndarray]] = {}
    train(replace(config, out="run"), remember=fits)
    own, done = load_run(shown.path), []

    def told(what, share, value):
        done.append(what)

    found = decided_today(config, training, own, {}, told)
    assert set(found) == set(RIVALS) <= {method.name for method in METHODS}
    # What the run was fitted from is that of the rivals, and is not made again.
    alone, done = set(done), []
    again = decided_today(config, training, own, fits, told)
    assert set(done) < alone
    for name, (logits, _) in again.items():
        np.testing.assert_array_equal(logits, found[name].logits)
    for logits, preds in found.values():
        np.testing.assert_array_equal(preds, logits > 0)
    # Of the default, no row is empty, since no training row is; of BCE cut at 0.5, some are.
    assert not found["bce"].preds.any(1).all()


def test_examples_are_chosen_by_their_truth_and_add_up(shown):
    rows = [row for row in few("test", 60) if 3 <= len(row["tags"]) <= 6][: run.SHOWN]
    own = load_run(shown.path)
    logits = own.predict_logits([row["title"] for row in rows])
    predicted = [[label.name for label in sets] for sets in own.label_sets(logits)]
    assert len(shown.examples) == len(rows) == run.SHOWN
    for row, sets, example in zip(rows, predicted, shown.examples, strict=True):
        assert example.lines == [f'"{row["title"]}"']
        assert sorted([*example.right, *example.missed]) == sorted(row["tags"])
        assert sorted([*example.right, *example.added]) == sorted(sets)


def decided(names, preds):
    return {name: [Decided(np.where(p, 1.0, -1.0).astype(np.float32), p)] for name, p in zip(names, preds, strict=True)}


def test_the_meaning_says_ahead_behind_and_no_clear_difference():
    rng = np.random.default_rng(0)
    targets = rng.random((400, 12)) < 0.3
    # The first rival misses half, the second predicts the same; the third is better.
    half = targets & (rng.random(targets.shape) < 0.5)
    some = targets & (rng.random(targets.shape) < 0.8)
    aligned = Aligned(targets, np.zeros((400, 0), dtype=bool), [])
    counts = np.array([4] * 6 + [100] * 6)
    names = ("manyhot", *RIVALS.values())

    def meaning(measured):
        return run.meaning(measured, names[1:], run.JUDGED)

    said = meaning(standings(decided(names, (some, half, some)), {"manyhot"}, "manyhot", aligned, train_counts=counts))
    first, second = said.split(". Beside ")
    assert first.startswith("Beside BCE, cut at 0.5: manyhot is ahead in micro-F1 (+")
    assert "chance" not in first
    assert "behind" not in said
    even = "(0.0 [0.0, 0.0])"
    assert second == f"BCE, one threshold: no clear difference in micro-F1 {even}, macro-F1 {even} and rare-F1 {even}."
    said = meaning(
        standings(decided(names, (some, half, targets)), {"manyhot"}, "manyhot", aligned, train_counts=counts)
    )
    assert ". Beside BCE, one threshold: manyhot is behind in micro-F1 (−" in said
    few = standings(
        decided(names, (some, half, some)), {"manyhot"}, "manyhot", aligned, train_counts=counts[::-1] * 0 + 100
    )
    assert "rare-F1" not in meaning(few)


def test_the_command_prints_five_rows_what_they_mean_and_three_packages(shown, monkeypatch):
    monkeypatch.setattr(run, "run_demo", lambda data, out, listener: shown)
    stdout, stderr = call("demo")
    lines = stdout.splitlines()
    assert lines[1].split("  ")[0] == "on test rows"
    titles = [line[:24].strip() for line in lines[2:7]]
    assert titles[:4] == ["micro-F1", "macro-F1", "rare-F1 (1-8 rows)", "rows left empty"]
    assert titles[4].startswith("labels a row (true ")
    for line, key in zip(lines[2:6], run.METRICS, strict=False):
        values = [metrics[key] for metrics in shown.metrics.values()]
        assert re.findall(r"([\d.]+) %", line) == [f"{100 * value:.1f}" for value in values if value is not None]
    assert lines[8].startswith("Beside BCE, cut at 0.5: ")
    assert stdout.count('"\n  ') == 3
    assert stderr.splitlines() == [
        f"run     {shown.path}",
        f"report  {shown.path}/report.html",
        f'try     manyhot predict {shown.path} "a chess game for the terminal"',
    ]


def test_the_command_prints_one_object(shown, monkeypatch):
    monkeypatch.setattr(run, "run_demo", lambda data, out, listener: shown)
    value = as_json("demo --data digits")
    assert value == {"run": str(shown.path), "test": shown.metrics}
    for metrics in value["test"].values():
        assert {*run.METRICS, "labels_per_row_true"} <= set(metrics)


def test_packages_are_saved_as_a_table_to_train_on():
    _, stderr = call("demo --save packages.csv")
    assert stderr == "wrote packages.csv: 4,000 titles of packages with their tags. Next: manyhot train packages.csv\n"
    with open("packages.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["title"] for row in rows] == [row["title"] for row in ROWS]
    assert [row["tags"].split("; ") for row in rows] == [row["tags"] for row in ROWS]
    stdout, _ = call("train packages.csv --dry-run")
    assert [line.split()[:2] for line in stdout.splitlines()[1:]] == [["title", "text"], ["tags", "label"]]
    assert "this file is there" in bad("demo --save packages.csv")
    assert "expected a name that ends in .csv" in bad("demo --save packages.tsv")


def test_what_is_no_job_is_refused():
    assert bad("demo --data images") == "--data expects one of packages, digits; got 'images'."
    assert bad("demo --task digits") == "--task expects one of multilabel, spans; got 'digits'."


# Digits


def images(pixels):
    """The 8x8 squares of all scenes that are not blank, as bytes."""
    squares = pixels.reshape(len(pixels), 8, digits.SLOTS, 8).transpose(0, 2, 1, 3).reshape(-1, 64)
    return {square.astype(np.float32).tobytes() for square in squares if square.any()}


def test_scenes_hold_real_images_with_their_labels_in_disjoint_parts(monkeypatch):
    monkeypatch.setattr(digits, "ROWS", 300)
    monkeypatch.setattr(digits, "TEST_ROWS", 120)
    (X, targets), (X_test, targets_test) = digits.make_scenes()
    found: Any = load_digits()
    pairs = zip(found.data, found.target, strict=True)
    known = {image.astype(np.float32).tobytes(): int(label) for image, label in pairs}
    for pixels, labels in ((X, targets), (X_test, targets_test)):
        squares = pixels.reshape(len(pixels), 8, digits.SLOTS, 8)
        for row in range(len(pixels)):
            own = [squares[row, :, slot].astype(np.float32).reshape(-1) for slot in range(digits.SLOTS)]
            drawn = [known[square.tobytes()] for square in own if square.any()]
            assert 1 <= len(drawn) <= digits.SLOTS
            assert set(drawn) == set(np.flatnonzero(labels[row]))
    assert (len(X), len(X_test)) == (300, 120)
    assert len(images(X)) > 100
    assert len(images(X_test)) > 50
    assert not images(X) & images(X_test)
    counts = targets.sum(0)
    assert counts[0] > 0.5 * 300
    assert counts[9] < 0.05 * 300
    assert counts[:3].min() > counts[6:].max()


def test_scenes_depend_on_the_seed_alone():
    first, second, other = (digits.make_scenes(seed)[0][0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_digits_are_trained_as_a_matrix_and_drawn():
    shown = run.run_demo("digits", None, Listener())
    _, (X, targets) = digits.make_scenes()
    own = load_run(shown.path)
    metrics = own.evaluate(X, sp.csr_array(targets))
    assert metrics["micro_f1"] == shown.metrics["manyhot"]["micro_f1"] > 0.5
    assert metrics["rows"] == 40
    rows = np.flatnonzero(targets[:, 6:].any(1) & (targets.sum(1) > 1))[: run.SHOWN]
    assert len(shown.examples) == len(rows) > 0
    for row, example in zip(rows, shown.examples, strict=True):
        assert len(example.lines) == 8
        assert set("".join(example.lines)) <= set(digits.SHADES)
        assert sorted([*example.right, *example.missed]) == [str(d) for d in np.flatnonzero(targets[row])]
        assert sorted([*example.right, *example.added]) == sorted(own.predict(X[[row]])[0])
