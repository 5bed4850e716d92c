"""Any bytes under the name of any format give rows, or one sentence that names the file: never an error of Python."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.batches import read_batches
from manyhot.toolkit.read.data import read_file
from manyhot.toolkit.read.spans import read_marked

# READER_EXAMPLES=2000 tries more.
EXAMPLES = int(os.environ.get("READER_EXAMPLES", "25"))
HEADER = b"@relation r\n@attribute a numeric\n@attribute b {0,1}\n@attribute c string\n@data\n"
# Pieces that mean something to a format, in any order, are nearer to its faults than bytes alone.
PIECES = {
    ".csv": [
        b"a,b\n",
        b'"',
        b'""',
        b",",
        b"\n",
        b"\r\n",
        b"\r",
        b"x",
        b"1e999",
        b"\0",
        b"\xff",
        b"sep=;\n",
        b"\xef\xbb\xbf",
    ],
    ".tsv": [b"a\tb\n", b'"', b"\t", b"\n", b"\r", b"\xa0", b"NA", b"-1", b"\xff\xfe"],
    ".jsonl": [
        *(
            b'{"a": ',
            b"}",
            b"\n",
            b"[",
            b"]",
            b"1",
            b"9" * 30,
            b"9" * 400,
            b"1e999",
            b"NaN",
            b"null",
            b'"x"',
            b",",
            b": ",
        ),
        *(b'{"a": 1, "b": ["x"]}\n', b'"\\ud800"', b'{"a": "x", "b": []}\n', b'{"a": 0.5, "b": null}\n', b"true"),
    ],
    ".arff": [
        *(
            HEADER,
            b"1,0,x\n",
            b"{0 1, 1 1}\n",
            b"{",
            b"}",
            b"'",
            b'"',
            b"\\",
            b"?",
            b",",
            b"\n",
            b"9" * 30,
            b" ",
            b"1e39",
        ),
        *(b"@attribute d date\n", b"%", b"@data\n", "²".encode(), b"-1", b"nan", b"inf", b"1_0"),
    ],
    ".svm": [
        *(b"1,2 3:0.5\n", b"1", b",", b" ", b":", b"nan", b"inf", b"-1", b"#", b"\n", b"9" * 30, b"1e999", b"qid:1"),
        *(b"2 5 3\n", b"\0", b"1:1 1:1"),
    ],
    ".txt": [
        *(b"2 5 3\n", b"1 1 1\n", b"0 0 0\n", b"9" * 30, b"1,2 3:0.5\n", b" 0:1\n", b"\n", b" ", b"-1", b"\0", b"\r")
    ],
    ".json": [b"[", b"]", b'{"data": {"text": "ab"}, "annotations": [', b"{", b"}", b'"result": ', b",", b"1", b"null"],
    ".conll": [b"Anna B-PER\n", b"x O\n", b"\n", b"\t", b"B-", b"I-X", b"-DOCSTART-", b" ", b"\0", b"a b c\n"],
}


def contents(suffix):
    pieces = st.lists(st.sampled_from(PIECES[suffix]), max_size=12).map(b"".join)
    return st.one_of(pieces, st.binary(max_size=60), st.tuples(pieces, st.binary(max_size=8), pieces).map(b"".join))


@pytest.mark.parametrize("suffix", PIECES)
def test_any_bytes_give_rows_or_one_sentence(suffix):
    checks: Any = list(HealthCheck)

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES <= 25, suppress_health_check=checks)
    @given(contents(suffix))
    def check(data):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"d{suffix}"
            path.write_bytes(data)
            for read in readers(suffix):
                try:
                    assert read(path)
                except InputError as error:
                    said = str(error)
                    assert "\n" not in said
                    # What `reading` had to catch is a fault that a reader should name itself.
                    assert "its reader can take" not in said, said
                    assert len(said) < 1000

    check()


def readers(suffix):
    if suffix in (".json", ".conll"):
        return [lambda path: read_marked(path).rows]
    whole = [lambda path: read_file(path) is not None, lambda path: list(read_batches(path))]
    return whole if suffix in (".csv", ".tsv", ".jsonl") else whole[:1]
