"""Odd places, bad days and hostile files: one sentence, nothing half-written, nothing followed, nothing executed."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from command import bad, call
from forked import Forked
from manyhot.toolkit.cli import stdin
from manyhot.toolkit.cli.main import app
from manyhot.toolkit.cli.predict import _at_once
from manyhot.toolkit.config import make_config
from manyhot.toolkit.disk import run_folder
from manyhot.toolkit.disk.run_folder import MANIFEST, RUN, check_free, partial_of, place_of, whole_file, write_folder
from manyhot.toolkit.errors import InputError, reading, visible
from manyhot.toolkit.plain_files import read_plain
from manyhot.toolkit.read.data import read_file
from manyhot.toolkit.read.formats import files

ROWS = "text,labels\n" + "good film,praise|film\nbad film,film\ngood food,praise|food\n" * 5
COMMAND = Path(sys.executable).parent / "manyhot"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text(ROWS)
    return tmp_path


# Files that are none


def test_a_pipe_and_a_device_are_refused_before_a_byte_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "long").write_bytes(b"0123456789")
    for name, said in (("pipe", "no regular file"), ("zero", "no regular file"), ("long", "more than 9")):
        with pytest.raises(OSError, match=said):
            read_plain(tmp_path / name, 9)
    assert read_plain(tmp_path / "long", 10) == b"0123456789"


def test_a_config_that_is_a_pipe_or_nested_without_end_is_one_sentence(here):
    os.mkfifo("pipe")
    assert "no regular file" in bad("train --config pipe")
    Path("deep.toml").write_text("C = " + "[" * 5000 + "]" * 5000)
    assert "deep.toml" in bad("train --config deep.toml")
    Path("digits.toml").write_text("C = " + "9" * 5000)
    assert "digits.toml" in bad("train --config digits.toml")


@pytest.mark.parametrize("name", ["manifest.json", "run.json", "model.safetensors", "terms.json"])
def test_a_pipe_or_a_device_in_a_run_folder_neither_hangs_nor_fills_the_memory(here, name):
    call("train data.csv --out run")
    for make in (lambda path: os.mkfifo(path), lambda path: path.symlink_to("/dev/zero")):
        place = here / "run" / name
        place.unlink()
        make(place)
        assert name in bad("evaluate run data.csv")


# Values


@pytest.mark.parametrize(
    "options",
    [f"-C={'9' * 5000}", f"--set C={'9' * 5000}", "--set C=" + "[" * 5000, "--tau 1e308", "--set rate=1e300"],
    ids=["C", "digits", "brackets", "tau", "rate"],
)
def test_values_without_measure_are_one_sentence(here, options):
    said = bad(f"train data.csv {options}") if not options.startswith("-C") else ""
    assert len(said) < 1000


@pytest.mark.parametrize("key", ["data", "label_sep", "out", "text"])
def test_words_that_are_no_utf8_are_refused(key):
    options = {"data": "data.csv"} | {key: "caf\udce9"}
    with pytest.raises(InputError, match="UTF-8"):
        make_config(None, [], options)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "a", "labels": ["x"], "n": ' + "9" * 400 + "}\n"),
        ("a.jsonl", '{"text": "a", "labels": ["x"], "n": ' + "9" * 5000 + "}\n"),
        ("a.jsonl", '{"text": "a", "labels": ' + "[" * 5000 + "]" * 5000 + "}\n"),
        ("a.svm", "nan 1:1\n"),
        ("a.svm", "inf 1:1\n"),
        ("a.svm", "1e400 1:1\n"),
        ("a.arff", "@relation r\n@attribute a numeric\n@attribute l {0,1}\n@data\n{1e30 1}\n"),
        ("a.arff", "@relation r\n@attribute a numeric\n@attribute l {0,1}\n@data\n{" + "9" * 5000 + " 1}\n"),
    ],
)
def test_files_that_no_reader_foresaw_are_one_sentence(here, name, content):
    Path(name).write_text(content)
    assert name in bad(f"train {name}")


def test_whatever_a_reader_raises_names_the_file_and_keeps_its_cause(tmp_path):
    with pytest.raises(InputError, match=r"x\.csv: .*ZeroDivisionError") as caught, reading("x.csv"):
        print(1 // 0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(FileNotFoundError), reading("x.csv"):
        open(tmp_path / "none").close()
    with pytest.raises(InputError, match="check the path"):
        read_file(tmp_path / "none.csv")


def test_a_mistake_of_ours_keeps_its_traceback_and_exits_with_1(here, monkeypatch):
    monkeypatch.setattr("manyhot.toolkit.train.check_loss", lambda config: {}["x"])
    _, said = call("train data.csv --out run", 1)
    assert "please report it" in said
    assert not (here / "run").exists()


# Places


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("a\0b", "NUL"),
        ("n" * 300, "at most 246 bytes"),
        ("link", "which is not there"),
        ("link/x/y", "which is not there"),
        ("data.csv", "does not exist"),
    ],
)
def test_places_that_cannot_be_are_refused_before_training(here, out, said):
    (here / "link").symlink_to("nowhere")
    with pytest.raises(InputError, match=said):
        check_free(place_of(out))


def test_links_and_dots_are_resolved(here):
    (here / "real").mkdir()
    (here / "link").symlink_to("real")
    assert place_of("link") == (here / "real").resolve()
    assert place_of("new/../run") == (here / "run").resolve()
    assert place_of("run") == Path("run")
    call("train data.csv --out link")
    assert (here / "real" / MANIFEST).is_file()
    assert (here / "link").is_symlink()
    assert "does not exist yet" in bad("train data.csv --out .")


def test_a_folder_that_cannot_be_renamed_onto_is_written_into_manifest_last(here, monkeypatch):
    files = {name: name.encode() for name in RUN.files}
    order = []
    volume = here / "volume"
    volume.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == volume)
    whole = run_folder.write_file
    monkeypatch.setattr(run_folder, "write_file", lambda path, content: (order.append(path), whole(path, content)))

    def busy(source, target):
        raise OSError(16, "Device or resource busy", str(target))

    monkeypatch.setattr(os, "rename", busy)
    assert partial_of(volume) == volume / ".partial"
    check_free(volume)
    write_folder(volume, files, RUN)
    assert sorted(path.name for path in volume.iterdir()) == sorted([*files, MANIFEST])
    assert order[-1] == volume / MANIFEST
    monkeypatch.setattr(os, "rename", lambda source, target: (_ for _ in ()).throw(OSError(28, "No space left")))
    other = here / "other"
    with pytest.raises(OSError, match="No space"):
        write_folder(other, files, RUN)
    assert not other.exists()
    assert not partial_of(other).exists()


# Temporary files


def test_an_output_keeps_its_rights_and_a_planted_link_is_not_followed(here, monkeypatch):
    out, victim = here / "out.csv", here / "victim"
    out.write_text("before")
    out.chmod(0o640)
    victim.write_text("precious")
    monkeypatch.setattr(run_folder.secrets, "token_hex", lambda size: "guessed")
    (here / ".out.csv.guessed").symlink_to(victim)
    with pytest.raises(FileExistsError), whole_file(out) as file:
        file.write(b"after")
    assert victim.read_text() == "precious"
    monkeypatch.undo()
    with whole_file(out) as file:
        file.write(b"after")
    assert out.read_text() == "after"
    assert stat.S_IMODE(out.stat().st_mode) == 0o640


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    with Forked(tmp_path_factory.mktemp("forked") / "said") as forked:
        yield forked


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_clean_up_and_say_so_by_their_codes(here, forked, number, code):
    Path("large.csv").write_text("text,labels\n" + "".join(f"word{i % 97} word{i},l{i % 50}\n" for i in range(5000)))
    child = forked.start(["train", "large.csv", "--verbose", "--out", "run"])
    while "\nmodel:" not in forked.said():
        time.sleep(0.01)
    os.kill(child, number)
    assert forked.end() == code
    said = forked.said()
    assert "Traceback" not in said
    assert "interrupted" in said
    assert not (here / "run").exists()


# Texts from standard input


@pytest.fixture
def run(here):
    call("train data.csv --out run --set C=1")
    return here / "run"


def piped(command, data):
    result = CliRunner().invoke(app, command.split(), input=data)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr.strip()


def test_what_comes_by_stdin_is_bounded_and_is_text(run, monkeypatch):
    monkeypatch.setattr(files, "MAX_ROW_BYTES", 1000)
    assert piped("predict run -", b"good food\r\n\ncaf\xc3\xa9")[1].count("\n") == 3
    code, _, said = piped("predict run -", b"good\ncaf\xe9\n")
    assert (code, said.partition(":")[2]) == (
        2,
        " stdin, line 2: expected UTF-8 text, got the byte 0xe9; convert it: iconv -f windows-1252 -t utf-8",
    )
    code, _, said = piped("predict run -", b"a" * 1000 + b"\n" + b"b" * 1001)
    assert code == 2
    assert "stdin, line 2: expected a line of at most 0 MB, got one that goes on" in said
    for data, wanted in ((b"x" * 1001, "at most"), (b"\xff", "0xff")):
        code, _, said = piped("explain run -", data)
        assert code == 2
        assert wanted in said
    monkeypatch.setattr(stdin.sys, "stdin", None)
    for command in ("predict run -", "explain run -"):
        with pytest.raises(InputError, match="got a closed stream"):
            list(stdin.lines()) if "predict" in command else stdin.read_text()


def test_long_lines_are_predicted_a_few_at_a_time():
    assert [len(some) for some in _at_once(iter(["x"] * 5), 2)] == [2, 2, 1]
    assert [len(some) for some in _at_once(iter(["x" * 2**21] * 5), 256)] == [3, 2]


# Terminals


def test_labels_and_words_are_escaped_in_what_explain_and_audit_print(here):
    rows = "".join(f"good film{i % 7},pra\x1b[31mise\nbad food{i % 5},l\u202eate\n" for i in range(15))
    Path("e.csv").write_text("text,labels\n" + rows)
    call("train e.csv --out e --set C=1 --task multiclass")
    said = call('explain e "good film zz"')[0] + "".join(call("audit e.csv -o suspects.csv"))
    said += "".join(call('predict e "good film"'))
    assert "\\x1b[31m" in said
    assert not any(c in said for c in "\x1b\u202e")


def test_control_characters_are_escapes_on_the_terminal():
    assert visible("a\x1b[2Jb\x07\x9b\u202ec") == r"a\x1b[2Jb\x07\x9b\u202ec"
    assert visible("two\nlines, tab\t, é 漢 \u200d") == "two\nlines, tab\\t, é 漢 \u200d"


def test_column_and_file_names_are_escaped_wherever_they_are_said(here):
    Path("esc\x1b[31m.csv").write_text("te\x1b[31mxt,labels\n" + ROWS.partition("\n")[2])
    stdout, stderr = call("train 'esc\x1b[31m.csv' --out run --dry-run")
    assert "\x1b" not in stdout + stderr
    assert r"te\x1b[31mxt" in stdout


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("LC_ALL=C PYTHONIOENCODING=ascii PYTHONUTF8=0 {} evaluate run données.csv --json", 0),
        *(
            pytest.param(shell, code, marks=pytest.mark.slow)
            for shell, code in (
                ("{} evaluate run data.csv --json >&-", 0),
                ("{} evaluate run data.csv 2>&-", 0),
                ("LC_ALL=C PYTHONIOENCODING=ascii PYTHONUTF8=0 {} evaluate run données.csv", 0),
                ("LC_ALL=C PYTHONIOENCODING=ascii {} evaluate run nicht-dä.csv", 2),
                ("{} predict run - <&- >&-", 2),
                ("{} predict run - < /dev/zero", 2),
                ("printf 'caf\\351\\n' | {} predict run -", 2),
                ("{} explain run - < /dev/zero", 2),
                ("{} predict run \"$(printf 'caf\\351 food')\" --json", 0),
            )
        ),
    ],
)
def test_closed_streams_and_terminals_of_ascii_give_no_traceback(here, shell, code):
    call("train data.csv --out run")
    Path("données.csv").write_text(ROWS)
    done = subprocess.run(["sh", "-c", shell.format(COMMAND)], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    if shell.endswith(".csv --json"):
        assert json.loads(done.stdout)["rows"] == 15
