"""A run on spans as files and back: what is written and what is read stand beside each other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_tensors

from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.run_folder import to_json
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.model import device_of
from manyhot.toolkit.read.formats.marked import Reading
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
        "model.safetensors": save_tensors(arrays_of(run.network)),
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


def restored_run(path: Path, parts: dict[str, Any]) -> SpanRun:
    """Restore a run from its files, parsed.

    Raises:
        InputError: parts that do not fit.
    """
    state = parts["run.json"]
    try:
        names = [label["name"] for label in state["labels"]]
        relations = [relation["name"] for relation in state.get("relations", ())]
        reading, arrays = state["reading"], parts["model.safetensors"]
        encoder = restored_encoder(state, parts["terms.json"], arrays)
        sizes = (len(names), int(state["max_width"]))
        network = (
            DESIGNS[state["design"]](encoder, *sizes, len(relations)) if relations else SpanNetwork(encoder, *sizes)
        )
        options: dict[str, Any] = {
            "network": with_weights(network, arrays, device_of("auto")),
            "label_names": names,
            "train_counts": np.array([label["spans"] for label in state["labels"]], dtype=np.float64),
            "nested": bool(state["nested"]),
            "characters": bool(state["characters"]),
            "reading": Reading(
                reading["end"],
                reading["columns"],
                reading["tags"] and tuple(reading["tags"]),
                reading["label_names"],
                bool(relations),
            ),
            "drop_unlabelled": state["drop_unlabelled"],
            "info": state["chosen"],
        }
        if relations:
            counts = np.array([relation["triples"] for relation in state["relations"]], dtype=np.float64)
            run: SpanRun = RelationRun(relation_names=relations, relation_counts=counts, **options)
        else:
            run = SpanRun(**options)
        # An edited file whose checksum was edited too shows here, and not in the middle of a prediction.
        if not names or not all(isinstance(name, str) for name in (*names, *relations)):
            raise ValueError(f"types {names[:3]}")
        run.predict([["a", "b"]])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path}: expected a run of this manyhot, but its parts do not fit (run.json, terms.json, "
            f"model.safetensors): {error}."
        ) from None
    return run
