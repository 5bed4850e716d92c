"""Which method to use, from a comparison: one sentence, and the command that trains with it.

A method is named in place of the default where it is ahead of it in micro- or macro-F1 (for relations that of triples)
by more than chance of rows, and behind in neither. Where there are several, it is the one with the best mean of both.
All else leaves the default.
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from manyhot.toolkit.config import MARKED_TEXTS
from manyhot.toolkit.report.metric_names import AHEAD, BEHIND, EVEN, in_words, signed_interval, titles_of

JUDGED = ("micro_f1", "macro_f1")
# With fewer positives of all rare labels together among the measured rows, one row moves rare-F1 by points.
HANDFUL = 30
RARE = 8
# Options of `manyhot compare` alone, with a value and without.
COMPARING, FLAGS = ("--losses", "--folds", "--seeds", "--jobs", "--out"), ("--resume", "--json")
# What says a method, which `manyhot compare` has no use for and `manyhot train` has; a file may say it too.
SAYING = ("loss", "design")


@dataclass(frozen=True)
class Answer:
    """What to use, why, and how; `command` is None where `manyhot train` has no such method."""

    use: str | None
    why: str
    command: str | None

    def __str__(self) -> str:
        """Write one sentence."""
        first = f"Use {self.use}: {self.why}" if self.use else f"No clear difference: {self.why}"
        return f"{first}; {self.command}" if self.command else first


def answer(comparison: dict[str, Any]) -> Answer | None:
    """Say which method to use; None where the default was not compared, or failed."""
    fine = {method["name"]: method for method in comparison["methods"] if method["error"] is None}
    default, judged = comparison["default"], _judged(comparison)
    if default not in fine or len(fine) < 2:
        return None
    titles = titles_of(method["metrics"] for method in fine.values())
    better = []
    for name, method in fine.items():
        words = [in_words(found["interval"]) for found in _beside_default(comparison, method).values()]
        if AHEAD in words and BEHIND not in words:
            better.append((sum(method["metrics"][metric] for metric in judged), name))
    if better:
        name = max(better)[1]
        others = dict.fromkeys(judged, f"{default}, the default")
        why = _said(_beside_default(comparison, fine[name]), others, titles)
        line = train_command(comparison, fine[name])
        return Answer(name, why if line else f"{why}; manyhot train has no such method", line)
    line = train_command(comparison, fine[default])
    differences = {metric: found for metric in judged if (found := (fine[default]["differences"] or {}).get(metric))}
    if all(in_words(found["interval"]) == EVEN for found in differences.values()):
        return Answer(None, f"take the default, {default}", line)
    rivals = {metric: comparison["best"][metric]["rival"] for metric in differences}
    return Answer(f"the default, {default}", _said(differences, rivals, titles), line)


def _judged(comparison: dict[str, Any]) -> list[str]:
    return [f"triple_{metric}" if comparison.get("task") == "relations" else metric for metric in JUDGED]


def _beside_default(comparison: dict[str, Any], method: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the differences of a method from the default; from the best of ours, where that is all there is."""
    if method["name"] == comparison["default"]:
        return {}
    found: dict[str, Any] = method.get("against_default") or {}
    judged = _judged(comparison)
    for metric in judged:
        if metric not in found and comparison["best"][metric]["ours"] == comparison["default"]:
            found = found | {metric: (method["differences"] or {}).get(metric)}
    return {metric: found[metric] for metric in judged if found.get(metric) is not None}


def _said(differences: dict[str, dict[str, Any]], others: dict[str, str], titles: Mapping[str, str]) -> str:
    """Write a difference a metric: `micro-F1 ahead of bce +0.9 [+0.3, +1.5]`."""
    joined = {AHEAD: "ahead of", BEHIND: "behind", EVEN: "not clearly different from"}
    return ", ".join(
        f"{titles[metric]} {joined[in_words(found['interval'])]} {others[metric]}"
        f" ({signed_interval(found['value'], found['interval'])})"
        for metric, found in differences.items()
    )


def train_command(comparison: dict[str, Any], method: dict[str, Any]) -> str | None:
    """Write the line that trains as a method was trained; None where `manyhot train` cannot."""
    words = shlex.split(comparison["command"])[2:]
    options = _options(comparison, method, said=_may_say(words))
    if options is None:
        return None
    kept, skip = [], False
    for word in words:
        option, joined, _ = word.partition("=")
        if skip or option in FLAGS:
            skip = False
        elif option in COMPARING:
            skip = not joined
        else:
            kept.append(word)
    return shlex.join(["manyhot", "train", *kept, *options])


def _may_say(words: list[str]) -> bool:
    """Say whether the options of a comparison may say a method, in a file or by --set."""
    pairs = [word.removeprefix("--set=") for before, word in pairwise(["", *words]) if "--set" in (before, word[:5])]
    named = any(pair.partition("=")[0].strip() in SAYING for pair in pairs)
    return named or any(word.partition("=")[0] == "--config" for word in words)


def _options(comparison: dict[str, Any], method: dict[str, Any], *, said: bool) -> list[str] | None:
    """Return what says the method; `said`: all of it, as the other options may say another."""
    name, loss = method["name"], method["loss"]
    if name == comparison["default"] and not said:
        return []
    if "threshold" in name:
        return None
    if comparison.get("task") in MARKED_TEXTS:
        default = next(other for other in comparison["methods"] if other["name"] == comparison["default"])
        differ = [
            option for option in SAYING if method.get(option) != default.get(option) or (said and method.get(option))
        ]
        return [word for option in differ for word in (f"--{option}", method[option])]
    loss_options = ["--loss", loss] if said or not comparison["default"].startswith(loss) else []
    if "+prior" not in name:
        return [*loss_options, "--tau", "0"]
    without = comparison["default"].endswith("+neighbours") and not name.endswith("+neighbours")
    return [*loss_options, *(["--neighbours", "off"] if without else [])]


def verdicts(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Say of each metric where the default stands beside the best rival.

    Where the default is not compared or failed, the best of ours is in its place. Rare-F1 of a handful of rows is left
    out: it is in the table of all numbers.
    """
    found = [_verdict(comparison, metric) for metric in comparison["best"]]
    many = rare_rows(comparison) >= HANDFUL
    return [verdict for verdict in found if verdict is not None and (many or verdict["key"] != "rare_f1")]


def rare_rows(comparison: dict[str, Any]) -> int:
    """Count the positives of labels with 1 to 8 training rows among the measured rows."""
    pairs = zip(comparison["train_counts"], comparison["test_counts"], strict=True)
    return int(sum(there for trained, there in pairs if 1 <= trained <= RARE))


def _verdict(comparison: dict[str, Any], key: str) -> dict[str, Any] | None:
    best = comparison["best"][key]
    by_name = {method["name"]: method for method in comparison["methods"]}
    default = by_name.get(comparison["default"])
    stands = default is not None and default["error"] is None
    ours, rival = default if stands else by_name.get(best["ours"]), by_name.get(best["rival"])
    if ours is None or rival is None or ours["metrics"][key] is None:
        return None
    value = ours["metrics"][key] - rival["metrics"][key]
    difference = (ours["differences"] or {}).get(key)
    return {
        "key": key,
        "ours": ours,
        "rival": rival,
        "result": in_words(difference["interval"] if difference else (-math.inf, math.inf)),
        "who": "the default" if stands else "the best of ours",
        "difference": difference["value"] if difference else value,
        "interval": difference["interval"] if difference else None,
    }
