"""What stands in a page so that it can be tried there: the strongest weights of a linear model, as data.

Words are found and weighed as scikit-learn does it, once here and once in scorer.js; a test holds both to the same
numbers. Votes of training rows are left out. What that and the weights left out change is measured when the report is
written: where the probabilities of more than one row in twenty are off by more than .02, the page has no such box.
"""

import base64
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfTransformer

from manyhot.toolkit.errors import OBEYED, visible
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.linear import Linear
from manyhot.toolkit.models.term_blocks import TextBlock
from manyhot.toolkit.models.term_counts import count_terms
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.runs.predict import Run

# Bytes of the data in a page, and the part of them that words may take from weights.
MOST_BYTES = 2_000_000
TERMS_SHARE = 0.5
# Rows that are tried, how far a probability may be off, and in which share of the rows.
ROWS, TOLERANCE, MOST_OFF = 200, 0.02, 0.05
# Characters of a label's name.
NAME_LENGTH = 120
# Fields that a reader can be asked to fill.
MOST_FIELDS = 60
# A weight is one of so many of either sign, evenly spaced by their logarithms: with 128, a byte a weight, rounding
# alone moved a probability of every sixth title of a package by more than .02.
LEVELS = 2**15
# Steps of an inverse document frequency, from 1 on: a byte reaches 13.75, of texts by the hundred thousand.
IDF_STEP = 0.05
# Weights of one term: their number is a byte.
MOST_WEIGHTS = 255
# Cells of a matrix of weights that are looked at at once.
CELLS = 4_000_000
# Bytes of a term beside its characters, quotes and commas and two numbers, and of a weight: in base64, four for three.
BESIDE_TERM = 3 + 8 / 3


@dataclass(frozen=True)
class Terms:
    """The terms of a block that a page has: how they are found, their idf as it is decoded, and their weights.

    Attributes:
        block: of the run.
        kept: (terms,), their columns in the block, rising.
        coded: the terms as the page has them.
        idf: (terms,), bytes.
        weights: (terms, labels) CSR, 16 bits: a weight's level, the highest its sign.
        least, most: sizes of weights.
    """

    block: TextBlock
    kept: np.ndarray
    coded: list[str]
    idf: np.ndarray
    weights: sp.csr_array
    least: float
    most: float

    def decoded(self) -> sp.csr_array:
        """Return the weights that the levels stand for, float64."""
        codes: Any = self.weights.data
        level, negative = codes & (LEVELS - 1), codes >= LEVELS
        size = self.least * (self.most / self.least) ** (level / (LEVELS - 1))
        data = np.where(negative, -size, size)
        return sp.csr_array((data, self.weights.indices, self.weights.indptr), shape=self.weights.shape)

    def logits(self, texts: list[str]) -> np.ndarray:
        """Return what the terms add to the logits of texts, (texts, labels) float64."""
        vocabulary = {self.block.terms[column]: i for i, column in enumerate(self.kept.tolist())}
        ((_, counts, _),) = count_terms(texts, [self.block.parameters], [vocabulary])
        weigh = TfidfTransformer(sublinear_tf=self.block.parameters["sublinear_tf"])
        weigh.idf_ = 1 + IDF_STEP * self.idf.astype(np.float64)
        rows: Any = weigh.transform(counts.astype(np.float64))
        logits: Any = sp.csr_array(rows * self.block.weight) @ self.decoded()
        return logits.toarray()

    def data(self) -> dict[str, Any]:
        """Lay out as JSON; scorer.js reads it."""
        parameters = self.block.parameters
        shape: Any = self.weights.shape
        wide = np.uint8 if shape[1] <= 256 else np.uint16
        return {
            "analyzer": parameters["analyzer"],
            "lengths": list(parameters["ngram_range"]),
            "pattern": parameters.get("token_pattern"),
            "weight": self.block.weight,
            "terms": self.coded,
            "idf": encoded(self.idf),
            "counts": encoded(np.diff(self.weights.indptr).astype(np.uint8)),
            "labels": encoded(self.weights.indices.astype(wide)),
            "levels": encoded(self.weights.data),
            "range": [self.least, self.most],
            "whole": len(self.kept) == len(self.block.terms),
        }


@dataclass(frozen=True)
class Scorer:
    """A linear run as a page has it.

    Attributes:
        run: what it is of.
        terms: of the texts; weights of all else are kept as they are.
    """

    run: Run
    terms: list[Terms]

    def probs(self, examples: Examples) -> np.ndarray:
        """Return probabilities as the page computes them, (rows, labels) float64."""
        arrays = self.run.model.arrays()
        logits = np.broadcast_to(arrays["bias"].astype(np.float64), (examples.rows, len(self.run.label_names))).copy()
        for part in self.terms:
            logits += part.logits(examples.texts or [""] * examples.rows)
        words = sum(len(block.terms) for block in self.run.features.blocks)
        if self.run.features.size > words:
            others = sp.csr_array(sp.csr_array(self.run.features.transform(examples))[:, words:])
            logits += (others.astype(np.float64) @ arrays["weight"][words:].astype(np.float64)).reshape(logits.shape)
        return self.run.calibration.probs(logits)

    def data(self) -> dict[str, Any]:
        """Lay out as JSON; scorer.js reads it."""
        run, features = self.run, self.run.features
        arrays = run.model.arrays()
        weight = arrays["weight"][sum(len(block.terms) for block in features.blocks) :]
        found: dict[str, Any] = {
            "names": [visible(name)[:NAME_LENGTH] for name in run.label_names],
            "bias": encoded(arrays["bias"]),
            "temperature": encoded(run.calibration.temperature),
            "offset": encoded(run.calibration.offset),
            "classes": run.calibration.classes,
            "sizes": list(run.cardinality),
            "blocks": [part.data() for part in self.terms],
        }
        if features.std is not None and features.mean is not None:
            number, missing = features.std.size, len(features.missing)
            found["numbers"] = {
                "names": list(run.columns.features),
                "mean": encoded(features.mean.astype(np.float64)),
                "centre": encoded((features.mean if features.centred else 0 * features.mean).astype(np.float64)),
                "std": encoded(features.std.astype(np.float64)),
                "weights": encoded(weight[:number]),
                "missing": list(features.missing),
                "missing_weights": encoded(weight[number : number + missing]),
            }
            weight = weight[number + missing :]
        found["categories"] = []
        for name, category in zip(run.columns.categories, features.categories, strict=True):
            found["categories"].append(
                {"name": name, "values": category.values, "weights": encoded(weight[: category.size])}
            )
            weight = weight[category.size :]
        if (kernel := features.kernel) is not None:
            # What each landmark adds to a label, for a row that is near to it: the basis times the weights.
            near, mean = kernel.basis @ weight.astype(np.float64), kernel.mean @ weight.astype(np.float64)
            found["kernel"] = {
                "landmarks": encoded(kernel.landmarks.astype(np.float32)),
                "gamma": float(np.asarray(kernel.gamma).item()),
                "weights": encoded(near.astype(np.float32)),
                "mean": encoded(mean.astype(np.float64)),
            }
        return found


def scorer_of(run: Run) -> Scorer | str:
    """Take the strongest weights of a run for a page, or say in half a sentence why it can have none."""
    features = run.features
    if run.keeps_best:
        return "its labels are too many"
    if not isinstance(run.model, Linear):
        return "this model is not linear"
    if features.reader is not None:
        return "it reads texts with an encoder"
    if features.std is not None and features.std.size != len(run.columns.features):
        return "its numbers have no names"
    if len(run.columns.features) + len(run.columns.categories) > MOST_FIELDS:
        return f"it reads {len(run.columns.features) + len(run.columns.categories):,} columns"
    if not features.blocks:
        scorer = Scorer(run, [])
        return scorer if len(written(scorer.data())) <= MOST_BYTES else "it has too many labels"
    kept = frequent_terms(features, int(MOST_BYTES * TERMS_SHARE))
    coded = [
        front_coded([block.terms[i] for i in some.tolist()]) for block, some in zip(features.blocks, kept, strict=True)
    ]
    used = sum(map(cost_of_terms, coded))
    beside = len(written(Scorer(run, []).data()))
    cost = (2 + (1 if len(run.label_names) <= 256 else 2)) * 4 / 3
    number = int((MOST_BYTES - used - beside) / cost)
    while number > 0:
        scorer = Scorer(run, strongest(run, kept, coded, number))
        size = len(written(scorer.data()))
        if size <= MOST_BYTES:
            return scorer
        number -= int((size - MOST_BYTES) / cost) + number // 100 + 1
    return "its weights are too many"


def frequent_terms(features: Features, budget: int) -> list[np.ndarray]:
    """Return the columns of the terms of each block that are in most texts, as many as so many bytes hold."""
    idf = np.concatenate([block.idf for block in features.blocks])
    bytes_of = [len(term.encode()) + BESIDE_TERM for block in features.blocks for term in block.terms]
    order = np.argsort(idf, kind="stable")
    # Front coding takes about half of the characters; what is kept is counted again before weights are chosen.
    chosen = np.sort(order[np.cumsum(np.array(bytes_of)[order] * 0.7) <= budget])
    starts = np.cumsum([0, *(len(block.terms) for block in features.blocks)])
    return [chosen[(chosen >= start) & (chosen < end)] - start for start, end in pairwise(starts.tolist())]


def cost_of_terms(coded: list[str]) -> int:
    """Return about how many bytes terms take, their idf and numbers of weights included."""
    return len(json.dumps(coded, ensure_ascii=False, separators=(",", ":")).encode()) + len(coded) * 8 // 3


def strongest(run: Run, kept: list[np.ndarray], coded: list[list[str]], number: int) -> list[Terms]:
    """Keep the weights that move most: their size, times what a term weighs in a text, times how many texts have it."""
    blocks, weight = run.features.blocks, run.model.arrays()["weight"]
    starts = np.cumsum([0, *(len(block.terms) for block in blocks)])
    moves, places = np.zeros(0, np.float32), np.zeros((0, 3), np.int64)
    for i, (block, some) in enumerate(zip(blocks, kept, strict=True)):
        step = max(CELLS // weight.shape[1], 1)
        scale = (np.exp(-block.idf) * block.idf * block.weight).astype(np.float32)
        for first in range(0, len(some), step):
            part = some[first : first + step]
            size = np.abs(weight[starts[i] + part]) * scale[part, None]
            term, label = np.nonzero(size > (moves.min() if len(moves) == number else 0))
            moves = np.concatenate([moves, size[term, label]])
            where = np.stack([np.full(len(term), i), term + first, label], axis=1)
            places = np.concatenate([places, where])
            if len(moves) > number:
                best = np.argpartition(-moves, number - 1)[:number]
                moves, places = moves[best], places[best]
    found = []
    for i, (block, some) in enumerate(zip(blocks, kept, strict=True)):
        _, term, label = places[places[:, 0] == i].T
        values = weight[starts[i] + some[term], label].astype(np.float64)
        found.append(_terms(block, some, coded[i], term, label, values, weight.shape[1]))
    return found


def _terms(
    block: TextBlock,
    kept: np.ndarray,
    coded: list[str],
    term: np.ndarray,
    label: np.ndarray,
    values: np.ndarray,
    labels: int,
) -> Terms:
    """Write weights and idf as whole numbers."""
    # A term keeps at most as many weights as a byte counts, the largest.
    order = np.lexsort((-np.abs(values), term))
    term, label, values = term[order], label[order], values[order]
    place = np.arange(len(term)) - np.searchsorted(term, term)
    few = place < MOST_WEIGHTS
    term, label, values = term[few], label[few], values[few]
    size = np.abs(values)
    least, most = (float(size.min()), float(size.max())) if len(size) else (1.0, 1.0)
    most = max(most, least * (1 + 1e-9))
    level = np.rint((LEVELS - 1) * np.log(size / least) / np.log(most / least)).astype(np.uint16)
    code = level + (values < 0).astype(np.uint16) * np.uint16(LEVELS)
    order = np.lexsort((label, term))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(term, minlength=len(kept)))])
    weights = sp.csr_array((code[order], label[order], indptr), shape=(len(kept), labels))
    idf = np.clip(np.rint((block.idf[kept] - 1) / IDF_STEP), 0, 255).astype(np.uint8)
    return Terms(block, kept, coded, idf, weights, least, most)


def front_coded(terms: list[str]) -> list[str]:
    """Write sorted terms as a digit, base 36, of how many characters are those of the term before, and the others."""
    found, before = [], ""
    for term in terms:
        same = 0
        # Characters beyond U+FFFF are two of JavaScript's: they are written out.
        while same < min(len(term), len(before), 35) and term[same] == before[same] and term[same] < "\ud800":
            same += 1
        found.append("0123456789abcdefghijklmnopqrstuvwxyz"[same] + term[same:])
        before = term
    return found


def encoded(numbers: np.ndarray) -> str:
    """Write numbers as base64 of little-endian bytes: of bytes, 16-bit integers, or floats as they are."""
    little = np.ascontiguousarray(numbers, dtype=numbers.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode()


def written(data: dict[str, Any]) -> bytes:
    """Write JSON that can stand inside of a page: no tag can begin or end in it, and nothing in it is obeyed."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def box_of(run: Run, examples: Examples) -> dict[str, Any]:
    """Return the data of a box for a page, where it says what the run says, and how that was found.

    Args:
        run: what the page is of.
        examples: rows that probabilities are compared on; evenly chosen ones of them.

    Returns:
        `model`, None where there is no box; `why`, the reason; `rows` that were compared and how many were `off`.
    """
    rows = np.unique(np.linspace(0, examples.rows - 1, min(ROWS, examples.rows)).astype(np.int64))
    tried = examples.taken(rows)
    probs = run.calibration.probs(run.logits(tried))
    off = 0 if run.neighbours is None else _number_off(_without_votes(run, tried), probs)
    scorer = None
    if off <= MOST_OFF * len(rows):
        scorer = scorer_of(run)
        if isinstance(scorer, str):
            return {"model": None, "why": scorer, "rows": 0, "off": 0}
        off = _number_off(scorer.probs(tried), probs)
    if off > MOST_OFF * len(rows):
        measured = f"was more than 2 points off in {off} of {len(rows)} rows"
        why = f"what fits into a page {measured}"
        if run.neighbours is not None:
            # A page that holds what every training row says is not one to pass on.
            why = (
                f"training rows have a vote in this run, which a page does not hold, and without them it {measured}; a "
                "run that is trained with --neighbours off has a box"
            )
        return {"model": None, "why": why, "rows": len(rows), "off": off}
    assert scorer is not None
    return {"model": scorer.data(), "why": None, "rows": len(rows), "off": off}


def _without_votes(run: Run, examples: Examples) -> np.ndarray:
    """Return what the best page could say of a run in which training rows have a vote."""
    return run.calibration.probs(run.model.logits(run.features.transform(examples)))


def _number_off(probs: np.ndarray, true: np.ndarray) -> int:
    """Return how many rows have a probability that is off."""
    return int((np.abs(probs - true).max(1) > TOLERANCE).sum())
