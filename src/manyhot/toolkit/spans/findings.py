"""What a report says of a run on spans, as plain data: computed at the end of training, while the rows are at hand."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from manyhot.labels import label_groups
from manyhot.metrics_of_spans import SpanError, span_errors
from manyhot.spans import Span
from manyhot.toolkit.report.findings import CONTROLS, NAMED, WORST
from manyhot.toolkit.report.overview import binned
from manyhot.toolkit.spans.inputs import SpanTraining
from manyhot.toolkit.spans.network import Entity, Fact
from manyhot.toolkit.spans.predict import MeasuredTriples
from manyhot.toolkit.spans.sentences import Sentences

FORMAT = 2
# Errors that are shown, told apart by type and border.
PAIRS = 30
# Tokens of a row that are shown, around what is wrong in it.
SHOWN = 80
# Upper ends of the classes of widths and of lengths; the last is open.
WIDTHS = ((1, "1"), (2, "2"), (4, "3-4"), (8, "5-8"), (None, "9+"))
LENGTHS = ((10, "1-10"), (20, "11-20"), (40, "21-40"), (80, "41-80"), (None, "81+"))


@dataclass(frozen=True)
class Judged:
    """The rows that a report is about, and what the run says of them.

    Attributes:
        part: "test", "valid", "held_out", or "train" where rows were too few to hold any out.
        sentences: the rows.
        predicted: the spans predicted for each.
        gold: the true ones, by ids.
        unknown: the types that training did not know; their ids follow those of training.
        triples: of a run on relations, those predicted and those true.
    """

    part: str
    sentences: Sentences
    predicted: Sequence[Sequence[Span]]
    gold: Sequence[Sequence[Entity]]
    unknown: list[str]
    triples: MeasuredTriples | None = None


class Counts(NamedTuple):
    """Spans that are predicted, true, and both."""

    predicted: int
    true: int
    right: int

    @property
    def f1(self) -> float | None:
        """Return the F1; None where nothing is true."""
        return 2 * self.right / (self.predicted + self.true) if self.true else None


def find(judged: Judged, training: SpanTraining, *, with_rows: bool = True) -> dict[str, Any]:
    """Find what a report says of a run's types, errors, rows and data; JSON-able.

    Args:
        judged: the rows it was measured on.
        training: what was learned from, for counts and warnings.
        with_rows: False leaves out everything of single rows.
    """
    names = [*training.types, *judged.unknown]
    counts = np.concatenate([training.counts, np.zeros(len(judged.unknown))])
    errors = span_errors(judged.predicted, judged.gold)
    types = of_types(judged, names, counts)
    return {
        "format": FORMAT,
        "measured": {"part": judged.part, "file": judged.sentences.source, "rows": judged.sentences.rows},
        "overview": overview_of(training.train),
        "types": types,
        "errors": {"kinds": Counter(error.kind for error in errors), "pairs": pairs(errors, names)},
        "widths": _by_width(judged),
        "lengths": _by_length(judged),
        "worst": worst_rows(judged, errors, names, training.relations) if with_rows else None,
        "warnings": warnings_of(judged, training, types),
        **({"relations": of_relations(judged.triples, training)} if judged.triples is not None else {}),
    }


def overview_of(train: Sentences) -> dict[str, Any]:
    """Count spans a row and the tokens of rows, of what was learned from."""
    return {
        "sizes": np.bincount([len(row) for row in train.spans]).tolist(),
        "lengths": binned([len(tokens) for tokens in train.tokens], "tokens"),
    }


def of_types(judged: Judged, names: list[str], train_counts: np.ndarray) -> list[dict[str, Any]]:
    """Count and measure each type: spans in training and here, predictions, hits, precision, recall and F1."""
    kinds = [[kind for row in rows for *_, kind in row] for rows in _sets(judged)]
    return by_kind(kinds, names, train_counts, "spans")


def of_relations(triples: MeasuredTriples, training: SpanTraining) -> list[dict[str, Any]]:
    """Count and measure each relation, as :func:`of_types` does types."""
    names = [*training.relations, *triples.unknown]
    counts = np.concatenate([training.relation_counts, np.zeros(len(triples.unknown))])
    return by_kind([[r for row in rows for _, r, _ in row] for rows in fact_sets(triples)], names, counts, "triples")


def fact_sets(triples: MeasuredTriples) -> tuple[list[set[Fact]], list[set[Fact]], list[set[Fact]]]:
    """Return the triples that are predicted in each row, those that are true, and those that are both."""
    predicted = [{(t.subject[:3], t.relation, t.object[:3]) for t in row} for row in triples.predicted]
    true = [set(row) for row in triples.gold]
    return predicted, true, [p & t for p, t in zip(predicted, true, strict=True)]


def by_kind(
    kinds: Sequence[Sequence[int]], names: list[str], train_counts: np.ndarray, things: str
) -> list[dict[str, Any]]:
    """Count and measure each kind, from the kinds of what is predicted, true, and both."""
    predicted, true, right = (np.bincount(part, minlength=len(names)) for part in kinds)
    group = np.full(len(names), "unseen", dtype=object)
    for name, members in label_groups(train_counts).items():
        group[members] = name
    return [
        {
            "name": name,
            f"train_{things}": int(train_counts[i]),
            things: int(true[i]),
            "predicted": int(predicted[i]),
            "right": int(right[i]),
            "precision": float(right[i] / predicted[i]) if predicted[i] else None,
            "recall": float(right[i] / true[i]) if true[i] else None,
            "f1": float(2 * right[i] / (predicted[i] + true[i])) if true[i] else None,
            "group": group[i],
        }
        for i, name in enumerate(names)
    ]


def _sets(judged: Judged) -> tuple[list[set[Entity]], list[set[Entity]], list[set[Entity]]]:
    """Return what is predicted in each row, what is true, and what is both."""
    predicted = [{(int(a), int(b), int(t)) for a, b, t, *_ in row} for row in judged.predicted]
    true = [set(row) for row in judged.gold]
    return predicted, true, [p & t for p, t in zip(predicted, true, strict=True)]


def pairs(errors: Sequence[SpanError], names: list[str]) -> list[dict[str, Any]]:
    """Count errors by true and predicted type and how far the borders are off; the most frequent first."""
    found: Counter[tuple[str | None, str | None, int, int]] = Counter()
    for _, kind, gold, pred in errors:
        if kind == "right":
            continue
        if gold is None or pred is None:
            one = gold or pred
            assert one is not None
            found[None if gold is None else names[one[2]], None if pred is None else names[one[2]], 0, 0] += 1
        else:
            found[names[gold[2]], names[pred[2]], pred[0] - gold[0], pred[1] - gold[1]] += 1
    order = sorted(found, key=lambda key: (-found[key], str(key)))[:PAIRS]
    return [
        {"true": true, "predicted": predicted, "start": start, "end": end, "spans": found[true, predicted, start, end]}
        for true, predicted, start, end in order
    ]


def _by_width(judged: Judged) -> list[dict[str, Any]]:
    """Measure spans of like width; those with a border inside of a token have none."""
    sets = [[[b - a for a, b, _ in row if a >= 0] for row in rows] for rows in _sets(judged)]
    return _classes([[width for row in rows for width in row] for rows in sets], WIDTHS)


def _by_length(judged: Judged) -> list[dict[str, Any]]:
    """Measure the spans of rows of like length."""
    lengths = [len(tokens) for tokens in judged.sentences.tokens]
    return _classes([[n for n, row in zip(lengths, rows, strict=True) for _ in row] for rows in _sets(judged)], LENGTHS)


def _classes(values: Sequence[list[int]], classes: Sequence[tuple[int | None, str]]) -> list[dict[str, Any]]:
    rows = []
    low = 0
    for high, name in classes:
        counts = Counts(*(sum(low < v and (high is None or v <= high) for v in part) for part in values))
        rows.append({"name": name, **counts._asdict(), "f1": counts.f1})
        low = high or low
    return rows


def worst_rows(
    judged: Judged, errors: Sequence[SpanError], names: list[str], relations: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Show the rows in which most is wrong, with the spans that are true and those that are predicted."""
    wrong = np.zeros(judged.sentences.rows, dtype=np.int64)
    for error in errors:
        wrong[error.row] += error.kind != "right"
    facts = None if judged.triples is None else fact_sets(judged.triples)
    if facts is not None:
        wrong += np.array([len(p ^ t) for p, t in zip(facts[0], facts[1], strict=True)])
    order = [int(row) for row in np.lexsort((np.arange(len(wrong)), -wrong))[:WORST] if wrong[row]]
    of_row: dict[int, list[SpanError]] = {row: [] for row in order}
    for error in errors:
        if error.row in of_row:
            of_row[error.row].append(error)
    rows = [shown_row(judged, row, of_row[row], names) for row in order]
    if facts is None or judged.triples is None:
        return rows
    of_ids = [*relations, *judged.triples.unknown]
    return [
        shown | {"arrows": arrows_of(judged, row, facts[0][row], facts[1][row], names, of_ids)}
        for row, shown in zip(order, rows, strict=True)
    ]


def arrows_of(
    judged: Judged, row: int, predicted: set[Fact], true: set[Fact], names: list[str], relations: list[str]
) -> dict[str, Any]:
    """Return the entities of a row's triples in the order of the text, and the arrows between them.

    An arrow is "right", "missed" or "added", as a span is.
    """
    entities = sorted({end for s, _, o in predicted | true for end in (s, o)})
    place = {entity: i for i, entity in enumerate(entities)}
    arrows = [
        {
            "from": place[fact[0]],
            "to": place[fact[2]],
            "type": relations[fact[1]],
            "kind": "right" if fact in predicted and fact in true else "missed" if fact in true else "added",
        }
        for fact in sorted(predicted | true)
    ]
    texts = [
        CONTROLS.sub("\ufffd", judged.sentences.excerpt(row, start, end)) if start >= 0 else ""
        for start, end, _ in entities
    ]
    shown = [{"text": text, "type": names[kind]} for text, (*_, kind) in zip(texts, entities, strict=True)]
    return {"entities": shown, "arrows": arrows}


def shown_row(judged: Judged, row: int, errors: Sequence[SpanError], names: list[str]) -> dict[str, Any]:
    """Return the text of a row around its errors, and its spans by characters of that text.

    A span is "right", "missed" (true, and not predicted) or "added" (predicted, and not true). Where borders or type
    alone are wrong, both are there.
    """
    sentences = judged.sentences
    marks: list[tuple[int, int, str, str]] = []
    for _, kind, gold, pred in errors:
        if kind == "right" and gold is not None:
            marks.append((*gold[:2], names[gold[2]], "right"))
            continue
        marks += [(*span[:2], names[span[2]], said) for span, said in ((gold, "missed"), (pred, "added")) if span]
    inside = [mark for mark in marks if mark[0] >= 0]
    size = len(sentences.tokens[row])
    first, last = _window([mark for mark in inside if mark[3] != "right"] or inside, size)
    text, places = _text_of(sentences, row, first, last)
    return {
        "row": int(sentences.places[row]) + 1,
        "text": text,
        "cut": [first > 0, last < size],
        "spans": [
            {"start": places[a - first][0], "end": places[b - first - 1][1], "type": name, "kind": kind}
            for a, b, name, kind in sorted(inside)
            if first <= a and b <= last
        ],
        # With borders inside of tokens, for which no prediction can be right.
        "astride": [name for a, _, name, _ in marks if a < 0],
    }


def _window(marks: Sequence[tuple[int, int, str, str]], size: int) -> tuple[int, int]:
    """Choose the tokens that are shown: those around the first errors."""
    if size <= SHOWN or not marks:
        return 0, min(size, SHOWN)
    first = min(mark[0] for mark in marks)
    last = (
        max(mark[1] for mark in marks if mark[1] <= first + SHOWN)
        if any(mark[1] <= first + SHOWN for mark in marks)
        else first + SHOWN
    )
    before = (SHOWN - (last - first)) // 2
    first = max(min(first - before, size - SHOWN), 0)
    return first, min(first + SHOWN, size)


def _text_of(sentences: Sentences, row: int, first: int, last: int) -> tuple[str, list[tuple[int, int]]]:
    """Return some tokens as one text without control characters, and where each token stands in it."""
    tokens = sentences.tokens[row][first:last]
    text, offsets = sentences.texts[row], sentences.offsets[row]
    parts: list[str] = []
    places: list[tuple[int, int]] = []
    at = 0
    for i, token in enumerate(tokens):
        if i and text is not None and offsets is not None:
            gap = text[offsets[first + i - 1][1] : offsets[first + i][0]]
            between = " " if gap else ""
        else:
            between = " " if i and not (len(token) == len(tokens[i - 1]) == 1) else ""
        clean = CONTROLS.sub("\ufffd", token)
        parts += [between, clean]
        at += len(between)
        places.append((at, at + len(clean)))
        at += len(clean)
    return "".join(parts), places


def warnings_of(judged: Judged, training: SpanTraining, types: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say what a reader should know of the data before trusting a number, each with the types it is of."""
    found: list[dict[str, Any]] = []

    def warn(text: str, of: Sequence[str] = ()) -> None:
        found.append({"text": text, "labels": list(of[:NAMED]), "more": max(len(of) - NAMED, 0)})

    few = [row["name"] for row in types if row["group"] == "rare"]
    absent = [row["name"] for row in types if not row["spans"]]
    silent = [row["name"] for row in types if row["spans"] and not row["predicted"]]
    if judged.part == "train":
        warn("There were too few rows to hold any out: all numbers are of the rows that were learned, and too good.")
    if few:
        warn(f"{_types(few)} fewer than 9 training spans. The numbers of one of them alone say little.", few)
    if absent:
        verb = "is" if len(absent) == 1 else "are"
        warn(f"{_types(absent)} no span among the rows measured on, and {verb} left out of macro-F1.", absent)
    if silent:
        verb = "is" if len(silent) == 1 else "are"
        warn(f"{_types(silent)} spans among the rows measured on, and {verb} never predicted.", silent)
    if judged.unknown:
        warn(
            f"{judged.sentences.source} has {len(judged.unknown):,} types that the training rows do not have; their "
            "spans count as missed.",
            judged.unknown,
        )
    for sentence in training.warnings:
        warn(sentence[0].upper() + sentence[1:].rstrip(".") + ".")
    _warn_of_rows(judged, training.train, warn)
    return found


def _types(names: Sequence[str]) -> str:
    return "1 type has" if len(names) == 1 else f"{len(names):,} types have"


def _warn_of_rows(judged: Judged, train: Sentences, warn: Any) -> None:
    first: dict[tuple[str, ...], int] = {}
    repeated = contradicting = 0
    for row, tokens in enumerate(train.tokens):
        seen = first.setdefault(tuple(tokens), row)
        if seen != row:
            repeated += 1
            contradicting += train.spans[seen] != train.spans[row]
    if repeated:
        other = f", {contradicting:,} of them with other spans" if contradicting else ""
        held = judged.part == "held_out"
        tail = (
            " A held-out row may have its like among the rows fitted on, so that numbers are too good." if held else ""
        )
        warn(f"{repeated:,} {'row repeats' if repeated == 1 else 'rows repeat'} an earlier training row{other}.{tail}")
    if judged.part in ("test", "valid"):
        both = sum(tuple(tokens) in first for tokens in judged.sentences.tokens)
        if both:
            warn(
                f"{both:,} {'row is' if both == 1 else 'rows are'} in {judged.sentences.source} and among the training "
                f"rows alike ({100 * both / judged.sentences.rows:.1f} % of those measured on): the numbers are too "
                "good for new rows."
            )
