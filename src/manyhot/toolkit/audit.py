"""Which label cells of a file look wrong: read, cross-fit, and say where held-out rows contradict what is written."""

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp

from manyhot.toolkit.choose.label_errors import Limits, Suspects, counted_by_label, limits_of, suspects
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.run_folder import check_output, whole_file
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.listener import SILENT, Listener
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.report.cautions import fingerprints
from manyhot.toolkit.report.findings import excerpt_of
from manyhot.toolkit.runs.evaluate import align
from manyhot.toolkit.runs.predict import Run, read_for
from manyhot.toolkit.runs.predictions import WRITERS, writer_for
from manyhot.toolkit.train import cross_fitted

OUTPUTS = (".csv", ".jsonl")
# Two labels may be one from this share of the rows with either that have both, and from so many rows with both.
SAME_ROWS, LEAST_ROWS = 0.9, 5
# How alike two names are, without case, spaces and marks, as difflib measures it: "refund" and "refunds" by .92.
SAME_NAMES = 0.9
# Words named for a suspect, and worst rows whose suspects have any: each row is taken apart by itself.
NAMED_WORDS, EXPLAINED_ROWS = 3, 1000
# Parts of a score that say nothing to a reader.
UNNAMED = ("meaning", "nearness", "neighbours")
# Names are compared with each other up to so many labels.
MOST_NAMES = 2000


@dataclass(frozen=True)
class Repeated:
    """Rows, by their positions, that say the same and have other labels."""

    rows: list[int]
    labels: list[list[str]]


@dataclass(frozen=True)
class Alike:
    """Two labels that may be one, and why: of the rows that have either, the share that has both; names alike."""

    labels: tuple[str, str]
    rows: tuple[int, int]
    share: float
    names_alike: bool


@dataclass(frozen=True)
class Audited:
    """What a file's labels look like to a model that had not seen the rows.

    Attributes:
        examples: the rows.
        label_names: of the columns of `probs`.
        targets: (rows, labels), bool, or int8 with -1 where nobody knows.
        probs: (rows, labels), calibrated.
        limits: from which a cell is a suspect.
        cells: the suspects, worst first.
        repeated: rows with the same text and other labels.
        alike: labels that look like one.
        run: what speaks for a label in a row.
        cross_fitted: the probabilities are of rows held out; False where a run was given.
    """

    examples: Examples
    label_names: list[str]
    targets: np.ndarray
    probs: np.ndarray
    limits: Limits
    cells: Suspects
    repeated: list[Repeated]
    alike: list[Alike]
    run: Run
    cross_fitted: bool

    def by_label(self) -> list[dict[str, Any]]:
        """Count the rows of each label with suspects, and its cells that look missing and wrong."""
        return counted_by_label(self.cells, self.targets, self.label_names)

    def place(self, row: int) -> int:
        """Return the number of a row in its file, from 1."""
        return int(row if self.examples.places is None else self.examples.places[row]) + 1

    def described(self, cells: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Say what suspects are, by their positions: row, label, missing or wrong, probability, words, an excerpt.

        The words are those that speak most for a label that looks missing, and against one that looks wrong; rows after
        the EXPLAINED_ROWS worst have none.
        """
        cells = range(len(self.cells.rows)) if cells is None else cells
        words = self._words(cells)
        return [
            {
                "row": self.place(int(self.cells.rows[cell])),
                "label": self.label_names[self.cells.labels[cell]],
                "looks": "wrong" if self.cells.given[cell] else "missing",
                "prob": round(float(self.cells.probs[cell]), 4),
                "words": words.get(cell, []),
                "text": excerpt_of(self.examples, int(self.cells.rows[cell]), self.run.columns),
            }
            for cell in cells
        ]

    def _words(self, cells: Sequence[int]) -> dict[int, list[str]]:
        """Name the words, numbers or categories of each suspect that its row's scores are made of."""
        of_rows: dict[int, list[int]] = {}
        for cell in cells:
            of_rows.setdefault(int(self.cells.rows[cell]), []).append(cell)
        found: dict[int, list[str]] = {}
        for row, of in islice(of_rows.items(), EXPLAINED_ROWS):
            names = [self.label_names[self.cells.labels[cell]] for cell in of]
            reasons = {r.name: r for r in self.run.explain(self.examples.taken(np.array([row])), names)[0].labels}
            for cell, name in zip(of, names, strict=True):
                sign = -1 if self.cells.given[cell] else 1
                parts = [p.name for p in reasons[name].parts if p.score * sign > 0 and p.kind not in UNNAMED]
                found[cell] = parts[:NAMED_WORDS]
        return found


def audit(config: Config, listener: Listener = SILENT, run: Run | None = None) -> Audited:
    """Find the label cells of `config.data` that look wrong.

    Args:
        config: what to read, and how the models are fitted.
        listener: hears of progress.
        run: take its probabilities in place of cross-fitting; of rows that it was trained on they are too sure.

    Raises:
        InputError: bad input.
    """
    if config.task != "multilabel":
        raise InputError(f"audit is of task multilabel, where labels may be missing; got {config.task!r}.")
    given = run is not None
    if run is None:
        fitted, training = cross_fitted(config, listener)
        run, held = fitted.run, fitted.choice
        examples = training.train if training.valid is None else training.valid
        if held.held.rows is not None:
            examples = examples.taken(held.held.rows)
        probs, targets, names = run.calibration.probs(held.logits), held.held.targets, run.label_names
    else:
        examples = read_for(run, config.data, with_labels=True, encoding=config.encoding)
        aligned = align(examples.targets, examples.label_names, run.label_names, examples.unknown)
        if aligned.unseen_names:
            listener.warn(f"labels that the run does not know are left out: {', '.join(aligned.unseen_names[:10])}")
        probs, targets, names = run.calibration.probs(run.logits(examples)), aligned.targets, run.label_names
    limits = limits_of(probs, targets)
    found = suspects(probs, targets, limits)
    sets: Any = sp.csr_array(targets > 0)
    return Audited(
        examples, names, targets, probs, limits, found,
        repeated=list(_repeated(examples, sets, names)),
        alike=labels_alike(sets, names),
        run=run,
        cross_fitted=not given,
    )  # fmt: skip


def _repeated(examples: Examples, sets: sp.csr_array, names: list[str]) -> Iterator[Repeated]:
    same: dict[bytes, list[int]] = {}
    for row, print_ in enumerate(fingerprints(examples)):
        same.setdefault(print_, []).append(row)
    for rows in same.values():
        labels = [sets.indices[sets.indptr[row] : sets.indptr[row + 1]].tolist() for row in rows]
        if len({tuple(sorted(of)) for of in labels}) > 1:
            yield Repeated(rows, [[names[i] for i in sorted(of)] for of in labels])


def labels_alike(sets: sp.csr_array, names: list[str]) -> list[Alike]:
    """Return the pairs of labels that nearly always come together, or whose names are nearly the same."""
    counts = np.asarray(sets.sum(0)).ravel()
    both: Any = (sets.T.astype(np.int32) @ sets.astype(np.int32)).tocsr()
    pairs: Any = sp.triu(both, k=1).tocoo()
    share = pairs.data / np.maximum(counts[pairs.row] + counts[pairs.col] - pairs.data, 1)
    found = {
        (int(i), int(j)): float(s)
        for i, j, s, n in zip(pairs.row, pairs.col, share, pairs.data, strict=True)
        if s >= SAME_ROWS and n >= LEAST_ROWS
    }
    named = set(_names_alike(names)) if len(names) <= MOST_NAMES else set()
    return [
        Alike(
            (names[i], names[j]),
            (int(counts[i]), int(counts[j])),
            float(both[i, j] / max(counts[i] + counts[j] - both[i, j], 1)),
            (i, j) in named,
        )
        for i, j in sorted(found.keys() | named)
    ]


def _names_alike(names: list[str]) -> Iterator[tuple[int, int]]:
    # Of a name of signs alone, such as + or -, nothing is left to compare.
    plain = ["".join(c for c in name.casefold() if c.isalnum()) or name for name in names]
    for j, name in enumerate(plain):
        matcher = difflib.SequenceMatcher(b=name, autojunk=False)
        for i in range(j):
            # Digits tell labels apart whose names are otherwise the same: "level 1" and "level 2".
            if [c for c in plain[i] if c.isdigit()] != [c for c in name if c.isdigit()]:
                continue
            matcher.set_seq1(plain[i])
            if matcher.real_quick_ratio() >= SAME_NAMES and matcher.quick_ratio() >= SAME_NAMES <= matcher.ratio():
                yield i, j


def write_audit(path: Path, audited: Audited, *, safe_csv: bool = False) -> int:
    """Write the suspects: a row a cell as CSV, or as JSONL a row of the data, as labelling tools read it; all or none.

    A line of JSON has the number of the row, its text, the labels it has, those it would have, the probability of each
    of these, and the suspects among them with the words that speak for a missing and against a wrong one.
    With `safe_csv`, ' stands before text of a .csv that a spreadsheet would take for a formula.

    Returns:
        The number of lines.

    Raises:
        InputError: another suffix, or a folder that is not there.
        OSError: the disk is full or refuses.
    """
    check_output(path, OUTPUTS)
    writer = writer_for(path, WRITERS, safe_csv=safe_csv)
    cells = audited.described()
    if path.suffix == ".csv":
        cells = [cell | {"words": ", ".join(cell["words"])} for cell in cells]
        schema: Any = dict.fromkeys(("row", "label", "looks", "prob", "words", "text"), pl.String)
        schema |= {"row": pl.Int64, "prob": pl.Float64}
        with whole_file(path) as file, writer(file) as write:
            write(pl.DataFrame(cells, schema=schema))
        return len(cells)
    lines = []
    for row, of in _by_row(audited).items():
        has = {audited.label_names[i] for i in np.flatnonzero(audited.targets[row] > 0)}
        said = [cells[i] for i in of]
        missing = {cell["label"] for cell in said if cell["looks"] == "missing"}
        wrong = {cell["label"] for cell in said if cell["looks"] == "wrong"}
        text = None if audited.examples.texts is None else audited.examples.texts[row]
        shown = {*np.flatnonzero(audited.targets[row] > 0).tolist(), *audited.cells.labels[of].tolist()}
        ranked = sorted(shown, key=lambda i: (-audited.probs[row, i], i))
        lines.append(
            {"row": audited.place(row)}
            | ({} if text is None else {"text": text})
            | {"labels": sorted(has), "suggested": sorted(has - wrong | missing)}
            | {"probs": {audited.label_names[i]: round(float(audited.probs[row, i]), 4) for i in ranked}}
            | {"suspects": [{key: cell[key] for key in ("label", "looks", "words")} for cell in said]}
        )
    with whole_file(path) as file:
        file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    return len(lines)


def _by_row(audited: Audited) -> dict[int, list[int]]:
    """Return the suspects of each row, the row with the worst first."""
    found: dict[int, list[int]] = {}
    for cell, row in enumerate(audited.cells.rows.tolist()):
        found.setdefault(row, []).append(cell)
    return found
