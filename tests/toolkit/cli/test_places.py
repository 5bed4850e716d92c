"""Odd places and bad days: what the command does with outputs, streams and signals, as processes of their own."""

import errno
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from command import bad
from manyhot import load_run
from manyhot.toolkit.cli import failing, terminal
from manyhot.toolkit.cli.main import app
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.run_folder import RUN, place_of, whole_file, write_folder
from manyhot.toolkit.errors import InputError, reading, visible
from manyhot.toolkit.report.render import _templates
from manyhot.toolkit.runs.predictions import no_formulas
from manyhot.toolkit.train import train

COMMAND = [sys.executable, "-c", "from manyhot.toolkit.cli.main import main; main()"]
CONTENT = {name: name.encode() for name in RUN.files}


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "d.csv").write_text("text,labels\n" + "fox,a\nrose,b\nfox rose,a|b\n" * 10)
    train(Config(data=str(folder / "d.csv"), C=1.0, tau=0.0, out=str(folder / "run")))
    return folder / "run"


# Places


def test_a_failure_while_writing_into_a_volume_leaves_it_empty(monkeypatch):
    Path("volume").mkdir()
    original = os.replace

    def replace(source, target):
        if Path(target) == Path("volume/manifest.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(source, target)

    def busy(*_):
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(os, "rename", busy)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space"):
        write_folder(Path("volume"), CONTENT, RUN)
    assert os.listdir("volume") == []
    assert os.listdir() == ["volume"]


def test_an_empty_folder_that_one_stands_in(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_folder(place_of("."), CONTENT, RUN)
    assert sorted(os.listdir()) == sorted([*CONTENT, "manifest.json"])


def test_what_out_means(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    assert place_of("runs/a") == Path("runs/a")
    assert place_of(".") == place_of("new/..") == tmp_path
    assert place_of("link") == tmp_path / "real"
    write_folder(place_of("link"), CONTENT, RUN)
    assert (tmp_path / "link").is_symlink()
    for name in ("dangling", "loop"):
        with pytest.raises(InputError, match="a link to"):
            place_of(name)


@pytest.mark.parametrize(
    "out", [".", "new/..", "x" * 300, "x" * 250, "d.csv", "d.csv/deeper", "link", "a\0b", "a\udcff"]
)
def test_places_are_refused_before_training(out, monkeypatch):
    Path("d.csv").write_text("text,labels\n" + "fox,a\nrose,b\n" * 10)
    Path("link").symlink_to("nowhere")
    with pytest.raises(InputError) as caught:
        train(Config(data="d.csv", out=out))
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir()) == ["d.csv", "link"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("out", ["/proc/self/fd/new", "/proc/new/run"])
def test_places_where_nobody_can_make_a_folder(out):
    Path("d.csv").write_text("text,labels\n" + "fox,a\nrose,b\n" * 10)
    assert "expected a place where a folder can be made" in bad(f"train d.csv --out {out}")
    assert bad("train d.csv --out /dev/stdout").startswith("/dev/stdout: expected a folder that does not exist yet")


@pytest.mark.parametrize("key", ["data", "label_sep", "test", "out", "group"])
@pytest.mark.parametrize("text", ["a\0b", "caf\udce9"])
def test_text_that_no_file_holds(key, text):
    options: Any = {"data": "d.csv"} | {key: text}
    with pytest.raises(InputError, match=f"{key} expects text that is UTF-8 and has no NUL"):
        Config(**options)


# Temporary files


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_an_output_keeps_its_mode(mode):
    Path("out").write_text("old")
    os.chmod("out", mode)
    with whole_file(Path("out")) as file:
        file.write(b"new")
    assert stat.S_IMODE(os.stat("out").st_mode) == mode


def test_a_new_output_has_the_mode_of_any_new_file():
    before = os.umask(0o027)
    try:
        with whole_file(Path("out")) as file:
            file.write(b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat("out").st_mode) == 0o640


def test_a_name_as_long_as_names_can_be():
    with whole_file(Path("x" * 250 + ".html")) as file:
        file.write(b"x")


@pytest.mark.parametrize("name", ["\u6f22" * 83 + ".csv", "\U0001f98a" * 62 + ".csv"])
def test_a_name_of_characters_of_many_bytes(name):
    with whole_file(Path(name)) as file:
        file.write(b"x")
    assert os.listdir() == [name]


# What an output would take the place of


def ask(*arguments: object) -> str:
    """Run a command that is bad input; return its sentence."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


def test_an_output_does_not_take_the_place_of_what_is_needed(run):
    rows = '{"text": "fox"}\n{"text": "rose"}\n'
    Path("x-review.jsonl").write_text(rows)
    assert "got the data file itself" in ask("predict", run, "x-review.jsonl", "-o", "x.jsonl", "--review", 1)
    assert Path("x-review.jsonl").read_text() == rows
    for command in (
        ("predict", run, "x-review.jsonl", "-o", run / "log.jsonl"),
        ("audit", run.parent / "d.csv", "--run", run, "-o", run / "log.jsonl"),
        ("report", run, "-o", run / "report.html"),
    ):
        assert "whose files no longer change" in ask(*command)
    assert load_run(run).label_names == ["a", "b"]
    assert sorted(os.listdir()) == ["x-review.jsonl"]


LONG = "n" * 300


@pytest.mark.parametrize(
    "command",
    [
        f"predict RUN new.csv -o {LONG}.jsonl",
        f"predict RUN new.csv -o {'n' * 245}.jsonl --review 1",
        f"predict RUN folder -o {LONG}",
        f"audit new.csv --run RUN -o {LONG}.csv",
        f"report RUN -o {LONG}.html",
        f"report RUN --card {LONG}.md",
        f"export RUN -o {LONG}.onnx",
        f"predict {LONG} new.csv -o out.csv",
        f"evaluate {LONG} new.csv",
        f"explain {LONG} fox",
        f"report {LONG}",
        f"train new.csv --label-names {LONG}",
        f"train new.csv --from {LONG}",
        "predict RUN folder -o loop",
        "predict RUN folder -o dangling",
    ],
)
def test_names_that_no_file_system_takes(run, command):
    Path("new.csv").write_text("text,labels\nfox,a\nrose,b\n")
    Path("folder").mkdir()
    Path("folder/new.csv").write_text("text\nfox\n")
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("nowhere")
    ask(*command.replace("RUN", str(run)).split())
    assert sorted(os.listdir()) == ["dangling", "folder", "loop", "new.csv"]


# Signals and streams


def test_what_the_system_does_not_give_out_is_bad_input():
    with pytest.raises(InputError, match=r"d\.csv: expected a file that can be read, got: Permission denied"):
        with reading("d.csv"):
            raise PermissionError(13, "Permission denied", "d.csv.X.npz")
    for error in (KeyboardInterrupt(), MemoryError(), failing.Stopped(15)):
        with pytest.raises(type(error)), reading("d.csv"):
            raise error


# Input that gave a traceback

ARFF = "@relation r\n@attribute a numeric\n@attribute b {0,1}\n@data\n"
DEEP = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", '{"text": "a", "n": ' + "1" * 400 + ', "labels": ["x"]}\n'),
        ("d.jsonl", '{"text": "a", "n": ' + "1" * 5000 + ', "labels": ["x"]}\n'),
        ("d.jsonl", '{"text": ' + DEEP + "}\n"),
        ("d.svm", "nan 1:2\n"),
        ("d.svm", "inf,3 1:2\n"),
        ("d.arff", ARFF + "{1e30 1}\n"),
        ("d.arff", ARFF + "{" + "9" * 30 + " 1}\n"),
        ("d.arff", ARFF + "{" + "9" * 5000 + " 1}\n"),
        ("d.arff", ARFF + "{\u00b2 1}\n"),
        ("d.arff", ARFF.replace(" r\n", f" 'r: -C {'9' * 5000}'\n") + "1,0\n"),
    ],
)
def test_files_that_gave_a_traceback(name, content):
    Path(name).write_text(content, encoding="utf-8")
    bad(f"train {name}")


@pytest.mark.parametrize(
    "options",
    [
        f"--set C={DEEP}",
        f"--set labels={DEEP}",
        "--tau 1e308",
        "--set C=1e308",
        "--set rate=1e308 --task spans",
        f"--set seed={'9' * 400}",
        f"--set tau={'9' * 5000}",
        f"--set num_labels={'9' * 400}",
        "--config pipe",
        "--config deep.toml",
        "--config .",
    ],
)
def test_options_that_gave_a_traceback(options):
    Path("d.csv").write_text("text,labels\n" + "fox,a\nrose,b\n" * 10)
    Path("deep.toml").write_text(f"C = {DEEP}")
    os.mkfifo("pipe")
    result = CliRunner().invoke(app, ["train", "d.csv", *options.split()])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    assert len(result.stderr) < 1500


# Terminal, page, spreadsheet

EVIL = "\x1b[31mred\x07\x9b\u202e"


def test_control_characters_are_shown_as_escapes(capsys):
    assert visible(EVIL) == "\\x1b[31mred\\x07\\x9b\\u202e"
    assert visible("a\nc é 漢 🦊") == "a\nc é 漢 🦊"
    page = _templates().from_string("{{ a }}{{ b }}").render(a=EVIL, b=3)
    assert not any(ord(mark) < 32 or 127 <= ord(mark) < 160 for mark in page)
    assert "\\x1b[31mred" in page


def test_names_of_columns_and_files_on_a_terminal():
    name = "d\x1b[31m.csv"
    Path(name).write_text("te\x1b[2Jxt,labels,od\x07d\n" + "fox,a\x1b[31m,\x1b\nrose,b,2\n" * 10)
    result = CliRunner().invoke(app, ["train", name, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "te\\x1b[2Jxt" in result.output
    assert not set("\x1b\x07\x9b") & set(result.output)
    result = CliRunner().invoke(app, ["train", "no\x1b[31m.csv"])
    assert "no\\x1b[31m.csv" in result.stderr
    assert "\x1b" not in result.stderr


def test_what_is_to_be_typed_next_can_be_typed():
    Path("d.csv").write_text("text,labels\n" + "fox,a\nrose,b\n" * 10)
    said = CliRunner().invoke(app, ["train", "d.csv", "--out", "my run\nb", "--set", "C=1"]).stderr
    assert "saved my run\\nb, again: manyhot train --config 'my run\\nb/config.toml'\n" in said
    assert "next: manyhot predict 'my run\\nb' \"a new text\"\n" in said


def test_a_line_end_in_a_name_begins_no_line():
    rows = "".join(f'a fox of {i},"a\nerror: b"\na rose of {i},c\n' for i in range(10))
    Path("d.csv").write_text('"te\nxt",labels\n' + rows)
    result = CliRunner().invoke(app, "train d.csv --out r --set C=1".split())
    assert result.exit_code == 0, result.output
    Path("other.csv").write_text("word\nfox\n")
    assert "the columns te\\nxt as in training" in ask("predict", "r", "other.csv", "-o", "o.csv")
    for command in ("predict r fox", "explain r fox", "audit d.csv --run r"):
        result = CliRunner().invoke(app, command.split(), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert not any(line.startswith("error") for line in result.output.splitlines()), result.output


def test_a_name_of_a_megabyte_is_no_message_of_a_megabyte():
    Path("d.csv").write_text("x" * 10**6 + ",labels\n" + "fox,a\nrose,b\n" * 10)
    assert len(ask("train", "d.csv", "--text", "zz")) < 1000


def test_formulas_in_csv(run):
    texts = ["=1+1", "+A1", "-2+3", "@x", "-1.5", "+4", "a=b", "\t=1", "fox"]
    pl.DataFrame({"text": texts, "=name": texts}).write_csv("in.csv")
    for safe in ("", "--safe-csv"):
        CliRunner().invoke(
            app,
            ["predict", str(run), "in.csv", "-o", "out.csv", "--keep", "all", *safe.split()],
            catch_exceptions=False,
        )
        kept = pl.read_csv("out.csv", infer_schema=False)
        name = "'=name" if safe else "=name"
        expected = [
            f"'{text}" if safe and text[0] in "=+-@\t" and text not in ("-1.5", "+4") else text for text in texts
        ]
        assert kept[name].to_list() == expected
    bad(f"predict {run} in.csv -o out.jsonl --safe-csv")
    twice = pl.DataFrame({"'=a": ["x"], "=a": ["y"], "''=a": ["z"]})
    assert no_formulas(twice).columns == ["'=a", "'''=a", "''=a"]
    assert no_formulas(pl.DataFrame({"n": [-1, 2]}))["n"].to_list() == [-1, 2]


def test_what_a_run_does_not_read_is_said_in_words_of_the_command(run):
    assert "expected a text, got an empty one" in ask("explain", run, " ")
    Path("n.csv").write_text("a,b,p,q\n" + "".join(f"{i / 7},{i % 5},{i % 2},{i // 2 % 2}\n" for i in range(30)))
    train(Config(data="n.csv", C=1.0, tau=0.0, out="numbers"))
    assert "'fox': expected a file, of a run that reads columns and no text" in ask("predict", "numbers", "fox")


# Rows that were trained on


def test_rows_that_were_trained_on_are_said(run):
    data = run.parent / "d.csv"
    result = CliRunner().invoke(app, ["evaluate", str(run), str(data)])
    assert "30 of 30 rows stand in the training data" in result.stderr
    Path("new.csv").write_text("text,labels\nfox,b\nowl,a\n")
    result = CliRunner().invoke(app, ["evaluate", str(run), "new.csv"])
    assert "1 of 2 rows stand in the training data" in result.stderr
    assert load_run(run).trained_rows.dtype == np.uint64
    assert len(load_run(run).trained_rows) == 3  # different ones


def test_no_rows_leaves_the_hashes_out(run):
    train(Config(data=str(run.parent / "d.csv"), C=1.0, tau=0.0, no_rows=True, out="quiet"))
    assert load_run("quiet").trained_rows is None
    result = CliRunner().invoke(app, ["evaluate", "quiet", str(run.parent / "d.csv")])
    assert "stand in the training data" not in result.stderr


def test_json_on_an_encoding_that_lacks_a_character(monkeypatch):
    import io

    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.print_json({"a": "é"})
    stream.flush()
    written = stream.buffer.getvalue()  # type: ignore[attr-defined]
    assert json.loads(written) == {"a": "é"}
