"""The LightningModule: it learns, measures whole epochs, keeps the prior, and two processes are one."""

# pyright: reportMissingImports=false

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import manyhot
from framework_cases import CASES, FrameworkCase, check
from framework_leaves import in_lightning

lightning = pytest.importorskip("lightning")

from manyhot.lightning import MultiLabelModule  # noqa: E402

# Lightning's advice about workers, and what it uses itself.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


def rows_of(unknown: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    X = torch.randn(320, 6, generator=chance)
    noise = 0.3 * torch.randn(320, 4, generator=chance)
    Y = (X @ torch.randn(6, 4, generator=chance) + noise > 0.7).float()
    if unknown:
        Y[torch.rand(Y.shape, generator=chance) < 0.3] = -1
        Y[::5] = -1
    return X, Y


def trainer(folder: Path, **options: Any) -> Any:
    return lightning.Trainer(
        **{"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "max_epochs": 12,
           "enable_model_summary": False, "default_root_dir": str(folder), **options}
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_value_and_gradient(case: FrameworkCase) -> None:
    check(case, *in_lightning(case), "float32")


@pytest.mark.parametrize("unknown", [False, True])
def test_it_learns_and_measures_the_whole_epoch(tmp_path: Path, unknown: bool) -> None:
    X, Y = rows_of(unknown)
    loader = DataLoader(TensorDataset(X, Y), batch_size=48, shuffle=True, generator=torch.Generator().manual_seed(1))
    held = DataLoader(TensorDataset(X, Y), batch_size=48)
    torch.manual_seed(0)
    module = MultiLabelModule(
        torch.nn.Linear(6, 4), manyhot.ZLPRLoss(prior=manyhot.label_prior(Y)), lr=0.05, min_labels=1
    )
    running = trainer(tmp_path, enable_checkpointing=True)
    running.fit(module, loader, held)
    logits = module(X).detach()
    right: Any = manyhot.multilabel_metrics(manyhot.decide(logits, min_labels=1), Y, logits)
    assert running.callback_metrics["val_micro_f1"].item() == pytest.approx(right["micro_f1"], abs=1e-6)
    assert running.callback_metrics["val_macro_f1"].item() == pytest.approx(right["macro_f1"], abs=1e-6)
    assert running.callback_metrics["val_empty_rows"].item() == 0
    assert running.callback_metrics["val_loss"].item() == pytest.approx(module.loss(logits, Y).item(), rel=1e-5)
    assert right["micro_f1"] > 0.85
    assert "loss.prior_logits" in module.state_dict()
    preds = torch.cat(running.predict(module, held))
    torch.testing.assert_close(preds, manyhot.decide(logits, min_labels=1))
    path = str(tmp_path / "saved.ckpt")
    running.save_checkpoint(path)
    again = MultiLabelModule.load_from_checkpoint(
        path, net=torch.nn.Linear(6, 4), loss=manyhot.ZLPRLoss(prior=[0.5] * 4), weights_only=True
    )
    assert again.limits["min_labels"] == 1
    torch.testing.assert_close(again(X), logits)


PROCESS = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = {path!r}
import torch
from pathlib import Path
from torch.utils.data import DataLoader, TensorDataset
from test_lightning import MultiLabelModule, rows_of, trainer

X, Y = rows_of()
Y[0:16:2] = -1  # every other row goes to the other process, which has more known rows

class Watched(MultiLabelModule):
    def on_before_optimizer_step(self, optimizer):
        self.norm = torch.stack([p.grad.norm() for p in self.net.parameters()]).norm().item()

torch.manual_seed(0)
net = torch.nn.Linear(6, 4)
running = trainer(Path({folder!r}), max_steps=1, devices={devices}, num_nodes=1, strategy={strategy!r},
                  enable_checkpointing=False, num_sanity_val_steps=0)
module = Watched(net)
loader = DataLoader(TensorDataset(X[:16], Y[:16]), batch_size=16 // {devices}, shuffle=False)
running.fit(module, loader, loader)
if running.is_global_zero:  # a file, since what two processes print may come on one line
    Path({found!r}).write_text(json.dumps([module.norm, running.callback_metrics["val_micro_f1"].item()]))
"""


def test_two_processes_are_one(tmp_path: Path) -> None:
    here = Path(__file__).parent
    found = []
    for devices, strategy in ((1, "auto"), (2, "ddp")):
        script = tmp_path / f"of{devices}.py"
        script.write_text(PROCESS.format(
            path=[str(here), str(here.parent)], folder=str(tmp_path), found=str(tmp_path / f"found{devices}.json"),
            devices=devices, strategy=strategy,
        ))  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": str(30500 + os.getpid() % 1000)}
        done = subprocess.run(
            [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads((tmp_path / f"found{devices}.json").read_text()))
    (norm, f1), (norm_of_two, f1_of_two) = found
    np.testing.assert_allclose(norm_of_two, norm, rtol=1e-5)
    np.testing.assert_allclose(f1_of_two, f1, atol=1e-6)
