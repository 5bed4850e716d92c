"""Every kind of bad input through the command line: exit code 2, one sentence, and nothing written.

The kinds are those that the design lists. A run folder that was cut short or changed, and a full disk, are in
test_run_folder.py and test_cli.py; what each reader says of each malformed cell is in the tests of the readers.
"""

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from command import bad, call

FAST = "--set C=2 --tau 0"
ARFF = b"@relation 'r: -C 2'\n@attribute y {0,1}\n@attribute z {0,1}\n@attribute x numeric\n@data\n"
NOISE = np.random.default_rng(0).integers(0, 256, 600, dtype=np.uint8).tobytes()


def npz(matrix):
    file = io.BytesIO()
    sp.save_npz(file, sp.csr_matrix(np.asarray(matrix)))
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def parquet(**columns):
    file = io.BytesIO()
    pl.DataFrame(columns).write_parquet(file)
    return file.getvalue()


def matrix(x=((1.0, 2), (3, 4), (5, 7)), y=((1, 0), (0, 1), (1, 1)), names=b"a\nb\n"):
    return {"d.X.npz": npz(x), "d.Y.npz": npz(y), "labels.txt": names}


# Of each kind: the files, what is trained on, and what the message says; the first file where none is named.
TRAINING = {
    "missing file": [
        ({"reviews.csv": b""}, "reveiws.csv", "there is none of this name; did you mean reviews.csv?"),
        ({}, "none/d.csv", "none/d.csv: expected a file, but there is no folder none; check the path"),
        ({}, ".", ".: expected a file, got a folder; name one file in it"),
        ({"d.Y.npz": npz([[1]])}, None, "d.X.npz: expected a file, but there is none of this name"),
        ({"d.X.npz": npz([[1]])}, None, "d.X.npz: expected labels in NAME.Y.npz beside NAME.X.npz, got none"),
        ({"d.arff": ARFF.replace(b": -C 2", b"") + b"1,0,3\n"}, None, "expected the labels to be named by NAME.xml"),
        (
            {"d.csv": b"text,labels\na b,x\nc d,y\n"},
            "d.csv --test none.csv",
            "none.csv: expected a file, but there is ",
        ),
        (
            {"d.csv": b"text,labels\na b,x\nc d,y\n"},
            "d.csv --valid none.csv",
            "none.csv: expected a file, but there is",
        ),
        ({"d.csv": b"text,labels\na b,x\nc d,y\n"}, "d.csv --label-names no.txt", "no.txt: expected a file, but there"),
    ],
    "empty file": [
        ({name: content}, None, f"{name}: {expected}")
        for name, content, expected in (
            ("d.csv", b"", "expected text, got an empty file"),
            ("d.tsv", b" \n\n", "expected text, got an empty file"),
            ("d.jsonl", b"\n", "expected text, got an empty file"),
            ("d.arff", b"", "expected text, got an empty file"),
            ("d.svm", b"", "expected text, got an empty file"),
            ("d.parquet", b"", "expected a Parquet file, got something else or a damaged one"),
            ("d.npy", b"", "expected a matrix of numbers"),
        )
    ],
    "header only": [
        ({"d.csv": b"text,labels\n"}, None, "d.csv: expected rows of data, got none"),
        ({"d.parquet": parquet(text=[], labels=[])}, None, "d.parquet: expected rows of data, got none"),
        ({"d.arff": ARFF}, None, "d.arff: expected rows of data after @data, got none"),
        ({"d.svm": b"# labels index:value\n"}, None, "d.svm: expected rows of data, got none"),
    ],
    "unknown column": [
        (
            {"d.csv": b"text,labels\na b,x\nc d,y\n"},
            f"d.csv --{option} txt",
            "d.csv: expected a column 'txt', got a file without it (did you mean 'text'?); name one of its columns",
        )
        for option in ("text", "features", "labels", "split-column", "group")
    ]
    + [
        ({"d.arff": ARFF + b"1,0,3\n"}, "d.arff --labels y,zz", "d.arff: expected a column 'zz', got a file without it")
    ],
    "no labels": [
        ({"d.csv": b"text,other\na b,p q\nc d,r s\n"}, None, "d.csv: expected a list column, a column named labels"),
        (
            {"d.csv": b"text,labels\na b,\nc d,\n"},
            None,
            "d.csv, column 'labels': expected labels, got only empty cells",
        ),
        (
            {"d.jsonl": b'{"text": "a b", "labels": []}\n' * 3},
            None,
            "d.jsonl, column 'labels': expected labels, got only",
        ),
        ({"d.csv": b"a,b,p,q\n1,2,0,0\n3,5,0,0\n"}, None, "d.csv: expected rows with labels, got none"),
        (matrix(y=np.zeros((3, 2))), None, "d.X.npz: expected rows with labels, got none"),
        ({"d.svm": b" 1:2\n 2:1\n"}, None, "d.svm: expected rows with labels, got none"),
    ],
    "a label column that is all empty": [
        (
            {"d.csv": b"text,p,q,r\na b,1,,0\nc d,0,,1\n"},
            "d.csv --labels p,q,r",
            "d.csv, column 'q': expected 0 and 1 in some rows, got none that is known; name the label columns without",
        ),
        (
            {"d.csv": b"text,p,q,r\na b,1,,0\nc d,,1,1\ne f,1,,0\n"},
            None,
            "d.csv: expected 0 where a label does not apply, got nothing but 1 and unknown cells in p, q; an empty",
        ),
        (
            {"d.csv": b"text,p,q\na b,,NaN\nc d,?,n/a\n"},
            "d.csv --labels p,q",
            "d.csv: expected rows with known labels, got none; name other label columns: --labels COLUMN,COLUMN",
        ),
        ({"d.arff": ARFF + b"1,?,3\n0,?,2\n"}, None, "d.arff, column 'z': expected 0 and 1 in some rows, got none"),
    ],
    "NaN or infinite features": [
        (
            {"d.csv": f"a,b,p,q\n1,2,0,1\n3,{value},1,0\n2,2.5,1,0\n".encode()},
            None,
            f"d.csv, row 2, column 'b': expected a finite number that float32 can hold, got '{value}'",
        )
        for value in ("inf", "-inf", "1e39")
    ]
    + [
        (
            {"d.parquet": parquet(a=[1.5, 2, float(value)], p=[0, 1, 1], q=[1, 0, 1])},
            None,
            f"d.parquet, row 3, column 'a': expected a finite number that float32 can hold, got {value}",
        )
        for value in ("nan", "inf")
    ]
    + [
        (matrix(x=[[1, 2], [3, np.nan], [5, 6]]), None, "d.X.npz, row 2, column 2: expected a finite number"),
        (
            matrix() | {"e.npy": npy(np.array([[1.0], [np.inf]]))},
            "e.npy",
            "e.npy, row 2, column 1: expected a finite num",
        ),
        ({"d.arff": ARFF + b"1,0,nan\n"}, None, "d.arff, line 6, attribute 'x': expected a finite number"),
        ({"d.svm": b"1 1:2\n2 1:inf\n"}, None, "d.svm, row 2, feature 1: expected a finite number"),
        (
            {"d.parquet": parquet(v=[[1.5, 2], [1.5, float("inf")]], labels=["a", "b"])},
            None,
            "d.parquet, row 2, column 'v', number 2: expected a finite number that float32 can hold, got inf",
        ),
    ],
    "malformed": [
        ({"d.csv": b'text,labels\n"a b,c\n'}, None, "d.csv, line 2: expected a quoted field to end with a quote"),
        ({"d.csv": b'text,labels\n"a" b,c\n'}, None, "d.csv, line 2: expected a quoted field to end with a quote"),
        ({"d.csv": b"text,labels\na,x\nb,y,z\n"}, None, "d.csv, line 3: expected 2 fields as in the header, got 3"),
        ({"d.jsonl": b'{"text": "a b"\n'}, None, "d.jsonl, line 1: expected one JSON object"),
        ({"d.jsonl": b'{"text": "a b", "labels": ["x"]}\n[1]\n'}, None, "d.jsonl, line 2: expected one JSON object"),
        (
            {"d.jsonl": b'{"labels": ["x"]}\n{"labels": "x"}\n'},
            None,
            "d.jsonl, line 2, column 'labels': expected a list",
        ),
        ({"d.parquet": NOISE}, None, "d.parquet: expected a Parquet file, got something else or a damaged one"),
        ({"d.parquet": parquet(a=[1])[:-9]}, None, "d.parquet: expected a Parquet file, got something else or a dam"),
        ({"d.csv.gz": b"\x1f\x8b" + NOISE}, None, "d.csv.gz: expected a whole gz file, got a truncated or corrupt one"),
        ({"d.arff.bz2": NOISE}, None, "d.arff.bz2: expected a whole bz2 file, got a truncated or corrupt one"),
        (matrix() | {"d.X.npz": NOISE}, None, "d.X.npz: expected a matrix of numbers"),
        (matrix(y=[[1, 0], [0, 2], [1, 1]]), None, "d.Y.npz, row 2, column 2: expected 0 or 1, got 2"),
        ({"d.npy": NOISE}, None, "d.npy: expected a matrix of numbers"),
        ({"d.npy": npy(np.array([[print]], dtype=object))}, None, "allow_pickle=False"),
        ({"d.svm": b"1 1:2\n2 1:x\n"}, None, "d.svm, line 2: expected labels and features such as 1,7 3:0.5 8:1"),
        (
            {"d.jsonl": b"{}"},
            "d.jsonl --no-header",
            "d.jsonl: expected a CSV or TSV file with --no-header, got",
        ),
        (
            {"d.txt": b"text"},
            None,
            "d.txt, line 1: expected in a .txt file the sizes that files of the Extreme Classifica",
        ),
        ({"d.txt": b"2 1 1\n0 0:1\n"}, None, "d.txt: expected 2 rows, as its first line says, got 1"),
    ]
    + [
        ({"d.arff": content}, None, f"d.arff{expected}")
        for content, expected in (
            (NOISE, ", line "),
            (b"a,b\n1,2\n", ", line 1: expected @relation, @attribute or @data, got 'a,b'"),
            (b"@relation r\n@attribute a numeric\n", ": expected a line @data above the rows"),
            (b"@relation r\n@data\n1\n", ", line 2: expected @attribute lines before @data"),
            (b"@relation r\n@attribute a\n@data\n", ", line 2: expected @attribute NAME TYPE, got 'a'"),
            (b"@relation r\n@attribute a {x,y\n@data\n", ", line 2, attribute 'a': expected values in braces"),
            (b"@relation r\n@attribute a real\n@attribute a real\n@data\n", ", line 3: expected a different name for"),
            (ARFF + b"1,0\n", ", line 6: expected 3 values, one for each attribute, got 2"),
            (ARFF + b"1,2,3\n", ", line 6, attribute 'z': expected one of {0,1}, got '2'"),
            (ARFF + b"1,0,red\n", ", line 6, attribute 'x': expected a finite number that float32 can hold, got 'red'"),
            (ARFF + b"1,0,'3\n", ", line 6: expected a quoted value to end with a quote"),
            (ARFF + b"{0 1,2 3\n", ", line 6: expected a sparse row to end with }"),
            (ARFF + b"{0 1,9 3}\n", ", line 6: expected an index from 0 to 2, got 9"),
            (ARFF + b"{0 1,0 1}\n", ", line 6: expected each index once, got 0 again"),
            (ARFF + b"{x 1}\n", ", line 6: expected an index and a value"),
        )
    ],
    "short rows": [
        (
            {"d.csv": b"text,labels\na b,x\nc\n"},
            None,
            "d.csv, line 3: expected 2 fields as in the header, got 1; fill in",
        ),
        ({"d.tsv": b"a b\tx\nc\n"}, "d.tsv --no-header", "d.tsv, line 2: expected 2 fields as in the first row, got 1"),
        (
            {"d.jsonl": b'{"v": [1.5, 2], "labels": ["x"]}\n{"v": [1.5], "labels": ["y"]}\n'},
            None,
            "d.jsonl, row 2, column 'v': expected 2 numbers as in row 1, got 1",
        ),
    ],
    "non-UTF-8 text": [
        (
            {name: content + b"\xe9\n"},
            None,
            f"{name}, line {line}: expected UTF-8 text, got the byte 0xe9; say how it is",
        )
        for name, content, line in (
            ("d.csv", b"text,labels\na b,x\nc d,", 3),
            ("d.tsv", b"text\tlabels\na b\tx\nc d\t", 3),
            ("d.jsonl", b'{"text": "a b", "labels": ["x"]}\n', 2),
            ("d.arff", ARFF, 6),
            ("d.svm", b"1 1:2 # ", 1),
        )
    ]
    + [(matrix(names=b"a\n\xff\n"), None, "labels.txt, line 2: expected UTF-8 text, got the byte 0xff")],
    "keys that few lines have": [
        (
            {"d.jsonl": b"".join(b'{"text": "a b", "labels": ["x"], %s}\n' % (key % (i, i)) for i in range(8000))},
            None,
            "d.jsonl, line 70",
        )
        for key in (b'"k%d": %d', b'"of": {"k%d": %d}', b'"of": [{"in": {"k%d": %d}}]')
    ],
    "duplicate column or label names": [
        (
            {"d.csv": b"text,text\na b,x\n"},
            None,
            "d.csv, line 1: expected a different name for each column, got 'text'",
        ),
        ({"d.jsonl": b'{"text": "a b", "text": "c"}\n'}, None, "d.jsonl, line 1: expected one JSON object"),
        (
            matrix(names=b"a\na\n"),
            None,
            "labels.txt, line 2: expected each label name once, got 'a' again after line 1",
        ),
        (
            {"d.jsonl": b'{"text": "a b", "labels": [0]}\n', "names.txt": b"x\ny\nx\n"},
            "d.jsonl --label-names names.txt",
            "names.txt, line 3: expected each label name once, got 'x' again after line 1",
        ),
        ({"d.csv": b"text,labels\na b,x\n"}, "d.csv --text text --labels text", "got 'text' twice; name it once"),
    ],
    "one row": [
        ({"d.csv": b"text,labels\na b,x|y\n"}, None, "d.csv: training needs at least two rows, got 1"),
        ({"d.arff": ARFF + b"1,1,3\n"}, None, "d.arff: training needs at least two rows, got 1"),
        ({"d.svm": b"1,2 1:3\n"}, None, "d.svm: training needs at least two rows, got 1"),
        (
            {"d.csv": b"text,labels,part\na b,x|y,train\nc d,x,test\n"},
            "d.csv --split-column part",
            "d.csv: training needs at least two rows, got 1",
        ),
    ],
    "one label": [
        ({"d.csv": b"text,labels\na b,x\nc d,x\n"}, None, "multi-label learning needs at least two labels, got only x"),
        ({"d.csv": b"text,p\na b,0\nc d,1\n"}, "d.csv --labels p", "d.csv, column 'p': multi-label learning needs at "),
        (
            {"d.arff": ARFF.replace(b"-C 2", b"-C 1") + b"1,1,3\n"},
            None,
            "d.arff, column 'y': multi-label learning needs at least two labels",
        ),
        ({"d.svm": b"3 1:3\n3 2:1\n"}, None, "d.svm: multi-label learning needs at least two labels, got only 3"),
    ],
    "nothing to learn from": [
        (
            {"d.csv": b"labels,y2\nx,p\ny,q\n"},
            None,
            "d.csv: expected a column of text or numeric columns to learn from",
        ),
        ({"d.csv": b"text,labels\n...,x\n!,y\n?,x\n"}, None, "d.csv: expected texts with words"),
        ({"d.csv": b"p,q\n0,1\n1,0\n"}, None, "in one block before or after the other numeric columns"),
    ],
}
CASES = [pytest.param(*case, id=f"{kind}-{i}") for kind, cases in TRAINING.items() for i, case in enumerate(cases)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("files", "arguments", "expected"), CASES)
def test_training_says_what_is_wrong_and_writes_nothing(files, arguments, expected):
    for name, content in files.items():
        Path(name).write_bytes(content)
    arguments = arguments or next(iter(files))
    assert expected in bad(f"train {arguments}")
    assert expected in bad(f"train {arguments} --json --out deep/er/run")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train a run on text, one on numbers and one of each kind of matrix."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("text.csv").write_text("text,labels\n" + "a fox,x|y\na bird,y\ntwo trees,x\n" * 4)
        Path("numbers.csv").write_text("a,b,p,q\n" + "1,2.5,0,1\n3,4,1,0\n2,7,1,1\n" * 4)
        Path("set.svm").write_text("1,2 1:3 2:1\n1 1:1\n2 2:4\n" * 4)
        for name, content in matrix().items():
            Path(name).write_bytes(content)
        for name, data in (("text", "text.csv"), ("numbers", "numbers.csv"), ("svmlight", "set.svm"), ("matrix", "d")):
            call(f"train {data} {FAST} --out {name}")
    return folder


# Of each kind: the run, the file, what predicting says, and what evaluating says where that is another thing.
LATER = {
    "missing file": [("text", {}, "d.csv: expected a file, but there is none of this name", None)],
    "unknown column": [
        (
            "text",
            {"d.csv": b"body,labels\na b,x\n"},
            "d.csv: expected the columns text as in training, got a file without "
            "text; it has body, labels: add or rename",
            "d.csv: expected the columns text, labels as in training",
        ),
    ],
    "no labels": [
        ("text", {"d.csv": b"text,tags\na b,x\n"}, None, "d.csv: expected the columns text, labels as in train")
    ],
    "wrong number of features": [
        (
            "matrix",
            {"d.X.npz": npz([[1, 2, 3]]), "d.Y.npz": npz([[1, 0]]), "labels.txt": b"a\nb\n"},
            "d.X.npz: expected 2 features, as in training; got 3",
            None,
        ),
        (
            "numbers",
            {"d.csv": b"a,p,q\n1,0,1\n"},
            "d.csv: expected the columns a, b as in training, got a file without b",
            "d.csv: expected the columns a, b, p, q as in training, got a file without b",
        ),
        (
            "svmlight",
            {"d.svm": b"1 0:1\n"},
            "d.svm, row 1: expected features numbered from 1, as in training, got the ",
            None,
        ),
    ],
    "NaN or infinite features": [
        (
            "numbers",
            {"d.csv": b"a,b,p,q\n1,2,0,1\n1,inf,0,1\n"},
            "d.csv, row 2, column 'b': expected a finite number",
            None,
        ),
        ("matrix", {"d.X.npz": npz([[1, np.nan]])}, "d.X.npz, row 1, column 2: expected a finite number", None),
        ("svmlight", {"d.svm": b"1 1:nan\n"}, "d.svm, row 1, feature 1: expected a finite number", None),
    ],
    "malformed": [
        ("text", {"d.parquet": NOISE}, "d.parquet: expected a Parquet file, got something else or a damaged one", None),
        ("text", {"d.jsonl": b"{\n"}, "d.jsonl, line 1: expected one JSON object", None),
        (
            "numbers",
            {"d.arff": b"@relation r\n@attribute a real\n@data\nx\n"},
            "d.arff, line 4, attribute 'a': expected a finite number",
            None,
        ),
        ("numbers", {"d.csv": b"a,b,p,q\n1,2,0,7\n"}, None, "d.csv, row 1, column 'q': expected 0 or 1, got '7'"),
    ],
    "another kind of file": [
        (
            "matrix",
            {"d.csv": b"a,b\n1,2\n"},
            "d.csv: expected a matrix (NAME.X.npz), as in training; got a table",
            None,
        ),
        (
            "text",
            {"d.X.npz": npz([[1, 2]])},
            "d.X.npz: expected a table (CSV, TSV, JSONL, Parquet, ARFF), as in trai",
            None,
        ),
        (
            "text",
            {"d.svm": b"1 1:2\n"},
            "expected a table (CSV, TSV, JSONL, Parquet, ARFF), as in training; got an s",
            None,
        ),
        ("svmlight", {"d.csv": b"a,b\n1,2\n"}, "d.csv: expected an svmlight file, as in training; got a table", None),
    ],
}


@pytest.mark.parametrize(
    ("run", "files", "predicting", "evaluating"),
    [pytest.param(*case, id=f"{kind}-{i}") for kind, cases in LATER.items() for i, case in enumerate(cases)],
)
def test_using_a_run_says_what_is_wrong_and_writes_nothing(runs, run, files, predicting, evaluating):
    for name, content in files.items():
        Path(name).write_bytes(content)
    data = next(iter(files), "d.csv")
    if predicting is not None:
        assert predicting in bad(f"predict {runs / run} {data} -o out.csv")
    expected = evaluating or predicting
    assert expected is not None
    assert expected in bad(f"evaluate {runs / run} {data}")


def test_a_file_of_measurement_is_read_before_training(runs):
    """Bad test and validation files are refused at once, not after an hour of training."""
    Path("t.csv").write_text("text,labels\na b,x\nc\n")
    for option in ("test", "valid"):
        assert bad(f"train {runs / 'text.csv'} --{option} t.csv").startswith("t.csv, line 3: expected 2 fields")
    Path("t.csv").write_text("body,labels\na b,x\n")
    assert "t.csv: expected the columns text, labels" in bad(f"train {runs / 'text.csv'} --test t.csv")
    Path("w.X.npz").write_bytes(npz([[1, 2, 3]]))
    Path("w.Y.npz").write_bytes(npz([[1, 0]]))
    Path("labels.txt").write_text("a\nb\n")
    assert "w.X.npz: expected 2 features, as in training; got 3" in bad(f"train {runs / 'd'} {FAST} --test w.X.npz")
