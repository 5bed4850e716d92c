"""svmlight files with several labels a row: against scikit-learn's writer, and every malformed line by its number."""

import bz2
import gzip
import io
import re

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import dump_svmlight_file

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.data import Svmlight, read_file
from manyhot.toolkit.read.examples import examples_of, find_indices


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def raw_of(path) -> Svmlight:
    raw = read_file(path)
    assert isinstance(raw, Svmlight)
    return raw


def both(path, **options):
    columns, said = find_indices(raw_of(path), **options)
    return columns, said, examples_of(raw_of(path), columns, path.name)


def written(rows=20, features=6, labels=4, *, zero_based, seed=0):
    rng = np.random.default_rng(seed)
    X = np.where(rng.random((rows, features)) < 0.4, rng.normal(size=(rows, features)), 0).astype(np.float32)
    X[0, 0] = X[0, features - 1] = 1.0
    Y = rng.random((rows, labels)) < 0.4
    file = io.BytesIO()
    dump_svmlight_file(sp.csr_array(X), sp.csr_array(Y), file, zero_based=zero_based, multilabel=True)
    return file.getvalue(), X, Y


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)])
@pytest.mark.parametrize("zero_based", [False, True])
def test_what_scikit_learn_writes(tmp_path, ending, pack, zero_based):
    content, X, Y = written(zero_based=zero_based)
    for kind in ("svm", "svmlight", "libsvm"):
        columns, said, examples = both(write(tmp_path / f"a.{kind}{ending}", pack(content)))
        assert columns.indices == (int(not zero_based), 6)
        assert said == [f"features: 6, numbered from {int(not zero_based)}"]
        np.testing.assert_allclose(examples.numbers.toarray(), X, rtol=1e-6)
        np.testing.assert_array_equal(examples.targets.toarray(), Y)
        assert examples.label_names == ["0", "1", "2", "3"]
        assert examples.rows == 20


def test_rows_without_labels_or_features_comments_and_ids_in_order(tmp_path):
    path = write(tmp_path / "a.svm", "# a comment\n10,2 1:0.5 3:1 # why\n 2:1\n\n-1\n2,2 1:1\n")
    columns, _, examples = both(path)
    assert columns.indices == (1, 3)
    assert examples.label_names == ["-1", "2", "10"]
    assert examples.targets.toarray().astype(int).tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert examples.numbers.toarray().tolist() == [[0.5, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_first_line_of_sizes(tmp_path):
    columns, said, examples = both(write(tmp_path / "a.svm", "2 7 3\n0,2 1:0.5 3:1\n1 2:1\n"))
    assert columns.indices == (0, 7)
    assert said == ["features: 7, numbered from 0"]
    assert examples.numbers.toarray().tolist() == [[0, 0.5, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0]]


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)])
def test_files_of_the_extreme_classification_repository(tmp_path, ending, pack):
    """A round trip: rows as the repository writes them, some without labels or features, one without both."""
    rng = np.random.default_rng(3)
    X = np.where(rng.random((40, 9)) < 0.3, rng.random((40, 9)).round(3), 0).astype(np.float32)
    Y = rng.random((40, 12)) < 0.15
    X[5] = X[7] = 0
    Y[6] = Y[7] = False
    lines = ["40 9 12"]
    for x, y in zip(X, Y, strict=True):
        cells = " ".join(f"{i}:{value:.3f}" for i, value in enumerate(x) if value)
        lines.append(f"{','.join(map(str, np.flatnonzero(y)))} {cells}".rstrip())
    assert "" in lines
    columns, said, examples = both(write(tmp_path / f"train.txt{ending}", pack(("\n".join(lines) + "\n").encode())))
    assert (columns.indices, said) == ((0, 9), ["features: 9, numbered from 0"])
    np.testing.assert_allclose(examples.numbers.toarray(), X, rtol=1e-6)
    names = [int(name) for name in examples.label_names]
    assert names == np.flatnonzero(Y.any(0)).tolist()
    np.testing.assert_array_equal(examples.targets.toarray(), Y[:, names])
    later = examples_of(raw_of(write(tmp_path / "test.txt", "1 9 12\n3,11 8:0.5\n")), columns, "test.txt")
    assert (later.numbers.toarray().tolist(), later.label_names) == ([[0] * 8 + [0.5]], ["3", "11"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("0 1:1\n", r"a\.txt, line 1: expected in a \.txt file the sizes .*, rows features labels, got '0 1:1'; write"),
        ("some words\n", r"a\.txt, line 1: expected in a \.txt file the sizes .*, got 'some words'; .*, one of: \.csv"),
        (
            "3 4 5\n0 1:1\n1 2:1\n",
            r"a\.txt: expected 3 rows, as its first line says, got 2; download or write it again",
        ),
        ("1 4 5\n0 1:1\n1 2:1\n", r"a\.txt: expected 1 rows, as its first line says, got 2;"),
        (f"{10**17} 4 5\n0 1:1\n", r"expected 100,000,000,000,000,000 rows, as its first line says, got 1;"),
        ("2 4 5\n0 1:1\n1 2:1 4:1\n", r"a\.txt, row 2: expected features from 0 to 3, as its first line says, got 4;"),
        ("2 4 5\n0 1:1\n1,5 2:1\n", r"a\.txt, row 2: expected labels from 0 to 4, as its first line says, got 5;"),
        ("2 4 5\n0 1:1\n-1 2:1\n", r"a\.txt, row 2: expected labels from 0 to 4, as its first line says, got -1;"),
        (
            "2 4 5\n0 1:1\n1 2:x\n",
            r"a\.txt, line 3: expected labels and features such as .*, got '1 2:x' \(.*\); correct",
        ),
        ("0 4 5\n", r"a\.txt: expected rows of data, got none"),
        ("0 4 5", r"a\.txt: expected rows of data, got none"),
    ],
)
def test_a_file_that_is_not_as_its_first_line_says(tmp_path, content, expected):
    with pytest.raises(InputError, match=expected):
        read_file(write(tmp_path / "a.txt", content))


def test_later_files_have_the_features_of_training(tmp_path):
    columns, _, _ = both(write(tmp_path / "a.svm", "1 1:1 3:1\n2 2:1\n"))
    short = examples_of(raw_of(write(tmp_path / "b.svm", "1 1:4\n")), columns, "b.svm")
    assert short.numbers.toarray().tolist() == [[4, 0, 0]]
    more = examples_of(raw_of(write(tmp_path / "c.svm", "9 2:5 8:1\n")), columns, "c.svm")
    assert more.numbers.toarray().tolist() == [[0, 5, 0]]
    assert more.label_names == ["9"]
    unlabelled = examples_of(raw_of(tmp_path / "c.svm"), columns, "c.svm", with_labels=False)
    assert (unlabelled.targets, unlabelled.label_names) == (None, [])
    with pytest.raises(InputError, match=r"d\.svm, row 2: expected features numbered from 1, as in training, got the"):
        examples_of(raw_of(write(tmp_path / "d.svm", "1 1:1\n1 0:1\n")), columns, "d.svm")
    zero, _, _ = both(write(tmp_path / "e.svm", "1 0:1 2:1\n"))
    later = examples_of(raw_of(write(tmp_path / "f.svm", "1 1:1\n")), zero, "f.svm")
    assert later.numbers.toarray().tolist() == [[0, 1, 0]]


def test_names_by_id(tmp_path):
    path = write(tmp_path / "a.svm", "0,2 1:1\n1 2:1\n")
    columns, _, examples = both(path, label_names=["joy", "fear", "anger"])
    assert examples.label_names == ["joy", "fear", "anger"]
    assert examples.targets.toarray().astype(int).tolist() == [[1, 0, 1], [0, 1, 0]]
    with pytest.raises(InputError, match=r"b\.svm, row 2: expected label ids from 0 to 2, .*got 3; correct the row"):
        examples_of(raw_of(write(tmp_path / "b.svm", "0 1:1\n1,3 1:1\n")), columns, "b.svm")


@pytest.mark.parametrize(
    ("lines", "line", "got"),
    [
        (["1 1:1", "2 2:x", "3 1:1"], 2, "'2 2:x'"),
        (["1 1:1", "2 a:1"], 2, "'2 a:1'"),
        (["x 1:1"], 1, "'x 1:1'"),
        (["1 1:1"] * 20 + ["1, 2 1:1"] + ["1 1:1"] * 20 + ["bad"], 21, "'1, 2 1:1'"),
        (["1 1:1", "", "# c", "2 3:1 2:1"], 4, "'2 3:1 2:1'"),
        (["1 1:1", "2 2:1 2:1"], 2, "'2 2:1 2:1'"),
        (["1 1:1", "2 -1:1"], 2, "'2 -1:1'"),
        (["1 1:1", "2 5"], 2, "'2 5'"),
        (["1 1:1", "2 99999999999:1"], 2, "'2 99999999999:1'"),
        (["2 3 2", "1 1:1", "2 a:1"], 3, "'2 a:1'"),
    ],
)
def test_malformed_lines(tmp_path, lines, line, got):
    with pytest.raises(InputError) as caught:
        read_file(write(tmp_path / "a.svm", "\n".join(lines) + "\n"))
    expected = rf"a\.svm, line {line}: expected labels and features such as 1,7 3:0\.5 8:1, got {re.escape(got)} \(.*\)"
    assert re.search(expected + "; correct the line$", str(caught.value))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1 1:1\n1.5 1:1\n", r"a\.svm, row 2: expected whole numbers as labels, got 1\.5; number the labels"),
        ("1 1:1\n9007199254740993 1:1\n", r"a\.svm, row 2: expected labels of at most 9,007,199,254,740,991, got"),
        ("-9007199254740992 1:1\n", r"a\.svm, row 1: expected labels of at most"),
        ("1 1:1\n1 1:1 2:nan\n", r"a\.svm, row 2, feature 2: expected a finite number .*, got nan; correct"),
        ("1 1:1\n\n1 3:1e39\n", r"a\.svm, row 2, feature 3: expected a finite number .*, got inf; correct"),
        ("", "expected text, got an empty file"),
        ("# nothing\n", "expected rows of data, got none"),
    ],
)
def test_bad_values(tmp_path, content, expected):
    with pytest.raises(InputError, match=expected):
        read_file(write(tmp_path / "a.svm", content))
