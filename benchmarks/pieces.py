"""Which pieces beside words and numbers pay: parts of words, columns of a kernel, nearest rows, and with which loss.

    python benchmarks/pieces.py          (part of `make defaults`; about half an hour of one core; what is in the
                                          results is not run again)
    --only NAME,...                      these sets alone

On training files alone, or on the two thirds to train on of a set without a split: at most 2,000 rows of each, of which
three quarters play the training rows and one quarter judges, by the mean of micro- and macro-F1. Everything else is
chosen as `manyhot train` chooses it. Nearest rows are judged as a blend with labels' own calibration ("own") and with
one for all labels ("pooled"), always used and used where held-out rows say so.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

import numpy as np
import scipy.sparse as sp
import torch

from defaults import ROOT, decided, rows_of, training_sets
from evidence import SETS, files_of
from manyhot.labels import cardinality_range, label_counts
from manyhot.split import stratified_split
from manyhot.toolkit.choose.blend import fit_blend, is_pooled
from manyhot.toolkit.choose.cross_fit import choose, choose_tau, fit_name, make_folds, mean_f1, prior_logits
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.fits import UNSAVED, Arrays
from manyhot.toolkit.models import kernel, term_blocks
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.linear import LinearLearner, is_shared
from manyhot.toolkit.models.model import unheard
from manyhot.toolkit.models.neighbours import Neighbours
from manyhot.toolkit.models.term_counts import Counted, most_frequent
from manyhot.toolkit.objectives import FORMULAS, route_of
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.read.inputs import read

RESULTS = Path(__file__).parent / "results" / "pieces.json"
ROWS = 2000
COMPARED = ("zlpr", "bce")
KS_TRIED = ((5, 20), (10,), (20, 50))
LANDMARKS = (0, 100, 300, 600)
SHORT = {
    "none": (0.0, 5, 200, "frequent"),
    "weight 1": (1.0, 5, 10**6, "frequent"),
    "weight 2": (2.0, 5, 10**6, "frequent"),
    "weight 4": (4.0, 5, 10**6, "frequent"),
    "weight 2, 3-4": (2.0, 4, 10**6, "frequent"),
}
# Where the mean row has more than 200 parts of words.
LONG = {
    "200, the most frequent": (2.0, 5, 200, "frequent"),
    "100, the rarest": (2.0, 5, 100, "rare"),
    "200, the rarest": (2.0, 5, 200, "rare"),
    "400, the rarest": (2.0, 5, 400, "rare"),
}
# Texts of more than term_blocks.LONG_TEXT distinct words, which have no parts of words; nor is the weight tried there.
LONG_TEXTS = ("debtags", "reuters r90")


class Kept:
    """Fits of one set of features: those of a loss by its name, what losses share by itself."""

    def __init__(self, results: dict[str, Arrays], loss: str) -> None:
        self.results, self.loss = results, loss

    def _key(self, fit: str) -> str:
        return fit if is_shared(fit) else f"{self.loss}, {fit}"

    def finished(self, fit: str) -> Arrays | None:
        return self.results.get(self._key(fit))

    def finish(self, fit: str, result: Arrays) -> None:
        self.results[self._key(fit)] = result

    def bookmark(self, fit: str) -> Any:
        return UNSAVED


@contextmanager
def parts_of_words(weight: float, longest: int, most: int, keep: str) -> Iterator[None]:
    """Set the block of parts of words for a while; `keep` says which go where rows have too many."""
    before = term_blocks.CHARACTER_WEIGHT, term_blocks._bounded
    term_blocks.CHARACTER_WEIGHT = weight

    def bounded(kind: dict[str, Any], counted: Counted) -> tuple[list[str], Any]:
        vocabulary, counts, known = counted

        def limited(longest: int) -> tuple[list[str], Any]:
            short = [term for term in vocabulary if len(term) <= longest]
            taken = counts[:, [vocabulary[term] for term in short]]
            places = {term: i for i, term in enumerate(short)}
            return most_frequent(Counted(places, taken, known), kind["min_df"], kind["max_features"])

        terms, kept = limited(longest)
        if keep == "frequent" and kept.nnz > most * counts.shape[0]:
            terms, kept = limited(4)
        if kept.nnz > most * counts.shape[0]:
            texts_of = np.bincount(kept.indices, minlength=len(terms))
            order = np.argsort(texts_of if keep == "rare" else -texts_of, kind="stable")
            places = np.sort(order[np.cumsum(texts_of[order]) <= most * counts.shape[0]])
            terms, kept = [terms[i] for i in places], sp.csr_array(kept[:, places])
        return terms, kept

    term_blocks._bounded = bounded
    try:
        yield
    finally:
        term_blocks.CHARACTER_WEIGHT, term_blocks._bounded = before


def judged(
    inner: Examples, outer: Examples, ks_tried: tuple[tuple[int, ...], ...] = KS_TRIED[:1], **blocks: bool
) -> dict[str, Any]:
    """Return for each loss the score that judges, alone and with nearest rows, and what held-out rows said."""
    began = time.process_time()
    features, X = Features.fit_transform(inner, None, **blocks)
    X_outer, targets, truth = features.transform(outer), inner.targets.toarray(), outer.targets.toarray()
    cardinality, counts = cardinality_range(targets), label_counts(inner.targets)
    folds, columns, kept = make_folds(X, targets, seed=0), features.size_without_kernel, {}
    nonzeros = (X.size if isinstance(X, np.ndarray) else X.nnz) / X.shape[0]
    found: dict[str, Any] = {"nonzeros": round(nonzeros), "prepare": time.process_time() - began}
    voters = None
    for loss in COMPARED:
        began = time.process_time()
        options: Any = {"loss": FORMULAS[loss], "route": route_of(loss)}
        learner, fits = LinearLearner.planned(X.shape[0], X.shape[1], targets.shape[1], **options), Kept(kept, loss)
        choice = choose(
            folds,
            learner=learner,
            C="auto",
            rule=choose_tau,
            cardinality=cardinality,
            train_counts=counts,
            checkpoint=fits,
        )
        options = {"start": choice.start, "fits": fits, "name": fit_name(choice.step.C, "all"), "progress": unheard}
        model = learner.fit(X, torch.from_numpy(targets), C=choice.step.C, **options).model
        plain, held = model.logits(X_outer), choice.held

        def score(logits: np.ndarray, tau: float, offset: Any) -> float:
            shifted = logits - np.float32(tau) * prior_logits(targets) + np.float32(offset)
            return mean_f1(decided(shifted, cardinality), truth)

        rows: dict[str, Any] = {
            "linear": score(plain, choice.step.tau, choice.step.offset),
            "held": choice.step.score,
            "seconds": time.process_time() - began,
        }
        for ks in ks_tried:
            if voters is None or tuple(voters[0]) != ks:
                parts = [(Neighbours.of(f.X[:, :columns], f.targets), f.X_held[:, :columns]) for f in folds]
                z = [np.concatenate(part) for part in zip(*(n.log_odds(x, ks) for n, x in parts), strict=True)]
                z_outer = Neighbours.of(X[:, :columns], targets).log_odds(X_outer[:, :columns], ks)
                voters = (ks, z, z_outer)
            for pooled in (False, True):
                blend = fit_blend(held.logits, voters[1], held.targets, pooled=pooled)
                blended = held._replace(logits=blend.logits(held.logits, voters[1]))
                tau, offset = choose_tau(blended, cardinality)
                inside = mean_f1(decided(blended.shifted(tau, offset), cardinality), held.targets)
                rows[f"{'pooled' if pooled else 'own'} {ks}"] = {
                    "score": score(blend.logits(plain, voters[2]), tau, offset),
                    "held": inside,
                    "weights": [blend.linear, *blend.votes],
                }
        found[loss] = rows
    found["pooled"] = is_pooled(counts)
    return found


def examples_of(name: str) -> Examples:
    """Read the rows that may choose: a training file, or two thirds of a file without a split."""
    known = training_sets(False)
    if name in known:
        return known[name]()
    kind, _, language = name.partition(" ")
    if kind == "semeval":
        return read(Config(data=str(ROOT / f"semeval2025_task11a/train/{language}.csv.gz"))).train
    with tempfile.TemporaryDirectory() as place:
        return read(Config(data=str(files_of(SETS[name], Path(place))[0]))).train


def judge(name: str) -> dict[str, Any]:
    """Return the means over quarters that judge: more where labels are few, so that a small set says something."""
    examples = examples_of(name)
    if examples.rows > ROWS:
        part = stratified_split(examples.targets, (ROWS, examples.rows - ROWS), seed=2)
        examples = rows_of(examples, part == 0)
    labels = int(examples.targets.shape[1])
    part = stratified_split(examples.targets, (1, 1, 1, 1), seed=1)
    quarters = range(1 if labels > 60 else 2 if examples.texts else 4)
    sides = [(rows_of(examples, part != quarter), rows_of(examples, part == quarter)) for quarter in quarters]
    found: dict[str, Any] = {"rows": sides[0][0].rows, "labels": labels, "quarters": len(sides)}

    def tried(option: str, ks: tuple[tuple[int, ...], ...], **blocks: bool) -> None:
        found[option] = mean_of([judged(inner, outer, ks, **blocks) for inner, outer in sides])
        print(name, option, summary(found[option]), flush=True)

    if examples.texts is not None:
        grid = {k: v for k, v in SHORT.items() if name not in LONG_TEXTS or k in ("none", "weight 2")}
        for option, setting in grid.items():
            with parts_of_words(*setting):
                tried(option, KS_TRIED if option == "weight 2" else KS_TRIED[:1], characters=setting[0] > 0)
        if found["weight 2"]["nonzeros"] - found["none"]["nonzeros"] > 200:
            for option, setting in LONG.items():
                if name in LONG_TEXTS and not option.startswith("200"):
                    continue
                with parts_of_words(*setting):
                    tried(option, KS_TRIED[:1], characters=True)
        return found
    for number in LANDMARKS if Features.fit(sides[0][0]).centred else LANDMARKS[:1]:
        kernel.LANDMARKS = number
        tried(f"{number} landmarks", KS_TRIED, kernel=number > 0)
    return found


def mean_of(parts: list[Any]) -> Any:
    """Return the means of the numbers in results of one shape."""
    if isinstance(parts[0], dict):
        return {key: mean_of([part[key] for part in parts]) for key in parts[0]}
    if isinstance(parts[0], list):
        return [mean_of(list(values)) for values in zip(*parts, strict=True)]
    return float(np.mean(parts))


def summary(found: dict[str, Any]) -> str:
    cells = []
    for loss in COMPARED:
        row = found[loss]
        cells.append(
            f"{loss} {row['linear']:.4f} own {row['own (5, 20)']['score']:.4f} pooled "
            f"{row['pooled (5, 20)']['score']:.4f} ({row['seconds']:.0f} s)"
        )
    return f"{found['nonzeros']:.0f} a row; " + "; ".join(cells)


NAMES = (
    *("emotions", "semeval eng", "semeval deu", "semeval hau", "ethos", "scene", "yeast", "stackex_chess"),
    *("enron", "goemotions", "reuters r90", "debtags", "bibtex", "ng20", "corel5k", "tmc2007", "cal500"),
    *("imdb", "delicious", "semeval afr", "semeval rus"),
)


def default_of(name: str, found: dict[str, Any]) -> str:
    """Name the option of a set that is the default."""
    if name in LONG_TEXTS:
        return "none"
    return next(option for option in ("200, the rarest", "weight 2", "100 landmarks", "0 landmarks") if option in found)


def cell(found: dict[str, Any], option: str, loss: str, votes: str) -> float:
    """Return the score that judges an option, in per cent: of the linear model alone, or with votes."""
    row = found[option][loss][votes]
    return 100 * (row if votes == "linear" else row["score"])


def tables(results: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Return what is compared: by table and option the score of each set, the mean of both losses."""
    both, votes = COMPARED, "own (5, 20)"

    def means(sets: list[str], option: str | None, voting: str, losses: tuple[str, ...] = both) -> dict[str, float]:
        found = {name: option or default_of(name, results[name]) for name in sets}
        return {
            n: float(np.mean([cell(results[n], o, loss, voting) for loss in losses]))
            for n, o in found.items()
            if o in results[n]
        }

    texts = [name for name, found in results.items() if "none" in found]
    long = [name for name, found in results.items() if "200, the rarest" in found]
    dense = [name for name, found in results.items() if "100 landmarks" in found]
    every = list(results)
    kinds = ("linear", *(f"{kind} {ks}" for ks in KS_TRIED for kind in ("own", "pooled")))
    voted = {
        name: next(option for option in ("weight 2", "100 landmarks", "0 landmarks") if option in results[name])
        for name in every
    }

    def votes_of(voting: str) -> dict[str, float]:
        found = {n: [cell(results[n], o, loss, voting) for loss in both] for n, o in voted.items()}
        return {name: float(np.mean(values)) for name, values in found.items()}

    return {
        "parts of words, with votes": {o: means(texts, o, votes) for o in SHORT},
        "parts of words, without votes": {o: means(texts, o, "linear") for o in SHORT},
        "at most so many in a row, with votes": {o: means(long, o, votes) for o in ("none", "weight 2", *LONG)},
        "landmarks, with votes": {f"{n} landmarks": means(dense, f"{n} landmarks", votes) for n in LANDMARKS},
        "landmarks, without votes": {f"{n} landmarks": means(dense, f"{n} landmarks", "linear") for n in LANDMARKS},
        "votes": {kind: votes_of(kind) for kind in kinds},
        "loss": {
            f"{loss}, {'with' if voting != 'linear' else 'without'} votes": means(every, None, voting, (loss,))
            for voting in (votes, "linear")
            for loss in COMPARED
        },
    }


def page(results: dict[str, Any]) -> str:
    """Lay the tables out as Markdown."""
    lines = ["# Pieces beside words and numbers", "", "`python benchmarks/pieces.py`", ""]
    for title, table in tables(results).items():
        sets = list(dict.fromkeys(name for row in table.values() for name in row))
        lines += [f"<!-- {title} -->", "", f"| {title} | {' | '.join(table)} |", "|---" * (len(table) + 1) + "|"]
        for name in sets:
            cells = " | ".join(f"{row[name]:.1f}" if name in row else "" for row in table.values())
            lines.append(f"| {name} | {cells} |")
        whole = [name for name in sets if all(name in row for row in table.values())]
        means = " | ".join(f"{np.mean([row[name] for name in whole]):.2f}" for row in table.values())
        lines += [f"| mean{'' if whole == sets else f' of {len(whole)}'} | {means} |", "", "<!-- end -->", ""]
    return "\n".join(lines)


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NAMES), metavar="NAME,...", help="these sets alone")
    asked = parser.parse_args().only.split(",")
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    began = time.monotonic()
    for name in asked:
        if name not in results:
            results[name] = rounded(judge(name))
            lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in results.items()]
            RESULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    RESULTS.with_suffix(".md").write_text(page(results))


if __name__ == "__main__":
    main()
