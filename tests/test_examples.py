"""The scripts in examples/ run as they are, quickly; what they print are numbers."""

import importlib.util
import math
import re
from pathlib import Path
from typing import Any

import pytest

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


def test_top_k_layer(capsys: pytest.CaptureFixture[str]) -> None:
    load("top_k_layer").main(steps=120, trials=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("8 of 64 pixels")
    learned, alone, random = (float(re.findall(r"([\d.]+) %", line)[0]) for line in lines[1:])
    assert 70 < learned <= 100
    assert learned > random + 5
    assert 10 < alone <= 100
