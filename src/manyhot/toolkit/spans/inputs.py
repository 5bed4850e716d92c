"""Every file of a run on spans, read before any work is done: what to learn from, what to measure on, what is said."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from manyhot.toolkit import errors
from manyhot.toolkit.config import Config
from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.cells import close_matches, counted, listed, seldom_seen
from manyhot.toolkit.read.data import read_label_names
from manyhot.toolkit.read.formats.marked import MarkedRow, Reading
from manyhot.toolkit.read.inputs import PART_OF_CELL
from manyhot.toolkit.read.spans import MarkedFile, read_marked
from manyhot.toolkit.spans.sentences import (
    Sentences,
    check_astride,
    crossing,
    overlapping,
    sentences_of,
    type_counts,
)

# Rows with spans of which more than this share have two that overlap are taken for nested.
NESTED_SHARE = 0.005
NAMED = 20


@dataclass(frozen=True)
class SpanTraining:
    """What was read: the rows to learn from and the rows to measure on.

    Attributes:
        types: the types of spans in training, sorted.
        counts: (types,), training spans of each.
        nested: predictions may overlap.
        characters: every character of a text is a token.
        reading: how the files were read.
        rows: of each file, before any is dropped.
        said: what a reader should know.
        warnings: what may be wrong.
        relations: the types of relations in training, sorted; none where spans alone are learned.
        relation_counts: (relations,), training triples of each.
    """

    train: Sentences
    valid: Sentences | None
    test: Sentences | None
    types: list[str]
    counts: np.ndarray
    nested: bool
    characters: bool
    reading: Reading
    rows: dict[str, int]
    said: list[str]
    warnings: list[str]
    relations: list[str]
    relation_counts: np.ndarray

    @property
    def max_width(self) -> int:
        """The widest span that is looked for, in tokens: twice the widest of training."""
        return 2 * max(end - start for row in self.train.spans for start, end, _ in row)


def read_spans(config: Config) -> SpanTraining:
    """Read every file of a run.

    Raises:
        InputError: bad input, in a sentence that names file, row and span.
    """
    with errors.reading(config.data):
        return _read_spans(config)


def _read_spans(config: Config) -> SpanTraining:
    names = read_label_names(config.label_names) if config.label_names else None
    linked = config.task == "relations"
    reading = Reading(config.end, config.format == "columns", config.tags, names, linked)
    file = read_marked(config.data, reading)
    said = list(file.said)
    characters = config.tokens == "characters" or of_characters(file)
    if characters and config.tokens != "characters":
        said.append("tokens are single characters: a text to predict is cut so too")
    train = sentences_of(file.rows, file.source, characters=characters)
    rows = {config.data: train.rows}
    if config.group is not None:
        groups = np.unique(_cells(file, config.group, "a group"), return_inverse=True)[1]
        said.append(f"groups: {config.group} ({counted(int(groups.max()) + 1, 'group')}), each held out as a whole")
        train = replace(train, groups=groups)
    parts: dict[str, Sentences] = {}
    if config.split_column is not None:
        train, parts = _split(train, file, config.split_column)
        shares = [f"{part.rows:,} {name}" for name, part in {"train": train, **parts}.items()]
        said.append(f"rows by {config.split_column}: {', '.join(shares)}")
    else:
        for part, path in (("valid", config.valid), ("test", config.test)):
            if path is not None:
                parts[part] = sentences_for(path, reading, characters=characters)
                rows[path] = parts[part].rows
    dropped = 0
    if config.drop_unlabelled:
        train, dropped = drop_unlabelled(train)
        for part, given in parts.items():
            kept, _ = drop_unlabelled(given)
            if not kept.rows:
                raise InputError(f"{given.source}: expected rows with spans, got none; name another --{part} file")
            # The test file is cut, and the count said, where it is measured.
            parts[part] = kept if part == "valid" else given
    warnings = [sentence for sentence in (check_astride(train),) if sentence]
    if not any(train.spans):
        raise InputError(
            f"{train.source}: expected rows with spans, got {counted(train.rows, 'row')} without any; check that this "
            "is the file you meant"
        )
    if train.rows < 2:
        raise InputError(f"{train.source}: expected two rows or more to learn from, got one; add rows")
    if train.groups is not None and np.unique(train.groups).size < 2:
        raise InputError(f"{train.source}: expected two groups or more, got one; leave --group out, or name another")
    counts = type_counts(train.taken(np.arange(train.rows)))
    types = sorted({kind for row in train.spans for _, _, kind in row})
    relations = Counter(kind for row in train.relations for _, kind, _ in row)
    if linked and not relations:
        raise InputError(
            f"{train.source}: expected rows with relations, got {counted(train.rows, 'row')} without any; add them "
            'under "relations", or learn the spans alone: --task spans'
        )
    nested, why = _nested(train, config.nested)
    if train.trimmed:
        said.append(f"white space at the ends of {counted(train.trimmed, 'span')} left out")
    said += [describe(train, len(types), dropped), _types(counts), why]
    if linked:
        said.append(describe_relations(train, relations))
    if crossed := sum(map(crossing, train.spans)):
        warnings.append(
            f"{crossed:,} pairs of spans cross, neither inside of the other; "
            + ("predictions may cross too" if nested else "of two that cross, the better is predicted")
        )
    if once := [kind for kind in types if counts[kind] == 1]:
        warnings.append(
            f"{counted(len(once), 'type')} with one training span: {listed(once, NAMED)}. They can hardly be learned, "
            "and count in macro-F1."
        )
    return SpanTraining(
        train,
        parts.get("valid"),
        parts.get("test"),
        types,
        np.array([sum(t == kind for row in train.spans for _, _, t in row) for kind in types]),
        nested,
        characters,
        reading,
        rows,
        said,
        warnings,
        sorted(relations),
        np.array([relations[kind] for kind in sorted(relations)]),
    )


def sentences_for(path: str | Path, reading: Reading, *, characters: bool) -> Sentences:
    """Read a file to measure on, the way the training file was read."""
    file = read_marked(path, reading)
    return sentences_of(file.rows, file.source, characters=characters)


def of_characters(file: MarkedFile) -> bool:
    """Say whether the tokens of a file are characters, so that texts are to be cut so too."""
    if file.form == "text":
        return False
    lengths = [len(token) for row in file.rows for token in row.tokens or ()]
    return bool(lengths) and sum(length == 1 for length in lengths) > 0.99 * len(lengths)


def drop_unlabelled(sentences: Sentences) -> tuple[Sentences, int]:
    """Leave out rows without spans, and count them."""
    kept = [i for i in range(sentences.rows) if sentences.spans[i] or sentences.astride[i]]
    return sentences.taken(kept), sentences.rows - len(kept)


def targets_of(sentences: Sentences, types: list[str]) -> sp.csr_array:
    """Return which types each row has spans of, (rows, types) bool: what a split stratifies by."""
    column = {kind: i for i, kind in enumerate(types)}
    cells = {(i, column[t]) for i, row in enumerate(sentences.spans) for _, _, t in row if t in column}
    row, label = (np.array([cell[i] for cell in sorted(cells)], dtype=np.int64) for i in (0, 1))
    return sp.csr_array((np.ones(len(row), dtype=bool), (row, label)), shape=(sentences.rows, len(types)))


def describe(sentences: Sentences, types: int, dropped: int) -> str:
    """Write the first line about the data."""
    lengths = np.array([len(tokens) for tokens in sentences.tokens])
    number = sentences.count
    empty = sum(not spans for spans in sentences.spans)
    without = f"{dropped:,} rows without spans dropped" if dropped else f"{empty:,} rows without spans"
    return (
        f"{sentences.rows:,} rows, {lengths.mean():.1f} tokens a row ({lengths.min()} to {lengths.max():,}), "
        f"{number:,} spans of {counted(types, 'type')}, {number / sentences.rows:.2f} spans a row, {without}"
    )


def describe_relations(sentences: Sentences, counts: Counter[str]) -> str:
    """Write the line about relations: how many, of which types, and how many overlap."""
    pairs = singles = 0
    for row in sentences.relations:
        of_pair = Counter(frozenset((head, tail)) for head, _, tail in row)
        of_entity = Counter(span for head, _, tail in row for span in {head, tail})
        double = [of_pair[frozenset((head, tail))] > 1 for head, _, tail in row]
        pairs += sum(double)
        singles += sum(
            max(of_entity[head], of_entity[tail]) > 1
            for (head, _, tail), other in zip(row, double, strict=True)
            if not other
        )
    named = listed([f"{kind} ({counts[kind]:,})" for kind in sorted(counts, key=lambda k: (-counts[k], k))], NAMED)
    rare = seldom_seen(counts, "relation", "relations")
    rare = f"; {rare}" if rare else ""
    return (
        f"relations: {named}{rare}; {counts.total() / sentences.rows:.2f} a row; {pairs:,} share both entities with "
        f"another, {singles:,} one"
    )


def _types(counts: dict[str, int]) -> str:
    frequent = sorted(counts, key=lambda kind: (-counts[kind], kind))
    named = listed([f"{kind} ({counts[kind]:,})" for kind in frequent], NAMED)
    rare = seldom_seen(counts, "type", "types")
    return f"types: {named}" + (f"; {rare}" if rare else "")


def _nested(sentences: Sentences, asked: str) -> tuple[bool, str]:
    """Decide whether predictions may overlap, and say why."""
    pairs = {i: pair for i, row in enumerate(sentences.spans) if (pair := overlapping(row)) is not None}
    if asked == "no":
        for row, (first, second) in pairs.items():
            raise InputError(
                f"{sentences.source}, {sentences.names[row]}: expected spans that do not overlap with --nested no, got "
                f"{first} and {second}; leave one out, or type --nested yes"
            )
        return False, "spans do not overlap, as asked for: of two predictions that do, the better is kept"
    labelled = sum(bool(spans) for spans in sentences.spans)
    share = f"{len(pairs):,} of {labelled:,} rows with spans have two that overlap"
    if asked == "yes":
        return True, f"spans may overlap, as asked for ({share})"
    nested = len(pairs) > NESTED_SHARE * labelled
    end = "predictions may overlap" if nested else "of two predictions that overlap, the better is kept"
    return nested, f"{'nested' if nested else 'flat'}: {share}; {end}"


def _cells(file: MarkedFile, name: str, what: str) -> list[str]:
    """Return what a key says of each row, as text."""
    cells = []
    for row in file.rows:
        value = row.record.get(name)
        if isinstance(value, dict | list) or value is None or value == "":
            raise InputError(
                f"{file.source}, {row.place}: expected {what} under {shown(name)}, got "
                f"{'nothing' if value is None else shown(value)}{close_matches(name, list(row.record))}; the row has "
                f"{listed(list(row.record)) or 'tokens and tags alone'}"
            )
        cells.append(str(value))
    return cells


def _split(sentences: Sentences, file: MarkedFile, name: str) -> tuple[Sentences, dict[str, Sentences]]:
    """Deal the rows out by what a key says of each."""
    cells = _cells(file, name, "train, valid or test")
    said = [PART_OF_CELL.get(cell.lower()) for cell in cells]
    if None in said:
        row: MarkedRow = file.rows[said.index(None)]
        raise InputError(
            f"{file.source}, {row.place}: expected train, valid or test under {shown(name)}, got "
            f"{shown(cells[said.index(None)])}; correct it, or name another --split-column"
        )
    parts = {
        part: sentences.taken([i for i, other in enumerate(said) if other == part])
        for part in ("train", "valid", "test")
    }
    train = parts.pop("train")
    if not train.rows:
        raise InputError(f"{file.source}, {shown(name)}: expected rows of train, got none; name another --split-column")
    return train, {part: rows for part, rows in parts.items() if rows.rows}
