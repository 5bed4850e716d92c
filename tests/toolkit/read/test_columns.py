"""Which column plays which part, and what comes out of the cells; bad cells with their row and column."""

import os
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.columns import Columns, find_columns
from manyhot.toolkit.read.data import Matrix, read_file, read_label_names
from manyhot.toolkit.read.examples import Examples, check_trainable, examples_from_frame, examples_from_matrix
from manyhot.toolkit.read.uses import are_dates, are_worded

DATA = Path(os.environ.get("MANYHOT_DATA", Path(__file__).parents[4] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}; set MANYHOT_DATA")

TEXTS = ["a red fox", "two blue birds", "the green tree", "one more line"]


def find(columns, **options):
    return find_columns(pl.DataFrame(columns), "f.csv", **options)[:2]


def read(columns, found, **options):
    return examples_from_frame(pl.DataFrame(columns), found, "f.csv", **options)


def label_sets(examples):
    assert examples.targets is not None
    assert examples.targets.dtype == bool
    return [{examples.label_names[i] for i in np.flatnonzero(row)} for row in examples.targets.toarray()]


def both(columns, **options):
    found, _ = find(columns, **options)
    return found, read(columns, found, label_names=options.get("label_names"))


def refused(action, *arguments, **options):
    with pytest.raises(InputError) as caught:
        action(*arguments, **options)
    message = str(caught.value)
    assert message.startswith("f.csv")
    assert "expected" in message or "needs" in message
    assert ";" in message, "a message ends with what to do next"
    return message


# Labels


def test_list_column():
    found, examples = both({"t": TEXTS, "r90": [["b", "a"], [], None, ["b", " b ", "", "c"]], "n": [4, 2, 9, 1]})
    assert found == Columns(text=("t",), labels=("r90",))
    assert examples.label_names == ["a", "b", "c"]
    assert label_sets(examples) == [{"a", "b"}, set(), set(), {"b", "c"}]
    assert examples.texts == TEXTS
    assert examples.numbers is None
    assert examples.rows == 4
    assert examples.source == "f.csv"


def test_sentences_say_what_was_found_and_what_is_not_used():
    said = find({"t": TEXTS, "r90": [["b"], ["a"], [], ["b"]], "n": [4, 2, 9, 1], "day": ["x", "y", "y", "x"]})[1]
    assert said == [
        "text: t",
        "labels: r90 (a list column, 2 labels)",
        "not used: n: numbers, beside text; --text t --features n adds it",
        "not used: day: 2 different values, taken for codes; --text t,day adds it",
    ]
    said = find({f"f{i}": [0.5, i, 3, 7] for i in range(14)} | {"y": ["a;b", "b", "", "c"]})[1]
    names = ", ".join(f"f{i}" for i in range(12))
    assert said == [f"features: {names} and 2 more (14 numeric columns)", "labels: y (separated by ';', 3 labels)"]
    assert (
        find({"t": TEXTS, "a": [0, 1, 1, 0], "b": ["1", "0", "1", "1"]})[1][1] == "labels: a, b (2 columns of 0 and 1)"
    )
    assert find({"t": TEXTS, "label": ["x", "y", "x", "z"]})[1][1] == "labels: label (one label a cell, 3 labels)"


def test_list_column_of_whole_numbers_and_of_categories():
    assert label_sets(both({"t": TEXTS, "l": [[10, 2], [2], [], [10]]})[1]) == [{"10", "2"}, {"2"}, set(), {"10"}]
    lists = pl.Series([["u"], ["v", "u"], [], None], dtype=pl.List(pl.Categorical))
    assert label_sets(both({"t": TEXTS, "l": lists})[1]) == [{"u"}, {"u", "v"}, set(), set()]


def test_several_list_columns_take_the_one_with_a_telling_name():
    columns = {"t": TEXTS, "r90": [["a"], ["b"], [], []], "Topics": [["c"], ["d"], [], []]}
    assert find(columns)[0].labels == ("Topics",)
    assert find(columns, labels=["r90"])[0].labels == ("r90",)
    message = refused(find, {"t": TEXTS, "p": [["a"]] * 4, "q": [["b"]] * 4})
    assert message.endswith("expected one column of labels, got p, q; say which: --labels p or --labels q")
    message = refused(find, {"t": TEXTS, "tags": [["a"]] * 4, "genres": [["b"]] * 4, "q": [["b"]] * 4})
    assert "--labels tags or --labels genres" in message


def test_telling_name_goes_before_a_list_without_one():
    assert find({"t": TEXTS, "tokens": [["a"], ["b"]] * 2, "tags": ["x|y", "y", "x", "z"]})[0].labels == ("tags",)


@pytest.mark.parametrize(
    ("cells", "sep"),
    [
        (["a|b, c", "b, c", "", "a"], "|"),
        (["a;b,x", "b,x", None, "a"], ";"),
        (["a, b", "b", " ", "a"], ","),
        (["a", "b", "", "a"], None),
        (["a|b"] + ["a;b", "b"] * 99 + ["a"], ";"),  # one in 200 is below one per cent
    ],
)
def test_separator_is_found(cells, sep):
    found, examples = both({"t": [f"the line {i}" for i in range(len(cells))], "LABELS": cells})
    assert found.label_format == "separated"
    assert found.label_sep == sep
    expected = [{part.strip() for part in (cell or "").split(sep or "\0")} - {""} for cell in cells]
    assert label_sets(examples) == expected


def test_separator_given():
    found, examples = both({"t": TEXTS, "k": ["a/b", "b", "a/ /b/a", None]}, labels=["k"], label_sep="/")
    assert found.label_sep == "/"
    assert label_sets(examples) == [{"a", "b"}, {"b"}, {"a", "b"}, set()]


@pytest.mark.parametrize("labels", [None, ["tags"]])
def test_lists_written_as_text(labels):
    cells = ["['it''s', \"b\"]", '["b", "c\\u00e9"]', "[]", None]
    cells[0] = """['it\\'s', "b"]"""
    found, examples = both({"t": TEXTS, "tags": cells}, labels=labels)
    assert found.label_format == "list"
    assert label_sets(examples) == [{"it's", "b"}, {"b", "cé"}, set(), set()]
    assert label_sets(read({"t": TEXTS, "tags": [["b"], [], ["z"], ["b"]]}, found)) == [{"b"}, set(), {"z"}, {"b"}]


@pytest.mark.parametrize(
    "cell", ["['a' 'b']", "[a, b]", "[print('x')]", "[['a']]", "[1.5]", "(a)", "['a'", "[" * 5000 + "]" * 5000]
)
def test_lists_written_wrongly_as_text(cell):
    found = Columns(text=("t",), labels=("tags",), label_format="list")
    message = refused(read, {"t": TEXTS, "tags": ["['a']", "", cell, None]}, found)
    assert message.startswith('f.csv, row 3, column \'tags\': expected a list of labels such as ["a", "b"], got ')


def test_indicator_columns_in_any_writing():
    columns = {
        "t": TEXTS,
        "a": ["0", "1", " 1", "0"],
        "b": [0.0, 1.0, 0.0, 1.0],
        "c": [True, False, False, True],
        "d": ["true", "False", "0.0", "1.0"],
        "n": [0, 1, 2, 1],
    }
    found, examples = both(columns)
    assert found == Columns(text=("t",), labels=("a", "b", "c", "d"), label_format="indicator")
    assert label_sets(examples) == [{"c", "d"}, {"a", "b"}, {"a"}, {"b", "c", "d"}]
    assert label_sets(both(columns, labels=["d", "a"])[1]) == [{"d"}, {"a"}, {"a"}, {"d"}]


@pytest.mark.parametrize("first", [True, False])
def test_block_of_indicators_without_text(first):
    numbers = {"f1": [0.5, 1, 2, 3]}
    truths = {"a": [0, 1, 0, 1], "b": [1, 1, 0, 0]}
    columns = {"id": [5, 9, 11, 3]} | (truths | numbers if first else numbers | truths)
    found = find(columns)[0]
    assert found == Columns(features=("f1",), labels=("a", "b"), label_format="indicator")


def test_indicators_that_cannot_be_told_from_features():
    truth, number = [0, 1, 0, 1], [0.5, 1, 2, 3]
    for columns in (
        {"a": truth, "f": number, "b": truth},
        {"f": number, "a": truth, "b": truth, "g": number},
        {"a": truth, "b": truth, "f": number, "c": truth},
        {"a": truth, "b": truth},
    ):
        message = refused(find, columns)
        assert "in one block before or after the other numeric columns" in message
        assert message.endswith("say which are labels: --labels a,b")
    found = find({"a": truth, "f": number, "b": truth, "c": truth}, labels=["a", "c"])[0]
    assert found.features == ("f", "b")
    found = find({"a": truth, "f": number, "b": truth, "c": truth}, features=["f", "b"])[0]
    assert found.labels == ("a", "c")


def test_ids_with_label_names():
    names = ["anger", "fear", "joy"]
    found, examples = both({"t": TEXTS, "label": ["0,2", "1", "", " 2,02"]}, label_names=names)
    assert found.label_format == "ids"
    assert found.label_sep == ","
    assert examples.label_names == names
    assert label_sets(examples) == [{"anger", "joy"}, {"fear"}, set(), {"joy"}]
    for cells in (["[0, 2]", "[1]", "[]", "[2]"], [[0, 2], [1], [], [2]]):
        found, examples = both({"t": TEXTS, "label": cells}, label_names=names)
        assert found == Columns(text=("t",), labels=("label",), label_format="ids")
        assert label_sets(examples) == [{"anger", "joy"}, {"fear"}, set(), {"joy"}]
    assert label_sets(both({"t": TEXTS, "label": [2, 0, None, 1]}, label_names=names)[1])[0] == {"joy"}
    # two names and every cell one position is no 0/1 column
    assert label_sets(both({"t": TEXTS, "label": ["0", "1", "1", "0"]}, label_names=names[:2])[1])[1] == {"fear"}
    with pytest.raises(ValueError, match="ids need label_names"):
        read({"t": TEXTS, "label": ["0", "1", "1", "0"]}, found)


@pytest.mark.parametrize("cell", ["3", "-1", "99999999999999999999"])
def test_ids_out_of_range(cell):
    message = refused(find, {"t": TEXTS, "label": ["0", "1", cell, "2"]}, label_names=["a", "b", "c"])
    assert message.startswith(
        f"f.csv, row 3, column 'label': expected a position from 0 to 2 in the label names, got '{cell}'; correct"
    )
    ids = Columns(text=("t",), labels=("label",), label_format="ids", label_sep=",")
    assert "row 2, column 'label': expected a position from 0 to 2 in the label names, got 'x'" in refused(
        read, {"t": TEXTS, "label": ["0", "1,x", "1", "2"]}, ids, label_names=["a", "b", "c"]
    )


def test_names_file_fixes_labels_and_order():
    names = ["zinc", "earn", "acq"]
    found, examples = both({"t": TEXTS, "label": ["earn|zinc", "earn", "", "zinc"]}, label_names=names)
    assert found.label_format == "separated"
    assert examples.label_names == names
    assert label_sets(examples) == [{"earn", "zinc"}, {"earn"}, set(), {"zinc"}]
    assert examples.targets is not None
    assert examples.targets.toarray().tolist()[0] == [True, True, False]
    # names that are numbers are names, not positions
    found, examples = both({"t": TEXTS, "label": ["1990", "1991", "", "1990"]}, label_names=["1991", "1990"])
    assert found.label_format == "separated"
    assert label_sets(examples)[0] == {"1990"}
    message = refused(find, {"t": TEXTS, "label": ["earn", "eran", "", "acq"]}, label_names=names)
    assert (
        "row 2, column 'label': expected one of the 3 label names, got 'eran' (did you mean 'earn'?); correct"
        in message
    )


def test_later_file_keeps_its_own_labels():
    found, _ = both({"t": TEXTS, "tags": ["a|b", "b", "", "a"]})
    examples = read({"tags": ["b|new", None], "t": ["x", "y"]}, found)
    assert examples.label_names == ["b", "new"]
    assert label_sets(examples) == [{"b", "new"}, set()]


def test_chinese_and_arabic():
    texts = ["今天天气很好我们去公园", "股市今天大幅上涨了三点", "那支球队赢得了总决赛", "医院今天正式开门接诊"]
    found, examples = both(
        {"文本": texts, "编号": ["x1", "x2", "x3", "x4"], "labels": ["体育|财经", "财经", "رياضة", "体育"]}
    )
    assert found == Columns(text=("文本",), labels=("labels",), label_format="separated", label_sep="|")
    assert examples.label_names == sorted(["体育", "财经", "رياضة"])
    assert label_sets(examples) == [{"体育", "财经"}, {"财经"}, {"رياضة"}, {"体育"}]
    arabic = ["هذا نص قصير", "وهذا نص آخر", "كلمات كثيرة هنا", "سطر رابع جديد"]
    assert find({"نص": arabic, "رياضة": ["1", "0", "1", "0"], "مال": ["0", "0", "1", "1"]})[0].labels == (
        "رياضة",
        "مال",
    )


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"t": TEXTS, "n": [1.5, 2, 3, 4]}, {}, r"got t \(text or codes\), n \(numeric\); name them: --labels COLUMN"),
        ({"t": TEXTS, "a": [0, 1, 0, 1]}, {}, r"expected a list column, a column named labels, .* or two or more 0/1"),
        (
            {"t": TEXTS, "a": [0, 1, 0, 1]},
            {"labels": ["a"]},
            r"needs at least two labels, got one column of 0 and 1; .*a,C",
        ),
        ({"t": TEXTS, "tags": ["", None, " ", ""]}, {}, r"column 'tags': expected labels, got only empty cells; name"),
        ({"t": TEXTS, "l": [[], [], None, []]}, {}, r"column 'l': expected labels, got only empty cells"),
        ({"t": TEXTS, "tags": [None] * 4}, {}, r"column 'tags': expected labels, got only empty cells"),
        (
            {"t": TEXTS, "k": [1.5, 2, 3, 4]},
            {"labels": ["k"]},
            r"'k': expected labels as a list, .*got a float64 column",
        ),
        ({"t": TEXTS, "k": [{"a": 1}] * 4}, {"labels": ["k"]}, r"got a struct column; name another column"),
        ({"t": TEXTS, "k": [[[1]]] * 4}, {"labels": ["k"]}, r"got a list of list of int64 column"),
        (
            {"t": TEXTS, "l": [["a"], ["b"]] * 2},
            {"label_sep": ","},
            r"to split at ',', got lists; leave --label-sep out",
        ),
        ({"t": TEXTS, "tags": ["a", "b"] * 2}, {"label_sep": ""}, r"expected a separator of at least one character"),
        (
            {"t": TEXTS, "a": [0, 1] * 2, "b": [0, 1] * 2},
            {"label_names": ["a", "b"]},
            r"expected one column of labels with --label-names, got the columns a, b, .*leave --label-names out",
        ),
        (
            {"t": TEXTS, "l": [[0, 1, 1], [1, 0, 0]] * 2},
            {},
            r"column 'l': expected the names .*got vectors of 3 0s and 1s, such as \[0, 1, 1\]; .*--label-names FILE",
        ),
    ],
)
def test_labels_that_cannot_be_used(columns, options, expected):
    assert re.search(expected, refused(find, columns, **options))


def test_bad_indicator_cells():
    found = Columns(text=("t",), labels=("a", "b"), label_format="indicator")
    good = ["0", "1", "1", "0"]
    for bad, got in (("2", "'2'"), ("yes", "'yes'"), ("inf", "'inf'"), ("-2", "'-2'")):
        message = refused(read, {"t": TEXTS, "a": good, "b": ["0", "1", bad, "1"]}, found)
        assert message.startswith(f"f.csv, row 3, column 'b': expected 0 or 1, got {got}; correct the cell")
    message = refused(read, {"t": TEXTS, "a": good, "b": [["x"]] * 4}, found)
    assert "column 'b': expected 0 and 1, got a list of string column" in message
    # a missing cell does not hide that a column is one of labels
    assert find({"t": TEXTS, "a": good, "b": ["0", "", "1", "1"]})[0].labels == ("a", "b")


# Text


def test_text_columns_are_joined_and_missing_cells_are_empty():
    columns = {"title": ["A", None, "C", ""], "text": TEXTS, "tags": ["a", "b", "b", "a"]}
    found, examples = both(columns)
    assert found.text == ("title", "text")
    assert examples.texts == ["A\na red fox", "\ntwo blue birds", "C\nthe green tree", "\none more line"]
    assert both(columns, text=["text", "title"])[1].texts == [
        "a red fox\nA",
        "two blue birds\n",
        "the green tree\nC",
        "one more line\n",
    ]


@pytest.mark.parametrize(
    "cells",
    [
        ["id001", "id002", "id003", "id004"],
        ["26-FEB-1987 15:01:01.79", "3-MAR-1987 09:10:44.60", "Thu, 26 Feb 1987 10:00 GMT", "March 3rd, 1987 11 pm"],
        ["2020-01-01 10:00:00", "2020-01-02T11:00:00Z", "01/02/2020 5:10 AM", "2020-01-04 12:30"],
        ["very good", "very bad", "very good", "very good"],
        ["体育", "财经", "科技", "汽车"],
        ["http://a.b/1", "http://a.b/2", "http://a.b/3", "http://a.b/4"],
    ],
)
def test_what_is_no_text(cells):
    found, said = find({"about": cells, "t": TEXTS, "tags": ["a", "b", "b", "a"]})
    assert found.text == ("t",)
    assert said[-1].startswith("not used: about: ")


def test_name_says_that_it_is_text():
    columns = {"Comment": ["good", "good", "bad", "good"], "Review": ["1", "2", "5", "1"], "tags": ["a", "b", "b", "a"]}
    assert find(columns)[0] == Columns(text=("Comment",), labels=("tags",), label_format="separated")


def test_text_in_typed_columns():
    found = Columns(text=("t", "u"), labels=("l",))
    columns = {"t": pl.Series(["x", "y"], dtype=pl.Categorical), "u": [1, None]}
    assert read(columns, found, with_labels=False).texts == ["x\n1", "y\n"]
    assert read({"t": ["x"], "u": [None]}, found, with_labels=False).texts == ["x\n"]
    message = refused(read, {"t": ["x"], "u": [["a"]]}, found, with_labels=False)
    assert "column 'u': expected text, got a list of string column; write it as text" in message


# Features


def test_numeric_columns_that_are_no_ids_are_features():
    columns = {
        "": ["9", "3", "1", "7"],
        "user_id": [4, 9, 1, 3],
        "count": [11, 12, 13, 14],
        "code": ["007", "010", "100", "200"],
        "x": ["1.5", " -2 ", "+3e1", "0.5"],
        "ok": ["0", "1", "0", "1"],
        "y1": [5, 1, 1, 2],
        "name": ["a", "b", "a", "b"],
        "tags": ["a", "b", "b", "a"],
    }
    found, examples = both(columns)
    assert found.features == ("x", "ok", "y1")
    assert found.categories == ("name",)
    assert isinstance(examples.numbers, np.ndarray)
    assert examples.numbers.dtype == np.float32
    assert examples.numbers.flags.c_contiguous
    assert examples.numbers.flags.writeable
    np.testing.assert_array_equal(examples.numbers, [[1.5, 0, 5], [-2, 1, 1], [30, 0, 1], [0.5, 1, 2]])
    assert examples.texts is None
    assert examples.rows == 4


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["0", "-0", "0.0", "10"], True),
        (["1", "", None, "2.5"], True),
        (["0e1", ".5", "5.", "1E-3"], True),
        (["1", "00", "2", "3"], False),
        (["01", "2", "3", "4"], False),
        (["1", "n/a", "2", "3"], True),
        (["1", "odd", "2", "3"], False),
        (["1,5", "2,5", "3", "4"], True),
        (["1,500", "2,500", "3", "4"], False),
        (["", "", None, " "], False),
    ],
)
def test_what_is_a_numeric_column(cells, numeric):
    found, said = find({"x": cells, "f": [9.5, 1, 3, 2], "tags": ["a", "b", "b", "a"]})
    assert found.features == (("x", "f") if numeric else ("f",))
    assert any(sentence.startswith("not used: x: ") for sentence in said) != numeric


def test_whole_column_decides_and_not_its_first_rows():
    many = {
        "x": ["1"] * 500 + ["a"],
        "z": ["1"] * 500 + ["3"],
        "f": [0.5, 2] * 250 + [1],
        "tags": ["a", "b"] * 250 + ["c"],
    }
    assert find(many)[0].features == ("z", "f")


def test_features_beside_text_only_where_they_are_named():
    columns = {"t": TEXTS, "x": [1.5, 2, 4, 3], "tags": ["a", "b", "b", "a"]}
    assert find(columns)[0] == Columns(text=("t",), labels=("tags",), label_format="separated")
    assert find(columns)[1][-1] == "not used: x: numbers, beside text; --text t --features x adds it"
    assert find(columns, features=["x"])[0].text == ()
    found, examples = both(columns, text=["t"], features=["x"])
    assert (found.text, found.features) == (("t",), ("x",))
    assert examples.texts == TEXTS
    assert isinstance(examples.numbers, np.ndarray)
    assert examples.numbers.tolist() == [[1.5], [2], [4], [3]]


def test_names_that_look_like_patterns():
    columns = {"*": [1.5, 2, 4, 3], "^x.*$": ["3", "1", "8", " 5"], "tags": ["a", "b", "b", "a"]}
    found, examples = both(columns)
    assert found.features == ("*", "^x.*$")
    assert isinstance(examples.numbers, np.ndarray)
    assert examples.numbers.tolist() == [[1.5, 3], [2, 1], [4, 8], [3, 5]]


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        ("x", "'x'"),
        ("-inf", "'-inf'"),
        ("1e39", "'1e39'"),
    ],
)
def test_bad_features_as_text(bad, got):
    found = Columns(features=("x", "z"), labels=("tags",))
    message = refused(read, {"x": ["1", "2", "3"], "z": ["1", bad, "oops"]}, found, with_labels=False)
    assert message.startswith(
        f"f.csv, row 2, column 'z': expected a finite number that float32 can hold, got {got}; correct the cell"
    )


@pytest.mark.parametrize(("bad", "got"), [(float("nan"), "nan"), (float("inf"), "inf"), (1e300, "1e+300")])
def test_bad_features_as_numbers(bad, got):
    found = Columns(features=("x", "z"), labels=("tags",))
    message = refused(read, {"x": [1, 2, 3], "z": [1.0, 2.0, bad]}, found, with_labels=False)
    assert f"row 3, column 'z': expected a finite number that float32 can hold, got {got};" in message
    message = refused(read, {"x": [1, 2, 3], "z": [["a"]] * 3}, found, with_labels=False)
    assert "column 'z': expected finite numbers, got a list of string column; write it as numbers" in message


@pytest.mark.parametrize(
    "cells",
    [
        ["1.5", "", " ", None],
        ["1.5", "NA", " NaN ", "?"],
        [1.5, None, None, None],
        pl.Series([1, None, None, None], dtype=pl.Int32),
    ],
)
def test_empty_feature_cells_are_missing(cells):
    found = Columns(features=("x", "z"), labels=("tags",))
    numbers = read({"x": [1, 2, 3, 4], "z": cells}, found, with_labels=False).numbers
    assert np.isnan(numbers).tolist() == [[False, False], [False, True], [False, True], [False, True]]
    assert numbers[0].tolist() == [1, float(cells[0])]


@pytest.mark.parametrize("word", ["NA", "NaN", "N/A", "null", "?", " NA "])
def test_a_word_for_nothing_among_numbers_is_a_missing_number(word):
    columns = {"age": ["20", word, "30.5", "41"], "b": ["1,5", word, "2,25", "7"], "tags": ["a", "b", "b", "a"]}
    found, examples = both(columns)
    assert found.features == ("age", "b")
    np.testing.assert_array_equal(examples.numbers, [[20, 1.5], [np.nan] * 2, [30.5, 2.25], [41, 7]])


@pytest.mark.parametrize("word", ["none", "-1x", "unknown"])
def test_other_words_among_numbers_are_no_missing_ones(word):
    assert find({"x": [1.5, 2, 3, 4], "n": ["1", word, "1", word], "tags": ["a", "b", "b", "a"]})[0].categories == (
        "n",
    )


def test_a_column_of_nothing_but_words_for_nothing_is_no_number():
    found, said = find({"x": [1.5, 2, 3, 4], "n": ["NA"] * 4, "tags": ["a", "b", "b", "a"]})
    assert "n" not in found.features
    assert any("n" in line for line in said)


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        (["1,234.50", "12.25", "7", "2,000,000"], "'1,234.50'"),
        (["1.234,56", "1.234.567,5", "7", "10,5"], "'1.234,56'"),
        (["1 234", "12 345,5", "7", "8"], "'1 234'"),
        (["1'234.5", "99", "7", "8"], '"1\'234.5"'),
    ],
)
def test_numbers_with_separators_of_thousands_are_named_as_such(cells, shown):
    columns = {"x": [0.5, 2, 1, 7], "a": cells, "tags": ["a", "b", "b", "a"]}
    _, said = find(columns)
    assert f"not used: a: numbers such as {shown}: write them without separators" in said
    message = refused(find, columns, features=["x", "a"])
    assert f"column 'a': expected numbers, got some such as {shown}; write them without separators" in message


DATES = [
    "20240131T1000",
    "2024-01-31",
    "31.12.2024",
    "1/2/24",
    "Jan 2024",
    "12:30:15",
    "2024-01-31T10:00:00Z",
    "3rd May 2021",
    "2024.1.31",
]


@pytest.mark.parametrize("date", DATES)
def test_dates(date):
    assert are_dates(pl.Series([date] * 3))


@pytest.mark.parametrize("cell", ["10.0.3.17", "+49 30 1234", "1,234.50", "1.234,56", "555-0199-222", "1-2", "12.5"])
def test_what_is_no_date(cell):
    assert not are_dates(pl.Series([cell] * 3))
    assert not are_worded(pl.Series([cell] * 3))


def test_a_column_with_white_space_round_its_name_is_found_by_the_name():
    columns = {"text": TEXTS, " labels": ["a", "b", "b", "a"], "n ": [1.5, 2, 3, 4]}
    found, _ = find(columns, labels=["labels"], features=["n"])
    assert found.labels == (" labels",)
    assert found.features == ("n ",)
    assert "expected a column 'other'" in refused(find, columns, labels=["other"])


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["12 345", "7", "101 222", "7 345"], None),
        (["3", "2", "NA", "3"], ["2", "3"]),
        (["3", "2", "?", " "], ["2", "3"]),
        (["1,234", "2,345", "1,234", "2,345"], None),
    ],
)
@pytest.mark.parametrize("one_class", [False, True])
def test_ids_of_labels_are_no_numbers(cells, names, one_class):
    columns = {"text": TEXTS, "labels": cells}
    found, _ = find(columns, one_class=one_class)
    assert found.labels == ("labels",)
    if names:
        assert read(columns, found).label_names == names
    if "," not in cells[0]:
        several = {"text": TEXTS, "label1": cells, "label2": ["9 100", "8", "NA", "7"]}
        assert find(several)[0].labels == ("label1", "label2")


def test_a_number_with_a_fraction_of_0_is_no_label_of_a_set():
    message = refused(find, {"text": TEXTS, "label": ["1.0", "2.0", "1.0", "2.0"]})
    assert "expected a list column, a column named" in message


@pytest.mark.parametrize(
    "cells",
    [["True", "False", "True", "False"], [True, False, True, False], ["1.0", "2.0"] * 2, ["1.0", "NA", "2.0", "1.0"]],
)
def test_classes_that_are_truths_or_whole_numbers(cells):
    found, _ = find({"text": TEXTS, "label": cells}, one_class=True)
    assert found.labels == ("label",)


def test_columns_of_few_values_are_categories():
    columns = {
        "x": [0.5, 2, 1, 7],
        "colour": [" red", "blue", "red", None],
        "zip": ["007", "010", "007", ""],
        "name": ["a", "b", "c", "d"],
        "tags": ["a", "b", "b", "a"],
    }
    found, said = find(columns)
    assert found == Columns(features=("x",), categories=("colour", "zip"), labels=("tags",), label_format="separated")
    assert said == [
        "features: x (1 numeric column)",
        "categories: colour (2 values), zip (2 values); a column a value, and one for those seen once or never",
        "labels: tags (one label a cell, 2 labels)",
        "not used: name: another code in each row",
    ]
    examples = read(columns, found)
    assert examples.categories is not None
    assert examples.categories.rows() == [("red", "007"), ("blue", "010"), ("red", "007"), (None, None)]
    assert examples.taken(np.array([3, 1])).categories.rows() == [(None, None), ("blue", "010")]  # pyright: ignore
    # Named, a column is a category however many values it has; beside text, and where others are named, none is found.
    assert find(columns, features=["name"])[0].categories == ("name",)
    assert find(columns, features=["name", "x"])[0].features == ("x",)
    assert find({"t": TEXTS} | columns)[0].categories == ()
    assert find({"t": TEXTS} | columns, text=["t"], features=["colour"])[0].categories == ("colour",)
    del columns["x"]
    assert find(columns)[0].categories == ("colour", "zip")


@pytest.mark.parametrize(("values", "rows", "category"), [(50, 100, True), (51, 110, False), (5, 9, False)])
def test_how_many_values_a_category_has(values, rows, category):
    cells = [f"v{i % values}" for i in range(rows)]
    columns = {"c": cells, "x": [i * 1.5 for i in range(rows)], "tags": ["a", "b"] * (rows // 2) + ["a"] * (rows % 2)}
    assert find(columns)[0].categories == (("c",) if category else ())


def test_codes_of_a_later_file_may_be_numbers():
    found = Columns(categories=("zip",), labels=("tags",))
    examples = read({"zip": [7, None, 10]}, found, with_labels=False)
    assert examples.categories is not None
    assert examples.categories.rows() == [("7",), (None,), ("10",)]
    floats = read({"zip": [7.0, None, 10.5]}, found, with_labels=False).categories
    assert floats is not None
    assert floats.rows() == [("7",), (None,), ("10.5",)]
    assert examples.rows == 3
    message = refused(read, {"zip": [["a"]]}, found, with_labels=False)
    assert "column 'zip': expected text or codes, got a list of string column; write it as text" in message


@pytest.mark.parametrize("dtype", [pl.List(pl.Float64), pl.List(pl.Float32), pl.Array(pl.Float64, 3)])
def test_lists_of_numbers_are_features(dtype):
    vectors = pl.Series("v", [[0.5, 1, 2], [3, 4.5, 5], [6, 7, 8], [9, 1, 2]], dtype=dtype)
    found, examples = both({"x": [3.5, 1, 2, 0], "v": vectors, "z": [1.0, 2, 2, 5.5], "tags": ["a", "b", "b", "a"]})
    assert found.features == ("x", "v", "z")
    assert examples.numbers.dtype == np.float32
    assert examples.numbers.tolist() == [[3.5, 0.5, 1, 2, 1], [1, 3, 4.5, 5, 2], [2, 6, 7, 8, 2], [0, 9, 1, 2, 5.5]]
    assert find({"t": TEXTS, "v": vectors, "tags": ["a", "b", "b", "a"]})[0].features == ()


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (
            [[1.5, 2], [1, 2, 3], [1, 2]],
            r"row 2, column 'v': expected 2 numbers as in row 1, got 3; write",
        ),
        ([[1.5, 2], [1, 2], None], r"row 3, column 'v': expected 2 numbers as in row 1, got an empty cell"),
        ([None, [1.5, 2], [1, 2]], r"row 1, column 'v': expected a list of numbers, got an empty cell"),
        ([[1.5, 2], [1.0, float("nan")], [1, 2]], r"row 2, column 'v', number 2: expected a finite number .*, got nan"),
        ([[1.5, 2], [None, 2], [1, 2]], r"row 2, column 'v', number 1: expected a finite number .*, got None"),
        ([[1.5, 2], [1e39, 2], [1, 2]], r"row 2, column 'v', number 1: expected a finite number .*, got 1e\+39"),
    ],
)
def test_bad_lists_of_numbers(cells, expected):
    assert re.search(expected, refused(read, {"v": cells}, Columns(features=("v",)), with_labels=False))


def test_shares_of_half_or_more_are_labels():
    columns = {"t": TEXTS, "a": ["0", "0.5", "1", "0.49"], "b": [0.2, 1, 0.7, 0], "c": [0, 1, 0, 1], "n": [0, 1, 2, 3]}
    found, said = find(columns)
    assert found == Columns(text=("t",), labels=("a", "b", "c"), label_format="shares")
    assert said[1:] == [
        "labels: a, b, c (3 columns of shares from 0 to 1; a half or more is a label)",
        "not used: n: counts the rows",
    ]
    assert label_sets(read(columns, found)) == [set(), {"a", "b", "c"}, {"a", "b"}, {"c"}]
    for bad, got in (("1.5", "'1.5'"), ("half", "'half'"), ("-0.1", "'-0.1'")):
        message = refused(read, columns | {"a": ["0", bad, "1", "1"]}, found)
        assert message.startswith(f"f.csv, row 2, column 'a': expected a share from 0 to 1, got {got}; correct")
    # Two columns of 0 and 1 are labels, and shares beside them are not; without text shares are features.
    assert find(columns | {"d": [0, 1, 1, 1]})[0].labels == ("c", "d")
    del columns["t"]
    assert find(columns | {"tags": ["a", "b", "b", "a"]})[0].features == ("a", "b", "c")
    assert find(columns, labels=["a", "b"])[0].label_format == "shares"
    assert find(columns, labels=["a", "n"])[0].label_format == "indicator"


# Options and missing columns


def test_given_columns_that_do_not_exist_or_come_twice():
    columns = {"title": TEXTS, "x": [1.5, 2, 3, 4], "tags": ["a", "b", "b", "a"]}
    message = refused(find, columns, text=["titel"])
    assert message == (
        "f.csv: expected a column 'titel', got a file without it (did you mean 'title'?); "
        "name one of its columns: title, x, tags"
    )
    for options in ({"labels": ["zzz"]}, {"features": ["x", "zzz"]}):
        assert "expected a column 'zzz', got a file without it; name one of" in refused(find, columns, **options)
    for options in ({"text": ["title"], "labels": ["title"]}, {"features": ["x", "x"]}):
        assert "expected one part for each column, got" in refused(find, columns, **options)


def test_nothing_to_learn_from():
    message = refused(find, {"id": [1, 2, 3, 4], "code": ["007", "008", "009", "010"], "tags": ["a", "b", "b", "a"]})
    assert message == (
        "f.csv: expected a column of text or numeric columns to learn from, got id (numeric), code (text or codes), "
        "tags (text or codes); name them: --text COLUMN or --features COLUMN,COLUMN"
    )


def test_later_file_without_a_column():
    found = Columns(text=("t",), features=("x", "z"), labels=("tags",), label_format="separated")
    message = refused(read, {"t": TEXTS, "x": [1, 2, 3, 4], "zz": [1, 2, 3, 4]}, found)
    assert message == (
        "f.csv: expected the columns t, x, z, tags as in training, got a file without z, tags; it has t, x, zz: "
        "add or rename the columns"
    )
    matrix = Columns(label_format="matrix")
    assert "expected a matrix (NAME.X.npz), as in training; got a table" in refused(read, {"t": TEXTS}, matrix)


def test_labels_are_ignored_where_they_are_not_asked_for():
    for label_format in ("list", "separated", "indicator", "ids"):
        found = Columns(text=("t",), labels=("tags",), label_format=label_format)
        for columns in ({"t": TEXTS}, {"t": TEXTS, "tags": ["[oops", "", "7", None]}):
            examples = read(columns, found, with_labels=False)
            assert examples == Examples("f.csv", TEXTS, None, None, [])


# Matrices and minimums


def test_matrix_examples():
    x, y = sp.csr_array(np.eye(3, 2, dtype=np.float32)), sp.csr_array(np.eye(3, dtype=bool))
    examples = examples_from_matrix(Matrix(x, y, ["a", "b", "c"]), "f.csv")
    assert examples.numbers is x
    assert examples.texts is None
    assert examples.rows == 3
    assert label_sets(examples) == [{"a"}, {"b"}, {"c"}]
    unlabelled = examples_from_matrix(Matrix(x, None, None), "f.csv", with_labels=False)
    assert (unlabelled.rows, unlabelled.targets, unlabelled.label_names) == (3, None, [])
    assert "expected labels in NAME.Y.npz beside NAME.X.npz, got none" in refused(
        examples_from_matrix, Matrix(x, None, None), "f.csv"
    )


def examples_of(targets, names):
    return Examples("f.csv", ["x"] * len(targets), None, sp.csr_array(np.array(targets, dtype=bool)), names)


@pytest.mark.parametrize(
    ("targets", "names", "expected"),
    [
        ([[1, 0]], ["a", "b"], "training needs at least two rows, got 1; add rows"),
        ([[1], [0]], ["a"], "multi-label learning needs at least two labels, got only a; name another column"),
        ([[0, 0], [0, 0]], ["a", "b"], "expected rows with labels, got none; name another column: --labels COLUMN"),
    ],
)
def test_what_nothing_can_be_learned_from(targets, names, expected):
    assert expected in refused(check_trainable, examples_of(targets, names))


def test_smallest_trainable_examples():
    check_trainable(examples_of([[1, 0], [0, 0]], ["a", "b"]))


# Real files


@pytest.mark.data
@needs_data
def test_reuters():
    path = DATA / "reuters21578" / "modapte_train.jsonl.gz"
    frame = read_file(path)
    assert isinstance(frame, pl.DataFrame)
    found, said, _ = find_columns(frame, path.name, text=["title", "text"], labels=["r90"])
    assert said == [
        "text: title, text",
        "labels: r90 (a list column, 90 labels)",
        "not used: newid: numbers, beside text; --text title,text --features newid adds it",
        "not used: date: dates; --text title,text,date adds it",
        "not used: topics: lists, but not the labels; --labels topics takes it for the labels",
    ]
    examples = examples_from_frame(frame, found, path.name)
    assert examples.targets is not None
    counts = examples.targets.sum(axis=1)
    assert (examples.rows, len(examples.label_names), int((counts > 0).sum())) == (9603, 90, 7770)
    assert round(int(counts.sum()) / 7770, 3) == 1.234
    assert counts.max() == 15
    by_label = dict(zip(examples.label_names, examples.targets.sum(axis=0), strict=True))
    assert by_label["earn"] == 2877
    assert by_label["lin-oil"] == 1
    assert examples.label_names == sorted(read_label_names(DATA / "reuters21578" / "labels_r90.txt"))
    assert examples.texts is not None
    assert examples.texts[0].startswith("BAHIA COCOA REVIEW\nShowers continued throughout the week")
    assert find_columns(frame, path.name)[0] == Columns(text=("title", "text"), labels=("topics",))


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(
    ("language", "labels", "cardinality"), [("eng", 5, 1.567), ("chn", 6, 1.027), ("amh", 6, 1.137), ("arq", 6, 1.770)]
)
def test_semeval_is_found_without_options(language, labels, cardinality):
    path = DATA / "semeval2025_task11a" / "train" / f"{language}.csv.gz"
    frame = read_file(path)
    assert isinstance(frame, pl.DataFrame)
    found, said, _ = find_columns(frame, path.name)
    assert (found.text, found.label_format, len(found.labels)) == (("text",), "indicator", labels)
    assert said[-1] == "not used: id: another code in each row"
    examples = examples_from_frame(frame, found, path.name)
    assert examples.targets is not None
    assert round(int(examples.targets.sum()) / examples.rows, 3) == cardinality


@pytest.mark.data
@needs_data
def test_goemotions_ids():
    path = DATA / "goemotions" / "train.tsv.gz"
    frame = read_file(path, header=False)
    assert isinstance(frame, pl.DataFrame)
    names = read_label_names(DATA / "goemotions" / "labels.txt")
    found, said, _ = find_columns(frame, path.name, labels=["2"], label_names=names)
    assert found == Columns(text=("1",), labels=("2",), label_format="ids", label_sep=",")
    assert said[1:] == [
        "labels: 2 (separated by ',', positions among 28 labels)",
        "not used: 3: another code in each row",
    ]
    examples = examples_from_frame(frame, found, path.name, label_names=names)
    assert examples.targets is not None
    counts = dict(zip(examples.label_names, examples.targets.sum(axis=0), strict=True))
    assert (examples.rows, counts["grief"], counts["neutral"]) == (43410, 77, 14219)
    # Every quote at the start of a field of this file closes at its end, those inside being doubled: CSV quoting.
    assert examples.texts == pl.read_csv(path, separator="\t", has_header=False).to_series(0).to_list()
