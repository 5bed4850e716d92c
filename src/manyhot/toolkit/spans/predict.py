"""A run on spans in use: texts or tokens to spans, and numbers for rows whose spans are known."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from manyhot.metrics_of_spans import span_metrics
from manyhot.spans import Span
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.cells import counted, listed
from manyhot.toolkit.read.formats.marked import Mark, MarkedRow, Reading, check_mark, check_tokens
from manyhot.toolkit.runs.trained_rows import hashes, said_of_known
from manyhot.toolkit.spans.inputs import drop_unlabelled, sentences_for
from manyhot.toolkit.spans.network import Entity, Fact, SpanNetwork
from manyhot.toolkit.spans.pieces import find_spans, gold_of, prepared
from manyhot.toolkit.spans.sentences import Sentences, sentences_of
from manyhot.triples import Triple


class Found(NamedTuple):
    """A predicted span: where it starts and ends, exclusive, in characters of a text or in tokens; label and logit."""

    start: int
    end: int
    label: str
    score: float


class MeasuredTriples(NamedTuple):
    """The triples of rows, predicted and true, and the relations that training did not know."""

    predicted: list[list[Triple]]
    gold: list[list[Fact]]
    unknown: list[str]


class MeasuredSpans(NamedTuple):
    """Numbers, what a reader of them should know, and what they were measured on."""

    metrics: dict[str, float | int | None]
    notes: list[str]
    sentences: Sentences
    predicted: list[list[Span]]
    gold: list[list[Entity]]
    unknown: list[str]
    triples: MeasuredTriples | None = None


class SpanRun:
    """A trained network with its types and how it reads; :func:`manyhot.load_run` makes it.

    Attributes:
        network: tokens to scores, its offset inside.
        label_names: the types of spans.
        train_counts: (types,), training spans of each.
        nested: predictions may overlap.
        characters: every character of a text is a token.
        reading: how files are read.
        drop_unlabelled: rows without spans were left out of training, and are left out when measuring.
        info: what was chosen in training: loss, epochs, offset.
        trained_rows: hashes of the training rows, sorted; None where the run was told to keep none.
    """

    task = "spans"

    def __init__(
        self,
        *,
        network: SpanNetwork,
        label_names: list[str],
        train_counts: np.ndarray,
        nested: bool,
        characters: bool,
        reading: Reading,
        drop_unlabelled: bool,
        info: dict[str, Any],
        trained_rows: np.ndarray | None = None,
    ) -> None:
        self.network = network
        self.label_names = label_names
        self.train_counts = train_counts
        self.nested = nested
        self.characters = characters
        self.reading = reading
        self.drop_unlabelled = drop_unlabelled
        self.info = info
        self.trained_rows = trained_rows

    def predict(self, rows: Sequence[str] | Sequence[Sequence[str]]) -> list[list[Found]]:
        """Return the spans of each new row, best first.

        Args:
            rows: a list of texts, whose spans are counted in characters; or of lists of tokens, counted in tokens.

        Raises:
            InputError: rows of another kind, or one that is too long and has no place to be cut at.
        """
        return self.found(self._sentences(rows, [[] for _ in rows]))

    def evaluate(self, data: Any, spans: Any = None) -> dict[str, float | int | None]:
        """Measure the run on rows whose spans are known: the keys of :func:`manyhot.span_metrics`.

        Args:
            data: the path of a file; or rows as :meth:`predict` takes them.
            spans: of rows, a list of (start, end, label) each, in characters of texts or in tokens.

        Returns:
            Numbers. Types that training did not know count as missed, and a warning names them.
        """
        if isinstance(data, str | Path):
            measured = self.evaluate_file(data)
        else:
            if spans is None or len(spans) != len(data):
                raise InputError("evaluate expects a path, or rows and as many lists of (start, end, label).")
            measured = self.evaluate_sentences(self._sentences(data, spans))
        for note in measured.notes:
            warnings.warn(note, stacklevel=2)
        return measured.metrics

    def evaluate_file(self, path: str | Path) -> MeasuredSpans:
        """Measure the run on a file, read the way the training file was."""
        return self.evaluate_sentences(sentences_for(path, self.reading, characters=self.characters))

    def evaluate_sentences(self, sentences: Sentences) -> MeasuredSpans:
        """Measure the run on rows as read."""
        sentences, notes = self._measurable(sentences)
        return self._measured(sentences, notes, self.spans(sentences))

    def _measurable(self, sentences: Sentences) -> tuple[Sentences, list[str]]:
        """Return the rows that are measured, and what is said of the others."""
        notes = []
        if self.drop_unlabelled:
            sentences, dropped = drop_unlabelled(sentences)
            if dropped:
                notes.append(f"{dropped:,} rows without spans left out, as in training (--drop-unlabelled)")
        if not sentences.rows:
            raise InputError(f"{sentences.source}: expected at least one row with spans to measure on; got none.")
        if self.trained_rows is not None and (note := said_of_known(hashes_of(sentences), self.trained_rows)):
            notes.append(note)
        return sentences, notes

    def _measured(self, sentences: Sentences, notes: list[str], predicted: list[list[Span]]) -> MeasuredSpans:
        metrics, gold, unknown = measure(predicted, sentences, self.label_names, self.train_counts)
        return MeasuredSpans(metrics, [*notes, *notes_on(sentences, unknown)], sentences, predicted, gold, unknown)

    def spans(self, sentences: Sentences) -> list[list[Span]]:
        """Return the spans of rows as read, in tokens, best first."""
        return find_spans(self.network, prepared(self.network, sentences), sentences.rows, flat=not self.nested)

    def found(self, sentences: Sentences) -> list[list[Found]]:
        """Return the spans of rows as read: in characters where a row is a text, with their labels."""
        return self.named(sentences, self.spans(sentences))

    def named(self, sentences: Sentences, found: Sequence[Sequence[Span]]) -> list[list[Found]]:
        """Return spans of rows in characters where a row is a text, with their labels."""
        rows = []
        for spans, offsets in zip(found, sentences.offsets, strict=True):
            places = [(s, e) if offsets is None else (offsets[s][0], offsets[e - 1][1]) for s, e, *_ in spans]
            rows.append(
                [Found(a, b, self.label_names[s.type], s.score) for (a, b), s in zip(places, spans, strict=True)]
            )
        return rows

    def _sentences(self, rows: Any, spans: Sequence[Any]) -> Sentences:
        wrong = "expected rows: a list of texts, such as [text], or of lists of tokens; got"
        if isinstance(rows, str) or not isinstance(rows, list | tuple):
            raise InputError(f"{wrong} {'one text' if isinstance(rows, str) else type(rows).__name__}.")
        marked = []
        for number, (row, marks) in enumerate(zip(rows, spans, strict=True), 1):
            place = f"row {number}"
            if isinstance(row, str):
                tokens, text = None, row
            elif isinstance(row, list | tuple):
                check_tokens(place, row)
                tokens, text = list(row), None
            else:
                raise InputError(f"{wrong} {type(row).__name__} as row {number}.")
            form = "tokens" if text is None else "text"
            given: list[Mark] = [check_mark(place, a, b, kind, len(row), form=form) for a, b, kind, *_ in marks]
            marked.append(MarkedRow(place, tokens, text, given))
        return sentences_of(marked, "the data", characters=self.characters)


def hashes_of(sentences: Sentences) -> np.ndarray:
    """Return a hash of the text, or the tokens, of each row."""
    texts = [
        text if text is not None else "\x1f".join(tokens)
        for text, tokens in zip(sentences.texts, sentences.tokens, strict=True)
    ]
    return hashes(text.encode("utf-8", "surrogatepass") for text in texts)


def measure(
    predicted: Sequence[Sequence[Sequence[Any]]], sentences: Sentences, types: list[str], train_counts: np.ndarray
) -> tuple[dict[str, float | int | None], list[list[Entity]], list[str]]:
    """Return the metrics of predictions, the gold spans by ids, and the types that training did not know.

    The keys are those of :func:`manyhot.span_metrics`, `types` being those of training.
    """
    gold, unknown = gold_of(sentences, types)
    counts = np.concatenate([train_counts, np.zeros(len(unknown))])
    metrics = span_metrics(predicted, gold, num_types=len(counts), train_counts=counts)
    return metrics | {"types": len(types)}, gold, unknown


def notes_on(sentences: Sentences, unknown: list[str]) -> list[str]:
    """Say what no prediction can find, and counts as missed."""
    notes = []
    if unknown:
        number = sum(kind in unknown for row in sentences.spans for *_, kind in row)
        notes.append(
            f"{counted(len(unknown), 'type')} of this file {'is' if len(unknown) == 1 else 'are'} unknown to the run, "
            f"with {counted(number, 'span')}: {listed(unknown)}. They count as missed, with an F1 of 0 in macro-F1."
        )
    if astride := sum(map(len, sentences.astride)):
        have = "has" if astride == 1 else "have"
        notes.append(f"{counted(astride, 'span')} {have} a border inside of a token; counted as missed")
    return notes
