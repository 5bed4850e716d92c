"""An encoder fine-tuned: logits = W pooled(last layer) + b, all weights trained, stopped early and fitted again.

Biases start at a share of the log-odds of their labels: at the rates of fine-tuning they would take thousands of steps
to get there. Rows of like length are a mini-batch, which is taken in parts where it has many tokens.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyhot.labels import label_prior
from manyhot.toolkit.disk.fits import Arrays
from manyhot.toolkit.models.adamw import Schedule
from manyhot.toolkit.models.early_stopping import HELD, Lengths, NetLearner, listed_bytes
from manyhot.toolkit.models.features import DesignMatrix
from manyhot.toolkit.models.model import Memory, Score, free_memory, tensors
from manyhot.toolkit.models.pooling import Pooling
from manyhot.toolkit.models.pretrained import Encoder, arrays_of, embed, network_of, pooled, trainable, trained_on
from manyhot.toolkit.models.processes import Share
from manyhot.toolkit.objectives import ListedLoss, Loss

WARM_UP = 0.1


def warmed(share: float) -> float:
    """Rise over the first tenth of the steps, then fall to 0."""
    return share / WARM_UP if share < WARM_UP else (1 - share) / (1 - WARM_UP)


# As Devlin et al. (2019) fine-tune BERT: batches of 16 or 32. Their 2 to 4 epochs are too few for many labels; the rows
# held out say when it is enough. Their rates of 2e-5 to 5e-5 are those of larger networks: with MiniLM 1e-4 is ahead of
# 5e-5 and of 2e-4 on training rows of three sets, and neither rates that fall by layer nor a head that starts from the
# best one for frozen numbers are ahead (benchmarks/fine_tuning.py).
SCHEDULE = Schedule(batch=16, epochs=10, rate=1e-4, factor=warmed, weight_decay=0.01, patience=2)
# Tokens at once, with what they are padded to: more take more memory, and no less time.
TOKENS = 2048
# Weights, the pretrained ones, gradient and two moments.
VECTORS = 5
NETWORK = "network."


@dataclass(frozen=True)
class FineTuned:
    """A network, its configuration, its pooling, and the last layer: weights (width, labels) and biases.

    Vectors are not made of length 1, as frozen ones may be: logits would be kept small.
    """

    network: nn.Module
    config: dict[str, Any]
    pooling: Pooling
    weight: Tensor
    bias: Tensor

    def parameters(self) -> dict[str, Tensor]:
        """Return all that is trained, by name."""
        named = {NETWORK + name: parameter for name, parameter in self.network.named_parameters()}
        return named | {"weight": self.weight, "bias": self.bias}

    def hidden(self, X: np.ndarray, random: torch.Generator, share: Share) -> Tensor:
        """Return vectors of token ids in training; with several processes, each drops out numbers of its own."""
        self.network.train()
        devices = [self.bias.device] if self.bias.device.type == "cuda" else []
        # Dropout inside of transformers draws from torch's own random numbers, which are not ours to move.
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=random)) + share.rank)
            return pooled(self.network, self.pooling, X)

    def logits(self, X: np.ndarray) -> np.ndarray:
        """Return (rows, labels) float32."""
        numbers = embed(self.network.eval(), self.pooling, X, self.weight.shape[0])
        weight, bias = (tensor.detach().cpu().numpy() for tensor in (self.weight, self.bias))
        return numbers @ weight + bias

    def shifted(self, by: np.ndarray) -> "FineTuned":
        """Return the model whose logits are higher by `by`, a number a label."""
        moved = self.bias.detach() + torch.from_numpy(by).to(self.bias.device)
        return FineTuned(self.network, self.config, self.pooling, self.weight, moved)

    def around(self, columns: np.ndarray, values: np.ndarray, labels: np.ndarray) -> None:
        """Return None: it reads tokens."""

    def arrays(self) -> Arrays:
        """Return all weights."""
        head = {"weight": self.weight.detach().cpu().numpy(), "bias": self.bias.detach().cpu().numpy()}
        return head | {NETWORK + name: value for name, value in arrays_of(self.network).items()}

    @classmethod
    def restored(
        cls, config: dict[str, Any], pooling: Pooling, arrays: Arrays, labels: int, device: str
    ) -> "FineTuned":
        """Restore what :meth:`arrays` returned.

        Raises:
            ValueError: arrays that do not fit the configuration or the labels.
        """
        inner = {name.removeprefix(NETWORK): a for name, a in arrays.items() if name.startswith(NETWORK)}
        head = tensors({name: arrays[name] for name in ("weight", "bias")})
        for name, tensor in head.items():
            if tensor.ndim != (1 if name == "bias" else 2) or tensor.shape[-1] != labels:
                raise ValueError(f"expected {name} of {labels} labels; got an array of shape {tuple(tensor.shape)}")
        network = network_of(config, inner).to(device)
        return cls(network, config, pooling, *(tensor.to(device) for tensor in head.values()))


def plan_encoder(
    rows: int,
    labels: int,
    *,
    encoder: Encoder,
    loss: Loss | ListedLoss,
    score: Score,
    start: float = 0.0,
    coupled: bool = False,
    seed: int = 0,
    device: str = "cpu",
    listed: bool = False,
    free: int | None = None,
) -> NetLearner:
    """Say how an encoder is fine-tuned, on token ids, and count what that takes.

    Args:
        rows, labels: how many.
        encoder: what the fit starts from.
        loss: the sum over rows; of lists, one of `LISTED_LOSSES`.
        score: of rows held out.
        start: where biases start, so often the log-odds of their labels.
        coupled: the loss of a mini-batch is no sum over its rows, so that it is not taken in parts.
        seed, device: of the fit.
        listed: targets are lists.
        free: bytes.

    Raises:
        InputError: more than is free.
    """
    parameters = sum(p.numel() for p in encoder.network.parameters()) + (encoder.width + 1) * labels
    config, pooling, length = encoder.config, Pooling(encoder.pooling.modes), encoder.tokens.limit
    # Korthikanti et al. (2022), equation 1, twice for float32: what a layer keeps for its gradient.
    tokens = SCHEDULE.batch * length
    tokens = tokens if coupled else min(tokens, max(TOKENS, length))
    layer = 2 * tokens * (34 * encoder.hidden + 5 * config.get("num_attention_heads", 12) * length)
    logits = listed_bytes(rows, labels, encoder.width) if listed else 12 * (rows // HELD) * labels
    needed = 4 * parameters * VECTORS + layer * config.get("num_hidden_layers", 12) + logits
    memory = Memory(
        f"{encoder.name} fine-tuned, AdamW in mini-batches on {trained_on(device)}",
        parameters,
        needed,
        free_memory(device) if free is None else free,
    )
    memory.check(f"{encoder.name} and texts of {length} tokens", "leave fine_tune out")

    def draw(X: DesignMatrix, targets: Any) -> FineTuned:
        random = torch.Generator().manual_seed(seed)
        # As BERT's own layers are drawn.
        weight = torch.randn(encoder.width, targets.shape[1], generator=random) * 0.02
        bias = start * torch.logit(torch.as_tensor(label_prior(targets), dtype=torch.float32).cpu())
        head = [tensor.to(device).requires_grad_() for tensor in (weight, bias)]
        return FineTuned(trainable(encoder.network).to(device), config, pooling, *head)

    return NetLearner(
        loss,
        score,
        memory,
        SCHEDULE,
        seed,
        device,
        draw=draw,
        lengths=Lengths(lambda ids: (ids >= 0).sum(1), None if coupled else TOKENS),
    )
