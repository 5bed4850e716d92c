"""What fits cost, counted whoever uses them."""

import time

import numpy as np
import pytest

from manyhot.toolkit.compare.tally import PeakMemory, Tally
from manyhot.toolkit.disk.checkpoint import Checkpoint
from manyhot.toolkit.models.linear import shared


@pytest.fixture
def tally(tmp_path):
    return Tally(Checkpoint(tmp_path), "test", "bce", PeakMemory())


def fit(tally, name, seconds):
    if (result := tally.finished(name)) is None:
        tally.bookmark(name)
        time.sleep(seconds)
        result = {"held": np.arange(3)}
        tally.finish(name, result)
    return result


def test_a_fit_that_is_found_costs_what_it_took_when_it_was_made(tally):
    fit(tally, "C 1", 0.05)
    assert tally.seconds == tally.now >= 0.05
    first, peak = tally.seconds, tally.peak
    tally.start()
    assert (tally.seconds, tally.now, tally.peak) == (0.0, 0.0, 0)
    np.testing.assert_array_equal(fit(tally, "C 1", 9)["held"], np.arange(3))
    assert tally.seconds == pytest.approx(first)
    assert tally.now == 0.0
    assert tally.peak == peak > 2**20
    fit(tally, "C 2", 0.02)
    assert tally.seconds == pytest.approx(first + tally.now)


def test_fits_of_other_losses_are_others(tally):
    fit(tally, "C 1", 0)
    other = Tally(tally.fits, "test", "zlpr", tally.memory)
    assert other.finished("C 1") is None
    tally.fits.forget(tally.name(""))
    assert tally.finished("C 1") is None


def test_what_losses_share_is_made_once_and_costs_each(tally):
    fit(tally, shared("C 1"), 0.05)
    other = Tally(tally.fits, "test", "zlpr", tally.memory)
    fit(other, shared("C 1"), 9)
    fit(other, "C 1", 0.02)
    assert other.shared == pytest.approx(tally.seconds)
    assert other.now >= 0.02
    assert other.seconds == pytest.approx(other.shared + other.now)
    tally.fits.forget(tally.name(""))
    assert other.finished(shared("C 1")) is not None


def test_the_peak_is_that_of_memory_that_is_free_again():
    memory = PeakMemory()
    with memory.watched():
        memory.start()
        before = memory.peak
        block = np.ones(2**25)  # 256 MB
        time.sleep(0.3)
        del block
        assert memory.peak - before > 200 * 2**20
        memory.start()
        assert memory.peak - before < 100 * 2**20
