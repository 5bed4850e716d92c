"""Fit a small encoder to find spans, with one loss and one rate, as encoder.py asks for it: it holds the comparison.

As labels are measured there: nine tenths of the training rows are fitted, in part or all, and the others choose the
offset of the scores.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from manyhot.metrics_of_spans import span_metrics
from manyhot.spans import Span
from manyhot.split import stratified_split
from manyhot.toolkit.config import make_config
from manyhot.toolkit.disk.checkpoint import NO_CHECKPOINT
from manyhot.toolkit.models.encoder import SCHEDULE
from manyhot.toolkit.models.model import Curve
from manyhot.toolkit.models.pretrained import Encoder
from manyhot.toolkit.spans import fit as fitting
from manyhot.toolkit.spans.fit import held_out, plan
from manyhot.toolkit.spans.inputs import SpanTraining, read_spans, targets_of
from manyhot.toolkit.spans.network import SpanNetwork
from manyhot.toolkit.spans.offset import LOWEST, bagged_offset, judged
from manyhot.toolkit.spans.pieces import find_spans, gold_of, prepared
from manyhot.toolkit.spans.sentences import Sentences
from span_quality import DATA, SETS


@dataclass(frozen=True)
class SpanRows:
    """Rows to train on, the tenth that is held out, and the test rows; None where nothing is measured on them."""

    training: SpanTraining
    kept: Sentences
    held: Sentences
    test: Sentences | None

    @classmethod
    def read(cls, name: str) -> "SpanRows":
        """Read a set of span_quality.py."""
        files = {part: str(DATA / name / f"{part}.spans.jsonl.gz") for part in ("train", SETS[name])}
        options = {"data": files["train"], "test": files[SETS[name]], "task": "spans"}
        training = read_spans(make_config(None, [], options))
        kept, held = held_out(training, seed=0)
        assert held is not None
        return cls(training, kept, held[1], training.test)

    def third(self) -> "SpanRows":
        """Keep a third of the rows to train on, and no test rows."""
        part = stratified_split(targets_of(self.kept, self.training.types), [1.0, 2.0], seed=0)
        return replace(self, kept=self.kept.taken(np.flatnonzero(part == 0)), test=None)

    def few(self, number: int) -> "SpanRows":
        """Keep the first rows of each part, to try that all runs."""
        first = np.arange(number)
        test = None if self.test is None else self.test.taken(first)
        return replace(self, kept=self.kept.taken(first), held=self.held.taken(first), test=test)


def fitted_spans(
    encoder: Encoder, rows: SpanRows, loss: str, start: float, rate: float, seed: int, epochs: int
) -> dict[str, Any]:
    """Fit, and measure the spans above 0, and those above 0 with an offset.

    Where there are test rows, the curve has a look at the rows held out after each epoch.
    """
    began = time.monotonic()
    training = rows.training
    config = make_config(None, [], {"data": "rows", "task": "spans", "loss": loss, "seed": seed})
    schedule = replace(SCHEDULE, rate=rate, epochs=epochs, patience=epochs)
    learner = replace(plan(config, training, encoder, "cpu"), schedule=schedule, start=start)
    network, pieces = learner.draw(training, rows.kept)
    gold, _ = gold_of(rows.held, training.types)
    curve: list[dict[str, float]] = []

    def look() -> tuple[float, float]:
        """Return the offset that the rows held out choose, and the mean of their micro- and macro-F1 with it."""
        found = spans_of(network, rows.held, training)
        offset = bagged_offset(judged(found, [set(row) for row in gold]))
        return offset, sum(f1_of(above(found, offset), rows.held, training)) / 2

    def heard(epoch: int, of: int, mean: float, held: float | None) -> None:
        steps = epoch * -(-len(pieces.lengths) // schedule.batch)
        curve.append({"step": steps, "loss": round(mean, 5), "held": round(held or 0.0, 4)})

    watched = Curve(NO_CHECKPOINT, heard)
    looks = None if rows.test is None else lambda: look()[1]
    fitting._descend(learner, network, pieces, watched.bookmark(""), watched, epochs=epochs, held=looks)
    decisions: dict[str, dict[str, float]] = {"s > 0": {"offset": 0.0}, "one threshold": {"offset": look()[0]}}
    for part, sentences in (("held", rows.held), ("test", rows.test)):
        if sentences is None:
            continue
        found = spans_of(network, sentences, training)
        for decided in decisions.values():
            micro, macro = f1_of(above(found, decided["offset"]), sentences, training)
            decided |= {f"{part}_micro": round(micro, 4), f"{part}_macro": round(macro, 4)}
    return {
        "rows": rows.kept.rows,
        "curve": curve if looks else [],
        "decisions": decisions,
        "seconds": round(time.monotonic() - began, 1),
    }


def spans_of(network: SpanNetwork, sentences: Sentences, training: SpanTraining) -> list[list[Span]]:
    """Return the spans that the decision keeps at a threshold far below 0."""
    pieces = prepared(network, sentences)
    return find_spans(network, pieces, sentences.rows, flat=not training.nested, threshold=LOWEST)


def above(found: list[list[Span]], offset: float) -> list[list[Span]]:
    return [[span for span in row if span.score + offset > 0] for row in found]


def f1_of(spans: list[list[Span]], sentences: Sentences, training: SpanTraining) -> tuple[float, float]:
    """Return micro- and macro-F1 of exact spans; a type that training does not have counts as missed."""
    gold, unknown = gold_of(sentences, training.types)
    metrics: Any = span_metrics(spans, gold, num_types=len(training.types) + len(unknown))
    return metrics["micro_f1"], metrics["macro_f1"]
