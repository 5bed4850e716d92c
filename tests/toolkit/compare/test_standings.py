"""How methods stand beside each other: intervals that a fraction can have, and who leads."""

import numpy as np
import pytest

from manyhot.toolkit.compare.standings import difference, interval_of, leaders


def test_an_interval_ends_where_a_fraction_does():
    resamples = np.linspace(0.9, 1.0, 101)
    for value, want in ((0.99, (0.9425, 1.0)), (0.01, (0.0, 0.0575)), (0.5, (0.4525, 0.5475))):
        found = interval_of({"a": {"micro_f1": value}}, {"a": {"micro_f1": resamples}}, "a", "micro_f1")
        assert found == pytest.approx(want, abs=1e-9)


def test_a_difference_may_be_below_0():
    means = {"a": {"micro_f1": 0.01}, "b": {"micro_f1": 0.02}}
    drawn = {"a": {"micro_f1": np.linspace(0, 0.1, 101)}, "b": {"micro_f1": np.zeros(101)}}
    found = difference(means, drawn, "a", "b", "micro_f1")
    assert found is not None
    np.testing.assert_allclose(found["interval"], (-0.0575, 0.0375), atol=1e-9)


def test_what_has_no_number_leads_nowhere():
    means = {"ours": {"f1": None}, "better": {"f1": 0.4}, "rival": {"f1": 0.5}}
    assert leaders(means, {"ours", "better"}, ["f1"]) == {"f1": {"ours": "better", "rival": "rival"}}
    assert leaders(means, {"ours"}, ["f1"]) == {"f1": {"ours": None, "rival": "rival"}}
