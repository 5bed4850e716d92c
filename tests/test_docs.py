"""The pages of docs/: their examples run, and they cover every public name, every loss and every option."""

import ast
import csv
import doctest
import importlib.util
import json
import random
import re
import shlex
import subprocess
import warnings
from pathlib import Path

import polars as pl
import pytest
import torch
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

import manyhot
from manyhot.toolkit.cli.main import app
from manyhot.toolkit.read.formats.marked import Mark
from manyhot.toolkit.read.formats.tagged import written_in_columns
from relation_rows import linked_sentences, write_relations
from span_rows import in_text, sentences, write_jsonl

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# A fenced block, with the line that it starts in.
FENCE = re.compile(r"^```(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not PAGES, reason="no docs/ beside these tests, as for an installed wheel")


# Pages whose examples need what `make frameworks` installs.
NEEDED = {
    "boosting": ("xgboost", "lightgbm"),
    "jax": ("jax", "optax"),
    "keras": ("keras",),
    "lightning": ("lightning",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "skorch": ("skorch",),
    "transformers": ("transformers", "accelerate"),
    "accelerate": ("accelerate",),
    "torchmetrics": ("torchmetrics",),
    "catboost": ("catboost",),
}


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Return the fenced blocks of a language as (line, text)."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start()) + 1, m[2]) for m in FENCE.finditer(text) if m[1] == language]


def examples(page: Path) -> doctest.DocTest:
    """Return the `>>>` lines of all Python blocks of a page as one session, line numbers kept."""
    lines = page.read_text(encoding="utf-8").count("\n") * [""]
    for line, text in blocks(page, "python"):
        if ">>>" in text:
            lines[line : line + text.count("\n")] = text.splitlines()
    return doctest.DocTestParser().get_doctest("\n".join(lines), {}, page.name, str(page), 0)


@pytest.mark.parametrize("page", [p for p in PAGES if ">>>" in p.read_text(encoding="utf-8")], ids=lambda p: p.stem)
def test_examples(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.parent.name == "frameworks":
        for name in NEEDED.get(page.stem, ()):
            pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")  # torch's own, of making one
        failed, tried = doctest.DocTestRunner().run(examples(page), out=said.append)
    assert tried
    assert not failed, "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_python_that_is_shown_and_not_run_is_python(page: Path) -> None:
    for _, text in blocks(page, "python"):
        if ">>>" not in text:
            ast.parse(text)


@pytest.mark.parametrize("name", ["README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_of_the_pages_outside(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / name).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_public_name_is_in_the_reference() -> None:
    named = re.findall(r"^\.\. auto(?:function|class):: manyhot\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(manyhot.__all__)


def test_every_loss_has_a_page_with_its_plots() -> None:
    for source in (ROOT / "src" / "manyhot" / "losses").glob("*.py"):
        public = [name for name in re.findall(r"^def (\w+)\(", source.read_text(), re.MULTILINE) if name[0] != "_"]
        losses = [name for name in public if name in manyhot.__all__ and name.endswith(("_loss", "_divergence"))]
        if losses:
            page = (DOCS / "losses" / source.name).with_suffix(".md").read_text()
            for name in losses:
                assert re.search(rf"^```{{loss-plot}} {name}$", page, re.MULTILINE), name


def test_broken_links_of_built_pages_are_found(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("check_links", DOCS / "check_links.py")
    assert spec is not None
    assert spec.loader is not None
    check_links = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check_links)
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="#top">top</a><a href="b.html#here">b</a><a href="https://example.org">away</a>'
        '<a href="c.html">c</a><a href="b.html#there">b</a><img src="d.svg"><script src="https://cdn.example.org/x.js">'
    )
    (tmp_path / "b.html").write_text('<p id="here"><a href="a.html">a</a><link rel="canonical" href="https://e.org/b">')
    assert check_links.problems(tmp_path) == [
        "a.html: c.html is not there",
        "a.html: b.html#there has no such anchor",
        "a.html: d.svg is not there",
        "a.html: loads https://cdn.example.org/x.js",
    ]
    assert check_links.problems(tmp_path / "nothing") == [f"{tmp_path / 'nothing'}: no pages"]


# --- the command ------------------------------------------------------------------------------------------------------

# A table as small as one that all of it works on: sentences on five subjects, one of them rare, some labels wrong.
SAID = {
    "food": ("the soup was hot and good", "cold pasta", "great bread and cheese", "the fish was fresh"),
    "service": ("the waiter was kind", "we waited an hour", "friendly people at the bar", "rude service"),
    "price": ("too expensive", "cheap for what it is", "fair prices", "the bill was a surprise"),
    "place": ("a quiet garden", "loud music", "lovely view of the lake", "small tables"),
    "parking": ("no place for the car", "easy to park"),
}
SHARES = {"food": 0.6, "service": 0.45, "price": 0.3, "place": 0.25, "parking": 0.04}
WHEN = ("on monday", "on a sunday", "at noon", "in the evening", "last week", "in may", "after work", "with friends")
AGAIN = ("we will come again", "never again", "second visit", "first visit", "as always", "not like before", "at last")


def reviews(rows: int, seed: int) -> list[tuple[str, list[str]]]:
    chance = random.Random(seed)
    drawn = []
    for _ in range(rows):
        about = [label for label in SAID if chance.random() < SHARES[label]] or ["food"]
        text = ", ".join([chance.choice(WHEN), *(chance.choice(SAID[label]) for label in about), chance.choice(AGAIN)])
        drawn.append((text, [label for label in about if chance.random() < 0.9] or about))
    return drawn


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write what the page of the command works on into the current folder."""
    monkeypatch.chdir(tmp_path)
    with open("reviews.csv", "w", newline="") as file:
        csv.writer(file).writerows([("text", "labels"), *((text, "|".join(names)) for text, names in reviews(240, 0))])
    known = {text for text, _ in reviews(240, 0)}
    new = [(text, names) for text, names in reviews(100, 1) if text not in known]
    lines = [json.dumps({"text": text, "labels": names}) + "\n" for text, names in new]
    Path("test.jsonl").write_text("".join(lines))
    pl.DataFrame({"text": [text for text, _ in reviews(5, 2)]}).write_parquet("new.parquet")


def shape(line: str) -> str:
    """Return a line without its numbers and the width of its columns; label sets without their labels."""
    if line.startswith("[exit "):
        return line
    line = re.sub(r'\["[^]]*\]', "[...]", line)
    line = re.sub(r"[-+]?\d[\d,.]*\d|\d", "#", line)
    return " ".join("#" if word == "-" else word for word in re.sub(r"\[[#, ]*\]", "[...]", line).split())


def said(command: str) -> list[str]:
    """Run a line of a shell, `manyhot` within this process, and return what it prints."""
    if not command.startswith("manyhot "):
        return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout.splitlines()
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return [*result.output.splitlines(), *([f"[exit {result.exit_code}]"] if result.exit_code else [])]


@pytest.fixture
def sentences_with_spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write what the page of the command on spans works on into the current folder."""
    monkeypatch.chdir(tmp_path)
    write_jsonl("sentences.jsonl", sentences(120))
    Path("test.conll").write_text(
        "".join(written_in_columns(tokens, [Mark(*span) for span in spans]) for tokens, spans in sentences(40, 1))
    )
    Path("new.txt").write_text("".join(" ".join(tokens) + "\n" for tokens, _ in sentences(2, 2)))


@pytest.mark.slow
def test_shell_examples(table: None) -> None:
    # The first page trains the run that the others use.
    pages = ("index", "train", "compare", "explain", "report", "run")
    assert all([examples_hold(f"command/{page}.md") for page in pages])


@pytest.mark.slow
def test_shell_examples_on_many_labels(table: None) -> None:
    assert examples_hold("large.md")


@pytest.mark.slow
def test_shell_examples_on_spans(sentences_with_spans: None) -> None:
    assert examples_hold("command/spans.md") > 3


@pytest.mark.slow
def test_shell_examples_on_relations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_relations("articles.jsonl", linked_sentences(120))
    write_relations("test.json", linked_sentences(40, 1), "doccano")
    Path("new.txt").write_text("".join(f"{in_text(*row[:2])[0]}\n" for row in linked_sentences(2, 2)))
    assert examples_hold("relations.md") > 3


def examples_hold(page: str) -> int:
    """Run every shell example of a page; return how many there were."""
    tried = 0
    for line, text in blocks(DOCS / page, "console"):
        for example in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, *expected = example.splitlines()
            found = said(command)
            # A line of three points is any number of lines; points at the end of a line are any end.
            pattern = "".join(
                r"(?:.*\n)*?" if want == "..." else re.escape(shape(want)).replace(r"\.\.\.", ".*") + r"\n"
                for want in expected
            )
            shown = "".join(f"{shape(got)}\n" for got in found)
            assert re.fullmatch(pattern, shown), f"line {line}, {command}:\n" + "\n".join(found)
            tried += 1
    return tried


def test_every_option_of_the_command_is_on_its_page() -> None:
    pages = [page.read_text() for page in sorted((DOCS / "command").glob("*.md"))]
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        # A page of its own, or a section of one.
        found = [
            m for page in pages for m in re.finditer(rf"^(##?) manyhot {name}$(.*)", page, re.MULTILINE | re.DOTALL)
        ]
        assert len(found) == 1, f"no section for manyhot {name}"
        text = found[0][2] if found[0][1] == "#" else re.split(r"^## ", found[0][2], flags=re.MULTILINE)[0]
        real = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        said = set(re.findall(r"`(?:-o`, `)?(--[a-z-]+)[` ]", text))
        assert real - {"--help"} <= said, f"manyhot {name}"
        if name == "train":
            assert said <= real, "options that the page has and the command has not"
