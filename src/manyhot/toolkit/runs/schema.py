"""What run.json, its siblings and the arrays of a run may hold: the one place that says so, and names a wrong key.

A run folder may come from anybody. What is made of its values is bounded here: parameters of TF-IDF are a whitelist,
numbers lie where formulas stay finite, and parts agree on how many columns and labels there are.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from manyhot.toolkit.config import TASKS, UNCERTAIN
from manyhot.toolkit.disk import schema
from manyhot.toolkit.disk.schema import (
    distinct,
    either,
    every,
    flag,
    maybe,
    number,
    one_of,
    record,
    several,
    text,
    whole,
)
from manyhot.toolkit.errors import shown
from manyhot.toolkit.models.listed import LISTED
from manyhot.toolkit.models.pooling import MODES

MOST_LABELS = 10**7
MOST_ROWS = 10**12
# The largest weight, and the largest number that rows are multiplied by: products and sums stay finite in float32.
LARGEST_WEIGHT = 1e15
LARGEST_NUMBER = float(np.finfo(np.float32).max)
# A word as `token_pattern` of features writes it, whatever characters this Python calls marks and emoji: nothing in it
# can make a search take long.
_CHARACTERS = r"\[[^\[\]\\^]+\]"
_TOKEN_PATTERN = re.compile(
    rf"{re.escape(chr(92))}w\+\(\?:{_CHARACTERS}\+{re.escape(chr(92))}w\*\)\*\|"
    rf"{re.escape('[' + chr(92) + 'U0001f1e6-' + chr(92) + 'U0001f1ff]{2}')}\|{_CHARACTERS}"
)


def _token_pattern(value: Any, where: str) -> None:
    if not isinstance(value, str) or not _TOKEN_PATTERN.fullmatch(value):
        raise ValueError(f"{where}: expected the pattern of words that training writes, got {shown(value)}")
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{where}: expected a pattern, got {shown(value)} ({error})") from None


def _rising(value: Any, where: str) -> None:
    if value[0] > value[1]:
        raise ValueError(f"{where}: expected the smaller number first, got {shown(value)}")


_range = every(several(whole(1, 8), 2, 2), _rising)
_limits = {"min_df": whole(1, 10**9), "max_features": whole(1, 2**24), "sublinear_tf": flag, "ngram_range": _range}
# Nothing that reads files, such as input="filename", nothing that calls, and no pattern of somebody's own.
PARAMETERS = either(
    "analyzer",
    {
        "word": record({"analyzer": text, "token_pattern": _token_pattern, **_limits}),
        "char": record({"analyzer": text, **_limits}),
        "char_wb": record({"analyzer": text, **_limits}),
    },
)


_names = several(text)
_propensity = {"propensity_a": number(0, 100), "propensity_b": number(0, 100)}
_chosen = record(
    {"loss": text},
    {
        "neighbours": maybe(record({}, others=schema.one_scalar)),
        "promise": record({"precision": number(0, 1), "too_rare": _names, "never": _names}),
        "targets": one_of(LISTED),
        "rows": whole(1, MOST_ROWS),
        **_propensity,
    },
    others=schema.one_scalar,
)
_chosen_sparse = record({"loss": text, "rows": whole(1, MOST_ROWS)}, _propensity, others=schema.one_scalar)
COLUMNS = record(
    {
        "text": _names,
        "features": _names,
        "labels": _names,
        "label_format": one_of(
            *("list", "separated", "indicator", "shares", "ids", "vector", "objects", "joined", "matrix", "svmlight")
        ),
        "label_sep": maybe(text),
        "header": flag,
        "indices": maybe(several(whole(0, 2**31), 2, 2)),
        "categories": _names,
        "uncertain": one_of(None, *UNCERTAIN),
        "named": _names,
        "commas": _names,
        "join": flag,
    }
)
# The numbers of a network's configuration size its arrays; transformers makes them before any weight is looked at.
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")


def _configuration(value: Any, where: str) -> None:
    record({"model_type": text}, others=schema.anything)(value, where)
    for key, item in value.items():
        if isinstance(item, int | float) and not isinstance(item, bool):
            number(-1e15, 2**31 if isinstance(item, int) else 1e30)(item, f"{where}.{key}")
        if key in _LAYERS:
            whole(0, 1000)(item, f"{where}.{key}")


ENCODER = record(
    {
        "name": text,
        "config": _configuration,
        "tokenizer": text,
        "limit": whole(1, 2**20),
        "long": one_of("cut", "mean"),
        "pooling": several(one_of(*MODES), 1),
        "normalise": flag,
    }
)
FEATURES = record(
    {
        "text": several(record({"parameters": PARAMETERS, "weight": number(0, 1e3, above=True)})),
        "centred": flag,
        "missing": several(whole(0, 2**31)),
        "categories": several(several(maybe(text))),
    },
    {"tokens": record({"tokenizer": text, "limit": whole(1, 2**20)}), "encoder": ENCODER},
)


def _cardinality(value: Any, where: str) -> None:
    record({"min_labels": whole(0, MOST_LABELS), "max_labels": whole(0, MOST_LABELS)})(value, where)
    if value["min_labels"] > value["max_labels"]:
        raise ValueError(f"{where}.min_labels: expected at most max_labels, got {value['min_labels']}")


_run = {
    "task": one_of(*(task for task in TASKS if task != "spans")),
    "chosen": _chosen,
    "cardinality": _cardinality,
    "drop_unlabelled": flag,
    "columns": COLUMNS,
    "features": FEATURES,
    "labels": every(several(record({"name": text, "rows": number(0, MOST_ROWS)}), 1, MOST_LABELS), schema.names_of),
}
# What training rows are like, by which others are noticed; runs of before have none.
_shares = several(number(0, 1), 1)
USUAL = record(
    {
        "words": maybe(several(number(0, 1), 2, 2)),
        "shares": _shares,
        "given": _shares,
        "skewness": maybe(several(number(-LARGEST_WEIGHT, LARGEST_WEIGHT))),
    }
)
_optional = {"usual": USUAL}
RUN_JSON = either(
    "model",
    {
        "linear": record({"model": text, **_run}, _optional),
        # Sparse weights of very many labels; the rows of training say how often a label is forgotten.
        "sparse": record({"model": text, **_run, "chosen": _chosen_sparse}, _optional),
        "mlp": record({"model": text, **_run}, _optional),
        "encoder": record(
            {"model": text, "encoder": _configuration, "pooling": several(one_of(*MODES), 1), **_run}, _optional
        ),
    },
)
CALIBRATION_JSON = record(
    {
        "classes": flag,
        "measured": record({}, others=maybe(number())),
        "labels": several(
            record(
                {"name": text, "temperature": number(1e-9, 1e9), "offset": number(-1e6, 1e6)}, others=maybe(number())
            ),
            1,
        ),
    }
)
TERMS_JSON = several(distinct(text, 1))


def check_run(parts: Mapping[str, Any]) -> None:
    """Check the files of a run, parsed, by themselves and against each other.

    Raises:
        ValueError: names the file and the key that is wrong.
    """
    for name, expected in (
        ("run.json", RUN_JSON),
        ("calibration.json", CALIBRATION_JSON),
        ("terms.json", TERMS_JSON),
    ):
        try:
            schema.check(parts[name], expected, "")
        except ValueError as error:
            raise ValueError(f"{name}, {error}") from None
    state, terms, calibration = parts["run.json"], parts["terms.json"], parts["calibration.json"]
    features, columns, labels = state["features"], state["columns"], state["labels"]
    if len(features["text"]) != len(terms):
        raise ValueError(f"terms.json: expected a list for each of {len(features['text'])} blocks, got {len(terms)}")
    if [label["name"] for label in calibration["labels"]] != [label["name"] for label in labels]:
        raise ValueError(f"calibration.json, labels: expected the {len(labels)} labels of run.json in their order")
    if calibration["classes"] != (state["task"] == "multiclass"):
        raise ValueError("calibration.json, classes: expected true of a multiclass run, and of no other")
    if "targets" in state["chosen"] and "rows" not in state["chosen"]:
        raise ValueError("run.json, chosen.rows: expected how many rows trained a run whose targets were lists")
    if state["cardinality"]["max_labels"] > len(labels):
        raise ValueError(f"run.json, cardinality.max_labels: expected at most {len(labels)}, the number of labels")
    reads = bool(features["text"]) or "tokens" in features or "encoder" in features
    if reads != bool(columns["text"]):
        raise ValueError(
            "run.json, columns.text: expected columns of text where features read text, and none elsewhere"
        )
    if len(columns["categories"]) != len(features["categories"]):
        raise ValueError(
            f"run.json, columns.categories: expected {len(features['categories'])} columns, as features.categories has"
        )
    arrays = parts["model.safetensors"]
    of_file = columns["label_format"] in ("matrix", "svmlight")
    if ("numbers.std" in arrays) != (of_file or bool(columns["features"])):
        raise ValueError("run.json, columns.features: expected columns of numbers where the model has their scales")
    check_arrays(arrays, terms, features["missing"])
    if (usual := state.get("usual")) is not None:
        for key, size in (("shares", len(labels)), ("given", len(labels))):
            if len(usual[key]) != size:
                raise ValueError(f"run.json, usual.{key}: expected {size} numbers, one for each label")
        skewness, numbers = usual["skewness"], arrays["numbers.std"].size if "numbers.std" in arrays else 0
        if skewness is not None and len(skewness) != numbers:
            raise ValueError(f"run.json, usual.skewness: expected {numbers} numbers, as many as numbers.std has")


# Cosines, and frequencies that are odds too: float32 rounds beyond 1, and 0 has no logarithm.
_ROUNDED = 1e-3
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
# Arrays by name or by the beginning of it: how many dimensions, None for any, and from where to where values go.
ARRAYS: dict[str, tuple[int | None, float, float]] = {
    "idf.": (1, 0.0, 1e6),
    "numbers.mean": (1, -LARGEST_NUMBER, LARGEST_NUMBER),
    "numbers.std": (1, _SMALLEST, LARGEST_NUMBER),
    "weight": (2, -LARGEST_WEIGHT, LARGEST_WEIGHT),
    "weight.data": (1, -LARGEST_WEIGHT, LARGEST_WEIGHT),
    "bias": (1, -LARGEST_WEIGHT, LARGEST_WEIGHT),
    "hidden_weight": (2, -LARGEST_WEIGHT, LARGEST_WEIGHT),
    "hidden_bias": (1, -LARGEST_WEIGHT, LARGEST_WEIGHT),
    "meaning.": (1, -LARGEST_NUMBER, LARGEST_NUMBER),
    "encoder.": (None, -LARGEST_NUMBER, LARGEST_NUMBER),
    "network.": (None, -LARGEST_NUMBER, LARGEST_NUMBER),
    "kernel.landmarks": (2, -LARGEST_NUMBER, LARGEST_NUMBER),
    "kernel.basis": (2, -LARGEST_WEIGHT, LARGEST_WEIGHT),
    "kernel.mean": (1, -LARGEST_WEIGHT, LARGEST_WEIGHT),
    "kernel.gamma": (1, _SMALLEST, LARGEST_NUMBER),
    "neighbours.prior": (1, 1e-13, 1 - 1e-13),
    "neighbours.weights": (1, -1e6, 1e6),
    "neighbours.rows": (2, -1 - _ROUNDED, 1 + _ROUNDED),
    "neighbours.rows.data": (1, -1 - _ROUNDED, 1 + _ROUNDED),
    "neighbours.targets.data": (1, 0.0, 1.0),
    "neighbours.known.data": (1, 0.0, 1.0),
}
# Where the numbers of a sparse matrix stand.
PLACES = {
    f"{matrix}.{key}"
    for matrix in ("weight", "neighbours.rows", "neighbours.targets", "neighbours.known")
    for key in ("indices", "indptr")
}
# Hashes of the rows that were trained on.
ROW_HASHES = "rows.hashes"


def check_hashes(array: np.ndarray | None) -> None:
    """Check the hashes of training rows; None where a run keeps none.

    Raises:
        ValueError: they are none.
    """
    if array is not None and (array.dtype != np.uint64 or array.ndim != 1):
        raise ValueError(f"model.safetensors, {ROW_HASHES}: expected hashes, got {array.dtype} of shape {array.shape}")


def check_arrays(arrays: Mapping[str, np.ndarray], terms: list[list[str]], missing: list[int]) -> None:
    """Check names, shapes and ranges of arrays; whether weights fit features and labels their models say.

    Raises:
        ValueError: names the array.
    """
    for name, array in arrays.items():
        where = f"model.safetensors, {name}"
        if name == ROW_HASHES:
            check_hashes(array)
            continue
        if name in PLACES:
            if array.dtype.kind != "i" or array.ndim != 1:
                raise ValueError(f"{where}: expected whole numbers, got {array.dtype} of shape {array.shape}")
            continue
        begins = name[: name.find(".") + 1]
        about = ARRAYS.get(name) or (ARRAYS.get(begins) if begins else None)
        if about is None:
            raise ValueError(f"{where}: expected no such array")
        dimensions, low, high = about
        if dimensions is not None and array.ndim != dimensions:
            raise ValueError(f"{where}: expected {dimensions} dimensions, got an array of shape {array.shape}")
        if array.dtype.kind not in "f" and dimensions is not None:
            raise ValueError(f"{where}: expected floating-point numbers, got {array.dtype}")
        if array.size and not (low <= array.min() and array.max() <= high):
            raise ValueError(
                f"{where}: expected numbers from {low:g} to {high:g}, got {array.min():g} to {array.max():g}"
            )
    for i, block in enumerate(terms):
        if arrays[f"idf.{i}"].shape != (len(block),):
            raise ValueError(f"model.safetensors, idf.{i}: expected {len(block)} numbers, one for each term")
    if ("numbers.mean" in arrays) != ("numbers.std" in arrays):
        raise ValueError("model.safetensors: expected both of numbers.mean and numbers.std")
    if "numbers.std" in arrays:
        size = arrays["numbers.std"].size
        if arrays["numbers.mean"].size != size:
            raise ValueError(f"model.safetensors, numbers.mean: expected {size} numbers, as many as numbers.std has")
        if missing and (max(missing) >= size or len(set(missing)) < len(missing)):
            raise ValueError(f"run.json, features.missing: expected positions below {size}, each once")
    elif missing:
        raise ValueError("run.json, features.missing: expected none where there are no numbers")
