"""Train on every multi-label set with one command, and only options that describe the file.

    make evidence        (about half an hour on 2 idle cores; what is in the results already is not run again,
                          --again NAME runs a set anew)

`manyhot train` chooses by training rows alone; test rows are measured once, at the end. Sets without a split are cut by
`stratified_split`, two thirds to train on. Processor time and peak memory are those of the whole process, beside other
work on the same two cores. The published numbers are those that were read at their source, on the same split where the
set has one.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from manyhot import stratified_split

ROOT = Path(os.environ.get("MANYHOT_DATA", Path(__file__).parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results"
COMMAND = Path(sys.executable).with_name("manyhot")


@dataclass(frozen=True)
class Set:
    """Training file, test file (None: the training file is cut), what describes them, and what others report."""

    train: str
    test: str | None = None
    options: tuple[str, ...] = ()
    published: str = ""


def mulan(name: str, stem: str | None = None, end: str = "", published: str = "") -> Set:
    stem = stem or name
    return Set(f"mulan/{name}/{stem}-train{end}.arff.gz", f"mulan/{name}/{stem}-test{end}.arff.gz", (), published)


def semeval(language: str, test: str | None = None) -> Set:
    folder = "semeval2025_task11a"
    return Set(f"{folder}/train/{language}.csv.gz", f"{folder}/test/{test or language}.csv.gz")


SETS = {
    "reuters21578 R90": Set(
        "reuters21578/modapte_train.jsonl.gz",
        "reuters21578/modapte_test.jsonl.gz",
        ("--text", "title,text", "--labels", "r90", "--drop-unlabelled"),
        "BERT, best of its losses: micro 90.74",
    ),
    "goemotions": Set(
        "goemotions/train.tsv.gz",
        "goemotions/test.tsv.gz",
        ("--no-header", "--text", "1", "--labels", "2", "--label-names", "goemotions/labels.txt"),
        "BERT, BCE, threshold .3: macro 50.30",
    ),
    "debtags": Set(
        "debtags/train.jsonl.gz",
        "debtags/test.jsonl.gz",
        ("--text", "title,description", "--labels", "tags"),
    ),
    "semeval2025 eng": semeval("eng", "eng_gold_from_track_b"),
    "semeval2025 deu": semeval("deu"),
    "semeval2025 chn": semeval("chn"),
    "ethos": Set("ethos/Ethos_Dataset_Multi_Label.csv", published="neural binary relevance: micro 72.26, macro 73.95"),
    "bibtex": mulan("bibtex"),
    "cal500": Set("mulan/cal500/cal500.X.npz"),
    "corel5k": mulan("corel5k", "Corel5k", "-sparse"),
    "delicious": mulan("delicious"),
    "emotions": mulan("emotions"),
    "enron": mulan("enron"),
    "scene": mulan("scene"),
    "tmc2007-500": mulan("tmc2007", "tmc2007-500"),
    "yeast": mulan("yeast"),
    "ng20": Set("mldr/ng20/ng20.X.npz"),
    "stackex_chess": Set("mldr/stackex_chess/stackex_chess.X.npz"),
    "imdb": Set("meka_imdb/imdb.X.npz"),
}


def files_of(given: Set, folder: Path) -> tuple[Path, Path]:
    """Return the training and the test file, cut into `folder` where there is but one."""
    train = ROOT / given.train
    if given.test is not None:
        return train, ROOT / given.test
    paths = folder / f"train{train.suffix}", folder / f"test{train.suffix}"
    if train.suffix == ".csv":
        return cut_table(train, paths)
    stem = str(train).removesuffix(".X.npz")
    matrices: dict[str, Any] = {part: sp.load_npz(f"{stem}.{part}.npz").tocsr() for part in "XY"}
    held = stratified_split(matrices["Y"] > 0, [2.0, 1.0], seed=0)
    for i, name in enumerate(("train", "test")):
        for part, matrix in matrices.items():
            sp.save_npz(folder / f"{name}.{part}.npz", matrix[held == i])
    (folder / "labels.txt").write_bytes((train.parent / "labels.txt").read_bytes())
    return folder / "train.X.npz", folder / "test.X.npz"


def cut_table(table: Path, paths: tuple[Path, Path]) -> tuple[Path, Path]:
    """Cut a table of labels between semicolons by its lines; the first column is the text."""
    header, *lines = table.read_text(encoding="utf-8").splitlines()
    labels = np.array([[float(cell) >= 0.5 for cell in line.rsplit(";", header.count(";"))[1:]] for line in lines])
    part = stratified_split(labels, [2.0, 1.0], seed=0)
    for i, path in enumerate(paths):
        path.write_text("\n".join([header, *(line for line, p in zip(lines, part, strict=True) if p == i)]) + "\n")
    return paths


def measured(given: Set) -> dict[str, Any]:
    """Run the command on a set; its numbers on the test rows, seconds and peak memory."""
    with tempfile.TemporaryDirectory() as place:
        train, test = files_of(given, Path(place))
        run = Path(place, "run")
        options = [str(ROOT / word) if (ROOT / word).is_file() else word for word in given.options]
        words = ["train", str(train), "--test", str(test), *options, "--out", str(run), "--json"]
        arguments = [str(COMMAND), *words]
        began = time.monotonic()
        child = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=sys.stderr)
        output = child.stdout.read() if child.stdout else b""
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{' '.join(arguments)} exited with {child.returncode}")
        result = json.loads(output)
        provenance = json.loads((run / "provenance.json").read_bytes())
        return {
            "command": " ".join(["manyhot", "train", given.train, *given.options]),
            "rows": provenance["inputs"][0]["rows"],
            "chosen": {key: result[key] for key in ("C", "tau", "offset")},
            "test": result["test"],
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
            "peak_mb": round(used.ru_maxrss / 1024),
            "versions": provenance["versions"],
        }


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "rows": lambda r: f"{r['rows']:,}",
    "labels": lambda r: f"{r['test']['labels']:,}",
    "micro-F1": lambda r: percent(r["test"]["micro_f1"]),
    "macro-F1": lambda r: percent(r["test"]["macro_f1"]),
    "rare-F1": lambda r: percent(r["test"]["rare_f1"]),
    "P@1": lambda r: percent(r["test"]["precision_at_1"]),
    "labels a row (true)": lambda r: "{labels_per_row_predicted:.2f} ({labels_per_row_true:.2f})".format(**r["test"]),
    "ECE (uncalibrated)": lambda r: f"{percent(r['test']['ece'])} ({percent(r['test']['ece_uncalibrated'])})",
    "CPU time": lambda r: f"{r['cpu_seconds']:.0f} s",
    "peak memory": lambda r: f"{r['peak_mb'] / 1000:.1f} GB",
}


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def table(results: dict[str, Any]) -> str:
    """Lay the results out as Markdown."""
    head = ["set", *COLUMNS, "published"]
    lines = [
        "# Every multi-label set, one command",
        "",
        __doc__ or "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for name, given in SETS.items():
        if name in results:
            cells = [f"{name}{' (cut)' if given.test is None else ''}", *(c(results[name]) for c in COLUMNS.values())]
            lines.append(f"| {' | '.join([*cells, given.published])} |")
    versions = next(iter(results.values()))["versions"]
    lines += ["", "The options that describe each file, in the folder of the data:", "", "```"]
    lines += [results[name]["command"] for name in SETS if name in results]
    lines += [
        "```",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores; " + ", ".join(f"{k} {v}" for k, v in versions.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", choices=list(SETS), action="append", default=[], metavar="NAME", help="run one anew")
    again = parser.parse_args().again
    place = RESULTS / "evidence.json"
    results = json.loads(place.read_text()) if place.exists() else {}
    waiting = [name for name in SETS if name not in results or name in again]
    print(f"{len(waiting)} of {len(SETS)} sets to run, all of them about half an hour on 2 idle cores", flush=True)
    for name in waiting:
        results[name] = measured(SETS[name])
        place.write_text(json.dumps({key: results[key] for key in SETS if key in results}, indent=1) + "\n")
        print(f"{name}: {results[name]['seconds']} s", flush=True)
    (RESULTS / "evidence.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
