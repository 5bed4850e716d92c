"""Label sets written as a file: the same whatever is read at a time, and all of them or nothing."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.run_folder import check_output
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.runs import predictions as predictions_module
from manyhot.toolkit.runs.predictions import OUTPUTS, write_predictions
from manyhot.toolkit.runs.saved_run import load_run
from manyhot.toolkit.train import train
from tiny_texts import texts_and_sets

COMMAND = [sys.executable, "-c", "from manyhot.toolkit.cli.main import main; main()"]
ENDINGS = (".jsonl", ".csv", ".parquet")


def some_numbers(rows, seed=0, features=4):
    return np.random.default_rng(seed).normal(size=(rows, features)).astype(np.float32)


@pytest.fixture(scope="module")
def text_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    texts, sets = texts_and_sets(60)
    pl.DataFrame({"text": texts, "labels": sets}).write_ndjson(folder / "train.jsonl")
    train(Config(data=str(folder / "train.jsonl"), C=5.0, tau=0.0, out=str(folder / "run")))
    return folder / "run"


@pytest.fixture(scope="module")
def number_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    X = some_numbers(80)
    targets = X @ np.linspace(-2, 2, 12).reshape(4, 3) > 0.5
    columns = {f"x{i}": X[:, i] for i in range(4)} | {f"y{i}": targets[:, i].astype(int) for i in range(3)}
    pl.DataFrame(columns).write_csv(folder / "train.csv")
    train(Config(data=str(folder / "train.csv"), C=5.0, tau=0.0, out=str(folder / "run")))
    return folder / "run"


@pytest.fixture
def text_run(text_path):
    return load_run(text_path)


@pytest.fixture
def number_run(number_path):
    return load_run(number_path)


def texts_file(path, rows=25, **columns: Any):
    """Write texts, with other columns beside them, and return the texts."""
    texts, sets = texts_and_sets(rows, seed=2)
    frame = pl.DataFrame({"text": texts, **columns, "labels": sets})
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.with_columns(pl.col("labels").list.join("|")).write_csv(path)
    return texts


def read_back(path) -> list[dict[str, Any]]:
    """Read an output by the standard library, Parquet by polars, as dictionaries; no number is rounded on the way."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path).to_dicts()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row | {name: json.loads(row[name]) for name in ("labels", "scores", "probs")} for row in rows]


def refused(action, *arguments, **options):
    with pytest.raises(InputError) as caught:
        action(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What is in it


@pytest.mark.parametrize("ending", ENDINGS)
def test_outputs_hold_labels_and_scores_in_order(text_run, tmp_path, ending):
    texts = texts_file(tmp_path / "new.jsonl")
    path = tmp_path / f"out{ending}"
    path.write_text("what was there before")
    assert write_predictions(path, text_run, tmp_path / "new.jsonl") == 25
    assert sorted(os.listdir(tmp_path)) == ["new.jsonl", path.name]
    rows = read_back(path)
    assert all(list(row) == ["labels", "scores", "probs"] for row in rows)
    assert [row["labels"] for row in rows] == text_run.predict(texts)
    probs = text_run.probs(texts)
    for row, logits, chances in zip(rows, text_run.predict_logits(texts), probs, strict=True):
        places = [text_run.label_names.index(label) for label in row["labels"]]
        np.testing.assert_allclose(row["scores"], logits[places], atol=6e-5)
        np.testing.assert_allclose(row["probs"], chances[places], atol=6e-5)
        assert row["probs"] == sorted(row["probs"], reverse=True)


@pytest.mark.parametrize("ending", ENDINGS)
def test_labels_of_any_kind_and_empty_rows_survive(number_run, tmp_path, ending):
    number_run.label_names = ['a|b, "c"\nd', "标签", "[red]"]
    number_run.cardinality = number_run.cardinality._replace(min_labels=0)
    X = some_numbers(40, seed=3)
    pl.DataFrame(X, schema=[f"x{i}" for i in range(4)]).write_parquet(tmp_path / "new.parquet")
    path = tmp_path / f"out{ending}"
    write_predictions(path, number_run, tmp_path / "new.parquet")
    sets = [row["labels"] for row in read_back(path)]
    assert sets == number_run.predict(X)
    assert [] in sets
    assert {label for labels in sets for label in labels} == set(number_run.label_names)


# However much is read at a time


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", ["text", "number"])
def test_the_size_of_batches_changes_nothing(kind, ending, text_run, number_run, tmp_path, monkeypatch):
    run = text_run if kind == "text" else number_run
    data = tmp_path / f"new{ending}"
    if kind == "text":
        everything = texts_file(data, rows=700)
    else:
        everything = np.round(some_numbers(700, seed=4), 4)
        frame = pl.DataFrame(everything, schema=[f"x{i}" for i in range(4)])
        {".jsonl": frame.write_ndjson, ".csv": frame.write_csv, ".parquet": frame.write_parquet}[ending](data)
    seen = []
    logits_of, decided = run.logits_and_judge, []

    def logits_and_judge(examples):
        logits, few = logits_of(examples)
        decided.append(logits)
        return logits, few

    monkeypatch.setattr(run, "logits_and_judge", logits_and_judge)
    for size in (1, 7, 2**23):
        decided.clear()
        write_predictions(tmp_path / "out.jsonl", run, data, size=size)
        seen.append((np.concatenate(decided), (tmp_path / "out.jsonl").read_bytes()))
    # Few labels make one part of all rows: the same again in parts of 256.
    monkeypatch.setattr(predictions_module, "CELLS", 1)
    decided.clear()
    write_predictions(tmp_path / "out.jsonl", run, data)
    assert [len(part) for part in decided] == [256, 256, 188]
    seen.append((np.concatenate(decided), (tmp_path / "out.jsonl").read_bytes()))
    monkeypatch.undo()
    expected = run.predict_logits(everything)
    for values, content in seen:
        np.testing.assert_array_equal(values, expected)
        assert content == seen[0][1]
    assert [row["labels"] for row in read_back(tmp_path / "out.jsonl")] == run.predict(everything)


def test_rows_are_numbered_from_the_first_of_the_file(number_run, tmp_path):
    frame = pl.DataFrame(some_numbers(900), schema=[f"x{i}" for i in range(4)])
    rows = frame.write_csv().splitlines(keepends=True)
    rows[801] = "1,2,three,4\n"
    (tmp_path / "new.csv").write_text("".join(rows))
    message = refused(write_predictions, tmp_path / "out.csv", number_run, tmp_path / "new.csv", size=1000)
    assert message.startswith(
        "new.csv, row 801, column 'x2': expected a finite number that float32 can hold, got 'three'"
    )
    assert os.listdir(tmp_path) == ["new.csv"]


def test_progress_is_rows_and_the_share_of_the_file(text_run, tmp_path):
    texts_file(tmp_path / "new.jsonl", rows=600)
    told = []
    write_predictions(
        tmp_path / "o.csv",
        text_run,
        tmp_path / "new.jsonl",
        size=2000,
        progress=lambda rows, share: told.append((rows, share)),
    )
    survey = [share for rows, share in told if rows is None]
    rows = [(rows, share) for rows, share in told if rows is not None]
    assert told[: len(survey)] == [(None, share) for share in survey]
    assert len(survey) > 5
    for shares in (survey, [share for _, share in rows]):
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
    assert [count for count, _ in rows] == [256, 512, 600]


# Columns of the input


@pytest.mark.parametrize("source", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_columns_are_kept_as_they_are(text_run, tmp_path, source, ending):
    data = tmp_path / f"new{source}"
    ids = [f"00{i}" for i in range(24)] + [None]
    notes = ["a,b", 'c"d', "e\nf", " g ", "é\r"] * 5
    texts = texts_file(data, id=ids, note=notes)
    out = tmp_path / f"out{ending}"
    write_predictions(out, text_run, data, keep=["note", "id"], size=50)
    rows = read_back(out)
    assert all(list(row) == ["note", "id", "labels", "scores", "probs"] for row in rows)
    assert [row["note"] for row in rows] == notes
    assert [row["id"] for row in rows] == [i if i or ending != ".csv" else "" for i in ids]
    assert [row["labels"] for row in rows] == text_run.predict(texts)


def test_numbers_lists_and_dates_are_kept(text_run, tmp_path):
    texts, _ = texts_and_sets(4, seed=2)
    frame = pl.DataFrame(
        {
            "text": texts,
            "n": [1, 2, None, 4],
            "x": [0.5, float("nan"), 1e300, None],
            "list": [["a", 'b"'], [], None, ["c"]],
            "day": pl.Series(["2024-02-29"] * 4).str.to_date(),
            "kind": pl.Series(["u", "v", "u", None], dtype=pl.Categorical),
        }
    )
    frame.write_parquet(tmp_path / "new.parquet")
    names = ["n", "x", "list", "day", "kind"]
    for ending in ENDINGS:
        write_predictions(tmp_path / f"out{ending}", text_run, tmp_path / "new.parquet", keep=names)
    kept = pl.read_parquet(tmp_path / "out.parquet")
    assert kept.columns == [*names, "labels", "scores", "probs"]
    assert kept.select(names).equals(frame.select(names).with_columns(pl.col("kind").cast(pl.String)))
    rows = read_back(tmp_path / "out.jsonl")
    assert [row["n"] for row in rows] == [1, 2, None, 4]
    assert [row["x"] for row in rows] == [0.5, None, 1e300, None]
    assert [row["list"] for row in rows] == frame["list"].to_list()
    assert [row["day"] for row in rows] == ["2024-02-29"] * 4
    rows = read_back(tmp_path / "out.csv")
    assert [row["list"] for row in rows] == ['["a", "b\\""]', "[]", "", '["c"]']
    assert [row["n"] for row in rows] == ["1", "2", "", "4"]


def test_whole_numbers_are_kept_as_numbers_of_their_column(text_run, tmp_path):
    lines = [json.dumps({"text": "a fox", "n": i}) for i in range(300)] + ['{"text": "a tree", "n": 0.5}']
    (tmp_path / "new.jsonl").write_text("\n".join(lines))
    for size in (1, 2**20):
        write_predictions(tmp_path / "out.parquet", text_run, tmp_path / "new.jsonl", keep=["n"], size=size)
        assert pl.read_parquet(tmp_path / "out.parquet")["n"].to_list() == [float(i) for i in range(300)] + [0.5]


def test_all_columns_are_kept_and_none_is_lost_to_a_name(text_run, tmp_path):
    texts = texts_file(tmp_path / "new.jsonl", scores=range(25), input_labels=["x"] * 25)
    write_predictions(tmp_path / "out.jsonl", text_run, tmp_path / "new.jsonl", keep=None)
    rows = read_back(tmp_path / "out.jsonl")
    assert list(rows[0]) == ["text", "input_scores", "input_labels", "input_input_labels", "labels", "scores", "probs"]
    assert [row["text"] for row in rows] == texts
    assert [row["input_scores"] for row in rows] == list(range(25))
    assert [row["input_labels"] for row in rows] == ["x"] * 25
    assert [row["input_input_labels"] for row in rows] == texts_and_sets(25, seed=2)[1]
    assert [row["labels"] for row in rows] == text_run.predict(texts)


def test_columns_with_the_names_of_patterns_are_columns(text_run, tmp_path):
    columns: Any = {"^.*$": range(25), "*": range(25, 50)}
    texts_file(tmp_path / "new.csv", **columns)
    write_predictions(tmp_path / "out.jsonl", text_run, tmp_path / "new.csv", keep=["*"])
    assert [row["*"] for row in read_back(tmp_path / "out.jsonl")] == [str(i) for i in range(25, 50)]


def test_columns_that_cannot_be_kept(text_run, tmp_path):
    texts_file(tmp_path / "new.jsonl")
    message = refused(write_predictions, tmp_path / "o.csv", text_run, tmp_path / "new.jsonl", keep=["txt"])
    assert message == (
        "new.jsonl: expected a column 'txt' to keep, got a file without it (did you mean 'text'?); it has text, labels"
    )
    frame = pl.DataFrame({"text": ["a fox"], "raw": [b"\xff"], "deep": [[{"a": b"\xff"}]]})
    frame.write_parquet(tmp_path / "new.parquet")
    for name, kind in (("raw", "binary"), ("deep", "list of struct")):
        message = refused(write_predictions, tmp_path / "o.csv", text_run, tmp_path / "new.parquet", keep=[name])
        assert message.startswith(f"new.parquet, column '{name}': expected text, numbers or dates to keep in a .csv ")
        assert f"got a {kind} column; leave it out of --keep, or write a .parquet file" in message
        write_predictions(tmp_path / "o.parquet", text_run, tmp_path / "new.parquet", keep=[name])
        assert pl.read_parquet(tmp_path / "o.parquet")[name].to_list() == frame[name].to_list()
    assert sorted(os.listdir(tmp_path)) == ["new.jsonl", "new.parquet", "o.parquet"]


def test_a_matrix_is_one_batch_and_has_no_columns(tmp_path):
    X = some_numbers(300)
    sp.save_npz(tmp_path / "set.X.npz", sp.csr_matrix(X))
    sp.save_npz(tmp_path / "set.Y.npz", sp.csr_matrix(X[:, :3] > 0))
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    trained = train(Config(data=str(tmp_path / "set.X.npz"), C=1.0, tau=0.0, out=str(tmp_path / "run")))
    assert trained is not None
    assert write_predictions(tmp_path / "out.jsonl", trained.run, tmp_path / "set.X.npz", size=1) == 300
    assert [row["labels"] for row in read_back(tmp_path / "out.jsonl")] == trained.run.predict(X)
    message = refused(write_predictions, tmp_path / "o.csv", trained.run, tmp_path / "set.X.npz", keep=None)
    assert message == "set.X.npz: expected a table (CSV, TSV, JSONL, Parquet) with --keep, got another file"


# All or nothing


@pytest.mark.parametrize("name", ["out.txt", "out", "out.json", "out.jsonl.gz", "out.tsv"])
def test_other_endings_are_refused(tmp_path, name):
    assert refused(check_output, tmp_path / name, OUTPUTS) == (
        f"{tmp_path / name}: expected an output that ends in .jsonl, .csv, .parquet."
    )


def test_places_that_cannot_be_written(text_run, tmp_path):
    (tmp_path / "d.csv").mkdir()
    for path in (tmp_path / "d.csv", tmp_path / "no" / "out.csv"):
        assert refused(check_output, path, OUTPUTS) == f"{path}: expected a file in a folder that exists."
    texts_file(tmp_path / "new.csv")
    assert "ends in" in refused(write_predictions, tmp_path / "x.txt", text_run, tmp_path / "new.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    assert "got a pipe or device; choose another --out" in refused(check_output, tmp_path / "pipe.csv", OUTPUTS)
    message = refused(write_predictions, tmp_path / "o.csv", text_run, tmp_path / "pipe.csv")
    assert "expected a file that can be read twice, got a pipe or device; save it first" in message


def test_the_data_are_never_written_over(text_run, tmp_path):
    texts_file(tmp_path / "new.csv")
    content = (tmp_path / "new.csv").read_bytes()
    (tmp_path / "link.csv").symlink_to("new.csv")
    os.link(tmp_path / "new.csv", tmp_path / "same.csv")
    for name in ("new.csv", "link.csv", "same.csv"):
        message = refused(write_predictions, tmp_path / name, text_run, tmp_path / "new.csv")
        assert message.endswith("expected an output beside the data, got the data file itself; choose another --out.")
    assert (tmp_path / "new.csv").read_bytes() == content


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interrupted_write_leaves_what_was_there(text_run, tmp_path, monkeypatch, ending):
    texts_file(tmp_path / "new.jsonl", rows=600)
    out = tmp_path / f"out{ending}"
    out.write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    def interrupted(rows, _):
        if rows:
            raise KeyboardInterrupt

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="No space left"):
                write_predictions(out, text_run, tmp_path / "new.jsonl")
    with pytest.raises(KeyboardInterrupt):
        write_predictions(out, text_run, tmp_path / "new.jsonl", size=100, progress=interrupted)
    assert sorted(os.listdir(tmp_path)) == ["new.jsonl", out.name]
    assert out.read_text() == "before"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_mistake_in_the_middle_names_its_line_and_leaves_nothing(text_run, tmp_path, ending):
    texts_file(tmp_path / "new.csv", rows=600)
    with open(tmp_path / "new.csv", "a") as file:
        file.write("\na b,c,d\n")
    message = refused(write_predictions, tmp_path / f"out{ending}", text_run, tmp_path / "new.csv", size=100)
    assert "new.csv, line 603: expected 2 fields as in the header, got 3" in message
    assert os.listdir(tmp_path) == ["new.csv"]


def long_prediction(tmp_path, run, name="out.jsonl", **options):
    """Start a prediction of several batches, most of which is a column that the run does not read."""
    texts, _ = texts_and_sets(3000, seed=2)
    pl.DataFrame({"text": texts * 8, "page": ["x" * 2000] * 24_000}).write_csv(tmp_path / "new.csv")
    return subprocess.Popen(
        [*COMMAND, "predict", str(run), "new.csv", "-o", name, "--keep", "text"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for_rows(tmp_path, process):
    deadline = time.monotonic() + 100
    while not any(path.stat().st_size for path in tmp_path.glob(".out.*")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("ending", [pytest.param(".jsonl", marks=pytest.mark.slow), ".parquet"])
def test_a_full_disk_in_the_middle_is_exit_code_1_and_leaves_nothing(text_path, tmp_path, ending):
    process = long_prediction(
        tmp_path,
        text_path,
        f"out{ending}",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 1, said
    assert said == "error: writing: File too large; nothing was written\n"
    assert os.listdir(tmp_path) == ["new.csv"]


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_and_a_kill_only_a_hidden_file(text_path, tmp_path):
    process = long_prediction(tmp_path, text_path)
    wait_for_rows(tmp_path, process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 130, said
    assert said == "error: interrupted; nothing was written\n"
    assert os.listdir(tmp_path) == ["new.csv"]

    process = long_prediction(tmp_path, text_path)
    wait_for_rows(tmp_path, process)
    process.kill()
    process.communicate(timeout=100)
    (left,) = (name for name in os.listdir(tmp_path) if name != "new.csv")
    assert re.fullmatch(r"\.out\.jsonl\.[0-9a-f]{16}", left)
