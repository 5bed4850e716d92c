"""`train NEW --from RUN`: what is kept, what is added and said, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from command import as_json, bad, call
from manyhot import load_run

WORDS = {"a": "apple", "b": "bread", "c": "cheese", "new": "fresh"}


def some_rows(rows, seed, names: Sequence[str] = "abc"):
    rng = np.random.default_rng(seed)
    sets = [[n for n in [*names] if rng.random() < 0.4] for _ in range(rows)]
    texts = [
        " ".join([*(WORDS[n] for n in s), f"filler{rng.integers(30)}", f"row{seed}x{i}"]) for i, s in enumerate(sets)
    ]
    return pl.DataFrame({"body": texts, "kind": ["x"] * rows, "tags": ["|".join(s) for s in sets]})


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("continued")
    some_rows(90, 0).write_csv(folder / "old.csv")
    call(f"train {folder / 'old.csv'} --text body --labels tags --out {folder / 'run'} --seed 3")
    return folder


def test_columns_labels_options_and_penalty_are_kept_and_new_labels_are_added_and_said(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new = some_rows(60, 1, ("a", "b", "new"))
    pl.concat([some_rows(90, 0), new]).write_csv("all.csv")
    _, stderr = call(f"train all.csv --from {old / 'run'} --out next")
    said = stderr.replace("\n", " ")
    assert "1 new label: new (" in said
    assert "60 rows are new to the run" in said
    before, after = load_run(old / "run"), load_run("next")
    assert after.label_names == ["a", "b", "c", "new"]
    assert after.columns == before.columns
    assert after.info["C"] == before.info["C"]
    assert len((Path("next") / "log.jsonl").read_text().splitlines()) == 1  # no search
    assert "seed = 3" in Path("next/config.toml").read_text()
    assert after.predict(["fresh apple"]) in ([["a", "new"]], [["new", "a"]])
    # Training again by what the run says gives the same run.
    call("train --config next/config.toml --out again")
    assert Path("again/model.safetensors").read_bytes() == Path("next/model.safetensors").read_bytes()


def test_the_same_rows_give_what_training_anew_at_that_penalty_gives(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, C = old / "old.csv", load_run(old / "run").info["C"]
    call(f"train {file} --from {old / 'run'} --out kept")
    call(f"train {file} --text body --labels tags --set C={C} --seed 3 --out anew")
    assert Path("kept/model.safetensors").read_bytes() == Path("anew/model.safetensors").read_bytes()


def test_what_is_gone_is_said(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    some_rows(80, 2, "ab").write_csv("only.csv")
    _, stderr = call(f"train only.csv --from {old / 'run'} --out next")
    said = " ".join(stderr.split())
    assert "1 label of the run that no row has any more, and kept: c" in said
    assert "0 of the 90 rows that the run was trained on are in only.csv" in said
    assert load_run("next").label_names == ["a", "b", "c"]


def test_what_does_not_fit_is_refused_in_a_sentence(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = old / "run"
    some_rows(30, 2).rename({"body": "text"}).write_csv("other.csv")
    some_rows(30, 2).write_csv("fits.csv")
    assert "expected the columns" in bad(f"train other.csv --from {run}")
    assert "text is kept by --from" in bad(f"train fits.csv --from {run} --text kind")
    assert "the loss of the run is kept, bce; got zlpr" in bad(f"train fits.csv --from {run} --loss zlpr")
    assert "expected a run folder with --from" in bad("train fits.csv --from nowhere")
    np.save("x.npy", np.zeros((3, 2)))
    call("train fits.csv --text body --labels tags --model mlp --out net")
    assert "expected a linear run, whose penalty is kept" in bad("train fits.csv --from net")


def test_labels_of_0_and_1_and_a_dry_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 3)).round(3)
    Y = (X @ rng.normal(size=(3, 2)) > 0).astype(int)
    frame = pl.DataFrame({**{f"x{i}": X[:, i] for i in range(3)}, "up": Y[:, 0], "down": Y[:, 1]})
    frame[:80].write_csv("old.csv")
    frame.write_csv("all.csv")
    call("train old.csv --labels up,down --out run")
    call("train all.csv --from run --out next")
    assert load_run("next").label_names == load_run("run").label_names
    said = as_json("train all.csv --from run --dry-run")
    assert said["dry_run"] is True
    assert json.loads(Path("next/run.json").read_text())["columns"]["labels"] == ["up", "down"]
