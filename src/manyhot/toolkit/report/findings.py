"""What a report says of a run, as plain data: computed at the end of training, while the rows are at hand.

All of it is read off the rows that the run is measured on: the test rows where there are some, else the rows that were
held out. Rows are looked at in blocks and label sets are sparse, so that it takes little beside training; nothing here
has a number for each pair of labels unless a row has the pair.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from manyhot.decisions import decide
from manyhot.labels import label_groups
from manyhot.toolkit.choose.calibrate import reliability
from manyhot.toolkit.choose.label_errors import Limits
from manyhot.toolkit.choose.ranked_rows import probs_of_cells, reliability_of_cells
from manyhot.toolkit.config import Config
from manyhot.toolkit.models.features import DesignMatrix
from manyhot.toolkit.models.ranked import Ranked
from manyhot.toolkit.read.columns import Columns
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.report.cautions import NAMED, of_few_known, warnings_of
from manyhot.toolkit.report.out_of_reach import never_predicted
from manyhot.toolkit.report.overview import overview_of
from manyhot.toolkit.report.scorer import box_of
from manyhot.toolkit.report.top_words import top_words
from manyhot.toolkit.runs.evaluate import Aligned
from manyhot.toolkit.runs.explain import words_of
from manyhot.toolkit.runs.predict import Run

FORMAT = 2
EXCERPT = 300
WORST = 50
PAIRS = 30
# Labels shown for one of the worst rows: more tell nothing more.
SHOWN_LABELS = 30
# What a probability of 0 or 1 is taken as, in a logarithm.
LEAST_PROB = 1e-7
# Rows in which one label is given in place of another: once may be chance.
LEAST_CONFUSED = 2
# Rows that have two labels together; with fewer it may be chance.
LEAST_TOGETHER = 3
HISTOGRAM_BINS = 60
# Cells of a block of rows, and pairs of labels that are counted, row by row.
BLOCK_CELLS = 4_000_000
MOST_PAIRS = 100_000_000
# C0 and C1 controls but for white space; HTML has no place for them.
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def of_run(
    config: Config, rows: int, said: list[str], chosen: Any, metrics: dict[str, Any], origin: dict[str, Any]
) -> dict[str, Any]:
    """Return what a run of any task says of itself: its data, what was chosen, metrics, and how to have it again.

    Nothing that differs between a training and its repetition is in it, such as the time it took.

    Args:
        config: what was asked for.
        rows: of training.
        said: sentences on the rows read.
        chosen: what training chose.
        metrics: of each part that was measured.
        origin: versions, files and the machine.
    """
    return {
        "kind": "run",
        "data": Path(config.data).name,
        "task": config.task,
        "model": config.model.partition(":")[0],
        "train_rows": rows,
        "said": said,
        "chosen": chosen,
        "metrics": metrics,
        "config": config.to_toml(),
        "origin": {key: origin[key] for key in ("inputs", "versions", "python", "platform", "threads", "seed")},
    }


@dataclass(frozen=True)
class Judged:
    """The rows that a report is about, and what the run says of them.

    Attributes:
        part: "test", "valid", "cross_fitted", or "held_out" of the training rows.
        examples: where the rows were taken from.
        rows: (rows,), positions in `examples`.
        aligned: their targets.
        logits: (rows, labels), as the decision sees them, all or the best.
        reliability: what :func:`manyhot.toolkit.choose.calibrate.reliability` says of probabilities of a calibration
            that was fitted on other rows; None where the run's own was.
    """

    part: str
    examples: Examples
    rows: np.ndarray
    aligned: Aligned
    logits: Any
    reliability: np.ndarray | None = None


def find(
    run: Run,
    judged: Judged,
    train: Examples,
    X: DesignMatrix,
    *,
    with_rows: bool = True,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Find what a report says of a run's labels, rows, probabilities and data; JSON-able.

    Args:
        run: the run.
        judged: the rows it was measured on.
        train: the training rows, for the overview and the warnings.
        X: the matrix of these.
        with_rows: False leaves out everything of single rows, and the words of rows.
        limits: from which probability a label of a worst row looks wrong or missing in the data.
    """
    multiclass = run.task == "multiclass"
    preds, row_losses, reliable = (_look_at_best if isinstance(judged.logits, Ranked) else _look)(run, judged)
    targets = sp.csr_array(judged.aligned.targets > 0)
    right = preds.multiply(targets).tocsr()
    # Where nobody knows, a label that is predicted is neither right nor wrong.
    judgeable = preds
    if judged.aligned.targets.dtype != bool:
        judgeable = difference(preds, preds.multiply(judged.aligned.targets < 0).tocsr())
    label_rows = of_labels(judgeable, targets, right, run.label_names, run.train_counts)
    missed, added = difference(targets, right), difference(judgeable, right)
    worst = None
    words = top_words(run, X, train.targets) if with_rows else [[] for _ in label_rows]
    few = int(run.features.few_known(judged.examples.taken(judged.rows).texts or []).sum())
    if with_rows:
        agreement = Agreement(right, missed, added)
        worst = worst_rows(run, judged, agreement, row_losses, limits)
    return {
        "format": FORMAT,
        "measured": {"part": judged.part, "file": judged.examples.source, "rows": len(judged.logits)},
        "overview": overview_of(train),
        "labels": [row | {"words": of} for row, of in zip(label_rows, words, strict=True)],
        "sizes": {
            "predicted": np.bincount(np.diff(preds.indptr)).tolist(),
            "true": np.bincount(judged.aligned.sizes()).tolist(),
        },
        "reliability": (reliable if judged.reliability is None else judged.reliability).tolist(),
        "scores": score_histogram(judged.logits, judged.aligned.targets),
        "confused": confused(missed, added, run.label_names),
        "together": None if multiclass else together(targets, preds, run.label_names),
        "worst": worst,
        "box": box_of(run, judged.examples.taken(judged.rows)) if with_rows else None,
        "warnings": of_few_known(few, len(judged.logits))
        + warnings_of(train, judged.part, judged.examples, judged.aligned, label_rows, multiclass=multiclass)
        + never_predicted(run, train.targets),
    }


def _look(run: Run, judged: Judged) -> tuple[sp.csr_array, np.ndarray, np.ndarray]:
    """Go once over blocks of rows: label sets, how unlikely the labels of each row are, and how true probabilities."""
    low, high = run.cardinality
    preds, losses, reliable = [], [], np.zeros(())
    for rows in blocks(judged.logits.shape):
        logits, targets = judged.logits[rows], judged.aligned.targets[rows]
        preds.append(sp.csr_array(decide(logits, min_labels=low, max_labels=high).astype(bool)))
        probs = run.calibration.probs(logits)
        inside = np.clip(probs, LEAST_PROB, 1 - LEAST_PROB)
        if run.calibration.classes:
            # A row of an unseen class has no class to be likely.
            losses.append(-np.where(targets, np.log(inside), 0).sum(1))
            has = targets.any(1)
            reliable = reliable + reliability(probs[has], targets[has].argmax(1))
        else:
            likely = np.where(targets > 0, inside, np.where(targets < 0, 1, 1 - inside))
            losses.append(-np.log(likely).sum(1))
            reliable = reliable + reliability(probs, targets)
    sets: Any = sp.vstack(preds, format="csr")
    return sets, np.concatenate(losses), reliable


def _look_at_best(run: Run, judged: Judged) -> tuple[sp.csr_array, np.ndarray, np.ndarray]:
    """Do what :func:`_look` does, of the best logits of each row: a label that is not among them is as good as 0."""
    ranked, targets = judged.logits, judged.aligned.targets
    truth = ranked.has(targets)
    probs = probs_of_cells(run.calibration, ranked.cells.data, ranked.cells.indices)
    inside = np.clip(probs, LEAST_PROB, 1 - LEAST_PROB)
    losses = np.bincount(ranked.rows, -np.log(np.where(truth, inside, 1 - inside)), minlength=len(ranked))
    lost = np.diff(targets.indptr) - np.bincount(ranked.rows[truth], minlength=len(ranked))
    return ranked.decided(run.cardinality), losses - lost * np.log(LEAST_PROB), reliability_of_cells(probs, truth)


def blocks(shape: tuple[int, int]) -> Iterator[slice]:
    """Cut rows so that a block has a bounded number of cells."""
    step = max(BLOCK_CELLS // max(shape[1], 1), 1)
    yield from (slice(start, start + step) for start in range(0, shape[0], step))


def difference(cells: sp.csr_array, less: sp.csr_array) -> sp.csr_array:
    """Return the cells of a matrix of bools that are not in the second, which has none but cells of the first."""
    rest: Any = cells.astype(np.int8) - less.astype(np.int8)
    rest.eliminate_zeros()
    return rest.astype(bool)


def of_labels(
    preds: sp.csr_array, targets: sp.csr_array, right: sp.csr_array, names: list[str], train_counts: np.ndarray
) -> list[dict[str, Any]]:
    """Count and measure each label: rows in training and here, predictions, hits, precision, recall and F1.

    Precision is None where the label is never predicted, recall and F1 where no row has it (in macro-F1 it counts 0).
    """
    predicted, true, hits = (np.asarray(cells.sum(0)).ravel() for cells in (preds, targets, right))
    group = np.full(len(names), "unseen", dtype=object)
    for name, members in label_groups(train_counts).items():
        group[members] = name
    return [
        {
            "name": name,
            "train_rows": int(train_counts[i]),
            "rows": int(true[i]),
            "predicted": int(predicted[i]),
            "right": int(hits[i]),
            "precision": float(hits[i] / predicted[i]) if predicted[i] else None,
            "recall": float(hits[i] / true[i]) if true[i] else None,
            "f1": float(2 * hits[i] / (predicted[i] + true[i])) if true[i] else None,
            "group": group[i],
        }
        for i, name in enumerate(names)
    ]


def score_histogram(logits: Any, targets: Any) -> dict[str, Any]:
    """Count the logits of positives and of negatives in bins; the outer ones take the thousandth further out.

    Where the best of each row are known alone, it is these.
    """
    if isinstance(logits, Ranked):
        logits, targets = logits.cells.data[:, None], logits.has(targets)[:, None]
    step = max(logits.size // 1_000_000, 1)
    sample = np.concatenate([logits.ravel()[::step], logits[targets > 0][:1_000_000]])
    low, high = (float(q) for q in np.quantile(sample, [0.001, 0.999]))
    low, high = min(low, -1.0), max(high, 1.0)
    edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
    counts = np.zeros((2, HISTOGRAM_BINS), dtype=np.int64)
    for rows in blocks(logits.shape):
        place = ((logits[rows] - low) * (HISTOGRAM_BINS / (high - low))).astype(np.int64)
        place = np.clip(place, 0, HISTOGRAM_BINS - 1)
        for side, cells in enumerate((targets[rows] > 0, targets[rows] == 0)):
            counts[side] += np.bincount(place[cells], minlength=HISTOGRAM_BINS)
    return {"edges": edges.tolist(), "positives": counts[0].tolist(), "negatives": counts[1].tolist()}


def confused(missed: sp.csr_array, added: sp.csr_array, names: list[str]) -> dict[str, Any]:
    """Count pairs in rows that have the first label and are not given it, and are given the second and do not have it.

    Those of one row alone are left out. For classes it is which one is taken for which.
    """
    rows = _affordable(np.diff(missed.indptr).astype(np.int64) * np.diff(added.indptr))
    wrong, instead = missed[rows], added[rows]
    pairs: Any = (wrong.T.astype(np.int32) @ instead.astype(np.int32)).tocoo()
    often = np.flatnonzero(pairs.data >= LEAST_CONFUSED)
    order = often[np.lexsort((pairs.col[often], pairs.row[often], -pairs.data[often]))][:PAIRS]
    of = np.asarray(missed.sum(0)).ravel()
    found = [
        {"true": names[i], "predicted": names[j], "rows": int(count), "missed": int(of[i])}
        for i, j, count in zip(pairs.row[order], pairs.col[order], pairs.data[order], strict=True)
    ]
    return {"rows": wrong.shape[0], "pairs": found}


def together(targets: sp.csr_array, preds: sp.csr_array, names: list[str]) -> dict[str, Any]:
    """Find the labels that go together: the share of rows with either that have both, truly and as predicted."""
    rows = _affordable(np.diff(targets.indptr).astype(np.int64) ** 2)
    true, predicted = targets[rows].tocsc().astype(np.int32), preds[rows].tocsc().astype(np.int32)
    pairs: Any = sp.triu(true.T @ true, k=1).tocoo()
    counts = np.asarray(true.sum(0)).ravel()
    share = pairs.data / np.maximum(counts[pairs.row] + counts[pairs.col] - pairs.data, 1)
    enough = np.flatnonzero(pairs.data >= LEAST_TOGETHER)
    order = enough[np.lexsort((pairs.col[enough], pairs.row[enough], -share[enough]))][:PAIRS]
    found = [
        {
            "labels": [names[i], names[j]],
            "rows": int(pairs.data[n]),
            "share": float(share[n]),
            "predicted_rows": int((predicted[:, [i]].multiply(predicted[:, [j]])).sum()),
        }
        for n, i, j in zip(order, pairs.row[order], pairs.col[order], strict=True)
    ]
    return {"rows": true.shape[0], "pairs": found}


def _affordable(costs: np.ndarray) -> np.ndarray:
    """Take all rows, or evenly every so many that their pairs can be counted."""
    stride = max(-(-int(costs.sum()) // MOST_PAIRS), 1)
    return np.arange(0, len(costs), stride)


@dataclass(frozen=True)
class Agreement:
    """Label sets against the truth: labels that are right, those missed, and those wrongly predicted."""

    right: sp.csr_array
    missed: sp.csr_array
    added: sp.csr_array


def worst_rows(
    run: Run, judged: Judged, agreement: Agreement, losses: np.ndarray, limits: Limits | None = None
) -> list[dict[str, Any]]:
    """Show the rows that are wrong and whose labels the run finds least likely, the least likely first.

    A label beyond the limits is marked: it may be the data that are wrong.
    """
    wrong = np.flatnonzero(
        np.diff(agreement.missed.indptr) + np.diff(agreement.added.indptr) + judged.aligned.unseen.sum(1)
    )
    order = wrong[np.lexsort((wrong, -losses[wrong]))][:WORST]
    shown = judged.examples.taken(judged.rows[order])
    probs = run.calibration.probs(judged.logits[order])
    places = judged.rows[order] if shown.places is None else shown.places
    few, read = run.features.few_known(shown.texts or []), words_of(run.features)

    def known(i: int) -> list[int] | None:
        if read is None or shown.texts is None or not few[i]:
            return None
        words = read(shown.texts[i])
        return [len(words.all) - len(words.unknown), len(words.all)]

    def labels(cells: sp.csr_array, i: int) -> list[dict[str, Any]]:
        columns = cells.indices[cells.indptr[order[i]] : cells.indptr[order[i] + 1]]
        best = sorted(columns.tolist(), key=lambda c: (-probs[i, c], c))[:SHOWN_LABELS]
        said = [{"name": run.label_names[c], "prob": round(float(probs[i, c]), 4)} for c in best]
        for one, c in zip(said, best, strict=True):
            if limits is not None and cells is agreement.missed and probs[i, c] <= limits.wrong[c]:
                one["looks"] = "wrong"
            elif limits is not None and cells is agreement.added and probs[i, c] >= limits.missing[c]:
                one["looks"] = "missing"
        return said

    def unseen(i: int) -> list[dict[str, Any]]:
        columns = judged.aligned.unseen_of(int(order[i]))[:SHOWN_LABELS]
        return [{"name": judged.aligned.unseen_names[c], "prob": None} for c in columns]

    return [
        {
            "row": int(places[i]) + 1,
            "text": excerpt_of(shown, i, run.columns),
            "loss": round(float(losses[order[i]]), 4),
            "known": known(i),
            "right": labels(agreement.right, i),
            "missed": labels(agreement.missed, i) + unseen(i),
            "added": labels(agreement.added, i),
        }
        for i in range(len(order))
    ]


def excerpt_of(examples: Examples, row: int, columns: Columns) -> str:
    """Write what a row says, cut to an excerpt: its text, and its cells where columns have names."""
    said = [] if examples.texts is None else [examples.texts[row][: 4 * EXCERPT]]
    cells = []
    if examples.categories is not None:
        cells += [f"{name}: {v}" for name, v in zip(columns.categories, examples.categories.row(row), strict=True)]
    if isinstance(examples.numbers, np.ndarray) and len(columns.features) == examples.numbers.shape[1]:
        cells += [
            f"{name}: {'missing' if np.isnan(value) else f'{value:g}'}"
            for name, value in zip(columns.features, examples.numbers[row], strict=True)
        ]
    return excerpt(" ".join([*said, ", ".join(cells[:NAMED])]))


def excerpt(text: str) -> str:
    """Cut a text, put one space for any white space, and a mark for each control character."""
    text = " ".join(CONTROLS.sub("\ufffd", text).split())
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1].rstrip() + "…"
