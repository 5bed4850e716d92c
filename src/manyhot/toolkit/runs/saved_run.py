"""A run as files and back: what is written and what is read stand beside each other."""

import json
import tomllib
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from manyhot.calibration import Calibration
from manyhot.labels import CardinalityRange
from manyhot.toolkit.choose.calibrate import Calibrated
from manyhot.toolkit.choose.cross_fit import Step
from manyhot.toolkit.config import TASKS, Config
from manyhot.toolkit.disk.run_folder import kind_of_run, read_folder, to_json
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.kinds import described, restored
from manyhot.toolkit.models.model import device_of
from manyhot.toolkit.models.neighbours import Neighbours
from manyhot.toolkit.models.term_counts import count_terms
from manyhot.toolkit.read.columns import Columns
from manyhot.toolkit.runs.predict import Run


def run_files(
    run: Run,
    config: Config,
    metrics: dict[str, Any],
    steps: list[Step],
    calibrated: Calibrated,
    origin: dict[str, Any],
    findings: dict[str, Any],
    page: str,
) -> dict[str, bytes]:
    """Lay out a run as files: weights as safetensors, everything else as text, `page` its report."""
    state, arrays = run.features.state()
    terms = [block.pop("terms") for block in state["text"]]
    arrays |= run.model.arrays() | ({} if run.neighbours is None else run.neighbours.arrays())
    state_of_run = {
        **described(run.model),
        "task": run.task,
        "chosen": run.info,
        "cardinality": run.cardinality._asdict(),
        "drop_unlabelled": run.drop_unlabelled,
        "columns": asdict(run.columns),
        "features": state,
        "labels": [
            {"name": name, "rows": int(rows)} for name, rows in zip(run.label_names, run.train_counts, strict=True)
        ],
    }
    log = [
        json.dumps({key: getattr(s, key) for key in ("C", "tau", "offset", "loss", "score", "at_limit")} | s.metrics)
        for s in steps
    ]
    temperature, offset, classes = run.calibration
    numbers = {"temperature": temperature, "offset": offset} | calibrated.by_label
    calibration = {
        "classes": classes,
        "measured": calibrated.measured,
        "labels": [
            # NaN, which JSON has not, is a score of a label of which nothing is known.
            {"name": name} | {key: float(v[i]) if np.isfinite(v[i]) else None for key, v in numbers.items()}
            for i, name in enumerate(run.label_names)
        ],
    }
    return {
        "calibration.json": to_json(calibration),
        "config.toml": config.to_toml().encode(),
        "findings.json": to_json(findings),
        "log.jsonl": "".join(line + "\n" for line in log).encode(),
        "metrics.json": to_json(metrics),
        "model.safetensors": save_tensors({name: np.ascontiguousarray(value) for name, value in arrays.items()}),
        "provenance.json": to_json(origin),
        "report.html": page.encode(),
        "run.json": to_json(state_of_run),
        "terms.json": to_json(terms),
    }


# Tasks whose runs are of another kind, and what reads them: imported when one is met, as it comes after this room.
READERS = {"spans": "manyhot.toolkit.spans.saved_run"}


def load_run(path: str | Path) -> Any:
    r"""Load a run folder, after checking that nothing in it changed since training. Nothing in it is executed.

    Args:
        path: the folder that `manyhot train` wrote.

    Returns:
        A :class:`Run` with `predict`, `probs`, `predict_logits` and `evaluate`; of a run on spans a
        :class:`SpanRun`, whose `predict` returns spans.

    Raises:
        InputError: no run, or one that was cut short or changed; names the file.

    Example:
        >>> import os, tempfile, manyhot
        >>> from manyhot.toolkit.train import Config, train
        >>> folder = tempfile.mkdtemp()
        >>> data = os.path.join(folder, "reviews.csv")
        >>> with open(data, "w") as file:
        ...     _ = file.write("text,labels\n" + "good film,praise|film\nbad film,film\ngood food,praise|food\n" * 5)
        >>> _ = train(Config(data=data, out=os.path.join(folder, "run")))
        >>> run = manyhot.load_run(os.path.join(folder, "run"))
        >>> [sorted(labels) for labels in run.predict(["good food", "bad film"])]
        [['food', 'praise'], ['film']]
    """
    path = Path(path)
    parts = _parsed(path, read_folder(path, kind_of_run(path)))
    state, arrays = parts["run.json"], parts["model.safetensors"]
    if isinstance(state, dict) and (reader := READERS.get(state.get("task", ""))):
        return import_module(reader).restored_run(path, parts)
    try:
        calibration = parts["calibration.json"]
        for block, block_terms in zip(state["features"]["text"], parts["terms.json"], strict=True):
            block["terms"] = block_terms
        features = Features.from_state(state["features"], arrays, device_of("auto"))
        run = Run(
            features=features,
            model=restored(state, arrays, features.size, len(state["labels"])),
            columns=_columns(state["columns"]),
            label_names=[label["name"] for label in state["labels"]],
            train_counts=np.array([label["rows"] for label in state["labels"]], dtype=np.float64),
            cardinality=CardinalityRange(**state["cardinality"]),
            calibration=Calibration(
                *(
                    np.array([float(label[key]) for label in calibration["labels"]])
                    for key in ("temperature", "offset")
                ),
                classes=calibration["classes"],
            ),
            drop_unlabelled=state["drop_unlabelled"],
            info=state["chosen"],
            task=state["task"],
            neighbours=None
            if "neighbours.prior" not in arrays
            else Neighbours.restored(arrays, features.size_without_kernel),
        )
        # An edited file whose checksum was edited too shows here, and not in the middle of a prediction.
        blocks = run.features.blocks
        counted = count_terms([""], [block.parameters for block in blocks], [block.vocabulary for block in blocks])
        for block, (_, counts) in zip(blocks, counted, strict=True):
            block.weighted(counts)
        if run.features.reader:
            run.features.reader.transform([""])
        if run.task not in TASKS or not all(isinstance(name, str) for name in run.label_names):
            raise ValueError(f"task {run.task!r} of labels {run.label_names[:3]}")
        if len(run.calibration.temperature) != len(run.label_names) or not (run.calibration.temperature > 0).all():
            raise ValueError(f"a calibration of {len(run.label_names)} labels has temperatures above 0, one a label")
        if run.neighbours is not None and len(run.neighbours.prior) != len(run.label_names):
            raise ValueError(f"neighbours of {len(run.neighbours.prior)} labels")
        run.label_sets(np.zeros((1, len(run.label_names)), dtype=np.float32))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path}: expected a run of this manyhot, but its parts do not fit (run.json, terms.json, "
            f"calibration.json, model.safetensors): {error}."
        ) from None
    return run


def _parsed(path: Path, files: dict[str, bytes]) -> dict[str, Any]:
    """Parse every file, those too that prediction needs nothing of: an edited file is named as soon as it is met."""
    parsed: dict[str, Any] = {}
    for name, content in files.items():
        try:
            if name.endswith(".safetensors"):
                parsed[name] = load_tensors(content)
                if not all(np.isfinite(array).all() for array in parsed[name].values()):
                    raise ValueError("a number in it is not finite")
            elif name.endswith(".toml"):
                parsed[name] = tomllib.loads(content.decode())
            elif name.endswith(".html"):
                content.decode()
            elif name.endswith(".jsonl"):
                parsed[name] = [json.loads(line) for line in content.decode().splitlines()]
            else:
                parsed[name] = json.loads(content)
                if not isinstance(parsed[name], dict | list):
                    raise ValueError("it holds one value")
        except (ValueError, TypeError, SafetensorError) as error:
            raise InputError(
                f"{path / name}: expected what training wrote, but it is damaged: {error}; train again, or restore the "
                "folder from a copy."
            ) from None
    return parsed


def _columns(saved: dict[str, Any]) -> Columns:
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()}
    return Columns(**lists)
