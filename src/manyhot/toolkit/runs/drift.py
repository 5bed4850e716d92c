r"""What new rows have that training rows had not: words unknown, labels more or less frequent, numbers shifted.

Three things are counted, each against what a run keeps of its training rows (:class:`Usual`), and said where they are
beyond chance and large enough to matter:

- words: the mean over rows of the share of a row's different words that training did not know. What is usual is this
  share of each training row when only the other rows are known: a word that `min_df` rows need not have less of.
- labels: the share of rows that are given a label (or have it, where labels are known), by binomial tails. What is
  usual lies between the share of training rows with the label and that of held-out rows that were given it: a model
  gives a label more or less often than there is.
- numbers: the mean of each standardised column. Columns may be skewed, so the bound of the normal distribution is moved
  by the first term of Cornish and Fisher, :math:`(z^2 - 1) \gamma / (6 \sqrt n)`.

Each of the three may be wrong once in 400 files: together files like the training rows stay silent 99 times of 100.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.stats import binom, norm

from manyhot.decisions import decide
from manyhot.labels import CardinalityRange
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.ranked import Ranked
from manyhot.toolkit.read.examples import Examples

# The share of files like the training rows that are reported all the same, for each of the three.
FALSE_ALARMS = 1 / 400
# What matters: so many times as many unknown words and at least so large a share more, so many times as many labels,
# and so many standard deviations.
TIMES_WORDS, MORE_WORDS, TIMES_LABELS, DEVIATIONS = 1.5, 0.03, 2.0, 0.5
# With fewer rows nothing is said.
LEAST_ROWS = 20
# Training rows whose words are read again, and columns of numbers that are watched.
SAMPLE, MOST_COLUMNS = 2000, 1000
# Labels and columns that the one line names.
NAMED = 3


class Usual(NamedTuple):
    """What a run keeps of its training rows to notice others by; no row can be read off it.

    Attributes:
        words: mean and standard deviation over rows of the share of words that the other rows do not have; None where
            the run reads no words.
        shares: (labels,), the share of training rows with each label, of those where it is known.
        given: (labels,), the share of held-out rows that were given it.
        skewness: (columns,), of each number; None where there are none, or more than MOST_COLUMNS.
    """

    words: tuple[float, float] | None
    shares: np.ndarray
    given: np.ndarray
    skewness: np.ndarray | None = None

    def state(self) -> dict[str, Any]:
        """Return it as JSON; :meth:`restored` reads it."""
        skewness = None if self.skewness is None else [round(float(x), 4) for x in self.skewness]
        shares, given = ([round(float(share), 6) for share in of] for of in (self.shares, self.given))
        words = None if self.words is None else list(self.words)
        return {"words": words, "shares": shares, "given": given, "skewness": skewness}

    @classmethod
    def restored(cls, state: dict[str, Any] | None) -> "Usual | None":
        """Restore what :meth:`state` returned; None of a run that kept nothing."""
        if state is None:
            return None
        words, skewness = state["words"], state["skewness"]
        return cls(
            None if words is None else (float(words[0]), float(words[1])),
            np.array(state["shares"], dtype=np.float64),
            np.array(state["given"], dtype=np.float64),
            None if skewness is None else np.array(skewness, dtype=np.float64),
        )


def usual_of(features: Features, train: Examples, held: np.ndarray | Ranked, cardinality: CardinalityRange) -> Usual:
    """Count what is usual of training rows.

    Args:
        features: fitted on them.
        train: the rows.
        held: (rows, labels), held-out logits of the decision, all or the best.
        cardinality: how many labels a prediction may have.
    """
    words, texts = None, train.texts or []
    shares = features.unknown_shares(texts[:: max(len(texts) // SAMPLE, 1)], among=train.rows)
    if np.isfinite(shares).any():
        words = (round(float(np.nanmean(shares)), 6), round(float(np.nanstd(shares)), 6))
    if isinstance(held, Ranked):
        of_labels = np.asarray(held.decided(cardinality).sum(0)) / len(held)
    else:
        of_labels = decide(held, min_labels=cardinality.min_labels, max_labels=cardinality.max_labels).mean(0)
    skewness = None
    if _watched(features):
        z, counts = _standardised(features, train.numbers)
        skewness = np.nan_to_num((z**3).sum(0) / np.maximum(counts, 1))
    known = train.rows - (0 if train.unknown is None else np.asarray(train.unknown.sum(axis=0)).ravel())
    shares = np.asarray(train.targets.sum(axis=0)).ravel() / np.maximum(known, 1)
    return Usual(words, shares, of_labels, skewness)


def _watched(features: Features) -> bool:
    return features.std is not None and features.centred and features.std.size <= MOST_COLUMNS


def _standardised(features: Features, numbers: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised numbers, 0 where one is missing, and of each column how many are not."""
    dense = numbers if isinstance(numbers, np.ndarray) else numbers.toarray()
    z = (dense.astype(np.float64) - np.asarray(features.mean)) / np.asarray(features.std)
    return np.nan_to_num(z), np.isfinite(dense).sum(0)


class Drift:
    """Counts new rows as they come, and says how they differ from the training rows.

    Args:
        usual: of the training rows.
        features: of the run.
        label_names: of the logits.
        cardinality: how many labels a prediction may have.
        columns: names of the numbers, as many as there are; others are counted from 1.
    """

    def __init__(
        self,
        usual: Usual,
        features: Features,
        label_names: Sequence[str],
        cardinality: CardinalityRange,
        columns: Sequence[str] = (),
    ) -> None:
        self.usual, self.features, self.label_names, self.columns = usual, features, label_names, columns
        self.cardinality = cardinality
        self.rows = 0
        self._words, self._with_words = 0.0, 0
        self._given, self._known = np.zeros(len(label_names)), np.zeros(len(label_names))
        self._sums = self._counts = np.zeros(0 if usual.skewness is None else len(usual.skewness))

    def look(self, examples: Examples, logits: np.ndarray, unknown: np.ndarray) -> None:
        """Count rows by what is predicted; `unknown` (rows,) is the share of unknown words, NaN without any."""
        low, high = self.cardinality
        self._count(examples, decide(logits, min_labels=low, max_labels=high), unknown)

    def look_at_labels(self, examples: Examples, targets: Any) -> None:
        """Count rows by their labels, (rows, labels) of bool, or int8 with -1 where nobody knows; or CSR of bool."""
        self._count(examples, targets, self.features.unknown_shares(examples.texts or [""] * examples.rows))
        # What the model predicts has no part in it.
        self.usual = self.usual._replace(given=self.usual.shares)

    def _count(self, examples: Examples, given: Any, unknown: np.ndarray) -> None:
        self.rows += examples.rows
        has_words = np.isfinite(unknown)
        self._words += float(unknown[has_words].sum())
        self._with_words += int(has_words.sum())
        self._given += (given > 0).sum(0)
        self._known += examples.rows if sp.issparse(given) else (given >= 0).sum(0)
        if self._sums.size and examples.numbers is not None:
            z, counts = _standardised(self.features, examples.numbers)
            self._sums, self._counts = self._sums + z.sum(0), self._counts + counts

    def found(self) -> dict[str, Any]:
        """Return what differs: words, labels and numbers, the most improbable first, and the line; JSON-able."""
        words, labels, numbers = self._of_words(), self._of_labels(), self._of_numbers()
        if self.rows < LEAST_ROWS:
            labels, numbers = [], []
        said = []
        if words is not None and words["differ"] and self.rows >= LEAST_ROWS:
            said.append(f"{percent(words['unknown'])} of words unknown, {percent(words['training'])} in training")
        said += [_label_said(label) for label in labels[:NAMED]]
        said += [
            f"{n['column']} {abs(n['deviations']):.1f} deviations {_side(n['deviations'])}" for n in numbers[:NAMED]
        ]
        if more := max(len(labels) - NAMED, 0) + max(len(numbers) - NAMED, 0):
            said.append(f"and {more:,} more")
        return {"said": "; ".join(said) or None, "words": words, "labels": labels, "numbers": numbers}

    def said(self) -> str | None:
        """Say in one line how the rows differ from those of training; None where they do not."""
        said = self.found()["said"]
        return None if said is None else f"these rows differ from those of training: {said}"

    def _of_words(self) -> dict[str, Any] | None:
        if self.usual.words is None or not self._with_words:
            return None
        mean, deviation = self.usual.words
        share = self._words / self._with_words
        z = (share - mean) / max(deviation / self._with_words**0.5, 1e-12)
        differ = z > norm.isf(FALSE_ALARMS) and share > max(TIMES_WORDS * mean, mean + MORE_WORDS)
        return {"unknown": round(share, 4), "training": round(mean, 4), "differ": bool(differ)}

    def _of_labels(self) -> list[dict[str, Any]]:
        known, count = self._known, self._given
        low, high = np.minimum(*self.usual[1:3]), np.maximum(*self.usual[1:3])
        many, few = binom.sf(count - 1, known, high), binom.cdf(count, known, low)
        chance = np.minimum(many, few)
        share = count / np.maximum(known, 1)
        large = (share >= TIMES_LABELS * high) | (share * TIMES_LABELS <= low)
        bound = FALSE_ALARMS / (2 * len(count))
        order = np.argsort(chance, kind="stable")
        return [
            {
                "label": self.label_names[i],
                "share": round(float(share[i]), 6),
                "training": round(float((high if many[i] < few[i] else low)[i]), 6),
                "rows": int(count[i]),
            }
            for i in order[(chance < bound)[order] & large[order] & (known[order] > 0)].tolist()
        ]

    def _of_numbers(self) -> list[dict[str, Any]]:
        if not self._sums.size or self.usual.skewness is None:
            return []
        n = np.maximum(self._counts, 1)
        mean = self._sums / n
        z = norm.isf(FALSE_ALARMS / (2 * len(n)))
        # The tail on the side of the shift is the longer one where the column is skewed to it.
        towards = np.maximum(np.sign(mean) * self.usual.skewness, 0)
        bound = z + (z**2 - 1) * towards / (6 * np.sqrt(n))
        excess = np.abs(mean) * np.sqrt(n) - bound
        found = np.flatnonzero((excess > 0) & (np.abs(mean) >= DEVIATIONS) & (self._counts > 0))
        named = len(self.columns) == len(n)
        return [
            {"column": self.columns[i] if named else f"feature {i + 1}", "deviations": round(float(mean[i]), 3)}
            for i in found[np.argsort(-excess[found], kind="stable")].tolist()
        ]


def percent(share: float) -> str:
    """Write a share as per cent, with a digit where it is small."""
    return f"{100 * share:.0f} %" if share >= 0.095 or not share else f"{100 * share:.1f} %"


def _side(deviations: float) -> str:
    return "higher" if deviations > 0 else "lower"


def _label_said(label: dict[str, Any]) -> str:
    share, training, name = label["share"], label["training"], label["label"]
    if not share:
        return f"{name} nowhere, {percent(training)} in training"
    if share > training:
        times = share / training if training else None
        return f"{name} {times:.0f} x as frequent" if times and times >= 1.95 else f"{name} in {label['rows']:,} rows"
    return f"{name} {training / share:.0f} x as rare"
