"""A saved run in use: new rows to logits, label sets and numbers."""

import warnings
from collections.abc import Sequence
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
from manyhot.toolkit.config import Config
from manyhot.toolkit.errors import InputError, reading, shown
from manyhot.toolkit.models.features import DesignMatrix, Features, little_known
from manyhot.toolkit.models.label_blocks import SparseLinear
from manyhot.toolkit.models.listed import LISTED
from manyhot.toolkit.models.model import Model
from manyhot.toolkit.models.neighbours import Neighbours
from manyhot.toolkit.models.ranked import TOP, Ranked
from manyhot.toolkit.read.cells import close_matches, counted, listed
from manyhot.toolkit.read.columns import Columns
from manyhot.toolkit.read.data import Matrix, Raw, read_file
from manyhot.toolkit.read.examples import (
    Examples,
    check_measurable,
    check_one_class,
    drop_unknown,
    drop_unlabelled,
    examples_from_matrix,
    examples_of,
    known_of,
    unknown_notes,
)
from manyhot.toolkit.runs.drift import Drift, Usual
from manyhot.toolkit.runs.evaluate import Aligned, align, align_sparse, measure, measure_probs, measure_ranked
from manyhot.toolkit.runs.explain import Explained, Reason, guessed, sums, unseen, without_each_word, words_of
from manyhot.toolkit.runs.given import frame_of, is_pandas_series, targets_of, texts_of
from manyhot.toolkit.runs.trained_rows import row_hashes, said_of_known


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
    logits: Any  # (rows, labels), an array, or the best alone where labels are very many


class Run:
    """A trained model with its features, its labels and its decision rule; :func:`load_run` makes it.

    Attributes:
        label_names: the labels, in the order of the logits' columns.
        train_counts: (labels,), training rows of each label.
        cardinality: how many labels a prediction may have.
        calibration: logits to probabilities, fitted on held-out rows.
        drop_unlabelled: rows without labels were left out of training, and are left out when measuring.
        neighbours: the training rows that have a vote beside the model; None where none have.
        task: "multilabel", or "multiclass" where each row has one class and each prediction is one.
        info: what was chosen in training: loss, C, tau.
        trained_rows: hashes of the training rows, sorted; None where the run was told to keep none.
        usual: what training rows are like, to notice others by; None of a run that does not know.
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
        neighbours: Neighbours | None = None,
        trained_rows: np.ndarray | None = None,
        usual: Usual | None = None,
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
        self.neighbours = neighbours
        self.trained_rows = trained_rows
        self.usual = usual

    @property
    def keeps_best(self) -> bool:
        """Whether labels are very many: training had lists of them, and of logits the best of each row are kept."""
        return isinstance(self.model, SparseLinear) or self.info.get("targets") == LISTED

    @property
    def propensity(self) -> tuple[float, float]:
        """A and B of :func:`manyhot.label_propensity`, by which PSP@k is measured where labels are very many."""
        a, b = Config.propensity
        return self.info.get("propensity_a", a), self.info.get("propensity_b", b)

    def __repr__(self) -> str:
        """Say what the run reads, what it predicts, and how it was trained."""
        low, high = self.cardinality
        what = "classes" if self.task == "multiclass" else "labels"
        sizes = "one" if low == high == 1 else f"{low} to {high}"
        reads = [f"texts ({listed(self.columns.text)})"] if self.columns.text else []
        if others := [*self.columns.features, *self.columns.categories]:
            reads.append(f"features ({listed(others, 6)})")
        return (
            f"<Run: {len(self.label_names):,} {what} ({listed(self.label_names, 6)}), {sizes} a row, from "
            f"{' and '.join(reads) or f'{self.features.size_without_kernel:,} features'}; "
            f"{self.info.get('loss', 'zlpr')} on {self.features.describe()}>"
        )

    def predict_logits(self, data: Any) -> np.ndarray:
        """Return the logits of new rows, (rows, labels) float32; a label is predicted where its logit is above 0.

        Args:
            data: a polars or pandas frame with the columns of training; texts, as one string, which is one row, or a
                list, array or Series of them; or a (rows, features) array or scipy.sparse matrix. A label column is
                ignored.

        Raises:
            InputError: columns that are missing, or a number of features other than in training.
        """
        return self.logits(data)

    def predict(self, data: Any) -> list[list[str]]:
        """Return the label set of each new row, best label first; of a multiclass run, a set of one.

        Takes what :meth:`predict_logits` takes. Where training did not know most words of a text, a warning says so.
        """
        return [[label.name for label in row] for row in self.label_sets(self._logits_of_new(data))]

    def probs(self, data: Any) -> np.ndarray:
        """Return the probability of each label for new rows, (rows, labels) float32; calibrated on held-out rows.

        Column i is that of `label_names[i]`: `dict(zip(run.label_names, run.probs(text)[0]))` has the names of one row,
        and `top` those of the best labels of each.

        A label with a probability below 1/2 may be predicted and one above it may not: label sets are chosen for the
        best F1, and a row that must have a label has its best one. Takes what :meth:`predict_logits` takes,
        and warns as :meth:`predict` does.
        """
        return self.calibration.probs(self._logits_of_new(data))

    def top(self, data: Any, k: int = 5) -> pl.DataFrame:
        """Return the k most probable labels of each new row, predicted or not, as a table: a row for each of them.

        Args:
            data: what :meth:`predict_logits` takes.
            k: labels a row, at least 1; all where the run has fewer.

        Returns:
            The columns row, from 0; rank, from 1; label; prob and score, which is the logit; and predicted.

        Raises:
            InputError: k below 1, or what :meth:`predict_logits` refuses.
        """
        if not isinstance(k, int) or k < 1:
            raise InputError(f"top expects at least 1 label a row; got {k!r}.")
        logits = self._logits_of_new(data)
        probs = self.calibration.probs(logits)
        chosen = decide(logits, min_labels=self.cardinality.min_labels, max_labels=self.cardinality.max_labels)
        best = np.lexsort((-logits, -probs), axis=1)[:, :k]
        rows, width = best.shape
        where = np.repeat(np.arange(rows), width), best.ravel()
        names = np.array(self.label_names, dtype=object)
        columns = {
            "row": where[0],
            "rank": np.tile(np.arange(1, width + 1), rows),
            "label": names[where[1]].tolist(),
            "prob": probs[where],
            "score": logits[where],
            "predicted": chosen[where] > 0,
        }
        return pl.DataFrame(columns, schema_overrides={"label": pl.String})

    def explain(self, data: Any, labels: Sequence[str] | None = None) -> list[Explained]:
        """Say why each row has its labels: what each word, number or category adds to the score of each label.

        Args:
            data: what :meth:`predict_logits` takes.
            labels: the labels to look at, predicted or not; by default those that are predicted.

        Returns:
            For each row its labels, the most probable first, each with its score, its probability and the parts of
            the score (:mod:`manyhot.toolkit.runs.explain` says how), and the words of the text that training did not
            know.

        Raises:
            InputError: a label that the run does not have, or what :meth:`predict_logits` refuses.
        """
        examples = data if isinstance(data, Examples) else self._examples(data, with_labels=False)
        column = {name: i for i, name in enumerate(self.label_names)}
        for name in labels or ():
            if name not in column:
                close = close_matches(name, self.label_names)
                raise InputError(f"explain expects labels of the run; got {shown(name)}{close}.")
        logits = self.logits(examples)
        probs = self.calibration.probs(logits)
        chosen = decide(logits, min_labels=self.cardinality.min_labels, max_labels=self.cardinality.max_labels) > 0
        read, votes = words_of(self.features), None if self.neighbours is None else self.votes(examples)
        found = []
        for row in range(examples.rows):
            asked = np.flatnonzero(chosen[row]) if labels is None else np.array([column[name] for name in labels], int)
            asked = asked[np.lexsort((-logits[row, asked], -probs[row, asked]))]
            parted = sums(self.features, self.model, self.columns, examples, row, asked)
            if parted is None:
                parted = without_each_word(lambda texts: self.logits(texts), (examples.texts or [""])[row], asked)
            if votes is not None:
                parted = parted.with_votes(votes[row, asked].astype(np.float64))
            reasons = [
                Reason(
                    self.label_names[label],
                    float(logits[row, label]),
                    float(probs[row, label]),
                    bool(chosen[row, label]),
                    float(parted.base[i]),
                    parted.of(i),
                )
                for i, label in enumerate(asked.tolist())
            ]
            words = None if read is None or examples.texts is None else read(examples.texts[row])
            found.append(Explained(reasons, *((None, []) if words is None else (len(words.all), words.unknown))))
        return found

    def evaluate(self, data: Any, targets: Any = None, *, mask: Any = None) -> dict[str, float | int | None]:
        """Measure the run on labelled rows: the keys of :func:`manyhot.multilabel_metrics` or `multiclass_metrics`.

        Args:
            data: what :meth:`predict_logits` takes; a frame has the label columns of training.
            targets: for data without label columns, (rows, labels) of 0/1 in the order of `label_names`, dense or
                sparse, where NaN, -1 and -100 mean unknown; :class:`manyhot.IndexTargets`; or a set of names a row.
            mask: with such a matrix, (rows, labels), False where nobody knows.

        Returns:
            Numbers. Labels that training did not know count as missed, and a warning names them.
        """
        measured = self.evaluate_examples(self._labelled(data, targets, mask))
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
        if self.trained_rows is not None and (note := said_of_known(row_hashes(examples), self.trained_rows)):
            notes.append(note)
        if self.keeps_best:
            return self._evaluate_ranked(examples, notes)
        check_measurable(examples)
        notes += unknown_notes(examples)
        aligned = align(examples.targets, examples.label_names, self.label_names, examples.unknown)
        if warning := aligned.warning(multiclass=multiclass):
            notes.append(warning)
        logits = self.logits(examples)
        metrics = measure(
            logits, aligned, cardinality=self.cardinality, train_counts=self.train_counts, multiclass=multiclass
        )
        metrics |= measure_probs(logits, aligned, self.calibration)
        if "promise" in self.info:
            metrics |= self.hits(logits, aligned.targets)
        return Measured(metrics, notes, examples, aligned, logits)

    def _evaluate_ranked(self, examples: Examples, notes: list[str]) -> Measured:
        """Measure on examples where labels are very many: no rows x labels numbers but of a block of rows."""
        if examples.unknown is not None:
            raise InputError(
                f"{examples.source}: expected label cells that are all known, as in training, got some that nobody "
                "knows; leave these rows out"
            )
        aligned = align_sparse(examples.targets, examples.label_names, self.label_names)
        if warning := aligned.warning():
            notes.append(warning)
        logits = Ranked.of_blocks(self.model.logits, self.features.transform(examples), TOP)
        metrics = measure_ranked(
            logits,
            aligned,
            cardinality=self.cardinality,
            calibration=self.calibration,
            train_counts=self.train_counts,
            train_rows=int(self.info["rows"]),
            propensity=self.propensity,
        )
        return Measured(metrics, notes, examples, aligned, logits)

    def hits(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, float | None]:
        """Return which share of the predicted labels is right, and which share of the true ones is predicted.

        Only labels that training knew count. Targets are (rows, labels), bool, or int8 with -1 where nobody knows.
        """
        low, high = self.cardinality
        given = (decide(logits, min_labels=low, max_labels=high) > 0) & (targets >= 0)
        right, true = int((given & (targets > 0)).sum()), int((targets > 0).sum())
        given = int(given.sum())
        return {"micro_precision": right / given if given else None, "micro_recall": right / true if true else None}

    def logits(self, data: Any) -> np.ndarray:
        """Return the logits of what :meth:`predict_logits` takes, or of examples as read."""
        return self.logits_and_judge(data)[0]

    def logits_and_judge(self, data: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return logits, and the share of each text's words that training did not know, (rows,): in one pass."""
        examples = data if isinstance(data, Examples) else self._examples(data, with_labels=False)
        if not examples.rows:
            return np.zeros((0, len(self.label_names)), dtype=np.float32), np.zeros(0)
        X, unknown = self.features.transform_and_judge(examples)
        logits = self.model.logits(X)
        return logits if self.neighbours is None else logits + self._votes(X, self.neighbours), unknown

    def votes(self, data: Any) -> np.ndarray:
        """Return what nearest training rows add to each logit, (rows, labels) float32; 0 where none have a vote.

        The rest of :meth:`predict_logits` is the linear model's: its weights times the features, and the bias. Takes
        what that takes.
        """
        examples = data if isinstance(data, Examples) else self._examples(data, with_labels=False)
        if self.neighbours is None or not examples.rows:
            return np.zeros((examples.rows, len(self.label_names)), dtype=np.float32)
        return self._votes(self.features.transform(examples), self.neighbours)

    def _votes(self, X: DesignMatrix, neighbours: Neighbours) -> np.ndarray:
        return neighbours.votes(X[:, : self.features.size_without_kernel])

    def drift(self) -> Drift | None:
        """Return what counts new rows and says how they differ from those of training; None where that is not known."""
        if self.usual is None:
            return None
        return Drift(self.usual, self.features, self.label_names, self.cardinality, self.columns.features)

    @property
    def rows_held(self) -> int:
        """How many training rows the run holds the features of: those with a vote, or the landmarks of a kernel."""
        if self.neighbours is not None:
            return self.neighbours.rows.shape[0]
        return 0 if self.features.kernel is None else len(self.features.kernel.landmarks)

    def _logits_of_new(self, data: Any) -> np.ndarray:
        """Return logits for a caller who asks for labels, and warn of texts that training knew little of."""
        examples = data if isinstance(data, Examples) else self._examples(data, with_labels=False)
        logits, unknown = self.logits_and_judge(examples)
        notes = unseen(self.features.known_categories(examples), self.columns.categories)
        if note := guessed(int(little_known(unknown).sum()), len(unknown)):
            notes.append(note)
        for note in notes:
            warnings.warn(note, stacklevel=3)
        return logits

    def label_sets(self, logits: np.ndarray) -> list[list[Predicted]]:
        """Return the labels of each row, the most probable first."""
        sets: list[list[Predicted]] = [[] for _ in range(len(logits))]
        rows, labels, probs = self.labels_of(logits)
        scores = logits[rows, labels]
        for r, i, score, prob in zip(rows.tolist(), labels.tolist(), scores.tolist(), probs.tolist(), strict=True):
            sets[r].append(Predicted(self.label_names[i], score, prob))
        return sets

    def labels_of(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the row, the label and the probability of each label that is predicted, best first in each row."""
        chosen = decide(logits, min_labels=self.cardinality.min_labels, max_labels=self.cardinality.max_labels)
        row, label = np.nonzero(chosen)
        of = self.calibration.probs(logits)[row, label]
        order = np.lexsort((-logits[row, label], -of, row))
        return row[order], label[order], of[order]

    def _examples(self, data: Any, *, with_labels: bool) -> Examples:
        names = self.label_names if self.columns.names_needed else None
        if isinstance(data, Matrix):
            return examples_from_matrix(data, "the data", with_labels=with_labels, uncertain=self.columns.uncertain)
        if isinstance(data, pl.DataFrame) or (hasattr(data, "iloc") and not is_pandas_series(data)):
            frame = data if isinstance(data, pl.DataFrame) else frame_of(data, header=self.columns.header)
            if self.columns.label_format == "matrix":
                return self._numbers(frame.to_numpy())
            return examples_of(frame, self.columns, "the data", label_names=names, with_labels=with_labels)
        if (texts := texts_of(data)) is not None:
            if not self.features.reads_text or self.features.reads_numbers:
                read = self.columns
                columns = [*read.text, *read.features, *read.categories]
                wanted = listed(columns) if columns else f"{self.features.size_without_kernel} numbers"
                array = "" if read.text or read.categories else " or an array"
                raise InputError(
                    f"this run was trained on {wanted}; give a file, or in Python a frame{array}, with these columns."
                )
            return Examples(source="the data", texts=texts, numbers=None, targets=None, label_names=[])
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

    def _labelled(self, data: Any, targets: Any, mask: Any = None) -> Examples:
        if targets is None:
            if isinstance(data, pl.DataFrame | Matrix) or hasattr(data, "iloc"):
                return self._examples(data, with_labels=True)
            raise InputError("evaluate expects a frame with label columns, or evaluate(data, targets).")
        examples = self._examples(data, with_labels=False)
        targets = targets_of(targets, len(self.label_names), mask)
        matrix: Any
        unknown: Any = None
        if isinstance(targets, list):
            names = sorted({name for row in targets for name in row} | set(self.label_names))
            column = {name: i for i, name in enumerate(names)}
            cells = [(r, column[name]) for r, row in enumerate(targets) for name in set(row)]
            row, label = (np.array([c[i] for c in cells], dtype=np.int64) for i in (0, 1))
            matrix = sp.csr_array((np.ones(len(cells), bool), (row, label)), shape=(len(targets), len(names)))
        else:
            given: Any = sp.csr_array(targets)
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


def read_for(run: Run, path: str, *, with_labels: bool, encoding: str | None = None) -> Examples:
    """Read a file the way the run's training file was read."""
    raw = read_file(path, header=run.columns.header, encoding=encoding)
    return examples_for(run, raw, path, with_labels=with_labels)


def examples_for(run: Run, raw: Raw, path: str | Path, *, with_labels: bool, start: int = 0) -> Examples:
    """Take the examples of a file, or of a part of it after `start` rows, the way the training file's were taken."""
    names = run.label_names if run.columns.names_needed else None
    source = Path(path).name
    with reading(path):
        return examples_of(raw, run.columns, source, label_names=names, with_labels=with_labels, start=start)
