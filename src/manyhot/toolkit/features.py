"""Texts and numbers to one matrix; what is fitted on training rows is saved as JSON and arrays."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler

from manyhot.toolkit.data import InputError
from manyhot.toolkit.examples import Examples

# np.ndarray or scipy's csr_array, (rows, features) float32; scipy carries no types.
DesignMatrix = Any

# Words, and beside them pairs of words at half weight, each block with rows of length 1. benchmarks/defaults.py chose
# the weight on training rows; in one joint block the many pairs of a long text would push its words down. A pair must
# be in 5 texts: with 3, Reuters has twice as many, and fitting takes as much longer.
WORDS = {"analyzer": "word", "token_pattern": r"(?u)\b\w+\b", "sublinear_tf": True}
PAIR_WEIGHT = 0.5
MIN_DF = 2
PAIR_MIN_DF = 5
CHARACTERS = {"analyzer": "char", "ngram_range": (1, 3), "sublinear_tf": True}
# The most frequent terms of a block that are kept. Weights are terms x labels: this bounds them where texts are many.
MAX_TERMS = 2**18
# Numbers with a larger share of non-zeros than this are held dense.
DENSE = 0.3
# With so few rows a word seen once may be all there is of a label.
FEW_ROWS = 100

_FLOAT32: Any = {"dtype": np.float32}
_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


@dataclass(frozen=True)
class TextBlock:
    """One TF-IDF block: scikit-learn parameters, terms in column order, idf, and the length of its rows."""

    parameters: dict[str, Any]
    terms: list[str]
    idf: np.ndarray
    weight: float

    @classmethod
    def fit(cls, texts: list[str], parameters: dict[str, Any], weight: float = 1.0) -> "TextBlock | None":
        """Fit on training texts; None where no term is in enough of them."""
        try:
            vectorizer = TfidfVectorizer(**parameters, **_FLOAT32).fit(texts)
        except ValueError:  # scikit-learn: "empty vocabulary", "no terms remain"
            return None
        return cls(parameters, vectorizer.get_feature_names_out().tolist(), vectorizer.idf_, weight)

    def transform(self, texts: list[str]) -> sp.csr_array:
        """Return (rows, terms) TF-IDF."""
        vocabulary = {term: column for column, term in enumerate(self.terms)}
        fitted = {key: value for key, value in self.parameters.items() if key not in ("min_df", "max_features")}
        vectorizer = TfidfVectorizer(**fitted, vocabulary=vocabulary, **_FLOAT32)
        vectorizer.idf_ = self.idf
        return sp.csr_array(vectorizer.transform(texts) * np.float32(self.weight))


@dataclass(frozen=True)
class Features:
    """Everything between a row as read and a row of the matrix."""

    blocks: list[TextBlock] = field(default_factory=list)
    mean: np.ndarray | None = None
    std: np.ndarray | None = None

    @classmethod
    def fit(cls, examples: Examples) -> "Features":
        """Fit on training rows.

        Raises:
            InputError: texts without a single word.
        """
        blocks, mean, std = [], None, None
        if examples.texts is not None:
            blocks = _fit_blocks(examples.texts)
            if not blocks:
                raise InputError(
                    f"{examples.source}: expected texts with words, but no word or character is in two rows or more; "
                    "name the text columns with --text."
                )
        numbers: Any = examples.numbers
        if numbers is not None:
            # Sparse numbers are scaled and not centred: centring would fill the matrix.
            sparse = sp.issparse(numbers) and numbers.nnz < DENSE * numbers.shape[0] * numbers.shape[1]
            dense = numbers if sparse or isinstance(numbers, np.ndarray) else sp.csr_array(numbers).toarray()
            scaler: Any = StandardScaler(with_mean=not sparse).fit(dense)
            mean, std = (None if sparse else scaler.mean_), scaler.scale_
        return cls(blocks, mean, std)

    def transform(self, examples: Examples) -> DesignMatrix:
        """Return (rows, features) float32: dense for dense numbers alone, else CSR.

        Raises:
            InputError: another number of features than in training.
        """
        parts: list[Any] = [block.transform(examples.texts or [""] * examples.rows) for block in self.blocks]
        if self.std is not None:
            numbers: Any = examples.numbers
            came = 0 if numbers is None else numbers.shape[1]
            if came != self.std.size:
                raise InputError(
                    f"{examples.source}: expected {self.std.size:,} features, as in training; got {came:,}."
                )
            if self.mean is not None:
                dense = numbers if isinstance(numbers, np.ndarray) else sp.csr_array(numbers).toarray()
                parts.append(((dense - self.mean) / self.std).astype(np.float32))
            else:
                scale = sp.diags_array((1 / self.std).astype(np.float32))
                parts.append(sp.csr_array(sp.csr_array(numbers) @ scale))
        if len(parts) == 1:
            return parts[0]
        return sp.csr_array(sp.hstack([sp.csr_array(part) for part in parts], dtype=np.float32))

    @property
    def size(self) -> int:
        """Number of columns of the matrix."""
        return sum(len(block.terms) for block in self.blocks) + (0 if self.std is None else self.std.size)

    def describe(self) -> str:
        """Say what the features are, for the terminal."""
        said = [
            f"{len(block.terms):,} {'character 1-3-grams' if block.parameters['analyzer'] == 'char' else kind}"
            for block, kind in zip(self.blocks, ("words", "word pairs"), strict=False)
        ]
        if self.std is not None:
            said.append(f"{self.std.size:,} numbers, {'scaled' if self.mean is None else 'standardised'}")
        return " + ".join(said)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Split into JSON and arrays; :meth:`from_state` puts them together again."""
        arrays = {f"idf.{i}": np.asarray(block.idf, dtype=np.float64) for i, block in enumerate(self.blocks)}
        for name in ("mean", "std"):
            if (value := getattr(self, name)) is not None:
                arrays[f"numbers.{name}"] = value
        blocks = [{"parameters": b.parameters, "terms": b.terms, "weight": b.weight} for b in self.blocks]
        return {"text": blocks}, arrays

    @classmethod
    def from_state(cls, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> "Features":
        """Restore what :meth:`state` returned."""
        blocks = [
            TextBlock(
                {k: tuple(v) if k == "ngram_range" else v for k, v in block["parameters"].items()},
                block["terms"],
                arrays[f"idf.{i}"],
                block["weight"],
            )
            for i, block in enumerate(state["text"])
        ]
        return cls(blocks, arrays.get("numbers.mean"), arrays.get("numbers.std"))


def _fit_blocks(texts: list[str]) -> list[TextBlock]:
    few = len(texts) < FEW_ROWS
    limits = {"min_df": 1 if few else MIN_DF, "max_features": MAX_TERMS}
    if writes_without_spaces(texts):
        blocks = [TextBlock.fit(texts, CHARACTERS | limits)]
    else:
        pair_limits = limits | {"min_df": 1 if few else PAIR_MIN_DF}
        blocks = [
            TextBlock.fit(texts, WORDS | {"ngram_range": (1, 1)} | limits),
            TextBlock.fit(texts, WORDS | {"ngram_range": (2, 2)} | pair_limits, PAIR_WEIGHT),
        ]
    return [block for block in blocks if block is not None]


def writes_without_spaces(texts: Iterable[str], sample: int = 1000) -> bool:
    """Say whether most letters of the first texts are of a script that puts no spaces between words."""
    letters = [c for text, _ in zip(texts, range(sample), strict=False) for c in text[:200] if c.isalpha()]
    spaceless = sum(unicodedata.name(c, "").startswith(_SPACELESS) for c in letters)
    return spaceless > len(letters) / 2
