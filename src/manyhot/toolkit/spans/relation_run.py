"""A run on relations in use: texts or tokens to entities and what holds between them, and numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from manyhot.metrics_of_triples import triple_metrics
from manyhot.spans import Span
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.cells import listed
from manyhot.toolkit.spans.pieces import find_linked, gold_triples, prepared
from manyhot.toolkit.spans.predict import Found, MeasuredSpans, MeasuredTriples, SpanRun
from manyhot.toolkit.spans.relation_network import RelationNetwork
from manyhot.toolkit.spans.sentences import Sentences
from manyhot.triples import Triple


class FoundRelation(NamedTuple):
    """A predicted relation: positions of its head and its tail among the entities of its row, label and logit."""

    head: int
    tail: int
    label: str
    score: float


class FoundTriples(NamedTuple):
    """What is predicted for a row: entities, best first, and relations between them, best first."""

    entities: list[Found]
    relations: list[FoundRelation]


class RelationRun(SpanRun):
    """A trained network of entities and relations; :func:`manyhot.load_run` makes it.

    Attributes:
        relation_names: the types of relations.
        relation_counts: (relations,), training triples of each.
    """

    task = "relations"
    network: RelationNetwork

    def __init__(self, *, relation_names: list[str], relation_counts: np.ndarray, **of_spans: Any) -> None:
        super().__init__(**of_spans)
        self.relation_names = relation_names
        self.relation_counts = relation_counts

    def predict(self, rows: Sequence[str] | Sequence[Sequence[str]]) -> Any:
        """Return the entities and the relations of each new row, in a named tuple.

        Args:
            rows: a list of texts, whose entities are counted in characters; or of lists of tokens, counted in tokens.

        Raises:
            InputError: rows of another kind, or one that is too long and has no place to be cut at.
        """
        return self.found_triples(self._sentences(rows, [[] for _ in rows]))

    def evaluate(self, data: Any, spans: Any = None) -> dict[str, float | int | None]:
        """Measure the run on a file.

        Args:
            data: the path of the file.
            spans: nothing; relations are read from files.

        Returns:
            The keys of :func:`manyhot.span_metrics`, of entities; and those of :func:`manyhot.triple_metrics`, each
            behind `triple_`.
        """
        if not isinstance(data, str | Path) or spans is not None:
            raise InputError("evaluate of a run on relations expects the path of a file with entities and relations.")
        return super().evaluate(data)

    def evaluate_sentences(self, sentences: Sentences) -> MeasuredSpans:
        """Measure the run on rows as read."""
        sentences, notes = self._measurable(sentences)
        spans, found = self.linked(sentences)
        measured = self._measured(sentences, notes, spans)
        types = [*self.label_names, *measured.unknown]
        metrics, triples = measure_triples(found, sentences, types, self.relation_names, self.relation_counts)
        return measured._replace(
            metrics=measured.metrics | metrics,
            notes=[*measured.notes, *notes_on_relations(sentences, triples.unknown)],
            triples=triples,
        )

    def spans(self, sentences: Sentences) -> list[list[Span]]:
        """Return the entities of rows as read, in tokens, best first."""
        return self.linked(sentences)[0]

    def linked(self, sentences: Sentences) -> tuple[list[list[Span]], list[list[Triple]]]:
        """Return the entities and the triples of rows as read, in tokens, best first."""
        return find_linked(self.network, prepared(self.network, sentences), sentences.rows, flat=not self.nested)

    def found_triples(self, sentences: Sentences) -> list[FoundTriples]:
        """Return the entities and relations of rows as read: in characters where a row is a text, with their labels."""
        spans, triples = self.linked(sentences)
        rows = []
        for some, facts, found in zip(spans, triples, self.named(sentences, spans), strict=True):
            place = {span: i for i, span in enumerate(some)}
            relations = [
                FoundRelation(place[t.subject], place[t.object], self.relation_names[t.relation], t.score)
                for t in facts
            ]
            rows.append(FoundTriples(found, relations))
        return rows


def measure_triples(
    predicted: list[list[Triple]],
    sentences: Sentences,
    types: Sequence[str],
    relations: Sequence[str],
    train_counts: np.ndarray,
) -> tuple[dict[str, float | int | None], MeasuredTriples]:
    """Return the metrics of triples, their names behind `triple_`, and what was measured.

    Args:
        predicted: the triples of each row.
        sentences: the rows.
        types: those of training, then those that it lacks.
        relations: those of training.
        train_counts: of each.
    """
    gold, unknown = gold_triples(sentences, types, relations)
    counts = np.concatenate([train_counts, np.zeros(len(unknown))])
    metrics = triple_metrics(predicted, gold, num_relations=len(counts), train_counts=counts)
    return of_triples(metrics) | {"relations": len(relations)}, MeasuredTriples(predicted, gold, unknown)


def of_triples(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Put `triple_` before the names of what :func:`manyhot.triple_metrics` measured: spans have the same ones."""
    counts = ("triples", "relations")
    return {key if key in counts else f"triple_{key}": value for key, value in metrics.items() if key != "rows"}


def notes_on_relations(sentences: Sentences, unknown: list[str]) -> list[str]:
    """Say what no prediction can find, and counts as missed."""
    if not unknown:
        return []
    number = sum(kind in unknown for row in sentences.relations for _, kind, _ in row)
    return [
        f"{len(unknown):,} relations of this file are unknown to the run, with {number:,} triples: {listed(unknown)}. "
        "They count as missed."
    ]
