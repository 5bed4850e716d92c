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
from manyhot.toolkit.spans.network import arrays_of, described, restored
from manyhot.toolkit.spans.predict import SpanRun


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


def restored_run(path: Path, parts: dict[str, Any]) -> SpanRun:
    """Restore a run from its files, parsed.

    Raises:
        InputError: parts that do not fit.
    """
    state = parts["run.json"]
    try:
        names = [label["name"] for label in state["labels"]]
        reading = state["reading"]
        run = SpanRun(
            network=restored(state, parts["terms.json"], parts["model.safetensors"], len(names), device_of("auto")),
            label_names=names,
            train_counts=np.array([label["spans"] for label in state["labels"]], dtype=np.float64),
            nested=bool(state["nested"]),
            characters=bool(state["characters"]),
            reading=Reading(
                reading["end"], reading["columns"], reading["tags"] and tuple(reading["tags"]), reading["label_names"]
            ),
            drop_unlabelled=state["drop_unlabelled"],
            info=state["chosen"],
        )
        # An edited file whose checksum was edited too shows here, and not in the middle of a prediction.
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"types {names[:3]}")
        run.predict([["a", "b"]])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path}: expected a run of this manyhot, but its parts do not fit (run.json, terms.json, "
            f"model.safetensors): {error}."
        ) from None
    return run
