"""How methods stand beside each other on the same marked rows: metrics of spans or triples, intervals, differences.

With relations, triples are judged first, and the entities that they are made of second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from manyhot.metrics_of_spans import span_metrics
from manyhot.metrics_of_triples import triple_metrics
from manyhot.spans import Span
from manyhot.toolkit.compare.bootstrap import Counts, resampled
from manyhot.toolkit.compare.standings import Standings, difference, interval_of, leaders, mean_over_seeds
from manyhot.toolkit.spans.inputs import SpanTraining
from manyhot.toolkit.spans.network import Entity, Fact
from manyhot.toolkit.spans.pieces import gold_of, gold_triples
from manyhot.toolkit.spans.relation_run import of_triples
from manyhot.toolkit.spans.sentences import Sentences
from manyhot.triples import Triple

# What has an interval, and is judged in this order.
METRICS = ("micro_f1", "macro_f1")


class Predicted(NamedTuple):
    """What a method predicts for each of the rows; no triples where there are no relations."""

    spans: list[list[Span]]
    triples: list[list[Triple]]


@dataclass(frozen=True)
class Truth:
    """What is true of the rows that are measured, and how often training saw each kind of it.

    Attributes:
        spans: of each row, by ids.
        types: those of training, then those that it lacks.
        counts: (types,), training spans.
        triples: of each row, by ids; none where there are no relations.
        relations: those of training, then those that it lacks.
        relation_counts: (relations,), training triples.
        groups: (rows,), the same for rows that are drawn together; None: every row by itself.
    """

    spans: list[list[Entity]]
    types: list[str]
    counts: np.ndarray
    triples: list[list[Fact]]
    relations: list[str]
    relation_counts: np.ndarray
    groups: np.ndarray | None

    @classmethod
    def of(cls, rows: Sentences, training: SpanTraining) -> "Truth":
        """Take what rows say of themselves, counted as training has it."""
        spans, unknown = gold_of(rows, training.types)
        types = [*training.types, *unknown]
        facts, strange = gold_triples(rows, types, training.relations)
        counts = np.concatenate([training.counts, np.zeros(len(unknown))])
        relation_counts = np.concatenate([training.relation_counts, np.zeros(len(strange))])
        relations = [*training.relations, *strange] if training.relations else []
        return cls(spans, types, counts, facts, relations, relation_counts, rows.groups)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What has an interval and is judged."""
        return (*of_triples(dict.fromkeys(METRICS)), "micro_f1") if self.relations else METRICS

    @property
    def kinds(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The kinds of what is judged first, relations or types, with how often training and these rows have them."""
        if self.relations:
            facts = [relation for row in self.triples for _, relation, _ in set(row)]
            return self.relations, self.relation_counts, np.bincount(facts, minlength=len(self.relations))
        spans = [kind for row in self.spans for *_, kind in set(row)]
        return self.types, self.counts, np.bincount(spans, minlength=len(self.types))

    def measure(self, predicted: Predicted) -> dict[str, Any]:
        """Return the metrics of spans, and of triples behind `triple_`."""
        found = span_metrics(predicted.spans, self.spans, num_types=len(self.types), train_counts=self.counts)
        if not self.relations:
            return dict(found)
        facts = triple_metrics(
            predicted.triples, self.triples, num_relations=len(self.relations), train_counts=self.relation_counts
        )
        return found | of_triples(facts)


def stand(
    methods: Mapping[str, list[Predicted]], truth: Truth, ours: set[str], default: str, *, seed: int = 0
) -> Standings:
    """Measure every method, its intervals, and its difference from the best of the other side.

    Args:
        methods: what each predicts, once for each seed it was trained with; the numbers are means over seeds.
        truth: of the same rows.
        ours: those that are compared with the best rival, and rivals with the best of them.
        default: the one that all others are compared with too.
        seed: of the resamples.
    """
    measured = {name: [truth.measure(found) for found in seeds] for name, seeds in methods.items()}
    means = {name: mean_over_seeds(parts) for name, parts in measured.items()}
    spans, facts = ([set(row) for row in rows] for rows in (truth.spans, map(_with_relation_last, truth.triples)))
    of_spans = {
        name: [
            counts_of([{span[:3] for span in row} for row in found.spans], spans, len(truth.types), truth.groups)
            for found in seeds
        ]
        for name, seeds in methods.items()
    }
    drawn = _drawn(of_spans, truth.counts, seed)
    counts = of_spans
    if truth.relations:
        counts = {
            name: [
                counts_of(
                    [set(_with_relation_last(row)) for row in found.triples], facts, len(truth.relations), truth.groups
                )
                for found in seeds
            ]
            for name, seeds in methods.items()
        }
        for name, resamples in _drawn(counts, truth.relation_counts, seed).items():
            drawn[name] = drawn[name] | of_triples(resamples)
    leading = leaders(means, ours, truth.metrics)
    numbers = {}
    for name in means:
        side = "rival" if name in ours else "ours"
        numbers[name] = {
            "metrics": means[name],
            "intervals": {m: interval_of(means, drawn, name, m) for m in truth.metrics},
            "differences": {m: difference(means, drawn, name, leading[m][side], m) for m in truth.metrics},
            "against_default": None
            if name == default or default not in means
            else {m: difference(means, drawn, name, default, m) for m in truth.metrics},
            "label_f1": np.mean([part.label_f1() for part in counts[name]], axis=0).round(6).tolist(),
            "by_seed": [{m: part[m] for m in truth.metrics} for part in measured[name]],
        }
    return Standings(numbers, leading)


def _with_relation_last(facts: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    return [(subject[:3], thing[:3], relation) for subject, relation, thing, *_ in facts]


def _drawn(counts: Mapping[str, list[Counts]], train_counts: np.ndarray, seed: int) -> dict[str, dict[str, np.ndarray]]:
    if not counts:
        return {}
    found = resampled(counts, train_counts, seed=seed)
    true = np.asarray(next(iter(counts.values()))[0].true.sum(axis=0)).ravel()
    for resamples in found.values():  # macro-F1 is the mean over kinds that are there
        resamples["macro_f1"] = resamples["macro_f1"] * (len(true) / max((true > 0).sum(), 1))
    return found


def counts_of(
    predicted: Sequence[set[Any]], gold: Sequence[set[Any]], kinds: int, groups: np.ndarray | None = None
) -> Counts:
    """Count, for resampling, what each row has that is predicted, true and both, by kind, the last part of each."""
    hits = [p & t for p, t in zip(predicted, gold, strict=True)]
    rows = len(gold)

    def by_kind(found: Sequence[set[Any]]) -> Any:
        cells = [(row, kind) for row, things in enumerate(found) for *_, kind in things]
        row, kind = np.array(cells, dtype=np.int64).reshape(-1, 2).T
        return sp.csr_array((np.ones(len(row), np.float32), (row, kind)), shape=(rows, kinds))

    sizes = np.array([len(p) + len(t) for p, t in zip(predicted, gold, strict=True)])
    right = np.array([len(h) for h in hits])
    by_row = np.column_stack([2 * right / np.maximum(sizes, 1), 2 * right == sizes, np.ones(rows)])
    right_ones, predicted_ones, true_ones = (by_kind(found) for found in (hits, predicted, gold))
    if groups is not None:
        _, group = np.unique(groups, return_inverse=True)
        together: Any = sp.csr_array((np.ones(rows, np.float32), (group, np.arange(rows))))
        right_ones, predicted_ones, true_ones = (together @ x for x in (right_ones, predicted_ones, true_ones))
        by_row = together @ by_row
    return Counts(right_ones, predicted_ones, true_ones, by_row, np.ones(kinds, dtype=bool))
