"""Rows as a model sees them: texts, numbers, label sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp

from manyhot.labels import CardinalityRange, cardinality_range
from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.attributes import relation_column, relation_indicators, relation_numbers
from manyhot.toolkit.read.cells import (
    check_holds_labels,
    counted,
    label_codes,
    listed,
    plain,
    read_categories,
    read_numbers,
    read_texts,
    type_name,
    with_points,
)
from manyhot.toolkit.read.columns import Columns, joined
from manyhot.toolkit.read.data import Matrix, Raw, Relation, Svmlight, read_file
from manyhot.toolkit.read.indicators import Cells, Uncertain, known_sets, read_indicators, settled, told_apart
from manyhot.toolkit.read.label_cells import are_lists, label_lists, label_tokens, object_columns
from manyhot.toolkit.read.vectors import read_vectors

KINDS = {
    "table": "a table (CSV, TSV, JSONL, Parquet, ARFF)",
    "matrix": "a matrix (NAME.X.npz)",
    "svmlight": "an svmlight file",
}


@dataclass(frozen=True)
class Examples:
    """What a model learns from or is asked about, row by row.

    Attributes:
        source: the file, for messages.
        texts: one string a row, the text columns joined by a line end, a missing cell being empty; or None.
        numbers: (rows, features) float32, an array or scipy CSR, NaN where a cell is missing; or None.
        targets: (rows, labels) bool, scipy CSR; None when labels were not asked for.
        unknown: (rows, labels) bool, scipy CSR, the cells of `targets` that nobody knows; None where all are known.
        label_names: the labels of `targets`, column by column.
        categories: (rows, columns) text, null where a cell is missing; or None.
        groups: (rows,) numbers, the same for rows that are held out together; or None.
        places: (rows,) positions in the file, from 0; None where all of its rows are here, in order.
    """

    source: str
    texts: list[str] | None
    numbers: Any
    targets: Any
    label_names: list[str]
    categories: pl.DataFrame | None = None
    groups: np.ndarray | None = None
    places: np.ndarray | None = None
    unknown: Any = None

    @property
    def rows(self) -> int:
        """The number of rows."""
        if self.texts is not None:
            return len(self.texts)
        if self.categories is not None:
            return self.categories.height
        return 0 if self.numbers is None else self.numbers.shape[0]

    def missing_counts(self) -> np.ndarray:
        """Count the missing cells of each column of `numbers`."""
        numbers = self.numbers
        if isinstance(numbers, np.ndarray):
            return np.isnan(numbers).sum(0)
        return np.bincount(numbers.indices[np.isnan(numbers.data)], minlength=numbers.shape[1])

    def dense_targets(self) -> np.ndarray:
        """Write the targets out: bool, or int8 with -1 where some cells are unknown, as the losses take them."""
        targets = self.targets.toarray()
        return targets if self.unknown is None else targets - self.unknown.toarray().astype(np.int8)

    def unlabelled(self) -> np.ndarray:
        """Say which rows are known to have no label, (rows,) bool."""
        none = np.diff(self.targets.indptr) == 0
        return none if self.unknown is None else none & (np.diff(self.unknown.indptr) == 0)

    def cardinality(self) -> CardinalityRange:
        """Return how many labels a prediction may have; a row may have as many more as it has unknown cells."""
        low, high = cardinality_range(self.targets)
        if self.unknown is not None:
            high = int((np.diff(self.targets.indptr) + np.diff(self.unknown.indptr)).max())
        return CardinalityRange(low, high)

    def taken(self, rows: np.ndarray) -> Examples:
        """Take some rows, by their positions."""
        return replace(
            self,
            texts=None if self.texts is None else [self.texts[i] for i in rows],
            numbers=None if self.numbers is None else self.numbers[rows],
            targets=None if self.targets is None else self.targets[rows],
            unknown=None if self.unknown is None else self.unknown[rows],
            categories=None if self.categories is None else self.categories[rows],
            groups=None if self.groups is None else self.groups[rows],
            places=np.asarray(rows) if self.places is None else self.places[rows],
        )


def examples_from_frame(
    frame: pl.DataFrame,
    columns: Columns,
    source: str,
    *,
    label_names: Sequence[str] | None = None,
    with_labels: bool = True,
    start: int = 0,
) -> Examples:
    """Read the examples of a table by the columns found in training.

    Args:
        frame: a table, as `read_file` returns it or typed.
        columns: what `find_columns` returned.
        source: the file, for messages.
        label_names: needed for "ids", which are positions in it; for "list" and "separated" it fixes the labels and
            their order, and without it the labels are the file's own, sorted; 0/1 columns name their labels themselves.
        with_labels: False ignores the label columns, even where they are malformed or absent.
        start: rows of the file before the frame, for messages.

    Raises:
        InputError: a column is missing, or a cell is not what the column should hold.
    """
    frame = plain(frame)
    _check_kind(frame, columns, source)
    wanted = [*columns.text, *columns.features, *columns.categories, *(columns.labels if with_labels else ())]
    _check_present(wanted, frame.columns, source)
    frame = with_points(frame, columns.commas)
    texts = read_texts(frame, columns.text, source) if columns.text else None
    numbers = read_numbers(frame, columns.features, source, start) if columns.features else None
    categories = read_categories(frame, columns.categories, source) if columns.categories else None
    if with_labels:
        frame, columns = _laid_out(frame, columns, source, label_names or ())
    targets, unknown, names = None, None, []
    if with_labels and columns.label_format in ("indicator", "shares"):
        shares = columns.label_format == "shares"
        targets, unknown = read_indicators(frame, columns.labels, source, shares=shares, uncertain=columns.uncertain)
        names = list(columns.labels)
    elif with_labels:
        targets, unknown, names = _label_sets(frame[columns.labels[0]], columns, source, label_names)
    return Examples(source, texts, numbers, targets, names, categories, unknown=unknown)


def examples_from_relation(
    relation: Relation,
    columns: Columns,
    source: str,
    *,
    label_names: Sequence[str] | None = None,
    with_labels: bool = True,
) -> Examples:
    """Read the examples of an ARFF file; the arguments and errors are those of :func:`examples_from_frame`."""
    _check_kind(relation, columns, source)
    wanted = [*columns.text, *columns.features, *columns.categories, *(columns.labels if with_labels else ())]
    _check_present(wanted, [attribute.name for attribute in relation.attributes], source)
    words = plain(pl.DataFrame([relation_column(relation, name) for name in (*columns.text, *columns.categories)]))
    texts = read_texts(words, columns.text, source) if columns.text else None
    numbers = relation_numbers(relation, columns.features, source) if columns.features else None
    categories = read_categories(words, columns.categories, source) if columns.categories else None
    targets, unknown, names = None, None, []
    if with_labels and columns.label_format in ("indicator", "shares"):
        shares = columns.label_format == "shares"
        targets, unknown = relation_indicators(
            relation, columns.labels, source, shares=shares, uncertain=columns.uncertain
        )
        names = list(columns.labels)
    elif with_labels:
        column = plain(pl.DataFrame([relation_column(relation, columns.labels[0])])).to_series()
        targets, unknown, names = _label_sets(column, columns, source, label_names)
    return Examples(source, texts, numbers, targets, names, categories, unknown=unknown)


def _laid_out(
    frame: pl.DataFrame, columns: Columns, source: str, label_names: Sequence[str]
) -> tuple[pl.DataFrame, Columns]:
    """Write objects as one column of 0 and 1 a name, of label names too; and several columns of names as one."""
    if columns.label_format == "joined":
        column = joined(frame, columns.labels, columns.label_sep)
        label_format = "list" if columns.label_sep is None else "separated"
        return pl.DataFrame([column]), replace(columns, labels=(column.name,), label_format=label_format)
    if columns.label_format != "objects":
        return frame, columns
    column = frame[columns.labels[0]]
    cells = object_columns(column, source, label_names)
    if cells is None:
        raise InputError(
            f"{source}, column {shown(column.name)}: expected objects of label names with 0 or 1, as in training, got "
            f"a {type_name(column.dtype)} column; write it as objects"
        )
    truths = all(bool(part.cast(pl.Float64).is_in([0.0, 1.0]).all()) for part in cells)
    return cells, replace(columns, labels=tuple(cells.columns), label_format="indicator" if truths else "shares")


def _label_sets(
    column: pl.Series, columns: Columns, source: str, label_names: Sequence[str] | None
) -> tuple[sp.csr_array, sp.csr_array | None, list[str]]:
    """Read one column of label sets: (rows, labels) bool, unknown rows of it, and the names of the labels."""
    ids = columns.label_format == "ids"
    if columns.by_position and label_names is None:
        raise ValueError("labels given as ids need label_names, the names they are positions in")
    if columns.label_format == "vector":
        names = list(label_names or ())
        return sp.csr_array(read_vectors(column, names, source)), None, names
    column = column.cast(pl.String) if column.dtype == pl.Boolean else column  # two classes
    check_holds_labels(column, source, "write them as in the training file")
    as_list = columns.label_format == "list"
    if not as_list and (ids or columns.label_sep is None):
        as_list = are_lists(column, source, asked=False)
    tokens = label_tokens(label_lists(column, source, as_list=as_list, sep=columns.label_sep))
    tokens, lost = known_sets(tokens, columns.named)
    if label_names is None:
        label_names = tokens["token"].unique().sort().to_list()
    codes = label_codes(tokens, label_names, column, source, ids=ids)
    cells = (np.ones(len(codes), dtype=bool), (tokens["row"].to_numpy(), codes.to_numpy()))
    shape = (len(column), len(label_names))
    unknown = None
    if lost:
        cell = np.repeat(lost, shape[1]), np.tile(np.arange(shape[1]), len(lost))
        unknown = sp.csr_array((np.ones(len(cell[0]), dtype=bool), cell), shape=shape)
    return sp.csr_array(cells, shape=shape), unknown, list(label_names)


def _check_present(wanted: Sequence[str], have: Sequence[str], source: str) -> None:
    known = set(have)
    missing = [name for name in wanted if name not in known]
    if missing:
        raise InputError(
            f"{source}: expected the columns {listed(wanted)} as in training, got a file without {listed(missing)}; "
            f"it has {listed(have)}: add or rename the columns"
        )


def kind_of(raw: Raw) -> str:
    """Say which of `KINDS` a file is."""
    if isinstance(raw, Matrix):
        return "matrix"
    return "svmlight" if isinstance(raw, Svmlight) else "table"


def _check_kind(raw: Raw, columns: Columns, source: str) -> None:
    """Refuse a table for a run on matrices and the other way round."""
    kind = kind_of(raw)
    wanted = columns.label_format if columns.label_format in KINDS else "table"
    if kind != wanted:
        raise InputError(
            f"{source}: expected {KINDS[wanted]}, as in training; got {KINDS[kind]}; name a file of the kind the run "
            "was trained on"
        )


def examples_from_matrix(
    matrix: Matrix, source: str, *, with_labels: bool = True, uncertain: Uncertain | None = None
) -> Examples:
    """Take the examples of NAME.X.npz and NAME.Y.npz as they are; `uncertain` says what -1 means, if not unknown.

    Raises:
        InputError: labels are asked for and there is no NAME.Y.npz.
    """
    if not with_labels:
        return Examples(source, None, matrix.features, None, [])
    if matrix.targets is None:
        raise InputError(
            f"{source}: expected labels in NAME.Y.npz beside NAME.X.npz, got none; "
            "save the 0/1 matrix there with scipy.sparse.save_npz"
        )
    targets, unknown = known_of(matrix.targets, uncertain)
    return Examples(source, None, matrix.features, targets, list(matrix.label_names or ()), unknown=unknown)


def known_of(targets: Any, uncertain: Uncertain | None) -> Cells:
    """Part a CSR matrix of targets into labels and unknown cells; of bool all are known."""
    if targets.dtype == bool:
        return targets, None
    return told_apart(
        sp.csr_array((settled(targets.data, uncertain), targets.indices, targets.indptr), shape=targets.shape)
    )


def find_indices(raw: Svmlight, label_names: Sequence[str] | None = None) -> tuple[Columns, list[str]]:
    """Find where the features of a training file in svmlight format start, and how many they are.

    They start at 1 unless something has the index 0, as the two habits are; with a first line of sizes they start at 0.
    """
    width = raw.features.shape[1]
    used = np.unique(raw.features.indices)
    first = 0 if raw.size is not None or (used.size and used[0] == 0) else 1
    size = max(width - first, raw.size or 0)
    columns = Columns(labels=tuple(label_names or ()), label_format="svmlight", indices=(first, size))
    return columns, [f"features: {size:,}, numbered from {first}"]


def examples_from_svmlight(raw: Svmlight, columns: Columns, source: str, *, with_labels: bool = True) -> Examples:
    """Take the examples of an svmlight file; features that training had none of are left out, like unknown words.

    Raises:
        InputError: an index 0 where training numbered the features from 1, or a label id beyond the names.
    """
    first, size = columns.indices or (1, raw.features.shape[1] - 1)
    features: Any = raw.features
    if first and (low := np.flatnonzero(features.indices < first)).size:
        row = int(np.searchsorted(features.indptr, low[0], side="right"))
        raise InputError(
            f"{source}, row {row}: expected features numbered from {first}, as in training, got the index 0; "
            "number them alike"
        )
    features = features[:, first : first + size].tocsr()
    features.resize((len(raw.ids), size))
    if not with_labels:
        return Examples(source, None, features, None, [])
    names = list(columns.labels)
    known = {str(i): i for i in range(len(names))}
    if not names:
        names = sorted({name for row in raw.ids for name in row}, key=int)
        known = {name: i for i, name in enumerate(names)}
    for row, ids in enumerate(raw.ids, 1):
        if wrong := [name for name in ids if name not in known]:
            raise InputError(
                f"{source}, row {row}: expected label ids from 0 to {len(names) - 1}, positions in the label names, "
                f"got {wrong[0]}; correct the row or the file of label names"
            )
    cells = [(r, known[name]) for r, ids in enumerate(raw.ids) for name in set(ids)]
    row, label = (np.array([cell[i] for cell in cells], dtype=np.int64) for i in (0, 1))
    targets = sp.csr_array((np.ones(len(cells), dtype=bool), (row, label)), shape=(len(raw.ids), len(names)))
    return Examples(source, None, features, targets, names)


def check_trainable(examples: Examples) -> None:
    """Refuse examples that nothing can be learned from; prediction and evaluation have no such minimum.

    Raises:
        InputError: fewer than two rows, fewer than two labels, no row with a label, a label of which no row is known,
            or labels most of which have no row that is known to be without them.
    """
    if examples.rows < 2:
        raise InputError(
            f"{examples.source}: training needs at least two rows, got {examples.rows}; add rows to the file"
        )
    positives = 0 if examples.targets is None else int(examples.targets.sum())
    if not positives:
        raise InputError(
            f"{examples.source}: expected rows with labels, got none; name another column: --labels COLUMN"
        )
    if len(examples.label_names) < 2:
        raise InputError(
            f"{examples.source}: multi-label learning needs at least two labels, got only "
            f"{listed(examples.label_names)}; name another column: --labels COLUMN"
        )
    if examples.unknown is None:
        return
    unknown = np.asarray(examples.unknown.sum(axis=0)).ravel()
    if never := [name for name, count in zip(examples.label_names, unknown, strict=True) if count == examples.rows]:
        raise InputError(
            f"{examples.source}, column {shown(never[0])}: expected 0 and 1 in some rows, got none that is known; name "
            "the label columns without it: --labels COLUMN,COLUMN"
        )
    if 2 * len(always := always_on(examples)) > len(examples.label_names):
        raise InputError(
            f"{examples.source}: expected 0 where a label does not apply, got nothing but 1 and unknown cells in "
            f"{listed(always)}; an empty cell says that nobody knows: write 0 there, name other label columns: "
            "--labels COLUMN,COLUMN, or type --uncertain negative where -1 says no"
        )


def check_measurable(examples: Examples) -> None:
    """Refuse rows to measure on of which none is known to be without any label: every prediction would be right.

    Raises:
        InputError: says what to write.
    """
    if examples.unknown is None or not (number := int(examples.unknown.sum())):
        return
    cells = examples.rows * len(examples.label_names)
    if number < cells == number + int(examples.targets.sum()):
        raise InputError(
            f"{examples.source}: expected 0 where a label does not apply, got nothing but 1 and unknown cells, by "
            "which every prediction is right; an empty cell says that nobody knows: write 0 there"
        )


def unknown_notes(examples: Examples) -> list[str]:
    """Say of rows to measure on how many label cells nobody knows, and which labels no row is known to be without."""
    if examples.unknown is None or not (number := int(examples.unknown.sum())):
        return []
    share = 100 * number / (examples.rows * len(examples.label_names))
    notes = [
        f"{number:,} label cells of {examples.source} are unknown ({share:.1f} %), and are left out of every number"
    ]
    if always := always_on(examples):
        notes.append(
            f"{examples.source}: no row is known to be without {listed(always)}; where an empty cell says so, write 0"
        )
    return notes


def always_on(examples: Examples) -> list[str]:
    """List the labels with unknown cells that no row is known to be without."""
    if examples.unknown is None:
        return []
    known, unknown = (np.asarray(cells.sum(axis=0)).ravel() for cells in (examples.targets, examples.unknown))
    return [examples.label_names[i] for i in np.flatnonzero((unknown > 0) & (known + unknown == examples.rows))]


def check_one_class(examples: Examples) -> None:
    """Refuse rows with several labels or none, where each is to have one class.

    Raises:
        InputError: names the first such row, counts them and says what to do.
    """
    sizes = np.asarray(examples.targets.sum(axis=1)).ravel()
    wrong = np.flatnonzero(sizes != 1)
    if not wrong.size:
        return
    row = int(wrong[0])
    cells = examples.targets[[row]].toarray()[0]
    got = listed([examples.label_names[i] for i in np.flatnonzero(cells)]) if sizes[row] else "none"
    several, none = int((sizes > 1).sum()), int((sizes == 0).sum())
    counts = [f"{counted(n, 'row')} with {what}" for n, what in ((several, "several"), (none, "none")) if n]
    advice = ["leave --task out to learn sets of labels"]
    if none:
        advice.append("--drop-unlabelled leaves out rows without a class")
    if several:
        advice.append("--label-sep names another separator where a class has this one in its name")
    raise InputError(
        f"{examples.source}, row {row + 1}: expected one class, as --task multiclass asks, got {got} "
        f"({', '.join(counts)}); {'; '.join(advice)}"
    )


def read_examples(
    path: str | Path,
    columns: Columns,
    *,
    label_names: list[str] | None = None,
    with_labels: bool = True,
    encoding: str | None = None,
) -> Examples:
    """Read a file by the columns that training found.

    Raises:
        InputError: bad input, or a table where training had a matrix and the other way round.
    """
    raw = read_file(path, header=columns.header, encoding=encoding)
    return examples_of(raw, columns, Path(path).name, label_names=label_names, with_labels=with_labels)


def examples_of(
    raw: Raw,
    columns: Columns,
    source: str,
    *,
    label_names: Sequence[str] | None = None,
    with_labels: bool = True,
    start: int = 0,
) -> Examples:
    """Take the examples of what :func:`read_file` returned, by the columns that training found.

    Raises:
        InputError: bad input, or a table where training had a matrix and the other way round.
    """
    if isinstance(raw, pl.DataFrame):
        examples = examples_from_frame(
            raw, columns, source, label_names=label_names, with_labels=with_labels, start=start
        )
        return joined_rows(examples) if columns.join and with_labels else examples
    if isinstance(raw, Relation):
        examples = examples_from_relation(raw, columns, source, label_names=label_names, with_labels=with_labels)
        return joined_rows(examples) if columns.join and with_labels else examples
    _check_kind(raw, columns, source)
    if isinstance(raw, Svmlight):
        return examples_from_svmlight(raw, columns, source, with_labels=with_labels)
    return examples_from_matrix(raw, source, with_labels=with_labels, uncertain=columns.uncertain)


def _same(examples: Examples) -> sp.csr_array:
    """Find the rows of which all but the labels is the same: (different ones, rows) of 0 and 1, in order."""
    keys: dict[str, Any] = {} if examples.texts is None else {"texts": examples.texts}
    if examples.numbers is not None:
        numbers: Any = sp.csr_array(examples.numbers)
        ends = zip(numbers.indptr[:-1], numbers.indptr[1:], strict=True)
        keys["numbers"] = [numbers.indices[i:j].tobytes() + numbers.data[i:j].tobytes() for i, j in ends]
    if examples.groups is not None:
        keys["groups"] = examples.groups
    frame = pl.DataFrame(keys)
    if examples.categories is not None:
        frame = frame.hstack(examples.categories.rename(lambda name: f"category {name}"))
    groups = frame.with_row_index("row").group_by(frame.columns, maintain_order=True).agg("row")["row"]
    ends = np.concatenate([[0], groups.list.len().cum_sum().to_numpy()])
    rows = groups.explode().to_numpy().astype(np.int64)
    return sp.csr_array((np.ones(len(rows), dtype=np.int64), rows, ends), shape=(len(groups), examples.rows))


def joined_rows(examples: Examples) -> Examples:
    """Make one row of those of which all but the labels is the same, with the labels of all of them."""
    same = _same(examples)
    joined = examples.taken(same.indices[same.indptr[:-1]])
    targets = sp.csr_array((same @ examples.targets.astype(np.int64)) > 0)
    unknown = None
    if examples.unknown is not None:  # what one row has is known, whatever the others lack
        lost = sp.csr_array((same @ examples.unknown.astype(np.int64)) > 0)
        unknown = sp.csr_array(lost > targets)
    return replace(joined, targets=targets, unknown=unknown)


def count_repeated(examples: Examples) -> tuple[int, int]:
    """Count the texts that stand in several rows with different labels, and these rows."""
    same = _same(examples)
    together = np.diff(sp.csr_array(same @ examples.targets.astype(np.int64)).indptr)
    each = np.diff(examples.targets.indptr)[same.indices]
    times = np.diff(same.indptr)
    differ = np.unique(np.repeat(np.arange(len(times)), times)[each < np.repeat(together, times)])
    return len(differ), int(times[differ].sum())


def drop_unlabelled(examples: Examples) -> tuple[Examples, int]:
    """Leave out rows without labels; the second value counts them."""
    keep = np.flatnonzero(~examples.unlabelled())
    return examples.taken(keep), examples.rows - len(keep)


def drop_unknown(examples: Examples, *, one_class: bool = False) -> tuple[Examples, int]:
    """Leave out rows of which nothing is known; the second value counts them.

    With `one_class` these are the rows whose class is not known: what has a class has no other.
    """
    if examples.unknown is None:
        return examples, 0
    unknown = np.diff(examples.unknown.indptr)
    if one_class:
        keep = np.flatnonzero((unknown == 0) | (np.diff(examples.targets.indptr) > 0))
        return replace(examples.taken(keep), unknown=None), examples.rows - len(keep)
    keep = np.flatnonzero(unknown < len(examples.label_names))
    kept = examples if len(keep) == examples.rows else examples.taken(keep)
    return kept, examples.rows - len(keep)
