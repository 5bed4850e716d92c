"""Run folders that were tampered with, manifest and all: one sentence that names the key, and no trace of Python."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from manyhot import load_run
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.run_folder import MANIFEST, RUN, SPAN_RUN, kind_of_run
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.kernel import Kernel
from manyhot.toolkit.models.linear import Linear
from manyhot.toolkit.models.mlp import Mlp
from manyhot.toolkit.models.neighbours import Neighbours
from manyhot.toolkit.report.write import write_report
from manyhot.toolkit.runs.schema import check_arrays
from manyhot.toolkit.spans.train import train_spans
from manyhot.toolkit.train import train

DEEP = 20_000


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run with every kind of column, and one on spans."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    lines = [
        f"the {'fox bird'.split()[i % 2]} and the {'rose moss'.split()[i // 2 % 2]},{rng.random():.3f},{'ab'[i % 2]},"
        f"{'x|y' if i % 3 else 'y'}"
        for i in range(40)
    ]
    (folder / "d.csv").write_text("text,n,cat,labels\n" + "\n".join(lines) + "\n")
    train(
        Config(
            data=str(folder / "d.csv"), text=("text",), features=("n", "cat"), C=1.0, tau=0.0, out=str(folder / "run")
        )
    )
    rows = [
        {"tokens": ["Anna", "saw", f"Rome{i % 3}", "today"], "entities": [[0, 1, "PER"], [2, 3, "LOC"]]}
        for i in range(24)
    ]
    (folder / "s.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    train_spans(Config(data=str(folder / "s.jsonl"), task="spans", model="cnn", epochs=1, out=str(folder / "spans")))
    return folder


@pytest.fixture
def run(folders, tmp_path):
    return Path(shutil.copytree(folders / "run", tmp_path / "run"))


@pytest.fixture
def spans(folders, tmp_path):
    return Path(shutil.copytree(folders / "spans", tmp_path / "spans"))


def reseal(folder, kind=RUN):
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in kind.files}
    (folder / MANIFEST).write_text(json.dumps({"format": kind.format, "sha256": sums}))


def refused(folder):
    with pytest.raises(InputError) as caught:
        load_run(folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    assert len(message) < 700
    return message


def changed(folder, name, place, value, kind=RUN):
    """Put a value at a place such as ("features", "text", 0) of a JSON file; a key of no value is taken out."""
    whole = json.loads((folder / name).read_text())
    inner = whole
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (folder / name).write_text(json.dumps(whole))
    reseal(folder, kind)


PARAMETERS = ("features", "text", 0, "parameters")


@pytest.mark.parametrize(
    ("name", "place", "value", "key"),
    [
        # What would read files, call, or search for ever.
        ("run.json", (*PARAMETERS, "input"), "filename", "features.text[0].parameters.input"),
        ("run.json", (*PARAMETERS, "input"), "file", "parameters.input"),
        ("run.json", (*PARAMETERS, "preprocessor"), "x", "parameters.preprocessor"),
        ("run.json", (*PARAMETERS, "token_pattern"), "(", "parameters.token_pattern"),
        ("run.json", (*PARAMETERS, "token_pattern"), "(a+)+$", "parameters.token_pattern"),
        ("run.json", (*PARAMETERS, "analyzer"), "what", "parameters.analyzer"),
        ("run.json", (*PARAMETERS, "ngram_range"), [1, 10**9], "parameters.ngram_range[1]"),
        ("run.json", (*PARAMETERS, "ngram_range"), [2, 1], "parameters.ngram_range"),
        ("run.json", (*PARAMETERS, "max_features"), 10**400, "401 digits"),
        ("run.json", (*PARAMETERS, "sublinear_tf"), 1, "parameters.sublinear_tf"),
        # Nonsense.
        ("run.json", ("columns", "text"), [], "columns.text"),
        ("run.json", ("columns", "text"), ["text", 3], "columns.text[1]"),
        ("run.json", ("columns", "categories"), [], "columns.categories"),
        ("run.json", ("columns", "features"), [], "columns.features"),
        ("run.json", ("columns", "label_format"), "pickled", "columns.label_format"),
        ("run.json", ("columns", "header"), "yes", "columns.header"),
        ("run.json", ("columns", "indices"), [-1, 3], "columns.indices[0]"),
        ("run.json", ("features", "missing"), [7], "features.missing"),
        ("run.json", ("features", "missing"), [10**400], "401 digits"),
        ("run.json", ("features", "text", 0, "weight"), 1e308, "features.text[0].weight"),
        ("run.json", ("features", "text", 0, "weight"), True, "features.text[0].weight"),
        ("run.json", ("features", "what"), 1, "features.what"),
        ("run.json", ("cardinality", "max_labels"), 10**6, "cardinality.max_labels"),
        ("run.json", ("cardinality", "min_labels"), 2.5, "cardinality.min_labels"),
        ("run.json", ("labels", 0, "rows"), -1, "labels[0].rows"),
        ("run.json", ("labels", 0, "name"), None, "labels[0].name"),
        ("run.json", ("labels", 1, "name"), "x", "labels"),
        ("run.json", ("task",), "spans", "run.json"),
        ("run.json", ("task",), ["spans"], "run"),
        ("run.json", ("model",), {}, "model"),
        ("run.json", ("chosen",), 3, "chosen"),
        ("run.json", ("chosen", "C"), 1e308, "chosen.C"),
        ("run.json", ("drop_unlabelled",), 0, "drop_unlabelled"),
        ("terms.json", (0,), ["a", "a"], "[0]"),
        ("terms.json", (0,), [["a"]], "[0]"),
        ("calibration.json", ("labels", 0, "temperature"), 0, "labels[0].temperature"),
        ("calibration.json", ("labels", 0, "temperature"), 1e308, "labels[0].temperature"),
        ("calibration.json", ("labels", 0, "offset"), None, "labels[0].offset"),
        ("calibration.json", ("labels", 0, "name"), "other", "calibration.json, labels"),
        ("calibration.json", ("classes",), True, "calibration.json, classes"),
        ("calibration.json", ("classes",), "no", "classes"),
    ],
)
def test_a_key_that_was_changed_is_named(run, name, place, value, key):
    changed(run, name, place, value)
    assert key in refused(run)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 400, "1" * 5000])
@pytest.mark.parametrize("name", ["calibration.json", "metrics.json", "log.jsonl"])
def test_numbers_that_are_none(run, name, constant):
    text = (run / name).read_text()
    place = text.index(": 0.") + 2
    (run / name).write_text(text[:place] + constant + text[place + 1 :].lstrip("0123456789.e-"))
    reseal(run)
    assert refused(run).startswith(f"{run / name}: ")


@pytest.mark.parametrize("name", [name for name in RUN.files if name.endswith((".json", ".jsonl", ".toml"))])
def test_lists_in_lists_without_end(run, name):
    deep = "[" * DEEP + "]" * DEEP
    (run / name).write_text(f"a = {deep}" if name.endswith(".toml") else deep)
    reseal(run)
    assert refused(run).startswith(f"{run / name}: expected what training wrote, but it is damaged: ")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("weight", np.full((1, 1), 1e308)),
        ("bias", np.array([1e30, 0], dtype=np.float32)),
        ("bias", np.array([1, 0])),
        ("numbers.std", np.zeros(1)),
        ("numbers.std", np.ones((1, 1))),
        ("numbers.mean", np.ones((1, 1))),
        ("numbers.mean", np.ones(2)),
        ("idf.0", np.ones(3)),
        ("idf.0", np.ones((2, 2))),
        ("what", np.ones(3)),
        ("rows.hashes", np.ones(3)),
    ],
)
def test_arrays_that_do_not_fit(run, name, array):
    save_file(load_file(run / "model.safetensors") | {name: array}, run / "model.safetensors")
    reseal(run)
    assert name in refused(run)


def neighbours(**changes):
    targets = np.array([[1, 0], [1, 1]], dtype=bool)
    return Neighbours.of(np.eye(2, 3, dtype=np.float32), targets).arrays() | {
        f"neighbours.{name}": array for name, array in changes.items()
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prior": np.array([0.5, 1.5])}, "neighbours.prior: expected numbers from 1e-13 to 1"),
        ({"prior": np.full((2, 1), 0.5)}, "neighbours.prior: expected 1 dimensions"),
        ({"weights": np.ones(3)}, "2 numbers in neighbours.weights"),
        ({"rows": np.eye(2, 4, dtype=np.float32)}, "neighbours.rows of 3 features"),
        ({"rows": np.eye(1, 3, dtype=np.float32)}, "neighbours.targets of 1 rows"),
        ({"rows": np.full((2, 3), 9.0)}, "neighbours.rows: expected numbers from"),
        ({"targets.data": np.full(3, 7.0)}, "neighbours.targets.data: expected numbers from 0 to 1"),
        ({"targets.indices": np.zeros(3, np.int32)}, "each label of a row once in neighbours.targets"),
        ({"targets.indices": np.array([0, 0, 9], np.int32)}, "indices must be < 2"),
        ({"targets.indices": np.zeros(3)}, "neighbours.targets.indices: expected whole numbers"),
        ({"what": np.zeros(3)}, "neighbours.what: expected no such array"),
    ],
)
def test_neighbours_that_do_not_fit(changes, said):
    def made(arrays):
        check_arrays(arrays, [], [])
        return Neighbours.restored(arrays, 3)

    made(neighbours())
    with pytest.raises(ValueError, match=re.escape(said)):
        made(neighbours(**changes))


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("mean", np.ones(5), "kernel.mean of shape"),
        ("gamma", np.array([-1.0]), "kernel.gamma: expected numbers from"),
        ("gamma", np.ones(2), "kernel.gamma of shape (1,); got (2,)"),
        ("landmarks", np.ones((3, 4)), "kernel.landmarks of shape"),
        ("basis", np.ones(3), "kernel.basis: expected 2 dimensions"),
    ],
)
def test_kernels_that_do_not_fit(name, array, said):
    kernel = Kernel.fit(np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32))
    assert kernel is not None
    arrays = kernel.arrays()

    def made(arrays):
        check_arrays(arrays, [], [])
        return Kernel.restored(arrays, 2)

    made(arrays)
    with pytest.raises(ValueError, match=re.escape(said)):
        made(arrays | {f"kernel.{name}": array})


def test_the_array_that_does_not_fit_is_the_one_that_is_named():
    arrays = {"weight": np.ones((3, 2), np.float32), "bias": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match=r"^expected bias of shape \(2,\); got \(3,\)$"):
        Linear.restored(arrays, 3, 2)
    arrays |= {"hidden_weight": np.ones((4, 3), np.float32), "hidden_bias": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match=r"^expected bias of shape \(2,\); got \(3,\)$"):
        Mlp.restored(arrays, 4, 2)


def test_a_type_that_numpy_has_not(run):
    header = json.dumps({"bias": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (run / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    reseal(run)
    assert refused(run).startswith(f"{run / 'model.safetensors'}: ")


@pytest.mark.parametrize("name", [*RUN.files, MANIFEST])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large"])
def test_what_is_no_plain_file_is_not_read(run, name, kind):
    (run / name).unlink()
    if kind == "pipe":
        os.mkfifo(run / name)
    elif kind == "device":
        (run / name).symlink_to("/dev/zero")
    elif kind == "folder":
        (run / name).mkdir()
    else:
        with open(run / name, "wb") as file:
            file.truncate(2**36)  # takes no room
    message = refused(run)
    assert str(run / name) in message
    assert "missing" not in message


def test_a_file_that_may_not_be_read_is_not_missing(run, monkeypatch):
    original = os.open

    def denied(path, *arguments, **options):
        if str(path).endswith("terms.json"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(os, "open", denied)
    assert refused(run) == f"{run / 'terms.json'}: cannot be read, Permission denied; {RUN.again}."


@pytest.mark.parametrize(
    ("place", "value", "key"),
    [
        (("max_width",), 0, "max_width"),
        (("max_width",), 10**400, "401 digits"),
        (("nested",), "yes", "nested"),
        (("encoder",), "forest", "encoder"),
        (("encoder",), {"config": {"vocab_size": 10**13}}, "encoder.name"),
        (("reading", "end"), "what", "reading.end"),
        (("reading", "tags"), [0], "reading.tags[0]"),
        (("labels",), [], "labels"),
        (("labels", 0, "spans"), 10**20, "labels[0].spans"),
        (("labels", 0, "name"), ["x"], "labels[0].name"),
        (("what",), 1, "what"),
    ],
)
def test_a_run_on_spans_keeps_the_same_promises(spans, place, value, key):
    changed(spans, "run.json", place, value, SPAN_RUN)
    assert key in refused(spans)


def test_spans_in_other_files(spans):
    arrays = load_file(spans / "model.safetensors")
    save_file(arrays | {"head.end.bias": np.full_like(arrays["head.end.bias"], 1e30)}, spans / "model.safetensors")
    reseal(spans, SPAN_RUN)
    assert "head.end.bias" in refused(spans)
    save_file(arrays | {"rows.hashes": np.ones(3)}, spans / "model.safetensors")
    reseal(spans, SPAN_RUN)
    assert "rows.hashes" in refused(spans)


def test_a_report_of_findings_that_were_edited(run, tmp_path):
    for place, value in ((("labels",), 3), (("metrics",), []), (("reliability",), "x"), (("steps",), [1])):
        before = (run / "findings.json").read_bytes()
        changed(run, "findings.json", place, value)
        with pytest.raises(InputError, match="findings"):
            write_report(run, tmp_path / "out.html")
        assert not (tmp_path / "out.html").exists()
        (run / "findings.json").write_bytes(before)


def test_runs_that_nobody_changed_load(run, spans):
    assert kind_of_run(spans) is SPAN_RUN
    assert load_run(run).label_names == ["x", "y"]
    assert load_run(spans).label_names == ["LOC", "PER"]
