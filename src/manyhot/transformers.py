"""ZLPR in Hugging Face's Trainer: right under gradient accumulation, unknown labels and several processes."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

try:
    from transformers import EvalPrediction, Trainer
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise ImportError('manyhot.transformers needs transformers: pip install "manyhot[transformers]"') from error

from manyhot.decisions import decide
from manyhot.losses.zlpr import zlpr_loss
from manyhot.metrics import multilabel_metrics
from manyhot.targets import known_cells, known_rows

# (logits, labels, reduction="none", **options) to the loss of each row.
RowLoss = Callable[..., Tensor]


class MultiLabelTrainer(Trainer):
    """A Trainer whose loss is the mean over the rows with a known label of an accumulated batch.

    Trainer counts label cells that are not -100 where this needs rows, so a loss function alone is off by the number of
    labels, and wrong where labels are unknown: :func:`loss_func` refuses those. Here -1, -100 and NaN in the labels are
    unknown, and with `average_tokens_across_devices` rows are counted over all processes.

    Args:
        args: what `transformers.Trainer` takes, but `compute_loss_func`.
        loss: (logits, labels, reduction="none") to the loss of each row.
        loss_options: of the loss, such as ``{"prior": manyhot.label_prior(Y_train)}``; tensors follow the logits.
        kwargs: as args.

    Raises:
        ValueError: `compute_loss_func`, or `label_smoothing_factor`, which is `label_smoothing` of the loss.
    """

    def __init__(
        self,
        *args: Any,
        loss: RowLoss = zlpr_loss,
        loss_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("MultiLabelTrainer computes the loss itself: pass loss= and loss_options=.")
        given = kwargs.get("args", args[1] if len(args) > 1 else None)
        if given is not None and given.label_smoothing_factor:
            raise ValueError('label_smoothing_factor is of classes; pass loss_options={"label_smoothing": ...}.')
        super().__init__(*args, **kwargs)
        self.loss = loss
        self.loss_options = dict(loss_options or {})
        # What Trainer asks before it counts, and before it divides by the number of accumulated steps.
        self.model_accepts_loss_kwargs = True

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Count the rows with a known label of an accumulated batch, over all processes if they are averaged."""
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        rows = torch.tensor(sum(_rows(batch["labels"]) for batch in batch_samples), device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            rows = self.accelerator.gather(rows).sum()  # pyright: ignore
        return rows

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the loss of a part of a batch: its share of the mean over `num_items_in_batch` rows.

        Raises:
            KeyError: inputs without labels.
        """
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        inputs["labels"] = labels
        logits = _logits(outputs)
        rows = self.loss(logits, labels, reduction="none", **_moved(self.loss_options, logits.device))
        if num_items_in_batch is None:
            loss = rows.sum() / max(_rows(labels), 1)
        else:
            loss = rows.sum() / torch.as_tensor(num_items_in_batch, device=rows.device).clamp(min=1)
            # The mean that DDP takes over processes divides once more.
            loss = loss * (self.args.world_size if self.args.average_tokens_across_devices else 1)
        return (loss, outputs) if return_outputs else loss


def loss_func(loss: RowLoss = zlpr_loss, **options: Any) -> Callable[..., Tensor]:
    """Return a loss for ``Trainer(compute_loss_func=...)``, where every label of every row is known.

    Trainer hands over the number of label cells of the accumulated batch; the sum of the losses of rows is divided by
    the rows these are.

    Args:
        loss: (logits, labels, reduction="none") to the loss of each row.
        options: of the loss; tensors follow the logits.

    Returns:
        f(outputs, labels, num_items_in_batch=None). It raises ValueError for unknown labels.

    Example:
        >>> import torch
        >>> from manyhot.transformers import loss_func
        >>> compute = loss_func()
        >>> outputs = {"logits": torch.tensor([[2.0, -1.0, 3.0, -2.0]])}
        >>> compute(outputs, torch.tensor([[1, 0, 1, 0]]), num_items_in_batch=4)
        tensor(0.5775)
    """

    def compute(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        known = known_cells(labels)
        if known is not None and not bool(known.all()):
            raise ValueError(
                "labels hold -1, -100 or NaN, and Trainer does not say how many rows are known: use "
                "manyhot.transformers.MultiLabelTrainer in place of Trainer and compute_loss_func."
            )
        logits = _logits(outputs)
        rows = loss(logits, labels, reduction="none", **_moved(options, logits.device))
        if num_items_in_batch is None:
            return rows.mean()
        return rows.sum() * logits.shape[-1] / num_items_in_batch

    return compute


def compute_metrics(
    *, min_labels: int = 0, max_labels: int | None = None, train_counts: Any = None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return what ``Trainer(compute_metrics=...)`` takes: decisions at 0, measured where labels are known.

    Args:
        min_labels, max_labels: how many labels a row has: :func:`manyhot.cardinality_range`.
        train_counts: (labels,), training rows of each label, for the F1 of rare, medium and head labels.

    Returns:
        f(EvalPrediction) to the numbers of :func:`manyhot.multilabel_metrics`, those that are None left out.

    Example:
        >>> import numpy as np
        >>> from transformers import EvalPrediction
        >>> from manyhot.transformers import compute_metrics
        >>> logits, labels = np.array([[2.0, -1.0, 3.0], [-3.0, 1.0, -2.0]]), np.array([[1, 0, 1], [0, 1, 1]])
        >>> compute_metrics(min_labels=1)(EvalPrediction(logits, labels))["micro_f1"]
        0.8571428571428571
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits: Any = prediction.predictions
        logits = logits[0] if isinstance(logits, tuple) else logits  # hidden states and the like come after them
        preds = decide(logits, min_labels=min_labels, max_labels=max_labels)
        measured = multilabel_metrics(preds, prediction.label_ids, logits, train_counts=train_counts)
        return {name: value for name, value in measured.items() if value is not None}

    return compute


def _logits(outputs: Any) -> Tensor:
    return outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]


def _rows(labels: Tensor) -> int:
    """Count the rows with a known label."""
    known = known_rows(labels)
    return labels.shape[:-1].numel() if known is None else int(known.sum())


def _moved(options: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in options.items()}
