"""A file read in batches is the file read at once: the same rows, types and errors, wherever a batch ends."""

import bz2
import csv
import gzip
import io
import itertools
import json
import random
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.batches import read_batches
from manyhot.toolkit.read.data import read_file
from manyhot.toolkit.read.formats import files, jsonl, parquet

SIZES = (1, 7, 64, 2**23)


def frame_of(raw: Any) -> pl.DataFrame:
    assert isinstance(raw, pl.DataFrame)
    return raw


def read_in_batches(path, size, **options):
    """Put the batches of a file together again."""
    batches = list(read_batches(path, size=size, **options))
    starts = [0, *itertools.accumulate(frame_of(batch.raw).height for batch in batches)]
    assert [batch.start for batch in batches] == starts[:-1]
    shares = [batch.share for batch in batches]
    assert shares == sorted(shares)
    assert 0 < shares[-1] <= 1
    return pl.concat([frame_of(batch.raw) for batch in batches])


def outcome(read):
    try:
        return read()
    except InputError as error:
        return str(error)


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# CSV and TSV


def by_the_standard_library(text, separator=","):
    """Read with csv alone: rows of the header's width, empty cells as None; blank lines are rows of one column only."""
    header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows = [row or [""] for row in rows if row or len(header) == 1]
    return header, [tuple(cell or None for cell in row) for row in rows]


CELLS = [
    "a",
    "b c",
    "",
    '""',
    '"x"',
    '"y,z"',
    '"p\nq"',
    '"u""v"',
    '""""',
    "1.5",
    "é",
    'x"y"z',
    '"\n"',
    '",\n,"',
    " ",
    '4" x',
]


STRAY = ['x"y"z', '4" x']


@pytest.mark.parametrize("seed", range(4))
def test_csv_is_what_the_standard_library_reads(tmp_path, seed):
    rng = random.Random(seed)
    for case in range(60):
        width, end = rng.choice([1, 2, 3]), rng.choice(["\n", "\r\n"])
        # Half of the files have no stray quotes, so that every batch takes the fast way.
        cells = CELLS if case % 2 else CELLS + STRAY
        rows = [",".join(rng.choice(cells) for _ in range(width)) for _ in range(rng.randrange(1, 14))]
        blank = [end] * rng.randrange(3)
        text = "".join([*blank, ",".join("hij"[:width]), end, end.join(rows), rng.choice(["", end, end + end])])
        header, expected = by_the_standard_library(text.lstrip("\r\n"))
        path = write(tmp_path / "a.csv", "\ufeff" * (case % 3 == 0) + text)
        for size in SIZES:
            if not expected:
                with pytest.raises(InputError, match="expected rows of data, got none"):
                    read_in_batches(path, size)
                continue
            frame = read_in_batches(path, size)
            assert frame.columns == header
            assert frame.rows() == expected, text
            assert frame.equals(frame_of(read_file(path)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"a,b\r1,x\r2,y\r"),
        ("a.csv", b'a,b\n1,x\ry\n2,"p\rq"\n3,z\r\n'),
        ("a.csv", b'a\n1\rx\n\n3" \r\n'),
        ("a.tsv", b"a\tb\n1\tx y\n\tz\n"),
        ("a.tsv", b'a\tb\n1\t"x" y\n2\tz"\n'),
        ("a.tsv", b'a\tb\n1\t"x\ty"\n2\tz\n'),
        ("a.csv", b"a;b\n1;x,y\n2;z\n"),
    ],
)
def test_line_ends_and_separators_are_found_as_in_the_whole_file(tmp_path, name, content):
    path = write(tmp_path / name, content)
    whole = frame_of(read_file(path))
    assert whole.height >= 2
    for size in SIZES:
        assert_frame_equal(read_in_batches(path, size), whole)


def test_rows_and_lone_carriage_returns_are_told_apart(tmp_path):
    path = write(tmp_path / "a.csv", b'a,b\n1,x\ry\n2,3" \r z\n')
    for size in SIZES:
        assert read_in_batches(path, size).rows() == [("1", "x\ry"), ("2", '3" \r z')]


def test_a_header_is_one_record_of_any_form(tmp_path):
    path = write(tmp_path / "a.csv", '\n\r\n"a\n""1""","b,c"\n1,2\n')
    for size in SIZES:
        assert read_in_batches(path, size).to_dicts() == [{'a\n"1"': "1", "b,c": "2"}]


def test_files_without_a_header(tmp_path):
    path = write(tmp_path / "a.csv", "x,1\ny,2\n")
    for size in SIZES:
        assert read_in_batches(path, size, header=False).to_dicts() == [{"1": "x", "2": "1"}, {"1": "y", "2": "2"}]
    # Other formats name their columns whatever a run's training file did.
    named = write(tmp_path / "a.jsonl", '{"1": "x", "2": "1"}\n')
    assert read_in_batches(named, 7, header=False).to_dicts() == [{"1": "x", "2": "1"}]


# JSONL


@pytest.mark.parametrize("longest", [0, jsonl.LONG_LINE])
@pytest.mark.parametrize("seed", range(3))
def test_jsonl_has_the_types_of_the_whole_file(tmp_path, monkeypatch, seed, longest):
    monkeypatch.setattr(jsonl, "LONG_LINE", longest)
    rng = random.Random(seed)
    kinds = {
        "n": [1, 2.5, None, 10**18, -3],
        "t": ["x", "é\n", None, ""],
        "l": [[], ["a"], None, ["b", "c"]],
        "d": [[1], [2.5], [], None],
        "o": [{"p": 1}, {"q": [1]}, None, {}],
        "b": [True, None, False],
        "m": [[1, None, 7, 0.5, 3], [2**62, -(2**62)], [], None],
        "u": [[{"p": 1, "q": [1]}, {"p": 0.5}, None], [{"q": [0.5]}], [{}], None],
        "s": [[[1], [0.5, None]], [None, [2]], [[]], None],
        "e": [None],
    }
    for _ in range(40):
        names = rng.sample(list(kinds), rng.randrange(1, 5))
        rows = [{name: rng.choice(kinds[name]) for name in names if rng.random() < 0.8} for _ in range(8)]
        lines = [json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows]
        path = write(
            tmp_path / "a.jsonl", rng.choice(["\n", "\r\n", "\n\n"]).join(lines) + rng.choice(["", "\n", " \n"])
        )
        whole = outcome(lambda path=path: frame_of(read_file(path)))
        for size in SIZES:
            parts = outcome(lambda path=path, size=size: read_in_batches(path, size))
            if isinstance(whole, str) or isinstance(parts, str):
                # Rows without a single column are no frame.
                assert isinstance(whole, str) or not whole.width
                continue
            # Columns, and fields of objects, stand in the order in which they come; polars has another.
            assert parts.to_dicts() == whole.to_dicts()
            assert {n: t for n, t in parts.schema.items() if n != "o"} == {
                n: t for n, t in whole.schema.items() if n != "o"
            }


def test_columns_that_are_not_wanted_are_left_out(tmp_path):
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": [0.5, None]})
    frame.write_ndjson(tmp_path / "a.jsonl")
    frame.write_parquet(tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert_frame_equal(read_in_batches(tmp_path / name, 1, wanted=["c", "a"]), frame.select("c", "a"))
        # A column that is not there is for whoever needs it to say, and what there is.
        assert_frame_equal(read_in_batches(tmp_path / name, 1, wanted=["c", "z"]), frame)


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n' * 50)
    survey = jsonl.survey

    def survey_and_grow(*arguments):
        found = survey(*arguments)
        with open(path, "a") as file:
            file.write('{"a": 2}\n')
        return found

    monkeypatch.setattr(jsonl, "survey", survey_and_grow)
    with pytest.raises(InputError, match="expected a file that stays as it is, got one of 50 rows and then of 51; "):
        list(read_batches(path, size=100))


# Parquet


@pytest.mark.parametrize("row_group", [1, 7, 1000])
def test_parquet_in_any_row_groups(tmp_path, row_group):
    frame = pl.DataFrame(
        {
            "text": ["x" * (i % 50) for i in range(300)],
            "n": pl.Series(range(300), dtype=pl.Int16),
            "kind": pl.Series(["u", "v", None] * 100, dtype=pl.Categorical),
            "labels": [["a"], [], None] * 100,
            "day": pl.Series(["2024-02-29"] * 300).str.to_date(),
        }
    )
    frame.write_parquet(tmp_path / "a.parquet", row_group_size=row_group)
    for size in SIZES:
        parts = read_in_batches(tmp_path / "a.parquet", size)
        assert_frame_equal(parts, frame_of(read_file(tmp_path / "a.parquet")), categorical_as_str=True)
    sizes = [frame_of(batch.raw).height for batch in read_batches(tmp_path / "a.parquet", size=500)]
    assert 1 <= max(sizes) <= 60


# All of them


def test_batches_are_multiples(tmp_path):
    frame = pl.DataFrame({"a": range(50)})
    frame.write_csv(tmp_path / "a.csv")
    for size in (1, 10, 100, 10**6):
        heights = [frame_of(batch.raw).height for batch in read_batches(tmp_path / "a.csv", size=size, multiple=8)]
        assert sum(heights) == 50
        assert all(height % 8 == 0 for height in heights[:-1])
        assert heights[-1] % 8 == 2
    assert len(list(read_batches(tmp_path / "a.csv", size=1, multiple=8))) == 7


def test_packed_files(tmp_path):
    rows = "".join(f'{{"a": {i}, "t": "{"x" * (i % 9)}"}}\n' for i in range(500))
    write(tmp_path / "a.jsonl", rows)
    for end, pack in ((".gz", gzip.compress), (".bz2", bz2.compress)):
        packed = pack(rows.encode())
        path = write(tmp_path / f"a.jsonl{end}", packed)
        assert_frame_equal(read_in_batches(path, 100), frame_of(read_file(tmp_path / "a.jsonl")))
        write(path, packed[: len(packed) // 2])
        with pytest.raises(InputError, match=f"expected a whole {end[1:]} file, got a truncated or corrupt one"):
            list(read_batches(path, size=100))


BAD = [
    ("a.csv", b""),
    ("a.csv", b" \n\r\n" * 50_000),
    ("a.csv", b"a,b\n"),
    ("a.csv", b"a,b\n1,2\n3\n4,5\n"),
    ("a.csv", b"a,b\n1,2\n\n3,4,5\n"),
    ("a.csv", b'a,b\n1,2\n"3,4\n5,6\n'),
    ("a.csv", b'a,b\n1,2\n"3"x,4\n'),
    ("a.csv", b'a,b\n1,"2\n2"\n3,4\n"5\n",6,7\n'),
    ("a.csv", b'a,b\n1,x"y\n2\n'),
    ("a.csv", b"a,a\n1,2\n"),
    ("a.csv", b'"a,b\n1,2\n'),
    ("a.csv", b"a,b\n1,2\n3,\xff\n"),
    ("a.csv", b'a,b\n1,x"y\n3,\xff\n'),
    ("a.csv", b"\xff\xfea\x00,\x00b\x00\n\x00"),
    ("a.jsonl", b"\n \n"),
    ("a.jsonl", b'{"a": 1}\n{"a": \n{"a": 2}\n'),
    ("a.jsonl", b'{"a": 1}\n\n\n{"a": "x"}\n'),
    ("a.jsonl", b'{"a": []}\n{"a": ["x"]}\n{"a": [1]}\n'),
    ("a.jsonl", b'{"a": 1}\n{"a": 1, "a": 2}\n'),
    ("a.jsonl", b'{"a": "x"}\n{"a": "\xff"}\n'),
    ("a.parquet", b"PAR1 and then nothing"),
    ("a.parquet", b""),
    ("a.parquet.gz", b""),
    ("a.xlsx", b""),
    ("none.csv", None),
]


@pytest.mark.parametrize(("name", "content"), BAD)
def test_errors_are_those_of_the_whole_file(tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        write(path, content)
    with pytest.raises(InputError) as expected:
        frame_of(read_file(path))
    for size in SIZES:
        with pytest.raises(InputError) as found:
            list(read_batches(path, size=size))
        if name == "a.parquet":  # two libraries, and each says what it found
            assert str(found.value).partition("(")[0] == str(expected.value).partition("(")[0]
        else:
            assert str(found.value) == str(expected.value)


def test_a_text_that_parquet_stores_once_is_written_out_a_few_rows_at_a_time(tmp_path, monkeypatch):
    path, text = tmp_path / "a.parquet", "word " * 20_000
    texts = [text, None, "short", ""] * 300
    frame = pl.DataFrame({"t": texts, "c": texts, "n": range(1200)}).with_columns(pl.col("c").cast(pl.Categorical))
    pq.write_table(frame.to_arrow(compat_level=pl.CompatLevel.oldest()), path)
    assert path.stat().st_size < 1_000_000
    frames = [frame_of(batch.raw) for batch in read_batches(path, size=2**20)]
    assert max(part["t"].str.len_bytes().sum() for part in frames) <= 2**20
    assert_frame_equal(pl.concat(frames), frame_of(read_file(path)), categorical_as_str=True)
    monkeypatch.setattr(parquet, "MAX_ROW_BYTES", 50_000)
    with pytest.raises(InputError, match=r"a\.parquet, row 1: expected texts of at most 0 MB in a row, got 0 MB"):
        list(read_batches(path, size=2**20))


def test_damage_in_the_middle_of_a_parquet_file(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"t": [f"{i} {i * i}" for i in range(5000)]}).write_parquet(path, row_group_size=500)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    write(path, bytes(content))
    with pytest.raises(InputError, match=r"expected a Parquet file, got something else or a damaged one \("):
        list(read_batches(path, size=1000))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", 'a,b\n1,2\n3,"' + "x,\n" * 2000), ("a.jsonl", '{"a": 1}\n{"a": 2}\n{"a": "' + "x" * 5000)],
)
def test_a_row_that_never_ends_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, name, content):
    monkeypatch.setattr(files, "MAX_ROW_BYTES", 2000)
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=r"line 3: expected a row of at most 0 MB, got one that goes on; check the"):
        list(read_batches(path, size=100))
