"""Runs of every kind, edited at random, manifest and all: refused in one sentence, or they give numbers that are some.

`make attacks` tries some, TAMPERINGS=500 more of each kind; `pytest -s` prints how many were refused.
"""

import hashlib
import importlib.util
import json
import os
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

import tiny_bert
from manyhot import load_run
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.run_folder import MANIFEST, kind_of_run
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.report.write import write_card, write_report
from manyhot.toolkit.spans.train import train_spans
from manyhot.toolkit.train import train
from relation_rows import linked_sentences, write_relations

TAMPERINGS = int(os.environ.get("TAMPERINGS", "12"))
ENCODER = importlib.util.find_spec("transformers") is not None
KINDS = ["table", "sparse", "mlp", "encoder", "fine-tuned", "spans", "relations"]
VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 7, 2**31, 2**53, 2**63, 10**400, -0.5, 1e-300, 1e30, 1e308, "", "x", "\x1b[2J"),
    *("\ud800", "../../etc/passwd", [], {}, [0], ["x"], [[]], {"x": 1}, [None], [1.5, "x"]),
]
ROW = {"text": "the fox and a bird", "n": 0.5, "m": -1.0, "cat": "a"}


def trained(kind: str, folder: Path) -> Path:
    """Train a run as small as may be."""
    out, data = str(folder / "run"), folder / "d.jsonl"
    if kind in ("spans", "relations"):
        write_relations(data, linked_sentences(24), "tokens")
        train_spans(Config(data=str(data), task=kind, model="cnn", epochs=1, out=out))
        return folder / "run"
    chance = random.Random(0)
    rows: list[dict[str, Any]] = []
    for i in range(48):
        words = ["fox bird".split()[i % 2], "rose moss".split()[i // 2 % 2]]
        rows.append({"text": f"the {words[0]} and a {words[1]}", "labels": words[: 1 + i % 3 % 2]})
        if kind not in ("encoder", "fine-tuned"):
            number = chance.random() if i % 5 else None
            rows[-1] |= {"n": number, "m": chance.gauss(0, 1), "cat": "ab"[i % 2]}
    pl.DataFrame(rows).write_ndjson(data)
    options: dict[str, Any] = {"data": str(data), "text": ("text",), "out": out}
    if kind == "table":  # with votes of neighbours, and columns of a kernel
        train(Config(features=("n", "m", "cat"), C=1.0, neighbours="on", characters="on", kernel="on", **options))
    elif kind == "sparse":
        train(Config(features=("n", "m", "cat"), weights="sparse", **options))
    elif kind == "mlp":
        train(Config(features=("n", "m", "cat"), model="mlp", **options))
    else:
        bert = tiny_bert.save(folder / "bert", "the fox and a bird rose moss".split())
        given: Any = {"fine_tune": True} if kind == "fine-tuned" else {"C": 1.0}
        train(Config(model=f"encoder:{bert}", **given, **options))
    return folder / "run"


def places_in(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List every place of a JSON value, not all items of a long list."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [place] + [deeper for key, item in inner for deeper in places_in(item, (*place, key))]


def edit_json(value: Any, chance: random.Random) -> tuple[Any, str]:
    places = places_in(value)[1:]
    if not places:
        return chance.choice(VALUES), "all of it"
    place = chance.choice(places)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    how = chance.choice(["put", "put", "put", "drop", "twice"])
    if how == "put":
        inner[place[-1]] = new = chance.choice(VALUES)
        return value, f"{place} = {new!r:.40}"
    if how == "drop":
        del inner[place[-1]]
    elif isinstance(inner, list):
        inner.append(inner[place[-1]])
    else:
        inner[f"{place[-1]} "] = inner[place[-1]]
    return value, f"{how} {place}"


def edit_array(array: np.ndarray, chance: random.Random) -> tuple[np.ndarray | None, str]:
    ways: dict[str, Any] = {
        "drop": lambda: None,
        "flat": lambda: array.reshape(-1),
        "short": lambda: array[:-1],
        "long": lambda: np.concatenate([array, array]),
        "type": lambda: array.astype(np.int64),
        "bool": lambda: array.astype(bool),
        "nan": lambda: np.full_like(array, np.nan) if array.dtype.kind == "f" else array - 7,
        "huge": lambda: np.full_like(array, 1e30) if array.dtype.kind == "f" else array * 1000,
        "negative": lambda: -np.abs(array).astype(array.dtype) - array.dtype.type(1),
        "zero": lambda: np.zeros_like(array),
        "one": lambda: np.ones_like(array),
        "two": lambda: np.stack([array, array]),
    }
    how = chance.choice(sorted(ways))
    return ways[how](), how


def edit(run: Path, chance: random.Random) -> str:
    """Edit one thing in one file, and write the manifest anew; say what it was."""
    kind = kind_of_run(run)
    name = chance.choice([*kind.files, "run.json", "run.json", "model.safetensors", "model.safetensors"])
    path = run / name
    if chance.random() < 0.15:
        data = bytearray(path.read_bytes())
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.randrange(len(data))] if chance.random() < 0.3 else data)
        what = "bytes"
    elif name.endswith(".safetensors"):
        arrays = load_file(path)
        of = chance.choice(sorted(arrays))
        with np.errstate(all="ignore"):
            changed, what = edit_array(arrays.pop(of), chance)
        arrays |= {} if changed is None else {of: changed}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
        what = f"{what} {of}"
    elif name.endswith(".json"):
        value, what = edit_json(json.loads(path.read_text()), chance)
        path.write_text(json.dumps(value))
    else:
        what = chance.choice(["[" * 3000, "\0", "", "x = 1e999", '{"a": NaN}'])
        path.write_text(what)
    sums = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in kind.files}
    (run / MANIFEST).write_text(json.dumps({"format": kind.format, "sha256": sums}))
    return f"{name}: {what}"


def used(run: Path, kind: str, folder: Path) -> None:
    """Use a run in every way, and look at what it gives."""
    loaded = load_run(run)
    if kind in ("spans", "relations"):
        (found,) = loaded.predict([["Anna", "Berg", "saw", "Oslo"]])
        entities = found.entities if kind == "relations" else found
        assert all(0 <= start < end <= 4 and np.isfinite(score) for start, end, _, score in entities)
    else:
        row = pl.DataFrame([ROW if kind in ("table", "sparse", "mlp") else {"text": ROW["text"]}])
        logits, probs = loaded.predict_logits(row), loaded.probs(row)
        assert np.isfinite(logits).all()
        assert logits.shape == probs.shape == (1, len(loaded.label_names))
        assert ((probs >= 0) & (probs <= 1)).all()
        assert all(np.isfinite(part.score) for label in loaded.explain(row)[0].labels for part in label.parts)
    for write, name in ((write_report, "page.html"), (write_card, "card.md")):
        write(run, folder / name)
        assert not any(c in (folder / name).read_text() for c in "\x00\x1b\x9b")


@pytest.mark.attacks
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_edited_is_refused_or_gives_numbers(kind, tmp_path):
    if kind in ("encoder", "fine-tuned") and not ENCODER:
        pytest.skip("transformers is not here")
    whole = trained(kind, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "training knew|the text has")
        used(whole, kind, tmp_path)
        refused, wrong = 0, []
        for number in range(TAMPERINGS):
            run = tmp_path / "edited"
            shutil.copytree(whole, run)
            what = edit(run, random.Random(f"{kind} {number}"))
            try:
                used(run, kind, tmp_path)
            except InputError as error:
                refused += 1
                if "\n" in str(error) or len(str(error)) > 1000:
                    wrong.append(f"{number}, {what}: {error}")
            except Exception as error:  # all of them are shown at once
                wrong.append(f"{number}, {what}: {type(error).__name__} {error}")
            shutil.rmtree(run)
    print(f"\n{kind}: {TAMPERINGS} edits, {refused} refused, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
