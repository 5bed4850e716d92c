"""A run as files and back: what is written and what is read stand beside each other."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_tensors

from manyhot.calibration import Calibration
from manyhot.labels import CardinalityRange
from manyhot.toolkit.choose.calibrate import Calibrated
from manyhot.toolkit.choose.cross_fit import Step
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.run_folder import Kind, kind_of_run, parsed_files, read_folder, to_json
from manyhot.toolkit.errors import InputError, first_line
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.kinds import described, restored
from manyhot.toolkit.models.model import device_of
from manyhot.toolkit.models.neighbours import Neighbours
from manyhot.toolkit.models.term_counts import count_terms
from manyhot.toolkit.read.columns import Columns
from manyhot.toolkit.runs.drift import Usual
from manyhot.toolkit.runs.predict import Run
from manyhot.toolkit.runs.schema import ROW_HASHES, check_run


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
    if run.trained_rows is not None:
        arrays[ROW_HASHES] = run.trained_rows
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
    if run.usual is not None:
        state_of_run["usual"] = run.usual.state()
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
READERS = dict.fromkeys(("spans", "relations"), "manyhot.toolkit.spans.saved_run")


def load_run(path: str | Path) -> Any:
    r"""Load a run folder, after checking that nothing in it changed since training. Nothing in it is executed.

    Args:
        path: the folder that `manyhot train` wrote.

    Returns:
        A :class:`Run` with `predict`, `probs`, `predict_logits` and `evaluate`; of a run on spans a
        :class:`SpanRun`, whose `predict` returns spans, and of one on relations a :class:`RelationRun`.

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
    kind = kind_of_run(path)
    parts = parsed_files(path, read_folder(path, kind), kind)
    with restoring(path, kind):
        if reader := READERS.get(parts["run.json"].get("task")):
            return import_module(reader).restored_run(parts)
        check_run(parts)
        return _restored(parts)


@contextmanager
def restoring(path: Path, kind: Kind) -> Iterator[None]:
    """Turn whatever goes wrong while a run is made of its files into an error that says that they do not fit.

    The schema names the key. What it cannot know, a library says: a tokenizer that is none, a network of other weights.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        said = first_line(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {first_line(error)}"
        raise InputError(
            f"{path}: expected a run of this manyhot, but its parts do not fit: {said}; {kind.again}."
        ) from None


def _restored(parts: dict[str, Any]) -> Run:
    state, arrays, calibration = parts["run.json"], parts["model.safetensors"], parts["calibration.json"]
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
            *(np.array([float(label[key]) for label in calibration["labels"]]) for key in ("temperature", "offset")),
            classes=calibration["classes"],
        ),
        drop_unlabelled=state["drop_unlabelled"],
        info=state["chosen"],
        task=state["task"],
        neighbours=None
        if "neighbours.prior" not in arrays
        else Neighbours.restored(arrays, features.size_without_kernel),
        trained_rows=arrays.get(ROW_HASHES),
        usual=Usual.restored(state.get("usual")),
    )
    if run.neighbours is not None and len(run.neighbours.prior) != len(run.label_names):
        raise ValueError(f"neighbours of {len(run.neighbours.prior)} labels")
    # What fits no schema shows here, and not in the middle of a prediction.
    blocks = run.features.blocks
    counted = count_terms([""], [block.parameters for block in blocks], [block.vocabulary for block in blocks])
    for block, of in zip(blocks, counted, strict=True):
        block.weighted(of.counts)
    if run.features.reader:
        run.features.reader.transform([""])
    run.label_sets(np.zeros((1, len(run.label_names)), dtype=np.float32))
    return run


def _columns(saved: dict[str, Any]) -> Columns:
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()}
    return Columns(**lists)
