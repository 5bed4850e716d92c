"""Another job of the demo: scenes of real handwritten digits, several labels a row, rare classes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.datasets import load_digits

from manyhot.toolkit.config import Config
from manyhot.toolkit.demo.job import Job
from manyhot.toolkit.read.examples import Examples

ROWS, TEST_ROWS = 3000, 1500
SLOTS = 4
# Each digit is half as frequent as the one before: 0 is in most scenes, 9 in one of some hundred.
IMBALANCE = 0.55
SHADES = " .:-=+*#%@"


@contextmanager
def digits() -> Iterator[Job]:
    """Have the scenes as files, for as long as they are needed."""
    with TemporaryDirectory() as folder:
        for name, (pixels, targets) in zip(("digits", "digits-test"), make_scenes(), strict=True):
            np.save(Path(folder) / f"{name}.X.npy", pixels)
            sp.save_npz(Path(folder) / f"{name}.Y.npz", sp.csr_array(targets))
        (Path(folder) / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
        yield Job(
            Config(data=f"{folder}/digits.X.npy", test=f"{folder}/digits-test.X.npy"),
            "scenes",
            f"scenes of 1 to {SLOTS} of scikit-learn's 8x8 digits, each digit about half as frequent as the last",
            choose_rows,
            draw,
            lambda path: f'python -c "import manyhot; print(manyhot.load_run({str(path)!r}))"',
        )


def make_scenes(seed: int = 0) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Draw training and test scenes of different images: up to four digits side by side, blank where fewer.

    Returns:
        Pixels, (rows, 8 * SLOTS * 8) float32, and targets, (rows, 10) bool, of either part.
    """
    found: Any = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(found.images))
    halves = {"train": order[: len(order) * 2 // 3], "test": order[len(order) * 2 // 3 :]}
    share = IMBALANCE ** np.arange(10)
    share /= share.sum()

    def scenes(half: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
        images = {d: halves[half][found.target[halves[half]] == d] for d in range(10)}
        pixels = np.zeros((rows, 8, SLOTS, 8), dtype=np.float32)
        targets = np.zeros((rows, 10), dtype=bool)
        for row in range(rows):
            for slot in rng.permutation(SLOTS)[: rng.integers(1, SLOTS + 1)]:
                digit = rng.choice(10, p=share)
                pixels[row, :, slot] = found.images[rng.choice(images[digit])]
                targets[row, digit] = True
        return pixels.reshape(rows, -1), targets

    return scenes("train", ROWS), scenes("test", TEST_ROWS)


def choose_rows(test: Examples, number: int) -> np.ndarray:
    """Take the first scenes with a rare digit and another."""
    targets = test.targets.toarray()
    return np.flatnonzero(targets[:, 6:].any(1) & (targets.sum(1) > 1))[:number]


def draw(test: Examples, row: int) -> list[str]:
    """Draw a scene as text, two signs a pixel."""
    lines = np.asarray(test.numbers[row]).reshape(8, -1)
    return ["".join(SHADES[int(v / 16 * 9.99)] * 2 for v in line).rstrip() for line in lines]
