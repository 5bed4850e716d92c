"""The defaults in the code are what benchmarks/defaults.py chose on training rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manyhot.toolkit.config import default_loss
from manyhot.toolkit.models import kernel, mlp, neighbours, term_blocks

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "defaults.json"


@pytest.fixture(scope="module")
def chosen() -> dict[str, Any]:
    return json.loads(RESULTS.read_text())


def test_pairs_of_words(chosen: dict[str, Any]) -> None:
    assert chosen["pair weight"]["choice"] == str(term_blocks.PAIR_WEIGHT)


def test_rule_for_the_prior(chosen: dict[str, Any]) -> None:
    # cross_fit has this rule and no other; the name is the benchmark's.
    assert chosen["rule"]["choice"] == "tau and offset by F1; C by F1"


@pytest.mark.parametrize("grid", ["rule", "pair weight"])
def test_the_choice_is_the_best_mean_of_the_sets(chosen: dict[str, Any], grid: str) -> None:
    table = chosen[grid]
    means = {
        option: sum(row[option] for row in table["sets"].values()) / len(table["sets"]) for option in table["means"]
    }
    assert table["choice"] == max(means, key=lambda option: means[option])
    for option, mean in means.items():
        assert mean == pytest.approx(table["means"][option], abs=1e-4)


def test_no_piece_is_much_better_than_the_one_in_the_code() -> None:
    pieces: Any = pytest.importorskip("pieces", reason="no benchmarks/ beside these tests, as for an installed wheel")
    found = pieces.tables(json.loads((RESULTS.parent / "pieces.json").read_text()))
    means = {}
    for title, table in found.items():
        sets = set.intersection(*(set(row) for row in table.values()))
        means[title] = {option: sum(row[name] for name in sets) / len(sets) for option, row in table.items()}
    assert (term_blocks.CHARACTER_WEIGHT, term_blocks.CHARACTER_NONZEROS) == (2.0, 200)
    assert term_blocks.PARTS_OF_WORDS["ngram_range"] == (3, 5)
    assert (kernel.LANDMARKS, neighbours.KS) == (100, (5, 20))
    chosen = {
        "parts of words, with votes": ("weight 2", "none"),
        "at most so many in a row, with votes": ("200, the rarest", "200, the most frequent"),
        "landmarks, with votes": ("100 landmarks", "0 landmarks"),
        "votes": ("own (5, 20)", "linear"),
    }
    assert means["loss"]["bce, with votes"] == max(means["loss"].values())
    assert default_loss("multilabel", "linear") == "bce"
    for title, (ours, without) in chosen.items():
        # A quarter of a point is less than what another cut of the rows changes.
        assert means[title][ours] > max(means[title].values()) - 0.25, title
        assert means[title][ours] > means[title][without] + 0.5, title


def test_no_setting_of_the_mlp_is_much_better_than_the_one_in_the_code() -> None:
    results, code = json.loads((RESULTS.parent / "mlp.json").read_text()), "as in the code"
    means: dict[str, dict[str, float]] = {}
    for name in ("settings", "ahead"):
        table = results[name]
        sets = table["sets"].values()
        means[name] = {option: sum(row[option] for row in sets) / len(sets) for option in table["means"]}
        assert means[name] == pytest.approx(table["means"], abs=1e-4)
    first = means["settings"]
    # Those ahead by one cut of the rows, which may be chance, are compared by others.
    assert set(means["ahead"]) == {code, *(option for option in first if first[option] > first[code])}
    for option in means["ahead"]:
        gains = np.array([row[option] - row[code] for row in results["ahead"]["sets"].values()])
        assert gains.mean() < max(2 * gains.std(ddof=1) / len(gains) ** 0.5, 0.0025), option
    assert (mlp.HIDDEN, mlp.DROPOUT, mlp.SCALE) == (512, 0.5, 0.2)
    assert (mlp.SCHEDULE.batch, mlp.SCHEDULE.rate, mlp.SCHEDULE.patience) == (64, 1e-3, 10)
