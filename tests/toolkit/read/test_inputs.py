"""Every file of a run to rows to learn from and rows to measure on: parts and groups by a column, and what is said."""

import re

import numpy as np
import polars as pl
import pytest

from manyhot.toolkit.config import Config, make_config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.fit import folds_of
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.read.inputs import read
from manyhot.toolkit.train import train

TEXTS = ["a red fox", "two blue birds", "the green tree", "one more line", "a fifth one", "the last line"]
TAGS = ["a|b", "b", "a", "c|a", "b", "a|d"]
PARTS = ["Train", " train ", "DEV", "test", "training", "Test"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(name="d.csv", **changed):
    columns = {"t": TEXTS, "tags": TAGS, "part": PARTS, "doc": ["x", "x", "y", "y", "z", "z"]} | changed
    pl.DataFrame(columns).write_csv(name)
    return name


def label_sets(examples):
    return [{examples.label_names[i] for i in np.flatnonzero(row)} for row in examples.targets.toarray()]


def test_rows_go_to_the_parts_that_a_column_says():
    training = read(Config(data=table(), split_column="part"))
    assert training.valid is not None
    assert training.test is not None
    assert training.train.texts == [TEXTS[0], TEXTS[1], TEXTS[4]]
    assert training.valid.texts == [TEXTS[2]]
    assert training.test.texts == [TEXTS[3], TEXTS[5]]
    # Labels that only test rows have are unknown to the run, as with a file of its own.
    assert training.train.label_names == ["a", "b"]
    assert label_sets(training.train) == [{"a", "b"}, {"b"}, {"b"}]
    assert label_sets(training.test) == [{"c", "a"}, {"a", "d"}]
    assert training.rows == {"d.csv": 6}
    assert training.said[:4] == [
        "text: t",
        "labels: tags (separated by '|', 4 labels)",
        "not used: doc: 3 different values, taken for codes; --text t,doc adds it",
        "rows by part: 3 train, 1 valid, 2 test",
    ]


def test_a_column_of_parts_is_as_good_as_files():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 3))
    frame = pl.DataFrame(X, schema=["x", "y", "z"]).with_columns(
        pl.Series("p", (X[:, 0] > 0).astype(int)), pl.Series("q", (X[:, 1] > 0.3).astype(int))
    )
    part = np.array(["train"] * 50 + ["valid"] * 20 + ["test"] * 20)[rng.permutation(90)]
    frame.with_columns(part=part).write_parquet("all.parquet")
    for name in ("train", "valid", "test"):
        frame.filter(part == name).write_parquet(f"{name}.parquet")
    ours = train(Config(data="all.parquet", split_column="part", labels=("p", "q"), out="a"))
    files = Config(data="train.parquet", valid="valid.parquet", test="test.parquet", labels=("p", "q"), out="b")
    theirs = train(files)
    assert ours is not None
    assert theirs is not None
    assert ours.metrics == theirs.metrics
    np.testing.assert_array_equal(ours.run.predict_logits(X), theirs.run.predict_logits(X))


def test_parts_and_groups_of_an_arff_file():
    content = "@relation 'd: -C -2'\n@attribute x real\n@attribute part {train,test}\n@attribute doc numeric\n"
    rows = "".join(f"{i}.5,{'train' if i < 4 else 'test'},{i // 2},{i % 2},{(i + 1) % 2}\n" for i in range(6))
    with open("d.arff", "w") as file:
        file.write(f"{content}@attribute p {{0,1}}\n@attribute q {{0,1}}\n@data\n{rows}")
    training = read(Config(data="d.arff", split_column="part", group="doc"))
    assert training.columns.features == ("x",)
    assert training.columns.categories == ()
    assert training.test is not None
    assert (training.train.rows, training.test.rows) == (4, 2)
    assert training.train.groups is not None
    assert training.train.groups.tolist() == [1, 1, 2, 2]


def test_groups_are_held_out_as_a_whole():
    rng = np.random.default_rng(0)
    doc = rng.integers(12, size=80)
    texts = [f"word{rng.integers(5)} doc{d}" for d in doc]
    tags = [["a", "b"][int(d % 2)] for d in doc]
    pl.DataFrame({"t": texts, "tags": tags, "doc": [f"d{d}" for d in doc]}).write_csv("d.csv")
    training = read(Config(data="d.csv", text=("t",), group="doc"))
    assert "groups: doc (12 groups), each held out as a whole" in training.said
    assert training.columns.categories == ()
    features = Features.fit(training.train)
    X, targets = features.transform(training.train), training.train.targets.toarray()
    terms = features.blocks[0].terms
    named = [i for i, term in enumerate(terms) if term.startswith("doc")]
    assert len(named) == 12
    folds = folds_of(training, X, targets, features, 0, Listener())
    assert len(folds) == 3
    for fold in folds:
        held, kept = (set(np.flatnonzero(rows[:, named].sum(0))) for rows in (fold.X_held, fold.X))
        assert held
        assert not held & kept
    without = read(Config(data="d.csv", text=("t",)))
    crossing = folds_of(without, X, targets, features, 0, Listener())
    assert any(set(fold.X_held[:, named].indices) & set(fold.X[:, named].indices) for fold in crossing)


def test_two_groups_make_two_folds():
    training = read(Config(data=table(doc=["x", "x", "x", "y", "y", "y"]), group="doc"))
    features = Features.fit(training.train)
    X, targets = features.transform(training.train), training.train.targets.toarray()
    assert [fold.X_held.shape[0] for fold in folds_of(training, X, targets, features, 0, Listener())] == [3, 3]


@pytest.mark.parametrize(
    ("changed", "options", "expected"),
    [
        ({"part": ["train", "tset", *PARTS[2:]]}, {"split_column": "part"},
         r"^d\.csv, row 2, column 'part': expected train, valid or test, got 'tset'; correct the cell"),
        ({"part": ["train", "", *PARTS[2:]]}, {"split_column": "part"},
         r"^d\.csv, row 2, column 'part': expected train, valid or test, got an empty cell; fill it in"),
        ({"part": ["test"] * 6}, {"split_column": "part"}, r"^d\.csv, column 'part': expected rows of train, got none"),
        ({}, {"split_column": "prat"}, r"expected a column 'prat', got a file without it \(did you mean 'part'"),
        ({}, {"group": "dox"}, r"expected a column 'dox', got a file without it \(did you mean 'doc'"),
        ({"doc": ["x", "y", "", "x", "y", "x"]}, {"group": "doc"},
         r"^d\.csv, row 3, column 'doc': expected a group, got an empty cell; fill it in, or leave the row out"),
        ({"doc": ["x"] * 6}, {"group": "doc"}, r"^d\.csv: expected two groups or more, got one; leave --group out"),
        ({}, {"split_column": "part", "labels": ("part",)}, r"expected a column 'part', got a file without it"),
    ],
)  # fmt: skip
def test_parts_and_groups_that_are_none(changed, options, expected):
    table(**changed)
    with pytest.raises(InputError) as caught:
        read(Config(data="d.csv", **options))
    assert re.search(expected, str(caught.value))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"split_column": "part", "test": "t.csv"}, r"^split_column says which rows are test rows; leave --test out"),
        ({"split_column": "part", "valid": "t.csv"}, r"^split_column says which rows are valid rows; leave --valid"),
        ({"split_column": "part", "group": "part"}, r"^group and split_column expect two columns; got the same"),
        ({"group": 3}, r"^group expects text; got 3"),
    ],
)
def test_options_that_do_not_go_together(options, expected):
    with pytest.raises(InputError, match=expected):
        make_config(None, [], {"data": "d.csv"} | options)


def test_missing_cells_are_said_in_one_sentence():
    table(x=[1.5, None, 3, None, 5, 6], colour=["r", "g", None, "r", "g", "r"], t=[1, 2, 4, 9, 5, 7])
    training = read(Config(data="d.csv", features=("x", "t", "colour"), labels=("tags",)))
    assert training.said[-2] == (
        "missing cells: x (2 rows), colour (1 row); the mean stands in for a number, beside a column that says where, "
        "and a missing category is one of its own"
    )
    assert not any("missing" in sentence for sentence in read(Config(data="d.csv", features=("t",))).said)
    pl.DataFrame({"v": [[0.5, 1.0]] * 6, "x": [1.0, None, 2, 3, 4, 5], "tags": TAGS}).write_parquet("v.parquet")
    assert "missing cells: 1 numeric column; the mean" in " ".join(read(Config(data="v.parquet")).said)
