"""Predicted and true triples to numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from manyhot.metrics_of_spans import check_rows, f1_by_kind, f1_of_sets, mean, of_rows

Entity = tuple[int, int, int]
Fact = tuple[Entity, int, Entity]


def triple_metrics(
    preds: Sequence[Iterable[Sequence[Any]]],
    targets: Sequence[Iterable[Sequence[Any]]],
    *,
    num_relations: int,
    train_counts: Any = None,
) -> dict[str, float | int | None]:
    """Measure predicted triples: one is right where the relation and both entities are, their types included.

    Args:
        preds: a list of (subject, relation, object) a row, as :func:`manyhot.decide_triples` returns them, subject and
            object being (start, end, type, ...); what follows is not looked at. A triple listed twice counts once.
        targets: the same, true.
        num_relations: how many relations there are.
        train_counts: (num_relations,), training triples of each; they define rare, medium and head relations. Without
            them the groups are None.

    Returns:
        Fractions from 0 to 1 unless said:

        - `micro_precision`, `micro_recall`, `micro_f1` over all triples: strict, as published numbers are called.
        - `macro_f1`, the mean over relations with a true triple; `rare_f1`, `medium_f1`, `head_f1`, the same over those
          with 1 to 8, 9 to 34, 35 and more training triples. None for an empty group.
        - `boundary_f1`, the micro-F1 where the types of entities are ignored.
        - `pair_overlap_recall`, the recall of true triples whose two entities are also those of another (EPO), in
          either order; `entity_overlap_recall`, of those that share one entity with another triple and are not such
          (SEO). None where there are none.
        - `exact_match`, share of rows whose set is right, rows without a triple on both sides included.
        - `triples_per_row_predicted`, `triples_per_row_true`, plain numbers; `empty_rows`, share of rows predicted
          empty.
        - `rows`, `relations`, and `triples`, the true ones: counts.

    Raises:
        ValueError: another number of rows on either side, no row, a relation that is none.

    Example:
        >>> import manyhot
        >>> ada, rome, oslo = (0, 2, 0), (4, 5, 1), (6, 7, 1)
        >>> metrics = manyhot.triple_metrics([[(ada, 0, rome)]], [[(ada, 0, rome), (ada, 0, oslo)]], num_relations=1)
        >>> metrics["micro_precision"], metrics["micro_recall"], metrics["entity_overlap_recall"]
        (1.0, 0.5, 0.5)

    References:
        Zeng et al., ACL 2018, for the two kinds of overlap.
    """
    check_rows(preds, targets, "(subject, relation, object)")
    predicted, true = ([{_fact(triple) for triple in row} for row in rows] for rows in (preds, targets))
    for name, rows in (("preds", predicted), ("targets", true)):
        for row, facts in enumerate(rows):
            for _, relation, _ in facts:
                if not 0 <= relation < num_relations:
                    raise ValueError(
                        f"{name}: row {row} has a triple of relation {relation}; relation ids must lie in 0 to "
                        f"{num_relations - 1}."
                    )
    right = [p & t for p, t in zip(predicted, true, strict=True)]
    hits, of_preds, of_targets = (
        [[relation for _, relation, _ in row] for row in rows] for rows in (right, predicted, true)
    )
    borders = [[{(s[:2], relation, o[:2]) for s, relation, o in row} for row in rows] for rows in (predicted, true)]
    pairs, singles = [], []
    for facts, found in zip(true, right, strict=True):
        of_pair = Counter(frozenset((s, o)) for s, _, o in facts)
        of_entity = Counter(entity for s, _, o in facts for entity in {s, o})
        for fact in facts:
            s, _, o = fact
            if of_pair[frozenset((s, o))] > 1:
                pairs.append(fact in found)
            elif max(of_entity[s], of_entity[o]) > 1:
                singles.append(fact in found)
    return {
        **f1_by_kind(hits, of_preds, of_targets, num_relations, train_counts, name="relation"),
        "boundary_f1": f1_of_sets(borders[0], borders[1]),
        "pair_overlap_recall": mean(np.array(pairs)),
        "entity_overlap_recall": mean(np.array(singles)),
        **of_rows(predicted, true, "triples"),
        "relations": num_relations,
        "triples": sum(map(len, true)),
    }


def _fact(triple: Sequence[Any]) -> Fact:
    subject, relation, thing, *_ = triple
    return _entity(subject), int(relation), _entity(thing)


def _entity(span: Sequence[Any]) -> Entity:
    start, end, kind, *_ = span
    return int(start), int(end), int(kind)
