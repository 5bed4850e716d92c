"""A run as one network of torch, from numbers or token ids to logits: what an export writes down."""

import copy
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.encoder import FineTuned
from manyhot.toolkit.models.kernel import Kernel
from manyhot.toolkit.models.label_blocks import SparseLinear
from manyhot.toolkit.models.linear import Linear
from manyhot.toolkit.models.meaning import Meaning
from manyhot.toolkit.models.mlp import Mlp
from manyhot.toolkit.models.pooling import Pooling
from manyhot.toolkit.models.pretrained import Tokens
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.runs.predict import Run


def network_of_run(run: Run) -> nn.Module:
    """Write a run as a network, on the CPU: of what :func:`network_inputs` gives, by name, to logits.

    Raises:
        InputError: a run that reads TF-IDF, joins the pieces of long texts, or asks training rows.
    """
    if not isinstance(run, Run):
        raise InputError("export takes a run on texts or numbers; one on spans has no network of its own.")
    if run.neighbours is not None:
        raise InputError(
            "training rows vote in this run, and they are no part of a network: train with --neighbours off"
        )
    if isinstance(run.model, SparseLinear):
        raise InputError("weights are sparse in this run, and a network has dense ones: train with --set weights=dense")
    features = run.features
    if features.blocks:
        raise InputError(
            "TF-IDF is not in ONNX: export takes numbers or an encoder; train with --model encoder:NAME --set "
            "words=false, or with --set fine_tune=true"
        )
    if features.reader is not None:
        if features.reads_numbers:
            raise InputError("export takes numbers or texts of an encoder, and this run reads both")
        if isinstance(features.reader, Meaning) and features.reader.encoder.long != "cut":
            raise InputError("--long mean reads a text in pieces, which is no network: train with --long cut")
        return _OfTokens(run)
    return _OfNumbers(run)


def network_inputs(run: Run, examples: Examples) -> dict[str, np.ndarray]:
    """Return the inputs of the network for rows: by name, in the order in which it takes them."""
    features = run.features
    if features.reader is not None:
        tokens = features.reader if isinstance(features.reader, Tokens) else features.reader.encoder.tokens
        ids = tokens.transform(examples.texts or [""] * examples.rows).astype(np.int64)
        return {"input_ids": np.maximum(ids, 0), "attention_mask": (ids >= 0).astype(np.int64)}
    inputs: dict[str, np.ndarray] = {}
    if features.std is not None:
        numbers: Any = examples.numbers
        dense = numbers.toarray() if sp.issparse(numbers) else numbers
        inputs["features"] = np.asarray(dense, dtype=np.float32)
    if features.categories:
        assert examples.categories is not None
        codes = [
            [{value: i for i, value in enumerate(category.values)}.get(cell, len(category.values)) for cell in cells]
            for category, cells in zip(features.categories, examples.categories, strict=True)
        ]
        inputs["categories"] = np.array(codes, dtype=np.int64).T
    return inputs


class _OfNumbers(nn.Module):
    """Missing numbers, scaling, categories and kernel columns as `Features` has them, and the model."""

    mean: Tensor
    std: Tensor

    def __init__(self, run: Run) -> None:
        super().__init__()
        features = run.features
        self.names = ["features"] * (features.std is not None) + ["categories"] * bool(features.categories)
        self.sizes = [category.size for category in features.categories]
        self.missing = list(features.missing)
        self.centred = features.centred
        if features.std is not None:
            self.register_buffer("mean", torch.from_numpy(np.asarray(features.mean, dtype=np.float64)))
            self.register_buffer("std", torch.from_numpy(np.asarray(features.std, dtype=np.float64)))
        self.kernel = None if features.kernel is None else _Nearness(features.kernel)
        self.last = _last_of(run)

    def forward(self, *inputs: Tensor) -> Tensor:
        given = dict(zip(self.names, inputs, strict=True))
        parts: list[Tensor] = []
        if "features" in given:
            numbers = given["features"]
            absent = torch.isnan(numbers)
            numbers = torch.where(absent, self.mean, numbers.double())
            scaled = (numbers - self.mean) / self.std if self.centred else numbers.float() * (1 / self.std).float()
            parts.append(scaled.float())
            if self.missing:
                parts.append(absent[:, self.missing].float())
        for column, size in enumerate(self.sizes):
            codes = given["categories"][:, column : column + 1]
            parts.append((codes == torch.arange(size)).float())
        if self.kernel is not None:
            parts.append(self.kernel(parts[0]))
        return self.last(torch.cat(parts, 1))


class _OfTokens(nn.Module):
    """A network on token ids, the pooling, the scaling of frozen numbers, and the model."""

    names = ("input_ids", "attention_mask")
    mean: Tensor
    scale: Tensor

    def __init__(self, run: Run) -> None:
        super().__init__()
        reader, model = run.features.reader, run.model
        self.scaled = False
        if isinstance(reader, Meaning):
            self.network, self.pooling = reader.encoder.network, reader.encoder.pooling
            self.register_buffer("mean", torch.from_numpy(reader.mean))
            self.register_buffer("scale", torch.from_numpy(reader.scale))
            self.scaled = True
        else:
            assert isinstance(model, FineTuned)
            self.network, self.pooling = model.network, Pooling(model.pooling.modes)
        if any(parameter.device.type != "cpu" for parameter in self.network.parameters()):
            self.network = copy.deepcopy(self.network).cpu()
        self.network.eval()
        self.last = _last_of(run)

    def forward(self, *inputs: Tensor) -> Tensor:
        ids, mask = inputs
        hidden = self.network(input_ids=ids, attention_mask=mask).last_hidden_state
        numbers = self.pooling(hidden, mask > 0)
        if self.pooling.normalise:
            numbers = nn.functional.normalize(numbers)
        if self.scaled:
            numbers = ((numbers.double() - self.mean) * self.scale).float()
        return self.last(numbers)


class _Layers(nn.Module):
    """Weights and biases after each other, with a rectifier between."""

    def __init__(self, *layers: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            [nn.Parameter(w.detach().cpu().float(), requires_grad=False) for w, _ in layers]
        )
        self.biases = nn.ParameterList([nn.Parameter(b.detach().cpu().float(), requires_grad=False) for _, b in layers])

    def forward(self, x: Tensor) -> Tensor:
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = (torch.relu(x) if i else x) @ weight + bias
        return x


class _Nearness(nn.Module):
    """The columns of a kernel."""

    landmarks: Tensor
    basis: Tensor
    mean: Tensor
    gamma: Tensor

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        for name in ("landmarks", "basis", "mean", "gamma"):
            self.register_buffer(name, torch.from_numpy(np.asarray(getattr(kernel, name), dtype=np.float64)))

    def forward(self, numbers: Tensor) -> Tensor:
        x = numbers.double()
        lengths = x.square().sum(1, keepdim=True) + self.landmarks.square().sum(1)
        distances = (lengths - 2 * x @ self.landmarks.T).clamp(min=0)
        return (torch.exp(-self.gamma * distances) @ self.basis - self.mean).float()


def _last_of(run: Run) -> nn.Module:
    model = run.model
    if isinstance(model, Mlp):
        return _Layers((model.hidden_weight, model.hidden_bias), (model.weight, model.bias))
    assert isinstance(model, Linear | FineTuned)
    return _Layers((model.weight, model.bias))
