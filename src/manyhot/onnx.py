"""ONNX: a model or a run as one file that gives logits, label sets and probabilities, decided inside of the graph."""

# pyright: reportMissingImports=false

import inspect
import json
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

try:
    import onnx
    import onnxscript  # noqa: F401, what torch.onnx.export writes with
except ModuleNotFoundError as error:
    if error.name not in ("onnx", "onnxscript"):
        raise
    raise ImportError(f'manyhot.onnx needs {error.name}: pip install "manyhot[onnx]"') from error

import manyhot
from manyhot.calibration import Calibration
from manyhot.decisions import decide
from manyhot.toolkit.disk.run_folder import whole_file
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.meaning import Meaning
from manyhot.toolkit.models.pretrained import Tokens
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.runs.network import network_inputs, network_of_run
from manyhot.toolkit.runs.predict import Run, read_for
from manyhot.toolkit.runs.saved_run import load_run

OPSET = 20
ROWS = 3  # of an example: torch takes an axis of length 1 for fixed


class Decided(nn.Module):
    """A model with its decision: :func:`manyhot.decide` in operations that ONNX has.

    Ties go to the lower index in ONNX, whose TopK says so, and not in torch: compare the session with `manyhot.decide`,
    and not this module.

    Args:
        model: what gives logits (rows, labels), alone, first of a tuple or as `logits` of a mapping.
        threshold: the logit above which a label is predicted; a number, or (labels,).
        min_labels, max_labels: how many labels a row has: :func:`manyhot.cardinality_range`.
        calibration: of the probabilities; without it there are none.

    Raises:
        ValueError: a range that is empty or negative.

    Example:
        >>> import torch
        >>> from manyhot.onnx import Decided
        >>> logits, labels = Decided(torch.nn.Identity(), min_labels=1)(torch.tensor([[2.0, -1.0], [-3.0, -1.0]]))
        >>> labels
        tensor([[1, 0],
                [0, 1]])
    """

    threshold: Tensor
    temperature: Tensor
    offset: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        threshold: Any = 0.0,
        min_labels: int = 0,
        max_labels: int | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__()
        if min_labels < 0 or (max_labels is not None and max_labels < min_labels):
            raise ValueError(
                f"Decided needs 0 <= min_labels <= max_labels; got min_labels={min_labels}, max_labels={max_labels}."
            )
        self.model = model
        self.min_labels, self.max_labels = min_labels, max_labels
        self.register_buffer("threshold", torch.as_tensor(threshold, dtype=torch.float32))
        self.calibrated, self.classes = calibration is not None, calibration is not None and calibration.classes
        if calibration is not None:
            self.register_buffer("temperature", torch.from_numpy(np.asarray(calibration.temperature)))
            self.register_buffer("offset", torch.from_numpy(np.asarray(calibration.offset)))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return logits, labels (int64) and, with a calibration, probabilities, all (rows, labels)."""
        outputs = self.model(*inputs)
        s = outputs if isinstance(outputs, Tensor) else outputs["logits"] if "logits" in outputs else outputs[0]
        real = s > -torch.inf
        above = (s > self.threshold) & real
        labels = above.long()
        if self.min_labels or self.max_labels is not None:
            n = s.shape[-1]
            # One threshold a row leaves the order alone, and subtracting it would round the order away.
            ranked = s - self.threshold if self.threshold.ndim and self.threshold.shape[-1] > 1 else s
            ranked = torch.where(real, ranked, torch.full_like(s, -torch.inf))
            size = labels.sum(-1, keepdim=True).clamp(self.min_labels, self.max_labels)
            order = torch.topk(ranked, n, dim=-1, largest=True, sorted=True).indices
            first = (torch.arange(n, device=s.device) < size).long()
            labels = torch.zeros_like(order).scatter(-1, order, first) * real.long()
        if not self.calibrated:
            return s, labels
        scaled = s.double() / self.temperature + self.offset
        return s, labels, (scaled.softmax(-1) if self.classes else scaled.sigmoid()).float()


def export(
    model: Any,
    path: str | Path,
    *,
    example: Any = None,
    threshold: Any = 0.0,
    min_labels: int | None = None,
    max_labels: int | None = None,
    calibration: Calibration | None = None,
    label_names: list[str] | None = None,
    opset: int = OPSET,
) -> None:
    """Write a model or a run as ONNX: inputs to `logits`, `labels` (0/1) and, of what is calibrated, `probs`.

    Inputs of a run are `features` (rows, numbers), NaN where one is missing, and `categories` (rows, columns), the
    position of a value in the metadata, or its number of values for any other; or `input_ids` and `attention_mask` of
    the tokenizer in the metadata. Those of a model are `features` or `input_ids`, by the type of the example, or where
    there are several the names that its `forward` has. The first axis, `rows`, is free, and that of tokens.

    The metadata hold as JSON `labels`, `cardinality`, `calibration`, `manyhot` and, of a run, what its inputs are.

    Args:
        model: a module, or a run: a :class:`manyhot.Run` or its folder.
        path: the file.
        example: of a module, inputs with two rows or more: a tensor, or a tuple of them.
        threshold: of a module, the logit above which a label is predicted; a number, or (labels,).
        min_labels, max_labels: how many labels a row has; a run has its own.
        calibration: of a module, logits to probabilities.
        label_names: of a module, for the metadata.
        opset: of ONNX.

    Raises:
        InputError: a run that is no network: on TF-IDF, or with votes of training rows.
        ValueError: a module without an example.

    Example:
        >>> import tempfile, torch
        >>> from manyhot.onnx import export
        >>> path = tempfile.mkdtemp() + "/model.onnx"
        >>> export(torch.nn.Linear(4, 3).eval(), path, example=torch.zeros(2, 4), min_labels=1)
        >>> import onnxruntime, numpy
        >>> session = onnxruntime.InferenceSession(path)
        >>> logits, labels = session.run(None, {"features": numpy.zeros((5, 4), "float32")})
        >>> labels.shape
        (5, 3)
    """
    described: dict[str, Any] = {}
    if isinstance(model, nn.Module):
        if example is None:
            raise ValueError("export of a module needs example=, inputs of two rows or more.")
        inputs = example if isinstance(example, tuple) else (example,)
        names = _names(model, inputs)
        network: Any = model
    else:
        run: Any = model if not isinstance(model, str | Path) else load_run(model)
        network = network_of_run(run)
        low, high = run.cardinality
        min_labels = low if min_labels is None else min_labels
        max_labels = high if max_labels is None else max_labels
        calibration, label_names = run.calibration, run.label_names
        described = _described(run)
        names, inputs = list(network.names), _example(run, network)
    decided = Decided(
        network, threshold=threshold, min_labels=min_labels or 0, max_labels=max_labels, calibration=calibration
    )
    described |= {
        "manyhot": manyhot.__version__,
        "labels": label_names,
        "cardinality": {"min_labels": min_labels or 0, "max_labels": max_labels},
        "calibration": None if calibration is None else {
            "temperature": np.asarray(calibration.temperature).tolist(),
            "offset": np.asarray(calibration.offset).tolist(),
            "classes": calibration.classes,
        },
    }  # fmt: skip
    outputs = ["logits", "labels", "probs"][: 2 if calibration is None else 3]
    # Part by part: a network that was trained in parts, or is a part of a run, is left as it was.
    training = [(part, part.training) for part in network.modules()]
    try:
        written = graph(decided.eval(), inputs, names, outputs, opset)
    finally:
        for part, was in training:
            part.training = was
    for key, value in described.items():
        entry = written.metadata_props.add()
        # The tokenizer is JSON already.
        entry.key, entry.value = key, value if key == "tokenizer" else json.dumps(value, ensure_ascii=False)
    onnx.checker.check_model(written)
    with whole_file(Path(path)) as file:
        file.write(written.SerializeToString())


def session_of(path: str | Path) -> Any:
    """Open an exported file in ONNX Runtime, on the CPU, with one thread.

    Raises:
        InputError: no ONNX Runtime.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError("checking an export needs ONNX Runtime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def check_export(run: Run, path: str | Path, data: str | Examples) -> dict[str, Any]:
    """Compare an exported file with the run on the rows of a data file, or on rows that have been read.

    Returns:
        `rows`; `largest`, the largest difference of a logit in parts of its size, or of 1 where that is less; and
        `differing`, rows whose label sets differ.
    """
    examples = data if isinstance(data, Examples) else read_for(run, data, with_labels=False)
    logits = run.logits(examples)
    found, labels, *_ = session_of(path).run(None, network_inputs(run, examples))
    preds = decide(logits, **run.cardinality._asdict())
    off = np.abs(found - logits) / np.maximum(np.abs(logits), 1)
    return {
        "rows": len(logits),
        "largest": float(off.max(initial=0.0)),
        "differing": int((labels != preds).any(1).sum()),
    }


def graph(network: nn.Module, inputs: tuple[Tensor, ...], names: list[str], outputs: list[str], opset: int) -> Any:
    """Write a network down, its first axis free; of `*inputs` in `forward`."""
    free = [{0: "rows"} | ({1: "tokens"} if x.ndim == 2 and not x.is_floating_point() and _ids(n) else {})
            for x, n in zip(inputs, names, strict=True)]  # fmt: skip
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch's own parts, about each other
        program: Any = torch.onnx.export(
            network, inputs, dynamo=True, input_names=names, output_names=outputs, opset_version=opset,
            dynamic_shapes=(tuple(free),), external_data=False, verbose=False,
        )  # fmt: skip
    buffer = BytesIO()
    program.save(buffer)
    return onnx.load_from_string(buffer.getvalue())


def _ids(name: str) -> bool:
    return name != "categories"


def _names(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    if len(inputs) == 1:
        return ["features" if inputs[0].is_floating_point() else "input_ids"]
    return list(inspect.signature(model.forward).parameters)[: len(inputs)]


def _example(run: Run, network: Any) -> tuple[Tensor, ...]:
    """Return inputs of a few rows: zeros, whose values no graph depends on."""
    shapes = {
        "features": (ROWS, 0 if run.features.std is None else run.features.std.size),
        "categories": (ROWS, len(run.features.categories)),
        "input_ids": (ROWS, 5),
        "attention_mask": (ROWS, 5),
    }
    made = {name: torch.zeros(shapes[name], dtype=torch.int64) for name in network.names}
    if "features" in made:
        made["features"] = made["features"].float()
    if "attention_mask" in made:
        made["attention_mask"] = torch.ones_like(made["attention_mask"])
    return tuple(made[name] for name in network.names)


def _described(run: Run) -> dict[str, Any]:
    """Say what the inputs of a run are."""
    features = run.features
    if features.reader is not None:
        tokens = features.reader if isinstance(features.reader, Tokens) else features.reader.encoder.tokens
        assert isinstance(features.reader, Tokens | Meaning)
        return {"tokenizer": tokens.tokenizer, "limit": tokens.limit}
    values = [category.values for category in features.categories]
    return {
        "features": list(run.columns.features),
        "categories": dict(zip(run.columns.categories, values, strict=False)),
    }
