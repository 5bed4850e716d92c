"""Features and targets as matrices of numbers: NAME.X.npz or an array, NAME.Y.npz or an array, and labels.txt."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from manyhot.targets import UNKNOWN
from manyhot.toolkit.errors import InputError, first_line
from manyhot.toolkit.read.formats.files import check_is_file
from manyhot.toolkit.read.formats.label_lists import read_label_names

_ENDS = (".npz", ".npy")


@dataclass(frozen=True)
class Matrix:
    """Features and targets stored as matrices.

    Attributes:
        features: (rows, features), float32, every value finite: a csr_array, or an array where the file has one.
        targets: (rows, labels), bool, or float32 where some are unknown: NaN, -1 or -100; None when there is no
            NAME.Y.npz, which prediction does not need.
        label_names: one name for each column of `targets`; None with `targets`.
    """

    features: Any
    targets: sp.csr_array | None
    label_names: list[str] | None


@dataclass(frozen=True)
class MatrixFiles:
    """Where the parts of a matrix are; the targets and the names need not exist."""

    features: Path
    targets: Path
    names: Path

    def existing(self) -> list[Path]:
        """Those that are there."""
        return [file for file in (self.features, self.targets, self.names) if file.exists()]


def find_matrix(path: Path) -> MatrixFiles | None:
    """Say which files a path means: NAME.X.npz, NAME.Y.npz, NAME.npz, each also .npy, or NAME alone.

    None where the path means a file of another format.
    """
    text = str(path)
    if text.endswith(tuple(f".X{end}" for end in _ENDS)):
        stem, features = text[: -len(".X.npz")], path
    elif text.endswith(tuple(f".Y{end}" for end in _ENDS)):
        stem = text[: -len(".Y.npz")]
        features = _first_of(*(f"{stem}{middle}{end}" for middle in (".X", "") for end in _ENDS))
    elif text.endswith(_ENDS):
        stem, features = text[: -len(".npz")], path
    else:
        stem, features = text, _first_of(*(f"{text}.X{end}" for end in _ENDS))
        if path.is_file() or not features.is_file():
            return None
    own = Path(f"{stem}.labels.txt")
    names = own if own.exists() else own.with_name("labels.txt")
    return MatrixFiles(features, _first_of(*(f"{stem}.Y{end}" for end in _ENDS)), names)


def read_matrix(files: MatrixFiles) -> Matrix:
    """Read features, and targets and their names where there are any. Nothing in the files is unpickled.

    Raises:
        InputError: a file is missing, damaged or no matrix; a value is not finite or no 0/1; parts that do not fit.
    """
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite and is reported as such
        features = _load(files.features).astype(np.float32)
    _check_values(files.features, features, np.isfinite, "a finite number that float32 can hold")
    if not files.targets.exists():
        return Matrix(features, None, None)
    stored = _load(files.targets)
    _check_values(
        files.targets,
        stored,
        lambda values: np.isin(values, (0, 1, *UNKNOWN)) | np.isnan(values),
        "0 or 1",
    )
    targets: Any = sp.csr_array(stored, dtype=np.float32)
    targets.eliminate_zeros()
    if (targets.data == 1).all():
        targets = targets.astype(bool)
    if targets.shape[0] != features.shape[0]:
        raise InputError(
            f"{files.targets}: expected {features.shape[0]} rows as in {files.features.name}, got {targets.shape[0]}; "
            "write both from the same rows"
        )
    names = read_label_names(files.names)
    if len(names) != targets.shape[1]:
        raise InputError(
            f"{files.names}: expected {targets.shape[1]} label names, one for each column of {files.targets.name}, "
            f"got {len(names)}; write one name a line"
        )
    return Matrix(features, targets, names)


def _first_of(*candidates: str) -> Path:
    """The first that exists; the first of all where none does, for messages to name."""
    return next((Path(name) for name in candidates if Path(name).is_file()), Path(candidates[0]))


def _load(path: Path) -> Any:  # an array or a csr_array; scipy has no types, and what pyright infers is wrong
    check_is_file(path)
    expected = "a matrix of numbers written by scipy.sparse.save_npz or numpy.save"
    matrix: Any = None
    try:
        with path.open("rb") as file:  # numpy leaves a damaged file open that it opened itself
            # Everything is loaded with allow_pickle=False: nothing in the file is executed.
            matrix = _loaded_sparse(file) if _is_sparse(path) else _loaded_dense(file)
        problem = "" if matrix.ndim == 2 and matrix.dtype.kind in "biuf" else f"a {matrix.ndim}-d {matrix.dtype} array"
    except Exception as error:  # bytes of any kind make numpy, zipfile, zlib and scipy raise nearly anything
        problem = f"something else or a damaged file ({first_line(error)})"
    if problem:
        raise InputError(f"{path}: expected {expected}, got {problem}; write it again")
    rows, columns = matrix.shape
    if not rows or not columns:
        raise InputError(
            f"{path}: expected rows and columns, got {rows} x {columns}; check that this is the file you meant"
        )
    return matrix


def _is_sparse(path: Path) -> bool:
    if path.suffix != ".npz":
        return False
    with zipfile.ZipFile(path) as archive:
        return len(archive.namelist()) != 1


def _loaded_sparse(file: Any) -> Any:
    stored: Any = sp.load_npz(file)
    if stored.format in ("csr", "csc", "bsr"):
        stored.check_format(full_check=True)  # indices outside the matrix would be followed unchecked later on
    matrix: Any = sp.csr_array(stored)
    matrix.sum_duplicates()
    return matrix


def _loaded_dense(file: Any) -> np.ndarray:
    loaded = np.load(file, allow_pickle=False)
    return loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]


def _check_values(path: Path, matrix: Any, are_good: Any, expected: str) -> None:
    values = matrix.data if sp.issparse(matrix) else matrix
    good = are_good(values)
    if good.all():
        return
    place = int(np.argmin(good))
    if sp.issparse(matrix):
        row, column = int(np.searchsorted(matrix.indptr, place, side="right")) - 1, matrix.indices[place]
    else:
        row, column = divmod(place, matrix.shape[1])
    raise InputError(
        f"{path}, row {row + 1}, column {column + 1}: expected {expected}, got {values.flat[place]}; correct the value"
    )
