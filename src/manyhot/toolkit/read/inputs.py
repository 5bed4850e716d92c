"""Every file of a run, read before any work is done: the rows to learn from and the rows to measure on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from manyhot.labels import label_counts
from manyhot.toolkit.config import Config
from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.attributes import find_attributes, relation_column
from manyhot.toolkit.read.cells import counted, listed, plain, read_categories
from manyhot.toolkit.read.columns import Columns, check_named, find_columns
from manyhot.toolkit.read.data import Matrix, Raw, Relation, Svmlight, is_delimited, read_file, read_label_names
from manyhot.toolkit.read.examples import (
    KINDS,
    Examples,
    check_one_class,
    check_trainable,
    drop_unlabelled,
    examples_of,
    find_indices,
    kind_of,
    read_examples,
)

# What a cell of --split-column may say, in any case.
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Training:
    """What was read: the rows to learn from and the rows to measure on."""

    train: Examples
    valid: Examples | None
    test: Examples | None
    columns: Columns
    rows: dict[str, int]  # of each file, before any is dropped
    said: list[str]


def read(config: Config) -> Training:
    """Read every file of a run before any work is done, and say what is in them."""
    names = read_label_names(config.label_names) if config.label_names else None
    source = Path(config.data).name
    if config.no_header and not is_delimited(config.data):
        raise InputError(f"{source}: expected a CSV or TSV file with --no-header, got another format; leave it out")
    raw = read_file(config.data, header=not config.no_header)
    apart = _set_apart(raw, config, source)
    columns, said = _find(raw, config, names)
    examples = examples_of(raw, columns, source, label_names=names)
    rows = {config.data: examples.rows}
    if "group" in apart:
        groups = apart["group"].rank("dense").to_numpy()
        said.append(f"groups: {config.group} ({counted(len(np.unique(groups)), 'group')}), each held out as a whole")
        examples = replace(examples, groups=groups)
    if "split_column" in apart:
        examples, parts = _split_rows(examples, apart["split_column"], columns, names)
        shares = [f"{part.rows:,} {name}" for name, part in {"train": examples, **parts}.items()]
        said.append(f"rows by {config.split_column}: {', '.join(shares)}")
    else:
        of_ids = examples.label_names if columns.label_format == "ids" else None
        files = {part: file for part, file in (("valid", config.valid), ("test", config.test)) if file is not None}
        parts = {part: read_examples(file, columns, label_names=of_ids) for part, file in files.items()}
        rows |= {file: parts[part].rows for part, file in files.items()}
    dropped = 0
    if config.drop_unlabelled:
        examples, dropped = drop_unlabelled(examples)
        for part, given in parts.items():
            labelled, _ = drop_unlabelled(given)
            if not labelled.rows:
                raise InputError(
                    f"{given.source}: expected at least one row with labels, got none; name another --{part} file."
                )
            # The test file is cut, and the count said, where it is measured.
            parts[part] = labelled if part == "valid" else given
    check_trainable(examples)
    if examples.groups is not None and np.unique(examples.groups).size < 2:
        raise InputError(f"{source}: expected two groups or more, got one; leave --group out, or name another column")
    if config.task == "multiclass":
        for part in (examples, *parts.values()):
            # The test file's rows without a class are left out where it is measured.
            check_one_class(drop_unlabelled(part)[0] if config.drop_unlabelled else part)
    said += _missing(examples, columns)
    said.append(describe(examples, dropped, multiclass=config.task == "multiclass"))
    return Training(examples, parts.get("valid"), parts.get("test"), columns, rows, said)


def _set_apart(raw: Raw, config: Config, source: str) -> dict[str, pl.Series]:
    """Take the columns that say something about rows and are nothing to learn from: parts and groups, as text."""
    apart: dict[str, pl.Series] = {}
    for option, what in (("split_column", "train, valid or test"), ("group", "a group")):
        name = getattr(config, option)
        if name is None or not isinstance(raw, pl.DataFrame | Relation):
            continue
        if isinstance(raw, Relation):
            check_named([attribute.name for attribute in raw.attributes], source, [name])
            frame = pl.DataFrame([relation_column(raw, name)])
        else:
            check_named(raw.columns, source, [name])
            frame = pl.DataFrame([raw[name]])
        cells = read_categories(plain(frame), [name], source).to_series().alias(name)
        if cells.has_nulls():
            raise InputError(
                f"{source}, row {(cells.is_null().arg_max() or 0) + 1}, column {shown(name)}: expected {what}, got an "
                "empty cell; fill it in, or leave the row out"
            )
        apart[option] = cells
    return apart


def _split_rows(
    examples: Examples, cells: pl.Series, columns: Columns, names: list[str] | None
) -> tuple[Examples, dict[str, Examples]]:
    """Deal the rows out to training, validation and test by what a column says of each."""
    part = cells.str.to_lowercase().replace_strict(PARTS, default=None, return_dtype=pl.String)
    if part.has_nulls():
        row = part.is_null().arg_max() or 0
        raise InputError(
            f"{examples.source}, row {row + 1}, column {shown(cells.name)}: expected train, valid or test, got "
            f"{shown(cells[row])}; correct the cell, or name another --split-column"
        )
    found = {name: examples.taken(np.flatnonzero(part == name)) for name in ("train", "valid", "test")}
    train = found.pop("train")
    if not train.rows:
        raise InputError(
            f"{examples.source}, column {shown(cells.name)}: expected rows of train, got none; name another "
            "--split-column"
        )
    if names is None and columns.label_format in ("list", "separated"):
        # Labels that only other rows have are as unknown to the run as those of another file.
        seen = np.flatnonzero(np.asarray(train.targets.sum(axis=0)).ravel())
        train = replace(train, targets=train.targets[:, seen], label_names=[train.label_names[i] for i in seen])
    return train, {name: rows for name, rows in found.items() if rows.rows}


def _find(raw: Raw, config: Config, names: list[str] | None) -> tuple[Columns, list[str]]:
    """Find which part of the training file plays which part, by what it says and what the options say."""
    apart = [name for name in (config.split_column, config.group) if name is not None]
    options: dict[str, Any] = {
        "text": config.text,
        "features": config.features,
        "labels": config.labels,
        "num_labels": config.num_labels,
        "label_sep": config.label_sep,
    }
    if isinstance(raw, pl.DataFrame | Relation):
        options |= {"label_names": names, "one_class": config.task == "multiclass"}
        if isinstance(raw, Relation):
            return find_attributes(raw, config.data, apart=apart, **options)
        if config.labels is None and config.num_labels is None and (where := span_columns(raw)):
            raise InputError(
                f"{Path(config.data).name}: expected label sets, got spans: {where} are learned with --task spans"
            )
        rest = pl.DataFrame([raw[name] for name in raw.columns if name not in apart])
        columns, said = find_columns(rest, Path(config.data).name, **options)
        return replace(columns, header=not config.no_header), said
    options |= {"split_column": config.split_column, "group": config.group}
    if isinstance(raw, Matrix):
        options["label_names"] = names
    for option, value in options.items():
        if value is not None:
            flag = option.replace("_", "-")
            raise InputError(
                f"{Path(config.data).name}: expected a table with --{flag}, got {KINDS[kind_of(raw)]}, which has no "
                f"columns to name; leave --{flag} out"
            )
    if isinstance(raw, Svmlight):
        return find_indices(raw, names)
    return Columns(label_format="matrix"), []


def span_columns(frame: pl.DataFrame) -> str | None:
    """Say which columns hold texts or tokens with marked spans; None where none do."""
    lists = {name: dtype.inner for name, dtype in frame.schema.items() if isinstance(dtype, pl.List)}
    for name in ("spans", "entities", "ner", "label", "labels"):
        inner = lists.get(name)
        objects = isinstance(inner, pl.Struct) and bool({"start", "start_offset"} & {f.name for f in inner.fields})
        if objects and "text" in frame.columns:
            return f'"text" and "{name}" (list of start, end, label)'
        if isinstance(inner, pl.List) and ("text" in frame.columns or "tokens" in lists):
            return f'"{"tokens" if "tokens" in lists else "text"}" and "{name}" (list of start, end, type)'
    tags = next((name for name in ("tags", "ner_tags") if name in lists), None)
    return f'"tokens" and "{tags}" (a tag a token)' if "tokens" in lists and tags else None


def _missing(examples: Examples, columns: Columns) -> list[str]:
    """Say in one sentence which columns have missing cells, and what stands in."""
    found: list[str] = []
    if columns.features and examples.numbers is not None:
        counts = examples.missing_counts()
        if len(counts) == len(columns.features):
            names = zip(columns.features, counts, strict=True)
            found = [f"{name} ({counted(int(count), 'row')})" for name, count in names if count]
        elif counts.any():  # beside lists of numbers, which stand for several columns each
            found = [counted(int((counts > 0).sum()), "numeric column")]
    if examples.categories is not None:
        cells = zip(columns.categories, examples.categories, strict=True)
        found += [f"{name} ({counted(c.null_count(), 'row')})" for name, c in cells if c.null_count()]
    if not found:
        return []
    return [
        f"missing cells: {listed(found)}; the mean stands in for a number, beside a column that says where, and a "
        "missing category is one of its own"
    ]


def describe(examples: Examples, dropped: int, *, multiclass: bool = False) -> str:
    """Write the first line about the data: rows, labels, labels a row, rows without labels, rare labels."""
    sizes, counts = np.diff(examples.targets.indptr), label_counts(examples.targets)
    empty = int((sizes == 0).sum())
    unlabelled = f"{dropped:,} rows without labels dropped" if dropped else f"{empty:,} rows without labels"
    rare, unseen = int(((counts > 0) & (counts < 9)).sum()), int((counts == 0).sum())
    if multiclass:
        return (
            f"{examples.rows:,} rows, {len(counts):,} classes of {int(counts[counts > 0].min()):,} to "
            f"{int(counts.max()):,} rows, {rare:,} classes seen < 9 times"
            + (f", {dropped:,} rows without a class dropped" if dropped else "")
        )
    return (
        f"{examples.rows:,} rows, {len(counts):,} labels, {sizes.mean():.2f} labels a row "
        f"({sizes.min()} to {sizes.max()}), {unlabelled}, {rare:,} labels seen < 9 times"
        + (f", {unseen:,} never seen" if unseen else "")
    )
