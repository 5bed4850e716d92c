"""Label Studio's JSON: one array of tasks, in full or as JSON_MIN."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.parse import parse_json
from manyhot.toolkit.read.formats.files import read_text
from manyhot.toolkit.read.formats.marked import Mark, MarkedRow, check_mark

EXPECTED = 'expected Label Studio\'s JSON, [{"data": {"text": ...}, "annotations": [...]}, ...] or JSON_MIN'
AGAIN = "export it again"


class LabelStudio:
    """Tasks of an export.

    Attributes:
        inclusive: `--end inclusive`.
        without: tasks that nobody annotated, or whose annotations were cancelled, which are left out.
    """

    def __init__(self, path: Path, *, with_marks: bool = True, inclusive: bool = False) -> None:
        self.path, self.with_marks, self.inclusive = path, with_marks, inclusive
        self.without = 0

    def tasks(self) -> list[Any]:
        """Return what the array of the file holds.

        Raises:
            InputError: another JSON.
        """
        data = read_text(self.path, lines=False, told=False)
        try:
            tasks = parse_json(data)
        except ValueError as error:
            raise InputError(f"{self.path}: {EXPECTED}, got no JSON ({error}); {AGAIN}") from None
        if not isinstance(tasks, list):
            raise InputError(f"{self.path}: {EXPECTED}, got {shown(tasks)}; {AGAIN}")
        return tasks

    def rows(self, tasks: list[Any]) -> Iterator[MarkedRow]:
        """Yield a row for each task that was annotated; for every task where spans are not asked for.

        Raises:
            InputError: a task without text, or a span that is none of its text.
        """
        for number, task in enumerate(tasks, 1):
            where = f"{self.path}, task {number}"
            content = task.get("data", task) if isinstance(task, dict) else None
            text = content.get("text") if isinstance(content, dict) else None
            if not isinstance(text, str) or content is None:
                raise InputError(f"{where}: {EXPECTED}, got {shown(task)}; name the text 'text' in the export")
            if not self.with_marks:
                yield MarkedRow(f"task {number}", None, text, record=content)
            elif (values := _values(where, task)) is None:
                self.without += 1
            else:
                marks = [mark for value in values for mark in _marks(where, value, text, inclusive=self.inclusive)]
                yield MarkedRow(f"task {number}", None, text, marks, record=content)


def _values(where: str, task: dict[str, Any]) -> list[Any] | None:
    """Return the spans of a task as the file has them; None of a task without annotation."""
    if "data" not in task:
        said = task.get("label")
        return None if said is None else _listed(where, "label", said, object)
    for annotation in _listed(where, "annotations", task.get("annotations") or [], dict):
        if not annotation.get("was_cancelled"):
            # A region of another kind, such as a choice for the whole text or a relation, is no span.
            results = _listed(where, "result", annotation.get("result") or [], dict)
            values = [result.get("value") for result in results]
            return [value for value in values if isinstance(value, dict) and "start" in value]
    return None


def _listed(where: str, key: str, value: Any, kind: type) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise InputError(f"{where}, {key!r}: expected a list as Label Studio writes it, got {shown(value)}; {AGAIN}")
    return value


def _marks(where: str, value: Any, text: str, *, inclusive: bool) -> Iterator[Mark]:
    kinds = value.get("labels") if isinstance(value, dict) else None
    if not isinstance(kinds, list):
        raise InputError(f"{where}: expected a span with start, end and labels, got {shown(value)}; {AGAIN}")
    for kind in kinds:
        start, end = value.get("start"), value.get("end")
        mark = check_mark(where, start, end, kind, len(text), form="text", inclusive=inclusive)
        said = value.get("text")
        if isinstance(said, str) and text[mark.start : mark.end] != said:
            raise InputError(
                f"{where}: expected the text {shown(said)} at ({mark.start}, {mark.end}), as the span says, got "
                f"{shown(text[mark.start : mark.end])}; export it again"
            )
        yield mark
