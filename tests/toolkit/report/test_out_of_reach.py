"""Labels and label sets that a run can never predict, and what its report says of them."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from manyhot.labels import CardinalityRange
from manyhot.toolkit.config import Config
from manyhot.toolkit.models import mlp
from manyhot.toolkit.report import out_of_reach
from manyhot.toolkit.report.out_of_reach import never_predicted
from manyhot.toolkit.train import train


def run_of(weight: Any, bias: Any, least: int, most: int, *, relu: bool = False, task: str = "multilabel") -> Any:
    """Return as much of a run as is asked: its last layer, (inputs, labels), and its decision."""
    arrays = {"weight": np.array(weight, dtype=np.float32), "bias": np.array(bias, dtype=np.float32)}
    if relu:
        arrays["hidden_bias"] = np.zeros(len(arrays["weight"]), dtype=np.float32)
    names = [f"l{i}" for i in range(len(arrays["bias"]))]
    model = SimpleNamespace(arrays=lambda: arrays)
    shape = {"cardinality": CardinalityRange(least, most), "task": task, "label_names": names, "neighbours": None}
    return SimpleNamespace(model=model, keeps_best=False, **shape)


# Labels 0 and 1 are opposite; label 2 is between them.
LINE = [[1.0, -1.0, 0.5]]


def rows(*sets: tuple[int, ...], labels: int = 3) -> sp.csr_array:
    cells = np.zeros((len(sets), labels), dtype=bool)
    for row, members in enumerate(sets):
        cells[row, list(members)] = True
    return sp.csr_array(cells)


def test_the_most_frequent_set_out_of_reach_is_named() -> None:
    targets = rows((0, 2), (1,), (0, 1), (0, 1), (1, 2), (0, 1))
    (warning,) = never_predicted(run_of(LINE, [0.0, 0.0, 0.0], 0, 3), targets)
    assert warning == {
        "text": "2 of the 4 label sets of training rows that this model can never predict, whatever the row: its last "
        "layer has 1 input for 3 labels. The most frequent of them has 3 training rows:",
        "labels": ["l0", "l1"],
        "more": 0,
    }


def test_nothing_is_said_where_all_are_in_reach() -> None:
    assert never_predicted(run_of(LINE, [0.0, 0.0, 0.0], 0, 3), rows((0, 2), (1,))) == []
    # As many inputs as labels.
    assert never_predicted(run_of(np.eye(3), [0.0] * 3, 0, 3), rows((0, 1, 2), ())) == []


def test_filling_up_and_cutting_give_sets_that_the_threshold_does_not() -> None:
    # Label 0 alone is never above 0 without label 2, but it is the best of both where one is kept.
    assert len(never_predicted(run_of(LINE, [0.0, 0.0, 0.0], 0, 3), rows((0,)))) == 1
    assert never_predicted(run_of(LINE, [0.0, 0.0, 0.0], 0, 1), rows((0,))) == []
    assert len(never_predicted(run_of(LINE, [0.0, 0.0, 0.0], 0, 1), rows((2,)))) == 1


def test_labels_behind_a_relu() -> None:
    weight = [[1.0, -1.0, -2.0], [0.5, -1.0, 1.0]]
    run = run_of(weight, [0.0, -1.0, 0.0], 0, 2, relu=True)
    (warning,) = never_predicted(run, rows((0,), (0, 2)))
    assert warning["text"].startswith(
        "1 label that this model can never predict, whatever the row: its last layer has 2"
    )
    assert warning["labels"] == ["l1"]
    # Without the ReLU it has inputs, and with at least one label a row it would have to be the best.
    assert never_predicted(run_of(weight, [0.0, -1.0, 0.0], 0, 2), rows((0,), (0, 2))) == []
    (again,) = never_predicted(run_of(weight, [0.0, -1.0, 0.0], 1, 2, relu=True), rows((0,), (0, 2)))
    assert again["labels"] == ["l1"]


def test_classes() -> None:
    run = run_of([[1.0, -1.0, 0.25, 2.0]], [0.0] * 4, 1, 1, task="multiclass")
    (warning,) = never_predicted(run, rows((0,), (1,), labels=4))
    assert warning["labels"] == ["l0", "l2"]
    assert warning["text"] == (
        "2 classes that this model can never predict, whatever the row: its last layer has 1 input for 4 classes."
    )


def test_a_trained_network_that_is_too_narrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One hidden unit behind a ReLU: logits move along a ray, on which not each of five labels is alone.
    monkeypatch.setattr(mlp, "HIDDEN", 1)
    monkeypatch.setattr(mlp, "SCHEDULE", replace(mlp.SCHEDULE, epochs=3))
    lines = [f"{','.join(str(int(i == j)) for j in range(5))},{i}" for i in range(5)] * 8
    (tmp_path / "d.csv").write_text("\n".join(["a,b,c,d,e,labels", *lines, ""]))
    train(Config(data=str(tmp_path / "d.csv"), labels=("labels",), model="mlp", out=str(tmp_path / "run")))
    found = json.loads((tmp_path / "run" / "findings.json").read_bytes())
    said = [warning["text"] for warning in found["warnings"] if "can never predict" in warning["text"]]
    assert said
    assert "its last layer has 1 input for 5 labels" in said[0]
    assert "can never predict" in (tmp_path / "run" / "report.html").read_text()


def test_no_more_sets_than_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out_of_reach, "WORK", 0)
    monkeypatch.setattr(out_of_reach, "FEWEST_SETS", 2)
    (warning,) = never_predicted(run_of(LINE, [0.0] * 3, 0, 3), rows((0, 1), (0, 1), (1,), (0, 1, 2)))
    assert warning["text"].startswith("1 of the 2 most frequent label sets")
