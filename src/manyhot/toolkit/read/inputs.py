"""Every file of a run, read before any work is done: the rows to learn from and the rows to measure on."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import scipy.sparse as sp

from manyhot.labels import label_counts
from manyhot.toolkit.config import Config
from manyhot.toolkit.errors import InputError, reading, shown
from manyhot.toolkit.read.attributes import find_attributes, relation_column
from manyhot.toolkit.read.cells import counted, listed, plain, read_categories, seldom_seen, with_points
from manyhot.toolkit.read.columns import Columns, Found, check_named, find_columns
from manyhot.toolkit.read.data import Matrix, Raw, Relation, Svmlight, is_delimited, read_file, read_label_names
from manyhot.toolkit.read.examples import (
    KINDS,
    Examples,
    always_on,
    check_measurable,
    check_one_class,
    check_trainable,
    count_repeated,
    drop_unknown,
    drop_unlabelled,
    examples_of,
    find_indices,
    joined_rows,
    kind_of,
    read_examples,
)
from manyhot.toolkit.read.uses import Use

# What a cell of --split-column may say, in any case.
PART_OF_CELL = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# This share of the values of a column may be lost to float32 without a word, and so many cells are looked at.
COARSE, COARSE_SAMPLE = 0.1, 10_000
# Where more rows than this have several labels, a row is not one label of its text.
SEVERAL = 0.1
# Labels that are none, in any case, as pandas, R, SQL and people write them.
_MISSING = frozenset(
    ("nan", "na", "n/a", "#n/a", "<na>", "null", "none", "?", "-", "nil", "unknown", "missing", "-1", "-100")
)


class Kept(NamedTuple):
    """What reading keeps of a run: its name, the columns, and its labels, to which others of the file are added."""

    run: str
    columns: Columns
    label_names: list[str]


@dataclass(frozen=True)
class Training:
    """What was read: the rows to learn from and the rows to measure on."""

    train: Examples
    valid: Examples | None
    test: Examples | None
    columns: Columns
    rows: dict[str, int]  # of each file, before any is dropped
    said: list[str]
    warned: list[str] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)


def read(config: Config, kept: Kept | None = None) -> Training:
    """Read every file of a run before any work is done, and say what is in them; by the columns of a run, if given."""
    with reading(config.data):
        return _read(config, kept)


def _read(config: Config, kept: Kept | None) -> Training:
    names = read_label_names(config.label_names, config.encoding) if config.label_names else None
    if kept is not None and kept.columns.names_needed:
        names = kept.label_names
    source = Path(config.data).name
    if config.no_header and not is_delimited(config.data):
        raise InputError(f"{source}: expected a CSV or TSV file with --no-header, got another format; leave it out")
    raw = read_file(config.data, header=not config.no_header, encoding=config.encoding)
    apart = _set_apart(raw, config, source)
    if config.join and not isinstance(raw, pl.DataFrame | Relation):
        raise InputError(f"{source}: expected a table with --join, got {KINDS[kind_of(raw)]}; leave --join out")
    if kept is None:
        columns, said, uses = _find(raw, config, names)
    else:
        columns, said, uses = kept.columns, [f"columns, labels, loss and penalty are those of {kept.run}"], []
    examples = examples_of(raw, replace(columns, join=False), source, label_names=names)
    if kept is not None:
        examples = _with_labels_of(examples, kept.label_names)
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
        of_ids = examples.label_names if columns.names_needed else None
        files = {part: file for part, file in (("valid", config.valid), ("test", config.test)) if file is not None}
        parts = {
            part: read_examples(file, columns, label_names=of_ids, encoding=config.encoding)
            for part, file in files.items()
        }
        rows |= {file: parts[part].rows for part, file in files.items()}
    one_class = config.task == "multiclass"
    for part in parts.values():
        check_measurable(part)
    said += _unknown(examples, columns)
    examples, lost = drop_unknown(examples, one_class=one_class)
    if not examples.rows:
        raise InputError(
            f"{source}: expected rows with known labels, got none; name other label columns: --labels COLUMN,COLUMN"
        )
    if lost:
        what = "their class is" if one_class else "all of their labels are"
        said.append(f"{counted(lost, 'row')} left out: {what} unknown")
    if "valid" in parts:
        parts["valid"] = _with_known(parts["valid"], "valid", one_class=one_class)
    warned: list[str] = []
    if config.join:
        before = examples.rows
        examples = joined_rows(examples)
        if config.split_column is not None:
            parts = {name: joined_rows(part) for name, part in parts.items()}
        said.append(f"joined: {before:,} rows to {examples.rows:,}, each with the labels of all its rows")
    elif examples.texts is not None and (np.diff(examples.targets.indptr) > 1).mean() < SEVERAL:
        texts, stand = count_repeated(examples)
        if texts:
            warned.append(
                f"{counted(texts, 'text')} stand{'s' if texts == 1 else ''} in several rows with different labels "
                f"({stand:,} rows); if each row is one label of its text, --join joins them"
            )
    warned += _suspicious(examples, columns, one_class=one_class)
    if isinstance(raw, pl.DataFrame):
        warned += coarse(raw, columns)
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
    if one_class:
        for part in (examples, *parts.values()):
            # The test file's rows without a class are left out where it is measured.
            known, _ = drop_unknown(part, one_class=True)
            check_one_class(drop_unlabelled(known)[0] if config.drop_unlabelled else known)
    said += _missing(examples, columns)
    said.append(describe(examples, dropped, multiclass=one_class))
    uses += [Use(name, role, "") for name, role in ((config.split_column, "part"), (config.group, "group")) if name]
    return Training(examples, parts.get("valid"), parts.get("test"), columns, rows, said, warned, uses)


def _with_labels_of(examples: Examples, first: list[str]) -> Examples:
    """Return examples whose labels are these, in their order, and then others that they have."""
    here = {name: i for i, name in enumerate(examples.label_names)}
    names = [*first, *(name for name in examples.label_names if name not in set(first))]
    place = [(here[name], j) for j, name in enumerate(names) if name in here]
    rows, columns = zip(*place, strict=True) if place else ((), ())
    moved = sp.csr_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(len(here), len(names)))
    unknown: Any = None if examples.unknown is None else sp.csr_array(examples.unknown @ moved)
    return replace(examples, targets=sp.csr_array(examples.targets @ moved), unknown=unknown, label_names=names)


def _suspicious(examples: Examples, columns: Columns, *, one_class: bool) -> list[str]:
    """Say of label cells what may be none: words for a missing value, and labels of which no two rows have the same."""
    if columns.label_format not in ("list", "separated", "joined"):
        return []
    counts = label_counts(examples.targets).astype(int)
    what, advice = "label", "leave the cell empty"
    if one_class:
        what, advice = "class", f"{advice} and type --drop-unlabelled"
    warned = [
        f"{shown(name)} is trained as a {what}, of {counted(int(counts[i]), 'row')}; where it says that there is none, "
        f"{advice}"
        for i, name in enumerate(examples.label_names)
        if name.lower() in _MISSING
    ]
    if len(counts) > 1 and counts.max() == 1 and examples.rows > 2:
        warned.append(
            f"no label is in two rows; if {listed(columns.labels)} holds something else, name the labels with --labels "
            "or what separates them with --label-sep"
        )
    return warned


def _with_known(given: Examples, part: str, *, one_class: bool) -> Examples:
    """Leave out the rows of which nothing is known."""
    known, _ = drop_unknown(given, one_class=one_class)
    if not known.rows:
        raise InputError(f"{given.source}: expected rows with known labels, got none; name another --{part} file")
    return known


def _unknown(examples: Examples, columns: Columns) -> list[str]:
    """Count the unknown cells of each label."""
    if examples.unknown is None:
        return []
    if columns.label_format in ("list", "separated", "joined", "ids"):
        rows = int((np.diff(examples.unknown.indptr) > 0).sum())
        return [
            f"{listed(columns.labels)}: {rows:,} of {examples.rows:,} unknown, as NaN, NA and ? are; where one is a "
            "label, name the labels: --label-names FILE"
        ]
    counts = np.asarray(examples.unknown.sum(axis=0)).ravel()
    found = [
        f"{name}: {count:,} of {examples.rows:,} unknown"
        for name, count in zip(examples.label_names, counts.tolist(), strict=True)
        if count
    ]
    said = [f"{listed(found)}; left out of training and of every number"]
    if always := always_on(examples):
        said.append(
            f"{listed(always)}: every known cell is 1, so nearly every row will be given it; write 0 where a label "
            "does not apply, or name the labels without it: --labels COLUMN,COLUMN"
        )
    return said


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
    part = cells.str.to_lowercase().replace_strict(PART_OF_CELL, default=None, return_dtype=pl.String)
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
    if names is None and columns.label_format in ("list", "separated", "joined"):
        # Labels that only other rows have are as unknown to the run as those of another file.
        seen = np.flatnonzero(np.asarray(train.targets.sum(axis=0)).ravel())
        unknown = None if train.unknown is None else train.unknown[:, seen]
        names = [train.label_names[i] for i in seen]
        train = replace(train, targets=train.targets[:, seen], unknown=unknown, label_names=names)
    return train, {name: rows for name, rows in found.items() if rows.rows}


def _find(raw: Raw, config: Config, names: list[str] | None) -> Found:
    """Find which part of the training file plays which part, by what it says and what the options say."""
    apart = [name for name in (config.split_column, config.group) if name is not None]
    options: dict[str, Any] = {
        "text": config.text,
        "features": config.features,
        "labels": config.labels,
        "num_labels": config.num_labels,
        "label_sep": config.label_sep,
    }
    uncertain: Any = config.uncertain
    if isinstance(raw, pl.DataFrame | Relation):
        options |= {"label_names": names, "one_class": config.task == "multiclass"}
        if isinstance(raw, Relation):
            found = find_attributes(raw, config.data, apart=apart, **options)
            return found._replace(columns=replace(found.columns, uncertain=uncertain, join=config.join))
        if config.labels is None and config.num_labels is None and (where := span_columns(raw)):
            raise InputError(
                f"{Path(config.data).name}: expected label sets, got spans: {where} are learned with --task spans"
            )
        # By name, and not as a list: a column without a name would get one.
        rest = pl.DataFrame({name: raw[name] for name in raw.columns if name not in apart})
        found = find_columns(rest, Path(config.data).name, **options)
        columns = replace(found.columns, header=not config.no_header, uncertain=uncertain, join=config.join)
        return found._replace(columns=columns)
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
        return Found(*find_indices(raw, names), [])
    return Found(Columns(label_format="matrix", uncertain=uncertain), [], [])


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


def coarse(frame: pl.DataFrame, columns: Columns) -> list[str]:
    """Say which numbers are so large beside their differences that float32 makes several of them one."""
    points = with_points(frame.head(COARSE_SAMPLE), columns.commas)
    lost = []
    for name in columns.features:
        if points.schema[name] == pl.String or points.schema[name].is_numeric():
            numbers = points[name].cast(pl.Float64, strict=False).drop_nulls()
            distinct, kept = numbers.n_unique(), numbers.cast(pl.Float32).n_unique()
            if distinct > kept + COARSE * distinct:
                lost.append(f"{name} ({distinct:,} values become {kept:,})")
    if not lost:
        return []
    return [
        f"numbers are kept with seven digits, and some differ beyond them: {listed(lost)}; take a constant off the "
        "column, as of times the first of them"
    ]


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
    empty = int(examples.unlabelled().sum())
    unlabelled = f"{dropped:,} rows without labels dropped" if dropped else f"{empty:,} rows without labels"
    unseen = int((counts == 0).sum())
    seen = dict(zip(examples.label_names, counts.astype(int).tolist(), strict=True))
    rare = seldom_seen(seen, *(("class", "classes") if multiclass else ("label", "labels")))
    seldom = f", {rare}" if rare else ""
    if multiclass:
        return (
            f"{examples.rows:,} rows, {len(counts):,} classes of {int(counts[counts > 0].min()):,} to "
            f"{int(counts.max()):,} rows{seldom}" + (f", {dropped:,} rows without a class dropped" if dropped else "")
        )
    return (
        f"{examples.rows:,} rows, {len(counts):,} labels, {sizes.mean():.2f} labels a row "
        f"({sizes.min()} to {sizes.max()}), {unlabelled}{seldom}" + (f", {unseen:,} never seen" if unseen else "")
    )
