"""The calibration of a run: fitted on held-out rows, measured on others, saved, and used."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

import manyhot
from manyhot import calibration_metrics, fit_calibration, load_run, stratified_split
from manyhot.toolkit.choose import calibrate as module
from manyhot.toolkit.choose.calibrate import calibrate
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.run_folder import MANIFEST, sha256
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.train import train


def held_out(rows: int = 900, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits that are half as sure as they say, and too high."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (rows, 4)).astype(np.float32)
    return logits, random.random((rows, 4)) < expit(logits / 2 - 1)


def table(path: str, rows: int, seed: int) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3))
    y = random.random((rows, 3)) < expit(2 * x - 1)
    y[~y.any(1), 0] = True
    columns = {f"x{i}": x[:, i] for i in range(3)} | {f"label{i}": y[:, i].astype(int) for i in range(3)}
    frame = pl.DataFrame(columns)
    frame.write_csv(path)
    return frame


def test_it_is_fitted_on_all_rows_and_measured_on_thirds_left_out():
    logits, targets = held_out()
    found = calibrate(logits, targets, seed=3)
    whole = fit_calibration(logits, targets)
    np.testing.assert_array_equal(found.calibration.temperature, whole.temperature)
    np.testing.assert_array_equal(found.calibration.offset, whole.offset)
    part = stratified_split(targets, [1.0] * 3, seed=3)
    probs = np.empty(logits.shape)
    for p in range(3):
        probs[part == p] = fit_calibration(logits[part != p], targets[part != p]).probs(logits[part == p])
    after, before = calibration_metrics(probs, targets), calibration_metrics(expit(logits), targets)
    for score in ("ece", "brier", "log_loss"):
        assert found.measured[score] == pytest.approx(after[score])
        assert found.measured[f"{score}_uncalibrated"] == pytest.approx(before[score], rel=1e-6)
        np.testing.assert_allclose(found.by_label[score], after[f"label_{score}"])
        assert found.measured[score] < 0.9 * found.measured[f"{score}_uncalibrated"]
    np.testing.assert_allclose(found.calibration.temperature, 2, rtol=0.25)


def test_classes_are_taken_as_one_problem():
    logits, targets = held_out()
    ids = targets.argmax(1)
    found = calibrate(logits, np.eye(4, dtype=bool)[ids], multiclass=True)
    expected = fit_calibration(logits, ids)
    assert found.calibration.classes
    np.testing.assert_array_equal(found.calibration.temperature, expected.temperature)


def test_of_too_many_rows_some_are_taken(monkeypatch):
    logits, targets = held_out()
    monkeypatch.setattr(module, "MAX_CELLS", 1200)
    seen = []
    monkeypatch.setattr(module, "fit_calibration", lambda s, t: (seen.append(s.shape), fit_calibration(s, t))[1])
    found = calibrate(logits, targets, seed=1)
    assert seen[-1] == (300, 4)
    assert {shape[0] for shape in seen[:-1]} <= set(range(195, 206))
    assert found.calibration.temperature == pytest.approx(calibrate(logits, targets, seed=1).calibration.temperature)


def test_however_many_labels_there_are_a_row_is_left_for_each_third(monkeypatch):
    monkeypatch.setattr(module, "MAX_CELLS", 2)
    assert calibrate(*held_out(30)).reliability[0].sum() == 3 * 4


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_few_rows(rows):
    logits, targets = held_out(rows)
    found = calibrate(logits, targets)
    assert np.isfinite(list(found.measured.values())).all()
    assert np.isfinite(found.calibration.probs(logits)).all()


def test_a_run_has_probabilities_and_keeps_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table("d.csv", 240, 0)
    new = table("t.csv", 400, 1)
    trained: Any = train(Config(data="d.csv", test="t.csv", out="run", loss="zlpr"))
    run = load_run("run")
    probs = run.probs(new)
    assert probs.dtype == np.float32
    np.testing.assert_array_equal(probs, trained.run.probs(new))
    np.testing.assert_array_equal(probs, run.calibration.probs(run.predict_logits(new)))
    truth = new.select(run.label_names).to_numpy()
    measured = trained.metrics["test"]
    for score in ("ece", "brier", "log_loss"):
        assert measured[score] == pytest.approx(calibration_metrics(probs, truth)[score])
    assert measured["log_loss"] < measured["log_loss_uncalibrated"]
    saved = json.loads(Path("run/calibration.json").read_bytes())
    assert [label["name"] for label in saved["labels"]] == run.label_names
    assert [label["temperature"] for label in saved["labels"]] == run.calibration.temperature.tolist()
    assert saved["measured"]["ece"] == trained.metrics["cross_fitted"]["ece"]
    assert set(saved["labels"][0]) == {"name", "temperature", "offset", *saved["measured"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["labels"].pop(), "labels: expected the 3 labels of run.json in their order"),
        (lambda c: c["labels"][0].update(temperature=0), "temperature"),
        (lambda c: c["labels"][0].update(temperature="sure"), "its parts do not fit"),
        (lambda c: c.pop("classes"), "its parts do not fit"),
    ],
)
def test_a_calibration_that_was_edited_with_its_checksum(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    table("d.csv", 60, 0)
    train(Config(data="d.csv", C=1.0, out="run"))
    saved = json.loads(Path("run/calibration.json").read_bytes())
    change(saved)
    content = json.dumps(saved).encode()
    Path("run/calibration.json").write_bytes(content)
    manifest = json.loads(Path("run", MANIFEST).read_bytes())
    manifest["sha256"]["calibration.json"] = sha256(content)
    Path("run", MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message):
        manyhot.load_run("run")


def test_rows_of_a_group_are_in_one_third(monkeypatch):
    logits, targets = held_out(90)
    groups, seen = np.repeat(np.arange(18), 5), []
    monkeypatch.setattr(module, "fit_calibration", lambda s, t: (seen.append(s), fit_calibration(s, t))[1])
    calibrate(logits, targets, groups=groups)
    for fitted in seen[:-1]:
        inside = np.array([(fitted == row).all(1).any() for row in logits])
        assert all(len(set(inside[groups == g])) == 1 for g in range(18))
