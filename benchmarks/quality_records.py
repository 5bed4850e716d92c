"""quality.json: a line a set and model, in it a row of numbers for each method and nothing that the page does not need.

Shares are written in ten-thousandths. A method that failed has its reason in place of numbers.
"""

import json
from collections.abc import Sequence
from typing import Any

METRICS = (
    *("micro_f1", "macro_f1", "rare_f1", "samples_f1", "exact_match", "hamming_loss"),
    *("labels_per_row_predicted", "empty_rows"),
)
# Of these the difference from the default and its interval are kept.
COMPARED = ("micro_f1", "macro_f1")
COLUMNS = (
    *METRICS,
    *("seconds", "peak_mb"),
    *(f"{metric}, {part}" for metric in COMPARED for part in ("less the default", "from", "to")),
)
SCALE = 10_000
HEAD = ("rows", "labels", "seeds", "level", "default", "seconds", "platform", "threads", "versions")


def packed(results: dict[str, Any], order: Sequence[str]) -> str:
    """Write results, sets in this order."""
    machines: list[Any] = []

    def place(machine: Any) -> int:
        if machine not in machines:
            machines.append(machine)
        return machines.index(machine)

    lines = []
    for name in order:
        for what, run in results.get(name, {}).items():
            if "methods" in run:
                machine = [run["platform"], run["threads"], run["versions"]]
                head = {key: run[key] for key in HEAD[:6]} | {"machine": place(machine)}
                body = head | {"methods": {method["name"]: _row(method) for method in run["methods"]}}
            else:
                body = {"row": _row(run), "version": run.get("version")}
            lines.append(f"  {json.dumps([name, what])[1:-1]}, {json.dumps(body, separators=(',', ':'))}")
    head = {"columns": COLUMNS, "scale": SCALE, "machines": machines}
    runs = ",\n".join(f"  [{line.strip()}]" for line in lines)
    return json.dumps(head)[:-1] + ',\n "runs": [\n' + runs + "\n]}\n"


def unpacked(text: str) -> dict[str, Any]:
    """Read what :func:`packed` writes."""
    content = json.loads(text)
    results: dict[str, Any] = {}
    for name, what, body in content["runs"]:
        if "methods" in body:
            platform, threads, versions = content["machines"][body["machine"]]
            run = {key: body[key] for key in HEAD[:6]}
            run |= {"platform": platform, "threads": threads, "versions": versions}
            run["methods"] = [{"name": method} | _method(row) for method, row in body["methods"].items()]
        else:
            run = {key: value for key, value in _method(body["row"]).items() if key != "against_default"}
            run["version"] = body["version"]
        results.setdefault(name, {})[what] = run
    return results


def _row(method: dict[str, Any]) -> Any:
    if method["error"]:
        return method["error"]
    shares = [method["metrics"].get(metric) for metric in METRICS]
    for metric in COMPARED:
        found = (method.get("against_default") or {}).get(metric)
        shares += [None] * 3 if found is None else [found["value"], *found["interval"]]
    numbers: list[Any] = [None if share is None else round(share * SCALE) for share in shares]
    numbers[len(METRICS) : len(METRICS)] = [method["seconds"], method["peak_mb"]]
    while numbers[-1] is None:
        numbers.pop()
    return numbers


def _method(row: Any) -> dict[str, Any]:
    if isinstance(row, str):
        return {"error": row, "metrics": {}, "seconds": None, "peak_mb": None, "against_default": {}}
    row = [*row, *[None] * (len(COLUMNS) - len(row))]
    first = len(METRICS)
    shares = [None if share is None else share / SCALE for share in (*row[:first], *row[first + 2 :])]
    against = {}
    for i, metric in enumerate(COMPARED):
        value, low, high = shares[first + 3 * i : first + 3 * i + 3]
        if value is not None:
            against[metric] = {"value": value, "interval": [low, high]}
    metrics = dict(zip(METRICS, shares[:first], strict=True))
    return {
        "error": None,
        "metrics": metrics,
        "seconds": row[first],
        "peak_mb": row[first + 1],
        "against_default": against,
    }
