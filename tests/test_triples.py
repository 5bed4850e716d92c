"""Triples: the decision against every pair of spans, the factorised losses of pairs, overlaps, numbers by sets."""

import itertools
import random
from typing import Any

import pytest
import torch

import manyhot
import reference
from manyhot import (
    CascadeTagger,
    RelationPointer,
    Span,
    SpanTargets,
    decide_boundaries,
    decide_objects,
    decide_spans,
    decide_triples,
    span_loss,
    span_metrics,
    span_share,
    triple_metrics,
    triple_targets,
    zlpr_loss,
)

ADA, ROME, OSLO = (0, 2, 0), (3, 4, 1), (5, 6, 1)


def spans_of(row: list[tuple[int, int, int]]) -> list[Span]:
    return [Span(*span, 1.0) for span in row]


def facts(row: Any) -> set[tuple[Any, int, Any]]:
    return {(tuple(s[:3]), r, tuple(o[:3])) for s, r, o, *_ in row}


@pytest.mark.parametrize("parts", [False, True])
def test_decide_triples_equals_looking_at_every_pair(generator: torch.Generator, parts: bool) -> None:
    chance = random.Random(3)
    rows, relations, length = 4, 3, 6
    for threshold in (0.0, torch.tensor([-0.5, 0.0, 1.0])):
        entities = []
        for _ in range(rows):
            row = {
                (a := chance.randrange(length), chance.randint(a + 1, length), chance.randrange(2)) for _ in range(4)
            }
            entities.append(spans_of(sorted(row)[: chance.randint(0, 4)]))
        sides: list[Any] = []
        for _ in range(2):
            pair, start, end = (
                torch.randn(*shape, generator=generator)
                for shape in ((rows, length, length), (rows, relations, length), (rows, relations, length))
            )
            scores = manyhot.SpanScores(pair, start, end)
            sides.append(scores if parts else scores.dense())
        dense = [side.dense() if parts else side for side in sides]
        got = decide_triples(entities, *sides, threshold=threshold)
        for row, spans in enumerate(entities):
            want = reference.decide_triples(spans, dense[0][row].tolist(), dense[1][row].tolist(), threshold)
            for t in got[row]:
                assert t.score == pytest.approx(want[tuple(t.subject[:3]), t.relation, tuple(t.object[:3])])
            assert facts(got[row]) == set(want)
            level = threshold if isinstance(threshold, torch.Tensor) else torch.full((relations,), threshold)
            ranks = [t.score - float(level[t.relation]) for t in got[row]]
            assert ranks == sorted(ranks, reverse=True)
            assert len(got[row]) == len(facts(got[row]))


def scores_of(triples: list[list[Any]], relations: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores that are 2 where a triple asks for it, and -2 elsewhere."""
    heads, tails = triple_targets(triples)
    return tuple(4.0 * x.dense(relations, length) - 2 for x in (heads, tails))  # pyright: ignore


def test_a_pair_of_entities_in_two_relations_and_both_ways() -> None:  # EPO
    true = [[(ADA, 0, ROME), (ADA, 1, ROME), (ROME, 1, ADA)]]
    got = decide_triples([spans_of([ADA, ROME, OSLO])], *scores_of(true, 2, 7))
    assert facts(got[0]) == set(true[0])
    metrics = triple_metrics(got, true, num_relations=2)
    assert (metrics["micro_f1"], metrics["pair_overlap_recall"], metrics["entity_overlap_recall"]) == (1.0, 1.0, None)


def test_an_entity_in_several_triples(generator: torch.Generator) -> None:  # SEO
    true = [[(ADA, 0, ROME), (ADA, 0, OSLO), (ROME, 1, OSLO)]]
    got = decide_triples([spans_of([ADA, ROME, OSLO])], *scores_of(true, 2, 7))
    assert facts(got[0]) == set(true[0])
    metrics = triple_metrics(got, true, num_relations=2)
    assert (metrics["micro_f1"], metrics["pair_overlap_recall"], metrics["entity_overlap_recall"]) == (1.0, None, 1.0)


def test_entities_inside_each_other_and_of_two_types() -> None:
    group, place = (2, 5, 2), (4, 5, 1)
    true = [[(ADA, 0, group), (group, 1, place)]]
    got = decide_triples([spans_of([ADA, group, place])], *scores_of(true, 2, 7))
    assert facts(got[0]) == set(true[0])
    # The two triples that begin alike differ in their last tokens.
    heads, tails = triple_targets([[(ADA, 0, (3, 4, 1)), (ADA, 0, (3, 6, 1))]])
    assert heads.cells.tolist() == [[0, 0, 0, 3]]
    assert tails.cells.tolist() == [[0, 0, 1, 3], [0, 0, 1, 5]]
    # One span with two types is two entities, and what holds of one holds of the other.
    got = decide_triples([spans_of([ADA, (0, 2, 1), ROME])], *scores_of([[(ADA, 0, ROME)]], 1, 7))
    assert facts(got[0]) == {(ADA, 0, ROME), ((0, 2, 1), 0, ROME)}


def test_what_is_never_chosen_and_how_many_are_paired() -> None:
    head = torch.full((1, 1, 2, 2), 5.0)
    tail = head.clone()
    head[0, 0, 0, 1] = torch.nan
    tail[0, 0, 1, 0] = -torch.inf
    got = decide_triples([spans_of([(0, 1, 0), (1, 2, 0)])], head, tail)
    assert facts(got[0]) == {((0, 1, 0), 0, (0, 1, 0)), ((1, 2, 0), 0, (1, 2, 0))}
    assert decide_triples([[]], head, tail) == [[]]
    many = [Span(0, 1, kind, 1.0) for kind in range(30)]
    assert len(decide_triples([many], *torch.full((2, 1, 1, 2, 2), 1.0))[0]) == (4 * 2) ** 2


@pytest.mark.parametrize(
    ("entities", "shapes", "threshold", "message"),
    [
        ([[], []], ((1, 2, 3, 3), (1, 2, 3, 3)), 0.0, "each of the 1 rows of scores, got 2"),
        ([[]], ((1, 2, 3, 3), (1, 1, 3, 3)), 0.0, "head and tail must have one shape"),
        (
            [spans_of([(1, 4, 0)])],
            ((1, 2, 3, 3), (1, 2, 3, 3)),
            0.0,
            r"row 0 has a span \(1, 4, 0\) beyond its 3 tokens",
        ),
        ([[]], ((1, 2, 3, 3), (1, 2, 3, 3)), torch.zeros(3), r"one a relation, \(2,\); got \(3,\)"),
    ],
)
def test_decide_triples_refuses(entities: Any, shapes: Any, threshold: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decide_triples(entities, *map(torch.zeros, shapes), threshold=threshold)


def test_decide_objects_refuses() -> None:
    with pytest.raises(ValueError, match="and 1 entities"):
        decide_objects([spans_of([ADA])], torch.zeros(2, 1, 4), torch.zeros(2, 1, 4))
    for subjects in ([], [[(0, 4)]], [[(2, 2)]], [[(-1, 1)]]):
        with pytest.raises(ValueError, match="a list of spans for each of 1 rows of 3 tokens"):
            CascadeTagger(4, 1, 1).objects(torch.zeros(1, 3, 4), subjects)


def test_decide_objects_is_decide_triples_where_subjects_differ_in_their_first_tokens(
    generator: torch.Generator,
) -> None:
    head, tail = torch.randn(2, 2, 3, 8, 8, generator=generator)
    entities = [spans_of([(0, 2, 0), (3, 4, 1), (5, 8, 0)]), spans_of([(2, 3, 1)])]
    subjects = [(row, span) for row, spans in enumerate(entities) for span in spans]
    starts = torch.stack([head[row, :, span.start] for row, span in subjects])
    ends = torch.stack([tail[row, :, span.end - 1] for row, span in subjects])
    assert decide_objects(entities, starts, ends) == decide_triples(entities, head, tail)


# --- losses and heads ------------------------------------------------------------------------------------------------


def test_the_loss_of_pairs_equals_the_reference(generator: torch.Generator) -> None:
    hidden = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    pointer = RelationPointer(8, 2, 3, size=4).double()
    lengths = torch.tensor([5, 3, 0])
    triples = [[((3, 5, 0), 2, (0, 1, 1)), ((0, 1, 1), 0, (0, 1, 1))], [((0, 2, 0), 1, (2, 3, 0))], []]
    _, *pairs = pointer(hidden)
    for scores, targets in zip(pairs, triple_targets(triples), strict=True):
        got = span_loss(scores, targets, lengths=lengths, triangle=False, reduction="none")
        dense, gold = scores.dense().detach(), {tuple(cell) for cell in targets.cells.tolist()}
        for row, relation in itertools.product(range(2), range(3)):
            cells = list(itertools.product(range(int(lengths[row])), repeat=2))
            neg = [float(dense[row, relation, i, j]) for i, j in cells if (row, relation, i, j) not in gold]
            pos = [-float(dense[row, relation, i, j]) for i, j in cells if (row, relation, i, j) in gold]
            want = reference.softplus(reference.lse(neg)) + reference.softplus(reference.lse(pos))
            assert float(got[row, relation].detach()) == pytest.approx(want, rel=1e-12)


def test_share_of_pairs() -> None:
    heads, _ = triple_targets([[(ADA, 0, ROME), (ADA, 0, OSLO)], []])
    share = span_share(heads, torch.tensor([7, 2]), 2, triangle=False)
    torch.testing.assert_close(share, torch.tensor([2.5, 0.5]) / (49 + 4 + 1))


def test_start_at_of_both_heads() -> None:
    types, relations = torch.tensor([0.1, 0.01]), torch.tensor([1e-3])
    pointer = RelationPointer(4, 2, 1, size=2)
    pointer.start_at(types, relations, scale=1.0)
    for head, share in ((pointer.entities, types), (pointer.head, relations), (pointer.tail, relations)):
        torch.testing.assert_close(head.end.bias.detach(), torch.logit(share))
    tagger = CascadeTagger(4, 2, 1)
    tagger.start_at(types, relations)
    torch.testing.assert_close(tagger.subjects.boundaries.bias.detach(), 0.5 * torch.logit(types).repeat(2))
    torch.testing.assert_close(tagger.tags.boundaries.bias.detach(), 0.5 * torch.logit(relations).repeat(2))


def test_tags_of_objects_are_of_the_subject_and_its_row(generator: torch.Generator) -> None:
    tagger = CascadeTagger(6, 2, 3).double()
    with torch.no_grad():
        tagger.given.weight.normal_(generator=generator)
        tagger.given.bias.normal_(generator=generator)
    hidden = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    starts, ends = tagger.objects(hidden, [[(1, 2, 0)], [(0, 3, 1), (3, 4, 1)]])
    for n, (row, first, last) in enumerate([(0, 1, 1), (1, 0, 2), (1, 3, 3)]):
        given = tagger.given(torch.cat((hidden[row, first], hidden[row, last])))
        for i in range(4):
            h = hidden[row, i]
            normal = (h - h.mean()) / (h.var(unbiased=False) + 1e-5).sqrt()
            tags = tagger.tags.boundaries((1 + given[:6]) * normal + given[6:])
            torch.testing.assert_close(torch.cat((starts[n, :, i], ends[n, :, i])), tags)
    # Nothing is known of the subject at first.
    fresh = CascadeTagger(6, 2, 3).double()
    torch.testing.assert_close(*(fresh.objects(hidden, [[(i, i + 1)], []])[0] for i in (0, 3)))
    assert [tuple(x.shape) for x in fresh.objects(hidden, [[], []])] == [(0, 3, 4)] * 2


def rows_to_learn() -> tuple[list[str], list[list[str]], list[list[tuple[int, int, int]]], list[list[Any]]]:
    """Return who hired or met whom: the same pair in two relations, one person in several triples, both orders."""
    people, texts, entities, triples = ("ada", "bo", "cy", "dee"), [], [], []
    for a, b, c in itertools.permutations(people, 3):
        A, B, C = (0, 1, 0), (2, 4, 0), (5, 6, 0)
        for verb, of_pair in (("hired", [0]), ("met", [1]), ("hired-and-met", [0, 1])):
            texts.append([a, verb, "old", b, "and", c])
            entities.append([A, B, C])
            triples.append([(A, r, other) for r in of_pair for other in (B, C)] + [(B, 1, A)] * (1 in of_pair))
    words = sorted({word for text in texts for word in text})
    return words, texts, entities, triples


@pytest.mark.parametrize("design", ["gplinker", "cascade"])
def test_both_designs_learn_triples_that_overlap(design: str) -> None:
    torch.manual_seed(0)
    words, texts, entities, triples = rows_to_learn()
    ids = torch.tensor([[words.index(word) for word in text] for text in texts])
    size = 16
    encoder = torch.nn.Sequential(torch.nn.Embedding(len(words), size))
    near = torch.nn.Conv1d(size, size, 3, padding=1)
    far = torch.nn.Conv1d(size, size, 5, padding=2)
    head: Any = RelationPointer(size, 1, 2, size=8) if design == "gplinker" else CascadeTagger(size, 1, 2)
    parameters = [p for module in (encoder, near, far, head) for p in module.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-2)

    def hidden() -> torch.Tensor:
        x = encoder(ids)
        return x + near(x.mT).mT.relu() + far(x.mT).mT.relu()

    gold, (heads, tails) = SpanTargets(entities), triple_targets(triples)
    chance = random.Random(0)
    for _ in range(60 if design == "gplinker" else 120):
        x = hidden()
        if design == "gplinker":
            parts = head(x)
            loss = span_loss(parts[0], gold)
            for scores, targets in zip(parts[1:], (heads, tails), strict=True):
                loss = loss + span_loss(scores, targets, triangle=False)
        else:
            loss = zlpr_loss(torch.cat(head(x), 1), gold.boundaries(1, 6))
            subjects = [chance.choice(row) for row in entities]  # one a row
            objects = [
                [(*o[:2], r) for s, r, o in row if s == subject] for row, subject in zip(triples, subjects, strict=True)
            ]
            loss = loss + zlpr_loss(
                torch.cat(head.objects(x, [[s] for s in subjects]), 1), SpanTargets(objects).boundaries(2, 6)
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        x = hidden()
        if design == "gplinker":
            scores, *pairs = head(x)
            spans = decide_spans(scores)
            found = decide_triples(spans, *pairs)
        else:
            spans = decide_boundaries(*head(x))
            found = decide_objects(spans, *head.objects(x, spans))
    assert span_metrics(spans, entities, num_types=1)["micro_f1"] == 1.0
    metrics = triple_metrics(found, triples, num_relations=2)
    assert metrics["micro_f1"] == 1.0
    assert metrics["pair_overlap_recall"] == metrics["entity_overlap_recall"] == 1.0


def test_boundaries_without_overlap() -> None:
    starts, ends = torch.full((2, 1, 2, 4), -5.0)
    starts[0, 0, 0], ends[0, 0, 2] = 1.0, 1.0
    starts[0, 1, 1], ends[0, 1, 1] = 3.0, 3.0
    starts[0, 1, 3], ends[0, 1, 3] = 0.5, 0.5
    assert [s[:3] for s in decide_boundaries(starts, ends)[0]] == [(1, 2, 1), (0, 3, 0), (3, 4, 1)]
    assert [s[:3] for s in decide_boundaries(starts, ends, flat=True)[0]] == [(1, 2, 1), (3, 4, 1)]


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_metrics_equal_sets() -> None:
    chance = random.Random(1)

    def entity() -> tuple[int, int, int]:
        start = chance.randint(0, 2)
        return start, start + chance.randint(1, 2), chance.randrange(2)

    def row() -> list[Any]:
        return [(entity(), chance.randrange(3), entity()) for _ in range(chance.randint(0, 6))]

    seen: set[str] = set()
    want: dict[str, float | None] = {}
    for _ in range(60):
        true = [row() for _ in range(4)]
        preds = [[t for t in some if chance.random() < 0.6] + row()[:2] for some in true]
        got = triple_metrics(preds, true, num_relations=3, train_counts=[3, 10, 50])
        want = reference.triple_numbers(preds, true, 3)
        for key, value in want.items():
            assert got[key] == (pytest.approx(value) if value is not None else None), key
        seen |= {key for key, value in want.items() if value not in (None, 0.0, 1.0)}
        assert (got["rows"], got["relations"]) == (4, 3)
    assert seen == set(want)


@pytest.mark.parametrize(
    ("preds", "targets", "message"),
    [
        ([], [], "at least one row; got 0 and 0"),
        ([[]], [[], []], "got 1 and 2 rows"),
        ([[(ADA, 2, ROME)]], [[]], "preds: row 0 has a triple of relation 2; relation ids must lie in 0 to 1"),
    ],
)
def test_metrics_refuse(preds: Any, targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        triple_metrics(preds, targets, num_relations=2)
