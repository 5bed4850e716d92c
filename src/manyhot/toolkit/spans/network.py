"""Tokens to scores of spans: an encoder, the one of convolutions or a pretrained one, and the pointer head on top."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyhot.heads.span_pointer import EfficientSpanPointer
from manyhot.losses.baselines import focal_loss
from manyhot.losses.span import span_loss
from manyhot.span_decisions import decide_spans
from manyhot.span_scores import SpanScores
from manyhot.spans import Span, SpanTargets, span_mask, span_share
from manyhot.toolkit.models.pretrained import Encoder, last_layer
from manyhot.toolkit.objectives import STARTS as OF_LABELS
from manyhot.toolkit.spans.features import WIDTH, Vocabulary

FEATURES = 96
SIZE = 48
DROPOUT = 0.25
# Dropout of the features of a token.
DROPPED = 0.1
DILATIONS = (1, 2, 4)
# The size of vectors of features at the start. They add up and are normalised: the smaller, the faster they learn.
INITIAL = 0.1
# Numbers of a batch: rows x length x (length + types).
NUMBERS = 8_000_000
# Rows are predicted in batches of one shape, lengths rounded up to so many tokens, so that the scores of a row have the
# same bits whatever rows come with it.
STEP = 16
BATCH = 16

# (start, end, type id), end exclusive, in tokens; and a subject, a relation id and an object.
Entity = tuple[int, int, int]
Fact = tuple[Entity, int, Entity]
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
        # Those of this batch alone, each once: its gradient is of so many rows, and not of all.
        known, features = torch.unique(features, return_inverse=True)
        vectors = F.embedding(known, self.vectors, padding_idx=0, sparse=True)
        x = F.embedding_bag(features.flatten(0, 1), vectors, mode="sum").view(*ids.shape[:2], -1)
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
        pieces = torch.zeros(len(rows), longest, dtype=torch.int64)
        known = torch.zeros(len(rows), longest, dtype=torch.bool)
        begins = torch.zeros(len(rows), length, dtype=torch.int64)
        for i, (ids, first) in enumerate(rows):
            pieces[i, : len(ids)] = torch.from_numpy(ids)
            known[i, : len(ids)] = True
            begins[i, : len(first)] = torch.from_numpy(first)
        hidden = last_layer(self.network, pieces.to(device), known.to(device))
        return hidden.gather(1, begins.to(device).unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))


class Gold(NamedTuple):
    """What is right in prepared rows: spans by type ids, triples of them by relation ids, and lengths in tokens."""

    spans: Sequence[Sequence[Entity]]
    triples: Sequence[Sequence[Fact]]
    lengths: Tensor


class SpanNetwork(nn.Module):
    """An encoder with the pointer head.

    Args:
        encoder: tokens to vectors.
        types: how many types of spans there are.
        max_width: the widest span, in tokens.
        head: of the vectors of tokens; None: the pointer.
    """

    # Whether spans above another threshold are those above 0 once that is added to the bias.
    shifts = True

    def __init__(self, encoder: Cnn | Pretrained, types: int, max_width: int, head: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head: Any = EfficientSpanPointer(encoder.width, types, size=SIZE) if head is None else head
        self.types = types
        self.max_width = max_width

    def start_at(self, gold: Gold, scale: float) -> None:
        """Let biases begin at so often the logit of the share of what is right."""
        share = span_share(SpanTargets(gold.spans), gold.lengths, self.types, max_width=self.max_width)
        self.head.start_at(share, scale=scale)

    def loss(self, name: str, rows: Sequence[Prepared], gold: Gold) -> Tensor:
        """Return the loss of prepared rows, the mean over (row, type)."""
        scores = self.head(self.encoder(rows, int(gold.lengths.max())))
        device = scores.pair.device
        targets = SpanTargets(gold.spans).to(device)
        return loss_of_cells(name, scores, targets, gold.lengths.to(device), max_width=self.max_width)

    def most(self, length: int) -> int:
        """Return how many rows of a length a batch may have."""
        return max(min(BATCH, NUMBERS // max(length * (length + self.types), 1)), 1)

    def encoded(self, rows: Sequence[Prepared], lengths: Sequence[int]) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Yield batches of one shape: which rows they have, the vectors of their tokens, and their lengths.

        A batch is filled up with rows of nothing, which come last.
        """
        sizes = np.array(lengths)
        padded = np.maximum(-(-sizes // STEP) * STEP, STEP)
        nothing = self.encoder.prepare([])
        for length in np.unique(padded):
            members = np.flatnonzero((padded == length) & (sizes > 0))
            most = self.most(int(length))
            for first in range(0, len(members), most):
                part = members[first : first + most]
                given = [rows[i] for i in part] + [nothing] * (most - len(part))
                hidden = self.encoder(given, int(length))
                yield part, hidden, torch.from_numpy(sizes[part]).to(hidden.device)

    def spans(
        self, rows: Sequence[Prepared], lengths: Sequence[int], *, flat: bool, threshold: float = 0.0
    ) -> list[list[Span]]:
        """Predict the spans of prepared rows, best first: those whose score is above the threshold.

        A row has at most twice as many as tokens: before anything is learned every second cell is above 0.
        """
        self.eval()
        found: list[list[Span]] = [[] for _ in rows]
        with torch.no_grad():
            for part, hidden, tokens in self.encoded(rows, lengths):
                for i, spans in zip(part, self.decided(hidden, tokens, flat=flat, threshold=threshold), strict=True):
                    found[i] = spans
        return found

    def decided(self, hidden: Tensor, tokens: Tensor, *, flat: bool, threshold: float) -> list[list[Span]]:
        """Predict the spans of the first rows of a batch, as many as have a number of tokens."""
        return decided_cells(self.head(hidden), tokens, flat=flat, threshold=threshold, max_width=self.max_width)

    def shift(self, by: float) -> None:
        """Add a number to all scores."""
        with torch.no_grad():
            self.head.end.bias.add_(by)


def decided_cells(
    scores: SpanScores, tokens: Tensor, *, flat: bool, threshold: float, max_width: int
) -> list[list[Span]]:
    """Predict spans from the scores of cells, of rows that have a number of tokens."""
    most = 2 * scores.pair.shape[-1]
    decided = decide_spans(
        SpanScores(*(x[: len(tokens)] for x in scores)),
        lengths=tokens,
        flat=flat,
        threshold=threshold,
        max_spans=most,
        max_width=max_width,
    )
    return [spans[: 2 * n] for spans, n in zip(decided, tokens.tolist(), strict=True)]


def loss_of_cells(
    name: str,
    scores: SpanScores,
    targets: SpanTargets,
    lengths: Tensor,
    *,
    max_width: int | None = None,
    triangle: bool = True,
) -> Tensor:
    """Return the loss of this name, the mean over (row, type); all but ZLPR write the scores out."""
    if name == "zlpr":
        return span_loss(scores, targets, lengths=lengths, max_width=max_width, triangle=triangle)
    rows, types, length = scores.start.shape
    mask = span_mask(lengths, length, max_width=max_width, triangle=triangle).expand(rows, types, length, length)
    dense, true = scores.dense(), targets.dense(types, length)
    return RIVALS[name](*(x.flatten(0, 1).flatten(1) for x in (dense, true, mask)))


def _bce(logits: Tensor, true: Tensor, mask: Tensor) -> Tensor:
    weight = mask.to(logits.dtype)
    total = F.binary_cross_entropy_with_logits(logits, true.to(logits.dtype), weight=weight, reduction="sum")
    return total / len(logits)


def _focal(logits: Tensor, true: Tensor, mask: Tensor) -> Tensor:
    return focal_loss(logits, true, alpha=0.25, gamma=2.0, mask=mask, reduction="sum") / len(logits)


# (logits, which are right, which count), (rows, cells) each, to the sum over cells, mean over rows.
RIVALS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"bce": _bce, "bce+bias": _bce, "focal": _focal}
# Where the bias of a type starts: the logit of its share of cells, times so much. "bce" is as people write it.
STARTS = OF_LABELS | {"bce": 0.0, "bce+bias": 1.0}


def described(network: SpanNetwork) -> tuple[dict[str, Any], list[Any]]:
    """Return what a run says of its network beside the arrays: for run.json, and for terms.json."""
    state: dict[str, Any] = {"max_width": network.max_width}
    if isinstance(network.encoder, Cnn):
        return state | {"encoder": "cnn"}, network.encoder.vocabulary.state()
    return state | {"encoder": network.encoder.encoder.described()}, []


def arrays_of(network: SpanNetwork) -> dict[str, np.ndarray]:
    """Return the weights by name."""
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def restored_encoder(state: dict[str, Any], terms: list[Any], arrays: dict[str, np.ndarray]) -> Cnn | Pretrained:
    """Restore the encoder from what :func:`described` and :func:`arrays_of` returned.

    Raises:
        ValueError, KeyError: parts that do not fit.
    """
    with torch.random.fork_rng():
        if state["encoder"] == "cnn":
            return Cnn(Vocabulary.from_state(terms))
        prefix = "encoder.network."
        inner = {f"encoder.{name.removeprefix(prefix)}": a for name, a in arrays.items() if name.startswith(prefix)}
        return Pretrained(Encoder.from_state(state["encoder"], inner, "cpu"))


def with_weights(network: SpanNetwork, arrays: dict[str, np.ndarray], device: str) -> SpanNetwork:
    """Give a network the weights that :func:`arrays_of` returned.

    Raises:
        ValueError: those of another network.
    """
    try:
        network.load_state_dict({name: torch.from_numpy(np.array(value)).clone() for name, value in arrays.items()})
    except RuntimeError as error:
        raise ValueError(next(iter(str(error).splitlines()))) from None
    return network.to(device).eval()
