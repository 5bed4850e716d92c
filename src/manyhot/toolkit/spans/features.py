"""Tokens to the ids of their features: what a word looks like, or a character and its neighbours."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

# What is known of a token: of a word its lower-cased form, its ends and its shape; of a single character itself, with
# the one before it and the one after it, and its shape.
KINDS = ("form", "first", "first 3", "last 3", "last 4", "shape", "character", "left", "right")
WIDTH = 6
# No feature: single characters have fewer than words.
NONE = -1
# Features seen less often in training share one vector of their kind.
LEAST = 2
# Runs of one kind in a shape are cut at so many.
RUN = 3
BEFORE, AFTER = "\x02", "\x03"


class Vocabulary:
    """Which features have a vector of their own.

    Ids are those of KINDS, for features seen too seldom, and then one a feature.

    Attributes:
        terms: (kind, text) of each feature, in the order of ids.
    """

    def __init__(self, terms: Sequence[tuple[int, str]]) -> None:
        self.terms = [(kind, text) for kind, text in terms]
        self.ids = {term: len(KINDS) + i for i, term in enumerate(self.terms)}
        self._words: dict[str, list[int]] = {}

    @classmethod
    def fit(cls, rows: Sequence[Sequence[str]]) -> "Vocabulary":
        """Take the features that are seen twice or more."""
        counts: Counter[tuple[int, str]] = Counter()
        for token, number in Counter(token for tokens in rows for token in tokens if len(token) > 1).items():
            for feature in of_word(token):
                counts[feature] += number
        for tokens in rows:
            for i, token in enumerate(tokens):
                if len(token) == 1:
                    counts.update(of_character(tokens, i))
        return cls(sorted(feature for feature, count in counts.items() if count >= LEAST))

    @property
    def size(self) -> int:
        """How many vectors there are."""
        return len(KINDS) + len(self.terms)

    def transform(self, tokens: Sequence[str]) -> np.ndarray:
        """Return the ids of each token's features, (tokens, WIDTH) int32; NONE where it has fewer."""
        ids = np.full((len(tokens), WIDTH), NONE, dtype=np.int32)
        for i, token in enumerate(tokens):
            if len(token) > 1:
                if (row := self._words.get(token)) is None:
                    row = self._words[token] = self._ids(of_word(token))
                ids[i] = row
            else:
                features = of_character(tokens, i)
                ids[i, : len(features)] = self._ids(features)
        return ids

    def _ids(self, features: Sequence[tuple[int, str]]) -> list[int]:
        return [self.ids.get(feature, feature[0]) for feature in features]

    def state(self) -> list[list[Any]]:
        """Return what terms.json holds: a list of texts for each kind."""
        texts: list[list[str]] = [[] for _ in KINDS]
        for kind, text in self.terms:
            texts[kind].append(text)
        return [[kind, texts[i]] for i, kind in enumerate(KINDS)]

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> "Vocabulary":
        """Restore what :meth:`state` returned.

        Raises:
            ValueError: other kinds than there are, or what is no text.
        """
        if [kind for kind, _ in state] != list(KINDS):
            raise ValueError(f"expected the kinds of features {', '.join(KINDS)}")
        terms = [(i, text) for i, (_, texts) in enumerate(state) for text in texts]
        if not all(isinstance(text, str) for _, text in terms):
            raise ValueError("expected features that are text")
        return cls(terms)


def of_word(token: str) -> list[tuple[int, str]]:
    """Return (kind, text) of each feature of a token of several characters."""
    return list(enumerate((token.lower(), token[0], token[:3], token[-3:], token[-4:], shape(token))))


def of_character(tokens: Sequence[str], i: int) -> list[tuple[int, str]]:
    """Return (kind, text) of each feature of a token of one character, with what stands beside it."""
    token = tokens[i]
    left = tokens[i - 1][-1] if i else BEFORE
    right = tokens[i + 1][0] if i + 1 < len(tokens) else AFTER
    return [(6, token), (7, left + token), (8, token + right), (5, shape(token))]


def shape(token: str) -> str:
    """Write capitals as X, other letters as x, digits as d; of a run no more than three.

    Example:
        >>> shape("Ecce"), shape("4:26"), shape("US-Dollar")
        ('Xxxx', 'd:dd', 'XX-Xxxx')
    """
    out: list[str] = []
    for character in token:
        mark = "d" if character.isdigit() else "X" if character.isupper() else "x" if character.isalpha() else character
        if out[-RUN:] != [mark] * RUN:
            out.append(mark)
    return "".join(out)
