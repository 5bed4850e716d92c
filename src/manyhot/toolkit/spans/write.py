"""Spans of a file's rows, written as a file, block by block: all of them or nothing."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from manyhot.toolkit.disk.run_folder import check_output, whole_file
from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.models.blocks import BLOCK
from manyhot.toolkit.read.cells import close_matches, listed
from manyhot.toolkit.read.formats.marked import Mark
from manyhot.toolkit.read.formats.tagged import written_in_columns
from manyhot.toolkit.read.spans import read_blocks
from manyhot.toolkit.runs.predictions import WRITERS as TABLE_WRITERS
from manyhot.toolkit.runs.predictions import Progress, free_names, writer_for
from manyhot.toolkit.spans.predict import SpanRun
from manyhot.toolkit.spans.relation_run import FoundTriples, RelationRun
from manyhot.toolkit.spans.relation_write import LINE as RELATION_LINE
from manyhot.toolkit.spans.relation_write import as_lines, as_object
from manyhot.toolkit.spans.sentences import Sentences, sentences_of

OUTPUTS = (".jsonl", ".csv", ".parquet", ".conll")
# What is written of each span where a line is a span.
LINE = pl.Schema(
    {"row": pl.Int64, "start": pl.Int64, "end": pl.Int64, "label": pl.String, "score": pl.Float64, "text": pl.String}
)
# What a line of a table holds, for each task.
COLUMNS = {"spans": LINE, "relations": RELATION_LINE}
# What is found in a row: its spans, or its entities and relations.
OfRow = Any
# Takes rows of a block: the number of the first, the rows, what was found, and what is kept of their records.
Write = Callable[[int, Sentences, list[OfRow], list[dict[str, Any]]], None]


def write_spans(
    path: Path,
    run: SpanRun,
    data: str | Path,
    *,
    keep: Sequence[str] | None = (),
    safe_csv: bool = False,
    progress: Progress = lambda rows, share: None,
) -> int:
    """Write the spans of each row of a data file, best first, with scores (logits); all or nothing.

    Args:
        path: the file to write. A .jsonl file repeats what the rows are: texts with spans by characters, or tokens with
            entities and their scores. A .csv or .parquet file has a line a span. A .conll file has tokens with IOB2
            tags, of runs whose spans do not overlap. Of relations a line is a relation, and columns have no place for
            them.
        run: what predicts.
        data: the file to read; a .txt file has a row a line.
        keep: names of what rows say beside, to write too; None for all.
        safe_csv: in a .csv file, write ' before text that a spreadsheet would take for a formula.
        progress: told with each block how many rows are written.

    Returns:
        The number of rows.

    Raises:
        InputError: an output that cannot be written, or bad input.
        OSError: the disk is full or refuses.
    """
    check_output(path, OUTPUTS, data)
    if path.suffix == ".conll" and isinstance(run, RelationRun):
        raise InputError(
            f"{path}: expected a run on spans, as columns have no place for relations; write .jsonl, .csv or .parquet"
        )
    if path.suffix == ".conll" and run.nested:
        raise InputError(
            f"{path}: expected a run whose spans do not overlap, as a token has one tag in columns, got one trained "
            "with nested spans; write .jsonl, .csv or .parquet"
        )
    if path.suffix == ".conll" and (keep is None or keep):
        raise InputError(f"{path}: expected no --keep with .conll, which has columns of tokens and tags alone")
    writer = writer_for(path, WRITERS, safe_csv=safe_csv)
    rows = 0
    with whole_file(path) as file, writer(file) as write:
        for block, share in read_blocks(data, run.reading, BLOCK):
            sentences = sentences_of(block, Path(data).name, characters=run.characters)
            records = [_kept(row.record, keep, f"{Path(data).name}, {row.place}") for row in block]
            found = run.found_triples(sentences) if isinstance(run, RelationRun) else run.found(sentences)
            write(rows, sentences, found, records)
            rows += sentences.rows
            progress(rows, share)
    return rows


# What a row has as input or as prediction; the rest of it can be kept.
OWN = ("tokens", "text", "spans", "entities", "scores", "relations", "relation_scores")


def _kept(record: dict[str, Any], keep: Sequence[str] | None, where: str) -> dict[str, Any]:
    """Take what is kept of a row."""
    if keep is None:
        names = [name for name in record if name not in ("tokens", "text")]
    else:
        names = list(keep)
        for name in names:
            if name not in record:
                raise InputError(
                    f"{where}: expected {shown(name)} to keep, got a row without it{close_matches(name, list(record))};"
                    f" it has {listed(list(record)) or 'nothing'}"
                )
    return {name: record[name] for name in names}


@contextmanager
def _json_lines(file: BinaryIO) -> Iterator[Write]:
    """Write an object a line, in the form of the input."""

    def write(first: int, sentences: Sentences, found: list[OfRow], records: list[dict[str, Any]]) -> None:
        for i, (spans, kept) in enumerate(zip(found, records, strict=True)):
            said: dict[str, Any]
            text = sentences.texts[i]
            if isinstance(spans, FoundTriples):
                said = as_object(sentences, i, spans)
            elif text is None:
                scores = [round(span.score, 4) for span in spans]
                said = {"tokens": sentences.tokens[i], "entities": [list(s[:3]) for s in spans], "scores": scores}
            else:
                said = {"text": text, "spans": [span._asdict() | {"score": round(span.score, 4)} for span in spans]}
            beside = {name: kept[own] for own, name in free_names(kept, OWN).items()}
            file.write(json.dumps(beside | said, ensure_ascii=False).encode() + b"\n")

    yield write


@contextmanager
def _csv(file: BinaryIO, *, safe: bool = False) -> Iterator[Write]:
    """Write a line a span, its row counted from 1."""
    with TABLE_WRITERS[".csv"](file, safe=safe) as append:
        yield _of_table(append)


@contextmanager
def _parquet(file: BinaryIO) -> Iterator[Write]:
    """Write a line a span, its row counted from 1."""
    with TABLE_WRITERS[".parquet"](file) as append:
        yield _of_table(append)


def _of_table(append: Callable[[pl.DataFrame], None]) -> Write:
    """Return what writes blocks whose columns are those of the first row."""
    names: dict[str, str] | None = None

    def write(first: int, sentences: Sentences, found: list[OfRow], records: list[dict[str, Any]]) -> None:
        nonlocal names
        if names is None:
            names = free_names(records[0], {*OWN, *(RELATION_LINE if isinstance(found[0], FoundTriples) else LINE)})
        for i, kept in enumerate(records):
            if other := next((name for name in kept if name not in names), None):
                raise InputError(
                    f"{sentences.source}, {sentences.names[i]}: expected what the first row has, with --keep all and "
                    f"columns, got {shown(other)} too; name what to keep, or write .jsonl"
                )
        append(_lines(first, sentences, found, records, names))

    return write


def _lines(
    first: int, sentences: Sentences, found: list[OfRow], records: list[dict[str, Any]], names: dict[str, str]
) -> pl.DataFrame:
    """Return a line a span or a relation, with texts, or tokens and spaces between; what is kept of rows is text."""
    linked = any(isinstance(row, FoundTriples) for row in found)
    schema = RELATION_LINE if linked else LINE
    lines = []
    for i, (spans, kept) in enumerate(zip(found, records, strict=True)):
        text = sentences.texts[i]
        beside = [_cell(kept.get(name)) for name in names]
        if isinstance(spans, FoundTriples):
            lines += [(*beside, *line) for line in as_lines(sentences, i, first + i + 1, spans)]
            continue
        for start, end, label, score in spans:
            said = sentences.excerpt(i, start, end) if text is None else text[start:end]
            lines.append((*beside, first + i + 1, start, end, label, round(score, 4), said))
    return pl.DataFrame(lines, schema=pl.Schema(dict.fromkeys(names.values(), pl.String) | dict(schema)), orient="row")


def _cell(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@contextmanager
def _columns(file: BinaryIO) -> Iterator[Write]:
    """Write tokens with IOB2 tags, and a blank line after each row."""

    def write(first: int, sentences: Sentences, found: list[OfRow], records: list[dict[str, Any]]) -> None:
        for i, spans in enumerate(found):
            offsets = sentences.offsets[i]
            starts = None if offsets is None else {start: n for n, (start, _) in enumerate(offsets)}
            ends = None if offsets is None else {end: n + 1 for n, (_, end) in enumerate(offsets)}
            marks = [
                Mark(start if starts is None else starts[start], end if ends is None else ends[end], label)
                for start, end, label, _ in spans
            ]
            file.write(written_in_columns(sentences.tokens[i], marks).encode())

    yield write


WRITERS = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet, ".conll": _columns}
