"""Interrupted trainings: going on gives the same bits, nothing else is ever taken for a run or a checkpoint."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from forked import Forked
from interrupted import contents, killed
from manyhot import load_run
from manyhot.toolkit.cli.main import app
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk import checkpoint as module
from manyhot.toolkit.disk.checkpoint import Checkpoint, reserved
from manyhot.toolkit.disk.run_folder import COMPARISON, RUN, partial_of, read_folder
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models import mlp, products
from manyhot.toolkit.train import train

KINDS = {
    "one penalty": {"max_iter": 50, "C": 1.0},
    "L-BFGS": {"max_iter": 50},
    "AdamW": {},
    "mlp": {"model": "mlp"},
}
SLOW = ("L-BFGS", "AdamW", "mlp")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def always(monkeypatch):
    """Write a checkpoint at every step."""
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.0)
    monkeypatch.setattr(module, "SHARE", 1e9)


def table(name="d.csv", rows=60, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 4))
    targets = X @ np.linspace(-2, 2, 12).reshape(4, 3) + 0.3 * rng.normal(size=(rows, 3)) > 0.5
    lines = [",".join([*(f"{x:.4f}" for x in a), *(str(int(y)) for y in b)]) for a, b in zip(X, targets, strict=True)]
    Path(name).write_text("a,b,c,d,y1,y2,y3\n" + "\n".join(lines) + "\n")


def of_kind(kind, monkeypatch, **options):
    if kind == "AdamW":
        monkeypatch.setattr("manyhot.toolkit.models.linear.LBFGS_VECTORS", 10**9)
        monkeypatch.setattr("manyhot.toolkit.models.linear.STEPS", 6)
    given: Any = KINDS[kind] | options
    return Config(data="d.csv", valid="v.csv" if kind == "mlp" else None, **given)


def count_steps(monkeypatch):
    """Count the products with weights that trainings make from now on."""
    steps = []
    for owner, name in ((products.Product, "__call__"), (mlp.Mlp, "hidden")):
        method = getattr(owner, name)

        def counted(*arguments, original=method, **options):
            steps.append(1)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)
    return steps


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in KINDS])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(kind, monkeypatch, always):
    table()
    table("v.csv", 20, seed=1)
    config = of_kind(kind, monkeypatch, out="whole")
    steps = count_steps(monkeypatch)
    train(config)
    wanted, needed = contents("whole"), len(steps)
    calls = []
    with monkeypatch.context() as patch:
        original = os.replace
        patch.setattr(os, "replace", lambda *a: (calls.append(a), original(*a))[1])
        train(of_kind(kind, monkeypatch, out="counted"))
    rng = np.random.default_rng(0)
    last = len(calls) - len(RUN.files) - 1
    assert last > 20
    for number, after in enumerate([*sorted(rng.integers(2, last, 2).tolist()), len(calls) - 1]):
        config = of_kind(kind, monkeypatch, out=f"run{number}")
        assert killed(config, monkeypatch, after=after)
        assert not Path(config.out or "").exists()
        steps.clear()
        said = []
        train(config, Listener(say=said.append), resume=True)
        assert said[0].startswith(f"going on from the checkpoint in .run{number}.partial: ")
        assert contents(f"run{number}") == wanted
        assert not partial_of(Path(f"run{number}")).exists()
        # What was done was not done again.
        assert len(steps) < needed * (1 - 0.7 * after / len(calls)) + 20
    assert sorted(os.listdir()) == ["counted", "d.csv", "run0", "run1", "run2", "v.csv", "whole"]


# Some calls, as all of them take half a minute.
@pytest.mark.parametrize(
    ("call", "every"),
    [
        *(("replace", 10), ("fsync", 20), ("rename", 1), ("unlink", 6)),
        *(pytest.param(call, 1, marks=pytest.mark.slow) for call in ("replace", "fsync", "unlink")),
    ],
)
def test_a_kill_at_any_call_of_the_system_leaves_what_can_be_gone_on_from(monkeypatch, always, call, every):
    table()
    options: Any = {"data": "d.csv", "valid": "d.csv", "C": 1.0, "tau": 0.0, "max_iter": 8}
    train(Config(**options, out="whole"))
    wanted, after, resumed = contents("whole"), 0, 0
    while killed(config := Config(**options, out=f"run{after}"), monkeypatch, after=after, call=call):
        run = Path(f"run{after}")
        if not run.exists():
            said = []
            train(config, Listener(say=said.append), resume=True)
            resumed += said[0].startswith("going on")
            assert not partial_of(run).exists()
        assert contents(run) == wanted
        after += every
    assert contents(f"run{after}") == wanted
    assert after > 0
    assert resumed > 0


@pytest.mark.slow
def test_a_run_that_was_killed_twice(monkeypatch, always):
    table()
    train(Config(data="d.csv", out="whole"))
    config = Config(data="d.csv", out="run")
    assert killed(config, monkeypatch, after=6)
    assert killed(config, monkeypatch, after=8, resume=True)
    train(config, resume=True)
    assert contents("run") == contents("whole")


def test_a_short_training_writes_no_checkpoint(monkeypatch):
    table()
    written = []
    monkeypatch.setattr(Checkpoint, "_write", lambda *_: written.append(1))
    train(Config(data="d.csv", C=1.0, out="run"))
    assert written == []
    assert sorted(os.listdir()) == ["d.csv", "run"]


def test_checkpoints_are_written_when_they_are_due_and_take_a_twentieth_of_the_time(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    (tmp_path / "p").mkdir()
    kept = Checkpoint(tmp_path / "p", {"config": {}, "versions": {}, "inputs": {}, "threads": 1})
    state = {"x": np.arange(3)}
    asked = []

    def save():
        kept.save("fit", lambda: (asked.append(clock[0]), state)[1])

    for clock[0] in (1.0, 9.9, 10.0, 10.1, 19.9, 20.0):
        save()
    assert asked == [10.0, 20.0]
    original = module.write_file

    def slow(*arguments):
        clock[0] += 2.0
        original(*arguments)

    monkeypatch.setattr(module, "write_file", slow)
    clock[0] = 30.0
    save()  # two files: four seconds
    for clock[0] in (40.0, 113.9, 114.0):
        save()
    assert asked == [10.0, 20.0, 30.0, 114.0]


def test_a_checkpoint_is_of_one_fit_under_way_and_keeps_no_other_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.0)
    monkeypatch.setattr(module, "SHARE", 1e9)
    kept = Checkpoint(tmp_path, {"config": {}, "versions": {}, "inputs": {}, "threads": 1})
    kept.finish("first", {"x": np.arange(2)})
    for number in range(3):
        kept.save("second", lambda number=number: {"x": np.arange(number)})
    again = Checkpoint(tmp_path)
    again.open()
    for found in (kept, again):
        assert found.load("first") is None
        assert found.load("third") is None
        state, result = found.load("second"), found.finished("first")
        assert state is not None
        assert result is not None
        assert (state["x"].tolist(), result["x"].tolist()) == ([0, 1], [0, 1])
    assert set(os.listdir(tmp_path)) == {
        "manifest.json",
        *json.loads((tmp_path / "manifest.json").read_text())["sha256"],
    }
    assert len(os.listdir(tmp_path)) == 3


# What is said


def call(command, code=0):
    result = CliRunner().invoke(app, command.split())
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr.strip().splitlines()


def interrupt(monkeypatch, command, after=6):
    """Press Ctrl-C at a write of the checkpoint."""
    original, left = os.replace, [after]

    def replace(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        return call(command, 130)[1]


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(monkeypatch, always):
    table()
    said = interrupt(monkeypatch, "train d.csv")
    partial = "runs/.d-1.partial"
    assert said[-1] == f"error: interrupted; the same command with --resume goes on from the checkpoint in {partial}"
    _, said = call("train d.csv --resume")
    assert said[0] == f"going on from the checkpoint in {partial}: 2 fits finished"
    assert any(line.startswith("saved runs/d-1, again: ") for line in said)
    assert os.listdir("runs") == ["d-1"]


def test_ctrl_c_before_the_first_checkpoint(monkeypatch):
    table()

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("manyhot.toolkit.train.fit", fail)
    for out in ("", "--out deep/er/run"):
        assert call(f"train d.csv {out}", 130)[1][-1] == "error: interrupted; nothing was written"
        assert os.listdir() == ["d.csv"]


@pytest.mark.slow
def test_what_was_left_is_said_and_not_used(monkeypatch, always):
    table()
    interrupt(monkeypatch, "train d.csv")
    interrupt(monkeypatch, "train d.csv --out o/run")
    before = sorted(os.listdir("runs/.d-1.partial"))
    _, said = call("train d.csv")
    assert said[0] == (
        "runs/d-1: a training was interrupted here; --resume with the same options goes on, "
        "rm -r 'runs/.d-1.partial' forgets it. This run gets another number."
    )
    assert any(line.startswith("saved runs/d-2, again: ") for line in said)
    assert sorted(os.listdir("runs/.d-1.partial")) == before
    _, said = call("train d.csv --out o/run", 2)
    assert said == [
        "error: o/run: a training was interrupted here; --resume with the same options goes on, "
        "rm -r 'o/.run.partial' forgets it, or choose another --out."
    ]
    shutil.rmtree("o/.run.partial")
    _, said = call("train d.csv --out o/run --resume")
    assert said[0] == "no checkpoint to go on from: starting at the beginning"
    assert Path("o/run/manifest.json").exists()
    # Of several, the one of this command.
    interrupt(monkeypatch, "train d.csv --seed 3")
    _, said = call("train d.csv --resume")
    assert any(line.startswith("saved runs/d-1, again: ") for line in said)
    _, said = call("train d.csv --resume --seed 3")
    assert any(line.startswith("saved runs/d-3, again: ") for line in said)
    assert sorted(os.listdir("runs")) == ["d-1", "d-2", "d-3"]


def test_a_checkpoint_of_another_training_is_refused(monkeypatch, always):
    table()
    table("v.csv", 20, seed=1)
    module_versions = module.versions()
    interrupt(monkeypatch, "train d.csv --out run")
    end = "Type the options it had, or rm -r '.run.partial' to start afresh."
    begin = "error: .run.partial: expected a checkpoint of this training; "

    def refused(command):
        (said,) = call(f"{command} --out run --resume", 2)[1]
        assert said.startswith(begin)
        assert said.endswith(end)
        return said[len(begin) : -len(end) - 1]

    assert refused("train d.csv --seed 1") == "seed was 0 and is 1."
    assert refused("train d.csv --seed 1 --loss zlpr") == "loss was bce and is zlpr, seed was 0 and is 1."
    assert refused("train d.csv --valid v.csv") == "valid was not given and is v.csv, v.csv is not the same file."
    with monkeypatch.context() as patch:
        patch.setattr(module, "versions", lambda: module_versions | {"torch": "9.9"})
        assert refused("train d.csv") == f"version of torch was {torch.__version__} and is 9.9."
        several = "train d.csv --seed 1 --loss zlpr --tau 1 --set C=3"
        assert refused(several) == "C was auto and is 3.0, loss was bce and is zlpr, seed was 0 and is 1 and 2 more."
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert refused("train d.csv") == f"threads were {threads} and are {threads + 1} (OMP_NUM_THREADS)."
    finally:
        torch.set_num_threads(threads)
    content = Path("d.csv").read_text()
    Path("d.csv").write_text(content + content.splitlines()[1] + "\n")
    assert refused("train d.csv") == "d.csv is not the same file."
    Path("d.csv").write_text(content)
    assert call("train d.csv --out run --resume")[1][0].startswith("going on")


def test_a_place_where_another_process_trains():
    table()
    config = Config(data="d.csv")
    with reserved(config, {}, resume=False, say=lambda text: None) as (path, _):
        assert path == Path("runs/d-1")
        # Without --out the next number is taken.
        said = call("train d.csv --set C=1 --tau 0")[1]
        assert any(line.startswith("saved runs/d-2, ") for line in said)
        _, said = call("train d.csv --out runs/d-1", 2)
        assert said == ["error: runs/d-1: another manyhot is training there; wait for it, or choose another --out."]
        assert partial_of(path).exists()
    assert os.listdir("runs") == ["d-2"]


@pytest.mark.skipif(module.fcntl is None, reason="no locks of files on this system")
def test_a_place_that_another_leaves_while_it_is_taken(monkeypatch):
    config, real, before = Config(data="d.csv", out="run"), module._lock, []

    def lock(file):  # between opening the file and locking it another ends, and removes the folder
        if not before:
            before.append(file.name)
            shutil.rmtree(partial_of(Path("run")))
        return real(file)

    monkeypatch.setattr(module, "_lock", lock)
    with reserved(config, {}, resume=False, say=lambda text: None) as (path, checkpoint):
        assert checkpoint.folder == partial_of(path)
        assert partial_of(path).exists()
        with (
            pytest.raises(InputError, match="another manyhot is training there"),
            reserved(config, {}, resume=False, say=lambda text: None),
        ):
            pass
    assert before
    assert not partial_of(path).exists()


@pytest.mark.parametrize("times", [1, 3])
def test_a_folder_that_is_removed_before_its_lock_is_opened(monkeypatch, times):
    made, real = [], Path.mkdir

    def mkdir(self, *args, **options):
        real(self, *args, **options)
        if self == partial_of(Path("run")) and len(made) < times:
            made.append(self)
            self.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with reserved(Config(data="d.csv", out="run"), {}, resume=False, say=lambda text: None) as (path, _):
        assert partial_of(path).exists()
    assert len(made) == times


# A checkpoint changed by hand


def spoilt(content):
    return {
        "truncated": content[:-1],
        "empty": b"",
        "one bit": content[:-1] + bytes([content[-1] ^ 1]),
        "missing": None,
    }


@pytest.mark.parametrize("change", ["truncated", "empty", "one bit", "missing"])
def test_a_damaged_checkpoint_is_named(monkeypatch, always, change):
    table()
    interrupt(monkeypatch, "train d.csv --out run")
    partial = Path(".run.partial")
    files = sorted(path.name for path in partial.glob("*.safetensors"))
    assert len(files) >= 2
    for name in files:
        content = (partial / name).read_bytes()
        new = spoilt(content)[change]
        (partial / name).unlink() if new is None else (partial / name).write_bytes(new)
        _, said = call("train d.csv --out run --resume", 2)
        assert said == [
            f"error: .run.partial/{name}: expected the checkpoint as it was left (its sha256 is not the manifest's); "
            "remove .run.partial to start afresh."
        ]
        (partial / name).write_bytes(content)
    assert call("train d.csv --out run --resume")[1][0].startswith("going on")


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: [],
        lambda manifest: manifest | {"format": 1},
        lambda manifest: manifest | {"bound": None},
        lambda manifest: manifest | {"bound": {}},
        lambda manifest: manifest | {"fits": []},
        lambda manifest: manifest | {"fits": {"x": "../../../etc/passwd"}, "sha256": {"../../../etc/passwd": ""}},
        lambda manifest: manifest | {"fits": {**manifest["fits"], "x": "999999.safetensors"}},
        lambda manifest: manifest | {"current": 3},
    ],
)
def test_a_manifest_of_a_checkpoint_changed_by_hand(monkeypatch, always, change):
    table()
    interrupt(monkeypatch, "train d.csv --out run")
    path = Path(".run.partial/manifest.json")
    path.write_text(json.dumps(change(json.loads(path.read_bytes()))))
    _, said = call("train d.csv --out run --resume", 2)
    assert said == [
        "error: .run.partial/manifest.json: expected the manifest of a checkpoint, but it is damaged or of another "
        "manyhot; remove .run.partial to start afresh."
    ]


def test_no_file_of_a_checkpoint_is_a_pickle_or_an_archive(monkeypatch, always):
    table()
    interrupt(monkeypatch, "train d.csv --model mlp --out run")
    partial = Path(".run.partial")
    assert {path.suffix for path in partial.iterdir()} == {".json", ".safetensors", ""}
    for path in partial.iterdir():
        assert not path.read_bytes().startswith((b"\x80", b"PK", b"\x1f\x8b")), path.name


# Killed for good


def kill_and_resume(forked, arguments, wanted, seconds, rng):
    """Kill a training at a random moment, again and again, until it comes through; return how often."""
    out, kills = Path("run"), 0
    while True:
        resume = ["--resume"] if partial_of(out).exists() else []
        code, _ = forked.run([*arguments, "--out", "run", *resume], killed_after=float(rng.uniform(0, seconds)))
        assert code in (0, -signal.SIGKILL), forked.said()
        kills += code != 0
        if out.exists():
            load_run(out)
            assert contents(out) == wanted
            shutil.rmtree(out)
            shutil.rmtree(partial_of(out), ignore_errors=True)
            return kills
        with pytest.raises(InputError, match="there is none"):
            load_run(out)
        assert code == -signal.SIGKILL
        assert not [name for name in os.listdir() if name not in ("d.csv", "whole", "said", ".run.partial")]


def killed_often(number, arguments, vectors=None):
    table(rows=200)
    with Forked(Path("said").absolute(), vectors) as forked:
        code, seconds = forked.run([*arguments, "--out", "whole"])
        assert code == 0, forked.said()
        wanted, rng, kills = contents("whole"), np.random.default_rng(number), 0
        while kills < number:
            kills += kill_and_resume(forked, arguments, wanted, seconds, rng)
    return kills


@pytest.mark.slow
def test_a_kill_at_a_random_moment_leaves_no_broken_run():
    assert killed_often(3, ["train", "d.csv", "--set", "C=1"]) >= 3


# A third of a hundred each; CI has time for fewer.
KILLS = int(os.environ.get("KILLS", "34"))


@pytest.mark.kill
@pytest.mark.parametrize("kind", ["L-BFGS", "AdamW", "mlp"])
def test_a_hundred_kills_at_random_moments_leave_no_broken_run(kind):
    # So many vectors fit no memory.
    arguments = ["train", "d.csv", *(["--model", "mlp"] if kind == "mlp" else [])]
    kills = killed_often(KILLS, arguments, 10**9 if kind == "AdamW" else None)
    print(f"\n{kind}: {kills} kills, nothing lost")
    solver = load_run("whole").info.get("solver")
    assert solver == {"L-BFGS": "lbfgs", "AdamW": "adamw", "mlp": None}[kind]


COMPARE = ["compare", "d.csv", "--losses", "zlpr,bce", "--folds", "2", "--set", "C=1"]


def compared(out):
    """What a comparison says, but for the time and memory that it took."""
    result = json.loads(read_folder(Path(out), COMPARISON)["compare.json"])
    return [(row["name"], row["error"], row["metrics"]) for row in result["methods"]]


@pytest.mark.kill
def test_comparisons_that_are_killed_go_on_to_the_same_numbers():
    table(rows=200)
    with Forked(Path("said").absolute()) as forked:
        code, seconds = forked.run([*COMPARE, "--out", "whole"])
        assert code == 0, forked.said()
        wanted, rng, kills = compared("whole"), np.random.default_rng(0), 0
        while kills < KILLS:
            resume = ["--resume"] if partial_of(Path("c")).exists() else []
            code, _ = forked.run([*COMPARE, "--out", "c", *resume], killed_after=float(rng.uniform(0, seconds)))
            assert code in (0, -signal.SIGKILL), forked.said()
            kills += code != 0
            if Path("c").exists():
                assert compared("c") == wanted
                shutil.rmtree("c")
                shutil.rmtree(partial_of(Path("c")), ignore_errors=True)
            else:
                assert code == -signal.SIGKILL
            assert not [name for name in os.listdir() if name not in ("d.csv", "whole", "said", ".c.partial")]
    print(f"\ncompare: {kills} kills, nothing lost")
