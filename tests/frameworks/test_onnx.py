"""ONNX: sessions decide as `manyhot.decide` does, and runs of every kind give the logits they give in Python."""

# pyright: reportMissingImports=false

import csv
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import manyhot
from manyhot.toolkit.config import Config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.train import train
from tiny_bert import save

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from manyhot.onnx import OPSET, Decided, check_export, export, graph, session_of  # noqa: E402

RANGES = [(0, None), (1, None), (1, 3), (0, 3), (2, 2), (1, 1)]


def logits_of(labels: int) -> np.ndarray:
    s = np.random.default_rng(0).standard_normal((16, labels)).astype(np.float32)
    s[0], s[1], s[2] = 0, np.nan, -np.inf
    s[3] = -1
    s[4] = np.round(s[4])  # ties
    s[5, ::2], s[6, ::3], s[7, 0] = -np.inf, np.nan, np.inf
    s[8], s[9] = 1, np.round(s[9] - 3)
    return s


class EveryRange(torch.nn.Module):
    """The decisions of all ranges, at one threshold and at one a label: an export takes seconds."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.options: list[dict[str, Any]] = [
            {"threshold": at, "min_labels": low, "max_labels": high if high is None else min(high, labels)}
            for at in (0.25, np.linspace(-0.5, 0.5, labels, dtype=np.float32))
            for low, high in RANGES
            if low <= labels
        ]
        self.decided = torch.nn.ModuleList([Decided(torch.nn.Identity(), **options) for options in self.options])

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(decided(*inputs)[1] for decided in self.decided)


@pytest.mark.parametrize("labels", [1, 14, 5000])
def test_sessions_decide_as_decide(tmp_path: Path, labels: int) -> None:
    every = EveryRange(labels)
    names = [f"labels{i}" for i in range(len(every.options))]
    written = graph(every, (torch.zeros(2, labels),), ["features"], names, OPSET)
    (tmp_path / "model.onnx").write_bytes(written.SerializeToString())
    session, s = session_of(tmp_path / "model.onnx"), logits_of(labels)
    together = session.run(None, {"features": s})
    one_by_one = [session.run(None, {"features": s[row : row + 1]}) for row in range(len(s))]
    for i, options in enumerate(every.options):
        np.testing.assert_array_equal(together[i], manyhot.decide(s, **options), err_msg=str(options))
        np.testing.assert_array_equal(np.concatenate([row[i] for row in one_by_one]), together[i])


def test_names_and_metadata_of_a_model(tmp_path: Path) -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.last = torch.nn.Embedding(9, 4), torch.nn.Linear(6, 3)

        def forward(self, input_ids: torch.Tensor, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.last(torch.cat([self.words(input_ids).mean(1), numbers], 1))}

    chance = np.random.default_rng(0)
    s, t = chance.standard_normal((200, 3)), (chance.random((200, 3)) < 0.4).astype(int)
    calibration = manyhot.fit_calibration(s, t)
    model, path = Two().train(), tmp_path / "model.onnx"
    model.words.eval()  # frozen, as a part may be
    export(model, path, example=(torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 2)), calibration=calibration,
           label_names=["a", "b", "ç"], max_labels=2)  # fmt: skip
    assert (model.training, model.words.training, model.last.training) == (True, False, True)
    ids, numbers = chance.integers(0, 9, (7, 11)), chance.standard_normal((7, 2)).astype(np.float32)
    session = session_of(path)
    assert [i.name for i in session.get_inputs()] == ["input_ids", "numbers"]
    assert [o.name for o in session.get_outputs()] == ["logits", "labels", "probs"]
    logits, labels, probs = session.run(None, {"input_ids": ids, "numbers": numbers})
    with torch.no_grad():
        right = model(torch.from_numpy(ids), torch.from_numpy(numbers))["logits"].numpy()
    np.testing.assert_allclose(logits, right, atol=1e-6)
    np.testing.assert_array_equal(labels, manyhot.decide(right, max_labels=2))
    np.testing.assert_allclose(probs, calibration.probs(right), atol=1e-6)
    said = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert said["labels"] == ["a", "b", "ç"]
    assert said["cardinality"] == {"min_labels": 0, "max_labels": 2}
    assert said["manyhot"] == manyhot.__version__
    np.testing.assert_allclose(said["calibration"]["temperature"], calibration.temperature)


def table(path: Path, rows: int, seed: int, *, labels: bool = True) -> str:
    """Write numbers, some missing, a column of categories and one 0/1 column a label."""
    chance = np.random.default_rng(seed)
    x = chance.standard_normal((rows, 4)).round(3)
    kinds = chance.choice(["red", "green", "blue"], rows)
    y = np.stack([x[:, 0] + (kinds == "red") > 0.5, x[:, 1] - x[:, 2] > 0, x[:, 3] ** 2 > 1], 1).astype(int)
    y[y.sum(1) == 0, 0] = 1
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["w", "x", "y", "z", "kind", *(["one", "two", "three"] if labels else [])])
        for i in range(rows):
            cells = ["" if chance.random() < 0.1 and j == 1 else x[i, j] for j in range(4)]
            out.writerow([*cells, "purple" if not labels and i == 0 else kinds[i], *(y[i] if labels else [])])
    return str(path)


def agrees(run: Any, exported: Path, data: str) -> None:
    found = check_export(run, exported, data)
    assert found["largest"] < 1e-5, found
    assert found["differing"] == 0
    assert found["rows"] > 20


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_runs_on_numbers(tmp_path: Path, model: str) -> None:
    data, new = table(tmp_path / "train.csv", 150, 0), table(tmp_path / "new.csv", 40, 1, labels=False)
    config = Config(data=data, labels=("one", "two", "three"), model=model, out=str(tmp_path / "run"), neighbours="off")
    train(config)
    run = manyhot.load_run(tmp_path / "run")
    export(tmp_path / "run", tmp_path / "run.onnx")
    agrees(run, tmp_path / "run.onnx", new)
    said = {entry.key: entry.value for entry in onnx.load(tmp_path / "run.onnx").metadata_props}
    assert json.loads(said["features"]) == ["w", "x", "y", "z"]
    assert sorted(json.loads(said["categories"])["kind"]) == ["blue", "green", "red"]
    assert json.loads(said["labels"]) == run.label_names


SENTENCES = [
    "red square",
    "red circle big",
    "blue square",
    "small blue circle",
    "big square",
    "small red circle square",
]


def texts(path: Path, rows: int) -> str:
    with open(path, "w") as file:
        for i in range(rows):
            said = SENTENCES[i % len(SENTENCES)]
            labels = [word for word in ("red", "square", "small") if word in said] or ["none"]
            file.write(json.dumps({"text": said, "labels": labels}) + "\n")
    return str(path)


def test_columns_of_a_kernel_and_rows_that_vote(tmp_path: Path) -> None:
    data, new = table(tmp_path / "train.csv", 150, 0), table(tmp_path / "new.csv", 40, 1, labels=False)
    trained = train(Config(data=data, labels=("one", "two", "three"), out=str(tmp_path / "run")))
    assert trained is not None
    run = trained.run
    assert run.features.kernel is not None
    run.neighbours = cast(Any, "rows of whatever kind")
    with pytest.raises(InputError, match="--neighbours off"):
        export(run, tmp_path / "run.onnx")
    run.neighbours = None
    export(run, tmp_path / "run.onnx")
    agrees(run, tmp_path / "run.onnx", new)


@pytest.mark.parametrize("kind", ["frozen", "fine-tuned"])
def test_runs_on_an_encoder(tmp_path: Path, kind: str) -> None:
    folder = save(tmp_path / "bert", sorted({word for text in SENTENCES for word in text.split()}))
    more: dict[str, Any] = {"words": False} if kind == "frozen" else {"fine_tune": True, "device": "cpu"}
    data = texts(tmp_path / "train.jsonl", 48)
    train(Config(data=data, model=f"encoder:{folder}", out=str(tmp_path / "run"), **more))
    run = manyhot.load_run(tmp_path / "run")
    export(run, tmp_path / "run.onnx")
    agrees(run, tmp_path / "run.onnx", texts(tmp_path / "new.jsonl", 30))
    said = {entry.key: entry.value for entry in onnx.load(tmp_path / "run.onnx").metadata_props}
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_str(said["tokenizer"]).encode("small red circle").ids
    inputs = {"input_ids": np.array([encoded]), "attention_mask": np.ones((1, len(encoded)), dtype=np.int64)}
    found = session_of(tmp_path / "run.onnx").run(["logits"], inputs)[0]
    np.testing.assert_allclose(found, run.predict_logits(["small red circle"]), atol=1e-4)


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    train(Config(data=texts(tmp_path / "train.jsonl", 48), out=str(tmp_path / "run")))
    with pytest.raises(InputError, match=r"TF-IDF is not in ONNX.*words=false"):
        export(tmp_path / "run", tmp_path / "run.onnx")
    assert not (tmp_path / "run.onnx").exists()
    with pytest.raises(ValueError, match="example="):
        export(torch.nn.Identity(), tmp_path / "run.onnx")
    with pytest.raises(ValueError, match="min_labels <= max_labels"):
        Decided(torch.nn.Identity(), min_labels=2, max_labels=1)
