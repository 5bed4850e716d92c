"""ARFF, dense and sparse, to numbers and words; which attributes are labels; every broken file with its message."""

import bz2
import contextlib
import gzip
import io
import os
import re
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.io.arff
import scipy.sparse as sp

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.attributes import find_attributes
from manyhot.toolkit.read.columns import Columns
from manyhot.toolkit.read.data import Relation, files_of, read_file
from manyhot.toolkit.read.examples import examples_from_frame, examples_of, read_examples
from manyhot.toolkit.read.formats import arff

DATA = Path(os.environ.get("MANYHOT_DATA", Path(__file__).parents[4] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}; set MANYHOT_DATA")

DENSE = """% a comment
@RELATION 'a set: -C 2'

@Attribute y1 {0,1}
@attribute 'y 2' { 0, 1 }
@ATTRIBUTE x\tREAL
@attribute "it's" {red,'dark blue',"gr\\"een"} % of the sky
@attribute words string
@attribute day date "yyyy-MM-dd"
@attribute n Integer

@DATA
1,0,1.5,red,'it\\'s, here',2020-01-01,3
% in between
0, 1, -2e3 ,'dark blue',"two words",'2020-01-02',-7

1,1,?,?,?,?,0
0,0,.5,'gr"een',don't,?,1
"""
SPARSE = """@relation r
@attribute a numeric
@attribute b {1,0}
@attribute c {low,high}
@attribute t string
@attribute y {0,1}
@attribute z {false,true}
@data
{0 2.5,4 1}
{ }
{1 0, 2 high, 3 'a {b}, c', 5 true}
{5 true,0 ?}
"""


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def relation_of(path) -> Relation:
    relation = read_file(path)
    assert isinstance(relation, Relation)
    return relation


def refused(action, *arguments, **options):
    with pytest.raises(InputError) as caught:
        action(*arguments, **options)
    message = str(caught.value)
    assert "expected" in message
    assert ";" in message or ": add" in message, "a message ends with what to do next"
    assert "\n" not in message
    return message


# Values


def test_dense_rows(tmp_path):
    relation = relation_of(write(tmp_path / "a.arff", DENSE))
    assert relation.name == "a set: -C 2"
    assert [(a.name, a.kind, a.values) for a in relation.attributes] == [
        ("y1", "truth", ("0", "1")),
        ("y 2", "truth", ("0", "1")),
        ("x", "number", ()),
        ("it's", "nominal", ("red", "dark blue", 'gr"een')),
        ("words", "string", ()),
        ("day", "date", ()),
        ("n", "number", ()),
    ]
    expected = [[1, 0, 1.5, 3], [0, 1, -2000, -7], [1, 1, np.nan, 0], [0, 0, 0.5, 1]]
    np.testing.assert_array_equal(relation.numbers.toarray()[:, [0, 1, 2, 6]], np.array(expected, dtype=np.float32))
    assert relation.words.to_dict(as_series=False) == {
        "it's": ["red", "dark blue", None, 'gr"een'],
        "words": ["it's, here", "two words", None, "don't"],
        "day": ["2020-01-01", "2020-01-02", None, None],
    }
    assert relation.lines.tolist() == [13, 15, 17, 18]


def test_sparse_rows_have_the_first_declared_value_where_they_say_nothing(tmp_path):
    relation = relation_of(write(tmp_path / "a.arff", SPARSE))
    expected = [[2.5, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1], [np.nan, 1, 0, 1]]
    np.testing.assert_array_equal(relation.numbers.toarray()[:, [0, 1, 4, 5]], expected)
    assert relation.words.to_dict(as_series=False) == {
        "c": ["low", "low", "high", "low"],
        "t": [None, None, "a {b}, c", None],
    }


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_packed_files_and_line_ends(tmp_path, ending, pack, line_end):
    content = "@relation r\n@attribute a numeric\n@attribute b {0,1}\n@data\n1,0\n2.5,1\n".replace("\n", line_end)
    relation = relation_of(write(tmp_path / f"a.ARFF{ending}", pack(content.encode())))
    assert relation.numbers.toarray().tolist() == [[1, 0], [2.5, 1]]


def numeric(rows, attributes, *, sparse, seed=0):
    """Write random rows, of which about half are zeros, and return the text and the numbers."""
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((rows, attributes)) < 0.5, 0, rng.normal(size=(rows, attributes)))
    values[:, -1] = values[:, -1] > 0
    lines = []
    for row in values:
        cells = [repr(float(x)) if i < attributes - 1 else str(int(x)) for i, x in enumerate(row)]
        lines.append(
            "{" + ",".join(f"{i} {c}" for i, c in enumerate(cells) if row[i]) + "}" if sparse else ",".join(cells)
        )
    header = "".join(f"@attribute a{i} numeric\n" for i in range(attributes - 1)) + "@attribute y {0,1}\n"
    return f"@relation r\n{header}@data\n" + "\n".join(lines) + "\n", values.astype(np.float32)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_quick_reader_and_the_exact_one_agree(tmp_path, monkeypatch, sparse):
    content, values = numeric(37, 5, sparse=sparse)
    monkeypatch.setattr(arff, "_ROWS_A_BATCH", 10)
    path = write(tmp_path / "a.arff", content)
    exactly = arff._read_exactly
    monkeypatch.setattr(arff, "_read_exactly", lambda *_: pytest.fail("plain numbers are read quickly"))
    np.testing.assert_array_equal(relation_of(path).numbers.toarray(), values)
    monkeypatch.setattr(arff, "_read_exactly", exactly)
    monkeypatch.setattr(arff, "_plain_numbers", lambda *_: None)
    np.testing.assert_array_equal(relation_of(path).numbers.toarray(), values)


def test_dense_numbers_are_those_of_scipy(tmp_path):
    content, _ = numeric(50, 7, sparse=False, seed=1)
    rows, _ = scipy.io.arff.loadarff(io.StringIO(content))
    expected = np.array([[float(x) for x in row] for row in rows.tolist()], dtype=np.float32)
    np.testing.assert_array_equal(relation_of(write(tmp_path / "a.arff", content)).numbers.toarray(), expected)


def test_indices_in_any_order_and_white_space_for_commas(tmp_path):
    content = "@relation r\n@attribute a numeric\n@attribute b numeric\n@data\n{1 2,0 1}\n3\t4\n"
    assert relation_of(write(tmp_path / "a.arff", content)).numbers.toarray().tolist() == [[1, 2], [3, 4]]


def test_values_in_every_writing(tmp_path):
    content = "@relation r\n@attribute a { 'x, y' , it's,\"}\", z } % { } comment\n@attribute t string % why\n@data\n"
    rows = "'x, y', plain text \n it's , 'it\\'s'\n\"}\",\nz,a  b\n"
    relation = relation_of(write(tmp_path / "a.arff", content + rows))
    assert relation.attributes[0].values == ("x, y", "it's", "}", "z")
    assert relation.words["t"].to_list() == ["plain text", "it's", "", "a  b"]


@pytest.mark.parametrize(
    "row", ["x" + " " * 50_000 + "y", "a'" * 30_000, "'a" * 30_001, "{0 " + " " * 50_000, "," * 50_000]
)
@pytest.mark.parametrize("declared", ["string", "{" + "a'b" * 20_000])
def test_no_line_takes_long(tmp_path, row, declared):
    path = write(tmp_path / "a.arff", f"@relation r\n@attribute a {declared}\n@data\n{row}\n")
    start = time.process_time()
    with contextlib.suppress(InputError):
        read_file(path)
    assert time.process_time() - start < 1


# Bad files

HEADER = "@relation r\n@attribute a numeric\n@attribute b {0,1}\n@attribute c {x,'y z'}\n@data\n"
NUMBERS = "@relation r\n@attribute a numeric\n@attribute b {0,1}\n@data\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("@relation r\n@attribute a numeric\n1\n", r"line 3: expected @relation, @attribute or @data, got '1'"),
        ("@relation r\n@attribute a numeric\n", r"a\.arff: expected a line @data above the rows, got none; add it"),
        ("@relation r\n@data\n1\n", r"line 2: expected @attribute lines before @data, got none; add them"),
        (HEADER, r"a\.arff: expected rows of data after @data, got none; check"),
        ("", r"expected text, got an empty file"),
        ("@relation r\n@attribute a\n@data\n1\n", r"line 2: expected @attribute NAME TYPE, got 'a'; put quotes"),
        ("@relation r\n@attribute 'a numeric\n@data\n1\n", r"line 2: expected @attribute NAME TYPE, got \"'a num"),
        ("@relation r\n@attribute a colour\n@data\n1\n", r"line 2, attribute 'a': expected numeric, real, .* 'colour'"),
        ("@relation r\n@attribute a relational\n@data\n1\n", r"attribute 'a': .*got 'relational'; leave the attribute"),
        ("@relation r\n@attribute a {x,y\n@data\nx\n", r"line 2, attribute 'a': expected values in braces .*'{x,y'"),
        ("@relation r\n@attribute a {x,x}\n@data\nx\n", r"attribute 'a': expected values in braces .*each once"),
        ("@relation r\n@attribute a {'x,y}\n@data\nx\n", r"attribute 'a': expected values in braces"),
        (
            "@relation r\n@attribute a real\n@attribute b real\n@attribute a real\n@data\n1,2,3\n",
            r"line 4: expected a different name for each attribute, got 'a' again after line 2; rename",
        ),
        (HEADER + "1,0,x\n2,0\n", r"line 7: expected 3 values, one for each attribute, got 2; correct the row"),
        (NUMBERS + "1,0\n2,0,1\n", r"line 6: expected 2 values, one for each attribute, got 3"),
        (HEADER + "1,0,z\n", r"line 6, attribute 'c': expected one of \{x,y z\}, got 'z'; correct the value, or"),
        (HEADER + "one,0,x\n", r"line 6, attribute 'a': expected a finite number that float32 can hold, got 'one'; "),
        (NUMBERS + "1,0\none,0\n", r"line 6, attribute 'a': expected a finite number .*got 'one'; .*write \?"),
        (NUMBERS + "1,0\nnan,0\n", r"line 6, attribute 'a': expected a finite number .*got 'nan'"),
        (NUMBERS + "-inf,0\n", r"line 5, attribute 'a': expected a finite number .*got '-inf'"),
        (NUMBERS + "1e39,0\n", r"line 5, attribute 'a': expected a finite number .*got '1e39'"),
        (NUMBERS + "1_000,0\n", r"line 5, attribute 'a': expected a finite number .*got '1_000'"),
        (NUMBERS + "1,2\n", r"line 5, attribute 'b': expected one of \{0,1\}, got '2'"),
        (NUMBERS + "{1 2}\n", r"line 5, attribute 'b': expected one of \{0,1\}, got '2'"),
        (NUMBERS.replace("{0,1}", "{0}") + "1,1\n", r"line 5, attribute 'b': expected one of \{0\}, got '1'"),
        (HEADER + "1,0, 'x\n", r"line 6: expected a quoted value to end with a quote"),
        (HEADER + "1,0,'x\n", r"line 6: expected a quoted value to end with a quote, got \"1,0,'x\"; write a quote"),
        (HEADER + "{0 1, 2 'x}\n", r"line 6: expected a quoted value to end with a quote, got \"'x\""),
        (HEADER + "{0 1, 2 x\n", r"line 6: expected a sparse row to end with }, got '{0 1, 2 x'; correct"),
        (NUMBERS + "{0 1}\n{0 1\n", r"line 6: expected a sparse row to end with }"),
        (NUMBERS + "{0 1}\n{2 1}\n", r"line 6: expected an index from 0 to 1, got 2; correct the row, or declare"),
        (NUMBERS + "{0 1}\n{-1 1}\n", r"line 6: expected an index and a value, such as {0 1, 4 2\.5}, got '-1 1'"),
        (NUMBERS + "{0 1}\n{0.5 1}\n", r"line 6: expected an index and a value"),
        (NUMBERS + "{0 1}\n{1}\n", r"line 6: expected an index and a value, .*got '1'"),
        (NUMBERS + "{0 1}\n{0 1,0 2}\n", r"line 6: expected each index once, got 0 again"),
        (HEADER.encode() + b"1,0,\xe9\n", r"line 6: expected UTF-8 text, got the byte 0xe9"),
    ],
)  # fmt: skip
def test_bad_arff(tmp_path, content, expected):
    message = refused(read_file, write(tmp_path / "a.arff", content))
    assert message.startswith(str(tmp_path / "a.arff"))
    assert re.search(expected, message), message


# Which attributes are labels


def with_names(names, header="r"):
    attributes = "".join(f"@attribute '{name}' {{0,1}}\n" for name in names)
    rows = "".join(",".join("01"[(r >> i) & 1] for i in range(len(names))) + "\n" for r in range(8))
    return f"@relation '{header}'\n{attributes}@data\n{rows}"


def found_in(path, **options):
    return find_attributes(relation_of(path), path, **options)[:2]


@pytest.mark.parametrize(
    ("header", "options", "labels", "how"),
    [
        ("x: -C 2", {}, "ab", "by -C 2 in its header"),
        ("x: -C -3 -S 1", {}, "cde", "by -C -3 in its header"),
        ("x: -C 2", {"num_labels": -2}, "de", "counted off by --num-labels"),
        ("r", {"num_labels": 3}, "abc", "counted off by --num-labels"),
        ("x: -C 2", {"labels": ["e", "b"]}, "eb", "named"),
        ("x: -C 2", {"label_names": ["d", "a"]}, "da", "those of --label-names"),
    ],
)
def test_labels_of_the_header_and_of_options(tmp_path, header, options, labels, how):
    columns, said = found_in(write(tmp_path / "a.arff", with_names("abcde", header)), **options)
    assert columns == Columns(
        features=tuple(name for name in "abcde" if name not in labels), labels=tuple(labels), label_format="indicator"
    )
    assert said[1] == f"labels: {', '.join(labels)} ({len(labels)} attributes, {how})"


def xml(*names):
    labels = "".join(f'<label name="{name}"></label>' for name in names)
    return f'<?xml version="1.0"?><labels xmlns="http://mulan.sourceforge.net/labels">{labels}</labels>'


def test_the_xml_is_one_of_the_files_of_a_run(tmp_path):
    path = write(tmp_path / "set-train.arff.gz", b"")
    assert files_of(path) == [path]
    beside = write(tmp_path / "Set.xml", xml("a"))
    assert files_of(path) == [path, beside]
    assert files_of(tmp_path / "set-train.csv") == [tmp_path / "set-train.csv"]


def test_labels_of_mulan_are_those_of_the_xml_that_fits_best(tmp_path):
    path = write(tmp_path / "set-500-train.arff", with_names("abcd"))
    write(tmp_path / "other.xml", xml("a", "d"))
    message = refused(found_in, path)
    assert "expected the labels to be named by NAME.xml beside the file (MULAN) or by -C in @relation (Meka)" in message
    assert message.endswith("--num-labels -6 for the last six, or --label-names FILE with their names")
    write(tmp_path / "set.xml", xml("a", "b"))
    assert found_in(path)[0].labels == ("a", "b")
    write(tmp_path / "Set-500.xml", xml("d", "c"))
    columns, said = found_in(path)
    assert columns.labels == ("d", "c")  # in the order of the XML, as MULAN counts them
    assert said[1] == "labels: d, c (2 attributes, those of Set-500.xml)"
    nested = xml("d").replace("></label>", '><label name="b"/><label name="c"/></label>')
    write(tmp_path / "Set-500.xml", nested)
    assert found_in(path)[0].labels == ("d", "b", "c")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (xml("a", "nope"), r"set\.xml: expected names of attributes of set\.arff, got 'nope'; say which"),
        (xml("a", "b", "a"), r"set\.xml: expected each label name once, got 'a' again"),
        (xml(), r"set\.xml: expected elements <label name"),
        ("<labels><label/></labels>", r"set\.xml: expected elements <label name"),
        ("<labels>", r"set\.xml: expected MULAN's XML, got a damaged file \(.*line 1, column 8\); correct it"),
        ('<!DOCTYPE x [<!ENTITY a "aaaa">]>' + xml("a"), r"expected MULAN's XML without definitions"),
    ],
)
def test_bad_xml(tmp_path, content, expected):
    write(tmp_path / "set.xml", content)
    assert re.search(expected, refused(found_in, write(tmp_path / "set.arff", with_names("abc"))))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_labels": 5}, r"expected --num-labels from 1 to 4, or from -1 to -4 .*there are 5 columns; got 5"),
        ({"num_labels": -5}, r"expected --num-labels from 1 to 4"),
        ({"labels": ["a", "zz"]}, r"expected a column 'zz', got a file without it"),
        ({"labels": ["a"]}, r"column 'a': multi-label learning needs at least two labels, got one column of 0 and 1"),
        ({"labels": ["a", "b"], "features": ["a"]}, r"expected one part for each column, got 'a' twice"),
        ({"labels": ["a", "b"], "text": ["c"]}, r"attribute 'c': expected a string or nominal attribute as text"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, options, expected):
    with pytest.raises(InputError, match=expected):
        found_in(write(tmp_path / "a.arff", with_names("abcde")), **options)


def test_a_label_that_is_not_declared_as_0_and_1(tmp_path):
    message = refused(found_in, write(tmp_path / "a.arff", DENSE), labels=["y1", "it's"])
    assert "attribute \"it's\": expected a label to be declared as {0,1}, got '{red,dark blue,gr\"een}'; say" in message


# Examples


def test_text_numbers_and_labels_of_a_file(tmp_path):
    path = write(tmp_path / "a.arff", DENSE)
    columns, said = found_in(path)
    assert said == [
        "text: words",
        "features: x, n (2 attributes)",
        "categories: it's; a column a value, and one for those seen once or never",
        "labels: y1, y 2 (2 attributes, by -C 2 in its header)",
        "not used: day: a date attribute",
    ]
    examples = examples_of(read_file(path), columns, "a.arff")
    assert examples.texts == ["it's, here", "two words", "", "don't"]
    np.testing.assert_array_equal(examples.numbers.toarray(), [[1.5, 3], [-2000, -7], [np.nan, 0], [0.5, 1]])
    assert examples.missing_counts().tolist() == [1, 0]
    assert examples.categories is not None
    assert examples.categories.rows() == [("red",), ("dark blue",), (None,), ('gr"een',)]
    assert examples.targets.dtype == bool
    assert examples.targets.toarray().tolist() == [[True, False], [False, True], [True, True], [False, False]]
    assert examples.label_names == ["y1", "y 2"]


def test_a_table_with_the_same_columns_fits_a_run_on_arff(tmp_path):
    content, values = numeric(6, 4, sparse=True)
    path = write(tmp_path / "a.arff", content)
    columns = Columns(features=("a0", "a2"), labels=("y", "y"), label_format="indicator")
    relation = read_examples(path, columns)
    frame = pl.DataFrame({"y": values[:, 3], "a2": values[:, 2], "a0": values[:, 0]})
    table = examples_from_frame(frame, columns, "a.csv")
    np.testing.assert_array_equal(relation.numbers.toarray(), table.numbers)
    np.testing.assert_array_equal(relation.targets.toarray(), table.targets.toarray())


def test_labels_may_be_missing_where_they_are_not_asked_for(tmp_path):
    path = write(tmp_path / "a.arff", NUMBERS + "1,0\n2,?\n")
    columns = Columns(features=("a",), labels=("b", "a"), label_format="indicator")
    assert read_examples(path, columns, with_labels=False).numbers.toarray().tolist() == [[1], [2]]
    assert (
        refused(read_examples, path, columns)
        == "a.arff, line 6, attribute 'a': expected 0 or 1, got 2.0; correct the value, or leave the row out"
    )
    other = Columns(features=("a", "q"), labels=("b",), label_format="indicator")
    message = refused(read_examples, path, other)
    assert "expected the columns a, q, b as in training, got a file without q; it has a, b: add" in message


def test_shares(tmp_path):
    rows = "@relation r\n@attribute x real\n@attribute p real\n@attribute q {0,1}\n@data\n1,.5,1\n2,0.4,0\n"
    path = write(tmp_path / "a.arff", rows)
    columns, said = found_in(path, num_labels=-2)
    assert columns.label_format == "shares"
    assert said[1].endswith("counted off by --num-labels; shares from 0 to 1, a half or more is a label)")
    assert read_examples(path, columns).targets.toarray().tolist() == [[True, True], [False, False]]
    path = write(tmp_path / "b.arff", rows + "2,1.5,0\n")
    message = refused(read_examples, path, columns)
    assert "b.arff, line 8, attribute 'p': expected a share from 0 to 1, got 1.5; correct" in message


def test_one_class_a_row(tmp_path):
    rows = "\n".join(f"{i},{'setosa' if i < 3 else 'iris virginica'}" for i in range(6)).replace(
        "iris virginica", "'iris virginica'"
    )
    path = write(
        tmp_path / "a.arff",
        f"@relation r\n@attribute x real\n@attribute class {{setosa,'iris virginica'}}\n@data\n{rows}\n",
    )
    columns, _ = found_in(path, labels=["class"], one_class=True)
    assert columns == Columns(features=("x",), labels=("class",), label_format="separated")
    examples = read_examples(path, columns)
    assert examples.label_names == ["iris virginica", "setosa"]
    assert examples.targets.toarray()[:, 1].tolist() == [True] * 3 + [False] * 3


# Real files


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(
    "name",
    [
        "bibtex/bibtex-train", "bibtex/bibtex-test", "cal500/cal500", "corel5k/Corel5k-train-sparse",
        "corel5k/Corel5k-test-sparse", "delicious/delicious-train", "delicious/delicious-test",
        "emotions/emotions-train", "emotions/emotions-test", "enron/enron-train", "enron/enron-test",
        "scene/scene-train", "scene/scene-test", "tmc2007/tmc2007-500-train", "tmc2007/tmc2007-500-test",
        "yeast/yeast-train", "yeast/yeast-test",
    ],
)  # fmt: skip
def test_mulan_is_the_same_as_its_matrices(name):
    path = DATA / "mulan" / f"{name}.arff.gz"
    relation = relation_of(path)
    examples = examples_of(relation, find_attributes(relation, path).columns, path.name)
    matrix = examples_of(read_file(DATA / "mulan" / name), Columns(label_format="matrix"), name)
    assert examples.label_names == matrix.label_names
    assert sp.csr_array(examples.numbers != matrix.numbers).nnz == 0
    assert sp.csr_array(examples.targets != matrix.targets).nnz == 0


@pytest.mark.data
@needs_data
def test_meka_with_its_labels_in_front():
    path = DATA / "meka_imdb" / "Imdb.arff.bz2"
    relation = relation_of(path)
    examples = examples_of(relation, find_attributes(relation, path).columns, path.name)
    matrix = examples_of(read_file(DATA / "meka_imdb" / "imdb"), Columns(label_format="matrix"), "imdb")
    assert examples.numbers.shape == (120919, 1001)
    assert examples.label_names == matrix.label_names
    assert sp.csr_array(examples.numbers != matrix.numbers).nnz == 0
    assert sp.csr_array(examples.targets != matrix.targets).nnz == 0
