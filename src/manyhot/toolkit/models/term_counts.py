"""Counts of terms in texts, of several kinds in one pass: a text is taken apart once for its words and their pairs."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import CountVectorizer

# What a kind of terms does not share with another that is made of the same tokens, and what chooses among terms.
OF_KIND = ("ngram_range", "min_df", "max_features", "sublinear_tf")
PAIRS = (2, 2)


class Counted(NamedTuple):
    """The terms of texts: their columns; counts, CSR (texts, terms) float32; and how many different words a text has.

    `words` is (texts,), those that have no column among them; of characters side by side those that stand alone.
    """

    vocabulary: dict[str, int]
    counts: Any
    words: np.ndarray


def count_terms(
    texts: Iterable[str], kinds: list[dict[str, Any]], vocabularies: list[dict[str, int]] | None = None
) -> list[Counted]:
    """Count the terms of each text.

    Args:
        texts: any number.
        kinds: parameters of scikit-learn's TfidfVectorizer. Pairs of words are made of the words, if these are a kind
            with the same parameters; each other kind has a pass of its own over a text.
        vocabularies: of each kind, terms to columns; by default all terms, in the order in which they come.

    Returns:
        Of each kind, the vocabulary, the counts, columns of a row sorted, and the words.
    """
    counts: list[_Counts | _PartsOfWords] = []
    analyzers: dict[str, Callable[[str], list[str]]] = {}
    plan = []
    for kind, vocabulary in zip(kinds, vocabularies or [None] * len(kinds), strict=True):
        if kind.get("analyzer") == "char_wb":
            counts.append(parts := _PartsOfWords(vocabulary, *kind["ngram_range"]))
            analyzers["char_wb"] = _words
            plan.append(("char_wb", False, parts))
            continue
        is_word = stands_alone if kind.get("analyzer") == "char" else None
        counts.append(counted := _Counts(vocabulary, is_word))
        paired = kind.get("analyzer") == "word" and kind.get("ngram_range") == PAIRS
        own = {key: value for key, value in kind.items() if key not in OF_KIND}
        own["ngram_range"] = (1, 1) if paired else kind.get("ngram_range", (1, 1))
        key = repr(sorted(own.items()))
        if key not in analyzers:
            analyzers[key] = CountVectorizer(**own).build_analyzer()
        plan.append((key, paired, counted))
    for text in texts:
        terms = {key: analyze(text) for key, analyze in analyzers.items()}
        for key, paired, counted in plan:
            counted.add(map(" ".join, pairwise(terms[key])) if paired else terms[key])
        terms.clear()  # before the next text: the terms of one of 8 MB take 300 MB
    return [counted.found() for counted in counts]


def most_frequent(counted: Counted, least: int, most: int) -> tuple[list[str], Any]:
    """Keep the terms that are in `least` texts or more, of these the `most` that are counted most; sorted."""
    vocabulary, counts, _ = counted
    kept = np.flatnonzero(np.bincount(counts.indices, minlength=counts.shape[1]) >= least)
    if len(kept) > most:
        total = np.bincount(counts.indices, weights=counts.data, minlength=counts.shape[1])[kept]
        kept = kept[np.argsort(-total, kind="stable")[:most]]
    columns = set(kept.tolist())
    terms = sorted(term for term, column in vocabulary.items() if column in columns)
    place = np.full(counts.shape[1], -1)
    place[[vocabulary[term] for term in terms]] = np.arange(len(terms))
    of = place[counts.indices]
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))[of >= 0]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=counts.shape[0]))])
    result: Any = sp.csr_array((counts.data[of >= 0], of[of >= 0], indptr), shape=(counts.shape[0], len(terms)))
    result.sort_indices()
    return terms, result


def stands_alone(term: str) -> bool:
    """Say whether characters side by side are one character that can be read."""
    return len(term) == 1 and not term.isspace()


class _Counts:
    """A matrix that grows by a row a text; `is_word` says which terms are words, and None that all are."""

    def __init__(self, vocabulary: dict[str, int] | None, is_word: Callable[[str], bool] | None = None) -> None:
        self.grows, self.is_word = vocabulary is None, is_word
        self.vocabulary: dict[str, int] = defaultdict() if vocabulary is None else vocabulary
        if isinstance(self.vocabulary, defaultdict):
            self.vocabulary.default_factory = self.vocabulary.__len__
        self.columns, self.values, self.ends, self.words = array("i"), array("i"), array("q", [0]), array("i")

    def add(self, terms: Iterable[str]) -> None:
        counter, vocabulary = Counter(terms), self.vocabulary
        self.words.append(len(counter) if self.is_word is None else sum(map(self.is_word, counter)))
        if not self.grows:
            counter = {term: number for term, number in counter.items() if term in vocabulary}
        self.columns.extend([vocabulary[term] for term in counter])
        self.values.extend(counter.values())
        self.ends.append(len(self.columns))

    def found(self) -> Counted:
        return Counted(dict(self.vocabulary), self.matrix(), np.array(self.words, dtype=np.int64))

    def matrix(self) -> Any:
        values = np.array(self.values, dtype=np.float32)
        parts = (values, np.array(self.columns, dtype=np.int32), np.array(self.ends, dtype=np.int64))
        matrix: Any = sp.csr_array(parts, shape=(len(self.ends) - 1, len(self.vocabulary)))
        matrix.sort_indices()
        return matrix


def _words(text: str) -> list[str]:
    """Cut a text where scikit-learn's analyzer "char_wb" does."""
    return text.lower().split()


class _PartsOfWords:
    """Counts of the characters side by side within words, and at their ends: each word is cut once, however frequent.

    The terms and counts of scikit-learn's analyzer "char_wb", as the product of texts x words and words x terms.
    """

    def __init__(self, vocabulary: dict[str, int] | None, shortest: int, longest: int) -> None:
        self.words, self.terms = _Counts(None), _Counts(vocabulary)
        self.lengths = range(shortest, longest + 1)

    def add(self, words: Iterable[str]) -> None:
        self.words.add(words)

    def found(self) -> Counted:
        texts = self.words.matrix()
        for word in self.words.vocabulary:
            self.terms.add(self._cut(f" {word} "))
        counts: Any = texts @ self.terms.matrix()
        counts.sort_indices()
        return Counted(dict(self.terms.vocabulary), counts, np.array(self.words.words, dtype=np.int64))

    def _cut(self, word: str) -> list[str]:
        parts = []
        for length in self.lengths:
            parts += [word[i : i + length] for i in range(max(len(word) - length, 0) + 1)]
            if len(word) <= length:  # whole, and a longer term is none
                break
        return parts
