"""Texts and numbers to one matrix; what is fitted on training rows is saved as JSON and arrays."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
from sklearn.preprocessing import StandardScaler

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.kernel import Kernel
from manyhot.toolkit.models.meaning import Meaning
from manyhot.toolkit.models.pretrained import Encoder, Tokens
from manyhot.toolkit.models.term_blocks import TextBlock, fit_blocks
from manyhot.toolkit.models.term_counts import Counted, count_terms
from manyhot.toolkit.read.cells import counted
from manyhot.toolkit.read.examples import Examples

# np.ndarray or scipy's csr_array, (rows, features) float32; scipy carries no types.
DesignMatrix = Any

# With a smaller share of its words known to training, the labels of a text are little more than a guess.
FEW_KNOWN = 0.5
# Numbers with a larger share of non-zeros than this are held dense.
DENSE = 0.3
# How far the squared length of a row may be from 1 where files round numbers to two digits and more.
ROUNDED = 0.05


@dataclass(frozen=True)
class Category:
    """The values of one column that have a column of the matrix; None is a missing cell. All others share the last."""

    values: list[str | None]

    @classmethod
    def fit(cls, cells: pl.Series) -> "Category":
        """Keep the values of two rows or more: one row teaches nothing, and those of one row stand for the unseen."""
        counts = cells.value_counts().filter(pl.col("count") > 1)
        return cls(sorted(counts[cells.name].to_list(), key=lambda value: (value is None, value)))

    def transform(self, cells: pl.Series) -> sp.csr_array:
        """Return (rows, values + 1) of 0 and 1."""
        known = {value: i for i, value in enumerate(self.values)}
        other = len(known)
        codes = np.array([known.get(value, other) for value in cells.to_list()], dtype=np.int64)
        ones, rows = np.ones(len(codes), dtype=np.float32), np.arange(len(codes))
        return sp.csr_array((ones, (rows, codes)), shape=(len(codes), self.size))

    @property
    def size(self) -> int:
        """Number of columns of the matrix."""
        return len(self.values) + 1


def _bare(value: str) -> str:
    return value.casefold().lstrip("0")


@dataclass(frozen=True)
class Features:
    """Everything between a row as read and a row of the matrix.

    Attributes:
        blocks: of the texts.
        mean: of each number over the training rows that have it; it stands in for a missing one.
        std: of each number, which it is divided by; 1 for a constant, and for sparse rows that come with length 1.
        centred: whether the mean is subtracted; sparse numbers are scaled alone, since centring would fill the matrix.
        missing: the positions of the numbers that training had missing: each has a column that says where.
        categories: one for each column of them.
        reader: the numbers of an encoder beside the blocks, or tokens, which leave texts to the model.
        kernel: of dense numbers; its columns are the last.
    """

    blocks: list[TextBlock] = field(default_factory=list)
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    centred: bool = True
    missing: list[int] = field(default_factory=list)
    categories: list[Category] = field(default_factory=list)
    reader: Meaning | Tokens | None = None
    kernel: Kernel | None = None

    @classmethod
    def fit(cls, examples: Examples, reader: Encoder | Tokens | None = None, **options: bool) -> "Features":
        """Fit on training rows; see :meth:`fit_transform`."""
        return cls.fit_transform(examples, reader, **options)[0]

    @classmethod
    def fit_transform(
        cls,
        examples: Examples,
        reader: Encoder | Tokens | None = None,
        *,
        words: bool = True,
        characters: bool = False,
        kernel: bool = False,
    ) -> tuple["Features", DesignMatrix]:
        """Fit on training rows and return their matrix, after one pass over texts.

        Args:
            examples: the rows.
            reader: an encoder makes texts numbers, tokens leave that to the model, in place of all else.
            words: whether an encoder has words and pairs of words beside it.
            characters: whether parts of words stand beside words.
            kernel: whether columns of a kernel stand beside dense numbers.

        Raises:
            InputError: texts without a single word, or none at all for a reader.
        """
        texts: list[tuple[TextBlock, sp.csr_array]] = []
        mean, std, sparse = None, None, False
        if reader is not None and examples.texts is None:
            raise InputError(f"{examples.source}: an encoder reads text, got only numbers; use --model linear or mlp.")
        if isinstance(reader, Tokens):
            if examples.numbers is not None or examples.categories is not None:
                raise InputError(
                    f"{examples.source}: fine_tune reads text alone; name its columns with --text, or leave "
                    "fine_tune out."
                )
            fitted = cls(reader=reader)
            return fitted, fitted.transform(examples)
        meaning = None if reader is None else Meaning.fit(reader, examples.texts or [])
        if examples.texts is not None and (words or meaning is None):
            texts = fit_blocks(examples.texts, characters=characters)
            if not texts and meaning is None:
                raise InputError(
                    f"{examples.source}: expected texts with words, but no word or character is in two rows or more; "
                    "name the text columns with --text."
                )
        numbers: Any = examples.numbers
        missing: list[int] = []
        if numbers is not None:
            sparse = sp.issparse(numbers) and numbers.nnz < DENSE * numbers.shape[0] * numbers.shape[1]
            dense = numbers if sparse or isinstance(numbers, np.ndarray) else sp.csr_array(numbers).toarray()
            with np.errstate(invalid="ignore"):  # a column of nothing but missing numbers, which is 0 throughout
                scaler: Any = StandardScaler(with_mean=not sparse).fit(dense)  # leaves missing numbers out
            missing = np.flatnonzero(examples.missing_counts()).tolist()
            mean, std = np.nan_to_num(scaler.mean_), np.nan_to_num(scaler.scale_, nan=1.0)
            if sparse and _have_length_one(numbers):
                std = np.ones_like(std)
        categories = [] if examples.categories is None else [Category.fit(cells) for cells in examples.categories]
        fitted = cls([block for block, _ in texts], mean, std, not sparse, missing, categories, meaning)
        if kernel and std is not None and fitted.centred:
            fitted = replace(fitted, kernel=Kernel.fit(fitted._standardised(fitted._filled(numbers)[0])))
        return fitted, fitted._joined(examples, [counts for _, counts in texts])

    def transform(self, examples: Examples) -> DesignMatrix:
        """Return (rows, features) float32: dense for dense numbers alone, else CSR; or token ids.

        Raises:
            InputError: another number of features than in training.
        """
        return self.transform_and_judge(examples)[0]

    def transform_and_judge(self, examples: Examples) -> tuple[DesignMatrix, np.ndarray]:
        """Return what :meth:`transform` does, and :meth:`unknown_shares` of the texts: in one pass."""
        texts = examples.texts or [""] * examples.rows
        if isinstance(self.reader, Tokens):
            return self.reader.transform(texts), np.full(examples.rows, np.nan)
        counted = _counted(self.blocks, texts)
        return self._joined(examples, [of.counts for of in counted]), _unknown(self.blocks, counted, examples.rows)

    def unknown_shares(self, texts: list[str], among: int | None = None) -> np.ndarray:
        """Return the share of the different words of each text, or of its characters, that training did not know.

        Args:
            texts: new ones.
            among: or texts of so many training rows, each taken as if training had had the others alone.

        Returns:
            (texts,) float64; NaN of a text without words, and where no words are read.
        """
        blocks = [block for block in self.blocks if block.has_words]
        return _unknown(blocks, _counted(blocks, texts), len(texts), among)

    def few_known(self, texts: list[str]) -> np.ndarray:
        """Say of which texts training knew fewer than half of the words, (texts,) bool."""
        return little_known(self.unknown_shares(texts))

    def known_categories(self, examples: Examples) -> np.ndarray:
        """Count for each column of categories the cells that are filled, known, and unknown by their zeros or case.

        Returns:
            (columns, 3): 1067 beside a known 01067 is of the last kind.
        """
        cells = [] if examples.categories is None else [examples.categories[:, i] for i in range(len(self.categories))]
        found = np.zeros((len(self.categories), 3), dtype=np.int64)
        for i, (column, category) in enumerate(zip(cells, self.categories, strict=True)):
            filled = column.drop_nulls()
            other = filled.filter(~filled.is_in([value for value in category.values if value is not None]))
            alike = {_bare(value) for value in category.values if value is not None}
            found[i] = len(filled), len(filled) - len(other), sum(_bare(value) in alike for value in other)
        return found

    def _joined(self, examples: Examples, counts: list[sp.csr_array]) -> DesignMatrix:
        """Put the parts of the matrix beside each other; texts come as counts."""
        parts: list[Any] = [block.weighted(of) for block, of in zip(self.blocks, counts, strict=True)]
        if self.reader is not None and not isinstance(self.reader, Tokens):
            parts.append(self.reader.transform(examples.texts or [""] * examples.rows))
        nearness: list[np.ndarray] = []
        if self.std is not None:
            numbers: Any = examples.numbers
            came = 0 if numbers is None else numbers.shape[1]
            if came != self.std.size:
                raise InputError(
                    f"{examples.source}: expected {self.std.size:,} features, as in training; got {came:,}."
                )
            numbers, absent = self._filled(numbers)
            if self.centred:
                parts.append(self._standardised(numbers))
                nearness = [] if self.kernel is None else [self.kernel.transform(parts[-1])]
            else:
                scale = sp.diags_array((1 / self.std).astype(np.float32))
                parts.append(sp.csr_array(sp.csr_array(numbers) @ scale))
            if self.missing:
                parts.append(absent if isinstance(parts[-1], np.ndarray) else sp.csr_array(absent))
        columns = [] if examples.categories is None else list(examples.categories)
        if len(columns) != len(self.categories):
            raise InputError(
                f"{examples.source}: expected {len(self.categories)} columns of categories, as in training; got "
                f"{len(columns)}; give a table with the columns of training"
            )
        parts += [category.transform(cells) for category, cells in zip(self.categories, columns, strict=True)]
        parts += nearness
        if all(isinstance(part, np.ndarray) for part in parts):
            return parts[0] if len(parts) == 1 else np.hstack(parts)
        return sp.csr_array(sp.hstack([sp.csr_array(part) for part in parts], dtype=np.float32))

    def _standardised(self, numbers: Any) -> np.ndarray:
        dense = numbers if isinstance(numbers, np.ndarray) else sp.csr_array(numbers).toarray()
        return ((dense - self.mean) / self.std).astype(np.float32)

    def _filled(self, numbers: Any) -> tuple[Any, np.ndarray]:
        """Put the means in place of missing numbers, and say where those were that training had missing too."""
        absent = np.zeros((numbers.shape[0], len(self.missing)), dtype=np.float32)
        values = numbers if isinstance(numbers, np.ndarray) else numbers.data
        places = np.flatnonzero(np.isnan(values))
        if not places.size:
            return numbers, absent
        if isinstance(numbers, np.ndarray):
            row, column = np.divmod(places, numbers.shape[1])
        else:
            row, column = np.searchsorted(numbers.indptr, places, side="right") - 1, numbers.indices[places]
        numbers = numbers.copy()
        (numbers if isinstance(numbers, np.ndarray) else numbers.data).flat[places] = np.asarray(self.mean)[column]
        position = np.full(numbers.shape[1], -1)
        position[self.missing] = np.arange(len(self.missing))
        reported = position[column] >= 0
        absent[row[reported], position[column][reported]] = 1
        return numbers, absent

    @property
    def size(self) -> int:
        """Number of columns of the matrix."""
        return self.size_without_kernel + (0 if self.kernel is None else self.kernel.size)

    @property
    def size_without_kernel(self) -> int:
        """Number of columns of the matrix before those of the kernel, which are the last."""
        numbers = 0 if self.std is None else self.std.size + len(self.missing)
        made = self.reader.size if isinstance(self.reader, Meaning) else 0
        return sum(len(block.terms) for block in self.blocks) + made + numbers + sum(c.size for c in self.categories)

    @property
    def reads_text(self) -> bool:
        """Texts come in."""
        return bool(self.blocks) or self.reader is not None

    @property
    def reads_numbers(self) -> bool:
        """Numbers or categories come in."""
        return bool(self.categories) or self.std is not None

    def describe(self) -> str:
        """Say what the features are, for the terminal."""
        if isinstance(self.reader, Tokens):
            return f"texts of at most {self.reader.limit:,} tokens"
        said = [f"{len(block.terms):,} {block.what}" for block in self.blocks]
        if self.reader is not None:
            said.append(self.reader.describe())
        if self.std is not None:
            how = "standardised" if self.centred else "scaled" if (self.std != 1).any() else "of rows of length 1"
            said.append(f"{counted(self.std.size, 'number')}, {how}")
        if self.missing:
            said.append(f"{len(self.missing):,} for missing cells")
        if self.categories:
            said.append(f"{sum(category.size for category in self.categories):,} for values of categories")
        if self.kernel is not None:
            said.append(f"{self.kernel.size:,} for nearness to {len(self.kernel.landmarks):,} rows")
        return " + ".join(said)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Split into JSON and arrays; :meth:`from_state` puts them together again."""
        arrays = {f"idf.{i}": np.asarray(block.idf, dtype=np.float64) for i, block in enumerate(self.blocks)}
        for name in ("mean", "std"):
            if (value := getattr(self, name)) is not None:
                arrays[f"numbers.{name}"] = value
        arrays |= {} if self.kernel is None else self.kernel.arrays()
        blocks = [{"parameters": b.parameters, "terms": b.terms, "weight": b.weight} for b in self.blocks]
        categories = [category.values for category in self.categories]
        state: dict[str, Any] = {
            "text": blocks,
            "centred": self.centred,
            "missing": self.missing,
            "categories": categories,
        }
        if isinstance(self.reader, Tokens):
            state["tokens"] = {"tokenizer": self.reader.tokenizer, "limit": self.reader.limit}
        elif self.reader is not None:
            state["encoder"], weights = self.reader.state()
            arrays |= weights
        return state, arrays

    @classmethod
    def from_state(cls, state: dict[str, Any], arrays: dict[str, np.ndarray], device: str = "cpu") -> "Features":
        """Restore what :meth:`state` returned; an encoder on this device."""
        blocks = [
            TextBlock(
                {k: tuple(v) if k == "ngram_range" else v for k, v in block["parameters"].items()},
                block["terms"],
                arrays[f"idf.{i}"],
                block["weight"],
            )
            for i, block in enumerate(state["text"])
        ]
        reader: Meaning | Tokens | None = None
        if "tokens" in state:
            reader = Tokens(state["tokens"]["tokenizer"], int(state["tokens"]["limit"]))
        elif "encoder" in state:
            reader = Meaning.from_state(state["encoder"], arrays, device)
        return cls(
            blocks,
            arrays.get("numbers.mean"),
            arrays.get("numbers.std"),
            state["centred"],
            missing=state["missing"],
            categories=[Category(values) for values in state["categories"]],
            reader=reader,
            kernel=Kernel.restored(arrays, arrays["numbers.std"].size) if "kernel.basis" in arrays else None,
        )


def _counted(blocks: list[TextBlock], texts: list[str]) -> list[Counted]:
    return count_terms(texts, [b.parameters for b in blocks], [b.vocabulary for b in blocks]) if blocks else []


def _unknown(blocks: list[TextBlock], counted: list[Counted], rows: int, among: int | None = None) -> np.ndarray:
    for block, (_, counts, words) in zip(blocks, counted, strict=True):
        if block.has_words:
            row, is_known = np.repeat(np.arange(rows), np.diff(counts.indptr)), block.is_word
            if among is not None:
                # idf is log((1 + n) / (1 + rows)) + 1 (scikit-learn's smooth_idf), and one of the rows is the text's.
                rows_with = np.rint((1 + among) / np.exp(block.idf - 1)) - 1
                is_known = is_known & (rows_with > block.parameters["min_df"])
            known = np.bincount(row[is_known[counts.indices]], minlength=rows)
            return np.where(words > 0, 1 - known / np.maximum(words, 1), np.nan)
    return np.full(rows, np.nan)


def _have_length_one(numbers: Any) -> bool:
    """Say whether all sparse rows that have a number have length 1: then somebody has weighed them, as TF-IDF does.

    To divide their columns would undo that. It would also blow up numbers that one row or two have, by as much as the
    rows held out have part in: on rows drawn by topic the score of these was 2 points above that of new rows.
    """
    squares = np.asarray(sp.csr_array(numbers).multiply(sp.csr_array(numbers)).sum(1)).ravel()
    squares = squares[squares != 0]
    return squares.size > 0 and bool((np.abs(squares - 1) < ROUNDED).all())


def little_known(unknown: np.ndarray) -> np.ndarray:
    """Say for which shares of unknown words labels are little more than a guess; for none of texts without words."""
    return unknown > 1 - FEW_KNOWN
