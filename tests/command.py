"""The command in this process: what it prints, its exit code, and what it leaves behind."""

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from manyhot.toolkit.cli.main import app


def call(command, code=0):
    """Run a command line in this process and return what it printed on stdout and stderr."""
    result = CliRunner().invoke(app, shlex.split(command))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def as_json(command):
    """Run a command with --json: one object on one line of stdout and nothing else there."""
    stdout, _ = call(f"{command} --json")
    assert stdout.endswith("\n")
    assert stdout.count("\n") == 1
    value = json.loads(stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(value, dict)
    return value


def files():
    return sorted(str(path.relative_to(Path.cwd())) for path in Path.cwd().rglob("*") if path.is_file())


def bad(command):
    """Run a command on bad input: exit code 2, one sentence on stderr, nothing on stdout, nothing written."""
    before = files()
    stdout, stderr = call(command, 2)
    assert stdout == ""
    *said, last = stderr.strip().splitlines()
    assert last.startswith("error: ")
    assert not any(line.startswith(("error", "Traceback")) for line in said)
    assert files() == before
    return last.removeprefix("error: ")
