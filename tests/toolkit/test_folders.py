"""A folder of files predicted: the outputs of single files, whoever makes them, and none made twice."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest

from command import call
from manyhot.toolkit.config import Config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.folders import (
    files_of_folder,
    one_after_another,
    output_of,
    predict_folder,
    processes,
    ray_actors,
    shard_of,
)
from manyhot.toolkit.runs.predictions import write_predictions
from manyhot.toolkit.runs.saved_run import load_run
from manyhot.toolkit.train import train
from tiny_texts import texts_and_sets


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    texts, sets = texts_and_sets(60)
    pl.DataFrame({"text": texts, "labels": sets}).write_ndjson(folder / "train.jsonl")
    train(Config(data=str(folder / "train.jsonl"), C=5.0, tau=0.0, out=str(folder / "run")))
    return folder / "run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with files of five formats in two levels, one without rows, and others."""
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    texts, _ = texts_and_sets(50, seed=3)
    frame = pl.DataFrame({"id": range(50), "text": texts})
    frame[:20].write_csv(folder / "one.csv")
    frame[20:30].write_ndjson(folder / "two.jsonl")
    frame[30:40].write_parquet(folder / "b" / "three.parquet")
    with gzip.open(folder / "b" / "four.tsv.gz", "wb") as file:
        file.write(frame[40:].write_csv(separator="\t").encode())
    (folder / "empty.csv").write_text("id,text\n")
    (folder / "README").write_text("what this is")
    (folder / "_manifest.json").write_text("{}")
    return folder


NAMES = ["b/four.tsv.gz", "b/three.parquet", "empty.csv", "one.csv", "two.jsonl"]
OUTPUTS = ["b/four.parquet", "b/three.parquet", "empty.parquet", "one.parquet", "two.parquet"]


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.parquet")}


def test_files_and_their_outputs(folder: Path) -> None:
    assert files_of_folder(folder) == (NAMES, 1)
    assert [output_of(name) for name in NAMES] == OUTPUTS
    assert output_of("a/words.X.npz") == "a/words.parquet"


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_shards_are_all_files_once(of: int) -> None:
    names = [f"{i}.csv" for i in range(5)]
    parts = [shard_of(names, f"{i}/{of}") for i in range(1, of + 1)]
    assert sorted(name for part in parts for name in part) == names
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", "", f"1/{'9' * 5000}", "\u0663/\u0668"])
def test_what_is_no_shard(part: str) -> None:
    with pytest.raises(InputError, match=r"expected I/N, such as 3/8"):
        shard_of(["a.csv"], part)


def test_a_folder_is_its_files(run: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = predict_folder(run, folder, out, keep=["id"])
    assert [(done.name, done.rows) for done in summary.files] == list(zip(NAMES, (10, 10, 0, 20, 10), strict=True))
    assert (summary.skipped, summary.left_out, summary.empty, summary.failed) == (0, 1, 1, [])
    for name in NAMES:
        if name != "empty.csv":
            write_predictions(tmp_path / "single.parquet", load_run(run), folder / name, keep=["id"])
            assert (out / output_of(name)).read_bytes() == (tmp_path / "single.parquet").read_bytes()
    empty, full = pl.read_parquet(out / "empty.parquet"), pl.read_parquet(out / "one.parquet")
    assert empty.schema == full.schema
    assert empty.is_empty()
    said = json.loads((out / "_manifest.json").read_text())
    assert said["rows"] == 50
    assert [entry["file"] for entry in said["inputs"]] == NAMES


@pytest.mark.slow
def test_processes_write_the_same_bytes(run: Path, folder: Path, tmp_path: Path) -> None:
    for name, pool in (("one", one_after_another), ("two", processes(2))):
        predict_folder(run, folder, tmp_path / name, pool=pool)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(contents(tmp_path / "two")) == OUTPUTS


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_writes_the_same_bytes(run: Path, folder: Path, tmp_path: Path) -> None:
    for name, pool in (("one", one_after_another), ("ray", ray_actors("local", 2))):
        predict_folder(run, folder, tmp_path / name, pool=pool)
    assert contents(tmp_path / "one") == contents(tmp_path / "ray")


def test_shards_write_the_folder_between_them(run: Path, folder: Path, tmp_path: Path) -> None:
    predict_folder(run, folder, tmp_path / "whole")
    for part in ("1/2", "2/2"):
        predict_folder(run, folder, tmp_path / "parts", shard=part)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert (tmp_path / "parts" / "_manifest-2-of-2.json").exists()


def test_what_is_there_is_not_made_again(run: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = predict_folder(run, folder, out)
    (out / "one.parquet").unlink()
    before = (out / "two.parquet").stat().st_mtime_ns
    second = predict_folder(run, folder, out)
    assert (second.skipped, second.files) == (4, first.files)
    assert (out / "two.parquet").stat().st_mtime_ns == before
    assert (out / "one.parquet").exists()


def test_outputs_of_another_run_are_refused(run: Path, folder: Path, tmp_path: Path) -> None:
    predict_folder(run, folder, tmp_path / "out")
    with pytest.raises(InputError, match="holds predictions of another run, or with other --keep"):
        predict_folder(run, folder, tmp_path / "out", keep=["id"])


def test_a_folder_without_outputs_is_free_for_other_options(run: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (folder / "empty.csv").unlink()  # what has no rows lacks nothing
    assert len(predict_folder(run, folder, out, keep=["missing"]).failed) == len(OUTPUTS) - 1
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    predict_folder(run, folder, out, keep=["missing"])
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    (out / "notes.txt").unlink()
    assert not predict_folder(run, folder, out).failed


def test_a_file_that_cannot_be_read_keeps_no_other_from_its_output(run: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "broken.parquet").write_bytes(b"no parquet")
    summary = predict_folder(run, folder, tmp_path / "out")
    assert [done.name for done in summary.failed] == ["broken.parquet"]
    assert sorted(contents(tmp_path / "out")) == OUTPUTS
    assert not (tmp_path / "out" / "_manifest.json").exists()


def test_what_is_refused(run: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="outside of"):
        predict_folder(run, folder, folder / "out")
    shutil.copy(folder / "one.csv", folder / "two.csv")
    with pytest.raises(InputError, match=r"two\.csv and two\.jsonl would both be written to two\.parquet"):
        predict_folder(run, folder, tmp_path / "out")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="expected data files in this folder"):
        predict_folder(run, tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("_run.json", b"[" * 5000, "nested too deeply"),
        ("_run.json", b"{}", "of another run"),
        ("_run.json", None, "no regular file"),
        ("one.parquet", b"mine", "remove it, or name another -o"),
        ("one.parquet", None, "expected a file that can be read twice"),
    ],
)
def test_an_output_folder_with_something_else_in_it(
    run: Path, folder: Path, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / name) if content is None else (out / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        predict_folder(run, folder, out)
    assert [path.name for path in out.glob("*.parquet")] == (["one.parquet"] if name == "one.parquet" else [])


def test_places_and_runs_that_are_none(run: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="expected a folder to write to, got a file"):
        predict_folder(run, folder, tmp_path / "file")
    with pytest.raises(InputError, match="there is none"):
        predict_folder(tmp_path / "nowhere", folder, tmp_path / "out")
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    os.mkfifo(tmp_path / "run" / "manifest.json")
    with pytest.raises(InputError, match="no regular file"):
        predict_folder(tmp_path / "run", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_processes_that_are_told_to_end_leave_nothing_half_written(run: Path, folder: Path, tmp_path: Path) -> None:
    texts, _ = texts_and_sets(2000, seed=3)
    for i in range(8):
        pl.DataFrame({"text": texts * 100}).write_csv(folder / f"large{i}.csv")
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from manyhot.toolkit.cli.main import main; main()", "predict", str(run)]
    process = subprocess.Popen(
        [*command, str(folder), "-o", str(out), "--jobs", "2"], stderr=subprocess.PIPE, text=True
    )
    while not list(out.rglob(".large*")):
        time.sleep(0.05)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert not [path for path in out.rglob(".*") if path.is_file()]
    assert len(contents(out)) < len(list(folder.rglob("*.csv")))


def test_a_name_that_is_no_utf8_is_told_by_escapes(run: Path, folder: Path, tmp_path: Path) -> None:
    os.rename(folder / "one.csv", os.fsencode(folder) + b"/caf\xe9.csv")
    predict_folder(run, folder, tmp_path / "out")
    assert b"caf\xe9.parquet" in os.listdir(os.fsencode(tmp_path / "out"))
    inputs = json.loads((tmp_path / "out" / "_manifest.json").read_text())["inputs"]
    assert "caf\udce9.csv" in [said["file"] for said in inputs]


def test_the_command(run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stdout, _ = call(f"predict {run} in -o out --shard 1/2 --json")
    assert json.loads(stdout) == {"out": "out", "files": 3, "rows": 20, "skipped": 0, "empty": 1, "failed": []}
    _, stderr = call(f"predict {run} in -o out")
    assert "wrote out: 5 files, 50 rows, 3 of them there already" in stderr
    assert "1 other files in in are no data" in stderr
    (folder / "broken.parquet").write_bytes(b"no parquet")
    _, stderr = call(f"predict {run} in -o out", 2)
    assert "1 of 6 files could not be predicted" in stderr
    _, stderr = call(f"predict {run} in/one.csv -o one.csv --jobs 2", 2)
    assert "expected a folder with --jobs, --shard or --ray" in stderr
    _, stderr = call(f"predict {run} in -o out --jobs 0", 2)
    assert "expected 1 process or more; got 0" in stderr
