"""Counts of terms in texts, of several kinds in one pass: a text is taken apart once for its words and their pairs."""

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import CountVectorizer

# Parameters in which kinds made of the same tokens may differ, and those that choose among terms.
OF_KIND = ("ngram_range", "min_df", "max_features", "sublinear_tf")
PAIRS = (2, 2)
# Characters from which on the terms of a text are made one at a time, as often as they are read: in a list those of a
# text of 8 MB take hundreds of megabytes. A list is faster, and most texts are short.
LONG = 2**17
# Different words whose parts are counted at once, where a vocabulary is given.
WORDS_AT_ONCE = 2**17


class Counted(NamedTuple):
    """The terms of texts: their columns; counts, CSR (texts, terms) float32; and how many different words a text has.

    `words` is (texts,), those that have no column among them; of characters side by side those that stand alone, and 0
    of pairs of words and parts of words.
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
    analyzers: dict[str, Callable[[str], Iterable[str]]] = {}
    plan = []
    for kind, vocabulary in zip(kinds, vocabularies or [None] * len(kinds), strict=True):
        if kind.get("analyzer") == "char_wb":
            counts.append(parts := _PartsOfWords(vocabulary, *kind["ngram_range"]))
            analyzers["char_wb"] = _words
            plan.append(("char_wb", False, parts))
            continue
        paired = kind.get("analyzer") == "word" and kind.get("ngram_range") == PAIRS
        is_word = stands_alone if kind.get("analyzer") == "char" else None
        counts.append(counted := _Counts(vocabulary, is_word, has_words=not paired))
        own = {key: value for key, value in kind.items() if key not in OF_KIND}
        own["ngram_range"] = (1, 1) if paired else kind.get("ngram_range", (1, 1))
        key = repr(sorted(own.items()))
        if key not in analyzers:
            analyzers[key] = analyzer(own)
        plan.append((key, paired, counted))
    for text in texts:
        terms = {key: analyze(text) for key, analyze in analyzers.items()}
        for key, paired, counted in plan:
            counted.add(_pairs(terms[key]) if paired else terms[key])
    return [counted.found() for counted in counts]


def analyzer(kind: dict[str, Any]) -> Callable[[str], Iterable[str]]:
    """Return what scikit-learn makes terms of a text with, which of a long text makes one at a time, anew when read."""
    vectorizer = CountVectorizer(**kind)
    analyze: Any = vectorizer.build_analyzer()
    lowest, highest = kind.get("ngram_range", (1, 1))
    if kind.get("analyzer", "word") == "word" and highest == 1:
        pattern = re.compile(vectorizer.token_pattern)
        return lambda text: analyze(text) if len(text) < LONG else _Terms(_tokens, text.lower(), pattern)
    if kind.get("analyzer") == "char":
        lengths = range(lowest, highest + 1)
        return lambda text: analyze(text) if len(text) < LONG else _Terms(_characters, text.lower(), lengths)
    return analyze


def _pairs(terms: Iterable[str]) -> Iterable[str]:
    return _Terms(_joined, terms) if isinstance(terms, _Terms) else _joined(terms)


def _joined(terms: Iterable[str]) -> Iterator[str]:
    return map(" ".join, pairwise(terms))


class _Terms:
    """The terms of a text, made as they are read."""

    def __init__(self, make: Callable[..., Iterator[str]], *arguments: Any) -> None:
        self.make, self.arguments = make, arguments

    def __iter__(self) -> Iterator[str]:
        return self.make(*self.arguments)


def _tokens(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    return (match[pattern.groups] for match in pattern.finditer(text))  # of one group, what is in it


def _characters(text: str, lengths: range) -> Iterator[str]:
    text = re.sub(r"\s\s+", " ", text)
    for length in lengths:
        yield from _substrings(text, length)


def _substrings(text: str, length: int) -> Iterator[str]:
    number = max(len(text) - length, 0) + 1
    return map(text.__getitem__, map(slice, range(number), range(length, length + number)))


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

    def __init__(
        self,
        vocabulary: dict[str, int] | None,
        is_word: Callable[[str], bool] | None = None,
        *,
        has_words: bool = False,
    ) -> None:
        self.grows, self.is_word, self.has_words = vocabulary is None, is_word, has_words
        self.vocabulary: dict[str, int] = defaultdict() if vocabulary is None else vocabulary
        if isinstance(self.vocabulary, defaultdict):
            self.vocabulary.default_factory = self.vocabulary.__len__
        self.columns, self.values, self.ends, self.words = array("i"), array("i"), array("q", [0]), array("i")

    def add(self, terms: Iterable[str]) -> None:
        vocabulary, words = self.vocabulary, 0
        if isinstance(terms, _Terms) and not self.grows:  # nearly all of them are left out
            words = len(set(filter(self.is_word, terms))) if self.has_words else 0
            counter: dict[str, int] = Counter(filter(vocabulary.__contains__, terms))
        else:
            counter = Counter(terms)
            if self.has_words:
                words = len(counter) if self.is_word is None else sum(map(self.is_word, counter))
            if not self.grows:
                counter = {term: number for term, number in counter.items() if term in vocabulary}
        self.words.append(words)
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


def _words(text: str) -> Iterable[str]:
    """Cut a text where scikit-learn's analyzer "char_wb" does."""
    return text.lower().split() if len(text) < LONG else _Terms(_cut_at_spaces, text.lower())


def _cut_at_spaces(text: str) -> Iterator[str]:
    return (match[0] for match in re.finditer(r"\S+", text))


class _PartsOfWords:
    """Counts of the characters side by side within words, and at their ends: each word is cut once, however frequent.

    The terms and counts of scikit-learn's analyzer "char_wb", as the product of texts x words and words x terms. With a
    vocabulary it is taken whenever there are many words, so that memory does not grow with them.
    """

    def __init__(self, vocabulary: dict[str, int] | None, shortest: int, longest: int) -> None:
        self.words, self.terms = _Counts(None), _Counts(vocabulary)
        self.lengths = range(shortest, longest + 1)
        # A long text is several rows, added up at the end.
        self.texts, self.text_of, self.products = 0, array("q"), []

    def add(self, words: Iterable[str]) -> None:
        rest = iter(words)
        while some := list(islice(rest, WORDS_AT_ONCE)):
            self.words.add(some)
            self.text_of.append(self.texts)
            if not self.terms.grows and len(self.words.vocabulary) > WORDS_AT_ONCE:
                self._multiply()
        self.texts += 1

    def _multiply(self) -> None:
        for word in self.words.vocabulary:
            self.terms.add(self._cut(f" {word} "))
        self.products.append(self.words.matrix() @ self.terms.matrix())
        self.words = _Counts(None)
        if not self.terms.grows:
            self.terms = _Counts(self.terms.vocabulary)

    def found(self) -> Counted:
        self._multiply()
        rows: Any = sp.vstack(self.products, format="csr")
        parts = (np.ones(len(self.text_of), np.float32), (self.text_of, np.arange(len(self.text_of))))
        counts: Any = sp.csr_array(parts, shape=(self.texts, len(self.text_of))) @ rows
        counts.sort_indices()
        return Counted(dict(self.terms.vocabulary), counts, np.zeros(self.texts, dtype=np.int64))

    def _cut(self, word: str) -> Iterable[str]:
        lengths = [length for length in self.lengths if length <= len(word)] or self.lengths[:1]  # or the whole word
        return chain.from_iterable([_substrings(word, length) for length in lengths])
