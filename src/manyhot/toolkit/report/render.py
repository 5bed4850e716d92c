"""Findings to a page: one HTML file that needs nothing else, in which nothing from data is ever code.

jinja escapes every value, names stand in <bdi> so that their direction ends with them, and the page's own policy lets
no script run but the one that belongs to it.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from manyhot.toolkit.config import MARKED_TEXTS
from manyhot.toolkit.errors import visible
from manyhot.toolkit.report import plots
from manyhot.toolkit.report.answer import answer, verdicts
from manyhot.toolkit.report.metric_names import (
    MEASURED_ON,
    RELATION_TITLES,
    SPAN_TITLES,
    TITLES,
    below_half,
    percent,
    points,
    titles_of,
    written,
    written_penalty,
)
from manyhot.toolkit.report.scorer import written as written_inside
from manyhot.toolkit.report.span_page import drawn_arrows, hues_of, marked
from manyhot.toolkit.report.suspects import rows_shown

# Rows of a table of labels that a page can hold; of more, the rare ones and the worst are kept.
MOST_LABELS = 2000
MOST_METHODS = 100
NAME_LENGTH = 120
# Bins of probabilities from 60 to 80 %: what a reader is told of first, if there are so many.
TOLD_BINS, TOLD_LEAST = slice(6, 8), 30
# Labels that are marked as the worst, and the measured rows that one needs.
MARKED, LEAST_ROWS = 5, 3
# How far off the number of labels may be and still be called right.
ABOUT = 0.05
SPAN_COMPARED = ("micro_f1", "micro_precision", "micro_recall", "macro_f1", "rare_f1", "exact_match")
RELATION_COMPARED = (*(f"triple_{key}" for key in SPAN_COMPARED[:4]), "triple_boundary_f1", "micro_f1")
COMPARED = ("micro_f1", "macro_f1", "rare_f1", "samples_f1", "exact_match")


def render_run(findings: dict[str, Any]) -> str:
    """Write the report of a run: findings as :func:`manyhot.toolkit.train.findings_of` collects them."""
    if findings["task"] in MARKED_TEXTS:
        return _render_spans(findings)
    measured = findings["measured"]
    metrics = findings["metrics"][measured["part"]]
    multiclass = findings["task"] == "multiclass"
    # The rows are what a reader knows of a label: it is found by them, and the worst are marked.
    labels = sorted(shown_labels(findings["labels"]), key=lambda label: (-label["rows"], -label["train_rows"]))
    steps = findings["steps"]
    unit = "iteration" if findings["chosen"].get("solver") == "lbfgs" else "epoch"
    if findings["chosen"].get("weights") == "sparse":
        unit = "block"
    return _page(
        "run.html",
        f=findings,
        m=metrics,
        measured=measured,
        multiclass=multiclass,
        noun="class" if multiclass else "label",
        nouns="classes" if multiclass else "labels",
        labels=labels,
        left_out=len(findings["labels"]) - len(labels),
        worst_labels=worst_labels(labels),
        overview=_overview(findings),
        box=None if findings["box"] is None or findings["box"]["model"] is None else _box(findings["box"]["model"]),
        rows_shown=rows_shown(findings),
        suspects=findings.get("suspects"),
        reads_text=findings["overview"]["lengths"] is not None,
        below_half=below_half(multiclass=multiclass) if _shown_below_half(findings["worst"] or ()) else None,
        BELOW_HALF=below_half(multiclass=multiclass),
        number_of=lambda group: sum(label["group"] == group for label in findings["labels"]),
        learned=_learned_labels(findings["labels"]),
        cardinality=None if multiclass else _cardinality_sentence(metrics, findings["chosen"].get("promise")),
        calibration=_calibration_sentence(findings["reliability"], multiclass=multiclass),
        reliability=plots.plot_reliability(
            findings["reliability"],
            what="rows whose likeliest class is right" if multiclass else "labels that are true",
        ),
        sizes=None if multiclass else plots.plot_sizes(**findings["sizes"]),
        scores=plots.plot_scores(findings["scores"]),
        steps=plots.plot_steps(steps) if len(steps) > 1 and steps[0]["C"] is not None else None,
        curve=plots.plot_curve(**findings["curve"], unit=unit),
        unit=unit,
        stopped=findings["curve"]["scores"][0] is not None,
        numbers=[(MEASURED_ON[part], metrics) for part, metrics in findings["metrics"].items()],
        rows=[key for key in TITLES if all(key in part for part in findings["metrics"].values())],
    )


def _render_spans(findings: dict[str, Any]) -> str:
    """Write the report of a run on spans: findings as :func:`manyhot.toolkit.spans.train.findings_of` collects them."""
    measured = findings["measured"]
    types = shown_labels([row | {"train_rows": row["train_spans"]} for row in findings["types"]])
    hues = hues_of([row["name"] for row in findings["types"]])
    titles = titles_of(findings["metrics"].values())
    relations = [row | {"train_rows": row["train_triples"]} for row in findings.get("relations", ())]
    return _page(
        "spans.html",
        f=findings,
        m=findings["metrics"][measured["part"]],
        measured=measured,
        overview=_overview_of_spans(findings),
        types=types,
        left_out=len(findings["types"]) - len(types),
        relations=shown_labels(relations),
        repeated=[pair for pair in findings["errors"]["pairs"] if pair["spans"] > 1],
        worst=[
            (row, marked(row, hues), drawn_arrows(row["arrows"], hues) if "arrows" in row else None)
            for row in findings["worst"] or ()
        ],
        curve=plots.plot_curve(**findings["curve"], unit="epoch"),
        stopped=findings["curve"]["scores"][0] is not None,
        numbers=[(MEASURED_ON[part], metrics) for part, metrics in findings["metrics"].items()],
        rows=[key for key in titles if all(key in part for part in findings["metrics"].values())],
        TITLES=titles,
    )


def render_comparison(comparison: dict[str, Any]) -> str:
    """Write the report of a comparison, as compare.json holds it.

    Raises:
        ValueError: more methods than there can be; each has plots.
    """
    if len(comparison["methods"]) > MOST_METHODS:
        raise ValueError(f"{len(comparison['methods'])} methods, where {MOST_METHODS} are the most")
    if comparison.get("task") in MARKED_TEXTS:
        return _render_span_comparison(comparison)
    fine = [method for method in comparison["methods"] if method["error"] is None]
    indices = shown_labels(
        [
            {"train_rows": rows, "f1": max((m["label_f1"][i] for m in fine), default=None), "index": i}
            for i, rows in enumerate(comparison["train_counts"])
        ]
    )
    keys = [key for key in COMPARED if any(m["metrics"].get(key) is not None for m in fine)]
    return _page(
        "comparison.html",
        c=comparison,
        fine=fine,
        failed=[method for method in comparison["methods"] if method["error"] is not None],
        answer=answer(comparison),
        verdicts=verdicts(comparison),
        keys=keys,
        forests=[(TITLES[key], plots.plot_forest(f"forest-{key}", TITLES[key], _estimates(fine, key))) for key in keys],
        shapes=[(m, _shapes(m, i)) for i, m in enumerate(fine)],
        indices=[row["index"] for row in indices],
        left_out=len(comparison["labels"]) - len(indices),
        rows=[key for key in TITLES if any(key in m["metrics"] for m in fine)],
        numbers=[(m["name"], m["metrics"]) for m in fine],
    )


def _shapes(method: dict[str, Any], number: int) -> list[tuple[str, Markup]]:
    """Draw of a method its probabilities, scores and numbers of labels, each with a title."""
    what = "labels that are true"
    found = []
    if sums := method.get("reliability"):  # comparisons of before have none
        name = f"reliability-{number}"
        found.append(("probabilities", plots.plot_reliability(sums, what=what, name=name, small=True)))
    found.append(("scores", plots.plot_scores(method["scores"], name=f"scores-{number}", small=True)))
    return [
        *found,
        ("labels a row", plots.plot_sizes(**method["cardinality"], name=f"sizes-{number}", small=True)),
    ]


def _render_span_comparison(comparison: dict[str, Any]) -> str:
    """Write the report of a comparison on spans, or relations."""
    fine = [method for method in comparison["methods"] if method["error"] is None]
    linked = comparison["task"] == "relations"
    titles, compared = (RELATION_TITLES, RELATION_COMPARED) if linked else (SPAN_TITLES, SPAN_COMPARED)
    keys = [key for key in compared if any(m["metrics"].get(key) is not None for m in fine)]
    return _page(
        "span_comparison.html",
        c=comparison,
        fine=fine,
        failed=[method for method in comparison["methods"] if method["error"] is not None],
        answer=answer(comparison),
        verdicts=verdicts(comparison),
        keys=keys,
        forests=[
            (titles[key], plots.plot_forest(f"forest-{key}", titles[key], _estimates(fine, key)))
            for key in comparison["best"]
        ],
        curves=[
            (m, plots.plot_epochs(m["curves"], name=f"epochs-{i}")) for i, m in enumerate(fine) if any(m["curves"])
        ],
        rows=[key for key in titles if any(key in m["metrics"] for m in fine)],
        numbers=[(m["name"], m["metrics"]) for m in fine],
        relations=linked,
        first="triple_micro_f1" if linked else "micro_f1",
        TITLES=titles,
    )


def worst_labels(labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the labels to look at first: of those with rows enough, those with the lowest F1 below 50 %."""
    known = [label for label in labels if label["rows"] >= LEAST_ROWS and label["f1"] < 0.5]
    return sorted(known, key=lambda label: (label["f1"], -label["rows"]))[:MARKED]


def _overview(findings: dict[str, Any]) -> dict[str, Any]:
    """Draw what the data are."""
    found, nouns = findings["overview"], "classes" if findings["task"] == "multiclass" else "labels"
    counts = [label["train_rows"] for label in findings["labels"]]
    figures = [
        plots.plot_frequencies(
            "frequencies", f"Training rows of each of the {nouns}", counts, xlabel=f"{nouns}, the most frequent first"
        )
    ]
    if findings["task"] != "multiclass":
        figures.append(
            plots.plot_bars(
                "row-sizes", "Training rows by the number of their labels", found["sizes"], xlabel="labels of a row"
            )
        )
    if (lengths := found["lengths"]) is not None:
        title = f"Training rows by the {lengths['unit']} of their text"
        figures.append(
            plots.plot_counts(
                "lengths", title, lengths["counts"], lengths["edges"], xlabel=f"{lengths['unit']} of a text"
            )
        )
    rows = sum(found["sizes"])
    each = sum(i * count for i, count in enumerate(found["sizes"])) / max(rows, 1)
    return found | {"figures": figures, "rows": rows, "each": each, "counts": sorted(counts)}


def _overview_of_spans(findings: dict[str, Any]) -> dict[str, Any]:
    """Draw what the sentences are."""
    sizes, lengths = findings["overview"]["sizes"], findings["overview"]["lengths"]
    counts = sorted(row["train_spans"] for row in findings["types"] if row["train_spans"])
    title, xlabel = f"Training rows by their {lengths['unit']}", f"{lengths['unit']} of a row"
    return {
        "rows": sum(sizes),
        "each": sum(i * count for i, count in enumerate(sizes)) / max(sum(sizes), 1),
        "counts": counts,
        "lengths": lengths,
        "figures": [
            plots.plot_bars("row-sizes", "Training rows by the number of their spans", sizes, xlabel="spans of a row"),
            plots.plot_counts("lengths", title, lengths["counts"], lengths["edges"], xlabel=xlabel),
        ],
    }


def _box(model: dict[str, Any]) -> dict[str, Any]:
    """Prepare what a reader can fill, and the data that the page computes with."""
    numbers = model.get("numbers")
    means = [] if numbers is None else np.frombuffer(base64.b64decode(numbers["mean"]), "<f8").tolist()
    blocks = model["blocks"]
    # The standardised numbers of some training rows, float32.
    rows = base64.b64decode(model["kernel"]["landmarks"]) if "kernel" in model else b""
    landmarks = len(rows) // (4 * max(len(means), 1))
    return {
        "data": Markup(written_inside(model).decode()),
        "text": bool(blocks),
        "unit": "characters" if blocks and blocks[0]["analyzer"] == "char" else "words",
        "whole": all(block["whole"] for block in blocks),
        "numbers": [] if numbers is None else list(zip(numbers["names"], means, strict=True)),
        "categories": model["categories"],
        "landmarks": landmarks,
    }


def _shown_below_half(rows: Any) -> bool:
    """Say whether a label that is predicted in one of these rows has a probability below 50 %."""
    return any(label["prob"] < 0.5 for row in rows for label in (*row["right"], *row["added"]))


def shown_labels(labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the labels that a page can hold: of more, half the room for those with fewest rows, half for the worst."""
    if len(labels) <= MOST_LABELS:
        return labels
    order = range(len(labels))
    rare = sorted(order, key=lambda i: labels[i]["train_rows"])[: MOST_LABELS // 2]
    rest = set(order) - set(rare)
    worst = sorted(rest, key=lambda i: (labels[i]["f1"] is None, labels[i]["f1"] or 0.0, i))
    return [labels[i] for i in sorted({*rare, *worst[: MOST_LABELS - len(rare)]})]


def _learned_labels(labels: list[dict[str, Any]]) -> tuple[int, int]:
    """Count the labels that measured rows have, and those of them with an F1 of at least a half."""
    known = [label for label in labels if label["rows"]]
    return len(known), sum(label["f1"] >= 0.5 for label in known)


def _cardinality_sentence(metrics: dict[str, Any], promise: dict[str, Any] | None) -> str:
    """Say whether as many labels are predicted as there are; of a promised precision, how far it is kept."""
    if promise is not None:
        without = len(promise["too_rare"]) + len(promise["never"])
        said = f"It predicts a label where held-out rows promise a precision of {100 * promise['precision']:g} %"
        said += f"; {percent(metrics['micro_precision'])} % of its predictions here are right."
        if without:
            said += f" {without:,} label{' is' if without == 1 else 's are'} never predicted, without such a promise."
        return _unbroken(said)
    predicted, true = metrics["labels_per_row_predicted"], metrics["labels_per_row_true"]
    if not true:
        return "The rows have no labels."
    off = predicted / true - 1
    if abs(off) <= ABOUT:
        return "It predicts about as many labels as there are."
    said = _unbroken(f"It predicts {100 * abs(off):.0f} % {'more' if off > 0 else 'fewer'} labels than there are.")
    if off > 0:
        said += " Where labels are hard to predict, F1 is highest so; "
        said += Markup("<code>--decision cardinality</code> keeps to their number.")
    return said


def _calibration_sentence(sums: list[list[float]], *, multiclass: bool) -> str:
    """Say in one sentence how far a stated probability can be believed."""
    n, stated, right = (sum(row[TOLD_BINS]) for row in sums)
    what = "rows" if multiclass else "labels"
    if n >= TOLD_LEAST:
        return _unbroken(
            f"Where it states 60 to 80 %, on the mean {100 * stated / n:.0f} %, {100 * right / n:.0f} % of "
            f"{n:,.0f} {what} {'have that class' if multiclass else 'are true'}."
        )
    if not sum(sums[0]):
        return "No probability could be measured."
    return "Few probabilities lie between 60 and 80 %: too few to say in one number how true they are."


def _estimates(methods: list[dict[str, Any]], key: str) -> list[tuple[str, float, Any, bool]]:
    """List what is known of a metric for each method, the best first."""
    known = [m for m in methods if m["metrics"].get(key) is not None]
    known.sort(key=lambda m: -m["metrics"][key])
    return [(m["name"], m["metrics"][key], m["intervals"].get(key), m["kind"] == "ours") for m in known]


def _unbroken(sentence: str) -> str:
    """Keep a number and its sign on one line."""
    return sentence.replace(" %", "\u00a0%")


def cut(name: str) -> str:
    """Shorten a name that no page has room for."""
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"


@cache
def _templates() -> jinja2.Environment:
    folder = files("manyhot.toolkit.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "penalty": written_penalty, "cut": cut, "points": points}
    environment.filters["from_metrics"] = lambda key, metrics: written(key, metrics[key])
    # A page has no "</style>" or "</script>" in either: they are ours.
    style, spans, script, scorer = (
        (folder / name).read_text(encoding="utf-8") for name in ("style.css", "spans.css", "script.js", "scorer.js")
    )
    # The name of a method ends a line after a plus.
    environment.filters["breakable"] = lambda name: Markup("+<wbr>").join(name.split("+"))
    environment.filters["signed"] = lambda number: f"{number:+d}".replace("-", "\u2212") if number else "0"
    environment.globals |= {
        "style": Markup(style),
        "span_style": Markup(spans),
        # With a box to try a row in, and without.
        "scripts": {True: _hashed(script + scorer), False: _hashed(script)},
    }
    environment.globals |= {"TITLES": TITLES}
    return environment


def _hashed(script: str) -> tuple[Markup, str]:
    """Return a script, and what a policy lets it run by."""
    return Markup(script), f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _page(template: str, **values: Any) -> str:
    script, digest = _templates().globals["scripts"][bool(values.get("box"))]
    return _templates().get_template(template).render(script=script, script_hash=digest, **values)
