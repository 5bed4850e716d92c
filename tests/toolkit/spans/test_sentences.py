"""Texts to tokens, spans to tokens, long rows to pieces, and what is said of each."""

import json

import numpy as np
import pytest

from manyhot.toolkit.config import make_config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.formats.marked import Mark, MarkedRow
from manyhot.toolkit.spans.features import KINDS, Vocabulary, shape
from manyhot.toolkit.spans.inputs import read_spans
from manyhot.toolkit.spans.offset import Candidates, bagged_offset, best_offset, f1_at_zero, judged
from manyhot.toolkit.spans.sentences import (
    Piece,
    check_astride,
    crossing,
    overlapping,
    pieces_of,
    sentences_of,
)
from manyhot.toolkit.spans.tokens import tokenize


def of_text(text, *marks, characters=False):
    row = MarkedRow("line 1", None, text, [Mark(*mark) for mark in marks])
    return sentences_of([row], "d.jsonl", characters=characters)


def of_tokens(tokens, *marks):
    return sentences_of([MarkedRow("line 1", tokens, None, [Mark(*mark) for mark in marks])], "d.jsonl")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Anna's 2 cats, e.g. 4:26", ["Anna", "'", "s", "2", "cats", ",", "e", ".", "g", ".", "4", ":", "26"]),
        ("北京is 大", ["北", "京", "is", "大"]),
        ("Cafe\u0301 na\u0131ve", ["Cafe\u0301", "na\u0131ve"]),
        ("\u05e9\u05dc\u05d5\u05dd \u0645\u0631", ["\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631"]),
        ("a😀b\u3000c\n\n", ["a", "😀", "b", "c"]),
        ("", []),
    ],
)  # fmt: skip
def test_texts_are_cut_into_words_numbers_and_signs(text: str, tokens: list[str]) -> None:
    found = tokenize(text)
    assert [token.text for token in found] == tokens
    assert all(text[token.start : token.end] == token.text for token in found)
    assert [t.text for t in tokenize(text, characters=True)] == [c for c in text if not c.isspace()]


def test_spans_of_texts_are_trimmed_and_found_by_their_tokens() -> None:
    found = of_text("Ada Lovelace met Bo", (0, 13, "PER"), (17, 19, "PER"))
    assert found.spans == [[(0, 2, "PER"), (3, 4, "PER")]]
    assert found.trimmed == 1
    assert found.excerpt(0, 0, 2) == "Ada Lovelace"


def test_a_span_within_a_token_is_left_out_or_too_many_are_refused() -> None:
    found = of_text("Lakeside house", (0, 4, "LOC"))
    assert found.spans == [[]]
    assert found.astride == [[Mark(0, 4, "LOC")]]
    with pytest.raises(InputError, match=r"1 of 1 spans .* on line 1: 'Lake' in the token 'Lakeside'; .*--tokens char"):
        check_astride(found)
    many = "Rome " * 200 + "Lakeside"
    marks = [(5 * i, 5 * i + 4, "LOC") for i in range(200)] + [(1000, 1004, "LOC")]
    assert "left out of training" in (check_astride(of_text(many, *marks)) or "")
    assert of_text("Lakeside", (0, 4, "LOC"), characters=True).spans == [[(0, 4, "LOC")]]


def test_which_spans_overlap_and_which_cross() -> None:
    assert overlapping([(0, 2, "A"), (2, 3, "A")]) is None
    assert overlapping([(0, 5, "A"), (1, 2, "A"), (3, 4, "B")]) == ((0, 5, "A"), (1, 2, "A"))
    assert overlapping([(0, 1, "A"), (0, 1, "B")]) is not None
    assert crossing([(0, 5, "A"), (1, 2, "A")]) == 0
    assert crossing([(0, 2, "A"), (1, 3, "A")]) == 1


def test_long_rows_are_cut_after_sentences_and_never_inside_a_span_of_training() -> None:
    tokens = (["w"] * 299 + ["."]) * 3
    assert pieces_of(of_tokens(tokens)) == [Piece(0, 0, 300), Piece(0, 300, 600), Piece(0, 600, 900)]
    spanned = of_tokens(tokens, (290, 310, "X"))
    assert pieces_of(spanned, whole_spans=True) == [Piece(0, 0, 600), Piece(0, 600, 900)]
    assert pieces_of(spanned) == pieces_of(of_tokens(tokens))
    lines = "\n".join(" ".join(["w"] * 99) + " ." for _ in range(6))
    assert pieces_of(of_text(lines)) == [Piece(0, 0, 500), Piece(0, 500, 600)]
    assert pieces_of(of_tokens(["w"] * 1000)) == [Piece(0, 0, 1000)]
    with pytest.raises(InputError, match=r"d\.jsonl, line 1: expected rows of at most 1,024 tokens"):
        pieces_of(of_tokens(["w"] * 1025))
    assert pieces_of(of_tokens([])) == []


def test_an_encoder_cuts_by_what_its_tokenizer_makes_of_tokens() -> None:
    sizes = [np.array([3, 3, 3, 3])]
    assert pieces_of(of_tokens(["a", "b", "c", "d"]), sizes=sizes, most=7) == [Piece(0, 0, 2), Piece(0, 2, 4)]
    assert pieces_of(of_tokens(["a", ".", "c", "d"], (2, 4, "X")), sizes=sizes, most=7, whole_spans=True)[0].last == 2


def test_features_of_words_and_of_characters() -> None:
    rows = [["Rome", "Rome", "是", "x"], ["Rome", "是", "x"]]
    vocabulary = Vocabulary.fit(rows)
    assert (KINDS.index("form"), "rome") in vocabulary.ids
    assert (KINDS.index("right"), "是x") in vocabulary.ids
    ids = vocabulary.transform(["Romes", "是"])
    assert ids.shape == (2, 6)
    # Form and end are seen for the first time: each has the one of its kind; the first letter is known.
    assert ids[0, 0] == KINDS.index("form")
    assert ids[0, 1] == vocabulary.ids[1, "R"]
    assert (ids[1, 4:] == -1).all()
    again = Vocabulary.from_state(vocabulary.state())
    assert again.terms == vocabulary.terms
    with pytest.raises(ValueError, match="kinds of features"):
        Vocabulary.from_state([["form", []]])
    assert shape("McDonald's") == "XxXxxx'x"


def test_the_offset_is_the_best_threshold_nearest_zero() -> None:
    scores = np.array([3.0, 1.0, -0.5, -2.0, -4.0])
    right = np.array([True, True, True, True, False])
    assert f1_at_zero(scores, right, 4) == pytest.approx(2 * 2 / (2 + 4))
    offset = best_offset(scores, right, 4)
    assert offset == pytest.approx(3.0)
    assert f1_at_zero(scores + offset, right, 4) == 1.0
    # Where 0 is as good as any, nothing is added.
    assert best_offset(np.array([2.0, -3.0]), np.array([True, False]), 1) == 0.0
    assert best_offset(np.array([2.0]), np.array([False]), 1) == 0.0
    assert best_offset(np.zeros(0), np.zeros(0, dtype=bool), 0) == 0.0


def test_an_offset_is_near_zero_where_that_is_about_as_good_and_never_beyond_the_candidates() -> None:
    scores, right = np.append(np.linspace(2, 1, 1999), -1.0), np.ones(2000, dtype=bool)
    assert best_offset(scores, right, 2000) == 0.0
    assert best_offset(scores[-11:], right[-11:], 11) == pytest.approx(5.5)
    assert best_offset(np.array([-1.0]), np.array([True]), 1, lowest=-3.0) == 2.0


def test_no_threshold_is_better_than_the_offset() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        scores = random.normal(size=30).round(1) * 3
        right = random.random(30) < 0.4
        gold = int(right.sum()) + 3
        best = max(f1_at_zero(scores - t, right, gold) for t in np.linspace(-9.95, 9.95, 400))
        assert f1_at_zero(scores + best_offset(scores, right, gold), right, gold) >= best - 0.0011


def test_candidates_are_judged_by_row() -> None:
    found = judged([[(0, 1, 0, 2.0), (1, 2, 0, -1.0)], [], [(0, 1, 0, 3.0)]], [{(0, 1, 0)}, {(3, 4, 1)}, set()])
    assert [part.tolist() for part in found] == [[2.0, -1.0, 3.0], [True, False, False], [0, 0, 2], [1, 1, 0]]


def test_the_offset_of_few_rows_is_the_mean_over_drawings_of_them() -> None:
    random = np.random.default_rng(0)
    scores, rows = random.normal(size=60) * 3, random.integers(12, size=60)
    right = random.random(60) < 1 / (1 + np.exp(-scores - 1))
    gold = np.bincount(rows[right], minlength=12) + 1
    draw = np.random.default_rng(0)
    expected = []
    for _ in range(200):
        drawn = draw.integers(12, size=12)
        these = np.concatenate([np.flatnonzero(rows == row) for row in drawn])
        expected.append(best_offset(scores[these], right[these], int(gold[drawn].sum())))
    assert bagged_offset(Candidates(scores, right, rows, gold)) == pytest.approx(np.mean(expected))
    assert np.std(expected) > 0.1


def test_the_offset_of_rows_that_agree_is_the_best_one() -> None:
    scores, right = np.tile([3.0, 1.0, -2.0, -4.0], 50), np.tile([True, True, True, False], 50)
    found = Candidates(scores, right, np.repeat(np.arange(50), 4), np.full(50, 3))
    assert bagged_offset(found) == best_offset(scores, right, 150) == 3.0
    assert bagged_offset(found._replace(right=np.zeros(200, dtype=bool))) == 0.0
    nothing = Candidates(np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64), np.zeros(3, dtype=np.int64))
    assert bagged_offset(nothing) == 0.0


@pytest.mark.parametrize(("end", "advice"), [(2, "--end inclusive"), (1, "--tokens characters")])
def test_spans_that_are_all_astride_are_no_spans_that_are_missing(tmp_path, end, advice):
    line = json.dumps({"text": "Ada met", "spans": [{"start": 0, "end": end, "label": "PER"}]})
    (tmp_path / "d.jsonl").write_text(f"{line}\n" * 20)
    config = make_config(None, [], {"data": str(tmp_path / "d.jsonl"), "task": "spans"})
    with pytest.raises(InputError, match="20 of 20 spans have a border inside of a token") as caught:
        read_spans(config)
    assert advice in str(caught.value)
