"""Run `manyhot compare` and what others use on every multi-label set, and rank them.

    make quality         (stops after 2 hours, and the next call goes on; what is in the results is not run again)

    --only NAME,...      these sets alone        --again NAME    forget what is known of a set, and run it anew
    --minutes N          stop after so many minutes in place of 120; the same command goes on later

A set with a standard split is measured on its test rows, each other by 3 folds. The linear model runs on all sets, the
mlp on six; the learners of others.py get the same rows, features and folds, and 300 s each. SemEval has a file a
language, which count as one set. benchmarks/results/quality.json holds the numbers, quality.md the tables.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import quality_page
from evidence import ROOT, SETS, Set, semeval
from others import LEARNERS
from quality_records import COMPARED, METRICS, packed, unpacked

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "quality.json"
EVIDENCE = HERE / "results" / "evidence.json"
WORK = HERE.parent / "build" / "quality"
COMMAND = [str(Path(sys.executable).with_name("manyhot")), "compare"]

LANGUAGES = (
    *("afr", "amh", "arq", "ary", "chn", "deu", "eng", "esp", "hau", "hin", "ibo", "kin", "mar", "orm"),
    *("pcm", "ptbr", "ptmz", "ron", "rus", "som", "sun", "swa", "swe", "tat", "tir", "ukr", "vmw", "yor"),
)
ALL: dict[str, Set] = SETS | {
    f"{quality_page.SEMEVAL}{name}": semeval(name) for name in LANGUAGES if f"{quality_page.SEMEVAL}{name}" not in SETS
}
# Not Reuters, whose first layer has 23 million weights: after a hundredth of the comparison, 160 minutes were left.
MLP = ("semeval2025 eng", "emotions", "scene", "yeast", "enron", "bibtex")
LIMIT = 300  # seconds of a learner of others.py on a set

# Before anything is measured: a comparison takes so many times what `manyhot train` took for evidence.json, and by
# folds three times that. Once some are measured, their median takes the place of these.
TIMES_TRAIN = {"linear": 6.0, "mlp": 10.0}
FOLDS = 3
SECONDS = 10.0  # of `manyhot train` on a language that evidence.json does not have
OTHERS_SECONDS = {"OvR logistic": 10.0, "OvR LinearSVC": 10.0, "XGBoost+prior": 60.0, "LightGBM+prior": 60.0}

# Of a learner that gave no result.
FAILED: dict[str, Any] = {"error": None, "metrics": {}, "seconds": None, "peak_mb": None, "version": None}


class Job(NamedTuple):
    """A set, and what runs on it: a model of `manyhot compare`, or a learner of others.py."""

    name: str
    what: str

    @property
    def folder(self) -> Path:
        return WORK / f"{self.name.replace(' ', '-')}-{self.what}"


class TimeUpError(Exception):
    """The minutes of this call are over."""


def words_of(given: Set) -> list[str]:
    """Return the files of a set and the options that describe them, as both commands take them."""
    test = [] if given.test is None else ["--test", str(ROOT / given.test)]
    return [str(ROOT / given.train), *test, *(str(ROOT / w) if (ROOT / w).is_file() else w for w in given.options)]


def compare(job: Job, seconds: float) -> dict[str, Any]:
    """Run the comparison, or go on with it, and return what is kept of it.

    Raises:
        TimeUpError: it was interrupted after so many seconds; --resume goes on.
        RuntimeError: it failed.
    """
    place = job.folder / "compare.json"
    if not place.exists():  # else it was finished just before this script was stopped
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        words = [*words_of(ALL[job.name]), "--model", job.what, "--out", str(job.folder), "--resume", "--json"]
        child = subprocess.Popen([*COMMAND, *words], stdout=subprocess.DEVNULL)
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)  # it leaves a checkpoint
            child.wait()
            raise TimeUpError from None
        except KeyboardInterrupt:  # the terminal has told the child too
            child.wait()
            raise
        if code:
            raise RuntimeError(f"{job.name}, {job.what}: manyhot compare exited with {code}")
    return slim(json.loads(place.read_bytes()))


def slim(comparison: dict[str, Any]) -> dict[str, Any]:
    """Keep of a comparison what the page needs.

    Raises:
        RuntimeError: a method is missing that the page is about, as when one was renamed.
    """
    missing = {comparison["default"], *quality_page.RIVALS} - {method["name"] for method in comparison["methods"]}
    if missing:
        raise RuntimeError(f"expected methods named {', '.join(sorted(missing))}: see RIVALS in quality_page.py")
    kept = ("labels", "seeds", "level", "default", "seconds", "platform", "threads", "versions")
    found = {"rows": comparison["design"]["rows"]} | {key: comparison[key] for key in kept}
    return found | {
        "labels": len(comparison["labels"]),
        "seconds": round(comparison["seconds"], 1),
        "methods": [record_of(method) for method in comparison["methods"]],
    }


def record_of(method: dict[str, Any]) -> dict[str, Any]:
    """Keep of a method what :mod:`quality_records` writes."""
    found, seconds, against = method["metrics"] or {}, method["seconds"], method["against_default"] or {}
    return {
        "name": method["name"],
        "error": method["error"],
        "metrics": {} if method["error"] else {name: found.get(name) for name in METRICS},
        "seconds": None if method["error"] else round(seconds["search"] + seconds["fit"], 2),
        "peak_mb": method["peak_mb"],
        "against_default": {name: against[name] for name in COMPARED if name in against},
    }


def of_others(job: Job) -> dict[str, Any]:
    """Run a learner of others.py; one that fails or is too slow is a result that says so."""
    arguments = [sys.executable, str(HERE / "others.py"), job.what, *words_of(ALL[job.name])]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return FAILED | {"error": f"not finished in {LIMIT} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return FAILED | {"error": said[-1][:200]}
    result = json.loads(done.stdout)
    return {
        "error": None,
        "metrics": {name: result["metrics"][name] for name in METRICS},
        "seconds": round(result["seconds"]["fit"], 2),
        "peak_mb": result["peak_mb"],
        "version": result["version"],
    }


def expected(job: Job, results: dict[str, Any]) -> float:
    """Return about how many seconds a job takes, from those that were measured."""
    trained = json.loads(EVIDENCE.read_bytes())

    def base(name: str) -> float:
        return trained[name]["seconds"] if name in trained else SECONDS

    def folds(name: str) -> int:
        return FOLDS if ALL[name].test is None else 1

    if job.what not in quality_page.MODELS:
        return min(OTHERS_SECONDS[job.what] * base(job.name) * folds(job.name) / 30, LIMIT)
    measured = [
        found[job.what]["seconds"] / (base(name) * folds(name))
        for name, found in results.items()
        if job.what in found and found[job.what]["seconds"]
    ]
    return (statistics.median(measured) if measured else TIMES_TRAIN[job.what]) * base(job.name) * folds(job.name)


def write(results: dict[str, Any]) -> None:
    """Write the results, a line a job, so that a run changes the lines of what it ran."""
    RESULTS.parent.mkdir(exist_ok=True)
    part = RESULTS.with_name("quality.json.part")
    part.write_text(packed(results, list(ALL)))
    os.replace(part, RESULTS)


def jobs_of(names: list[str]) -> list[Job]:
    whats = (*quality_page.MODELS, *LEARNERS)
    return [Job(name, what) for name in names for what in whats if what != "mlp" or name in MLP]


def listed(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ALL:
            raise argparse.ArgumentTypeError(f"expected names of {', '.join(ALL)}; got {name!r}")
    return names


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=listed, default=list(ALL), metavar="NAME,...", help="these sets alone")
    parser.add_argument("--again", type=listed, default=[], metavar="NAME,...", help="run these sets anew")
    parser.add_argument("--minutes", type=float, default=120.0, help="stop after so many minutes (default 120)")
    asked = parser.parse_args(arguments)
    end = time.monotonic() + 60 * asked.minutes
    results: dict[str, Any] = unpacked(RESULTS.read_text()) if RESULTS.exists() else {}
    for job in jobs_of(asked.again):
        results.get(job.name, {}).pop(job.what, None)
        for left in (job.folder, job.folder.with_name(f".{job.folder.name}.partial")):
            shutil.rmtree(left, ignore_errors=True)
    waiting = [job for job in jobs_of(asked.only) if job.what not in results.get(job.name, {})]
    times = {job: expected(job, results) for job in waiting}
    # The learners of others.py last: what they take is bounded.
    waiting.sort(key=lambda job: (job.what not in quality_page.MODELS, times[job]))
    minutes = sum(times.values()) / 60
    print(
        f"{len(waiting)} runs, about {minutes:.0f} minutes on 2 idle cores; stops after {asked.minutes:g}", flush=True
    )
    failed, left = [], []
    for i, job in enumerate(waiting):
        began = time.monotonic()
        compares = job.what in quality_page.MODELS
        # A learner is not cut short: its limit is part of its result.
        if began + (0 if compares else LIMIT) > end:
            left.append(job)
            continue
        try:
            result = compare(job, end - began) if compares else of_others(job)
        except TimeUpError:
            left.append(job)
            continue
        except RuntimeError as error:
            failed.append(str(error))
            continue
        results.setdefault(job.name, {})[job.what] = result
        write(results)
        took = time.monotonic() - began
        print(f"{i + 1}/{len(waiting)} {job.name}, {job.what}: {result.get('error') or f'{took:.0f} s'}", flush=True)
    quality_page.write(results, list(SETS), LANGUAGES)
    for job in left:
        print(f"not run or not finished: {job.name}, {job.what}; the same command goes on")
    for error in failed:
        print(error, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
