"""Texts to blocks of a matrix: which terms there are, and what each weighs. Terms of training texts are kept."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

from manyhot.toolkit.models.term_counts import Counted, count_terms, most_frequent, stands_alone

# Words, and beside them pairs of words at half weight, each block with rows of length 1. benchmarks/defaults.py chose
# the weight on training rows; in one joint block the many pairs of a long text would push its words down. A pair must
# be in 5 texts: with 3, Reuters has twice as many, and fitting takes as much longer.
WORDS = {"analyzer": "word", "sublinear_tf": True}
PAIR_WEIGHT = 0.5
MIN_DF = 2
PAIR_MIN_DF = 5
CHARACTERS = {"analyzer": "char", "ngram_range": (1, 3), "sublinear_tf": True}
# Parts of words beside words, where words stand apart: an inflected or misspelt word has most parts in common with what
# it is of. Most of what they cost is the non-zeros of a row, so these have a bound in the mean. Where it is passed, the
# most frequent parts go, which say least; benchmarks/pieces.py compares with keeping these.
PARTS_OF_WORDS = {"analyzer": "char_wb", "ngram_range": (3, 5), "sublinear_tf": True}
CHARACTER_MIN_DF = 3
CHARACTER_TERMS = 60_000
CHARACTER_WEIGHT = 2.0
CHARACTER_NONZEROS = 200
# Longer texts say with their words what parts of words would add: on the training rows of Reuters (76 distinct words a
# text) and debtags (49) the mean of micro- and macro-F1 is 0.2 and 0.3 higher without, in half the time. All sets that
# gain by parts have 30 or fewer.
LONG_TEXT = 40
# The most frequent terms of a block that are kept. Weights are terms x labels: this bounds them where texts are many.
MAX_TERMS = 2**18
# With so few rows a word seen once may be all there is of a label.
FEW_ROWS = 100

SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


@dataclass(frozen=True)
class TextBlock:
    """One TF-IDF block: scikit-learn parameters, terms in column order, idf, and the length of its rows."""

    parameters: dict[str, Any]
    terms: list[str]
    idf: np.ndarray
    weight: float

    @classmethod
    def fit(cls, counts: sp.csr_array, terms: list[str], parameters: dict[str, Any], weight: float) -> "TextBlock":
        """Fit on the counts of training texts."""
        weights = TfidfTransformer(sublinear_tf=parameters["sublinear_tf"]).fit(counts)
        return cls(parameters, terms, weights.idf_, weight)

    @property
    def what(self) -> str:
        """What its terms are."""
        pairs = self.parameters["ngram_range"] == (2, 2)
        names = {"char": "character 1-3-grams", "char_wb": "parts of words", "word": "word pairs" if pairs else "words"}
        return names[self.parameters["analyzer"]]

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """The column of each term."""
        return {term: column for column, term in enumerate(self.terms)}

    @property
    def has_words(self) -> bool:
        """Words are terms, or single characters are where words are not told apart."""
        shortest, longest = self.parameters["ngram_range"]
        return shortest == 1 and (longest == 1 or self.parameters["analyzer"] == "char")

    @cached_property
    def is_word(self) -> np.ndarray:
        """Which of its terms are words, (terms,) bool."""
        alone = self.parameters["analyzer"] == "char"
        return np.array([not alone or stands_alone(term) for term in self.terms], dtype=bool)

    def weighted(self, counts: sp.csr_array) -> sp.csr_array:
        """Return TF-IDF of counts (texts, terms)."""
        weights = TfidfTransformer(sublinear_tf=self.parameters["sublinear_tf"])
        weights.idf_ = self.idf
        found: Any = weights.transform(counts)
        return sp.csr_array(found * np.float32(self.weight))


@cache
def token_pattern() -> str:
    """Write what a word is: letters, digits and the marks that belong to them; or one emoji.

    Most scripts of India and South-East Asia write vowels as marks, Arabic and Hebrew may, and a joiner stands within
    words. `\\w` has none of these, and cuts a word at each. The marks are written out, as patterns have no name
    for them; a run keeps the pattern it was fitted with. Of an emoji of several characters each is a token, without the
    marks for its colour and style; two letters of a flag are one.
    """
    # Marks beyond are of scripts that nobody writes today, or select variants of characters of China and Japan.
    marks = [i for i in (*range(0x300, 0x3100), *range(0xA000, 0x1F000)) if unicodedata.category(chr(i))[0] == "M"]
    marks += [0x200C, 0x200D]
    ends = [i for i, mark in enumerate(marks) if i + 1 == len(marks) or marks[i + 1] != mark + 1]
    starts = [0, *(end + 1 for end in ends[:-1])]
    inside = "".join(
        chr(marks[i]) if i == j else f"{chr(marks[i])}-{chr(marks[j])}" for i, j in zip(starts, ends, strict=True)
    )
    emoji = "\u2600-\u27bf\u231a\u231b\u23e9-\u23fa\u2b1b\u2b1c\u2b50\u2b55\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa"
    emoji += "\U0001f400-\U0001faff"
    return rf"\w+(?:[{inside}]+\w*)*|[\U0001f1e6-\U0001f1ff]{{2}}|[{emoji}]"


def fit_blocks(texts: list[str], *, characters: bool = False) -> list[tuple[TextBlock, sp.csr_array]]:
    """Fit the blocks that texts have terms for, and count these in the same pass.

    Args:
        texts: training texts.
        characters: parts of words are a block too, where words are written apart and texts are not long.
    """
    few = len(texts) < FEW_ROWS
    limits = {"min_df": 1 if few else MIN_DF, "max_features": MAX_TERMS}
    kinds: list[tuple[dict[str, Any], float]]
    if writes_without_spaces(texts):
        kinds = [(CHARACTERS | limits, 1.0)]
    else:
        words = WORDS | {"token_pattern": token_pattern()}
        pair_limits = limits | {"min_df": 1 if few else PAIR_MIN_DF}
        kinds = [
            (words | {"ngram_range": (1, 1)} | limits, 1.0),
            (words | {"ngram_range": (2, 2)} | pair_limits, PAIR_WEIGHT),
        ]
        if characters and _distinct_words(texts, words) <= LONG_TEXT:
            part_limits = {"min_df": 1 if few else CHARACTER_MIN_DF, "max_features": CHARACTER_TERMS}
            kinds.append((PARTS_OF_WORDS | part_limits, CHARACTER_WEIGHT))
    fitted = []
    for (kind, weight), counted in zip(kinds, count_terms(texts, [kind for kind, _ in kinds]), strict=True):
        if kind["analyzer"] == "char_wb":
            if not fitted:  # parts of no words are marks
                continue
            terms, counts = _bounded(kind, counted)
        else:
            terms, counts = most_frequent(counted, kind["min_df"], kind["max_features"])
        if terms:
            fitted.append((TextBlock.fit(counts, terms, kind, weight), counts))
    return fitted


def _distinct_words(texts: list[str], words: dict[str, Any], sample: int = 1000) -> float:
    """Return how many distinct words a text has, the mean of some that stand evenly among all."""
    analyze = CountVectorizer(token_pattern=words["token_pattern"]).build_analyzer()
    some = texts[:: max(len(texts) // sample, 1)]
    return sum(len(set(analyze(text))) for text in some) / max(len(some), 1)


def _bounded(kind: dict[str, Any], counted: Counted) -> tuple[list[str], Any]:
    """Keep as many parts of words as a row may have in the mean, the rarest first."""
    terms, kept = most_frequent(counted, kind["min_df"], kind["max_features"])
    most = CHARACTER_NONZEROS * kept.shape[0]
    if kept.nnz > most:
        texts_of = np.bincount(kept.indices, minlength=len(terms))
        order = np.argsort(texts_of, kind="stable")
        places = np.sort(order[np.cumsum(texts_of[order]) <= most])
        terms, kept = [terms[i] for i in places], sp.csr_array(kept[:, places])
    return terms, kept


def writes_without_spaces(texts: Iterable[str], sample: int = 1000) -> bool:
    """Say whether most letters of the first texts are of a script that puts no spaces between words."""
    letters = [c for text, _ in zip(texts, range(sample), strict=False) for c in text[:200] if c.isalpha()]
    spaceless = sum(unicodedata.name(c, "").startswith(SPACELESS) for c in letters)
    return spaceless > len(letters) / 2
