"""What more than one test file needs."""

import os
from pathlib import Path

import pytest
import torch

from manyhot import batch

# The warning about probabilities looks at the first call of a process: whichever test that is, it is not about it.
# test_logsumexp.py and test_conformance.py turn it on where it is the subject.
batch._first_call = False

# The user's cache is no place for tests; those of it name a place of their own.
os.environ["MANYHOT_CACHE"] = ""

# Two workers share two cores, and on tensors this small more threads would only wait for each other.
torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    """Return the same random numbers for every test."""
    return torch.Generator().manual_seed(20220805)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of the real data sets: MANYHOT_DATA or ../shared/data. Without it the test is skipped."""
    named = os.environ.get("MANYHOT_DATA")
    root = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"no real data: {root} is not a folder; set MANYHOT_DATA")
    return root
