"""`manyhot explain`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manyhot.toolkit.cli.failing import failing_clearly
from manyhot.toolkit.cli.options import Json
from manyhot.toolkit.cli.stdin import read_text
from manyhot.toolkit.cli.terminal import print_json
from manyhot.toolkit.errors import InputError, on_one_line
from manyhot.toolkit.report.metric_names import below_half, percent

if TYPE_CHECKING:
    from manyhot.toolkit.runs.explain import Explained, Part, Reason

# Parts that a line names; --json has all.
SHOWN = 6


def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="One text, in quotation marks; - reads it from stdin.")],
    label: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="A label to look at, predicted or not; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say why a text has its labels: the words that speak for each and against, and those that are unknown.

    \b
    Examples:
      manyhot explain runs/reviews-1 "the soup was cold"
      manyhot explain runs/reviews-1 "the soup was cold" --label service
    """
    with failing_clearly():
        from manyhot.toolkit.config import MARKED_TEXTS
        from manyhot.toolkit.runs.saved_run import load_run

        loaded = load_run(run)
        if loaded.task in MARKED_TEXTS:
            raise InputError(
                f"{run}: expected a run on labels of rows, got one on {loaded.task}, which explain does not read."
            )
        if not loaded.features.reads_text or loaded.features.reads_numbers:
            raise InputError(
                f"{run}: expected a run that reads text alone; this one reads columns: in Python, "
                "manyhot.load_run(RUN).explain(frame) takes a frame with them."
            )
        text = read_text() if text == "-" else text
        if not text.strip():
            raise InputError("expected a text, got an empty one.")
        found = loaded.explain(text, label)[0]
        if as_json:
            print_json(as_object(found))
        else:
            said = lines(found, multiclass=loaded.task == "multiclass")
            sys.stdout.write("".join(f"{on_one_line(line)}\n" for line in said))


def as_object(found: "Explained") -> dict[str, Any]:
    """Lay out an explanation for JSON, numbers as they are."""
    labels = [reason._asdict() | {"parts": [part._asdict() for part in reason.parts]} for reason in found.labels]
    return {"labels": labels, "words": found.words, "unknown": found.unknown}


def lines(found: "Explained", *, multiclass: bool = False) -> list[str]:
    """Write an explanation for people."""
    said = []
    if found.words is not None:
        others = f"; not known: {', '.join(found.unknown)}" if found.unknown else ""
        said.append(f"{found.known}{others}")
    if not found.labels:
        said.append("no label is predicted; --label LABEL says why one is not")
    for reason in found.labels:
        said += _of_label(reason)
    if any(reason.predicted and reason.prob < 0.5 for reason in found.labels):
        said.append(below_half(multiclass=multiclass))
    return said


def _of_label(reason: "Reason") -> list[str]:
    predicted = "" if reason.predicted else ", not predicted"
    total = sum(part.score for part in reason.parts)
    said = [f"{reason.name}: {percent(reason.prob)} %{predicted}"]
    for word, sign in (("for it", 1), ("against it", -1)):
        parts = [part for part in reason.parts if part.score * sign > 0]
        if parts:
            said.append(f"  {word:<11} {_listed(parts)}")
    if reason.share is not None:
        said.append(f"  {'neighbours':<11} {percent(reason.share)} % of what speaks for it or against it")
    said.append(f"  {'score':<11} {reason.score:+.2f} = {reason.base:+.2f} of any text {total:+.2f} of this one")
    return said


def _listed(parts: "list[Part]") -> str:
    named = [f"{part.name} {part.score:+.2f}" for part in parts[:SHOWN]]
    rest = sum(part.score for part in parts[SHOWN:])
    return ", ".join(named) + (f", {len(parts) - SHOWN} more {rest:+.2f}" if len(parts) > SHOWN else "")
