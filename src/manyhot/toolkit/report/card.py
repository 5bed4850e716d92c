"""A run's model card: one page of Markdown with the YAML head that the Hub reads, from its findings.

It holds no row of the data, and of files their names alone.
"""

import json
from pathlib import Path
from typing import Any

from manyhot.toolkit.errors import visible
from manyhot.toolkit.report.metric_names import MEASURED_ON, titles_of, written

# What the Hub calls what a run does.
PIPELINES = {"spans": "token-classification", "relations": "token-classification"}
# Metrics in the head, where a program reads them; the page has the others too.
HEADLINES = ("accuracy", "micro_f1", "macro_f1")
TRIPLE_HEADLINES = ("triple_micro_f1", "triple_macro_f1")
SHOWN_LABELS = 40


def card(findings: dict[str, Any]) -> str:
    """Write the card of a run.

    Args:
        findings: of the run's folder.
    """
    spans = findings["task"] in PIPELINES
    part = findings["measured"]["part"]
    metrics, name = findings["metrics"][part], findings["data"]
    titles = titles_of([metrics])
    low_high = "" if spans else _sizes(findings)
    lines = [
        *_head(findings, metrics, part),
        f"# {_plain(name)}",
        "",
        f"Predicts {_things(findings)}{_read_from(findings)}; trained by manyhot "
        f"{findings['origin']['versions'].get('manyhot') or ''} with the loss {findings['chosen'].get('loss', 'zlpr')}."
        + low_high,
        "",
        "## Data",
        "",
        *(f"- {_plain(sentence)}" for sentence in findings["said"]),
        *(
            f"- {_plain(Path(file['file']).name)}: {file['rows']:,} rows, sha256 {file['sha256'] or 'unknown'}"
            for file in findings["origin"]["inputs"]
        ),
        "",
        "## Numbers",
        "",
        f"On {findings['measured']['rows']:,} {MEASURED_ON[part]} of {_plain(findings['measured']['file'])}; F1 and "
        "what is like it in per cent.",
        "",
        "| | |",
        "|---|---:|",
        *(f"| {title} | {written(key, metrics[key])} |" for key, title in titles.items() if key in metrics),
        "",
        *(_kinds(findings["relations"], "relation", "triples") if "relations" in findings else []),
        *(_kinds(findings["types"], "type", "spans") if spans else _kinds(findings["labels"], "label", "rows")),
        "## Limits",
        "",
        *(f"- {_plain(warning['text'])}{_named(warning)}" for warning in findings["warnings"]),
        "- It knows the labels above and no other. On rows unlike those of training its numbers are unknown; "
        "`manyhot evaluate RUN FILE` measures them.",
        *(
            []
            if spans
            else [
                "- Probabilities are calibrated on held-out training rows; where labels are more or less frequent, "
                "they are off."
            ]
        ),
        "",
        "## Use, and how to repeat it",
        "",
        "```python",
        "import manyhot",
        "",
        'run = manyhot.load_run("RUN")',
        'run.predict(["a text"])' if "text:" in " ".join(findings["said"]) else "run.predict(rows)",
        "```",
        "",
        "`manyhot train --config RUN/config.toml` repeats the training; seed "
        f"{findings['origin']['seed']}, Python {findings['origin']['python']}, "
        + ", ".join(f"{package} {version}" for package, version in findings["origin"]["versions"].items() if version)
        + ".",
        "",
    ]
    return "\n".join(lines)


def _head(findings: dict[str, Any], metrics: dict[str, Any], part: str) -> list[str]:
    """Write the YAML head; scalars as JSON, which YAML reads."""
    pipeline = PIPELINES.get(findings["task"])
    if pipeline is None:
        pipeline = "text-classification" if "text:" in " ".join(findings["said"]) else "tabular-classification"
    task = "multi-class" if findings["task"] == "multiclass" else "multi-label"
    tags = ["manyhot"] if findings["task"] in PIPELINES else ["manyhot", f"{task}-classification"]
    return [
        "---",
        "library_name: manyhot",
        f"pipeline_tag: {pipeline}",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "model-index:",
        f"- name: {json.dumps(visible(findings['data']), ensure_ascii=False)}",
        "  results:",
        "  - task:",
        f"      type: {pipeline}",
        "    dataset:",
        f"      name: {json.dumps(visible(findings['measured']['file']), ensure_ascii=False)}",
        f"      type: {json.dumps(visible(findings['data']), ensure_ascii=False)}",
        f"      split: {part}",
        "    metrics:",
        *(
            line
            for key in (TRIPLE_HEADLINES if "relations" in findings else HEADLINES)
            if metrics.get(key) is not None
            for line in (f"    - type: {key}", f"      value: {round(float(metrics[key]), 4)}")
        ),
        "---",
        "",
    ]


def _things(findings: dict[str, Any]) -> str:
    number = f"{len(findings['types' if findings['task'] in PIPELINES else 'labels']):,}"
    if findings["task"] == "relations":
        return f"spans of {number} types and {len(findings['relations']):,} relations between them"
    return {
        "multilabel": f"the set of labels of a row, out of {number},",
        "multiclass": f"the one class of a row, out of {number},",
    }.get(findings["task"], f"spans of {number} types")


def _read_from(findings: dict[str, Any]) -> str:
    return f" from {_plain(findings['features'])}" if "features" in findings else ""


def _sizes(findings: dict[str, Any]) -> str:
    low, high = findings["cardinality"]
    return (
        "" if findings["task"] == "multiclass" else f" A row gets {low} to {high} labels; there is no threshold to set."
    )


def _kinds(kinds: list[dict[str, Any]], what: str, things: str) -> list[str]:
    """Write a table of labels, types or relations, the most frequent first: `things` is what each was counted in."""
    rows = sorted(kinds, key=lambda kind: (-kind[f"train_{things}"], kind["name"]))
    shown = rows[:SHOWN_LABELS]
    more = len(rows) - len(shown)
    return [
        f"| {what} | in training | measured | F1 |",
        "|---|---:|---:|---:|",
        *(
            f"| {_plain(kind['name'])} | {kind[f'train_{things}']:,} | {kind[things]:,} | {written('f1', kind['f1'])} |"
            for kind in shown
        ),
        *([f"| and {more:,} more | | | |"] if more else []),
        "",
    ]


def _named(warning: dict[str, Any]) -> str:
    names = ", ".join(_plain(name) for name in warning["labels"])
    more = f" and {warning['more']:,} more" if warning["more"] else ""
    return f" ({names}{more})" if names else ""


def _plain(text: str) -> str:
    """Keep what stands in a cell or a file name from being read as Markdown or HTML."""
    text = visible(" ".join(text.split()))
    return "".join(f"&#{ord(c)};" if c in "<>&|" else f"\\{c}" if c in "\\`*_[]#~" else c for c in text)
