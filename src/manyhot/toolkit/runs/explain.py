r"""Why a label: its score as the sum of what the row has without any word, and of what each of its parts adds.

.. math::
    s_i(x) = b_i(x) + \sum_j x_j w_{ji}(x)

For a linear model, w are its weights and b its bias. A network with one hidden layer is linear around each row, where w
is its gradient: gradient times input, and an exact sum there too. A fine-tuned encoder has no such form: there a word
adds what the score loses without it.

Parts of words are added to the words they stand in, by how many of their characters do. Probabilities are calibrated:
:math:`\mathrm{logit}\, p_i = s_i / T_i + o_i`, so that in log-odds of the stated probability each part is divided by T.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from manyhot.toolkit.errors import shown
from manyhot.toolkit.models.features import DesignMatrix, Features
from manyhot.toolkit.models.model import Model
from manyhot.toolkit.models.pretrained import Tokens
from manyhot.toolkit.models.term_blocks import TextBlock, token_pattern
from manyhot.toolkit.models.term_counts import analyzer
from manyhot.toolkit.read.cells import counted
from manyhot.toolkit.read.columns import Columns
from manyhot.toolkit.read.examples import Examples

# The kind of part that is their vote.
NEIGHBOURS = "neighbours"


class Part(NamedTuple):
    """What a part of a row adds to the score of a label.

    Attributes:
        kind: "word", "pair", "characters", "number", "category"; or of what cannot be told apart "meaning", the numbers
            of an encoder, "nearness", of all numbers to those of some training rows, and "neighbours", the labels of
            the training rows most like this one, where these have a vote.
        name: the word or words, or a column with its value.
        score: what it adds; below 0 it speaks against the label.
    """

    kind: str
    name: str
    score: float


class Reason(NamedTuple):
    """Why a label has its score.

    Attributes:
        name: of the label.
        score: the logit; above 0 the label is predicted, where the number of labels of a row allows it.
        prob: the probability.
        predicted: whether it is.
        base: the score of a row without any word, or whose numbers are all the mean.
        parts: the largest first; their scores and the base add up to the score.
    """

    name: str
    score: float
    prob: float
    predicted: bool
    base: float
    parts: list[Part]

    @property
    def share(self) -> float | None:
        """The share of neighbours in all that speaks for the label or against it; None where they have no vote."""
        votes = [abs(part.score) for part in self.parts if part.kind == NEIGHBOURS]
        return votes[0] / sum(abs(part.score) for part in self.parts) if votes else None


class Explained(NamedTuple):
    """Why a row has its labels, and how much of it training knew.

    Attributes:
        labels: those predicted, or those asked for, the most probable first.
        words: how many different words the text has; None where a run does not read words.
        unknown: those of them that training did not know.
    """

    labels: list[Reason]
    words: int | None
    unknown: list[str]

    @property
    def known(self) -> str | None:
        """Say how many words are known; None where a run does not read words."""
        return None if self.words is None else f"{self.words - len(self.unknown)} of {self.words} words known"


# The parts of a row that a column belongs to, each a kind and a name, with the share of it that they have.
Owners = list[tuple[tuple[str, str], float]]


class Sums(NamedTuple):
    """The score of labels of one row: (labels,) without any part, and parts with what they add, (parts, labels)."""

    base: np.ndarray
    parts: list[tuple[str, str]]
    scores: np.ndarray

    def with_votes(self, votes: np.ndarray) -> "Sums":
        """Return the sums with what neighbours add, (labels,), as a part more."""
        part = (NEIGHBOURS, "the training rows most like it")
        return Sums(self.base, [*self.parts, part], np.vstack([self.scores, votes]))

    def of(self, label: int) -> list[Part]:
        """Return the parts of one label that add anything, the largest first."""
        scores = self.scores[:, label]
        order = np.lexsort((np.arange(len(scores)), -np.abs(scores)))
        return [Part(self.parts[i][0], self.parts[i][1], float(scores[i])) for i in order.tolist() if scores[i]]


def sums(
    features: Features, model: Model, columns: Columns, examples: Examples, row: int, labels: np.ndarray
) -> Sums | None:
    """Part the scores of `labels` of one row; None of a model whose scores are no sum over the columns of a matrix."""
    one = examples.taken(np.array([row]))
    matrix: DesignMatrix = sp.csr_array(features.transform(one))
    used, values = matrix.indices, matrix.data.astype(np.float64)
    around = model.around(used, values, labels)
    if around is None:
        return None
    slopes, base = around
    names: dict[tuple[str, str], int] = {}
    cells = [
        (names.setdefault(part, len(names)), place, share)
        for place, column in enumerate(_named(features, columns, one, used))
        for part, share in column
    ]
    part, place = (np.array([cell[i] for cell in cells], dtype=np.int64) for i in (0, 1))
    share = np.array([cell[2] for cell in cells], dtype=np.float64)
    shares = sp.csr_array((share, (part, place)), shape=(len(names), len(used)))
    return Sums(base, list(names), shares @ (values[:, None] * slopes))


def _named(features: Features, columns: Columns, one: Examples, used: np.ndarray) -> Iterator[Owners]:
    """Yield for each column that a row uses which parts it belongs to, and how much of it to each."""
    text = "" if one.texts is None else one.texts[0]
    spans: list[tuple[int, Callable[[int], Owners]]] = []
    for block in features.blocks:
        spans.append((len(block.terms), _terms(block, text, features)))
    if isinstance(features.reader, Tokens):
        raise TypeError("tokens are no columns")
    if features.reader is not None:
        name = features.reader.encoder.name
        spans.append((features.reader.size, lambda column: [(("meaning", name), 1.0)]))
    if features.std is not None:
        numbers = features.std.size
        said = [_number(columns, one, column, numbers) for column in range(numbers)] if numbers <= MOST_NAMED else None

        def number(column: int) -> Owners:
            return [(("number", said[column] if said else _number(columns, one, column, numbers)), 1.0)]

        spans += [(numbers, number), (len(features.missing), lambda column: number(features.missing[column]))]
    for i, category in enumerate(features.categories):
        value = None if one.categories is None else one.categories.row(0)[i]
        said_of = f"{columns.categories[i]}: {'missing' if value is None else value}"
        spans.append((category.size, lambda column, said_of=said_of: [(("category", said_of), 1.0)]))
    if features.kernel is not None:
        spans.append((features.kernel.size, lambda column: [(("nearness", "all numbers together"), 1.0)]))
    starts = np.cumsum([0, *(size for size, _ in spans)])
    for column in used.tolist():
        i = int(np.searchsorted(starts, column, side="right")) - 1
        yield spans[i][1](column - int(starts[i]))


# Columns whose names are made at once.
MOST_NAMED = 1000


def _number(columns: Columns, one: Examples, column: int, numbers: int) -> str:
    name = columns.features[column] if len(columns.features) == numbers else f"feature {column + 1}"
    value = float(sp.csr_array(one.numbers)[0, column])
    return f"{name}: {'missing' if np.isnan(value) else f'{value:g}'}"


def _terms(block: TextBlock, text: str, features: Features) -> Callable[[int], Owners]:
    """Return what names the columns of a block of a text."""
    analyzer, words = block.parameters["analyzer"], block.parameters["ngram_range"][1]
    if analyzer == "char_wb":
        owners = owners_of_parts(text, block.parameters["ngram_range"], pattern_of(features))

        def shared(column: int) -> Owners:
            return [(("word", word), share) for word, share in owners[block.terms[column]].items()]

        return shared
    kind = "characters" if analyzer == "char" else "word" if words == 1 else "pair"
    return lambda column: [((kind, block.terms[column]), 1.0)]


def owners_of_parts(text: str, lengths: tuple[int, int], pattern: str) -> dict[str, dict[str, float]]:
    """Say of each part of a word (scikit-learn's analyzer "char_wb") to which words of a text it belongs.

    A part belongs to the words its characters stand in, in that measure, and where it stands in several places to all
    of them. What is between two spaces and holds no word, such as "!!!", stands for itself.

    Returns:
        For each part, words with shares that add up to 1.
    """
    found: dict[str, Counter[str]] = {}
    words = re.compile(pattern)
    for token, times in Counter(text.lower().split()).items():
        inside = [(match.start() + 1, match.end() + 1, match[0]) for match in words.finditer(token)]
        padded = f" {token} "
        for part, start in parts_of_word(padded, lengths):
            over = [(word, min(end, start + len(part)) - max(begin, start)) for begin, end, word in inside]
            over = [(word, characters) for word, characters in over if characters > 0] or [(token, 1)]
            total = sum(characters for _, characters in over)
            owner = found.setdefault(part, Counter())
            for word, characters in over:
                owner[word] += times * characters / total  # pyright: ignore[reportArgumentType]
    return {part: {word: share / sum(owner.values()) for word, share in owner.items()} for part, owner in found.items()}


def parts_of_word(padded: str, lengths: tuple[int, int]) -> Iterator[tuple[str, int]]:
    """Yield the parts of a word between spaces, and where each begins; a word that is shorter is one part, once."""
    for length in range(lengths[0], lengths[1] + 1):
        yield from ((padded[i : i + length], i) for i in range(max(len(padded) - length, 0) + 1))
        if len(padded) <= length:
            return


def pattern_of(features: Features) -> str:
    """Return what a word is to a run."""
    return next((b.parameters["token_pattern"] for b in features.blocks if "token_pattern" in b.parameters), None) or (
        token_pattern()
    )


def without_each_word(score: Callable[[list[str]], np.ndarray], text: str, labels: np.ndarray) -> Sums:
    """Part the scores of a text by what they lose without each of its words, all its places at once.

    Args:
        score: texts to logits (texts, all labels).
        text: the text.
        labels: those to look at.
    """
    pattern = re.compile(token_pattern())
    words = list(dict.fromkeys(match[0].lower() for match in pattern.finditer(text)))

    def without(word: str) -> str:
        return pattern.sub(lambda match: "" if match[0].lower() == word else match[0], text)

    scores = score([text, *map(without, words)])[:, labels].astype(np.float64)
    lost = scores[0] - scores[1:]
    return Sums(scores[0] - lost.sum(0), [("word", word) for word in words], lost)


class Words(NamedTuple):
    """The different words of a text, or characters where a run reads these, and those that training did not know."""

    all: list[str]
    unknown: list[str]


def words_of(features: Features) -> Callable[[str], Words] | None:
    """Return what parts a text into words that training knew and others; None where a run does not read words."""
    for block in features.blocks:
        if not block.has_words:
            continue
        if block.parameters["analyzer"] == "char":
            return lambda text: _told_apart((c for c in text.lower() if not c.isspace()), block)
        analyze = _analyzer(block.parameters["token_pattern"])
        return lambda text: _told_apart(analyze(text), block)
    return None


def _told_apart(words: Any, block: TextBlock) -> Words:
    different = list(dict.fromkeys(words))
    return Words(different, [word for word in different if word not in block.vocabulary])


@lru_cache
def _analyzer(pattern: str) -> Callable[[str], Iterable[str]]:
    return analyzer({"token_pattern": pattern})


# With fewer cells a column of values that training had not is no surprise.
FEW_CELLS = 5


def unseen(counts: np.ndarray, names: Sequence[str]) -> list[str]:
    """Say of which columns of categories cells are not written as in training, by what `known_categories` counts."""
    notes = []
    for name, (cells, known, alike) in zip(names, counts.tolist(), strict=True):
        if alike:
            notes.append(
                f"column {shown(name)}: {counted(alike, 'cell')} of {cells:,} differ from a value of training in zeros "
                "before it or in case alone, and so say nothing; write them as there, 01067 with its 0"
            )
        elif cells >= FEW_CELLS and not known:
            notes.append(
                f"column {shown(name)}: none of {cells:,} cells has a value that training had, and so they say "
                "nothing; write them as the training file did"
            )
    return notes


def guessed(few: int, rows: int) -> str | None:
    """Say what few known words mean; None where there are none such texts."""
    if not few:
        return None
    which = "the text has" if rows == 1 else "1 text has" if few == 1 else f"{few:,} of {rows:,} texts have"
    which = f"1 of {rows:,} texts has" if few == 1 and rows > 1 else which
    return (
        f"{which} more words that training did not know than words that it did: labels there are little more than a "
        'guess; `manyhot explain RUN "text"` or run.explain(texts) says which words are known'
    )
