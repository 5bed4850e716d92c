"""Which attribute of an ARFF file plays which part, and what comes out of its rows.

An ARFF file is a table whose header says what its columns are; only that it may be sparse makes it one of its own. So
training finds `Columns`, and a CSV file with the same columns fits a run on ARFF and the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp

from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.cells import NO_VALUE, counted, listed
from manyhot.toolkit.read.columns import Columns, Found, check_named, counted_off, how_labels_are_written
from manyhot.toolkit.read.formats.arff import NUMERIC, Relation
from manyhot.toolkit.read.formats.label_lists import find_mulan, read_label_names
from manyhot.toolkit.read.indicators import Cells, Uncertain, settled, told_apart
from manyhot.toolkit.read.uses import Use, unused_sentences


def find_attributes(
    relation: Relation,
    path: str | Path,
    *,
    text: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    num_labels: int | None = None,
    label_sep: str | None = None,
    label_names: Sequence[str] | None = None,
    one_class: bool = False,
    apart: Sequence[str] = (),
) -> Found:
    """Find which attributes are labels, text and features; the arguments are those of `find_columns`.

    Attributes in `apart` are left alone, as columns that were dropped from a table.

    Labels are what the caller names, or else what Meka writes into the header (-C), or else what MULAN's XML beside the
    file names: NAME.xml, or the one whose name NAME starts with, such as yeast.xml for yeast-train.arff. String
    attributes are text, numbers and nominal attributes features, dates nothing.

    Raises:
        InputError: nothing says which attributes are labels, or an attribute does not exist or cannot be used so.
    """
    source = Path(path).name
    kinds = {attribute.name: attribute.kind for attribute in relation.attributes if attribute.name not in apart}
    names = list(kinds)
    if labels is None and label_names is not None and set(label_names) <= set(names):
        labels, label_names, how = list(label_names), None, "those of --label-names"
    elif num_labels is not None:
        labels, how = counted_off(names, num_labels, source), "counted off by --num-labels"
    elif labels is None:
        labels, how = _said_by_the_file(relation, Path(path), names)
    else:
        how = "named"
    check_named(names, source, [*(text or ()), *(features or ()), *labels])
    free = [name for name in names if name not in set(labels)]
    if text is None:
        text = [name for name in free if kinds[name] == "string"] if features is None else []
        if features is None:
            features = [name for name in free if kinds[name] in (*NUMERIC, "nominal")]
    if not text and not features:
        raise InputError(
            f"{source}: expected attributes to learn from beside the labels, got none; say which are labels: --labels "
            "NAME,NAME"
        )
    for name in text:
        if kinds[name] in NUMERIC:
            raise InputError(
                f"{source}, attribute {shown(name)}: expected a string or nominal attribute as text, got a numeric "
                "one; name it with --features"
            )
    categories = [name for name in features or () if kinds[name] not in NUMERIC]
    features = [name for name in features or () if kinds[name] in NUMERIC]
    label_format, sep = "indicator", None
    note = f"{counted(len(labels), 'attribute')}, {how}"
    if len(labels) == 1:
        (name,) = labels
        kind = {name: {"truth": "01", "number": "number"}.get(kinds[name], "string")}
        frame = pl.DataFrame([relation_column(relation, name)])
        label_format, sep, note = how_labels_are_written(frame, source, kind, labels, label_sep, label_names, one_class)
    elif not_truths := [name for name in labels if kinds[name] not in NUMERIC]:
        declared = next(a for a in relation.attributes if a.name == not_truths[0])
        raise InputError(
            f"{source}, attribute {shown(not_truths[0])}: expected a label to be declared as {{0,1}}, got "
            f"{shown('{' + ','.join(declared.values) + '}') if declared.values else declared.kind}; say which "
            "attributes are labels: --labels NAME,NAME"
        )
    elif _are_shares(relation, labels):
        label_format, note = "shares", f"{note}; shares from 0 to 1, a half or more is a label"
    columns = Columns(
        tuple(text),
        tuple(features),
        tuple(labels),
        label_format,
        sep,
        categories=tuple(categories),
        named=tuple(name for name in label_names or () if name in NO_VALUE),
    )
    used = {*columns.text, *columns.features, *columns.categories, *columns.labels}
    said = [f"text: {listed(columns.text)}"] if text else []
    if features:
        said.append(f"features: {listed(columns.features)} ({counted(len(columns.features), 'attribute')})")
    if categories:
        said.append(f"categories: {listed(categories)}; a column a value, and one for those seen once or never")
    said.append(f"labels: {listed(columns.labels)} ({note})")
    roles = dict.fromkeys(text, "text") | dict.fromkeys(features, "feature") | dict.fromkeys(categories, "category")
    roles |= dict.fromkeys(labels, "label")
    uses = [
        Use(name, roles[name], note if roles[name] == "label" else kinds[name])
        if name in used
        else Use(name, "not used", f"a {kinds[name]} attribute", "" if kinds[name] == "date" else "features")
        for name in names
    ]
    said += unused_sentences([use for use in uses if use.role == "not used"], text, [*features, *categories])
    return Found(columns, said, uses)


def _said_by_the_file(relation: Relation, path: Path, names: list[str]) -> tuple[list[str], str]:
    """Ask the header, which Meka writes the number of labels into, and then MULAN's XML beside the file."""
    if (count := re.search(r"-C\s+(-?[0-9]{1,9})(?![0-9])", relation.name)) and int(count[1]):
        return counted_off(names, int(count[1]), path.name), f"by -C {count[1]} in its header"
    xml = find_mulan(path)
    if xml is None:
        raise InputError(
            f"{path.name}: expected the labels to be named by NAME.xml beside the file (MULAN) or by -C in @relation "
            f"(Meka), got neither; say which attributes are labels: --labels NAME,NAME, --num-labels 6 for the first "
            "six, --num-labels -6 for the last six, or --label-names FILE with their names"
        )
    labels = read_label_names(xml)
    if unknown := [name for name in labels if name not in set(names)]:
        raise InputError(
            f"{xml.name}: expected names of attributes of {path.name}, got {shown(unknown[0])}; say which are labels: "
            "--labels NAME,NAME"
        )
    return labels, f"those of {xml.name}"


def _are_shares(relation: Relation, labels: Sequence[str]) -> bool:
    position = {attribute.name: i for i, attribute in enumerate(relation.attributes)}
    values = settled(relation.numbers[:, [position[name] for name in labels]].data, None)
    known = values[~np.isnan(values)]
    return bool(((known >= 0) & (known <= 1)).all() and ((known > 0) & (known < 1)).any())


def relation_numbers(relation: Relation, names: Sequence[str], source: str) -> Any:
    """Take numeric attributes as (rows, names) float32 CSR; NaN is a missing value.

    Raises:
        InputError: an attribute of another kind.
    """
    position = {attribute.name: i for i, attribute in enumerate(relation.attributes)}
    for name in names:
        kind = relation.attributes[position[name]].kind
        if kind not in NUMERIC:
            raise InputError(
                f"{source}, attribute {shown(name)}: expected numbers, as in training, got a {kind} attribute; write "
                "it as numbers"
            )
    return relation.numbers[:, [position[name] for name in names]]


def relation_indicators(
    relation: Relation, names: Sequence[str], source: str, *, shares: bool = False, uncertain: Uncertain | None = None
) -> Cells:
    """Take attributes of 0 and 1, one a label; of shares, a half or more is a label. ? and -1 are unknown.

    Raises:
        InputError: an attribute of another kind, or a value that is neither; names the line and the attribute.
    """
    numbers = relation_numbers(relation, names, source)
    values = settled(numbers.data, uncertain)
    good = np.isnan(values) | ((values >= 0) & (values <= 1) if shares else np.isin(values, (0, 1)))
    if not good.all():
        place = int(np.argmin(good))
        row = int(np.searchsorted(numbers.indptr, place, side="right")) - 1
        raise InputError(
            f"{source}, line {relation.lines[row]}, attribute {shown(names[numbers.indices[place]])}: expected "
            f"{'a share from 0 to 1' if shares else '0 or 1'}, got {values[place]}; correct the value, or leave the "
            "row out"
        )
    return told_apart(sp.csr_array((values, numbers.indices, numbers.indptr), shape=numbers.shape))


def relation_column(relation: Relation, name: str) -> pl.Series:
    """Take one attribute as a column of a table; numbers without a fraction become whole numbers."""
    if name in relation.words.columns:
        return relation.words[name]
    position = [attribute.name for attribute in relation.attributes].index(name)
    numbers: Any = relation.numbers[:, [position]].toarray().ravel()
    whole = numbers.astype(np.int64) if (numbers == np.floor(numbers)).all() else numbers
    return pl.Series(name, whole)
