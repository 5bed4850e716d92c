"""Networks that find spans, fitted: a tenth of the rows says when to stop and which offset to add, then all are.

What is fitted first is kept as a finished fit: the number of epochs, the offset, and the spans that it found in the
rows held out, which are what a run says of itself where there are no test rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from manyhot.spans import Span
from manyhot.split import stratified_split
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.fits import Arrays, Bookmark, Fits
from manyhot.toolkit.models.adamw import Schedule, descend, of_like_length
from manyhot.toolkit.models.early_stopping import FEW_EPOCHS, FEW_ROWS, HELD, best_epoch
from manyhot.toolkit.models.encoder import SCHEDULE as FINE_TUNED
from manyhot.toolkit.models.model import Curve, Memory, free_memory
from manyhot.toolkit.models.pretrained import Encoder, trainable, trained_on
from manyhot.toolkit.spans.features import Vocabulary
from manyhot.toolkit.spans.inputs import SpanTraining, targets_of
from manyhot.toolkit.spans.network import BATCH, FEATURES, NUMBERS, STARTS, Cnn, Entity, Fact, Pretrained, SpanNetwork
from manyhot.toolkit.spans.offset import LOWEST, Candidates, bagged_offset, f1_at_zero, judged
from manyhot.toolkit.spans.pieces import Pieces, find_linked, find_spans, gold_of, gold_triples, prepared
from manyhot.toolkit.spans.relation_network import DESIGNS, LOWEST_PAIR, RelationNetwork
from manyhot.toolkit.spans.sentences import Sentences
from manyhot.triples import Triple

# A rate at which ZLPR and binary cross-entropy both learn, so that neither is compared at the rate of the other.
CNN = Schedule(batch=BATCH, epochs=30, rate=6e-3, weight_decay=0.01, patience=4)
WARM_UP = 50
HELD_OUT, ALL_ROWS = "rows held out", "all rows"
# Weights, gradient, two moments, and those that a fit of a pretrained encoder starts from.
VECTORS = 5
# Called with the fit, its epoch, the last one, the mean loss, and of rows held out the score and their spans.
OnEpoch = Callable[[str, int, int, float, "Held | None"], None]


@dataclass(frozen=True)
class Held:
    """What was found in rows that were held out.

    Attributes:
        rows: positions in the training rows; all of those of --valid.
        spans: of each, those that a decision keeps at the threshold LOWEST, best first, before the offset.
        gold: the true ones.
        offset: with which those above 0 have a high F1; 0 after epochs that are not the best.
        triples: of each, those between such spans whose score is above LOWEST_PAIR, best first, before any offset.
        gold_triples: the true ones.
        triple_offset: with which those above 0, of spans that are predicted, have a high F1.
    """

    rows: np.ndarray
    spans: list[list[Span]]
    gold: list[list[Entity]]
    offset: float
    triples: list[list[Triple]]
    gold_triples: list[list[Fact]]
    triple_offset: float

    def predicted(self, offset: float | None = None) -> list[list[Span]]:
        """Return the spans that are above 0 with the offset, or with another, their scores with it."""
        by = self.offset if offset is None else offset
        return [[span._replace(score=span.score + by) for span in row if span.score + by > 0] for row in self.spans]

    def predicted_triples(self, *, plain: bool = False) -> list[list[Triple]]:
        """Return the triples that are predicted with the offsets, or without them."""
        of_spans, by = (0.0, 0.0) if plain else (self.offset, self.triple_offset)
        found: list[list[Triple]] = []
        for row in self.triples:
            found.append([])
            for subject, relation, thing, score in row:
                if min(subject.score, thing.score) + of_spans > 0 and score + by > 0:
                    ends = [span._replace(score=span.score + of_spans) for span in (subject, thing)]
                    found[-1].append(Triple(ends[0], relation, ends[1], score + by))
        return found


@dataclass(frozen=True)
class Fitted:
    """A network fitted on all rows, its offset within its bias; the rows held out, if any; loss and score by epoch."""

    network: SpanNetwork
    held: Held | None
    epochs: int
    offset: float
    losses: list[float]
    scores: list[float | None]


@dataclass(frozen=True)
class SpanLearner:
    """How networks of one kind are fitted in a run.

    Attributes:
        config: what was asked for: the loss, the seed.
        encoder: pretrained; None of the convolutions.
        memory: what fitting takes.
        schedule: batches, epochs, rate and patience; the factor is that of the number of steps.
        start: where the bias of a type starts: so often the logit of its share of cells.
    """

    config: Config
    encoder: Encoder | None
    device: str
    memory: Memory
    schedule: Schedule
    start: float

    def draw(self, training: SpanTraining, sentences: Sentences) -> tuple[SpanNetwork, Pieces]:
        """Return the network that a fit on these rows starts from, the same every time, and the rows prepared."""
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            if self.encoder is None:
                body: Cnn | Pretrained = Cnn(Vocabulary.fit(sentences.tokens))
            else:
                own = Encoder(self.encoder.name, self.encoder.config, self.encoder.tokens, self.encoder.network)
                own.network = trainable(self.encoder.network)
                body = Pretrained(own)
            sizes = (len(training.types), training.max_width)
            if training.relations:
                network: SpanNetwork = DESIGNS[self.config.design](body, *sizes, len(training.relations))
            else:
                network = SpanNetwork(body, *sizes)
        pieces = prepared(network, sentences, training.types, training.relations)
        if self.start:
            network.start_at(pieces.right(), self.start)
        return network.to(self.device), pieces


def plan(config: Config, training: SpanTraining, encoder: Encoder | None, device: str) -> SpanLearner:
    """Say how a run fits its networks, and count what that takes.

    Raises:
        InputError: more memory than is free.
    """
    types = len(training.types)
    length = max(min(len(tokens), 512) for tokens in training.train.tokens)
    if encoder is None:
        schedule, name, on = CNN, "convolutions", device.upper()
        features = sum(len(set(tokens)) for tokens in training.train.tokens)  # more than there are
        parameters = FEATURES * min(features, 1_000_000) + 3 * 6 * FEATURES**2
        layers = 8 * BATCH * length * FEATURES * 10
    else:
        schedule, name, on = FINE_TUNED, f"{encoder.name} fine-tuned", trained_on(device)
        parameters = sum(p.numel() for p in encoder.network.parameters())
        heads = encoder.config.get("num_attention_heads", 12)
        layer = 2 * BATCH * length * (34 * encoder.hidden + 5 * heads * length)
        layers = layer * encoder.config.get("num_hidden_layers", 12)
    sets = 3 if training.relations else 1
    cells = sets * min(NUMBERS, BATCH * length * (length + types)) * 4 * 4
    if config.loss != "zlpr":
        cells = BATCH * (types + 2 * len(training.relations)) * length * length * 4 * 4
    memory = Memory(
        f"{name}, AdamW in mini-batches on {on}",
        parameters,
        4 * parameters * VECTORS + layers + cells,
        free_memory(device),
    )
    memory.check(f"rows of {length} tokens and {types} types", "cut the rows into sentences")
    return SpanLearner(config, encoder, device, memory, schedule.asked(config), STARTS[config.loss])


def fit(learner: SpanLearner, training: SpanTraining, fits: Fits, on_epoch: OnEpoch) -> Fitted:
    """Find when to stop and which offset is best by rows held out, then fit all training rows.

    Args:
        learner: how.
        training: the rows; those of --valid, where given, are held out in place of a tenth.
        fits: keeps what is finished, and the state of the fit under way.
        on_epoch: hears of each epoch.

    Raises:
        InputError: the loss is not finite.
    """
    kept, held = held_out(training, learner.config.seed)
    result: Arrays | None = None
    if held is not None:
        result = fits.finished(HELD_OUT)
        if result is None:
            result = _fit_held_out(learner, training, kept, held, fits, on_epoch)
            fits.finish(HELD_OUT, result)
    first = None if result is None or held is None else _restored(result, held[0], held[1], training)
    epochs = min(FEW_EPOCHS, learner.schedule.epochs) if result is None else int(result["epochs"])
    network, pieces = learner.draw(training, training.train)
    before = 0 if result is None else len(result["losses"])
    curve = Curve(fits, lambda n, of, loss, _: on_epoch(ALL_ROWS, before + n, before + of, loss, None))
    _descend(learner, network, pieces, curve.bookmark(ALL_ROWS), curve, epochs=epochs)
    offset = 0.0 if first is None else first.offset
    network.shift(offset)
    if isinstance(network, RelationNetwork) and first is not None:
        network.shift_triples(first.triple_offset)
    losses = [] if result is None else result["losses"].tolist()
    scores: list[float | None] = [] if result is None else result["scores"].tolist()
    return Fitted(network.eval(), first, epochs, offset, losses + curve.losses, scores + [None] * len(curve.losses))


def held_out(training: SpanTraining, seed: int) -> tuple[Sentences, tuple[np.ndarray, Sentences] | None]:
    """Return the rows to fit first, and those held out with their positions; None where none can be spared."""
    train = training.train
    if training.valid is not None:
        return train, (np.arange(training.valid.rows), training.valid)
    if train.rows < FEW_ROWS:
        return train, None
    held = stratified_split(targets_of(train, training.types), [HELD - 1.0, 1.0], groups=train.groups, seed=seed) == 1
    kept = train.taken(np.flatnonzero(~held))
    if held.all() or not held.any() or not any(kept.spans):  # few groups may all be on one side
        return train, None
    return kept, (np.flatnonzero(held), train.taken(np.flatnonzero(held)))


def _fit_held_out(
    learner: SpanLearner,
    training: SpanTraining,
    kept: Sentences,
    held: tuple[np.ndarray, Sentences],
    fits: Fits,
    on_epoch: OnEpoch,
) -> Arrays:
    network, pieces = learner.draw(training, kept)
    # The second fit takes as long again at most.
    curve = Curve(fits, lambda n, of, loss, _: on_epoch(HELD_OUT, n, 2 * of, loss, watched.last))
    watched = _Watched(network, held, training, curve.bookmark(HELD_OUT))
    heard = _descend(learner, network, pieces, watched, curve, held=watched.score)
    return watched.best | {
        "epochs": np.array(best_epoch(heard, watched.spans)),
        "losses": np.array(curve.losses),
        "scores": np.array(heard),
    }


def _descend(
    learner: SpanLearner,
    network: SpanNetwork,
    pieces: Pieces,
    bookmark: Bookmark,
    curve: Curve,
    *,
    epochs: int | None = None,
    held: Callable[[], float] | None = None,
) -> list[float]:
    """Minimise the mean loss of the pieces."""
    schedule = learner.schedule
    devices = [torch.device(learner.device)] if learner.device == "cuda" else []
    sizes, number = pieces.lengths, schedule.epochs * -(-len(pieces.lengths) // schedule.batch)
    if learner.encoder is None:
        schedule = replace(schedule, factor=lambda share: min((share * number + 1) / WARM_UP, 1.0) * (1 - share))

    def value(rows: np.ndarray, random: torch.Generator) -> torch.Tensor:
        network.train()
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=random)))
            return network.loss(learner.config.loss, [pieces.prepared[i] for i in rows], pieces.right(rows))

    with schedule.finite():
        return descend(
            dict(network.named_parameters()),
            len(sizes),
            value,
            schedule,
            seed=learner.config.seed,
            bookmark=bookmark,
            progress=curve.progress,
            epochs=epochs,
            held=held,
            cut=lambda random: of_like_length(sizes, network.most, random),
        )


class _Watched:
    """Rows held out, looked at after each epoch: what was found at the best one is kept over an interruption.

    It stands between a fit and those who keep its state.
    """

    def __init__(
        self, network: SpanNetwork, held: tuple[np.ndarray, Sentences], training: SpanTraining, bookmark: Bookmark
    ) -> None:
        self.network, self.training, self.bookmark = network, training, bookmark
        self.positions, self.sentences = held
        self.pieces = prepared(network, self.sentences)
        self.gold, unknown = gold_of(self.sentences, training.types)
        self.gold_triples, _ = gold_triples(self.sentences, [*training.types, *unknown], training.relations)
        self.spans = sum(map(len, self.gold))
        self.heard: list[float] = []
        self.best: Arrays = {}
        self.last: Held | None = None

    def score(self) -> float:
        """Return the micro-F1 of the spans above 0: with the offset of so few rows it would follow their chances.

        With relations it is the mean of this and of the micro-F1 of triples.
        """
        rows, flat = self.sentences.rows, not self.training.nested
        triples: list[list[Triple]] = []
        if isinstance(self.network, RelationNetwork):
            spans, triples = find_linked(
                self.network, self.pieces, rows, flat=flat, threshold=LOWEST, lowest=LOWEST_PAIR
            )
        else:
            spans = find_spans(self.network, self.pieces, rows, flat=flat, threshold=LOWEST)
        found = judged(spans, [set(row) for row in self.gold])
        value = f1_at_zero(found.scores, found.right, int(found.gold.sum()))
        true = [set(row) for row in self.gold_triples]
        if self.training.relations:
            facts = judged_triples(triples, true, 0.0)
            value = (value + f1_at_zero(facts.scores, facts.right, int(facts.gold.sum()))) / 2
        self.heard.append(value)
        better = best_epoch(self.heard, self.spans) == len(self.heard)
        offset = bagged_offset(found) if better and self.network.shifts else 0.0
        by = 0.0
        if better and self.training.relations:
            by = bagged_offset(judged_triples(triples, true, offset), LOWEST_PAIR)
        self.last = Held(self.positions, spans, self.gold, offset, triples, self.gold_triples, by)
        if better:
            self.best = _arrays(self.last)
        return value

    def load(self) -> Arrays | None:
        state = self.bookmark.load()
        if state is not None:
            self.best = {name: array for name, array in state.items() if name.startswith("held.")}
            self.heard = state["heard"].tolist()
        return state if state is None else {name: a for name, a in state.items() if not name.startswith("held.")}

    def save(self, state: Callable[[], Arrays]) -> None:
        self.bookmark.save(lambda: state() | self.best)


def judged_triples(triples: list[list[Triple]], gold: list[set[Fact]], offset: float) -> Candidates:
    """Score and judge the triples whose spans are above 0 with the offset."""
    kept = [
        (row, ((t.subject[:3], t.relation, t.object[:3]) in true), t.score)
        for row, (found, true) in enumerate(zip(triples, gold, strict=True))
        for t in found
        if min(t.subject.score, t.object.score) + offset > 0
    ]
    return Candidates(
        np.array([score for *_, score in kept], dtype=np.float64),
        np.array([right for _, right, _ in kept], dtype=bool),
        np.array([row for row, *_ in kept], dtype=np.int64),
        np.array([len(row) for row in gold], dtype=np.int64),
    )


def _arrays(held: Held) -> Arrays:
    cells = [(row, *span[:3]) for row, spans in enumerate(held.spans) for span in spans]
    arrays = {
        "held.offset": np.array(held.offset),
        "held.cells": np.array(cells, dtype=np.int32).reshape(-1, 4),
        "held.scores": np.array([span.score for spans in held.spans for span in spans], dtype=np.float32),
    }
    if held.triples:
        place = [{span: i for i, span in enumerate(spans)} for spans in held.spans]
        links = [
            (row, place[row][t.subject], t.relation, place[row][t.object])
            for row, triples in enumerate(held.triples)
            for t in triples
        ]
        arrays |= {
            "held.triple_offset": np.array(held.triple_offset),
            "held.links": np.array(links, dtype=np.int32).reshape(-1, 4),
            "held.link_scores": np.array([t.score for triples in held.triples for t in triples], dtype=np.float32),
        }
    return arrays


def _restored(arrays: Arrays, positions: np.ndarray, sentences: Sentences, training: SpanTraining) -> Held:
    spans: list[list[Span]] = [[] for _ in range(sentences.rows)]
    triples: list[list[Triple]] = [[] for _ in range(sentences.rows)] if training.relations else []
    for (row, start, end, kind), score in zip(arrays["held.cells"].tolist(), arrays["held.scores"], strict=True):
        spans[row].append(Span(start, end, kind, float(score)))
    if triples:
        for (row, s, relation, o), score in zip(
            arrays["held.links"].tolist(), arrays["held.link_scores"].tolist(), strict=True
        ):
            triples[row].append(Triple(spans[row][s], relation, spans[row][o], score))
    gold, unknown = gold_of(sentences, training.types)
    true, _ = gold_triples(sentences, [*training.types, *unknown], training.relations)
    by = float(arrays["held.triple_offset"]) if training.relations else 0.0
    return Held(positions, spans, gold, float(arrays["held.offset"]), triples, true, by)
