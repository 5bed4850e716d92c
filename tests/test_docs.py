"""The pages of docs/: their examples run, and they cover every public name, every loss and every option."""

import ast
import doctest
import re
import warnings
from pathlib import Path

import pytest
import torch

import manyhot

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# A fenced block, with the line that it starts in.
FENCE = re.compile(r"^```(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not PAGES, reason="no docs/ beside these tests, as for an installed wheel")


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
