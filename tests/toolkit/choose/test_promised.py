"""`--decision precision=P`: what is promised, said, kept, and left as it was."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from command import bad, call
from manyhot import load_run


def test_a_precision_that_is_promised_is_kept_and_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    words = {"a": "apple", "b": "bread", "c": "cheese", "d": "date"}
    rows, test_rows = [], []
    for i in range(500):
        names = [name for name in "abc" if rng.random() < 0.4] + (["d"] if i in (3, 77, 200) else [])
        # A word of another label stands there as often as not.
        said = [words[name] for name in names] + [words[name] for name in "abc" if rng.random() < 0.15]
        (rows if i < 350 else test_rows).append((" ".join([*said, f"filler{rng.integers(20)}"]), "|".join(names)))
    for file, of in (("t.csv", rows), ("test.csv", test_rows)):
        pl.DataFrame({"text": [r[0] for r in of], "labels": [r[1] for r in of]}).write_csv(file)
    call("train t.csv --out plain --set C=10")
    _, stderr = call("train t.csv --test test.csv --out run --decision precision=.75 --set C=10")
    assert "a precision of 75 % is promised for 3 of 4 labels" in stderr
    assert "too rare to promise anything, and never predicted: d" in stderr
    run, plain = load_run("run"), load_run("plain")
    assert run.info["promise"] == {"precision": 0.75, "too_rare": ["d"], "never": []}
    assert run.cardinality.min_labels == 0
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["test"]["micro_precision"] > 0.7
    assert 0 < metrics["test"]["micro_recall"] <= 1
    assert metrics["cross_fitted"]["micro_precision"] >= 0.75
    texts = [row[0] for row in test_rows]
    assert not any("d" in labels for labels in run.predict(["date date", *texts]))
    # Only thresholds move: probabilities and all else stay.
    assert run.probs(texts) == pytest.approx(plain.probs(texts), abs=1e-5)
    moved = run.predict_logits(texts) - plain.predict_logits(texts)
    assert np.ptp(moved, axis=0).max() < 1e-4
    assert "promise a precision of" in Path("run/report.html").read_text()
    assert "decision expects one of f1, cardinality, or precision=P" in bad("train t.csv --decision precision=2")
