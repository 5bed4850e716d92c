"""SpanTargets and the decisions: against loops over all cells of small rows."""

import math
import pickle
import random
import time
from typing import Any

import pytest
import torch
from torch import Tensor

import manyhot
import reference
from manyhot import Span, SpanScores, SpanTargets, decide_boundaries, decide_spans, span_mask, span_share

Spans = list[list[tuple[int, int, int]]]
SPANS: Spans = [[(0, 2, 1), (3, 4, 0), (0, 2, 0), (0, 2, 1)], [], [(1, 5, 1), (1, 5, 1), (2, 3, 1)]]


ONE_ROW: Any = [(0, 2, 1)]


# --- targets ---------------------------------------------------------------------------------------------------------


def test_cells_are_sorted_and_each_once() -> None:
    targets = SpanTargets(SPANS)
    assert (targets.rows, len(targets), targets.most) == (3, 3, 2)
    assert targets.cells.tolist() == [[0, 0, 0, 1], [0, 0, 3, 3], [0, 1, 0, 1], [2, 1, 1, 4], [2, 1, 2, 2]]
    assert targets.places.tolist() == [[0, 0, 1], [0, 3, 3], [2, 1, 4], [2, 2, 2]]
    assert targets.place.tolist() == [0, 1, 0, 2, 3]
    assert repr(targets) == "SpanTargets(5 spans in 3 rows)"


def test_forms_of_spans_agree() -> None:
    want = SpanTargets(SPANS).cells
    flat = torch.tensor([(row, *span) for row, spans in enumerate(SPANS) for span in spans])
    order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))
    for given in (flat, flat[order], flat.int()):
        assert torch.equal(SpanTargets(given, rows=3).cells, want)
    assert torch.equal(SpanTargets([[Span(*span, 1.5) for span in spans] for spans in SPANS]).cells, want)
    for moved in (SpanTargets(SPANS).to("cpu"), pickle.loads(pickle.dumps(SpanTargets(SPANS)))):
        assert torch.equal(moved.cells, want)
        assert (moved.rows, moved.most) == (3, 2)
        assert torch.equal(moved.listed(2, 5).labels, SpanTargets(SPANS).listed(2, 5).labels)


def test_listed_boundaries_and_dense_agree() -> None:
    targets = SpanTargets(SPANS)
    dense = targets.dense(2, 5)
    assert dense.shape == (3, 2, 5, 5)
    assert {(r, i, j + 1, t) for r, t, i, j in dense.nonzero().tolist()} == {
        (r, *span) for r, spans in enumerate(SPANS) for span in spans
    }
    assert torch.equal(targets.listed(2, 5).dense(25), dense.flatten(2))
    both = torch.cat((dense.any(-1), dense.any(-2)), 1)
    assert torch.equal(targets.boundaries(2, 5).dense(5), both)


def test_no_span_at_all() -> None:
    targets = SpanTargets([[], []])
    assert targets.cells.shape == (0, 4)
    assert targets.listed(3, 4).shape == (2, 3)
    assert not targets.dense(3, 4).any()
    assert targets.boundaries(3, 4).shape == (2, 6)
    assert SpanTargets([]).rows == 0
    assert manyhot.zlpr_loss(torch.zeros(2, 3, 16), targets.listed(3, 4)).item() == pytest.approx(math.log(17))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SpanTargets([[], [(2, 2, 0)]]), ValueError,
         r"row 1 has a span \(2, 2, 0\), but 0 <= start < end is needed; offsets count from 0 and the end is not part"),
        (lambda: SpanTargets([[(-1, 2, 0)]]), ValueError, r"row 0 has a span \(-1, 2, 0\), but 0 <= start"),
        (lambda: SpanTargets([[(0, 2, -1)]]), ValueError, r"\(0, 2, -1\), type -1, and types count from 0"),
        (lambda: SpanTargets.of_pairs([[], [(2, -1, 0)]]), ValueError, r"row 1 has a pair \(2, -1, 0\); tokens and"),
        (lambda: SpanTargets([[(0, 2.5, 1)]]), TypeError, "spans must be integers, .* got torch.float32"),
        (lambda: SpanTargets([[(0, 2)]]), TypeError, r"a list of \(start, end, type id\) a row"),
        (lambda: SpanTargets(ONE_ROW), TypeError, r"a list of \(start, end, type id\) a row"),
        (lambda: SpanTargets([[(0, 2, "PER")]]), TypeError, r"a list of \(start, end, type id\) a row"),
        (lambda: SpanTargets([[(0, 2, 1)]], rows=1), TypeError, "rows goes with a tensor"),
        (lambda: SpanTargets(torch.tensor([[0, 0, 2, 1]])), ValueError, "rows must say how many .* rows=None"),
        (lambda: SpanTargets(torch.tensor([[0, 2, 1]]), rows=1), ValueError, r"shape \(spans, 4\) .* got \(1, 3\)"),
        (lambda: SpanTargets(torch.tensor([[3, 0, 2, 1]]), rows=3), ValueError, "lie in 0 to 2; got 3"),
        (lambda: SpanTargets(torch.tensor([[1, 0, 1, 0], [-1, 0, 1, 0]]), rows=2), ValueError, "lie in 0 to 1; got -1"),
        (lambda: SpanTargets(torch.zeros(1, 4), rows=3), TypeError, "got torch.float32"),
    ],
)  # fmt: skip
def test_wrong_spans(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_mask_and_share_count_the_cells_of_a_loop() -> None:
    lengths, length = torch.tensor([4, 0, 5, 1]), 5
    for width in (None, 1, 2, 5, 9):
        mask = span_mask(lengths, length, max_width=width)
        want = [
            [[i <= j < n and (width is None or j - i < width) for j in range(length)] for i in range(length)]
            for n in lengths.tolist()
        ]
        assert mask.shape == (4, 1, length, length)
        assert mask[:, 0].tolist() == want
        targets = SpanTargets([[(0, 1, 0), (3, 4, 0)], [], [(4, 5, 1)], []])
        share = span_share(targets, lengths, 3, max_width=width)
        cells = int(mask.sum())
        torch.testing.assert_close(share, torch.tensor([2.5, 1.5, 0.5]) / (cells + 1))
    long = torch.tensor([250, 200])
    for dtype in (torch.uint8, torch.int16, torch.int32):
        for triangle in (True, False):
            share = span_share(SpanTargets([[(0, 2, 0)], []]), long.to(dtype), 1, triangle=triangle)
            cells = sum(n * (n + 1) // 2 if triangle else n**2 for n in long.tolist())
            torch.testing.assert_close(share, torch.tensor([1.5]) / (cells + 1))
    pairs = span_mask(lengths, length, triangle=False)
    assert pairs[:, 0].tolist() == [
        [[i < n and j < n for j in range(length)] for i in range(length)] for n in lengths.tolist()
    ]
    with pytest.raises(ValueError, match=r"row 0 has a span \(0, 3\) beyond its 2 tokens"):
        span_share(SpanTargets([[(0, 3, 0)]]), torch.tensor([2]), 1)


# --- decisions -------------------------------------------------------------------------------------------------------


def triples(rows: list[list[Span]]) -> Spans:
    return [[span[:3] for span in row] for row in rows]


def test_equals_loops_over_cells(generator: torch.Generator) -> None:
    chance = random.Random(0)
    for _ in range(150):
        types, length = chance.choice((1, 3)), chance.choice((1, 4, 6))
        # Halves, so that there are ties.
        dense = (4 * torch.randn(2, types, length, length, generator=generator)).round() / 2
        dense -= chance.choice((0, 0, 4))
        if chance.random() < 0.3:
            dense[dense > 2] = math.nan
            dense[dense < -3] = -math.inf
        lengths = torch.tensor([chance.randint(0, length), length])
        least = chance.choice((0, 0, 1, 3))
        options: dict[str, Any] = {
            "flat": chance.random() < 0.5, "min_spans": least, "max_spans": chance.choice((None, None, least, 4)),
            "threshold": chance.choice((0.0, 0.5, torch.tensor([0.5, -0.5, 0.0])[:types])),
            "max_width": chance.choice((None, 1, 2)),
        }  # fmt: skip
        got = decide_spans(dense, lengths=lengths, **options)
        for row in range(2):
            want = reference.decide_spans(dense[row].numpy(), int(lengths[row]), **options)
            assert triples(got)[row] == want
            assert [span.score for span in got[row]] == [dense[row, t, i, j - 1].item() for i, j, t in want]


def test_parts_decide_as_the_scores_written_out(generator: torch.Generator) -> None:
    scores = SpanScores(*(torch.randn(shape, generator=generator) for shape in ((3, 6, 6), (3, 2, 6), (3, 2, 6))))
    lengths = torch.tensor([6, 0, 4])
    for flat in (False, True):
        assert decide_spans(scores, lengths=lengths, flat=flat) == decide_spans(
            scores.dense(), lengths=lengths, flat=flat
        )
    half = SpanScores(*(x.bfloat16() for x in scores))
    assert triples(decide_spans(half)) == triples(decide_spans(half.dense()))
    assert decide_spans(scores, lengths=lengths)[1] == []


def test_all_below_and_all_above() -> None:
    below = torch.full((1, 2, 5, 5), -1.0)
    assert decide_spans(below) == [[]]
    assert triples(decide_spans(below, min_spans=3)) == [[(0, 1, 0), (0, 1, 1), (0, 2, 0)]]
    assert triples(decide_spans(below, min_spans=3, flat=True)) == [[(0, 1, 0), (1, 2, 0), (2, 3, 0)]]
    assert decide_spans(torch.full((1, 1, 2, 2), -math.inf), min_spans=2) == [[]]
    assert decide_spans(torch.full((1, 1, 2, 2), math.nan), min_spans=2) == [[]]
    assert len(decide_spans(-below)[0]) == 2 * 15
    assert decide_spans(-below, max_spans=0) == [[]]


def test_an_untrained_model_costs_bounded_time(generator: torch.Generator) -> None:
    length = 512
    parts = ((1, length, length), (1, 10, length), (1, 10, length))
    scores = SpanScores(*(5 + torch.randn(shape, generator=generator) for shape in parts))
    began = time.monotonic()
    for flat in (False, True):
        (spans,) = decide_spans(scores, flat=flat, max_spans=2 * length)
        assert len(spans) == 2 * length if not flat else 0 < len(spans) <= length
    assert time.monotonic() - began < 5


def test_boundaries_equal_a_walk_along_the_tokens(generator: torch.Generator) -> None:
    for _ in range(100):
        starts, ends = (torch.randn(2, 3, 7, generator=generator) - 0.3 for _ in range(2))
        lengths = torch.randint(0, 8, (2,), generator=generator)
        got = decide_boundaries(starts, ends, lengths=lengths)
        shifted = decide_boundaries(starts + 1, ends + 1, lengths=lengths, threshold=torch.ones(3))
        assert triples(shifted) == triples(got)
        for row, spans in enumerate(got):
            want = reference.decide_boundaries(starts[row].tolist(), ends[row].tolist(), int(lengths[row]))
            assert {span[:3] for span in spans} == want
            assert len(spans) == len(want)
            assert spans == sorted(spans, key=lambda span: (-span.score, *span[:3]))
            for span in spans:
                mean = (starts[row, span.type, span.start] + ends[row, span.type, span.end - 1]) / 2
                assert span.score == pytest.approx(mean.item(), rel=1e-6)
    assert decide_boundaries(torch.full((1, 1, 2), math.nan), torch.ones(1, 1, 2)) == [[]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decide_spans(torch.zeros(1, 2, 3, 4)), r"\(rows, types, length, length\).* got \(1, 2, 3, 4\)"),
        (lambda: decide_spans(torch.zeros(1, 2, 3, 3), min_spans=3, max_spans=2), "min_spans .* got 3 and 2"),
        (lambda: decide_spans(torch.zeros(1, 2, 3, 3), min_spans=-1), "got -1 and None"),
        (lambda: decide_spans(torch.zeros(1, 2, 3, 3), threshold=torch.zeros(3)), r"one a type, \(2,\); got \(3,\)"),
        (lambda: decide_spans(torch.zeros(1, 2, 3, 3), lengths=torch.tensor([4])), "in 0 to 3, .* got 4 at row 0"),
        (lambda: decide_boundaries(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4)), r"got \(1, 2, 3\) and \(1, 2, 4\)"),
        (lambda: decide_boundaries(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), threshold=torch.zeros(3)), "one a type"),
    ],
)
def test_wrong_decisions(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- validate --------------------------------------------------------------------------------------------------------


def test_validate_looks_at_spans() -> None:
    scores = torch.zeros(2, 3, 4, 4)
    parts = SpanScores(torch.zeros(2, 4, 4), torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    good = SpanTargets([[(0, 2, 0)], [(1, 3, 2)]])
    mask = span_mask(torch.tensor([4, 3]), 4)
    for given in (scores, parts):
        assert manyhot.validate(given, good) is None
        assert manyhot.validate(given, good, mask=mask) is None
        pairs = SpanTargets.of_pairs([[(3, 1, 0)], []])
        assert manyhot.validate(given, pairs, mask=span_mask(torch.tensor([4, 3]), 4, triangle=False)) is None
        with pytest.raises(ValueError, match=r"row 1 has a span \(1, 4\) that mask leaves out"):
            manyhot.validate(given, SpanTargets([[], [(1, 4, 0)]]), mask=mask)
        with pytest.raises(ValueError, match=r"row 0 has a pair \(3, 1\) whose first token comes after its last"):
            manyhot.validate(given, pairs)
        with pytest.raises(ValueError, match="of type 3; the scores have 3 types"):
            manyhot.validate(given, SpanTargets([[(0, 2, 3)], []]), mask=mask)
        with pytest.raises(ValueError, match="targets must have the rows of scores, 2; got 1"):
            manyhot.validate(given, SpanTargets([[]]))
        with pytest.raises(ValueError, match=r"mask must be boolean of shape \(2, 1, 4, 4\).* \(4, 4\)"):
            manyhot.validate(given, good, mask=torch.ones(4, 4))


@pytest.mark.parametrize("part", ["pair", "start", "end", "dense"])
def test_validate_finds_nan_in_valid_cells_alone(part: str) -> None:
    parts = SpanScores(torch.zeros(2, 4, 4), torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    mask, good = span_mask(torch.tensor([4, 3]), 4), SpanTargets([[], []])

    def given(token: int) -> Any:
        spoilt = SpanScores(*(x.clone() for x in parts))
        where: Tensor = spoilt.start if part == "dense" else getattr(spoilt, part)
        where[1, ..., token] = math.nan
        return spoilt.dense() if part == "dense" else spoilt

    assert manyhot.validate(given(3), good, mask=mask) is None
    with pytest.raises(ValueError, match="scores must not be NaN where a cell is valid; got NaN in row 1"):
        manyhot.validate(given(2), good, mask=mask)
