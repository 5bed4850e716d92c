"""Tokens to scores of spans: an encoder, the one of convolutions or a pretrained one, and the pointer head on top."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyhot.heads.span_pointer import EfficientSpanPointer
from manyhot.losses.baselines import focal_loss
from manyhot.losses.span import span_loss
from manyhot.span_decisions import decide_spans
from manyhot.span_scores import SpanScores
from manyhot.spans import Span, SpanTargets, span_mask
from manyhot.toolkit.models.pretrained import Encoder
from manyhot.toolkit.spans.features import WIDTH, Vocabulary

FEATURES = 96
SIZE = 48
DROPOUT = 0.25
# Of the features of a token, while training.
DROPPED = 0.1
DILATIONS = (1, 2, 4)
# Of the vectors of features, which add up and are normalised: the smaller, the faster they learn.
INITIAL = 0.1
# Numbers of a batch: rows x length x (length + types).
NUMBERS = 8_000_000
# Rows are predicted in batches of one shape, lengths rounded up to so many tokens, so that the scores of a row have the
# same bits whatever rows come with it.
STEP = 16
BATCH = 16

# What an encoder makes of the tokens of a row, to take them again and again.
Prepared = Any


class Cnn(nn.Module):
    """Three gated convolutions over sums of feature vectors; nothing is downloaded.

    x = LayerNorm(sum of a token's features); three times x = LayerNorm(x + GLU(W [x_{t-d}, x_t, x_{t+d}])), d 1, 2, 4.

    Args:
        vocabulary: the features.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.width = FEATURES
        # Row 0 is no feature, and stays 0.
        self.vectors = nn.Parameter(torch.randn(vocabulary.size + 1, FEATURES) * INITIAL)
        with torch.no_grad():
            self.vectors[0] = 0
        self.norm = nn.LayerNorm(FEATURES)
        self.layers = nn.ModuleList(nn.Linear(3 * FEATURES, 2 * FEATURES) for _ in DILATIONS)
        self.norms = nn.ModuleList(nn.LayerNorm(FEATURES) for _ in DILATIONS)

    def prepare(self, tokens: Sequence[str]) -> np.ndarray:
        """Return what :meth:`forward` takes of a row, (tokens, features)."""
        return self.vocabulary.transform(tokens) + 1

    def forward(self, rows: Sequence[np.ndarray], length: int) -> Tensor:
        """Return (rows, length, width)."""
        device = self.vectors.device
        ids = np.zeros((len(rows), length, WIDTH), dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        features = torch.from_numpy(ids).to(device)
        inside = (features[:, :, :1] > 0).to(self.vectors.dtype)
        if self.training:
            features = features * (torch.rand(features.shape, device=device) >= DROPPED)
        x = F.embedding_bag(features.flatten(0, 1), self.vectors, mode="sum", padding_idx=0).view(*ids.shape[:2], -1)
        x = F.dropout(self.norm(x), DROPOUT, self.training) * inside
        for dilation, layer, norm in zip(DILATIONS, self.layers, self.norms, strict=True):
            beside = F.pad(x, (0, 0, dilation, dilation))
            around = torch.cat((beside[:, :length], x, beside[:, 2 * dilation :]), -1)
            # What lies beyond a row is 0 for every layer, however long the batch is.
            x = norm(x + F.dropout(F.glu(layer(around), -1), DROPOUT, self.training)) * inside
        return x


class Pretrained(nn.Module):
    """An encoder of transformers: the vector of a word is that of its first piece.

    Args:
        encoder: the network with its tokenizer.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.network = encoder.network
        self.width = encoder.hidden
        # Two or so of the pieces that a row may have are those that begin and end it.
        self.most = encoder.tokens.limit - len(encoder.tokens.words([])[0])

    def sizes(self, rows: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return how many pieces each token of each row has, by itself."""
        distinct = {token: 0 for tokens in rows for token in tokens}
        for token in distinct:
            distinct[token] = max(
                len(self.encoder.tokens.words([token])[0]) - (self.encoder.tokens.limit - self.most), 1
            )
        return [np.array([distinct[token] for token in tokens], dtype=np.int64) for tokens in rows]

    def prepare(self, tokens: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return what :meth:`forward` takes of a row: ids of pieces, and where each word begins."""
        return self.encoder.tokens.words(tokens)

    def forward(self, rows: Sequence[tuple[np.ndarray, np.ndarray]], length: int) -> Tensor:
        """Return (rows, length, width)."""
        device = next(self.network.parameters()).device
        longest = -(-max(len(ids) for ids, _ in rows) // STEP) * STEP
        pieces, known = (torch.zeros(len(rows), longest, dtype=torch.int64) for _ in range(2))
        begins = torch.zeros(len(rows), length, dtype=torch.int64)
        for i, (ids, first) in enumerate(rows):
            pieces[i, : len(ids)] = torch.from_numpy(ids)
            known[i, : len(ids)] = 1
            begins[i, : len(first)] = torch.from_numpy(first)
        hidden = self.network(input_ids=pieces.to(device), attention_mask=known.to(device)).last_hidden_state
        return hidden.gather(1, begins.to(device).unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))


class SpanNetwork(nn.Module):
    """An encoder with the pointer head.

    Args:
        encoder: tokens to vectors.
        types: how many types of spans there are.
        max_width: the widest span, in tokens.
    """

    def __init__(self, encoder: Cnn | Pretrained, types: int, max_width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = EfficientSpanPointer(encoder.width, types, size=SIZE)
        self.types = types
        self.max_width = max_width

    def scores(self, rows: Sequence[Prepared], lengths: Sequence[int]) -> SpanScores:
        """Score the spans of prepared rows."""
        return self.head(self.encoder(rows, max(lengths)))

    def most(self, length: int) -> int:
        """Return how many rows of a length a batch may have."""
        return max(min(BATCH, NUMBERS // max(length * (length + self.types), 1)), 1)

    def spans(
        self, rows: Sequence[Prepared], lengths: Sequence[int], *, flat: bool, threshold: float = 0.0
    ) -> list[list[Span]]:
        """Predict the spans of prepared rows, best first: those whose score is above the threshold.

        A row has at most twice as many as tokens: before anything is learned every second cell is above 0.
        """
        self.eval()
        found: list[list[Span]] = [[] for _ in rows]
        sizes = np.array(lengths)
        padded = np.maximum(-(-sizes // STEP) * STEP, STEP)
        nothing = self.encoder.prepare([])
        with torch.no_grad():
            for length in np.unique(padded):
                members = np.flatnonzero((padded == length) & (sizes > 0))
                most = self.most(int(length))
                for first in range(0, len(members), most):
                    part = members[first : first + most]
                    given = [rows[i] for i in part] + [nothing] * (most - len(part))
                    scores = self.head(self.encoder(given, int(length)))
                    scores = SpanScores(*(x[: len(part)] for x in scores))
                    decided = decide_spans(
                        scores,
                        lengths=torch.from_numpy(sizes[part]).to(scores.pair.device),
                        flat=flat,
                        threshold=threshold,
                        max_spans=2 * int(length),
                        max_width=self.max_width,
                    )
                    for i, spans in zip(part, decided, strict=True):
                        found[i] = spans[: 2 * sizes[i]]
        return found

    def shift(self, by: float) -> None:
        """Add a number to all scores."""
        with torch.no_grad():
            self.head.end.bias.add_(by)


# (scores, targets, lengths, max_width) to the mean over (row, type).
Loss = Callable[[SpanScores, SpanTargets, Tensor, int], Tensor]


def _zlpr(scores: SpanScores, targets: SpanTargets, lengths: Tensor, max_width: int) -> Tensor:
    return span_loss(scores, targets, lengths=lengths, max_width=max_width)


def _cells(scores: SpanScores, targets: SpanTargets, lengths: Tensor, max_width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Write out scores, targets and which cells count, (rows x types, cells): what losses without a sum need."""
    rows, types, length = scores.start.shape
    mask = span_mask(lengths, length, max_width=max_width).expand(rows, types, length, length)
    return (
        scores.dense().flatten(0, 1).flatten(1),
        targets.dense(types, length).flatten(0, 1).flatten(1),
        mask.flatten(0, 1).flatten(1),
    )


def _bce(scores: SpanScores, targets: SpanTargets, lengths: Tensor, max_width: int) -> Tensor:
    logits, true, mask = _cells(scores, targets, lengths, max_width)
    weight = mask.to(logits.dtype)
    total = F.binary_cross_entropy_with_logits(logits, true.to(logits.dtype), weight=weight, reduction="sum")
    return total / len(logits)


def _focal(scores: SpanScores, targets: SpanTargets, lengths: Tensor, max_width: int) -> Tensor:
    logits, true, mask = _cells(scores, targets, lengths, max_width)
    return focal_loss(logits, true, alpha=0.25, gamma=2.0, mask=mask, reduction="sum") / len(logits)


LOSSES: dict[str, Loss] = {"zlpr": _zlpr, "bce": _bce, "bce+bias": _bce, "focal": _focal}
# Where the bias of a type starts: the logit of its share of cells, times so much.
STARTS = {"zlpr": 0.5, "bce": 0.0, "bce+bias": 1.0, "focal": 1.0}


def described(network: SpanNetwork) -> tuple[dict[str, Any], list[Any]]:
    """Return what a run says of its network beside the arrays: for run.json, and for terms.json."""
    state: dict[str, Any] = {"max_width": network.max_width}
    if isinstance(network.encoder, Cnn):
        return state | {"encoder": "cnn"}, network.encoder.vocabulary.state()
    return state | {"encoder": network.encoder.encoder.described()}, []


def arrays_of(network: SpanNetwork) -> dict[str, np.ndarray]:
    """Return the weights by name."""
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def restored(
    state: dict[str, Any], terms: list[Any], arrays: dict[str, np.ndarray], types: int, device: str
) -> SpanNetwork:
    """Restore what :func:`described` and :func:`arrays_of` returned.

    Raises:
        ValueError, KeyError: parts that do not fit.
    """
    with torch.random.fork_rng():
        if state["encoder"] == "cnn":
            encoder: Cnn | Pretrained = Cnn(Vocabulary.from_state(terms))
        else:
            prefix = "encoder.network."
            inner = {f"encoder.{name.removeprefix(prefix)}": a for name, a in arrays.items() if name.startswith(prefix)}
            encoder = Pretrained(Encoder.from_state(state["encoder"], inner, "cpu"))
        network = SpanNetwork(encoder, types, int(state["max_width"]))
    try:
        network.load_state_dict({name: torch.from_numpy(np.array(value)).clone() for name, value in arrays.items()})
    except RuntimeError as error:
        raise ValueError(next(iter(str(error).splitlines()))) from None
    return network.to(device).eval()
