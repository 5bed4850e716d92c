"""A saved run in use: the same numbers from every form of input, in every process, in every output."""

import json
import os
import re
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch

import manyhot
from manyhot import load_run
from manyhot.toolkit.config import Config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.data import Matrix
from manyhot.toolkit.runs.given import targets_of
from manyhot.toolkit.runs.predict import read_for
from manyhot.toolkit.runs.predictions import write_predictions
from manyhot.toolkit.train import train
from tiny_texts import texts_and_sets


def numbers_and_targets(rows, seed=0, features=4):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, features)).astype(np.float32)
    targets = X @ np.linspace(-2, 2, features * 3).reshape(features, 3) + 0.3 * rng.normal(size=(rows, 3)) > 0.5
    return X, targets


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    texts, sets = texts_and_sets(60)
    pl.DataFrame({"text": texts, "labels": sets}).write_ndjson(folder / "train.jsonl")
    trained = train(Config(data=str(folder / "train.jsonl"), C=5.0, out=str(folder / "run")))
    assert trained is not None
    return folder / "run", trained.run


@pytest.fixture(scope="module")
def number_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    X, targets = numbers_and_targets(80)
    columns = {f"x{i}": X[:, i] for i in range(4)} | {f"y{i}": targets[:, i].astype(int) for i in range(3)}
    pl.DataFrame(columns).write_csv(folder / "train.csv")
    # Without votes and kernel, so that logits are weights times the numbers.
    trained = train(Config(data=str(folder / "train.csv"), C=5.0, neighbours="off", out=str(folder / "run")))
    assert trained is not None
    assert trained.run.columns.features == ("x0", "x1", "x2", "x3")
    return folder / "run", trained.run


@pytest.fixture(scope="module")
def matrix_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    X, targets = numbers_and_targets(80)
    sp.save_npz(folder / "set.X.npz", sp.csr_matrix(X))
    sp.save_npz(folder / "set.Y.npz", sp.csr_matrix(targets))
    (folder / "labels.txt").write_text("y0\ny1\ny2\n")
    trained = train(Config(data=str(folder / "set.X.npz"), C=5.0, out=str(folder / "run")))
    assert trained is not None
    return folder / "run", trained.run


def refused(action, *arguments):
    with pytest.raises(InputError) as caught:
        action(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What comes back


@pytest.mark.parametrize("kind", ["text_run", "number_run", "matrix_run"])
def test_a_loaded_run_is_bitwise_the_one_that_was_trained(kind, request):
    path, run = request.getfixturevalue(kind)
    loaded = load_run(str(path))
    data = texts_and_sets(30, seed=1)[0] if kind == "text_run" else numbers_and_targets(30, seed=1)[0]
    np.testing.assert_array_equal(loaded.predict_logits(data), run.predict_logits(data))
    assert loaded.label_names == run.label_names
    np.testing.assert_array_equal(loaded.train_counts, run.train_counts)
    assert (loaded.cardinality, loaded.columns, loaded.info) == (run.cardinality, run.columns, run.info)


def test_a_fresh_process_gives_bitwise_the_same_logits(text_run, tmp_path):
    path, run = text_run
    texts = texts_and_sets(20, seed=1)[0]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    code = (
        "import json, sys, numpy, manyhot\n"
        "run = manyhot.load_run(sys.argv[1])\n"
        "numpy.save('logits.npy', run.predict_logits(json.load(open('texts.json'))))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    logits = np.load(tmp_path / "logits.npy")
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, run.predict_logits(texts))


def test_logits_are_weights_times_features_plus_bias(number_run):
    _, run = number_run
    X, _ = numbers_and_targets(20, seed=1)
    standardised = (X - run.features.mean) / run.features.std
    expected = standardised @ run.model.weight.double().numpy() + run.model.bias.double().numpy()
    logits = run.predict_logits(X)
    assert logits.dtype == np.float32
    assert logits.shape == (20, 3)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_predictions_are_labels_above_zero_best_first_within_the_range(number_run):
    _, run = number_run
    X, _ = numbers_and_targets(200, seed=1)
    logits = run.predict_logits(X)
    low, high = run.cardinality
    for row, probs, labels in zip(logits, run.probs(X), run.predict(X), strict=True):
        best = np.argsort(-row, kind="stable")[: min(max(int((row > 0).sum()), low), high)]
        # They are chosen by logits and listed by what is shown of them.
        assert labels == [run.label_names[i] for i in sorted(best, key=lambda i: -probs[i])]


def test_no_row_is_empty_where_training_has_none(text_run):
    _, run = text_run
    assert run.cardinality == (1, 3)
    unseen = ["nothing of it was seen", "", "zzz"]
    assert (run.predict_logits(unseen) <= 0).all(1).any()
    with pytest.warns(UserWarning, match="2 of 4 texts have more words that training did not know than words that it"):
        sets = run.predict([*unseen, "fox tree flint comet and bird and rose and slate and nova"])
    assert all(1 <= len(labels) <= 3 for labels in sets)


def test_it_learns(text_run, number_run):
    texts, sets = texts_and_sets(60, seed=5)
    assert text_run[1].evaluate(texts, sets)["micro_f1"] > 0.95
    assert number_run[1].evaluate(*numbers_and_targets(60, seed=5))["micro_f1"] > 0.85


# Forms of input


def test_texts_in_every_form_give_the_same_logits(text_run, tmp_path):
    path, run = text_run
    texts, sets = texts_and_sets(25, seed=2)
    texts[3] = ""
    expected = run.predict_logits(texts)
    frame = pl.DataFrame({"other": range(25), "text": texts, "labels": sets})
    for form in (
        tuple(texts),
        frame,
        frame.select("text"),
        frame.with_columns(pl.when(pl.col("text") != "").then("text").alias("text")),
        frame.with_columns(pl.col("text").cast(pl.Categorical)),
        pd.DataFrame({"text": texts}),
        pd.DataFrame({"text": texts, "labels": sets}, index=range(100, 125)),
        pd.DataFrame({"text": pd.Series(texts, dtype=object)}),
    ):
        np.testing.assert_array_equal(run.predict_logits(form), expected)
        assert run.predict(form) == run.predict(texts)
    frame.select("text", pl.col("labels").list.join("|")).write_csv(tmp_path / "new.csv")
    np.testing.assert_array_equal(run.logits(read_for(run, str(tmp_path / "new.csv"), with_labels=False)), expected)
    frame.write_parquet(tmp_path / "new.parquet")
    np.testing.assert_array_equal(run.logits(read_for(run, str(tmp_path / "new.parquet"), with_labels=False)), expected)
    assert load_run(path).predict(texts[:1]) == [run.predict(texts)[0]]


def test_rows_of_texts_come_in_every_form(text_run):
    _, run = text_run
    texts, _ = texts_and_sets(9, seed=1)
    expected = run.predict_logits(texts)
    for data in (
        tuple(texts),
        np.array(texts),
        np.array(texts, dtype=object),
        pl.Series(texts),
        pl.Series(texts, dtype=pl.Categorical),
        pd.Series(texts),
        pd.Series(texts, dtype="string", index=range(9, 18)),
        pd.Series(texts, dtype="category"),
        [np.str_(text) for text in texts],
    ):
        np.testing.assert_array_equal(run.predict_logits(data), expected)
        np.testing.assert_array_equal(run.logits(data), expected)
    np.testing.assert_array_equal(run.logits(texts[0]), expected[:1])
    assert run.predict(texts[0]) == run.predict(texts)[:1]
    assert run.predict(np.str_(texts[0])) == run.predict(texts)[:1]
    # A missing one is an empty text.
    empty = run.logits([texts[0], ""])
    for data in (pl.Series([texts[0], None]), pd.Series([texts[0], None]), pd.Series([texts[0], np.nan])):
        np.testing.assert_array_equal(run.logits(data), empty)
    np.testing.assert_array_equal(run.logits(pd.Series([texts[0], pd.NA], dtype="string")), empty)
    assert run.predict(pl.Series([], dtype=pl.String)) == run.predict(pd.Series([], dtype=str)) == []
    assert "trained on text" in refused(run.predict, pl.Series([1.5, 2]))
    assert "trained on text" in refused(run.predict, [texts[0], None])


def test_the_best_labels_as_a_table(text_run):
    _, run = text_run
    texts, _ = texts_and_sets(7, seed=1)
    probs, logits, sets = run.probs(texts), run.logits(texts), run.predict(texts)
    table = run.top(texts, 3)
    assert table.columns == ["row", "rank", "label", "prob", "score", "predicted"]
    assert table["row"].to_list() == [row for row in range(7) for _ in range(3)]
    assert table["rank"].to_list() == [1, 2, 3] * 7
    for row, rank, label, prob, score, predicted in table.rows():
        column = run.label_names.index(label)
        assert (prob, score) == (probs[row, column], logits[row, column])
        assert predicted == (label in sets[row])
        assert np.sort(probs[row])[-rank] == prob
    assert run.top(texts[0], 99).height == len(run.label_names)
    assert set(run.top(texts, 99).filter("predicted").group_by("row").len()["row"]) == {
        row for row, labels in enumerate(sets) if labels
    }
    assert run.top([], 2).height == 0
    for k in (0, -1, 1.5):
        assert refused(run.top, texts, k) == f"top expects at least 1 label a row; got {k}."


def test_a_run_says_what_it_is(text_run, number_run, matrix_run):
    names = ", ".join(text_run[1].label_names)
    assert repr(text_run[1]).startswith(f"<Run: 4 labels ({names}), 1 to ")
    assert "a row, from texts (text); bce on " in repr(text_run[1])
    assert "from features (x0, x1, x2, x3); bce on 4 numbers, standardised>" in repr(number_run[1])
    assert "3 labels (y0, y1, y2), 0 to 3 a row, from 4 features; bce" in repr(matrix_run[1])


def test_targets_come_in_every_form(text_run):
    _, run = text_run
    texts, sets = texts_and_sets(25, seed=2)
    expected = run.evaluate(texts, sets)
    targets = np.array([[name in labels for name in run.label_names] for labels in sets])
    ids = manyhot.IndexTargets([np.flatnonzero(row).tolist() for row in targets])
    for given in (
        tuple(tuple(labels) for labels in sets),
        pl.Series(sets),
        pd.Series(sets),
        pd.Series([np.array(labels, dtype=object) for labels in sets]),
        ids,
        torch.from_numpy(targets).float().to_sparse(),
        torch.from_numpy(targets).bfloat16(),
        sp.coo_matrix(targets),
        pd.DataFrame(targets.astype(int)),
    ):
        assert run.evaluate(texts, given) == expected
    assert run.evaluate(texts, np.array(["animal"] * 25)) == run.evaluate(texts, [["animal"]] * 25)
    for value in (0.5, 7):
        bad = targets.astype(float)
        bad[3, 1] = value
        for form in (bad, sp.csr_array(bad), bad.tolist()):
            assert f"got {value}" in refused(run.evaluate, texts, form).replace(".0.", ".")
    # What is masked is unknown.
    given: Any = targets_of(targets, 4, mask=np.arange(100).reshape(25, 4) != 5)
    assert np.isnan(given).sum() == 1
    assert np.isnan(given[1, 1])
    assert "a mask of the shape of targets, (25, 4); got (3, 4)." in refused(targets_of, targets, 4, np.ones((3, 4)))
    assert "targets as a matrix with mask=; got label sets" in refused(targets_of, sets, 4, np.ones((25, 4)))


@pytest.mark.parametrize("dtype", [object, "str"])
def test_a_missing_text_of_a_pandas_frame_is_an_empty_text(text_run, dtype):
    _, run = text_run
    frame = pd.DataFrame({"text": pd.Series(["a fox", None, float("nan")], dtype=dtype)})
    # A word "NaN" would be an unknown word here and a feature of a run that has seen it: ask the features too.
    examples = run._examples(frame, with_labels=False)
    assert examples.texts == ["a fox", "", ""]


def test_missing_labels_of_a_pandas_frame_are_no_labels(text_run):
    _, run = text_run
    frame = pd.DataFrame({"text": ["a fox", "a tree"], "labels": [["animal"], None]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run.evaluate(frame)["labels_per_row_true"] == 0.5


def test_numbers_in_every_form_give_the_same_logits(number_run, matrix_run, tmp_path):
    X, _ = numbers_and_targets(25, seed=2)
    X = np.round(X, 3)
    names = [f"x{i}" for i in range(4)]
    _, run = number_run
    expected = run.predict_logits(X)
    frame = pl.DataFrame(X, schema=names)
    frame.write_csv(tmp_path / "new.csv")
    forms = {
        "list": X.tolist(),
        "float64": X.astype(np.float64),
        "fortran": np.asfortranarray(X),
        "csr": sp.csr_array(X),
        "csr_matrix": sp.csr_matrix(X),
        "csc": sp.csc_array(X),
        "tensor": torch.from_numpy(X),
        "polars": frame,
        "shuffled": frame.select(reversed(names)),
        "strings": frame.cast(pl.String),
        "pandas": pd.DataFrame(X, columns=names),
        "labelled": frame.with_columns(pl.lit(1).alias("y0")),
    }
    for name, form in forms.items():
        np.testing.assert_array_equal(run.predict_logits(form), expected, err_msg=name)
    read = read_for(run, str(tmp_path / "new.csv"), with_labels=False)
    np.testing.assert_array_equal(run.logits(read), expected)

    _, run = matrix_run
    expected = run.predict_logits(X)
    forms["matrix"] = Matrix(sp.csr_array(X), None, None)
    for name in ("list", "csr", "csc", "tensor", "polars", "pandas", "matrix"):
        np.testing.assert_array_equal(run.predict_logits(forms[name]), expected, err_msg=name)
    sp.save_npz(tmp_path / "new.X.npz", sp.csr_matrix(X))
    np.testing.assert_array_equal(
        run.logits(read_for(run, str(tmp_path / "new.X.npz"), with_labels=False)), expected
    )  # fmt: skip


def test_evaluation_in_every_form_gives_the_same_numbers(text_run, number_run, tmp_path):
    _, run = text_run
    texts, sets = texts_and_sets(25, seed=2)
    frame = pl.DataFrame({"text": texts, "labels": sets})
    expected = run.evaluate(frame)
    targets = np.array([[name in labels for name in run.label_names] for labels in sets])
    frame.with_columns(pl.col("labels").list.join(";")).write_csv(tmp_path / "test.csv")
    for metrics in (
        run.evaluate(texts, sets),
        run.evaluate(texts, [set(labels) for labels in sets]),
        run.evaluate(texts, targets),
        run.evaluate(texts, targets.astype(int)),
        run.evaluate(texts, sp.csr_array(targets)),
        run.evaluate(texts, torch.from_numpy(targets)),
        run.evaluate(frame.select("text"), sets),
        run.evaluate(pd.DataFrame({"text": texts, "labels": sets})),
    ):
        assert metrics == expected
    preds = np.array([[name in labels for name in run.label_names] for labels in run.predict(texts)])
    hits = (preds & targets).sum()
    assert expected["micro_f1"] == pytest.approx(2 * hits / (preds.sum() + targets.sum()))
    assert expected["rows"] == 25

    _, run = number_run
    X, targets = numbers_and_targets(25, seed=2)
    columns = {f"x{i}": X[:, i] for i in range(4)} | {f"y{i}": targets[:, i].astype(int) for i in range(3)}
    assert run.evaluate(pl.DataFrame(columns)) == run.evaluate(pd.DataFrame(columns)) == run.evaluate(X, targets)


@pytest.mark.parametrize("rows", [[[1, 0, 1, 0], [0, 1, 0, 0]], ((1, 0, 1, 0), (0, 1, 0, 0))])
def test_targets_as_lists_of_0_and_1(text_run, rows):
    _, run = text_run
    texts = ["fox and comet", "rose"]
    assert run.evaluate(texts, rows) == run.evaluate(texts, np.array(rows))


def test_unknown_gold_labels_warn_and_count_as_missed(text_run):
    _, run = text_run
    texts, sets = texts_and_sets(25, seed=2)
    known = run.evaluate(texts, sets)
    more = [[*labels, "ghost"] if i < 4 else labels for i, labels in enumerate(sets)]
    with pytest.warns(UserWarning, match=r"1 label of this file is unknown to the run, 4 times: ghost \(4\)\. It co"):
        metrics = run.evaluate(texts, more)
    true, predicted = sum(map(len, sets)), known["labels_per_row_predicted"] * 25
    hits = known["micro_f1"] * (true + predicted) / 2
    assert metrics["micro_f1"] == pytest.approx(2 * hits / (true + 4 + predicted))
    assert metrics["macro_f1"] == pytest.approx(known["macro_f1"] * 4 / 5)
    assert metrics["rare_f1"] == known["rare_f1"]
    assert metrics["labels"] == 4
    assert metrics["labels_per_row_true"] == pytest.approx((true + 4) / 25)


def test_label_columns_are_ignored_at_prediction_even_when_malformed(text_run, number_run, tmp_path):
    _, run = text_run
    texts = ["fox", "rose"]
    expected = run.predict_logits(texts)
    for labels in (["[broken", "{"], [1.5, 2.5], [None, None], [{"a": 1}, {"a": 2}], [["x"], []]):
        np.testing.assert_array_equal(run.predict_logits(pl.DataFrame({"text": texts, "labels": labels})), expected)
    _, run = number_run
    X, _ = numbers_and_targets(2)
    frame = pl.DataFrame(X, schema=[f"x{i}" for i in range(4)])
    bad = frame.with_columns(pl.Series("y0", ["?", "7"]), pl.lit(None).alias("y2"))
    bad.write_csv(tmp_path / "bad.csv")
    np.testing.assert_array_equal(
        run.logits(read_for(run, str(tmp_path / "bad.csv"), with_labels=False)), run.predict_logits(X)
    )
    bad.with_columns(pl.lit(0).alias("y1"), pl.lit(0).alias("y2")).write_csv(tmp_path / "full.csv")
    with pytest.raises(InputError, match=r"row 2, column 'y0': expected 0 or 1, got '7'"):
        read_for(run, str(tmp_path / "full.csv"), with_labels=True)


def test_no_rows_give_no_predictions(text_run, number_run):
    assert text_run[1].predict([]) == []
    assert text_run[1].predict_logits(pl.DataFrame({"text": []}, schema={"text": pl.String})).shape == (0, 4)
    assert number_run[1].predict(np.zeros((0, 4), dtype=np.float32)) == []


# What is refused


def test_what_a_text_run_refuses(text_run):
    _, run = text_run
    assert refused(run.predict, np.zeros((2, 3))) == "this run was trained on text (text); got numbers."
    assert refused(run.predict, sp.csr_array((2, 3))) == "this run was trained on text (text); got numbers."
    for frame in (pl.DataFrame({"body": ["a"]}), pd.DataFrame({"body": ["a"]})):
        message = refused(run.predict, frame)
        assert "expected the columns text as in training, got a file without text; it has body" in message
    assert "without labels" in refused(run.evaluate, pl.DataFrame({"text": ["a"]}))
    message = "evaluate expects a frame with label columns, or evaluate(data, targets)."
    assert refused(run.evaluate, ["a fox"]) == message
    assert refused(run.evaluate, ["a", "b"], np.zeros((3, 4))) == "expected targets of shape (2, 4); got (3, 4)."
    assert refused(run.evaluate, ["a", "b"], np.zeros((2, 3))) == "expected targets of shape (2, 4); got (2, 3)."
    assert re.match(r"expected targets of shape \(2, 4\)", refused(run.evaluate, ["a", "b"], [["animal"]]))


def test_what_a_number_run_refuses(number_run, matrix_run):
    _, run = number_run
    X, targets = numbers_and_targets(5)
    assert refused(run.predict, ["a text"]) == (
        "this run was trained on x0, x1, x2, x3; give a file, or in Python a frame or an array, with these columns."
    )
    for wrong, width in ((X[:, :3], 3), (sp.csr_array(X[:, :3]), 3), (np.hstack([X, X]), 8)):
        assert f"expected 4 features, as in training; got {width}." in refused(run.predict, wrong)
    assert refused(run.predict, X[0]) == "expected rows x features; got an array of shape (4,)."
    for value in (np.nan, np.inf, -np.inf):
        bad = X.copy()
        bad[2, 1] = value
        for form in (bad, sp.csr_array(bad), bad.tolist()):
            assert "expected finite features; got NaN or an infinite value." in refused(run.predict, form)
        names = [f"x{i}" for i in range(4)]
        frames = [pl.DataFrame(bad, schema=names), pd.DataFrame(bad, columns=names)]
        for frame in frames[: 1 if np.isnan(value) else 2]:  # in pandas NaN is a missing cell
            assert "row 3, column 'x1': expected a finite number" in refused(run.predict, frame)
    assert "without x3" in refused(run.predict, pl.DataFrame(X[:, :3], schema=["x0", "x1", "x2"]))
    assert refused(run.predict, "text").startswith("this run was trained on x0, x1, x2, x3; give a file, or in Py")
    assert "expected at least one row with labels to measure on" in refused(run.evaluate, X[:0], targets[:0])
    assert refused(matrix_run[1].predict, ["a"]).startswith("this run was trained on 4 numbers; give ")


def test_a_frame_without_a_header_is_read_as_the_file_was(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({0: rng.random(80), 1: [i % 2 for i in range(80)], 2: [i // 2 % 2 for i in range(80)]})
    table.insert(0, "x", [i % 2 for i in range(80)])
    table.columns = range(4)
    table.to_csv(tmp_path / "d.csv", header=False, index=False)
    train(Config(data=str(tmp_path / "d.csv"), no_header=True, num_labels=-2, out=str(tmp_path / "r")))
    run = load_run(tmp_path / "r")
    wanted = run.predict_logits(read_for(run, str(tmp_path / "d.csv"), with_labels=False))
    np.testing.assert_array_equal(run.predict_logits(table), wanted)
    np.testing.assert_array_equal(run.predict_logits(table.rename(columns=lambda i: str(i + 1))), wanted)
    twice = pd.concat([table, table[[0]]], axis=1)
    with pytest.raises(InputError, match="expected a different name for each column, got '0' twice"):
        run.predict_logits(twice)


def test_columns_of_pandas_that_are_not_used_may_hold_anything(number_run):
    _, run = number_run
    frame = pd.DataFrame(numbers_and_targets(5)[0], columns=list(run.columns.features))
    wanted = run.predict_logits(frame)
    frame["when"] = [pd.Timestamp("2024-01-01"), "unknown", 3, None, object()]
    np.testing.assert_array_equal(run.predict_logits(frame), wanted)


@pytest.fixture(scope="module")
def zip_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zips")
    rng = np.random.default_rng(0)
    zips = np.array(["01067", "02763", "10115", "80331"])[rng.integers(4, size=160)]
    labels = ["p" if z < "1" else "q" if z < "2" else "p|q" for z in zips]
    pl.DataFrame({"zip": zips, "labels": labels, "n": rng.random(160)}).write_csv(folder / "d.csv")
    train(Config(data=str(folder / "d.csv"), out=str(folder / "r")))
    return folder, load_run(folder / "r")


def test_categories_that_training_had_not_are_said(zip_run):
    folder, run = zip_run
    said = r"column 'zip': 72 cells of 160 differ from a value of training in zeros before it or in case alone"
    for frame in (pd.read_csv(folder / "d.csv"), pl.read_csv(folder / "d.csv")):
        with pytest.warns(UserWarning, match=said):
            run.predict(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.predict(pd.read_csv(folder / "d.csv", dtype={"zip": str}))
        run.predict(pl.DataFrame({"zip": ["99999", "10115"], "n": [0.5, 0.5]}))
    with pytest.warns(UserWarning, match="column 'zip': none of 5 cells has a value that training had"):
        run.predict(pl.DataFrame({"zip": [str(i) for i in range(5)], "n": [0.5] * 5}))
    pl.read_csv(folder / "d.csv").write_csv(folder / "other.csv")
    notes: list[str] = []
    write_predictions(folder / "out.csv", run, folder / "other.csv", warn=notes.append)
    assert any(re.search(said, note) for note in notes)


def test_a_column_to_keep_may_have_white_space_round_its_name(zip_run, tmp_path):
    folder, run = zip_run
    frame = pl.read_csv(folder / "d.csv", infer_schema=False).head(3)
    frame.with_columns(frame["n"].alias(" own ")).write_csv(tmp_path / "d.csv")
    write_predictions(tmp_path / "out.csv", run, tmp_path / "d.csv", keep=["own"])
    assert pl.read_csv(tmp_path / "out.csv", infer_schema=False)[" own "].to_list() == frame["n"].to_list()


def test_a_text_for_a_run_that_reads_more_is_told_what_to_give(zip_run):
    with pytest.raises(InputError, match=r"trained on n, zip; give a file, or in Python a frame, with these columns"):
        zip_run[1].predict(["01067"])


def test_objects_that_leave_a_label_out_do_not_know_it(tmp_path):
    rng = np.random.default_rng(0)
    words = {"staff": "waiter", "food": "soup", "price": "euro"}

    def rows(number, names):
        for _ in range(number):
            on = {name: int(rng.random() < 0.5) for name in words}
            text = " ".join(word for name, word in words.items() if on[name]) or "nothing"
            yield {"text": text, "labels": {name: on[name] for name in names}}

    def write(name, *records):
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(tmp_path / name)

    train(Config(data=write("d.jsonl", *rows(60, list(words))), out=str(tmp_path / "r")))
    run = load_run(tmp_path / "r")
    texts = [{"text": "euro", "labels": {"staff": 0, "food": 0}}, {"text": "waiter", "labels": {"staff": 1, "food": 0}}]

    def measured(name, *records):
        return run.evaluate_examples(read_for(run, write(name, *records), with_labels=True))

    first = measured("without.jsonl", *texts)
    assert first.metrics["micro_f1"] == 1
    assert any(note.startswith("2 label cells of without.jsonl are unknown") for note in first.notes)
    more = [texts[0], {"text": "waiter", "labels": {"staff": 1, "food": 0, "price": 0}}]
    assert measured("with.jsonl", *more).metrics["micro_f1"] == 1
    # Where objects name what is on alone, the others are off.
    on = [{"text": "euro", "labels": {"price": 1}}, {"text": "waiter soup", "labels": {"staff": 1, "food": 1}}]
    assert measured("on.jsonl", *on).metrics["micro_f1"] == 1
