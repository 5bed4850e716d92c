"""Which method a comparison says to use, in a sentence and as a command."""

from typing import Any

import pytest

from compared import comparison
from manyhot.toolkit.report.answer import HANDFUL, answer, rare_rows, train_command, verdicts


def beside(**methods):
    """A comparison with differences from the default, and of the default from the best rival, in points."""
    compared = comparison()
    compared["default"] = "zlpr+prior+neighbours"
    default, *_ = compared["methods"]
    compared["methods"] = []
    for name, (micro, macro) in {"default": ((0, -1, 1), (0, -1, 1)), **methods}.items():
        own = name.replace("_", "+").replace("labels", "label-thresholds")
        row = default | {"name": "zlpr+prior+neighbours" if name == "default" else own, "loss": own.split("+")[0]}
        row["loss"] = "zlpr" if name == "default" else row["loss"]
        difference = {
            key: {"than": "bce", "value": value / 100, "interval": [low / 100, high / 100]}
            for key, (value, low, high) in (("micro_f1", micro), ("macro_f1", macro))
        }
        row |= {"kind": "ours" if name == "default" else "rival", "differences": difference}
        row |= {"against_default": None if name == "default" else difference}
        row["metrics"] = row["metrics"] | {"micro_f1": 0.9 + micro[0] / 100, "macro_f1": 0.7 + macro[0] / 100}
        compared["methods"].append(row)
    for best in compared["best"].values():
        best |= {"ours": "zlpr+prior+neighbours", "rival": "bce"}
    return compared


EVEN, UP, DOWN = (0.2, -0.3, 0.7), (0.9, 0.3, 1.5), (-0.9, -1.5, -0.3)


def test_a_method_that_is_ahead_and_never_behind_is_named():
    found = answer(beside(bce=(DOWN, UP), bce_prior=(UP, EVEN), focal=(EVEN, EVEN)))
    assert found is not None
    assert str(found) == (
        "Use bce+prior: micro-F1 ahead of zlpr+prior+neighbours, the default (+0.9 [+0.3, +1.5]), macro-F1 not clearly "
        "different from zlpr+prior+neighbours, the default (+0.2 [−0.3, +0.7]); "
        "manyhot train reviews.csv --test test.csv --loss bce --neighbours off"
    )


def test_of_two_the_better_mean_is_named_and_what_cannot_be_trained_says_so():
    found = answer(beside(bce_prior=(UP, EVEN), bce_labels=(UP, (2.0, 1.0, 3.0))))
    assert found is not None
    assert found.use == "bce+label-thresholds"
    assert found.command is None
    assert "manyhot train has no such method" in str(found)


def test_where_all_are_even_the_default_is_taken():
    found = answer(beside(bce=(EVEN, EVEN), focal=(DOWN, DOWN)))
    assert found is not None
    assert str(found) == (
        "No clear difference: take the default, zlpr+prior+neighbours; manyhot train reviews.csv --test test.csv"
    )


def test_an_interval_that_touches_0_but_for_rounding_is_no_difference():
    touches = (0.3, 1e-14, 1.1)
    found = answer(beside(bce=(touches, EVEN), focal=((-0.3, -1.1, -1e-14), EVEN)))
    assert found is not None
    assert str(found).startswith("No clear difference")


def test_a_default_that_is_ahead_or_behind_says_of_whom():
    compared = comparison()
    assert str(answer(compared)) == (
        "Use the default, zlpr+prior: micro-F1 ahead of bce+label-thresholds (+3.0 [+1.0, +5.0]), macro-F1 behind "
        "bce+label-thresholds (−5.0 [−8.0, −2.0]); manyhot train reviews.csv --test test.csv"
    )
    compared["methods"] = compared["methods"][1:]
    assert answer(compared) is None
    assert answer(comparison() | {"methods": comparison()["methods"][:1]}) is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("zlpr+prior+neighbours", ""),
        ("zlpr+prior", " --neighbours off"),
        ("zlpr", " --tau 0"),
        ("bce", " --loss bce --tau 0"),
        ("bce+prior", " --loss bce --neighbours off"),
        ("bce+prior+neighbours", " --loss bce"),
        ("subset+prior", " --loss subset --neighbours off"),
        ("focal", " --loss focal --tau 0"),
        ("bce+threshold", None),
    ],
)
def test_a_method_has_the_command_that_trains_it(name, options):
    compared = beside()
    compared["command"] = (
        "manyhot compare 'my file.csv' --losses zlpr,bce --folds=5 --seeds 2 --text a,b --out x --json"
    )
    method = {"name": name, "loss": name.split("+")[0]}
    line = None if options is None else f"manyhot train 'my file.csv' --text a,b{options}"
    assert train_command(compared, method) == line


@pytest.mark.parametrize(("rows", "shown"), [(HANDFUL - 1, False), (HANDFUL, True)])
def test_rare_f1_of_a_handful_of_rows_is_no_headline(rows, shown):
    compared = comparison()
    compared["best"]["rare_f1"] = compared["best"]["macro_f1"]
    for method in compared["methods"]:
        if method["error"] is None:
            method["metrics"]["rare_f1"] = 0.5
    compared["test_counts"][-1] = rows
    assert ("rare_f1" in [verdict["key"] for verdict in verdicts(compared)]) == shown


def test_a_label_that_training_never_had_is_no_rare_one():
    assert rare_rows({"train_counts": [0, 1, 8, 9], "test_counts": [50, 2, 3, 70]}) == 5


@pytest.mark.parametrize(
    ("typed", "method", "line"),
    [
        ("reviews.csv --jobs 2 --resume", 0, "reviews.csv"),
        ("reviews.csv --jobs=2 --folds 4", 1, "reviews.csv --loss focal --tau 0"),
        ("--config old.toml", 0, "--config old.toml --loss zlpr"),
        ("--config old.toml", 1, "--config old.toml --loss focal --tau 0"),
        ("reviews.csv --set loss=focal", 0, "reviews.csv --set loss=focal --loss zlpr"),
        ("reviews.csv --set=loss=focal", 0, "reviews.csv --set=loss=focal --loss zlpr"),
        ("--config=old.toml", 0, "--config=old.toml --loss zlpr"),
        ("reviews.csv --set epochs=4 --text loss", 0, "reviews.csv --set epochs=4 --text loss"),
    ],
)
def test_the_line_trains_what_was_compared_whatever_else_was_typed(typed, method, line):
    compared: Any = beside(focal=(UP, UP)) | {"command": f"manyhot compare {typed}"}
    assert train_command(compared, compared["methods"][method]) == f"manyhot train {line}"
