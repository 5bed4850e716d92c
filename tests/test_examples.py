"""The scripts in examples/ run as they are, quickly; what they print are numbers."""

import importlib.util
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> Any:
    """Import a script that is in no package."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_r_drop(capsys: pytest.CaptureFixture[str]) -> None:
    example = load("r_drop")
    example.main(seeds=(0,), epochs=3)
    lines = capsys.readouterr().out.splitlines()
    table = {line[:12].strip(): [float(x) for x in re.findall(r"[\d.]+|nan|inf", line[12:])] for line in lines[2:5]}
    assert list(table) == ["one pass", "two passes", "R-Drop"]
    for micro, micro_spread, macro, macro_spread in table.values():
        # After three epochs the frequent digits are found, and nothing is perfect; one seed has no spread.
        assert 20 < micro < 90
        assert 3 < macro < 90
        assert micro_spread == macro_spread == 0
    gains = [float(x) for x in re.findall(r"[+-][\d.]+", lines[5])]
    want = [table["R-Drop"][i] - table["two passes"][i] for i in (0, 2)]
    assert gains == pytest.approx(want, abs=0.11)  # of rounded numbers
    assert float(lines[6].split(":")[1]) in example.WEIGHTS
    assert all(map(math.isfinite, gains))


def test_r_drop_is_repeatable() -> None:
    example = load("r_drop")
    first, again = (example.compare(seed=3, epochs=1) for _ in range(2))
    assert first[1] == again[1]
    for name, scores in first[0].items():
        assert scores.tolist() == again[0][name].tolist()


@pytest.mark.slow
def test_top_k_layer(capsys: pytest.CaptureFixture[str]) -> None:
    load("top_k_layer").main(steps=120, trials=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("8 of 64 pixels")
    learned, alone, random = (float(re.findall(r"([\d.]+) %", line)[0]) for line in lines[1:])
    assert 70 < learned <= 100
    assert learned > random + 5
    assert 10 < alone <= 100


@pytest.mark.slow
def test_guided_generation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # A tenth of the training: digits are bad, and what is read is near nothing; but all of it runs.
    table = load("guided_generation").main(0.1, tmp_path / "scenes.png")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("50 scenes a method")
    assert list(table) == [
        *("real", "unguided", "guided, s = 1", "guided, s = 4", "guided, s = 16", "classifier-free"),
    ]
    assert all(0 <= share <= 100 for both in table.values() for share in both)
    assert table["real"][0] > 10
    assert table["real"][0] > table["unguided"][0]
    assert (tmp_path / "scenes.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "scenes.json").read_text()) == {"scenes": 50, "exactly": table}


def test_the_guidance_is_the_gradient_of_zlpr() -> None:
    example = load("guided_generation")
    torch.manual_seed(0)
    denoiser, classifier = example.Denoiser(), example.NoisyClassifier()
    x, t, labels = torch.randn(2, 1, 8, 32), torch.full((2,), 0.4), torch.eye(10)[:2]
    leaf = x.clone().requires_grad_()
    logits = classifier(leaf, t)
    zlpr = (1 + (logits * (1 - labels) + -1e9 * labels).exp().sum(-1)).log()
    zlpr = zlpr + (1 + ((-logits) * labels + -1e9 * (1 - labels)).exp().sum(-1)).log()
    (slope,) = torch.autograd.grad(-zlpr.sum(), leaf)
    with torch.no_grad():
        got = example.guided(denoiser, classifier, 3.0)(x, t, labels)
        want = example.unguided(denoiser)(x, t, labels) - 3.0 * math.sin(0.4 * math.pi / 2) * slope
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_scenes_never_have_a_pair_that_is_kept_apart() -> None:
    example = load("guided_generation")
    random = np.random.default_rng(0)
    seen = example.draw_sets(300, random, lambda labels: not example.is_new(labels))
    new = example.draw_sets(300, random, example.is_new)
    pairs = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert not any(seen[i, a] and seen[i, b] for i in range(300) for a, b in pairs)
    assert all(any(row[a] and row[b] for a, b in pairs) for row in new)
    assert set(seen.sum(1)) == {1, 2, 3, 4}
