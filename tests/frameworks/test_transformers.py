"""Trainer with ZLPR: one accumulated batch has the gradient of its mean, whatever its parts and unknown cells are."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import manyhot
from framework_cases import CASES, FrameworkCase, check
from framework_leaves import transformers as leaf

pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")

from manyhot.transformers import MultiLabelTrainer, compute_metrics, loss_func  # noqa: E402

LABELS, ROWS = 7, 32
pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


class Rows(torch.utils.data.Dataset):
    def __init__(self, labels: torch.Tensor) -> None:
        self.ids = torch.randint(4, 20, (len(labels), 6), generator=torch.Generator().manual_seed(1))
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[row], "labels": self.labels[row]}


def labels_of(unknown: float | None = None) -> torch.Tensor:
    chance = torch.Generator().manual_seed(0)
    labels = (torch.rand(ROWS, LABELS, generator=chance) < 0.3).float()
    if unknown is not None:
        labels[torch.rand(ROWS, LABELS, generator=chance) < 0.3] = unknown
        labels[5] = unknown  # a row of which nothing is known
    return labels


def model() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=24, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=8, num_labels=LABELS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        problem_type="multi_label_classification",
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def args(folder: Path, batch: int = 32, steps: int = 1, **more: Any) -> Any:
    return transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=batch, gradient_accumulation_steps=steps, max_steps=1,
        report_to=[], use_cpu=True, disable_tqdm=True, logging_steps=1, max_grad_norm=1e9, save_strategy="no", **more,
    )  # fmt: skip


def gradient_norm(trainer: Any) -> float:
    """Return the norm that one step reports."""
    trainer.train()
    return next(entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry)


def right(labels: torch.Tensor) -> float:
    """Return the norm of the gradient of zlpr_loss of all rows at once."""
    network, rows = model(), Rows(labels)
    manyhot.zlpr_loss(network(input_ids=rows.ids).logits, labels).backward()
    return float(torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm())


@pytest.mark.parametrize(("batch", "steps"), [(32, 1), (8, 4)])
@pytest.mark.parametrize("unknown", [None, -100.0, -1.0, float("nan")])
def test_one_step_is_that_of_the_mean_of_all_rows(
    tmp_path: Path, unknown: float | None, batch: int, steps: int
) -> None:
    labels = labels_of(unknown)
    trainer = MultiLabelTrainer(model(), args(tmp_path, batch, steps), train_dataset=Rows(labels))
    assert gradient_norm(trainer) == pytest.approx(right(labels), rel=1e-5)


@pytest.mark.parametrize(("batch", "steps"), [(32, 1), (8, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_the_function_is_right_where_all_is_known(tmp_path: Path, batch: int, steps: int, dtype: torch.dtype) -> None:
    labels = labels_of()
    trainer = transformers.Trainer(
        model(), args(tmp_path, batch, steps), train_dataset=Rows(labels.to(dtype)), compute_loss_func=loss_func()
    )
    assert gradient_norm(trainer) == pytest.approx(right(labels), rel=1e-5)


def test_the_function_refuses_what_is_unknown() -> None:
    with pytest.raises(ValueError, match="MultiLabelTrainer"):
        loss_func()({"logits": torch.zeros(2, 3)}, torch.tensor([[1, 0, -100], [0, 1, 0]]), 5)


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_value_and_gradient(case: FrameworkCase) -> None:
    check(case, *leaf(case), "float32")


def test_evaluation_is_that_of_all_rows(tmp_path: Path) -> None:
    labels, prior = labels_of(), manyhot.label_prior(labels_of())
    network = model()
    trainer = MultiLabelTrainer(
        network, args(tmp_path, per_device_eval_batch_size=10), eval_dataset=Rows(labels),
        compute_metrics=compute_metrics(min_labels=1, train_counts=labels.sum(0)), loss_options={"prior": prior},
    )  # fmt: skip
    measured = trainer.evaluate()
    logits = network(input_ids=Rows(labels).ids).logits.detach()
    assert measured["eval_loss"] == pytest.approx(manyhot.zlpr_loss(logits, labels, prior=prior).item(), rel=1e-6)
    preds = manyhot.decide(logits, min_labels=1)
    expected = manyhot.multilabel_metrics(preds, labels, logits, train_counts=labels.sum(0))
    assert measured["eval_micro_f1"] == pytest.approx(expected["micro_f1"])
    assert measured["eval_empty_rows"] == 0
    trainer.save_model(str(tmp_path / "saved"))
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again(input_ids=Rows(labels).ids).logits, logits)
    assert again.config.problem_type == "multi_label_classification"


def test_trainer_still_has_what_is_overridden() -> None:
    base = transformers.Trainer._get_num_items_in_batch
    assert base is not MultiLabelTrainer._get_num_items_in_batch
    assert list(base.__annotations__)[:2] == ["batch_samples", "device"]


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pass loss="):
        MultiLabelTrainer(model(), args(tmp_path), compute_loss_func=loss_func())
    with pytest.raises(ValueError, match="label_smoothing"):
        MultiLabelTrainer(model(), args(tmp_path, label_smoothing_factor=0.1))


PROCESS = """
import sys, warnings
sys.path[:0] = {path!r}
import torch
from pathlib import Path
from test_transformers import MultiLabelTrainer, Rows, args, gradient_norm, labels_of, model
labels = labels_of(-1.0)
labels[:8] = -1.0  # so that one process has fewer known rows than the other
made = args(Path({folder!r}), 16, ddp_backend="gloo", train_sampling_strategy="sequential")
trainer = MultiLabelTrainer(model(), made, train_dataset=Rows(labels))
assert trainer.args.world_size == 2
print("NORM", gradient_norm(trainer))
"""


def test_two_processes_are_one(tmp_path: Path) -> None:
    labels = labels_of(-1.0)
    labels[:8] = -1.0
    here = Path(__file__).parent
    script = PROCESS.format(path=[str(here), str(here.parent)], folder=str(tmp_path))
    environment = os.environ | {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29500 + os.getpid() % 1000),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script], env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=180) for process in running]
    assert all(process.returncode == 0 for process in running), said[0][1][-3000:]
    norms = [float(line.split()[1]) for out, _ in said for line in out.splitlines() if line.startswith("NORM")]
    np.testing.assert_allclose(norms, right(labels), rtol=1e-5)
