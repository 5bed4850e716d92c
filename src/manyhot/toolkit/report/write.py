"""The report of a folder, a run's or a comparison's, written anew from what the folder holds: no data, no model."""

from pathlib import Path
from typing import Any, NamedTuple

from manyhot.toolkit.disk.run_folder import COMPARISON, check_output, kind_of_run, read_folder, write_file
from manyhot.toolkit.errors import InputError, first_line
from manyhot.toolkit.parse import parse_json
from manyhot.toolkit.report.card import card
from manyhot.toolkit.report.render import render_comparison, render_run
from manyhot.toolkit.report.suspects import rows_shown


class Written(NamedTuple):
    """Where a report is, whether of a run or a comparison, and how many rows of the data are in it."""

    out: Path
    kind: str
    rows: int


def write_report(folder: Path, out: Path | None = None, *, with_rows: bool = True) -> Written:
    """Write the report of a run or a comparison as one file, whole or not at all.

    Args:
        folder: what `manyhot train` or `manyhot compare` wrote.
        out: the file; NAME-report.html in the current folder if left out.
        with_rows: False leaves out the rows that the findings hold, and the words of rows.

    Raises:
        InputError: no such folder, one that was changed, or a file that cannot be written.
        OSError: the disk is full or refuses; the file is as it was before.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected the folder of a run or a comparison, as `manyhot train` and `manyhot compare` write "
            "it; there is none."
        )
    out = out or Path(f"{folder.resolve().name}-report.html")
    _check_output(out, folder)
    kind = COMPARISON if (folder / "compare.json").exists() else kind_of_run(folder)
    name = "compare.json" if kind is COMPARISON else "findings.json"
    content = read_folder(folder, kind)[name]
    rows = 0
    try:
        said: dict[str, Any] = parse_json(content)
        excerpts = "hard" if kind is COMPARISON else "worst"
        if not with_rows:
            said = without_rows(said, excerpts)
        rows = len(said[excerpts] or ()) if kind is COMPARISON else rows_shown(said)
        page = render_comparison(said) if kind is COMPARISON else render_run(said)
    except MemoryError:
        raise
    except Exception as error:  # a page is made of numbers, names and plots: edited ones fail in any of these
        # Its checksum agrees: it was edited, and the manifest too.
        raise InputError(
            f"{folder / name}: expected what `manyhot {kind.command}` wrote, but it is damaged: {first_line(error)}; "
            f"{kind.again}."
        ) from None
    write_file(out, page.encode())
    return Written(out, kind.name, rows)


def without_rows(said: dict[str, Any], excerpts: str) -> dict[str, Any]:
    """Leave out of findings the excerpts, and what holds words of the data: those of each label and the box."""
    left: dict[str, Any] = {excerpts: None}
    if said.get("suspects"):
        left["suspects"] = said["suspects"] | {"worst": None}
    if "box" in said:
        left |= {"box": None, "labels": [label | {"words": []} for label in said["labels"]]}
    return said | left


def write_card(folder: Path, out: Path) -> None:
    """Write the model card of a run as one file of Markdown, whole or not at all; it holds no row of the data.

    Args:
        folder: of a run.
        out: the file, .md.

    Raises:
        InputError: no run, one that was changed, or a file that cannot be written.
        OSError: the disk is full or refuses; the file is as it was before.
    """
    _check_output(out, folder, ".md")
    content = read_folder(folder, kind_of_run(folder))["findings.json"]
    try:
        page = card(parse_json(content))
    except MemoryError:
        raise
    except Exception as error:  # as of the page
        raise InputError(
            f"{folder / 'findings.json'}: expected what `manyhot train` wrote, but it is damaged: {first_line(error)}; "
            "train again."
        ) from None
    write_file(out, page.encode())


def _check_output(out: Path, folder: Path, suffix: str = ".html") -> None:
    check_output(out, (suffix,))
    if out.parent.resolve() == folder.resolve():
        raise InputError(
            f"{out}: expected a file outside of the folder, whose files no longer change; choose another --out."
        )
