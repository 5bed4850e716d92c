"""Files to frames and matrices: each format there and back, and every kind of bad file with its message."""

import bz2
import csv
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.batches import read_batches
from manyhot.toolkit.read.data import Matrix, files_of, read_file, read_label_names
from manyhot.toolkit.read.formats.delimited import records

DATA = Path(os.environ.get("MANYHOT_DATA", Path(__file__).parents[4] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}; set MANYHOT_DATA")


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def batched(path, size):
    parts: Any = [batch.raw for batch in read_batches(path, size=size)]
    return pl.concat(parts)


def frame_of(path, header=True):
    frame = read_file(path, header=header)
    assert isinstance(frame, pl.DataFrame)
    return frame


def refused(path):
    """Read a bad file and return the message, of which every part of a good one is checked."""
    with pytest.raises(InputError) as caught:
        read_file(path)
    message = str(caught.value)
    assert "expected" in message
    assert ";" in message, "a message ends with what to do next"
    assert "\n" not in message
    return message


# CSV and TSV


def test_csv_cells_stay_strings_and_empty_cells_are_null(tmp_path):
    frame = frame_of(write(tmp_path / "a.csv", "code,n,x\n007,1.50,\n010,2,y\n"))
    assert frame.schema == {"code": pl.String, "n": pl.String, "x": pl.String}
    assert frame.rows() == [("007", "1.50", None), ("010", "2", "y")]


def test_quotes_hold_separators_line_ends_and_quotes(tmp_path):
    frame = frame_of(write(tmp_path / "a.csv", 'a,"b ""x"""\n"1,5","two\r\nlines"\n"say ""hi""",3\n'))
    assert frame.columns == ["a", 'b "x"']
    assert frame.rows() == [("1,5", "two\r\nlines"), ('say "hi"', "3")]


def test_tsv_splits_at_tabs_only(tmp_path):
    assert frame_of(write(tmp_path / "a.tsv", "a\tb\n1,2\t3\n")).rows() == [("1,2", "3")]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end(tmp_path, ending):
    frame = frame_of(write(tmp_path / "a.csv", ending.join(["a,b", "1,2", "3,4", ""])))
    assert frame.rows() == [("1", "2"), ("3", "4")]
    assert frame.columns == ["a", "b"]


def test_byte_order_mark_is_not_part_of_the_first_name(tmp_path):
    assert frame_of(write(tmp_path / "a.csv", b"\xef\xbb\xbfa,b\n1,2\n")).columns == ["a", "b"]
    assert frame_of(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\n')).columns == ["a"]


def test_chinese_and_arabic_text_and_names(tmp_path):
    content = "文本,標籤,تصنيف\n今天天气很好,体育|财经,رياضة\n"
    expected = [("今天天气很好", "体育|财经", "رياضة")]
    for path in (
        write(tmp_path / "数据.csv", content),
        write(tmp_path / "数据.csv.gz", gzip.compress(content.encode())),
    ):
        frame = frame_of(path)
        assert frame.columns == ["文本", "標籤", "تصنيف"]
        assert frame.rows() == expected


def test_blank_lines_are_no_rows(tmp_path):
    frame = frame_of(write(tmp_path / "a.csv", "\n\na,b\n1,2\n\n3,\n\n"))
    assert frame.rows() == [("1", "2"), ("3", None)]


def test_blank_line_is_an_empty_cell_where_there_is_one_column(tmp_path):
    assert frame_of(write(tmp_path / "a.csv", "text\none\n\nthree\n"))["text"].to_list() == ["one", None, "three"]
    assert frame_of(write(tmp_path / "a.csv", 'text\n"one"\n\nthree\n'))["text"].to_list() == ["one", None, "three"]


@pytest.mark.parametrize("quoted", [False, True])
def test_missing_cells_in_the_last_column_are_no_short_row(tmp_path, quoted):
    first = '"x, ""y"""' if quoted else "x"
    frame = frame_of(write(tmp_path / "a.csv", f"a,b\n{first},1\ny,\n"))
    assert frame.rows() == [('x, "y"' if quoted else "x", "1"), ("y", None)]


def test_stray_quote_inside_a_field_is_text(tmp_path):
    rows = [['5" pipe', "1"], ["two", "2"], ['7" disc', "3"]]
    path = write(tmp_path / "a.csv", "a,b\n" + "".join(f"{a},{b}\n" for a, b in rows))
    with pytest.raises(pl.exceptions.ComputeError):  # the reason for reading such a file in another way
        pl.read_csv(path, infer_schema=False)
    assert [list(row) for row in frame_of(path).rows()] == rows


def test_cells_longer_than_the_limit_of_the_standard_reader(tmp_path):
    long = 'x"' * 200_000
    assert frame_of(write(tmp_path / "a.csv", f"a,b\n1{long},2\n3,\n"))["a"][0] == f"1{long}"


@pytest.mark.parametrize("mark", [";", "\t"])
def test_csv_with_another_separator_in_its_header(tmp_path, mark):
    frame = frame_of(write(tmp_path / "a.csv", f'a{mark}b c{mark}d\n1,5{mark}x{mark}"p{mark}q"\n2{mark}y{mark}\n'))
    assert frame.columns == ["a", "b c", "d"]
    assert frame.rows() == [("1,5", "x", f"p{mark}q"), ("2", "y", None)]
    # one comma is enough to keep to commas
    assert frame_of(write(tmp_path / "b.csv", f"a{mark}b,c\n1,2\n")).columns == [f"a{mark}b", "c"]


@pytest.mark.parametrize("first", ["sep=;\n", "SEP=;\r\n", '"sep=;"\n', "sep=;;;\n"])
@pytest.mark.parametrize("rows", ["1;2,5|x\n", '"1";"2,5|x"\n', '1;"2,5|x"\n3;a"b\n'])
def test_the_first_line_that_excel_writes_says_the_separator(tmp_path, first, rows):
    plain = tmp_path / "plain.csv"
    plain.write_text(f"a;b\n{rows}", newline="")
    told = tmp_path / "told.csv"
    told.write_text(f"{first}a;b\n{rows}", newline="")
    assert frame_of(told).equals(frame_of(plain))
    assert batched(told, size=1).equals(frame_of(plain))
    assert frame_of(told, header=False).equals(frame_of(plain, header=False))


def test_the_separator_of_the_first_line_may_be_any_and_lines_keep_their_numbers(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sep=|\na|b\n1,2|3\n")
    assert frame_of(path).rows() == [("1,2", "3")]
    path.write_text("sep=|\na|b\n1|2\n3\n")
    with pytest.raises(InputError, match="line 4: expected 2 fields"):
        read_file(path)
    path.write_text("sep=ab,c\n1,2\n")  # a name like any other
    assert frame_of(path).columns == ["sep=ab", "c"]


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl", "arff"])
@pytest.mark.parametrize("encoding", ["windows-1252", "utf-16", "utf-16-le", "utf-32", "gb18030", "utf-8", "utf-8-sig"])
def test_text_in_another_encoding(tmp_path, ending, encoding):
    text = {
        "csv": "a,b\n1,é\n2,ü\n",
        "jsonl": '{"a": "1", "b": "é"}\n{"a": "2", "b": "ü"}\n',
        "arff": "@relation r\n@attribute a numeric\n@attribute b string\n@data\n1,é\n2,ü\n",
    }[ending.split(".")[0]]
    path = tmp_path / f"a.{ending}"
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    raws: list[Any] = [read_file(path, encoding=encoding)]
    if encoding in ("utf-16", "utf-32", "utf-8", "utf-8-sig"):  # their mark says it
        raws.append(read_file(path))
    raws.append(next(iter(read_batches(path, encoding=encoding))).raw)
    for raw in raws:
        column = raw["b"] if isinstance(raw, pl.DataFrame) else raw.words["b"]
        assert column.to_list() == ["é", "ü"]


@pytest.mark.slow
def test_the_size_of_blocks_changes_nothing_in_another_encoding(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "".join(f"{i},é{i}😀\n" for i in range(3000)), encoding="utf-16")
    whole = frame_of(path)
    for size in (1, 7, 4096):
        assert batched(path, size=size).equals(whole)
    assert whole["b"][2999] == "é2999😀"


def test_text_that_is_not_in_the_encoding_said(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n1,x\n2,\x81\n")
    with pytest.raises(InputError, match=r"a.csv, line 3: expected windows-1252 text, got .*name another --enc"):
        read_file(path, encoding="windows-1252")
    path.write_bytes("a,b\n1,é\n".encode("utf-16")[:-1])
    with pytest.raises(InputError, match=r"expected utf-16 text, got something else"):
        read_file(path)


def test_without_a_header_columns_are_numbered(tmp_path):
    for name, mark in (("a.csv", ","), ("a.tsv", "\t"), ("b.csv", ";")):
        path = write(tmp_path / name, f"x{mark}1{mark}007\n{mark}2{mark}\n")
        frame = read_file(path, header=False)
        assert isinstance(frame, pl.DataFrame)
        assert frame.columns == ["1", "2", "3"]
        assert frame.rows() == [("x", "1", "007"), (None, "2", None)]
        with pytest.raises(
            InputError, match="line 2: expected 2 fields as in the first row, got 1; fill in the missin"
        ):
            read_file(write(path, f"x{mark}1\ny\n"), header=False)
    frame = read_file(write(tmp_path / "a.jsonl", '{"x": 1}'), header=False)  # a later file may be of another format
    assert isinstance(frame, pl.DataFrame)
    assert frame.columns == ["x"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # one field that no CSV writer leaves so: all quotes are text, and none swallows a line
        (['"open\t1', "b\t2", 'c"\t3'], [('"open', "1"), ("b", "2"), ('c"', "3")]),
        (['"yes" he said\t1', '"no"\t2'], [('"yes" he said', "1"), ('"no"', "2")]),
        # every quoted field is a whole one, as spreadsheets write them
        (['"say ""yes"""\t1', "b\t2"], [('say "yes"', "1"), ("b", "2")]),
        (['"a\tb"\t1', "b\t2"], [("a\tb", "1"), ("b", "2")]),
        (['"a\nb"\t1', "b\t2"], [("a\nb", "1"), ("b", "2")]),
    ],
)
def test_quotes_of_a_tsv_are_text_where_one_cannot_be_a_quoted_field(tmp_path, rows, expected):
    assert frame_of(write(tmp_path / "a.tsv", "t\tn\n" + "\n".join(rows) + "\n")).rows() == expected
    frame = read_file(write(tmp_path / "b.tsv", "\n".join(rows) + "\n"), header=False)
    assert isinstance(frame, pl.DataFrame)
    assert frame.rows() == expected


def test_the_limit_of_the_standard_reader_is_put_back_when_a_reader_is_left_alone(tmp_path):
    before = csv.field_size_limit(1000)
    try:
        reader = records(tmp_path / "a.csv", ["a,b\n", f"{'x' * 2000},2\n", "3,4\n"], ",")
        assert next(reader) == (1, ["a", "b"])
        assert csv.field_size_limit() == 1000
        assert next(reader) == (2, ["x" * 2000, "2"])
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b,c\n1,2,3\n4,5\n", r"a\.csv, line 3: expected 3 fields as in the header, got 2; fill in"),
        ("a,b,c\n1,2,3\n\n4,5,\n6\n", r"line 5: expected 3 fields as in the header, got 1"),
        ("a,b\n1,2\n3,4,5\n", r"line 3: expected 2 fields as in the header, got 3; put quotes round"),
        ('a,b\n"x\ny",2\n3,4,5\n', r"line 4: expected 2 fields"),
        ('a,b\n"x\ny",2\n3\n', r"line 4: expected 2 fields as in the header, got 1"),
        (
            'a,b\n1,2\n3,"open\n4,5\n',
            r"line 3: expected a quoted field to end with a quote, got one that is never closed",
        ),
        ('a,b\n1,2\n"3"x,4\n', r"line 3: expected a quoted field to end with a quote, got text after a closing quote"),
        ('"a,b\n1,2\n', r"line 1: expected a quoted field"),
        ("a,b,a\n1,2,3\n", r"line 1: expected a different name for each column, got 'a' for columns 1 and 3; rename"),
        ("a,b\n", r"expected rows of data, got none"),
        ("", r"expected text, got an empty file"),
        (" \n\r\n", r"expected text, got an empty file"),
        (b"\xef\xbb\xbf", r"expected text, got an empty file"),
        (
            b"a,b\n1,2\ncaf\xe9,3\n",
            r"line 3: expected UTF-8 text, got the byte 0xe9; say how it is written, such as --encoding windows-1252",
        ),
        ("a,b\n1,2\n".encode("utf-16-le"), r"line 1: expected UTF-8 text, got NUL bytes; .*--encoding utf-16-le"),
        ("a,b\n1,2\n".encode("utf-16-be"), r"line 1: expected UTF-8 text, got NUL bytes; .*--encoding utf-16-be"),
        ("sep=;\n", r"expected rows of data, got none"),
    ],
)
def test_bad_csv(tmp_path, content, expected):
    message = refused(write(tmp_path / "a.csv", content))
    assert message.startswith(str(tmp_path / "a.csv"))
    assert re.search(expected, message)


# JSONL


def test_jsonl_keeps_types_over_the_whole_file(tmp_path):
    rows = [
        {"n": 1, "x": 1, "labels": [], "ids": [3], "ok": True, "code": "007"},
        {"n": 2, "x": 2.5, "labels": ["a", "b"], "ids": [], "ok": False, "code": None},
        {"n": 3, "labels": None, "ids": [1, 2], "ok": True, "code": "1"},
    ]
    frame = frame_of(write(tmp_path / "a.jsonl", "\n \n".join(json.dumps(row) for row in rows)))
    assert frame.schema == {
        "n": pl.Int64,
        "x": pl.Float64,
        "labels": pl.List(pl.String),
        "ids": pl.List(pl.Int64),
        "ok": pl.Boolean,
        "code": pl.String,
    }
    assert frame["x"].to_list() == [1.0, 2.5, None]
    assert frame["labels"].to_list() == [[], ["a", "b"], None]
    assert frame["code"].to_list() == ["007", None, "1"]


def test_jsonl_type_that_shows_up_late(tmp_path):
    lines = [json.dumps({"x": i, "labels": []}) for i in range(3000)] + ['{"x": 0.5, "labels": ["a"], "new": "z"}']
    frame = frame_of(write(tmp_path / "a.ndjson", "\n".join(lines)))
    assert frame.row(-1) == (0.5, ["a"], "z")


def test_jsonl_nested_values_are_left_alone(tmp_path):
    frame = frame_of(write(tmp_path / "a.jsonl", '{"t": "x", "spans": [[0, 4, "org"]], "meta": {"k": 1}}\n'))
    assert frame.columns == ["t", "spans", "meta"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ['{"a": 1}', "", "{oops}"],
            r"line 3: expected one JSON object, got '\{oops\}' \(.* at character 2\); correct",
        ),
        (['{"a": 1}', "[1, 2]"], r"line 2: expected one JSON object, got \[1, 2\]; write every row as"),
        (['{"a": 1}', "5"], r"line 2: expected one JSON object, got 5"),
        (['{"a": 1}{"a": 2}'], r"line 1: expected one JSON object"),
        (['{"a": 1', '"b": 2}'], r"line 1: expected one JSON object"),
        (['{"a": NaN}'], r"line 1: .*NaN is no JSON, a missing value is null"),
        (['{"a": 1}', '{"a": 1e999}'], r"line 2, column 'a': expected a finite number, got one that is too large"),
        (['{"a": 1, "b": 2, "a": 3}'], r"line 1: .*the key 'a' comes twice"),
        (['{"a": "x"}', '{"a": 1}'], r"line 2, column 'a': expected a string as on line 1, got a number, 1; write"),
        (
            ['{"a": 1}', '{"a": null}', '{"a": "x"}'],
            r"line 3, column 'a': expected a number as on line 1, got a string, 'x'",
        ),
        (['{"a": true}', '{"a": 1}'], r"line 2, column 'a': expected a true/false as on line 1, got a number, 1"),
        (
            ['{"a": ["x"]}', '{"a": "x"}'],
            r"line 2, column 'a': expected a list of strings as on line 1, got a string, 'x'",
        ),
        (['{"a": []}', '{"a": "x"}'], r"line 2, column 'a': expected a list as on line 1, got a string"),
        (
            ['{"a": []}', '{"a": ["x"]}', '{"a": [1]}'],
            r"line 3, column 'a': expected a list of strings as on line 2, got",
        ),
        (
            ['{"a": ["x", 1]}'],
            r"line 1, column 'a': expected a list of one type, got \['x', 1\]; write all its items as text",
        ),
        ([r'{"a": "\ud83d"}'], r"line 1: expected Unicode text, got half a surrogate pair"),
        (["{}", "{}"], "expected rows of data, got none"),
        (["", " "], "expected text, got an empty file"),
        (['{"a": {"k": 1}}', '{"a": {"k": true}}'], r"expected columns of one type each, also inside nested values"),
    ],
)
def test_bad_jsonl(tmp_path, lines, expected):
    message = refused(write(tmp_path / "a.jsonl", "\n".join(lines) + "\n"))
    assert message.startswith(str(tmp_path / "a.jsonl"))
    assert re.search(expected, message)


def test_bad_jsonl_encoding(tmp_path):
    assert "line 2: expected UTF-8 text" in refused(write(tmp_path / "a.jsonl", b'{"a": "x"}\n{"a": "\xe9"}\n'))


def test_pairs_of_surrogates_are_one_character(tmp_path):
    assert frame_of(write(tmp_path / "a.jsonl", r'{"a": "\ud83d\ude00"}'))["a"][0] == "😀"


# Packed files, Parquet, paths


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)])
def test_every_text_format_packed_and_not(tmp_path, ending, pack):
    cells = [("a 1", "x"), ("b 2", "y")]
    contents = {
        "csv": "t,l\n" + "".join(f"{t},{label}\n" for t, label in cells),
        "tsv": "t\tl\n" + "".join(f"{t}\t{label}\n" for t, label in cells),
        "jsonl": "".join(json.dumps({"t": t, "l": label}) + "\n" for t, label in cells),
    }
    contents["ndjson"], contents["CSV"] = contents["jsonl"], contents["csv"]
    for kind, content in contents.items():
        frame = frame_of(write(tmp_path / f"a.{kind}{ending}", pack(content.encode())))
        assert frame.columns == ["t", "l"]
        assert frame.rows() == cells


def test_parquet_keeps_types(tmp_path):
    table = pl.DataFrame({"t": ["a", None], "x": [1.5, 2.0], "labels": [["p"], ["p", "q"]]})
    table.write_parquet(tmp_path / "a[1].parquet")  # the brackets are no pattern
    assert frame_of(tmp_path / "a[1].parquet").equals(table)


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_damaged_packing(tmp_path, ending, pack):
    packed = pack("".join(f"{i},{i * i}\n" for i in range(5000)).encode())
    expected = (
        rf"a\.csv\{ending}: expected a whole {ending[1:]} file, got a truncated or corrupt one .*; download or write"
    )
    for content in (packed[: len(packed) // 2], b"a,b\n1,2\n", packed[:40] + b"\0\1\2\3" * 8 + packed[72:]):
        assert re.search(expected, refused(write(tmp_path / f"a.csv{ending}", content)))
    assert "empty file" in refused(write(tmp_path / f"b.csv{ending}", pack(b"")))


def test_damaged_and_empty_parquet(tmp_path):
    pl.DataFrame({"a": [1, 2, 3]}).write_parquet(tmp_path / "good.parquet")
    good = (tmp_path / "good.parquet").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, 500, dtype=np.uint8).tobytes()
    for content in (noise, good[:-9], b""):
        message = refused(write(tmp_path / "bad.parquet", content))
        assert re.search(r"bad\.parquet: expected a Parquet file, got something else or a damaged one", message)
    pl.DataFrame({"a": []}).write_parquet(tmp_path / "none.parquet")
    assert "expected rows of data, got none" in refused(tmp_path / "none.parquet")


def test_paths_that_are_no_file(tmp_path):
    write(tmp_path / "reviews.csv", "a,b\n1,2\n")
    close = refused(tmp_path / "reveiws.csv")
    assert close.endswith(f"there is none of this name; did you mean {tmp_path / 'reviews.csv'}?")
    assert refused(tmp_path / "zzz.parquet").endswith("none of this name; check the path")
    assert f"there is no folder {tmp_path / 'no'}" in refused(tmp_path / "no" / "a.csv")
    assert "expected a file, got a folder; name one file in it, one of: .csv" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    assert "got a pipe or device" in refused(tmp_path / "pipe.csv")


@pytest.mark.parametrize("name", ["a.xlsx", "a.arff.zip", "a.parquet.gz", "a", "a.npz.gz"])
def test_other_formats_are_refused_with_the_list_of_formats(tmp_path, name):
    message = refused(write(tmp_path / name, b"x"))
    assert "formats: .csv, .tsv, .jsonl or .ndjson, .arff, .svm, .svmlight or .libsvm, .txt of the Extreme" in message
    assert ".parquet, or NAME.X.npz" in message
    assert f"got {name!r}" in message


# Sparse matrices

X = sp.csr_matrix(np.array([[0.0, 1.5], [2.0, 0.0], [0.0, -3.0]]))
Y = sp.csr_matrix(np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], dtype=np.int8))


def save(folder, x=X, y: sp.csr_matrix | None = Y, labels: str | None = "a\nb\nc\n"):
    sp.save_npz(folder / "set.X.npz", x)
    if y is not None:
        sp.save_npz(folder / "set.Y.npz", y)
    if labels is not None:
        write(folder / "labels.txt", labels)
    return folder / "set.X.npz"


@pytest.mark.parametrize("given", ["set.X.npz", "set.Y.npz", "set"])
@pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
def test_matrix(tmp_path, given, layout):
    save(tmp_path, x=X.asformat(layout), y=Y.asformat(layout))
    (tmp_path / "set").mkdir()  # a folder of the same name is not in the way
    matrix = read_file(tmp_path / given)
    assert isinstance(matrix, Matrix)
    assert isinstance(matrix.features, sp.csr_array)
    assert matrix.features.dtype == np.float32
    assert matrix.targets is not None
    assert matrix.targets.dtype == bool
    np.testing.assert_array_equal(matrix.features.toarray(), X.toarray())
    np.testing.assert_array_equal(matrix.targets.toarray(), Y.toarray())
    assert matrix.label_names == ["a", "b", "c"]


def test_matrix_without_labels_and_with_its_own_names(tmp_path):
    matrix = read_file(save(tmp_path, y=None, labels=None))
    assert isinstance(matrix, Matrix)
    assert matrix.targets is None
    assert matrix.label_names is None
    write(tmp_path / "set.labels.txt", "足球\nسياسة\nc\n")
    matrix = read_file(save(tmp_path))
    assert isinstance(matrix, Matrix)
    assert matrix.label_names == ["足球", "سياسة", "c"]


def changed(matrix, row, column, value):
    dense = matrix.toarray()
    dense[row, column] = value
    return sp.csr_matrix(dense)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"x": changed(X, 2, 1, np.nan)},
            r"set\.X\.npz, row 3, column 2: expected a finite number .*, got nan; correct",
        ),
        (
            {"x": changed(X, 0, 0, 1e300)},
            r"set\.X\.npz, row 1, column 1: expected a finite number that float32 can hold",
        ),
        ({"x": changed(X, 1, 1, -np.inf)}, r"set\.X\.npz, row 2, column 2: .*got -inf"),
        ({"y": changed(Y, 1, 2, 2)}, r"set\.Y\.npz, row 2, column 3: expected 0 or 1, got 2; correct the value"),
        ({"y": changed(Y, 1, 0, -2)}, r"set\.Y\.npz, row 2, column 1: expected 0 or 1, got -2"),
        ({"y": Y[:2]}, r"set\.Y\.npz: expected 3 rows as in set\.X\.npz, got 2; write both from the same rows"),
        (
            {"labels": "a\nb\n"},
            r"labels\.txt: expected 3 label names, one for each column of set\.Y\.npz, got 2; write",
        ),
        ({"labels": "a\nb\na\n"}, r"labels\.txt, line 3: expected each label name once, got 'a' again after line 1"),
        ({"labels": None}, r"labels\.txt: expected a file, but there is none of this name"),
        ({"x": sp.csr_matrix((0, 2))}, r"set\.X\.npz: expected rows and columns, got 0 x 2"),
        (
            {"x": X.astype(complex)},
            r"expected a matrix of numbers written by scipy\.sparse\.save_npz or numpy\.save, got a 2-d complex",
        ),
    ],
)
def test_bad_matrix(tmp_path, change, expected):
    assert re.search(expected, refused(save(tmp_path, **change)))


def test_matrix_files_that_are_none(tmp_path):
    path = save(tmp_path)
    good = path.read_bytes()
    message = (
        r"X\.npz: expected a matrix of numbers written by .*save_npz or numpy\.save, got something else or a damaged"
    )
    for content in (b"noise" * 50, good[: len(good) // 2], b"", good[:60] + b"zzzzzzzz" + good[68:]):
        assert re.search(message, refused(write(path, content)))
    np.save(tmp_path / "array.npy", np.eye(2))
    assert re.search(message, refused(write(path, (tmp_path / "array.npy").read_bytes())))
    np.savez(path, a=np.eye(2), b=np.eye(2))
    assert re.search(message, refused(path))
    (tmp_path / "set.X.npz").unlink()
    assert "set.X.npz: expected a file" in refused(tmp_path / "set.Y.npz")


def test_matrix_is_never_unpickled(tmp_path):
    path = save(tmp_path)
    parts = dict(np.load(path))
    parts["data"] = np.array([print], dtype=object)
    np.savez(path, **parts)
    assert "allow_pickle=False" in refused(path)


def test_matrix_with_indices_outside_is_refused(tmp_path):
    path = save(tmp_path)
    parts = dict(np.load(path))
    parts["indices"] = parts["indices"] + 1_000_000
    np.savez(path, **parts)
    assert "damaged file" in refused(path)


# Arrays


@pytest.mark.parametrize(
    "names", [("e.npy", "e.Y.npz"), ("e.npz", "e.Y.npy"), ("e.X.npy", "e.Y.npz"), ("e.X.npz", "e.Y.npy")]
)
def test_embeddings(tmp_path, names):
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float16)
    features, targets = tmp_path / names[0], tmp_path / names[1]
    np.save(features, x) if features.suffix == ".npy" else np.savez(features, x)
    np.save(targets, Y.toarray()) if targets.suffix == ".npy" else sp.save_npz(targets, Y)
    write(tmp_path / "labels.txt", "a\nb\nc\n")
    for path in (features, targets):
        matrix = read_file(path)
        assert isinstance(matrix, Matrix)
        assert isinstance(matrix.features, np.ndarray)
        assert matrix.features.dtype == np.float32
        np.testing.assert_array_equal(matrix.features, x.astype(np.float32))
        assert matrix.targets is not None
        np.testing.assert_array_equal(matrix.targets.toarray(), Y.toarray())
        assert matrix.label_names == ["a", "b", "c"]
        assert sorted(files_of(path)) == sorted([features, targets, tmp_path / "labels.txt"])
    targets.unlink()
    matrix = read_file(features)
    assert isinstance(matrix, Matrix)
    assert matrix.targets is None


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (
            np.array([[1.0, 2], [np.nan, 3]]),
            None,
            r"e\.npy, row 2, column 1: expected a finite number .*, got nan; corr",
        ),
        (np.array([[1.0, 2], [4, np.inf]]), None, r"e\.npy, row 2, column 2: expected a finite number .*, got inf"),
        (np.ones(3), None, r"e\.npy: expected a matrix of numbers .*, got a 1-d float64 array; write it again"),
        (np.ones((2, 2, 2)), None, r"got a 3-d float64 array"),
        (np.array([["a"]]), None, r"got a 2-d <U1 array"),
        (np.ones((0, 2)), None, r"e\.npy: expected rows and columns, got 0 x 2"),
        (np.array([[{}]], dtype=object), None, r"allow_pickle=False"),
        (np.ones((2, 2)), np.array([[0, 1], [2, 0]]), r"e\.Y\.npy, row 2, column 1: expected 0 or 1, got 2; correct"),
        (np.ones((2, 2)), np.ones((3, 2)), r"e\.Y\.npy: expected 2 rows as in e\.npy, got 3"),
    ],
)
def test_bad_embeddings(tmp_path, x, y, expected):
    np.save(tmp_path / "e.npy", x)
    if y is not None:
        np.save(tmp_path / "e.Y.npy", y)
    assert re.search(expected, refused(tmp_path / "e.npy"))


# Label names


def test_label_names_keep_their_order_and_lose_white_space(tmp_path):
    assert read_label_names(write(tmp_path / "n.txt", "earn \r\nacq\r\n 粮食\n\n\n")) == ["earn", "acq", "粮食"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", r"expected text, got an empty file"),
        ("a\n\nb\n", r"n\.txt, line 2: expected a label name, got a blank line; delete the line"),
        ("a\nb\n a\n", r"n\.txt, line 3: expected each label name once, got 'a' again after line 1; delete or rename"),
        (b"a\n\xff\n", r"n\.txt, line 2: expected UTF-8 text"),
    ],
)
def test_bad_label_names(tmp_path, content, expected):
    with pytest.raises(InputError, match=expected):
        read_label_names(write(tmp_path / "n.txt", content))


# Real files


@pytest.mark.data
@needs_data
def test_real_tables():
    reuters = frame_of(DATA / "reuters21578" / "modapte_train.jsonl.gz")
    assert reuters.shape == (9603, 6)
    assert reuters["r90"].list.len().sum() == 9586  # one label stands twice in one cell
    assert frame_of(DATA / "semeval2025_task11a" / "train" / "eng.csv.gz").height == 2764


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(
    ("name", "shape", "labels", "cells"),
    [("yeast/yeast-train", (1500, 103), 14, 6342), ("bibtex/bibtex-train", (4880, 1836), 159, 11616)],
)
def test_real_matrices(name, shape, labels, cells):
    matrix = read_file(DATA / "mulan" / f"{name}.X.npz")
    assert isinstance(matrix, Matrix)
    assert matrix.targets is not None
    assert matrix.label_names is not None
    assert matrix.features.shape == shape
    assert matrix.targets.sum() == cells
    assert len(matrix.label_names) == labels
