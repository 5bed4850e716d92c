"""The numbers of a text from those of its tokens: what a folder of sentence-transformers says, else the mean."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from manyhot.toolkit.parse import parse_json
from manyhot.toolkit.plain_files import MOST_TEXT, read_plain


def _mean(hidden: Tensor, known: Tensor) -> Tensor:
    return (hidden * known).sum(1) / known.sum(1)


def _weighted_mean(hidden: Tensor, known: Tensor) -> Tensor:
    return _mean(hidden, known * torch.arange(1, 1 + hidden.shape[1], device=hidden.device)[:, None])


def _last(hidden: Tensor, known: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), known.sum(1).long().squeeze(-1) - 1]


# By the names of sentence-transformers, in the order in which it puts several beside each other. Of the last layer,
# (rows, tokens, width), and which tokens are there, (rows, tokens, 1) of 0 and 1, padded at the end.
MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": lambda hidden, known: hidden[:, 0],
    "max": lambda hidden, known: hidden.masked_fill(known == 0, -torch.inf).amax(1),
    "mean": _mean,
    "mean_sqrt_len": lambda hidden, known: (hidden * known).sum(1) / known.sum(1).sqrt(),
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


@dataclass(frozen=True)
class Pooling:
    """How the vectors of tokens become one: :data:`MODES` beside each other, and whether its length is made 1."""

    modes: tuple[str, ...] = ("mean",)
    normalise: bool = False

    def __call__(self, hidden: Tensor, known: Tensor) -> Tensor:
        """Return (rows, width x modes) of the last layer (rows, tokens, width) and (rows, tokens) bool."""
        weights = known.unsqueeze(-1).to(hidden.dtype)
        return torch.cat([MODES[mode](hidden, weights) for mode in self.modes], 1)

    def finish(self, numbers: np.ndarray) -> np.ndarray:
        """Make the rows of a text's own length 1, where that is asked for."""
        return normalize(torch.from_numpy(numbers)).numpy() if self.normalise else numbers

    def describe(self) -> str:
        """Say which, for the terminal."""
        return " and ".join(self.modes) + (", length 1" if self.normalise else "")


MEAN = Pooling()


class Sentences(NamedTuple):
    """What a folder says beside the network: where that lies, the pooling, and the most tokens of a text."""

    folder: Path
    pooling: Pooling
    limit: int | None


def read_sentences(folder: Path) -> Sentences:
    """Read modules.json of sentence-transformers and the files it names; of other folders, the mean of all tokens.

    Modules after the pooling other than Normalize, such as Dense, are layers on top and are left out.

    Raises:
        ValueError, KeyError, TypeError, OSError: not as sentence-transformers writes it.
    """
    if not (folder / "modules.json").is_file():
        return Sentences(folder, MEAN, None)
    modules = {module["type"].rpartition(".")[2]: folder / module["path"] for module in _json(folder / "modules.json")}
    inner = modules.get("Transformer", folder)
    modes = _modes(_json(modules["Pooling"] / "config.json")) if "Pooling" in modules else MEAN.modes
    limits = [_json(path).get("max_seq_length") for path in sorted(inner.glob("sentence_*_config.json"))]
    limit = min((int(limit) for limit in limits if limit), default=None)
    return Sentences(inner, Pooling(modes, "Normalize" in modules), limit)


def _modes(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the modes of a pooling: a name, several, or `pooling_mode_..._tokens: true` for each."""
    switch = "pooling_mode_"
    said = config.get("pooling_mode") or [key for key, on in config.items() if key.startswith(switch) and on is True]
    keys = [said] if isinstance(said, str) else said
    names = [key.removeprefix(switch).removesuffix("_tokens").removesuffix("_token") for key in keys]
    if unknown := [name for name in names if name not in MODES]:
        raise ValueError(f"expected a pooling of {', '.join(MODES)}; got {unknown[0]}")
    return tuple(mode for mode in MODES if mode in names) or MEAN.modes


def _json(path: Path) -> Any:
    return parse_json(read_plain(path, MOST_TEXT))
