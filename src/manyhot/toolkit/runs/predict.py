"""A saved run in use: new rows to logits, label sets and numbers."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import scipy.sparse as sp

from manyhot.calibration import Calibration
from manyhot.decisions import decide
from manyhot.labels import CardinalityRange
from manyhot.targets import UNKNOWN
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.model import Model
from manyhot.toolkit.read.cells import counted
from manyhot.toolkit.read.columns import Columns
from manyhot.toolkit.read.data import Matrix, Raw, read_file
from manyhot.toolkit.read.examples import (
    Examples,
    check_one_class,
    drop_unknown,
    drop_unlabelled,
    examples_from_frame,
    examples_from_matrix,
    examples_of,
    known_of,
)
from manyhot.toolkit.runs.evaluate import Aligned, align, measure, measure_probs


class Predicted(NamedTuple):
    """A label that is predicted for a row: its name, its logit and its probability."""

    name: str
    score: float
    prob: float


class Measured(NamedTuple):
    """Numbers, what a reader of them should know, and what they were measured on."""

    metrics: dict[str, float | int | None]
    notes: list[str]
    examples: Examples
    aligned: Aligned
    logits: np.ndarray


class Run:
    """A trained model with its features, its labels and its decision rule; :func:`load_run` makes it.

    Attributes:
        label_names: the labels, in the order of the logits' columns.
        train_counts: (labels,), training rows of each label.
        cardinality: how many labels a prediction may have.
        calibration: logits to probabilities, fitted on held-out rows.
        drop_unlabelled: rows without labels were left out of training, and are left out when measuring.
        task: "multilabel", or "multiclass" where each row has one class and each prediction is one.
        info: what was chosen in training: loss, C, tau.
    """

    def __init__(
        self,
        *,
        features: Features,
        model: Model,
        columns: Columns,
        label_names: list[str],
        train_counts: np.ndarray,
        cardinality: CardinalityRange,
        calibration: Calibration,
        drop_unlabelled: bool,
        info: dict[str, Any],
        task: str = "multilabel",
    ) -> None:
        self.features = features
        self.model = model
        self.columns = columns
        self.label_names = label_names
        self.train_counts = train_counts
        self.cardinality = cardinality
        self.calibration = calibration
        self.drop_unlabelled = drop_unlabelled
        self.info = info
        self.task = task

    def predict_logits(self, data: Any) -> np.ndarray:
        """Return the logits of new rows, (rows, labels) float32; a label is predicted where its logit is above 0.

        Args:
            data: a polars or pandas frame with the columns of training, a list of strings, or a (rows, features) array
                or scipy.sparse matrix. A label column is ignored.

        Raises:
            InputError: columns that are missing, or a number of features other than in training.
        """
        return self.logits(self._examples(data, with_labels=False))

    def predict(self, data: Any) -> list[list[str]]:
        """Return the label set of each new row, best label first; of a multiclass run, a set of one.

        Takes what :meth:`predict_logits` takes.
        """
        logits = self.predict_logits(data)
        return [[label.name for label in row] for row in self.label_sets(logits)]

    def probs(self, data: Any) -> np.ndarray:
        """Return the probability of each label for new rows, (rows, labels) float32; calibrated on held-out rows.

        A label with a probability below 1/2 may be predicted and one above it may not: label sets are chosen to have as
        many labels as there are, and the best of a row where it must have one. Takes what :meth:`predict_logits` takes.
        """
        return self.calibration.probs(self.predict_logits(data))

    def evaluate(self, data: Any, targets: Any = None) -> dict[str, float | int | None]:
        """Measure the run on labelled rows: the keys of :func:`manyhot.multilabel_metrics` or `multiclass_metrics`.

        Args:
            data: what :meth:`predict_logits` takes; a frame has the label columns of training.
            targets: for data without label columns, (rows, labels) of 0/1 in the order of `label_names`, where NaN, -1
                and -100 mean unknown, or a label set a row.

        Returns:
            Numbers. Labels that training did not know count as missed, and a warning names them.
        """
        measured = self.evaluate_examples(self._labelled(data, targets))
        for note in measured.notes:
            warnings.warn(note, stacklevel=2)
        return measured.metrics

    def evaluate_examples(self, examples: Examples) -> Measured:
        """Measure the run on examples as read."""
        notes = []
        multiclass = self.task == "multiclass"
        examples, lost = drop_unknown(examples, one_class=multiclass)
        if lost:
            what = "their class is" if multiclass else "all of their labels are"
            notes.append(f"{counted(lost, 'row')} left out: {what} unknown")
        if self.drop_unlabelled:
            examples, dropped = drop_unlabelled(examples)
            if dropped:
                notes.append(f"{dropped:,} rows without labels left out, as in training (--drop-unlabelled)")
        if not examples.rows:
            raise InputError(f"{examples.source}: expected at least one row with labels to measure on; got none.")
        if multiclass:
            check_one_class(examples)
        aligned = align(examples.targets, examples.label_names, self.label_names, examples.unknown)
        if warning := aligned.warning():
            notes.append(warning)
        logits = self.logits(examples)
        metrics = measure(
            logits, aligned, cardinality=self.cardinality, train_counts=self.train_counts, multiclass=multiclass
        )
        metrics |= measure_probs(logits, aligned, self.calibration)
        return Measured(metrics, notes, examples, aligned, logits)

    def logits(self, examples: Examples) -> np.ndarray:
        """Return the logits of examples as read."""
        if not examples.rows:
            return np.zeros((0, len(self.label_names)), dtype=np.float32)
        return self.model.logits(self.features.transform(examples))

    def label_sets(self, logits: np.ndarray) -> list[list[Predicted]]:
        """Return the labels of each row, best first."""
        chosen = decide(logits, min_labels=self.cardinality.min_labels, max_labels=self.cardinality.max_labels)
        probs = self.calibration.probs(logits)
        sets: list[list[Predicted]] = [[] for _ in range(len(logits))]
        row, label = np.nonzero(chosen)
        order = np.lexsort((-logits[row, label], row))
        for r, i in zip(row[order].tolist(), label[order].tolist(), strict=True):
            sets[r].append(Predicted(self.label_names[i], float(logits[r, i]), float(probs[r, i])))
        return sets

    def _examples(self, data: Any, *, with_labels: bool) -> Examples:
        names = self.label_names if self.columns.label_format == "ids" else None
        if isinstance(data, Matrix):
            return examples_from_matrix(data, "the data", with_labels=with_labels, uncertain=self.columns.uncertain)
        if isinstance(data, pl.DataFrame) or hasattr(data, "iloc"):
            frame = data if isinstance(data, pl.DataFrame) else _from_pandas(data)
            if self.columns.label_format == "matrix":
                return self._numbers(frame.to_numpy())
            return examples_from_frame(frame, self.columns, "the data", label_names=names, with_labels=with_labels)
        if isinstance(data, str):
            raise InputError("predict expects rows: a list of strings, such as [text]; got one string.")
        if isinstance(data, list | tuple) and all(isinstance(text, str) for text in data):
            if not self.features.reads_text or self.features.reads_numbers:
                wanted = ", ".join(self.columns.text + self.columns.features) or f"{self.features.size} numbers"
                raise InputError(f"this run was trained on {wanted}; give a frame or an array with these columns.")
            return Examples(source="the data", texts=list(data), numbers=None, targets=None, label_names=[])
        return self._numbers(data)

    def _numbers(self, data: Any) -> Examples:
        if self.features.reads_text:
            raise InputError(f"this run was trained on text ({', '.join(self.columns.text)}); got numbers.")
        numbers: Any = sp.csr_array(data, dtype=np.float32) if sp.issparse(data) else np.asarray(data, dtype=np.float32)
        if numbers.ndim != 2:
            raise InputError(f"expected rows x features; got an array of shape {numbers.shape}.")
        values = numbers.data if sp.issparse(numbers) else numbers
        if not np.isfinite(np.asarray(values)).all():
            raise InputError("expected finite features; got NaN or an infinite value.")
        return Examples(source="the data", texts=None, numbers=numbers, targets=None, label_names=[])

    def _labelled(self, data: Any, targets: Any) -> Examples:
        if targets is None:
            if isinstance(data, pl.DataFrame | Matrix) or hasattr(data, "iloc"):
                return self._examples(data, with_labels=True)
            raise InputError("evaluate expects a frame with label columns, or evaluate(data, targets).")
        examples = self._examples(data, with_labels=False)
        matrix: Any
        unknown: Any = None
        if (
            isinstance(targets, list)
            and all(isinstance(row, list | tuple | set) for row in targets)
            and all(isinstance(name, str) for row in targets for name in row)
        ):
            names = sorted({name for row in targets for name in row} | set(self.label_names))
            column = {name: i for i, name in enumerate(names)}
            cells = [(r, column[name]) for r, row in enumerate(targets) for name in set(row)]
            row, label = (np.array([c[i] for c in cells], dtype=np.int64) for i in (0, 1))
            matrix = sp.csr_array((np.ones(len(cells), bool), (row, label)), shape=(len(targets), len(names)))
        else:
            given: Any = sp.csr_array(targets if sp.issparse(targets) else np.asarray(targets))
            if not (good := np.isnan(given.data) | np.isin(given.data, (0, 1, *UNKNOWN))).all():
                raise InputError(
                    "expected targets of 0 and 1, or NaN, -1 or -100 where nobody knows; got "
                    f"{given.data[np.argmin(good)]}."
                )
            matrix, unknown = known_of(given, self.columns.uncertain)
            names = self.label_names
        if matrix.shape != (examples.rows, len(names)):
            raise InputError(f"expected targets of shape ({examples.rows}, {len(names)}); got {matrix.shape}.")
        return replace(examples, targets=matrix, label_names=names, unknown=unknown)


def read_for(run: Run, path: str, *, with_labels: bool) -> Examples:
    """Read a file the way the run's training file was read."""
    return examples_for(run, read_file(path, header=run.columns.header), path, with_labels=with_labels)


def examples_for(run: Run, raw: Raw, path: str | Path, *, with_labels: bool, start: int = 0) -> Examples:
    """Take the examples of a file, or of a part of it after `start` rows, the way the training file's were taken."""
    names = run.label_names if run.columns.label_format == "ids" else None
    source = Path(path).name
    return examples_of(raw, run.columns, source, label_names=names, with_labels=with_labels, start=start)


def _from_pandas(frame: Any) -> pl.DataFrame:
    # polars' own conversion needs pyarrow.
    def cells(column: Any) -> list[Any]:
        return [None if missing else cell for cell, missing in zip(column.tolist(), column.isna(), strict=True)]

    return pl.DataFrame({str(name): cells(frame[name]) for name in frame.columns}, strict=False)
