"""Label cells that nobody knows: found, counted, said, and kept apart from 0; features keep rules of their own."""

import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from manyhot.toolkit.config import Config, make_config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.columns import Columns, find_columns
from manyhot.toolkit.read.examples import (
    check_one_class,
    drop_unknown,
    drop_unlabelled,
    examples_from_frame,
    read_examples,
)
from manyhot.toolkit.read.inputs import read

CASES = Path(os.environ.get("MANYHOT_DATA", Path(__file__).parents[4] / "shared" / "data")).parent / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"no cases in {CASES}")

NUMBER = [0.5, -1.25, 2.0, 3.5, 0.25, 9.0]
TEXT = ["a red fox", "two blue birds", "the green tree", "one more line", "a fifth line", "the last one"]
TRUTH = [0, 1, 1, 0, 1, 0]
OTHER = [1, 0, 1, 0, 0, 1]
SIGNED = [0, 1, -1, 0, -1, 1]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find(columns, **options):
    return find_columns(pl.DataFrame(columns, strict=False), "f.csv", **options)[:2]


def cells(columns, found, **options):
    return examples_from_frame(pl.DataFrame(columns, strict=False), found, "f.csv", **options).dense_targets()


# Every way to write a label cell of which nobody knows the truth, as text and as typed columns have it.
UNKNOWN_TEXT = ["", " ", None, "NaN", "nan", "null", "None", "NA", "na", " N/A ", "n/a", "#N/A", "<NA>", "?", "-", "."]
UNKNOWN_TEXT += ["\u061f", "\uff1f", "--", "unknown", "Missing", "-1", "-1.0", " -1 ", "-100"]
UNKNOWN_TYPED = [None, float("nan"), -1, -1.0, -100]


@pytest.mark.parametrize("cell", [*UNKNOWN_TEXT, *UNKNOWN_TYPED], ids=repr)
@pytest.mark.parametrize("beside", ["numbers", "text", "named"])
def test_an_unknown_cell_is_unknown_in_every_writing(cell, beside):
    typed = isinstance(cell, int | float) or cell is None
    write = (lambda values: values) if typed else (lambda values: [str(value) for value in values])
    b = [*write([0, 1]), cell, *write([0, 1, 1])]
    columns = {"x": TEXT if beside == "text" else NUMBER, "a": write(TRUTH), "b": b, "c": write(OTHER)}
    found, said = find(columns, labels=["a", "b", "c"] if beside == "named" else None)
    assert found.labels == ("a", "b", "c")
    assert found.label_format == "indicator"
    assert found.features == (() if beside == "text" else ("x",))
    assert found.categories == ()
    assert said[1:] == ["labels: a, b, c (3 columns of 0 and 1)"]
    np.testing.assert_array_equal(cells(columns, found), np.array([TRUTH, [0, 1, -1, 0, 1, 1], OTHER]).T)


def test_known_cells_take_no_memory_for_what_could_be_unknown():
    columns = {"x": NUMBER, "a": TRUTH, "b": OTHER}
    examples = examples_from_frame(pl.DataFrame(columns), find(columns)[0], "f.csv")
    assert examples.unknown is None
    assert examples.dense_targets().dtype == bool


def test_shares_may_be_unknown():
    columns = {"t": TEXT, "a": ["0.2", "", "1", "0.7", "NA", "0"], "b": [0.5, -1, float("nan"), 1, 0.25, None]}
    found, _ = find(columns, labels=["a", "b"])
    assert found.label_format == "shares"
    np.testing.assert_array_equal(cells(columns, found), np.array([[0, -1, 1, 1, -1, 0], [1, -1, -1, 1, 0, -1]]).T)


@pytest.mark.parametrize(("uncertain", "value"), [(None, -1), ("negative", 0), ("positive", 1)])
def test_minus_one_may_be_read_otherwise(uncertain, value):
    columns = {"x": NUMBER, "a": TRUTH, "b": SIGNED, "c": [0, None, 1, 1, 0, 0]}
    found, _ = find(columns)
    read_as = cells(columns, Columns(**(vars(found) | {"uncertain": uncertain})))
    assert read_as[:, 1].tolist() == [0, 1, value, 0, value, 1]
    assert read_as[:, 2].tolist() == [0, -1, 1, 1, 0, 0]


# Which columns are labels.


@pytest.mark.parametrize("word", ["NA", "?", "NaN"])
def test_words_join_the_block_that_they_touch(word):
    some = ["0", "1", word, "0", "1", word]
    found = find({"f": NUMBER, "a": TRUTH, "b": some, "c": OTHER})[0]
    assert (found.labels, found.features, found.categories) == (("a", "b", "c"), ("f",), ())
    # Away from the block it is a feature, a number that may be missing.
    found = find({"b": some, "f": NUMBER, "a": TRUTH, "c": OTHER})[0]
    assert (found.labels, found.features, found.categories) == (("a", "c"), ("b", "f"), ())
    # No column is without unknown cells.
    found = find({"f": NUMBER, "b": some, "c": some[::-1]})[0]
    assert (found.labels, found.features, found.categories) == (("b", "c"), ("f",), ())
    # Beside text nothing else could be a feature.
    found = find({"b": some, "t": TEXT, "a": TRUTH, "f": NUMBER, "c": OTHER})[0]
    assert found.labels == ("b", "a", "c")


def test_minus_one_joins_where_0_and_1_are_the_majority():
    for x in ({"f": NUMBER}, {"t": TEXT}):
        found, said = find(x | {"s": SIGNED, "a": TRUTH, "b": OTHER})
        assert found.labels == ("s", "a", "b")
        assert not any("-1" in sentence for sentence in said)
        found = find(x | {"a": TRUTH, "s": SIGNED, "b": OTHER, "r": SIGNED, "c": OTHER})[0]
        assert found.labels == ("a", "s", "b", "r", "c")


def test_minus_one_is_a_feature_where_it_may_be_one():
    advice = "if -1 means that nobody knows, type --labels "
    # Not the majority of its run.
    found, said = find({"f": NUMBER, "s": SIGNED, "r": SIGNED, "a": TRUTH, "b": OTHER})
    assert (found.labels, found.features) == (("a", "b"), ("f", "s", "r"))
    assert f"s, r: -1, 0 and 1, taken for features; {advice}s,r,a,b" in said
    # Another stands outside of the run.
    found, said = find({"r": SIGNED, "f": NUMBER, "s": SIGNED, "a": TRUTH, "b": OTHER})
    assert (found.labels, found.features) == (("a", "b"), ("r", "f", "s"))
    assert f"s: -1, 0 and 1, taken for a feature; {advice}s,a,b" in said
    # Without a 0 nothing is known to be without the label.
    found, said = find({"f": NUMBER, "s": [1, -1] * 3, "a": TRUTH, "b": OTHER})
    assert (found.labels, found.features) == (("a", "b"), ("f", "s"))
    assert "s: -1 and 1, taken for a feature; if -1 means no, type --labels s,a,b --uncertain negative" in said
    # Away from the labels nobody would take it for one.
    found, said = find({"s": SIGNED, "f": NUMBER, "a": TRUTH, "b": OTHER})
    assert (found.labels, found.features) == (("a", "b"), ("s", "f"))
    assert not any("-1" in sentence for sentence in said)
    # Beside text it is no feature either.
    found, said = find({"t": TEXT, "s": SIGNED, "a b": TRUTH, "r": SIGNED, "b": OTHER})
    assert found.labels == ("a b", "b")
    assert f"s, r: -1, 0 and 1, not used; {advice}'s,a b,r,b'" in said


def test_columns_of_minus_one_and_1_are_labels_where_minus_one_says_no():
    columns = {"f": NUMBER, "a": [1, -1, 1, 1, -1, -1], "b": [-1, 1, 1, -1, 1, -1]}
    with pytest.raises(InputError, match=r"; if -1 means no, type --labels a,b --uncertain negative$"):
        find(columns)
    pl.DataFrame(columns).write_csv("d.csv")
    with pytest.raises(InputError, match=r"nothing but 1 and unknown cells in a, b; .*, or type --uncertain negative"):
        read(Config(data="d.csv", labels=("a", "b")))
    training = read(Config(data="d.csv", labels=("a", "b"), uncertain="negative"))
    assert training.train.dense_targets().tolist() == [[1, 0], [0, 1], [1, 1], [1, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize(("code", "odd"), [("9", True), ("-99", True), ("maybe", True), ("2", False), ("0.5", False)])
def test_a_code_that_may_mean_unknown_is_pointed_at(code, odd):
    some = ["0", "1", code, "1", code, "0"]
    for x, taken in (({"f": NUMBER}, "taken for a feature"), ({"t": TEXT}, "not used")):
        found, said = find(x | {"s": some, "r": some, "a": TRUTH, "b": OTHER})
        assert found.labels == ("a", "b")
        for name in "sr":
            advice = f"if '{code}' in {name} means that nobody knows, leave such cells empty"
            assert (f"{name}: 0, 1 and '{code}', {taken}; {advice}" in said) == odd
    # Not next to a label it is a feature like others.
    assert not any("nobody" in sentence for sentence in find({"s": some, "f": NUMBER, "a": TRUTH, "b": OTHER})[1])


def test_tables_whose_features_are_minus_one_0_and_1_are_read_as_before():
    rng = np.random.default_rng(0)
    features = {f"f{i}": rng.integers(-1, 2, 60) for i in range(9)} | {"g": rng.choice([-1, 1], 60)}
    labels = {name: rng.integers(0, 2, 60) for name in "abc"}
    for columns in (features | labels, labels | features):
        found, said = find(columns)
        assert (found.labels, found.features) == (tuple("abc"), tuple(features))
        assert sum("-1" in sentence for sentence in said) == 1
    found, said = find(features | {"labels": ["x|y", "x", "y"] * 20})
    assert found.features == tuple(features)
    assert not any("-1" in sentence for sentence in said)


CHEXPERT = ["No Finding", "Cardiomegaly", "Edema", "Consolidation", "Pneumonia", "Support Devices"]


def chexpert(path="train.csv"):
    """Write a table like CheXpert's: 1.0, 0.0, -1.0 and empty cells, and a first label that is 1 or empty."""
    rng = np.random.default_rng(1)
    age = rng.integers(18, 90, 120)
    rows = [["Path", "Sex", "Age", *CHEXPERT]]
    for i, years in enumerate(age):
        drawn = rng.choice(["1.0", "0.0", "-1.0", ""], size=6, p=[0.4, 0.25, 0.15, 0.2])
        drawn[0] = "1.0" if years < 40 else ""
        rows.append([f"train/patient{i:05}/view1.jpg", "MF"[i % 2], str(years), *drawn])
    Path(path).write_text("\n".join(",".join(row) for row in rows) + "\n")
    return path


def test_a_table_like_chexpert_is_refused_with_what_to_type_and_read_by_names():
    with pytest.raises(InputError) as caught:
        read(Config(data=chexpert()))
    names = ",".join(CHEXPERT)
    assert str(caught.value).endswith(f"; if -1 means that nobody knows, type --labels '{names}'")
    for config in (Config(data="train.csv", labels=tuple(CHEXPERT)), Config(data="train.csv", num_labels=-6)):
        training = read(config)
        assert training.train.label_names == CHEXPERT
        assert training.columns.features == ("Age",)
        frame = pl.read_csv("train.csv", infer_schema=False).fill_null("")
        table = np.array([[{"": -1, "1.0": 1, "0.0": 0, "-1.0": -1}[c] for c in frame[name]] for name in CHEXPERT]).T
        kept = (table >= 0).any(1)
        np.testing.assert_array_equal(training.train.dense_targets(), table[kept])
        said = next(sentence for sentence in training.said if "of 120 unknown" in sentence)
        assert f"Edema: {(table[:, 2] < 0).sum()} of 120 unknown" in said
        assert any(s.startswith("No Finding: every known cell is 1, so nearly every row") for s in training.said)
    kept = read(Config(data="train.csv", labels=tuple(CHEXPERT), uncertain="positive")).train.dense_targets()
    assert (kept == 1).sum() == (table == 1).sum() + (frame.select(CHEXPERT).to_numpy() == "-1.0").sum()


# What is said and left out.


def survey(rows=40):
    rng = np.random.default_rng(2)
    x = rng.normal(size=rows).round(3)
    columns: dict[str, list] = {"x": x.tolist(), "z": rng.normal(size=rows).round(3).tolist()}
    for i, name in enumerate("pqr"):
        truth = (x > i / 2 - 0.5).astype(int).astype(str).tolist()
        columns[name] = [("" if rng.random() < 0.2 else cell) for cell in truth]
    for name in "pqr":
        columns[name][5] = columns[name][9] = ""
    return columns


def test_unknown_cells_are_counted_and_rows_of_nothing_else_left_out():
    columns = survey()
    pl.DataFrame(columns).write_csv("d.csv")
    training = read(Config(data="d.csv"))
    counts = {name: columns[name].count("") for name in "pqr"}
    assert training.said[1:4] == [
        "labels: p, q, r (3 columns of 0 and 1)",
        ", ".join(f"{name}: {count} of 40 unknown" for name, count in counts.items())
        + "; left out of training and of every number",
        "2 rows left out: all of their labels are unknown",
    ]
    assert training.train.rows == 38
    assert training.rows == {"d.csv": 40}
    assert training.train.places is not None
    assert {5, 9}.isdisjoint(training.train.places)
    assert training.said[-1].startswith("38 rows, 3 labels, ")


def test_a_row_without_known_labels_is_not_a_row_without_labels():
    columns = {"x": NUMBER, "a": [0, 0, 1, 1, None, None], "b": [0, None, 0, None, 1, None]}
    examples = examples_from_frame(pl.DataFrame(columns), find(columns)[0], "f.csv")
    assert examples.unlabelled().tolist() == [True] + [False] * 5
    assert drop_unlabelled(examples)[1] == 1
    kept, lost = drop_unknown(examples)
    assert (kept.rows, lost) == (5, 1)
    assert kept.dense_targets().tolist() == [[0, 0], [0, -1], [1, 0], [1, -1], [-1, 1]]
    # With one class a row, a class that is known excludes the others, and one that is not leaves nothing to learn.
    kept, lost = drop_unknown(examples, one_class=True)
    assert (kept.dense_targets().tolist(), lost) == ([[0, 0], [1, 0], [1, 0], [0, 1]], 2)
    with pytest.raises(InputError, match=r"f\.csv, row 1: expected one class"):
        check_one_class(kept)


def test_validation_rows_of_which_nothing_is_known_are_left_out():
    pl.DataFrame(survey()).write_csv("d.csv")
    pl.DataFrame(survey(12)).write_csv("v.csv")
    valid = read(Config(data="d.csv", valid="v.csv")).valid
    assert valid is not None
    assert valid.rows == 10
    Path("v.csv").write_text("x,z,p,q,r\n1,2,,,\n3,1,NA,?,-1\n")
    with pytest.raises(InputError, match=r"v\.csv: expected rows with known labels, got none; name another --valid"):
        read(Config(data="d.csv", valid="v.csv"))


# Other formats.


def test_jsonl_and_parquet():
    rows = [{"t": t, "a": bool(a), "b": b} for t, a, b in zip(TEXT, TRUTH, [0, 1, None, -1, 1, 0], strict=True)]
    Path("d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pl.DataFrame(rows).with_columns(pl.col("b").cast(pl.Float64).fill_null(float("nan"))).write_parquet("d.parquet")
    for file in ("d.jsonl", "d.parquet"):
        training = read(Config(data=file, labels=("a", "b")))
        assert training.train.dense_targets().T.tolist() == [TRUTH, [0, 1, -1, -1, 1, 0]]
        assert "b: 2 of 6 unknown; left out of training and of every number" in training.said


def test_arff():
    rows = ["0.5,0,1", "1.5,?,1", "2,1,-1", "3,1,0", "4,0,?"]
    header = "@relation 'r: -C -2'\n@attribute x real\n@attribute a {0,1}\n@attribute b real\n@data\n"
    Path("d.arff").write_text(header + "\n".join(rows) + "\n")
    training = read(Config(data="d.arff"))
    assert training.train.dense_targets().T.tolist() == [[0, -1, 1, 1, 0], [1, 1, -1, 0, -1]]
    assert "a: 1 of 5 unknown, b: 2 of 5 unknown; left out of training and of every number" in training.said
    training = read(Config(data="d.arff", uncertain="negative"))
    assert training.train.dense_targets().T.tolist() == [[0, -1, 1, 1, 0], [1, 1, 0, 0, -1]]


@pytest.mark.parametrize("end", ["npy", "npz"])
def test_matrices(end):
    Y = np.array([[0, 1], [1, -1], [np.nan, 1], [0, 0], [1, -100]])
    np.save("d.X.npy", np.arange(10.0).reshape(5, 2))
    np.save("d.Y.npy", Y) if end == "npy" else sp.save_npz("d.Y.npz", sp.csr_array(Y))
    Path("d.labels.txt").write_text("a\nb\n")
    assert read(Config(data="d.X.npy")).train.dense_targets().tolist() == [[0, 1], [1, -1], [-1, 1], [0, 0], [1, -1]]
    positive = read(Config(data="d.X.npy", uncertain="positive")).train.dense_targets()
    assert positive.tolist() == [[0, 1], [1, 1], [-1, 1], [0, 0], [1, -1]]


# Options.


def test_the_option_names_what_it_can_be():
    assert make_config(None, ["uncertain=negative"], {"data": "d.csv"}).uncertain == "negative"
    with pytest.raises(InputError, match=r"uncertain expects negative or positive, what -1 says.*; got 'maybe'"):
        make_config(None, ["uncertain=maybe"], {"data": "d.csv"})


# Sets of labels.


@pytest.mark.parametrize("word", ["NaN", "nan", "NA", "n/a", "?", "null", "<NA>"])
def test_a_set_of_nothing_but_nan_is_no_label(word):
    pl.DataFrame({"t": TEXT, "tags": ["a|b", word, "b", f" {word} ", "", "a"]}).write_csv("d.csv")
    training = read(Config(data="d.csv"))
    assert training.train.label_names == ["a", "b"]
    assert training.train.dense_targets().tolist() == [[1, 1], [0, 1], [0, 0], [1, 0]]
    assert training.said[1] == "labels: tags (separated by '|', 2 labels)"
    assert training.said[2].startswith("tags: 2 of 6 unknown, as NaN, NA and ? are; where one is a label, name")
    assert training.said[3] == "2 rows left out: all of their labels are unknown"
    # A name that the user gave is a name.
    Path("names.txt").write_text(f"a\nb\n{word}\n")
    training = read(Config(data="d.csv", label_names="names.txt"))
    assert training.train.rows == 6
    assert training.train.dense_targets()[:, 2].tolist() == [0, 1, 0, 1, 0, 0]
    assert read_examples("d.csv", training.columns).unknown is None


def test_words_that_people_give_to_classes_are_labels():
    for word in ("None", "none", "unknown", "-1", "-"):
        pl.DataFrame({"t": TEXT, "label": ["a", word, "b", word, "a", "b"]}).write_csv("d.csv")
        training = read(Config(data="d.csv"))
        assert training.train.label_names == sorted(["a", "b", word])
        assert training.train.unknown is None


def test_the_class_of_a_row_may_be_unknown():
    rows = [{"t": t, "label": c} for t, c in zip(TEXT, ["a", "NA", "b", "?", "a", "b"], strict=True)]
    Path("d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    training = read(Config(data="d.jsonl", task="multiclass", loss="ce+prior"))
    assert training.train.dense_targets().tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert "2 rows left out: their class is unknown" in training.said


# True and false as features.


def test_true_and_false_are_a_feature_of_0_and_1():
    columns = {"x": NUMBER, "flag": ["true", "False", " TRUE ", "", "false", "true"], "labels": ["p", "q|p"] * 3}
    found, _ = find(columns)
    assert found.features == ("x", "flag")
    numbers = examples_from_frame(pl.DataFrame(columns), found, "f.csv").numbers
    np.testing.assert_array_equal(numbers[:, 1], [1, 0, 1, np.nan, 0, 1])
    # In a column of numbers it is a mistake.
    with pytest.raises(InputError, match=r"row 1, column 'flag': expected a finite number .*got 'true'"):
        examples_from_frame(pl.DataFrame(columns | {"flag": ["true", "2", "0.5", "1", "0", "0"]}), found, "f.csv")


# The files that went wrong.


@needs_cases
def test_the_cases():
    training = read(Config(data=str(CASES / "unknown_label_beside_numbers.csv")))
    assert training.columns.features == ("f1", "f2", "f3")
    assert training.train.label_names == ["staff", "price", "place", "food"]
    frame = pl.read_csv(CASES / "unknown_label_beside_numbers.csv")
    count = int((frame["staff"] == -1).sum())
    assert f"staff: {count} of 120 unknown; left out of training and of every number" in training.said
    np.testing.assert_array_equal(training.train.dense_targets(), frame[training.train.label_names].to_numpy())

    training = read(Config(data=str(CASES / "survey_missing_labels.csv")))
    assert training.train.label_names == ["uses_car", "uses_bike", "uses_bus", "uses_train", "walks", "works_from_home"]
    frame = pl.read_csv(CASES / "survey_missing_labels.csv")
    said = next(sentence for sentence in training.said if "unknown" in sentence)
    for name in training.train.label_names:
        assert f"{name}: {frame[name].null_count()} of 600 unknown" in said

    training = read(Config(data=str(CASES / "true_false_feature.csv")))
    assert training.train.label_names == ["x", "y"]
    np.testing.assert_array_equal(training.train.numbers[:, 1], [1, 0, 1, 0, 1])
