"""Lay the numbers of quality.py out: tables, ranks with their picture, what was won, and what others have published."""

import statistics
from collections.abc import Iterable, Sequence
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import ranks
from evidence import percent
from manyhot.toolkit.compare.methods import Comparison
from manyhot.toolkit.config import Config

HERE = Path(__file__).parent
PAGE = HERE / "results" / "quality.md"
PICTURE = HERE.parent / "docs" / "measurements" / "quality_ranks.svg"

METRICS = {"micro_f1": "micro-F1", "macro_f1": "macro-F1", "rare_f1": "rare-F1", "samples_f1": "samples-F1"}
MORE_METRICS = {"exact_match": "exact match", "hamming_loss": "Hamming loss"}
MODELS = ("linear", "mlp")
SEMEVAL = "semeval2025 "
BASELINE = "bce"
# Sets of fewer measured rows tell two methods apart by chance alone.
LEAST_ROWS = 500
# Methods of `manyhot compare`: thresholds one a label, one for all, none.
RIVALS = ("bce+label-thresholds", "bce+threshold", "bce")
NOTHING = ["Not run yet."]

Results = dict[str, dict[str, Any]]


class Found(NamedTuple):
    """What a method gave on a set; numbers that do not exist are None."""

    metrics: dict[str, float | None]
    error: str | None
    seconds: float | None
    peak_mb: float | None


Table = dict[str, dict[str, Found]]  # set, method


def default_of(results: Results) -> str:
    """Return the default that linear models were compared with; where defaults changed meanwhile, that of now."""
    found = {runs["linear"]["default"] for runs in results.values() if "linear" in runs}
    return found.pop() if len(found) == 1 else Comparison(Config(data="any.csv")).default


# --- from the results to tables ---------------------------------------------------------------------------------------


def methods_of(runs: dict[str, Any], model: str) -> dict[str, Found]:
    """Return what each method gave on a set: those of the comparison, and beside the linear model those of others."""
    found = {}
    for method in runs.get(model, {"methods": []})["methods"]:
        found[method["name"]] = Found(*(method[key] for key in Found._fields))
    if model == "linear":
        for what, run in runs.items():
            if what not in MODELS:
                found[what] = Found(*(run[key] for key in Found._fields))
    return found


def mean_of(parts: list[Found]) -> Found:
    """Return the means over languages; a method that failed in one of them has failed."""
    failed = [part.error for part in parts if part.error]
    if failed:
        return Found({}, f"{failed[0]} ({len(failed)} of {len(parts)} languages)", None, None)
    metrics: dict[str, float | None] = {}
    for key in parts[0].metrics:
        values = [value for part in parts if (value := part.metrics[key]) is not None]
        metrics[key] = statistics.fmean(values) if values else None
    peaks = [part.peak_mb for part in parts if part.peak_mb is not None]
    return Found(metrics, None, sum(part.seconds or 0.0 for part in parts), max(peaks, default=None))


def tabulated(results: Results, sets: Iterable[str], languages: Sequence[str], model: str) -> Table:
    """Return a row a set; the languages of SemEval are one, as soon as all of them have run."""
    table: Table = {}
    for name in sets:
        # The mlp runs on English alone, which then stands for itself.
        if model == "linear" and name.startswith(SEMEVAL):
            name = f"{SEMEVAL}({len(languages)} languages)"
            parts = [methods_of(results.get(SEMEVAL + language, {}), model) for language in languages]
            found = {m: mean_of([part[m] for part in parts]) for m in parts[0] if all(m in part for part in parts)}
        else:
            found = methods_of(results.get(name, {}), model)
        if found and name not in table:
            table[name] = found
    return table


def columns_of(table: Table) -> list[str]:
    """Return the methods of a table, those of comparisons first."""
    longest = max(table.values(), key=len, default={})
    return list(dict.fromkeys([*longest, *(method for row in table.values() for method in row)]))


def compared(table: Table, results: Results) -> Table:
    """Leave out what is not of a comparison: learners of others, which have not run wherever a comparison has."""
    names = {
        m["name"] for runs in results.values() for what in MODELS for m in runs.get(what, {"methods": []})["methods"]
    }
    return {name: {m: found for m, found in row.items() if m in names} for name, row in table.items()}


def scores_of(table: Table, metric: str) -> tuple[list[str], np.ndarray]:
    """Return the sets on which all methods ran, and (sets, methods) of a metric: NaN where a method failed."""
    methods, names, rows = columns_of(table), [], []
    for name, row in table.items():
        values = [row[m].metrics.get(metric) for m in methods if m in row]
        if len(values) == len(methods) and any(value is not None for value in values):
            names.append(name)
            rows.append([np.nan if value is None else value for value in values])
    return names, np.array(rows, dtype=float).reshape(len(rows), len(methods))


# --- sections ---------------------------------------------------------------------------------------------------------


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def metric_tables(table: Table) -> list[str]:
    """Lay out a metric a table: sets by methods, the best in bold."""
    if not table:
        return NOTHING
    methods, lines = columns_of(table), []
    for metric, title in METRICS.items():
        rows = []
        for name, row in table.items():
            values = {m: found.metrics.get(metric) for m, found in row.items()}
            known = [value for value in values.values() if value is not None]
            if known:
                best = percent(max(known))
                cells = [cell(row.get(m), values.get(m)) for m in methods]
                rows.append([name, *(f"**{text}**" if text == best else text for text in cells)])
        lines += [f"{title}, per cent:", "", *markdown(["set", *methods], rows), ""]
    failed = [f"{m} on {name}: {found.error}" for name, row in table.items() for m, found in row.items() if found.error]
    return [*lines, *(["Failed: " + "; ".join(failed) + "."] if failed else [])]


def cell(found: Found | None, value: float | None) -> str:
    if found is None:
        return ""
    return "failed" if found.error else percent(value)


def rank_table(table: Table) -> list[str]:
    """Lay out the average ranks by each metric, with the test and the critical difference."""
    methods = columns_of(table)
    if len(methods) < 3:
        return NOTHING
    columns, notes = {}, []
    for metric, title in METRICS.items():
        names, scores = scores_of(table, metric)
        if not names:
            continue
        columns[title] = ranks.ranks_of(scores).mean(0)
        statistic, p = ranks.friedman(scores)
        difference = ranks.critical_difference(len(methods), len(names))
        failures = int(np.isnan(scores).sum())
        notes.append(
            f"- {title}: {len(names)} sets, critical difference {difference:.2f} (Nemenyi, 5 %), Friedman "
            f"{statistic:.1f}, p {p:.2g}" + (f"; missing and ranked last: {failures}" if failures else "")
        )
    if not columns:
        return NOTHING
    order = np.argsort(columns.get(METRICS["macro_f1"], next(iter(columns.values()))), kind="stable")
    best = {title: values.min() for title, values in columns.items()}
    rows = [
        [methods[i], *(f"**{v[i]:.2f}**" if v[i] == best[title] else f"{v[i]:.2f}" for title, v in columns.items())]
        for i in order
    ]
    complete = set(scores_of(table, "micro_f1")[0])
    left_out = [name for name in table if name not in complete]
    if left_out:
        notes.append(f"- not in the ranks, as not all methods have run there: {', '.join(left_out)}")
    return [*markdown(["method", *columns], rows), "", *notes]


def pairs(
    results: Results, table: Table, languages: Sequence[str], model: str, rival: str, metric: str
) -> list[ranks.Interval]:
    """Return the paired intervals of the default minus a rival, one a set; the languages of SemEval give one."""
    found: list[ranks.Interval] = []
    for name in table:
        parts = [SEMEVAL + language for language in languages] if name not in results else [name]
        runs = [results[part][model] for part in parts if model in results[part]]
        known = []
        for run in runs:
            methods = {method["name"]: method for method in run["methods"]}
            # The comparison has it the other way round: the rival minus the default.
            of_rival = methods.get(rival, {}).get("against_default", {}).get(metric)
            if of_rival:
                low, high = of_rival["interval"]
                known.append((-of_rival["value"], (-high, -low)))
        if known and len(known) == len(parts):
            found.append(ranks.mean_difference([v for v, _ in known], [i for _, i in known])[1])
    return found


def wins_table(results: Results, table: Table, languages: Sequence[str], model: str) -> list[str]:
    """Lay out wins / ties / losses of the default against every other method of the comparisons."""
    every = (m["name"] for runs in results.values() for m in runs.get(model, {"methods": []})["methods"])
    named, default = dict.fromkeys(every), default_of(results)
    if default not in named:
        return NOTHING
    rows = []
    for method in named:
        if method != default:
            found = [pairs(results, table, languages, model, method, metric) for metric in ("micro_f1", "macro_f1")]
            rows.append([method, *("{} / {} / {}".format(*ranks.tally(intervals)) for intervals in found)])
    return markdown([f"{default} against", *(METRICS[metric] for metric in ("micro_f1", "macro_f1"))], rows)


def cost_table(table: Table) -> list[str]:
    """Lay out time and memory beside binary cross-entropy's: the median over sets, and the extremes."""
    rows = []
    for method in columns_of(table):
        cells = [method]
        for part in ("seconds", "peak_mb"):
            ratios = []
            for row in table.values():
                if method in row and BASELINE in row:
                    value, base = getattr(row[method], part), getattr(row[BASELINE], part)
                    if value is not None and base:
                        ratios.append(value / base)
            cells.append(f"{statistics.median(ratios):.2g} ({min(ratios):.2g} to {max(ratios):.2g})" if ratios else "")
        cells.append(str(sum(row[method].error is not None for row in table.values() if method in row)))
        rows.append(cells)
    if not any(BASELINE in row for row in table.values()):
        return NOTHING
    return markdown(["method", "time / bce", "memory / bce", "sets failed"], rows)


def reading(results: Results, table: Table, languages: Sequence[str]) -> list[str]:
    """Say in words whether the default does what was hoped of it."""
    methods, default = columns_of(table), default_of(results)
    if default not in methods or RIVALS[0] not in methods:
        return NOTHING
    lines, reached = [], []
    for metric in ("macro_f1", "micro_f1"):
        names, scores = scores_of(table, metric)
        if not names:
            return NOTHING
        average = dict(zip(methods, ranks.ranks_of(scores).mean(0).tolist(), strict=True))
        difference = ranks.critical_difference(len(methods), len(names))
        best = min(average, key=lambda method: average[method])
        place = 1 + sum(value < average[default] for value in average.values())
        lines.append(
            f"- {METRICS[metric]}: {default} has average rank {average[default]:.2f} over {len(names)} sets, place "
            f"{place} of {len(methods)}; {best} has the best, {average[best]:.2f}."
        )
        behind = []
        for rival in RIVALS[:2]:
            gap = average[default] - average[rival]
            behind.append(gap > difference)
            values = scores[:, methods.index(default)] - scores[:, methods.index(rival)]
            found = pairs(results, table, languages, "linear", rival, metric)
            wins, ties, losses = ranks.tally(found)
            lines.append(
                f"  - {rival} has {average[rival]:.2f}, {'better' if gap > 0 else 'worse' if gap < 0 else 'the same'}; "
                f"the critical difference is {difference:.2f}. {default} is above it on {int((values > 0).sum())} sets "
                f"and below it on {int((values < 0).sum())}; by the paired "
                f"intervals it wins {wins}, ties {ties} and loses {losses}."
            )
        reached.append(place == 1 if metric == "macro_f1" else not any(behind))
    said = ["reached" if yes else "not reached" for yes in reached]
    lost, pairs_of = behind_beyond_chance(results)
    behind_of = f"behind {', '.join(lost)}" if lost else "behind none"
    lines.append(
        f"- On sets of {LEAST_ROWS} measured rows or more, {pairs_of} pairs of a method and a metric, the default "
        f"is {behind_of} beyond Holm's correction at 5 %."
    )
    return [
        *lines,
        "",
        f"The best average rank in macro-F1 with nothing tuned by the user: {said[0]}. Not significantly behind BCE "
        f"with tuned thresholds in micro-F1: {said[1]}.",
    ]


def behind_beyond_chance(results: Results) -> tuple[list[str], int]:
    """Name methods that the linear default is behind of by Holm's correction over all pairs, and count these pairs."""
    named, ps, ahead = [], [], []
    for name, runs in results.items():
        run = runs.get("linear", {"rows": 0, "methods": []})
        for method in run["methods"] if run["rows"] >= LEAST_ROWS else ():
            for metric, found in method["against_default"].items():
                named.append(f"{method['name']} on {name} in {METRICS[metric]}")
                ps.append(ranks.p_value(found["value"], found["interval"], run["level"]))
                ahead.append(found["value"] > 0)
    return [
        what for what, differs, better in zip(named, ranks.holm(ps), ahead, strict=True) if differs and better
    ], len(ps)


class Published(NamedTuple):
    """A number that was read at its source, and what is different there."""

    name: str
    metric: str
    value: str
    source: str
    differs: str


_HUANG = "Huang et al., EMNLP 2021, arXiv 2109.04712"
_BERT = "bert-base-uncased fine-tuned; 1,000 training rows held out; 90 labels, of which its rarest has 5 rows, here 2"
_MONOLOGG = "monologg/GoEmotions-pytorch, BCE, threshold 0.3"
_GOEMOTIONS = "BERT-base-cased fine-tuned; same split"
_ETHOS = "10 folds, ours 3; its features"
PUBLISHED = (
    Published("reuters21578 R90", "micro_f1", "90.74", f"{_HUANG}: CB-NTR", _BERT),
    Published("reuters21578 R90", "micro_f1", "90.70", f"{_HUANG}: NTR-FL", _BERT),
    Published("reuters21578 R90", "micro_f1", "90.62", f"{_HUANG}: DB", _BERT),
    Published("goemotions", "macro_f1", "50.30 (dev 50.16)", _MONOLOGG, _GOEMOTIONS),
    Published("goemotions, Ekman's groups", "macro_f1", "62.38", _MONOLOGG, f"{_GOEMOTIONS}, labels grouped"),
    Published("goemotions, sentiments", "macro_f1", "70.06", _MONOLOGG, f"{_GOEMOTIONS}, labels grouped"),
    Published(
        "semeval2025 (28 languages)",
        "macro_f1",
        "56.58",
        "University of Indonesia, arXiv 2505.16460",
        "CatBoost on frozen mE5 and BGE encoders",
    ),
    Published("semeval2025 amh", "macro_f1", "63.83", "baseline of the task", "its model"),
    Published("semeval2025 amh", "macro_f1", "64.50", "LaBSE, class-weighted BCE", "a pretrained encoder"),
    *(
        Published("ethos", metric, value, f"ethos/results: {who}", _ETHOS)
        for who, values in {
            "neural binary relevance": ("72.26", "73.95", "70.95", "41.79", "10.97"),
            "neural classifier chain": ("59.12", "56.94", "54.19"),
            "MLkNN": ("53.74", "53.04", "48.01"),
            "binary relevance": ("52.83", "48.41", "40.13"),
            "classifier chain": ("55.11", "51.23", "42.22"),
        }.items()
        for metric, value in zip(
            ("micro_f1", "macro_f1", "samples_f1", "exact_match", "hamming_loss"), values, strict=False
        )
    ),
)


def published_table(results: Results, table: Table) -> list[str]:
    """Lay out what others have published beside the default and BCE with tuned thresholds, linear models both."""
    rows, default = [], default_of(results)
    for known in PUBLISHED:
        row = table.get(known.name) or methods_of(results.get(known.name, {}), "linear")
        ours = [
            percent(row[method].metrics.get(known.metric)) if method in row else "" for method in (default, RIVALS[0])
        ]
        title = {**METRICS, **MORE_METRICS}[known.metric]
        rows.append([known.name, title, known.value, known.source, *ours, known.differs])
    return markdown(["set", "metric", "published", "by", default, RIVALS[0], "what differs"], rows)


# --- the picture ------------------------------------------------------------------------------------------------------


def diagram(panels: dict[str, tuple[dict[str, float], float]], default: str) -> str:
    """Draw average ranks, the best on the left; a bar joins methods that are less than the difference apart."""
    matplotlib: Any = import_module("matplotlib")
    figures: Any = import_module("matplotlib.figure")
    most = max((len(average) for average, _ in panels.values()), default=0)
    height = 1.5 + 0.32 * ((most + 1) // 2)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "manyhot", "font.size": 9}):
        figure = figures.Figure(figsize=(9, height * len(panels)))
        axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for ax, (title, (average, difference)) in zip(axes, panels.items(), strict=True):
            _panel(ax, title, average, difference, default)
        figure.subplots_adjust(left=0.02, right=0.98, top=0.97, bottom=0.02)
        file = StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _panel(ax: Any, title: str, average: dict[str, float], difference: float, default: str) -> None:
    order = sorted(average, key=lambda method: average[method])
    values, k = [average[method] for method in order], len(average)
    half = (k + 1) // 2
    runs = ranks.alike(values, difference)
    below = 0.5 + 0.22 * len(runs)  # of the axis, where the names begin
    ax.set(xlim=(1 - 0.45 * (k - 1), k + 0.45 * (k - 1)), ylim=(below + 0.5 * half, -1.9))
    ax.axis("off")
    ax.plot([1, k], [0, 0], color="#222", lw=1)
    for rank in range(1, k + 1):
        ax.plot([rank, rank], [0, -0.12], color="#222", lw=1)
        ax.text(rank, -0.2, str(rank), ha="center", va="bottom")
    ax.text(1, -1.5, title, fontweight="bold", va="center")
    if difference < k - 1:
        ax.plot([k - difference, k], [-1.0, -1.0], color="#d55e00", lw=2)
    ax.text(k, -1.5, f"critical difference {difference:.2f}", ha="right", va="center", color="#d55e00")
    for i, (method, value) in enumerate(zip(order, values, strict=True)):
        left = i < half
        y = below + 0.5 * (i if left else k - 1 - i)
        side = 1 - 0.04 * k if left else k + 0.04 * k
        weight = "bold" if method == default else "normal"
        ax.plot([value, value, side], [0, y, y], color="#888", lw=0.8)
        at = {"x": side, "y": y, "ha": "right" if left else "left", "va": "center"}
        ax.text(s=f" {method} {value:.2f} ", fontweight=weight, **at)
    for level, (first, last) in enumerate(runs):
        y = 0.25 + 0.22 * level
        ax.plot([values[first] - 0.03, values[last] + 0.03], [y, y], color="#0072b2", lw=3, solid_capstyle="butt")


def panels_of(table: Table) -> dict[str, tuple[dict[str, float], float]]:
    """Return the average ranks and the critical difference of the two metrics that are drawn."""
    methods, panels = columns_of(table), {}
    for metric in ("macro_f1", "micro_f1"):
        names, scores = scores_of(table, metric)
        if names and len(methods) > 2:
            average = dict(zip(methods, ranks.ranks_of(scores).mean(0).tolist(), strict=True))
            difference = ranks.critical_difference(len(methods), len(names))
            panels[f"{METRICS[metric]}, {len(names)} sets"] = average, difference
    return panels


# --- the page ---------------------------------------------------------------------------------------------------------


def page(results: Results, sets: Sequence[str], languages: Sequence[str]) -> str:
    """Write the sections; docs/measurements/quality.md includes each from its mark to the end of it."""
    linear, mlp = (tabulated(results, sets, languages, model) for model in MODELS)
    ours = compared(linear, results)
    ranked = rank_table(ours)
    if panels_of(ours):
        place = "../../docs/measurements/" + PICTURE.name
        ranked = [f"![Average ranks of the methods, with the critical difference]({place})", "", *ranked]
    sections = {
        "reading": ("What was hoped", reading(results, ours, languages)),
        "ranks": ("Average ranks", ranked),
        "others": ("Average ranks, with learners of others", rank_table(linear) if linear != ours else NOTHING),
        "wins": ("Wins / ties / losses", wins_table(results, linear, languages, "linear")),
        "tables": ("Every set", metric_tables(linear)),
        "cost": ("Time and memory", cost_table(linear)),
        "mlp": ("One hidden layer", [*rank_table(mlp), "", *metric_tables(mlp)] if mlp else NOTHING),
        "published": ("Published", published_table(results, linear)),
        "machine": ("Machine", machine(results)),
    }
    lines = ["# The default, tuned BCE and others on every multi-label set", "", "`make quality`", ""]
    for mark, (title, section) in sections.items():
        lines += [f"## {title}", "", f"<!-- {mark} -->", "", *section, "", "<!-- end -->", ""]
    return "\n".join(lines)


def machine(results: Results) -> list[str]:
    """Say what the numbers were made with."""
    said: dict[str, None] = {}
    for runs in results.values():
        for what, run in runs.items():
            if what in MODELS:
                versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
                said[f"- {run['platform']}, {run['threads']} threads; {versions}"] = None
            elif "version" in run:
                said[f"- {run['version']}"] = None
    return list(said) or NOTHING


def write(results: Results, sets: Sequence[str], languages: Sequence[str]) -> None:
    """Write the page and, where there are ranks, their picture."""
    PAGE.write_text(page(results, sets, languages))
    panels = panels_of(compared(tabulated(results, sets, languages, "linear"), results))
    if panels:
        PICTURE.write_text(diagram(panels, default_of(results)))
    print(f"wrote {PAGE}")
