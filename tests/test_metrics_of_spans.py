"""span_metrics and span_errors: against sets, and against numbers of conlleval by hand."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

import reference
from manyhot import Span, span_errors, span_metrics

Spans = list[list[tuple[int, int, int]]]


def draw(chance: random.Random, rows: int, types: int) -> tuple[Spans, Spans]:
    def row() -> list[tuple[int, int, int]]:
        spans = []
        for _ in range(chance.randint(0, 4)):
            start = chance.randint(0, 6)
            spans.append((start, start + chance.randint(1, 4), chance.randrange(types)))
        return spans

    true = [row() for _ in range(rows)]
    # Some of the true ones, some that are off by a little, and others.
    preds = [
        [s if chance.random() < 0.6 else (s[0], s[1] + chance.randint(0, 1), chance.randrange(types)) for s in spans]
        + row()[: chance.randint(0, 2)]
        for spans in true
    ]
    return preds, true


def test_equals_sets() -> None:
    chance = random.Random(0)
    for _ in range(60):
        types = chance.choice((1, 3))
        preds, true = draw(chance, 5, types)
        counts = np.array([3, 10, 50])[:types]
        got = span_metrics(preds, true, num_types=types, train_counts=counts)
        precision, recall, f1 = reference.span_f1(preds, true)
        assert (got["micro_precision"], got["micro_recall"], got["micro_f1"]) == pytest.approx((precision, recall, f1))
        there = {span[2] for row in true for span in row}
        each = {t: reference.span_f1(preds, true, lambda span, t=t: span[2] == t)[2] for t in range(types)}
        assert got["macro_f1"] == pytest.approx(sum(each[t] for t in there) / len(there) if there else 0.0)
        for name, t in zip(("rare", "medium", "head"), range(types), strict=False):
            assert got[f"{name}_f1"] == (pytest.approx(each[t]) if t in there else None)
        borders: Any = [[[(i, j) for i, j, _ in row] for row in rows] for rows in (preds, true)]
        assert got["boundary_f1"] == pytest.approx(reference.span_f1(*borders)[2])
        nested = [
            (r, s)
            for r, row in enumerate(true)
            for s in set(row)
            if any(o != s and set(range(*o[:2])) & set(range(*s[:2])) for o in row)
        ]
        found = [s in preds[r] for r, s in nested]
        assert got["nested_recall"] == (pytest.approx(sum(found) / len(found)) if found else None)
        assert got["exact_match"] == pytest.approx(sum(set(p) == set(t) for p, t in zip(preds, true, strict=True)) / 5)
        assert got["spans_per_row_predicted"] == pytest.approx(sum(len(set(p)) for p in preds) / 5)
        assert got["spans_per_row_true"] == pytest.approx(sum(len(set(t)) for t in true) / 5)
        assert got["empty_rows"] == pytest.approx(sum(not p for p in preds) / 5)
        assert (got["rows"], got["types"]) == (5, types)
        assert got["spans"] == sum(len(set(t)) for t in true)


def test_equals_conlleval_on_flat_spans() -> None:
    # Three sentences, by the rules of conlleval: 5 phrases, found 5, correct 2: precision, recall and FB1 40.00. Of
    # these LOC (0) has 2, 2 and 1: 50.00, and PER (1) 3, 3 and 1: 33.33.
    true = [[(0, 2, 1), (3, 4, 0)], [(0, 1, 1), (2, 4, 0)], [(1, 3, 1)]]
    preds = [[(0, 2, 1), (3, 4, 0)], [(0, 2, 1), (3, 4, 0)], [(1, 2, 1)]]
    got = span_metrics(preds, true, num_types=2)
    assert (got["micro_precision"], got["micro_recall"], got["micro_f1"]) == pytest.approx((0.4, 0.4, 0.4))
    assert got["macro_f1"] == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_rows_without_spans_on_both_sides_are_right() -> None:
    got = span_metrics([[], [(0, 1, 0)]], [[], []], num_types=1)
    assert (got["exact_match"], got["micro_f1"], got["macro_f1"], got["empty_rows"]) == (0.5, 0.0, 0.0, 0.5)
    assert span_metrics([[]], [[]], num_types=1)["exact_match"] == 1.0
    assert got["nested_recall"] is None
    assert got["rare_f1"] is None


def test_repeats_and_scores_count_once() -> None:
    preds = [[Span(0, 2, 0, 3.0), Span(0, 2, 0, 1.0)]]
    got = span_metrics(preds, [[(0, 2, 0), (0, 2, 0)]], num_types=1)
    assert (got["micro_f1"], got["spans"], got["spans_per_row_predicted"]) == (1.0, 1, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: span_metrics([[]], [[], []], num_types=1), "got 1 and 2 rows"),
        (lambda: span_metrics([], [], num_types=1), "at least one row; got 0 and 0"),
        (lambda: span_metrics([[(0, 1, 2)]], [[]], num_types=2), "preds: row 0 has a span of type 2; .* in 0 to 1"),
        (lambda: span_metrics([[]], [[(0, 1, -1)]], num_types=2), "targets: row 0 has a span of type -1"),
        (lambda: span_metrics([[]], [[]], num_types=2, train_counts=[1]), r"one number a type, \(2,\); got \(1,\)"),
        (lambda: span_errors([[]], []), "got 1 and 0 rows"),
    ],
)
def test_wrong_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- errors ----------------------------------------------------------------------------------------------------------


def test_kinds_of_errors() -> None:
    true = [[(0, 2, 0), (3, 5, 0), (6, 8, 0), (9, 12, 1), (13, 14, 0)], [(0, 1, 1)]]
    preds = [[(0, 2, 0), (3, 5, 1), (6, 9, 0), (10, 12, 0), (15, 16, 1)], []]
    assert [tuple(error) for error in span_errors(preds, true)] == [
        (0, "right", (0, 2, 0), (0, 2, 0)),
        (0, "type", (3, 5, 0), (3, 5, 1)),
        (0, "border", (6, 8, 0), (6, 9, 0)),
        (0, "both", (9, 12, 1), (10, 12, 0)),
        (0, "missed", (13, 14, 0), None),
        (0, "spurious", None, (15, 16, 1)),
        (1, "missed", (0, 1, 1), None),
    ]


def test_the_better_pair_is_taken_first() -> None:
    # The first prediction shares more with the second true span; the other is left for the first.
    errors = span_errors([[(2, 6, 0), (0, 1, 0)]], [[(0, 3, 0), (3, 6, 0)]])
    assert [tuple(e)[1:] for e in errors] == [("border", (0, 3, 0), (0, 1, 0)), ("border", (3, 6, 0), (2, 6, 0))]


def test_each_span_is_in_one_error() -> None:
    chance = random.Random(1)
    for _ in range(60):
        preds, true = draw(chance, 3, 2)
        errors = span_errors(preds, true)
        for side, rows in (("gold", true), ("pred", preds)):
            told = Counter((e.row, getattr(e, side)) for e in errors if getattr(e, side) is not None)
            assert told == Counter((r, span) for r, row in enumerate(rows) for span in set(row))
        right = sum(e.kind == "right" for e in errors)
        f1 = 2 * right / max(1, sum(len(set(r)) for r in preds) + sum(len(set(r)) for r in true))
        assert span_metrics(preds, true, num_types=2)["micro_f1"] == pytest.approx(f1)
