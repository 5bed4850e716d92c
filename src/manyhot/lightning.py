"""A LightningModule with ZLPR: measured on whole epochs, right on several devices."""

# pyright: reportMissingImports=false

from typing import Any

import torch
from torch import Tensor, nn

try:
    from lightning.pytorch import LightningModule
except ModuleNotFoundError as error:
    if error.name != "lightning":
        raise
    raise ImportError('manyhot.lightning needs Lightning: pip install "manyhot[lightning]"') from error

from manyhot.decisions import decide
from manyhot.losses.zlpr import ZLPRLoss
from manyhot.metrics import multilabel_metrics
from manyhot.parallel import mean
from manyhot.targets import known_rows

# What is logged of a validation epoch, with val_ before it.
LOGGED = ("micro_f1", "macro_f1", "empty_rows")


class MultiLabelModule(LightningModule):
    """A network with ZLPR, AdamW, and F1 of the *whole* validation epoch.

    Batches are (inputs, targets); targets (rows, labels), 0/1 or shares in [0, 1] in training, with -1, -100 or NaN
    where unknown. Logs `train_loss`, `val_loss`, `val_micro_f1`, `val_macro_f1` and `val_empty_rows`; F1 is no mean of
    the F1 of batches. Who has a LightningModule writes ``self.loss = manyhot.ZLPRLoss()`` in it, and needs no other.

    Args:
        net: inputs to logits (rows, labels).
        loss: (logits, targets) to the mean over rows with a known label; `ZLPRLoss()` if left out.
        lr: of AdamW.
        min_labels, max_labels: how many labels a row has: :func:`manyhot.cardinality_range`.

    Example:
        >>> import torch, manyhot
        >>> from manyhot.lightning import MultiLabelModule
        >>> module = MultiLabelModule(torch.nn.Linear(4, 3), manyhot.ZLPRLoss(prior=[0.5, 0.2, 0.1]), min_labels=1)
        >>> module.predict_step(torch.zeros(2, 4), 0).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module | None = None,
        *,
        lr: float = 1e-3,
        min_labels: int = 0,
        max_labels: int | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.loss = ZLPRLoss() if loss is None else loss
        self.save_hyperparameters(ignore=["net", "loss"])
        self.limits: dict[str, Any] = {"min_labels": min_labels, "max_labels": max_labels}
        self.lr = lr
        self._seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, *inputs: Any) -> Tensor:
        """Return logits."""
        return self.net(*inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the loss of a batch, over all devices the mean over their known rows."""
        inputs, targets = batch
        loss, rows = self.loss(self(inputs), targets), _rows(targets)
        self.log("train_loss", loss.detach(), batch_size=rows)
        # Devices take the mean of their means, which is not that of all rows where they have differently many.
        return mean(loss * rows, rows) if self.trainer.world_size > 1 else loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Keep logits and targets of a batch for the end of the epoch."""
        inputs, targets = batch
        logits = self(inputs)
        self.log("val_loss", self.loss(logits, targets), batch_size=_rows(targets), sync_dist=True)
        self._seen.append((logits.detach().float().cpu(), targets.detach().cpu()))

    def on_validation_epoch_end(self) -> None:
        """Measure the epoch, on all devices."""
        seen, self._seen = self._seen, []
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, seen)
            seen = [pair for part in parts for pair in part]
        logits, targets = (torch.cat(rows) for rows in zip(*seen, strict=True))
        measured = multilabel_metrics(decide(logits, **self.limits), targets, logits)
        for name in LOGGED:
            value: Any = measured[name]
            self.log(f"val_{name}", value, rank_zero_only=True, prog_bar=name == LOGGED[0])

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return 0/1 decisions of a batch, with targets or without."""
        return decide(self(batch[0] if isinstance(batch, tuple | list) else batch), **self.limits)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def _rows(targets: Tensor) -> int:
    """Count the rows with a known label."""
    known = known_rows(targets)
    return len(targets) if known is None else int(known.sum())
