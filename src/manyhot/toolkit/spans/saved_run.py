"""A run on spans as files and back: what is written and what is read stand beside each other."""

import json
from typing import Any

import numpy as np
from safetensors.numpy import save as save_tensors

from manyhot.toolkit.config import CHOICES, MARKED_TEXTS, Config
from manyhot.toolkit.disk.run_folder import to_json
from manyhot.toolkit.disk.schema import (
    anything,
    check,
    every,
    flag,
    maybe,
    names_of,
    one_of,
    one_scalar,
    record,
    several,
    text,
    whole,
)
from manyhot.toolkit.models.model import device_of
from manyhot.toolkit.read.formats.marked import Reading
from manyhot.toolkit.runs.schema import ENCODER, LARGEST_WEIGHT, ROW_HASHES, check_hashes
from manyhot.toolkit.spans.fit import Fitted
from manyhot.toolkit.spans.network import SpanNetwork, arrays_of, described, restored_encoder, with_weights
from manyhot.toolkit.spans.predict import SpanRun
from manyhot.toolkit.spans.relation_network import DESIGNS
from manyhot.toolkit.spans.relation_run import RelationRun


def run_files(
    run: SpanRun,
    config: Config,
    metrics: dict[str, Any],
    fitted: Fitted,
    origin: dict[str, Any],
    findings: dict[str, Any],
    page: str,
) -> dict[str, bytes]:
    """Lay out a run as files: weights as safetensors, everything else as text, `page` its report."""
    state, terms = described(run.network)
    kept = {} if run.trained_rows is None else {ROW_HASHES: run.trained_rows}
    state_of_run = {
        "task": run.task,
        **state,
        "chosen": run.info,
        "nested": run.nested,
        "characters": run.characters,
        "reading": {
            "end": run.reading.end,
            "columns": run.reading.columns,
            "tags": run.reading.tags,
            "label_names": run.reading.label_names,
        },
        **_relations(run, config),
        "drop_unlabelled": run.drop_unlabelled,
        "labels": [
            {"name": name, "spans": int(spans)} for name, spans in zip(run.label_names, run.train_counts, strict=True)
        ],
    }
    log = [
        json.dumps({"epoch": n, "loss": loss, "score": score})
        for n, (loss, score) in enumerate(zip(fitted.losses, fitted.scores, strict=True), 1)
    ]
    return {
        "config.toml": config.to_toml().encode(),
        "findings.json": to_json(findings),
        "log.jsonl": "".join(line + "\n" for line in log).encode(),
        "metrics.json": to_json(metrics),
        "model.safetensors": save_tensors(arrays_of(run.network) | kept),
        "provenance.json": to_json(origin),
        "report.html": page.encode(),
        "run.json": to_json(state_of_run),
        "terms.json": to_json(terms),
    }


def _relations(run: SpanRun, config: Config) -> dict[str, Any]:
    if not isinstance(run, RelationRun):
        return {}
    counted = zip(run.relation_names, run.relation_counts, strict=True)
    return {
        "design": config.design,
        "relations": [{"name": name, "triples": int(triples)} for name, triples in counted],
    }


def _encoder(value: Any, where: str) -> None:
    one_of("cnn")(value, where) if isinstance(value, str) else ENCODER(value, where)


_names = several(text, 1)
RUN_JSON = {
    "task": one_of(*MARKED_TEXTS),
    "max_width": whole(1, 2**20),
    "encoder": _encoder,
    "chosen": record({"loss": text}, others=one_scalar),
    "nested": flag,
    "characters": flag,
    "reading": record(
        {
            "end": one_of(*CHOICES["end"]),
            "columns": flag,
            "tags": maybe(several(whole(1, 10**6), 1)),
            "label_names": maybe(_names),
        }
    ),
    "drop_unlabelled": flag,
    "labels": every(several(record({"name": text, "spans": whole(0, 10**12)}), 1, 10**6), names_of),
}
RELATIONS = {
    "design": one_of(*DESIGNS),
    "relations": every(several(record({"name": text, "triples": whole(0, 10**12)}), 1, 10**6), names_of),
}
TERMS_JSON = several(several(anything, 2, 2))


def restored_run(parts: dict[str, Any]) -> SpanRun:
    """Restore a run from its files, parsed.

    Raises:
        ValueError: parts that do not fit; names the key.
    """
    state, linked = parts["run.json"], False
    if isinstance(state, dict):
        linked = state.get("task") == "relations"
    expected_state = record(RUN_JSON | (RELATIONS if linked else {}))
    for name, expected in (("run.json", expected_state), ("terms.json", TERMS_JSON)):
        try:
            check(parts[name], expected, "")
        except ValueError as error:
            raise ValueError(f"{name}, {error}") from None
    arrays = dict(parts["model.safetensors"])
    check_hashes(rows := arrays.pop(ROW_HASHES, None))
    for name, array in arrays.items():
        if array.dtype.kind == "f" and array.size and np.abs(array).max() > LARGEST_WEIGHT:
            raise ValueError(f"model.safetensors, {name}: expected weights of at most {LARGEST_WEIGHT:g}")
    names = [label["name"] for label in state["labels"]]
    relations = [relation["name"] for relation in state["relations"]] if linked else []
    reading = state["reading"]
    encoder = restored_encoder(state, parts["terms.json"], arrays)
    sizes = (len(names), state["max_width"])
    network = DESIGNS[state["design"]](encoder, *sizes, len(relations)) if linked else SpanNetwork(encoder, *sizes)
    options: dict[str, Any] = {
        "network": with_weights(network, arrays, device_of("auto")),
        "label_names": names,
        "train_counts": np.array([label["spans"] for label in state["labels"]], dtype=np.float64),
        "nested": state["nested"],
        "characters": state["characters"],
        "reading": Reading(
            reading["end"],
            reading["columns"],
            reading["tags"] and tuple(reading["tags"]),
            reading["label_names"],
            linked,
        ),
        "drop_unlabelled": state["drop_unlabelled"],
        "info": state["chosen"],
        "trained_rows": rows,
    }
    if linked:
        counts = np.array([relation["triples"] for relation in state["relations"]], dtype=np.float64)
        run: SpanRun = RelationRun(relation_names=relations, relation_counts=counts, **options)
    else:
        run = SpanRun(**options)
    # What fits no schema shows here, and not in the middle of a prediction.
    run.predict([["a", "b"]])
    return run
