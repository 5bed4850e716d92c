"""Cells that hold label sets, in every way that tables write them; and tables that are not what they look like."""

import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from manyhot.toolkit.config import Config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.columns import find_columns
from manyhot.toolkit.read.examples import examples_from_frame, read_examples
from manyhot.toolkit.read.inputs import read
from manyhot.toolkit.read.separators import find_separator, split_cells

SETS = [{"staff", "price"}, {"food"}, {"place", "food", "price"}, set(), {"staff"}, {"place", "staff"}]
NAMES = ["food", "place", "price", "staff"]
TEXTS = [f"the line number {i} of the text" for i in range(len(SETS))]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def label_sets(examples):
    return [{examples.label_names[i] for i in np.flatnonzero(row)} for row in examples.targets.toarray()]


def trained(cells, name="labels", ending="csv", **options):
    """Write a file of texts and cells, and read it for training."""
    columns = {"text": [f"the line number {i} of the text" for i in range(len(cells))], name: cells}
    if ending == "csv":
        pl.DataFrame(columns, strict=False).write_csv("d.csv")
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        Path(f"d.{ending}").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read(Config(data=f"d.{ending}", **options))


def refused(cells, **options):
    with pytest.raises(InputError) as caught:
        trained(cells, **options)
    message = str(caught.value)
    assert message.startswith("d.")
    assert ";" in message, "a message ends with what to do next"
    return message


def quoted(labels):
    return ", ".join(repr(label) for label in sorted(labels))


WRITTEN = {
    "a list of Python": lambda labels: f"[{quoted(labels)}]",
    "JSON": lambda labels: json.dumps(sorted(labels)),
    "a tuple": lambda labels: repr(tuple(sorted(labels))),
    "a set": lambda labels: f"{{{quoted(labels)}}}" if labels else "set()",
    "a frozenset": lambda labels: f"frozenset({{{quoted(labels)}}})" if labels else "frozenset()",
    "a NumPy array": lambda labels: f"array([{quoted(labels)}], dtype='<U5')",
    "NumPy strings": lambda labels: f"[{', '.join(f'np.str_({label!r})' for label in sorted(labels))}]",
    "a PostgreSQL array": lambda labels: f"{{{','.join(sorted(labels))}}}",
    "a PostgreSQL array with quotes": lambda labels: f"{{{','.join(json.dumps(x) for x in sorted(labels))}}}",
    "one in parentheses": lambda labels: f"({quoted(labels)})" if labels else "",
    "quotes without brackets": quoted,
    "bars": "|".join,
    "semicolons and blanks": " ; ".join,
    "commas": ", ".join,
    "Arabic commas": "، ".join,
    "Chinese commas": "、".join,
    "wide semicolons": "；".join,
    "lines": "\n".join,
    "tabs": "\t".join,
    "an object of those that are on": lambda labels: json.dumps(dict.fromkeys(sorted(labels), 1)),
    "an object of Python": lambda labels: repr({name: name in labels for name in NAMES}),
    "an object of numbers": lambda labels: json.dumps({name: float(name in labels) for name in NAMES}),
}


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_sets_are_the_same_however_they_are_written(write):
    # Six rows twice: what comes again and again is not taken for a name with a comma.
    training = trained([write(labels) for labels in SETS * 2])
    assert sorted(training.train.label_names) == NAMES
    assert label_sets(training.train) == SETS * 2
    # A later file is read by what was found, also one row of it.
    for labels in SETS:
        pl.DataFrame({"text": ["x"], "labels": [write(labels)]}).write_csv("later.csv")
        assert label_sets(read_examples("later.csv", training.columns)) == [labels]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("script", [["விலை", "உணவு"], ["سِعر", "طَعام"], ["दाम", "खाना"], ["שֵׁרוּת", "אֹכֶל"], ["😀", ";)"]])
def test_names_of_every_script(script, ending):
    first, second = script
    sets = [{first, second}, {second}, {first}] * 3
    cells = [sorted(labels) if ending == "jsonl" else "|".join(sorted(labels)) for labels in sets]
    assert label_sets(trained(cells, ending=ending).train) == sets


def test_objects_of_json_lines():
    cells = [{name: float(name in labels) for name in NAMES} for labels in SETS]
    for name in ("cats", "labels", "of_no_name"):
        training = trained(cells, name=name, ending="jsonl")
        assert label_sets(training.train) == SETS
        assert training.said[1] == f"labels: {name} (objects, 4 labels)"
    # Where only those that are on are named, the others are off.
    assert label_sets(trained([dict.fromkeys(sorted(x), 1) for x in SETS], name="cats", ending="jsonl").train) == SETS
    # Half or more is a label, as in columns of shares.
    cells = [{name: 0.9 if name in labels else 0.2 for name in NAMES} for labels in SETS]
    assert label_sets(trained(cells, name="cats", ending="jsonl").train) == SETS


def test_objects_that_are_none():
    cells = [json.dumps({"a": 1, "b": 0}), "a|b"] * 3
    assert "row 2, column 'labels': expected an object such as" in refused(cells)
    cells = [json.dumps({"a": "yes", "b": "no"})] * 4
    assert "expected an object of label names with 0 or 1, got" in refused(cells)
    assert "expected text or lists with --label-sep, got objects" in refused(['{"a": 1, "b": 0}'] * 4, label_sep=",")
    assert "'b': expected " in refused(
        [{"a": 1, "b": 0}, {"a": 0, "b": 7}], ending="jsonl", name="cats", labels=("cats",)
    )


VECTORS = {
    "(1, 0, 0, 1)": ["(1, 0, 0, 1)", "(0, 1, 1, 0)", "(1, 1, 0, 0)"],
    "[1.0, 0.0]": ["[1.0, 0.0]", "[0.0, 1.0]", "[1.0, 1.0]"],
    "[1 0 0]": ["[1 0 0]", "[0 1 1]", "[1 1 0]"],
    "[1. 0.]": ["[1. 0.]", "[0. 1.]", "[1. 1.]"],
    "array([1, 0, 1])": ["array([1, 0, 1])", "array([0, 1, 1])", "array([1, 1, 0])"],
    "[true, false]": ["[true, false]", "[false, true]", "[true, true]"],
    "{1,0,1}": ["{1,0,1}", "{0,1,1}", "{1,1,0}"],
    "1 0 1": ["1 0 1", "0 1 1", "1 1 0"],
    "1,0": ["1,0", "0,1", "1,1"],
    "1;0;1": ["1;0;1", "0;1;1", "1;1;0"],
    "1.0 0.0": ["1.0 0.0", "0.0 1.0", "1.0 1.0"],
    "0110": ["0110", "1010", "1100"],
}


@pytest.mark.parametrize("cells", VECTORS.values(), ids=VECTORS)
def test_vectors_are_no_names_of_labels(cells):
    if "{1,0,1}" in cells:  # to Python a set, in which 1 comes once
        assert "vector" in refused(cells * 3) or "0s and 1s" in refused(cells * 3)
        return
    message = refused(cells * 3)
    assert "expected the names of the labels that are on, got vectors of " in message
    assert "--label-names FILE" in message
    size = int(message.split("vectors of ")[1].split()[0])
    # With the names, they are read.
    names = [f"name{i}" for i in range(size)]
    Path("names.txt").write_text("\n".join(names))
    training = trained([*(cells * 3), ""], label_names="names.txt")
    digits = [[character for character in cell.replace(".0", "") if character in "01tf"] for cell in cells]
    expected = [{names[i] for i, digit in enumerate(row) if digit in "1t"} for row in digits]
    if "true" not in cells[0]:
        assert label_sets(training.train) == [*(expected * 3), set()]
    Path("names.txt").write_text("\n".join([*names, "more"]))
    assert f"vectors of {size} 0s and 1s, such as " in refused(cells * 3, label_names="names.txt")


@pytest.mark.parametrize("of", [int, float, bool])
def test_vectors_in_lists_of_json(of):
    cells = [[of(x) for x in row] for row in ([1, 1], [0, 1], [0, 0], [1, 0])]
    assert "got vectors of 2 0s and 1s, such as " in refused(cells, ending="jsonl", name="label")
    Path("names.txt").write_text("p\nq\n")
    training = trained(cells, ending="jsonl", name="label", label_names="names.txt")
    assert label_sets(training.train) == [{"p", "q"}, {"q"}, set(), {"p"}]
    # A later file of one row, which could be positions, is read as vectors too.
    Path("later.jsonl").write_text('{"text": "x", "label": [0, 1]}\n')
    assert label_sets(read_examples("later.jsonl", training.columns, label_names=["p", "q"])) == [{"q"}]


def test_positions_of_0_and_1_are_no_vectors():
    Path("names.txt").write_text("p\nq\n")
    for cells in (["0", "1", "0,1", "1"], ["[0]", "[1]", "[0, 1]", "[]"]):
        training = trained(cells, label_names="names.txt")
        assert training.columns.label_format == "ids"
        assert label_sets(training.train)[:3] == [{"p"}, {"q"}, {"p", "q"}]
    assert "0s and 1s of different lengths" in refused(["0,0", "1", "0,1,1"])


@pytest.mark.parametrize("brackets", ["[]", "()", "{}"])
def test_a_cell_unlike_the_others_is_named(brackets):
    start, end = brackets
    cells = [f"{start}'staff', 'price'{end}", f"{start}'food', 'price'{end}"] * 4
    cells[5] = "price"
    assert "row 6, column 'labels': expected a list as in most cells, got 'price'; write all" in refused(cells)
    plain = ["staff", "price", "food"] * 4
    plain[7] = f"{start}'staff', 'price'{end}"
    assert "row 8, column 'labels': expected text, got " in refused(plain)
    # In a later file too.
    columns = trained(["staff", "price", "food|price"] * 4).columns
    pl.DataFrame({"text": ["x", "y"], "labels": ["price", "['a', 'b']"]}).write_csv("later.csv")
    columns = trained([f"{start}'staff', 'price'{end}"] * 4).columns
    pl.DataFrame({"text": ["x"], "labels": ["price"]}).write_csv("later.csv")
    with pytest.raises(InputError, match="row 1, column 'labels': expected a list of labels"):
        read_examples("later.csv", columns)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["a (b, c), d", "d", "a (b, c)"], [{"a (b, c)", "d"}, {"d"}, {"a (b, c)"}]),
        (["a [b|c]|d", "d", "e|d"], [{"a [b|c]", "d"}, {"d"}, {"e", "d"}]),
        (['"a, b", c', "c", '"a, b"'], [{"a, b", "c"}, {"c"}, {"a, b"}]),
        (["'a, b', c", "c", "'a, b'"], [{"a, b", "c"}, {"c"}, {"a, b"}]),
        (["肉（猪，牛），鱼", "鱼", "菜，鱼"], [{"肉（猪，牛）", "鱼"}, {"鱼"}, {"菜", "鱼"}]),
        (["rock 'n' roll, pop", "pop", "it's, pop"], [{"rock 'n' roll", "pop"}, {"pop"}, {"it's", "pop"}]),
        (["a :), b", "b", "1) c, b"], [{"a :)", "b"}, {"b"}, {"1) c", "b"}]),
        (["R&amp;D; b", "b", "R&amp;D; &#233;"], [{"R&amp;D", "b"}, {"b"}, {"R&amp;D", "&#233;"}]),
        (["AT&T;b", "b", "AT&T"], [{"AT&T", "b"}, {"b"}, {"AT&T"}]),
        (["(a)|(b)", "(b)", "(a)"], [{"(a)", "(b)"}, {"(b)"}, {"(a)"}]),
        (["[deleted]", "a", "a|b"], [{"[deleted]"}, {"a"}, {"a", "b"}]),
    ],
)
def test_nothing_is_split_inside_brackets_quotes_and_entities(cells, expected):
    assert label_sets(trained(cells * 3).train) == expected * 3


def test_a_given_separator_splits_nothing_inside_either():
    training = trained(["a (b/c)/d", "d", "a (b/c)"], label_sep="/")
    assert label_sets(training.train) == [{"a (b/c)", "d"}, {"d"}, {"a (b/c)"}]
    # One that is a bracket or a quote is what it is.
    assert label_sets(trained(["a'b", "b", "a"], label_sep="'").train) == [{"a", "b"}, {"b"}, {"a"}]
    assert label_sets(trained(["(a)/(b)", "(b)", "(a)"], label_sep="/").train) == [{"(a)", "(b)"}, {"(b)"}, {"(a)"}]


@pytest.mark.parametrize(
    ("cells", "sep"),
    [
        (["Food, drink", "Sports", "Arts, culture"] * 9, None),  # names with a comma
        (["Food; drink", "Sports", "Arts; culture"] * 9, None),
        (["Food, other", "Sports, other", "Arts, other"] * 9, None),
        (["a, b", "a", "b", "c, a"] * 9, ","),
        (["a, b", "a, c", "b, c", "a, b, c"] * 9, ","),
        ([f"k{i}, k{i + 1}, k{i + 2}" for i in range(30)], ","),  # keywords, no two cells alike
        (["a|b, c", "b, c", "a", "d, e|a"] * 9, "|"),
        (["staff, R&amp;D", "price, R&amp;D", "price", "food, staff"] * 9, ","),
        (["a;", ";b", "a", ":|"] * 9, None),  # nothing stands on one of its sides
        (["staff price", "price", "food staff price"] * 9, None),
    ],
)
def test_the_separator_leaves_the_fewest_labels(cells, sep):
    assert find_separator(pl.Series("labels", cells)).sep == sep


def test_what_else_could_be_a_separator_is_said():
    said = trained(["staff price", "price", "food staff price", "staff"] * 9).said[1]
    assert said == "labels: labels (one label a cell, 4 labels; --label-sep ' ' would make them 3)"
    assert (
        trained(["staff price", "price", "food staff price"] * 9, label_sep=" ").train.label_names
        == NAMES[:1] + NAMES[2:]
    )
    said = trained(["Food, drink", "Sports", "Arts, culture"] * 9).said[1]
    assert said == "labels: labels (one label a cell, 3 labels; --label-sep , would make them 5)"
    assert trained(["a/b", "b", "a", "c/b"] * 9).said[1].endswith("; --label-sep / would make them 3)")
    assert trained(["very good", "good", "bad"] * 9).said[1] == "labels: labels (one label a cell, 3 labels)"


def test_splitting_keeps_rows_and_missing_cells():
    cells = pl.Series("c", ["a (x, y), b", None, "", "a, b", "a (x, y), b"])
    assert split_cells(cells, ",").to_list() == [["a (x, y)", " b"], None, [""], ["a", " b"], ["a (x, y)", " b"]]


@pytest.mark.parametrize("cells", [["[1,-1,0]", "[0,1,-1]"], ["(1, -100)", "(0, 1)"], ["[1.0, -1.0]", "[0.0, 1.0]"]])
def test_vectors_with_unknown_cells_are_no_names(cells):
    if "." in cells[0]:
        assert "expected a list of labels" in refused(cells * 3)
    else:
        assert "got vectors of 0, 1 and -1" in refused(cells * 3)


def test_lists_in_quotes_are_no_names():
    assert "expected a list, got \"['a', 'b']\" in quotes" in refused(["\"['a', 'b']\"", "\"['b']\""] * 3)


def test_two_separators_in_one_column_are_said():
    said = trained(["a, b", "a; c", "b", "c"] * 5).said[1]
    assert said.endswith("; 'a, b' looks like several: write all cells with one separator)")


@pytest.mark.parametrize("word", ["-", "None", "-1"])
def test_words_for_a_missing_value_are_said(word):
    (warning,) = trained(["a|b", word, "b", "a"] * 3).warned
    assert warning.startswith(f"{word!r} is trained as a label, of 3 rows; ")


@pytest.mark.parametrize("word", ["nan", "N/A", "?", "NULL"])
def test_words_that_say_nothing_else_are_unknown_sets(word):
    training = trained(["a|b", word, "b", "a"] * 3)
    assert training.warned == []
    assert any(sentence.startswith("labels: 3 of 12 unknown") for sentence in training.said)
    assert training.train.label_names == ["a", "b"]
    assert training.train.rows == 9


def test_labels_of_one_row_each_are_said():
    assert (
        trained([f"a sentence of row {i}" for i in range(9)])
        .warned[0]
        .startswith("no label is in two rows; if labels ")
    )


def test_several_fractions_are_no_names():
    with pytest.raises(InputError, match=r"got text \(text or codes\), labels"):
        trained(["0.1 0.9", "0.7 0.2"] * 4)


# Several columns


@pytest.mark.parametrize("names", [["label1", "label2", "label3"], ["Tag_1", "Tag_2", "Tag_3"], ["genre.1", "genre.2"]])
def test_columns_of_names_are_joined(names):
    sets = [sorted(labels)[: len(names)] for labels in SETS]
    columns = {name: [labels[i] if i < len(labels) else None for labels in sets] for i, name in enumerate(names)}
    pl.DataFrame({"text": TEXTS} | columns).write_csv("d.csv")
    for labels in (None, tuple(names)):
        training = read(Config(data="d.csv", labels=labels))
        assert label_sets(training.train) == [set(labels) for labels in sets]
        assert training.said[1].startswith(f"labels: {', '.join(names)} ({len(names)} columns of names joined, ")
        assert [use.role for use in training.uses] == ["text"] + ["label"] * len(names)
    assert label_sets(read_examples("d.csv", training.columns)) == [set(labels) for labels in sets]
    for name in columns:
        columns[name] = [cell and f"{cell}/more" for cell in columns[name]]
    pl.DataFrame({"text": TEXTS} | columns).write_csv("d.csv")
    found = label_sets(read(Config(data="d.csv", label_sep="/")).train)
    assert found == [{*labels, "more"} if labels else set() for labels in sets]


def test_columns_of_numbers_are_joined_as_codes_and_those_of_0_and_1_are_labels():
    columns = {"text": TEXTS, "label1": [3, 7, 7, 12, 3, 5], "label2": [12, None, 3, None, 7, 12]}
    pl.DataFrame(columns).write_csv("d.csv")
    assert label_sets(read(Config(data="d.csv")).train)[0] == {"3", "12"}
    columns = {"text": TEXTS, "label1": [0, 1, 1, 0, 1, 0], "label2": [1, 1, 0, 0, 1, 1]}
    pl.DataFrame(columns).write_csv("d.csv")
    assert label_sets(read(Config(data="d.csv")).train)[1] == {"label1", "label2"}


def test_a_wrong_word_in_a_column_of_0_and_1_is_still_named():
    pl.DataFrame({"text": TEXTS, "a": ["0", "1", "0", "1", "0", "1"], "b": ["0", "1", "yse", "1", "0", "1"]}).write_csv(
        "d.csv"
    )
    with pytest.raises(InputError, match="row 3, column 'b': expected 0 or 1, got 'yse'"):
        read(Config(data="d.csv", labels=("a", "b")))


@pytest.mark.parametrize("words", [("yes", "no"), ("Y", "N"), ("x", "X"), ("✓", "-")])
def test_yes_and_no_are_no_names(words):
    table = {"text": TEXTS, "label1": [*words] * 3, "label2": [words[0]] * 6}
    pl.DataFrame(table).write_csv("d.csv")
    with pytest.raises(InputError, match="expected a list column"):
        read(Config(data="d.csv"))
    with pytest.raises(InputError, match="column 'label1': expected 0 or 1"):
        read(Config(data="d.csv", labels=("label1", "label2")))


# Numbers


def numbers_table(**columns):
    rng = np.random.default_rng(0)
    table = {"x": rng.normal(size=60).round(3), "y": rng.normal(size=60).round(3)}
    table |= {"p": rng.integers(0, 2, 60), "q": rng.integers(0, 2, 60)} | columns
    pl.DataFrame(table).write_csv("d.csv")
    return read(Config(data="d.csv"))


def test_fractions_are_no_names_of_labels():
    training = numbers_table()
    assert (training.columns.features, training.columns.labels) == (("x", "y"), ("p", "q"))
    # Nor where some of them are missing, or written with a comma.
    y = np.random.default_rng(1).normal(size=60).round(3)
    training = numbers_table(y=["n/a" if i == 7 else str(value) for i, value in enumerate(y)])
    assert (training.columns.features, training.columns.labels) == (("x", "y"), ("p", "q"))
    training = numbers_table(y=["odd" if i == 7 else str(value) for i, value in enumerate(y)])
    assert (training.columns.features, training.columns.labels) == (("x",), ("p", "q"))
    assert training.said[-2] == "not used: y: numbers, and cells such as 'odd': leave those empty"
    with pytest.raises(InputError, match=r"got numbers in y and the 0/1 columns p, q; say which: --labels y or --l"):
        numbers_table(y=np.arange(60) % 7)


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
@pytest.mark.parametrize("cells", [range(60), np.random.default_rng(3).permutation(60), range(100, 160)])
def test_an_unnamed_column_that_counts_the_rows_is_no_feature(name, cells):
    rng = np.random.default_rng(0)
    table = {name: list(cells), "x": rng.normal(size=60), "labels": ["a|b", "b", "c"] * 20}
    pl.DataFrame(table).write_csv("d.csv")
    training = read(Config(data="d.csv"))
    assert training.columns.features == ("x",)
    assert training.uses[0].role == "not used"
    table[name] = rng.normal(size=60).tolist()  # a feature that nobody named
    pl.DataFrame(table).write_csv("d.csv")
    assert read(Config(data="d.csv")).columns.features == (name, "x")


def test_numbers_with_a_decimal_comma():
    table = {"a": ["-0,4", "2,3", "3", ""], "b": ["1,234", "2,500", "1", "3"], "c": ["1e3", ",5", "4,5e-1", "0,0"]}
    table |= {"labels": ["p|q", "q", "p", "q"]}
    pl.DataFrame(table).write_csv("d.csv", separator=";")
    training = read(Config(data="d.csv"))
    assert training.columns.commas == training.columns.features == ("a", "b", "c")
    np.testing.assert_allclose(
        training.train.numbers, [[-0.4, 1.234, 1000], [2.3, 2.5, 0.5], [3, 1, 0.45], [np.nan, 3, 0]], rtol=1e-6
    )
    assert "numbers with a decimal comma: a, b, c" in training.said
    # A later file may have points, and typed numbers.
    later = pl.DataFrame({"a": [-0.4], "b": ["1.5"], "c": ["2,5"]})
    found = examples_from_frame(later, training.columns, "later", with_labels=False)
    np.testing.assert_allclose(found.numbers, [[-0.4, 1.5, 2.5]], rtol=1e-6)


def test_a_comma_before_three_digits_may_be_either():
    table = {"a": [0.5, 1.5, 2.5, 7], "b": ["1,234", "2,500", "1", "3"], "labels": ["p|q", "q", "p", "q"]}
    pl.DataFrame(table).write_csv("d.csv")
    training = read(Config(data="d.csv"))
    assert training.columns.features == ("a",)
    assert training.said[2] == "not used: b: numbers such as 1,234, which may be 1234 or 1.234: write one of them"
    with pytest.raises(InputError, match=r"column 'b': expected numbers, got some with a comma before three digits"):
        read(Config(data="d.csv", features=("a", "b")))


def test_ids_with_commas_are_no_decimals():
    Path("names.txt").write_text("\n".join(f"n{i}" for i in range(9)))
    training = trained(["3,7", "1", "0,5", "2"] * 3, label_names="names.txt")
    assert label_sets(training.train)[:3] == [{"n3", "n7"}, {"n1"}, {"n0", "n5"}]


# Rows and columns


def test_one_row_a_label_is_said_and_joined():
    rows = [(text, label) for text, labels in zip(TEXTS, SETS, strict=True) for label in sorted(labels)]
    pl.DataFrame(rows, schema=["text", "label"], orient="row").write_csv("d.csv")
    training = read(Config(data="d.csv"))
    assert training.train.rows == 9
    (warning,) = training.warned
    assert warning.startswith("3 texts stand in several rows with different labels (7 rows); ")
    assert "--join joins them" in warning
    training = read(Config(data="d.csv", test="d.csv", join=True))
    filled = [labels for labels in SETS if labels]
    assert training.warned == []
    assert training.said[-2] == "joined: 9 rows to 5, each with the labels of all its rows"
    for part in (training.train, training.test, read_examples("d.csv", training.columns)):
        assert part is not None
        assert label_sets(part) == filled
    # For predictions rows stay what they are.
    assert read_examples("d.csv", training.columns, with_labels=False).rows == 9
    assert training.train.places is not None
    assert training.train.places.tolist() == [0, 2, 3, 6, 7]


def test_rows_are_joined_within_their_part_and_where_all_else_is_the_same():
    table = {
        "text": ["a b", "a b", "a b", "c d", "c d"],
        "x": [1.0, 1.0, 2.0, 1.0, 1.0],
        "kind": ["u", "u", "u", "u", "v"],
        "part": ["train", "train", "train", "train", "train"],
        "label": ["p", "q", "r", "p", "q"],
    }
    pl.DataFrame(table).write_csv("d.csv")
    options = {"data": "d.csv", "text": ("text",), "features": ("x", "kind"), "join": True}
    assert label_sets(read(Config(**options)).train) == [{"p", "q"}, {"r"}, {"p"}, {"q"}]
    table["part"] = ["train", "test", "train", "train", "train"]
    pl.DataFrame(table).write_csv("d.csv")
    training = read(Config(**options, split_column="part"))
    assert label_sets(training.train) == [{"p"}, {"r"}, {"p"}, {"q"}]


def test_texts_that_only_repeat_are_no_reason_to_warn():
    assert trained(["a|b", "b", "c"] * 3).warned == []
    pl.DataFrame({"text": ["x y"] * 4, "label": ["p", "q", "p", "q"]}).write_csv("d.csv")
    assert len(read(Config(data="d.csv")).warned) == 1
    pl.DataFrame({"text": ["x y"] * 4 + ["z"], "labels": ["q|p", "p|q", "p|q", "p|q", "p"]}).write_csv("d.csv")
    assert read(Config(data="d.csv")).warned == []
    # Where rows have several labels, different ones of the same text are a matter of opinion.
    pl.DataFrame({"text": ["x y"] * 4 + ["z"], "labels": ["q|p", "p|r", "p", "p|q", "p"]}).write_csv("d.csv")
    assert read(Config(data="d.csv")).warned == []


def test_headings_are_read_beside_a_body():
    rows = 120
    body = [f"a long text of row {i}" for i in range(rows)]
    many = [f"Re: about {i % 60}" for i in range(rows)]
    few = [("mathematics", "computer science")[i % 2] for i in range(rows)]
    codes = [f"K{i % 100}" for i in range(rows)]
    tags = ["a|b", "b", "c"] * (rows // 3)
    for name in ("subject", "headline", "Summary"):
        frame = pl.DataFrame({name: many, "body": body, "tags": tags})
        assert find_columns(frame, "f.csv").columns.text == (name, "body")
        for cells, values in ((few, 2), (codes, 100)):
            found = find_columns(frame.with_columns(pl.Series(name, cells)), "f.csv")
            assert found.columns.text == ("body",)
            advice = f"--text body,{name} adds it"
            assert found.said[-1] == f"not used: {name}: {values} different values, taken for codes; {advice}"
    assert find_columns(pl.DataFrame({"title": many, "body": body, "tags": tags}), "f.csv").columns.text[0] == "title"


def test_every_column_has_a_use_or_a_reason():
    rows = 60
    table = {
        "": range(rows),
        "id": [i * 7 % 61 for i in range(rows)],
        "text": [f"a text of row {i}" for i in range(rows)],
        "when": [f"2020-01-{1 + i % 28:02} 10:00" for i in range(rows)],
        "score": np.linspace(0, 3, rows).round(2),
        "ok": [i % 2 for i in range(rows)],
        "kind": ["u", "v", "w"] * 20,
        "same": ["x"] * rows,
        "nothing": [None] * rows,
        "hash": [f"h{i:04}" for i in range(rows)],
        "labels": ["a|b", "b", "c"] * 20,
    }
    pl.DataFrame(table).write_csv("d.csv")
    uses = read(Config(data="d.csv")).uses
    assert [use.column for use in uses] == list(table)
    assert {use.column: use.why for use in uses if use.role == "not used"} == {
        "": "counts the rows",
        "id": "an id by its name",
        "when": "dates",
        "score": "numbers, beside text",
        "ok": "0 and 1, beside text",
        "kind": "3 different values, taken for codes",
        "same": "the same in every row",
        "nothing": "empty",
        "hash": "another code in each row",
    }
    assert {use.column: use.role for use in uses if use.role != "not used"} == {"text": "text", "labels": "label"}
    training = read(Config(data="d.csv", features=("score", "kind"), group="id"))
    roles = {use.column: (use.role, use.why) for use in training.uses}
    assert roles["score"] == ("feature", "numeric")
    assert roles["kind"] == ("category", "3 values")
    assert roles["text"] == ("not used", "text, not named")
    assert roles["id"] == ("group", "")


# The files that went wrong


CASES = Path(os.environ.get("MANYHOT_DATA", Path(__file__).parents[4] / "shared" / "data")).parent / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"no cases in {CASES}; set MANYHOT_DATA")


def of_case(name, **options):
    return read(Config(data=str(CASES / name), **options))


@needs_cases
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "labels", "said"),
    [
        ("entity_in_label.csv", ["R&amp;D cost", "food", "place", "staff"], "labels (separated by ',', 4 labels)"),
        ("decimal_comma.csv", NAMES, "numbers with a decimal comma: width, height, depth"),
        ("label_objects.jsonl", ["price", "place", "food", "staff"], "labels: cats (objects, 4 labels)"),
        ("devanagari.csv", NAMES, "labels: labels (separated by '|', 4 labels)"),
    ],
)
def test_cases_are_read(name, labels, said):
    training = of_case(name)
    assert training.train.label_names == labels
    assert any(said in sentence for sentence in training.said)
    # All of them are of the same rows, and only their writing differs.
    assert int(training.train.targets.sum()) == 251
    assert training.train.rows == 120


@needs_cases
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tuple_vectors.csv", "got vectors of 4 0s and 1s, such as '(1, 0, 0, 1)'; name the 4 labels in their order"),
        ("two_label_vectors.jsonl", "got vectors of 2 0s and 1s, such as [1, 1]; name the 2 labels in their order"),
        ("one_plain_among_lists.csv", "row 58, column 'labels': expected a list as in most cells, got 'price'; write"),
    ],
)
def test_cases_are_refused_with_what_to_type(name, expected):
    with pytest.raises(InputError) as caught:
        of_case(name)
    assert expected in str(caught.value)


@needs_cases
@pytest.mark.data
def test_cases_of_vectors_with_their_names():
    Path("names.txt").write_text("staff\nprice\nplace\nfood\n")
    training = of_case("tuple_vectors.csv", label_names="names.txt")
    assert label_sets(training.train)[:2] == [{"staff", "food"}, {"staff", "price", "place"}]
    assert int(training.train.targets.sum()) == 251


@needs_cases
@pytest.mark.data
def test_the_case_of_one_row_a_label():
    training = of_case("one_row_a_label.csv")
    assert "texts stand in several rows with different labels" in training.warned[0]
    joined = of_case("one_row_a_label.csv", join=True)
    assert (joined.train.rows, int(joined.train.targets.sum())) == (120, 251)


ROWS = [["good soup, hot", "food"], ["bad waiter", "staff"], ["nice soup", "food|staff"]]


@pytest.mark.parametrize(("separator", "quote"), [(";", '"'), (";", ""), ("\t", '"'), ("\t", ""), (",", '"')])
@pytest.mark.parametrize("name", ["text", "text, long", "size (cm, kg)"])
def test_a_csv_by_other_separators_may_have_quotes_and_commas(separator, quote, name):
    lines = [[name, "labels"], *ROWS]
    text = "".join(separator.join(f"{quote}{cell}{quote}" for cell in line) + "\n" for line in lines)
    Path("d.csv").write_text(text)
    training = read(Config(data="d.csv", text=(name,)))
    assert training.train.texts == [cell for cell, _ in ROWS]
    assert training.train.label_names == ["food", "staff"]


def test_a_csv_whose_cells_have_semicolons_is_parted_by_commas():
    Path("d.csv").write_text('text,labels\n"a; b; c",x\nd; e,"x|y"\nf,y\n')
    assert read(Config(data="d.csv")).train.texts == ["a; b; c", "d; e", "f"]


def test_numbers_beyond_seven_digits_are_said():
    rows = 60
    table = {"ts": [1_700_000_000 + k for k in range(rows)], "b": [k / 7 for k in range(rows)]}
    pl.DataFrame(table | {"labels": ["p|q", "q", "p"] * 20}).write_csv("d.csv")
    (said,) = read(Config(data="d.csv", features=("ts", "b"))).warned
    assert said.startswith("numbers are kept with seven digits, and some differ beyond them: ts (60 values become 1)")
    pl.DataFrame(table | {"ts": range(rows), "labels": ["p|q", "q", "p"] * 20}).write_csv("d.csv")
    assert not read(Config(data="d.csv", features=("ts", "b"))).warned
