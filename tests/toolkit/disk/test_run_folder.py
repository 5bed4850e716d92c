"""A run folder is complete or not there, and nothing in it is ever executed."""

import ast
import contextlib
import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from manyhot import load_run
from manyhot.toolkit.cli.main import app
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk import checkpoint
from manyhot.toolkit.disk import run_folder as module
from manyhot.toolkit.disk.run_folder import (
    COMPARISON,
    MANIFEST,
    RUN,
    check_free,
    free_path,
    read_folder,
    write_file,
    write_folder,
)
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.train import train

TOOLKIT = Path(__file__).parents[3] / "src" / "manyhot"
FILES = RUN.files
CONTENT = {name: f"content of {name}\n".encode() for name in FILES}
COMMAND = [sys.executable, "-c", "from manyhot.toolkit.cli.main import main; main()"]


def table(path, rows=30):
    rng = np.random.default_rng(0)
    kinds = {"animal": "fox bird cat", "plant": "tree rose moss", "stone": "flint slate chalk"}
    lines = []
    for _ in range(rows):
        labels = sorted(rng.choice(list(kinds), rng.integers(1, 3), replace=False))
        words = [rng.choice(kinds[label].split()) for label in labels for _ in range(2)]
        lines.append(f"the {' and the '.join(words)},{'|'.join(labels)}")
    path.write_text("text,labels\n" + "\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train one run with a test file; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("trained")
    data, test = table(folder / "train.csv"), table(folder / "test.csv", 12)
    train(Config(data=data, test=test, C=1.0, out=str(folder / "run")))
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def reseal(run):
    """Write a manifest that agrees with the files as they are now."""
    sums = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in FILES}
    (run / MANIFEST).write_text(json.dumps({"format": RUN.format, "sha256": sums}))


def refused(run):
    with pytest.raises(InputError) as caught:
        load_run(run)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Writing


def test_a_run_is_complete_and_reads_back(tmp_path):
    write_folder(tmp_path / "run", CONTENT, RUN)
    assert os.listdir(tmp_path) == ["run"]
    assert sorted(os.listdir(tmp_path / "run")) == sorted([*FILES, MANIFEST])
    assert read_folder(tmp_path / "run", RUN) == CONTENT
    manifest = json.loads((tmp_path / "run" / MANIFEST).read_bytes())
    assert manifest["sha256"] == {name: hashlib.sha256(CONTENT[name]).hexdigest() for name in FILES}


def test_the_manifest_is_written_last_and_the_folder_is_named_after_it(tmp_path, monkeypatch):
    happened = []

    def recorded(name):
        original = getattr(os, name)

        def call(*arguments, **options):
            happened.append((name, Path(arguments[-1]).name if isinstance(arguments[-1], str | Path) else ""))
            return original(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("replace", "rename", "fsync"):
        recorded(name)
    write_folder(tmp_path / "run", CONTENT, RUN)
    places = [place for name, place in happened if name == "replace"]
    assert sorted(places[:-1]) == sorted(FILES)
    assert places[-1] == MANIFEST
    assert [place for name, place in happened if name == "rename"] == ["run"]
    order = [name for name, _ in happened]
    assert order.index("rename") > len(order) - 1 - order[::-1].index("replace")
    # Each file is on the disk before it has its name, and the folder before it has its.
    assert order.count("fsync") == len(FILES) + 1 + 2
    assert all(order[i - 1] == "fsync" for i, name in enumerate(order) if name in ("replace", "rename"))
    assert order[-1] == "fsync"


@pytest.mark.parametrize("failing", [*range(len(FILES) + 1)])
def test_a_failure_in_the_middle_leaves_nothing(tmp_path, monkeypatch, failing):
    original, count = os.replace, 0

    def replace(source, target):
        nonlocal count
        count += 1
        if count == failing + 1:
            raise OSError(28, "No space left on device", str(target))
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space left on device"):
        write_folder(tmp_path / "run", CONTENT, RUN)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(30, "Read-only file system"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("name", ["rename", "fsync"])
def test_whatever_interrupts_the_writing_leaves_nothing(tmp_path, monkeypatch, error, name):
    def fail(*_):
        raise error

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(type(error)):
        write_folder(tmp_path / "run", CONTENT, RUN)
    assert os.listdir(tmp_path) == []


def test_an_interrupted_training_leaves_nothing(tmp_path, monkeypatch):
    data = table(tmp_path / "train.csv")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="No space left"):
        train(Config(data=data, C=1.0, tau=0.0, out=str(tmp_path / "run")))
    assert os.listdir(tmp_path) == ["train.csv"]


def test_a_run_never_replaces_a_folder_with_something_in_it(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        write_folder(tmp_path / "run", CONTENT, RUN)
    assert os.listdir(tmp_path) == ["run"]
    assert (tmp_path / "run" / "mine.txt").read_text() == "mine"


def test_a_run_takes_an_empty_folder(tmp_path):
    (tmp_path / "run").mkdir()
    check_free(tmp_path / "run")
    write_folder(tmp_path / "run", CONTENT, RUN)
    assert read_folder(tmp_path / "run", RUN) == CONTENT


def test_where_nothing_can_be_renamed_the_manifest_is_written_last(tmp_path, monkeypatch):
    place, written, original = tmp_path / "run", [], module.write_file

    def busy(*_):
        raise OSError(errno.EBUSY, "busy")

    def write(path, content):
        written.append(path)
        original(path, content)

    place.mkdir()
    monkeypatch.setattr(os, "rename", busy)
    monkeypatch.setattr(module, "write_file", write)
    write_folder(place, dict.fromkeys(COMPARISON.files, b"{}"), COMPARISON)
    names = [path.name for path in written if path.parent == place]
    assert sorted(names) == sorted([*COMPARISON.files, MANIFEST])
    assert names[-1] == MANIFEST


def test_files_of_a_run_are_fixed(tmp_path):
    with pytest.raises(ValueError, match="a run holds"):
        write_folder(tmp_path / "run", CONTENT | {"more.txt": b""}, RUN)
    with pytest.raises(ValueError, match="a run holds"):
        write_folder(tmp_path / "run", {name: b"" for name in FILES[1:]}, RUN)
    assert os.listdir(tmp_path) == []


def test_a_file_keeps_its_old_content_where_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "out.jsonl"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"newer")
    assert os.listdir(tmp_path) == ["out.jsonl"]
    assert path.read_bytes() == b"new"


# Places


def test_the_first_free_number_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert free_path("x/reviews.csv.gz") == Path("runs/reviews-1")
    (tmp_path / "runs" / "reviews-1").mkdir(parents=True)
    (tmp_path / "runs" / "reviews-2").write_text("")
    assert free_path("reviews.csv") == Path("runs/reviews-3")
    assert free_path("other.X.npz") == Path("runs/other-1")


def test_places_that_are_taken_or_impossible(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    for path in (tmp_path / "full", tmp_path / "full" / "x"):
        with pytest.raises(InputError, match="expected a folder that does not exist yet; choose another --out"):
            check_free(path)
    with pytest.raises(InputError, match=r"cannot make this folder, .*; choose another --out"):
        check_free(tmp_path / "full" / "x" / "deeper" / "run")
    check_free(tmp_path / "new")
    assert not (tmp_path / "new").exists()


# Reading


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_named(run, name):
    (run / name).unlink()
    message = refused(run)
    assert name in message
    assert "missing" in message
    assert message.startswith(str(run))
    assert message.endswith("train again, or restore the folder from a copy.")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["truncated", "emptied", "one bit", "longer"])
def test_a_changed_file_is_named(run, name, change):
    content = bytearray((run / name).read_bytes())
    if change == "truncated":
        content = content[:-1]
    elif change == "emptied":
        content = bytearray()
    elif change == "one bit":
        content[len(content) // 2] ^= 1
    else:
        content += b"\n"
    (run / name).write_bytes(content)
    assert refused(run).startswith(f"{run / name}: changed since training (its sha256 is not the manifest's); ")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3", b"{}", b'{"format": 1}', b"null"])
def test_a_manifest_that_is_none(run, content):
    (run / MANIFEST).write_bytes(content)
    assert refused(run).startswith(f"{run / MANIFEST}: expected the manifest of a run, but it is damaged; ")


@pytest.mark.parametrize("sums", [[], {}, None, {"run.json": 3}])
def test_a_manifest_without_the_sums(run, sums):
    (run / MANIFEST).write_text(json.dumps({"format": RUN.format, "sha256": sums}))
    assert "changed since training" in refused(run)


@pytest.mark.parametrize("kind", [1, "2", None])
def test_another_format_is_refused(run, kind):
    manifest = json.loads((run / MANIFEST).read_bytes())
    (run / MANIFEST).write_text(json.dumps(manifest | {"format": kind}))
    expected = f"run format {RUN.format} is what this manyhot reads; got {kind!r}. Update manyhot, or train again."
    assert refused(run).endswith(expected)


def test_what_is_no_run(tmp_path):
    assert refused(tmp_path / "none").endswith("expected a run folder, as `manyhot train` writes it; there is none.")
    (tmp_path / "file").write_text("")
    assert "there is none" in refused(tmp_path / "file")
    assert f"{tmp_path}: expected a run folder, but manifest.json is missing" in refused(tmp_path)


def test_a_comparison_is_a_folder_of_its_own_kind(tmp_path):
    content = {name: name.encode() for name in COMPARISON.files}
    with pytest.raises(ValueError, match="a comparison holds"):
        write_folder(tmp_path / "compared", CONTENT, COMPARISON)
    write_folder(tmp_path / "compared", content, COMPARISON)
    assert read_folder(tmp_path / "compared", COMPARISON) == content
    assert refused(tmp_path / "compared") == (
        f"{tmp_path / 'compared'}: expected a run folder, got a comparison; name the folder of a run, as "
        "`manyhot train` writes it."
    )
    (tmp_path / "compared" / "compare.json").write_bytes(b"changed")
    with pytest.raises(InputError) as caught:
        read_folder(tmp_path / "compared", COMPARISON)
    assert str(caught.value) == (
        f"{tmp_path / 'compared' / 'compare.json'}: changed since it was written (its sha256 is not the manifest's); "
        "compare again, or restore the folder from a copy."
    )


def changed_json(run, name, change):
    value = json.loads((run / name).read_bytes())
    (run / name).write_text(json.dumps(change(value)))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("run.json", lambda state: []),
        ("run.json", lambda state: {k: v for k, v in state.items() if k != "labels"}),
        ("run.json", lambda state: state | {"labels": state["labels"][1:]}),
        ("run.json", lambda state: state | {"cardinality": {"min": 1}}),
        ("run.json", lambda state: state | {"columns": {"what": 1}}),
        ("run.json", lambda state: state | {"features": {"text": []}}),
        ("run.json", lambda state: state | {"features": {"text": [[], []]}}),
        ("terms.json", lambda terms: terms[:1]),
        ("terms.json", lambda terms: [terms[0][1:], *terms[1:]]),
        ("terms.json", lambda terms: []),
        ("run.json", lambda state: state | {"model": "forest"}),
        ("run.json", lambda state: state | {"model": "mlp"}),
        ("run.json", lambda state: state | {"task": "what"}),
        ("run.json", lambda state: state | {"cardinality": {"min_labels": "a", "max_labels": 3}}),
        ("run.json", lambda state: state | {"labels": [{"name": 3, "rows": 1}] * len(state["labels"])}),
        ("calibration.json", lambda calibration: calibration | {"labels": calibration["labels"][1:]}),
        ("calibration.json", lambda calibration: {}),
    ],
)
def test_parts_that_agree_with_the_manifest_and_not_with_each_other(run, name, change):
    changed_json(run, name, change)
    reseal(run)
    message = refused(run)
    assert message.startswith(f"{run}: expected ")


# What stands in the report is for people, and no file that anything reads; all but UTF-8 is one.
@pytest.mark.parametrize("name", [name for name in FILES if name != "report.html"])
@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[1, 2", b"=", b"\x00" * 40])
def test_a_file_that_agrees_with_the_manifest_and_is_none_of_its_kind_is_named(run, name, content):
    (run / name).write_bytes(content)
    reseal(run)
    message = refused(run)
    assert message.startswith(f"{run / name}: expected what training wrote, but it is damaged: ")
    assert message.endswith("; train again, or restore the folder from a copy.")


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".json")])
def test_json_of_one_value_is_none_of_ours(run, name):
    (run / name).write_text("3")
    reseal(run)
    assert refused(run).startswith(f"{run / name}: expected what training wrote, but it is damaged: ")


def test_weights_that_are_not_finite_are_refused(run):
    arrays = load_file(run / "model.safetensors")
    arrays["bias"][1] = np.nan
    save_file(arrays, run / "model.safetensors")
    reseal(run)
    assert refused(run).startswith(
        f"{run / 'model.safetensors'}: expected what training wrote, but it is damaged: a num"
    )


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_weights_of_another_shape_are_refused(run, name):
    arrays = load_file(run / "model.safetensors")
    save_file(arrays | {name: np.ascontiguousarray(arrays[name][1:])}, run / "model.safetensors")
    reseal(run)
    assert f"its parts do not fit: expected {name} of shape " in refused(run)


def test_resealing_alone_changes_nothing(run):
    reseal(run)
    assert load_run(run).predict(["the fox and the bird"]) == [["animal"]]


# Nothing is executed

PICKLE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "compile", "__import__"}


def executing(source):
    """Name what could run something that stands in a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            # Processes that share work hand calls of our own to each other, and read no file.
            if names == ["joblib"] and {alias.name for alias in node.names} <= {"Parallel", "delayed"}:
                continue
            yield from (name for name in names if name.split(".")[0] in PICKLE)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield node.func.id
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.save"):
            yield ast.unparse(node)
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield "allow_pickle"


@pytest.mark.parametrize("path", sorted(TOOLKIT.rglob("*.py")), ids=lambda path: path.stem)
def test_no_source_unpickles_or_executes(path):
    assert list(executing(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("from joblib import Parallel, load", "joblib"),
        ("import joblib", "joblib"),
        ("x = torch.load(p)", "torch.load"),
        ("eval(x)", "eval"),
        ("np.load(p, allow_pickle=True)", "allow_pickle"),
        ("def f():\n    import pickle as p", "pickle"),
    ],
)
def test_what_executes_is_found(source, found):
    assert list(executing(source)) == [found]
    assert list(executing("ast.literal_eval(x); model.eval(); np.load(p, allow_pickle=False)")) == []


def test_no_file_of_a_run_is_a_pickle_or_an_archive(trained):
    for path in trained.iterdir():
        content = path.read_bytes()
        if path.suffix == ".safetensors":  # it begins with the length of its header, in eight bytes
            content = content[8:]
            assert content.startswith(b"{")
        assert not content.startswith((b"\x80", b"PK", b"\x1f\x8b", b"(lp", b"\x93NUMPY")), path.name
        if path.suffix in (".html", ".json", ".toml", ".jsonl"):
            content.decode()
    assert not {path.suffix for path in trained.iterdir()} - {".html", ".json", ".jsonl", ".toml", ".safetensors"}


# Provenance


def test_provenance_says_where_a_run_comes_from(trained):
    origin = json.loads((trained / "provenance.json").read_bytes())
    folder = trained.parent
    assert origin["inputs"] == [
        {
            "file": str(folder / name),
            "rows": rows,
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        }
        for name, rows in (("train.csv", 30), ("test.csv", 12))
    ]
    assert origin["threads"] == 1
    assert origin["seed"] == 0
    assert origin["seconds"] > 0
    assert origin["command"] == sys.argv
    assert origin["versions"]["torch"] == torch.__version__
    assert origin["versions"]["polars"] == pl.__version__
    assert all(origin["versions"].values())
    assert origin["python"] == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize("part", ["test", "valid"])
def test_rows_of_inputs_are_those_of_the_files_also_where_some_are_dropped(tmp_path, part):
    data = table(tmp_path / "train.csv")
    other = table(tmp_path / f"{part}.csv", 12)
    for file in (data, other):
        with open(file, "a") as lines:
            lines.write("a fox without labels,\n")
    config = Config(data=data, drop_unlabelled=True, C=1.0, out=str(tmp_path / "run"))
    train(replace(config, **{part: other}))
    origin = json.loads((tmp_path / "run" / "provenance.json").read_bytes())
    rows = {Path(part["file"]).name: part["rows"] for part in origin["inputs"]}
    assert rows == {"train.csv": 31, f"{part}.csv": 13}


def test_provenance_of_matrices_covers_features_and_targets(tmp_path):
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    targets = rng.random((20, 3)) < 0.5
    sp.save_npz(tmp_path / "set.X.npz", sp.csr_matrix(rng.normal(size=(20, 4))))
    sp.save_npz(tmp_path / "set.Y.npz", sp.csr_matrix(targets))
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    train(Config(data=str(tmp_path / "set"), C=1.0, tau=0.0, out=str(tmp_path / "run")))
    origin = json.loads((tmp_path / "run" / "provenance.json").read_bytes())
    sums = {part["sha256"] for part in origin["inputs"]}
    for name in ("set.X.npz", "set.Y.npz"):
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() in sums, name


# A full disk


@contextlib.contextmanager
def disk_for(size):
    """Let files grow to so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def sizes_of(config, monkeypatch):
    """Train once, and return the sizes of the files that were written, in order."""
    sizes = []

    def recorded(path, content):
        sizes.append(len(content))
        write_file(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_file", recorded)
        patch.setattr(checkpoint, "write_file", recorded)
        train(config)
    return sizes


def command(line, code):
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == code, result.output
    return result.stderr.strip().splitlines()


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_exit_code_1(tmp_path):
    table(tmp_path / "train.csv")

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))  # the first file fits and the weights do not

    done = subprocess.run(
        [*COMMAND, "train", "train.csv", "--out", "place/run", "--set", "C=1", "--tau", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=limited,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=100,
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "File too large; nothing was written" in last
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.csv"]


@pytest.mark.slow
def test_wherever_the_disk_is_full_a_run_beside_stays_as_it_was(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    table(Path("train.csv"))
    sizes = sizes_of(Config(data="train.csv", C=1.0, tau=0.0, out="whole"), monkeypatch)
    assert len(sizes) == len(FILES) + 1
    for size in sorted({0, *(size - 1 for size in sizes)}):
        with disk_for(size):
            said = command("train train.csv --set C=1 --tau 0 --out deep/run2", 1)
        assert said[-1].endswith(": File too large; nothing was written")
        assert sorted(path.name for path in run.parent.iterdir()) == ["run", "train.csv", "whole"]
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "WRITE_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    table(Path("train.csv"))
    sizes = sizes_of(Config(data="train.csv", out="whole"), monkeypatch)
    # What is written grows with the fits that are done.
    size = max(sizes[: -len(FILES) - 1]) - 1
    assert size > sizes[1]
    with disk_for(size):
        said = command("train train.csv --out run", 1)
    assert said[-1].startswith("error: ")
    assert said[-1].endswith(
        ": File too large; the same command with --resume goes on from the checkpoint in .run.partial"
    )
    assert sorted(os.listdir()) == [".run.partial", "train.csv", "whole"]
    assert not [name for name in os.listdir(".run.partial") if name.startswith(".")]
    assert command("train train.csv --out run --resume", 0)[0].startswith("going on from the checkpoint in ")
    for name in ("model.safetensors", "metrics.json", "log.jsonl"):
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()
