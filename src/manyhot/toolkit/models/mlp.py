"""One hidden layer: logits = V relu(W x + c) + b, by AdamW in mini-batches, stopped early and fitted again on all rows.

A sparse row takes its rows of W from an embedding bag, its values being the weights; a dense one is multiplied.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from manyhot.toolkit.disk.fits import Arrays
from manyhot.toolkit.models.adamw import Schedule
from manyhot.toolkit.models.blocks import in_blocks
from manyhot.toolkit.models.early_stopping import HELD, NetLearner, listed_bytes
from manyhot.toolkit.models.features import DesignMatrix
from manyhot.toolkit.models.linear import mean_squared_length
from manyhot.toolkit.models.model import Around, Memory, Score, free_memory, tensors
from manyhot.toolkit.models.processes import Share
from manyhot.toolkit.objectives import Loss

# benchmarks/mlp.py compared these with others on training rows of six sets: of four that are ahead by one cut of the
# rows none is by two standard errors on three other cuts. Twice the units or a quarter of the batch gain four points on
# enron, lose one on the others, and take two to four times as long.
HIDDEN = 512
DROPOUT = 0.5
SCALE = 0.2
SCHEDULE = Schedule(batch=64, epochs=100, rate=1e-3, patience=10)
# Weights, gradient, two moments, and the gradient that an embedding bag builds beside.
VECTORS = 5
# Temporaries of the eager loss and its backward in tensors of rows x labels float32, as in `linear`.
LOGITS_TENSORS = 12


@dataclass(frozen=True)
class Mlp:
    """Weights of both layers, (features, hidden) and (hidden, labels), and their biases, float32."""

    hidden_weight: Tensor
    hidden_bias: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def drawn(cls, X: DesignMatrix, labels: int, *, seed: int, device: str) -> "Mlp":
        """Draw weights at which hidden numbers have about the size SCALE whatever the length of a row is."""
        random = torch.Generator().manual_seed(seed)
        scale = SCALE * mean_squared_length(X) ** -0.5
        drawn = cls(
            torch.randn(X.shape[1], HIDDEN, generator=random) * scale,
            torch.zeros(HIDDEN),
            torch.randn(HIDDEN, labels, generator=random) * HIDDEN**-0.5,
            torch.zeros(labels),
        )
        return cls(**{name: tensor.to(device).requires_grad_() for name, tensor in drawn.parameters().items()})

    def parameters(self) -> dict[str, Tensor]:
        """Return the weights by name."""
        return {name: getattr(self, name) for name in ("hidden_weight", "hidden_bias", "weight", "bias")}

    def hidden(self, X: DesignMatrix, random: torch.Generator | None = None, share: Share | None = None) -> Tensor:
        """Return hidden numbers; in training `random` draws which of a mini-batch drop out, shared or not."""
        device = self.bias.device
        if sp.issparse(X):
            rows = sp.csr_array(X)
            indices, starts = (
                torch.from_numpy(part.astype(np.int64)).to(device) for part in (rows.indices, rows.indptr)
            )
            values = torch.from_numpy(rows.data).to(device)
            product = F.embedding_bag(
                indices, self.hidden_weight, starts, mode="sum", per_sample_weights=values, include_last_offset=True
            )
        else:
            product = torch.from_numpy(np.ascontiguousarray(X)).to(device) @ self.hidden_weight
        hidden = F.relu(product + self.hidden_bias)
        if random is not None:
            rows, here = (len(hidden), slice(None)) if share is None else (share.rows, share.here)
            kept = (torch.rand((rows, hidden.shape[1]), generator=random) >= DROPOUT)[here]
            hidden = hidden * (kept.to(device) / (1 - DROPOUT))
        return hidden

    def logits(self, X: DesignMatrix) -> np.ndarray:
        """Return (rows, labels) float32."""
        with torch.no_grad():
            return in_blocks(
                X, lambda block: (self.hidden(block) @ self.weight + self.bias).cpu().numpy(), len(self.bias)
            )

    def shifted(self, by: np.ndarray) -> "Mlp":
        """Return the model whose logits are higher by `by`, a number a label."""
        moved = self.bias.detach() + torch.from_numpy(by).to(self.bias.device)
        return Mlp(self.hidden_weight, self.hidden_bias, self.weight, moved)

    def arrays(self) -> Arrays:
        """Return the weights."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.parameters().items()}

    def around(self, columns: np.ndarray, values: np.ndarray, labels: np.ndarray) -> Around:
        """Return the gradient of the row, and what the logits are beside gradient times row: exact around it."""
        first, offset, second, bias = (tensor.detach().cpu().numpy() for tensor in self.parameters().values())
        first, second = first[columns].astype(np.float64), second[:, labels].astype(np.float64)
        active = values @ first + offset > 0
        return (first * active) @ second, (offset * active) @ second + bias[labels]

    @classmethod
    def restored(cls, arrays: Arrays, features: int, labels: int) -> "Mlp":
        """Restore what :meth:`arrays` returned, on the CPU.

        Raises:
            ValueError: arrays of another shape.
        """
        hidden = arrays["hidden_bias"].size
        wanted = {
            "hidden_weight": (features, hidden),
            "hidden_bias": (hidden,),
            "weight": (hidden, labels),
            "bias": (labels,),
        }
        for name, shape in wanted.items():
            if arrays[name].shape != shape:
                raise ValueError(f"expected {name} of shape {shape}; got {arrays[name].shape}")
        return cls(**tensors({name: arrays[name] for name in wanted}))


def plan_mlp(
    rows: int,
    features: int,
    labels: int,
    *,
    loss: Loss,
    score: Score,
    seed: int = 0,
    device: str = "cpu",
    listed: bool = False,
    free: int | None = None,
) -> NetLearner:
    """Say how models with a hidden layer are fitted, and count what that takes; `listed` where targets are lists.

    Raises:
        InputError: more than is free.
    """
    parameters = (features + 1) * HIDDEN + (HIDDEN + 1) * labels
    logits = 4 * SCHEDULE.batch * labels * LOGITS_TENSORS + 12 * (rows // HELD) * labels
    if listed:
        logits = listed_bytes(rows, labels, HIDDEN)
    needed = 4 * (parameters * VECTORS + 4 * SCHEDULE.batch * HIDDEN) + logits
    memory = Memory(
        f"{HIDDEN} hidden units, AdamW in mini-batches on {device.upper()}",
        parameters,
        needed,
        free_memory(device) if free is None else free,
    )
    memory.check(f"{features:,} features x {HIDDEN} hidden units x {labels:,} labels", "use --model linear")
    return NetLearner(
        loss,
        score,
        memory,
        SCHEDULE,
        seed,
        device,
        draw=lambda X, targets: Mlp.drawn(X, targets.shape[1], seed=seed, device=device),
    )
