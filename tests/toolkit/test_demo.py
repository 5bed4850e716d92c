"""The demo: real images in scenes, rivals trained alike, and a run that can be used."""

import json
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from manyhot import load_run
from manyhot.toolkit import demo as module
from manyhot.toolkit.train import Listener


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS", 300)
        patch.setattr(module, "TEST_ROWS", 120)
        result = module.run_demo(str(folder / "run"), Listener(say=said.append))
        scenes = module.make_scenes()
    return result, said, scenes


def images(examples):
    """The 8x8 squares of all scenes that are not blank, as bytes."""
    pixels = examples.numbers.reshape(examples.rows, 8, module.SLOTS, 8)
    squares = pixels.transpose(0, 2, 1, 3).reshape(-1, 64)
    return {square.astype(np.float32).tobytes() for square in squares if square.any()}


def test_scenes_hold_real_images_with_their_labels(shown):
    digits: Any = load_digits()
    pairs = zip(digits.data, digits.target, strict=True)
    known = {image.astype(np.float32).tobytes(): int(label) for image, label in pairs}
    for examples in shown[2]:
        targets = examples.targets.toarray()
        pixels = examples.numbers.reshape(examples.rows, 8, module.SLOTS, 8)
        for row in range(examples.rows):
            squares = [pixels[row, :, slot].astype(np.float32).reshape(-1) for slot in range(module.SLOTS)]
            drawn = [known[square.tobytes()] for square in squares if square.any()]
            assert 1 <= len(drawn) <= module.SLOTS
            assert set(drawn) == set(np.flatnonzero(targets[row]))


def test_train_and_test_images_are_disjoint(shown):
    train, test = shown[2]
    assert (train.rows, test.rows) == (300, 120)
    assert len(images(train)) > 100
    assert len(images(test)) > 50
    assert not images(train) & images(test)


def test_classes_are_imbalanced(shown):
    counts = np.asarray(shown[2][0].targets.sum(0)).ravel()
    assert counts[0] > 0.5 * 300
    assert counts[9] < 0.05 * 300
    assert counts[:3].min() > counts[6:].max()


def test_scenes_depend_on_the_seed_alone(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 20)
    monkeypatch.setattr(module, "TEST_ROWS", 10)
    first, second, other = (module.make_scenes(seed)[0].numbers for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_rivals_differ_in_loss_and_prior_alone(shown):
    default, plain, rival = module.RIVALS.values()
    assert (default.loss, default.tau) == ("zlpr", "auto")
    assert (plain.loss, plain.tau) == ("zlpr", 0.0)
    assert (rival.loss, rival.tau) == ("bce", 0.0)
    assert {config.C for config in module.RIVALS.values()} == {"auto"}
    assert list(shown[0].metrics) == list(module.RIVALS)


def test_the_saved_run_is_the_default_and_predicts(shown):
    result, said, (_, test) = shown
    run = load_run(result.path)
    default = result.metrics["ZLPR (default)"]
    assert run.info["loss"] == "zlpr"
    assert run.evaluate(test.numbers, test.targets) == default
    assert json.loads((result.path / "metrics.json").read_bytes())["test"] == default
    assert default["micro_f1"] > 0.6
    assert default["rows"] == 120
    sets = run.predict(test.numbers)
    assert all(labels and set(labels) <= set("0123456789") for labels in sets)
    assert sum(map(len, sets)) / 120 == pytest.approx(default["labels_per_row_predicted"])
    assert any("300 rows, 10 labels" in line for line in said)


def test_drawn_scenes_name_truth_and_predictions(shown):
    result, _, (_, test) = shown
    run = load_run(result.path)
    targets = test.targets.toarray()
    rows = np.flatnonzero(targets[:, 6:].any(1) & (targets.sum(1) > 1))[:3]
    captions = [line for line in result.examples if line.startswith("true: ")]
    assert len(captions) == len(rows) > 0
    for row, caption in zip(rows, captions, strict=True):
        said = dict(part.split(": ") for part in caption.split("   "))
        assert said["true"].split() == [str(d) for d in np.flatnonzero(targets[row])]
        assert said["ZLPR (default)"].split() == sorted(run.predict(test.numbers[[row]])[0])
        assert "BCE" in said
    drawing = result.examples[:8]
    assert sum(len(line) for line in drawing) > 100
    assert set("".join(drawing)) <= set(module.SHADES)


def test_the_demo_writes_to_the_first_free_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "ROWS", 60)
    monkeypatch.setattr(module, "TEST_ROWS", 20)
    assert str(module.run_demo(None, Listener()).path) == "runs/demo-1"
