"""Networks fitted by several processes: the numbers of one, and one run that the first of them writes."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch.distributed as dist
from safetensors.numpy import load_file

import tiny_bert
from command import call
from manyhot.toolkit import plan
from manyhot.toolkit.config import Config
from manyhot.toolkit.disk import checkpoint
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models import encoder, mlp
from manyhot.toolkit.models.processes import ALONE, Group, joined
from manyhot.toolkit.train import train
from tiny_texts import texts_and_sets
from worlds import world


def test_shares_are_all_rows_once() -> None:
    for rows in (0, 1, 5, 64):
        for size in (1, 2, 3, 7):
            shares = [Group(rank, size).share(rows) for rank in range(size)]
            assert [i for share in shares for i in range(rows)[share.here]] == list(range(rows))
            assert max(share.last - share.first for share in shares) <= -(-rows // size)


def trained(
    rank: int,
    size: int,
    config: Config,
    epochs: int,
    die_after: int | None = None,
    resume: bool = False,
    most_cells: int = plan.MOST_CELLS,
) -> Any:
    """Train a few epochs, and write a checkpoint after each; or die at a sum of gradients."""
    plan.MOST_CELLS = most_cells
    group = ALONE if size == 1 else Group(rank, size)
    mlp.SCHEDULE = replace(mlp.SCHEDULE, batch=16, epochs=epochs)
    encoder.SCHEDULE = replace(encoder.SCHEDULE, epochs=epochs)
    checkpoint.WRITE_SECONDS = checkpoint.SHARE = 0.0
    checkpoint.SHARE = 1e9
    original, left = dist.all_reduce, [die_after]

    def counted(*args: Any, **kwargs: Any) -> Any:
        if left[0] is not None and rank == size - 1:
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
        return original(*args, **kwargs)

    dist.all_reduce = counted
    try:
        result = train(config, resume=resume, group=group)
    except RuntimeError as error:
        return str(error)
    return None if result is None else result.metrics


@pytest.fixture
def config(tmp_path: Path) -> Config:
    texts, sets = texts_and_sets(67)
    pl.DataFrame({"text": texts, "labels": sets}).write_ndjson(tmp_path / "train.jsonl")
    return Config(data=str(tmp_path / "train.jsonl"), model="mlp", tau=0.0)


def weights(path: str) -> dict[str, np.ndarray]:
    return load_file(Path(path) / "model.safetensors")


def same_models(one: str, other: str, tolerance: float) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_allclose(b[name], value, atol=tolerance, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "most_cells"), [(2, 10**8), (3, 10**8), (2, 10)])
def test_an_mlp_is_that_of_one_process(config: Config, size: int, most_cells: int, tmp_path: Path) -> None:
    alone, together = (replace(config, out=str(tmp_path / name)) for name in ("alone", "together"))
    (metrics,) = world(1, trained, alone, 4, None, False, most_cells)
    first, *others = world(size, trained, together, 4, None, False, most_cells)
    assert others == [None] * (size - 1)
    assert first.keys() == metrics.keys()
    # Dropout is drawn for the whole batch, so what differs is the order of sums.
    same_models(str(alone.out), str(together.out), 1e-4)
    said = [json.loads((Path(str(c.out)) / "run.json").read_text())["chosen"] for c in (alone, together)]
    assert [chosen.get("processes") for chosen in said] == [None, str(size)]
    assert [chosen.get("targets") for chosen in said] == ["listed" if most_cells == 10 else None] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "together", "train.jsonl"]


@pytest.mark.slow
def test_a_fine_tuned_encoder_is_that_of_one_process(config: Config, tmp_path: Path) -> None:
    texts = pl.read_ndjson(config.data)["text"]
    folder = tiny_bert.save(tmp_path / "bert", sorted({word for text in texts for word in text.lower().split()}))
    said = json.loads((folder / "config.json").read_text())
    said |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(said))
    asked = replace(config, model=f"encoder:{folder}", fine_tune=True)
    alone, together = (replace(asked, out=str(tmp_path / name)) for name in ("alone", "together"))
    world(1, trained, alone, 2)
    world(2, trained, together, 2)
    same_models(str(alone.out), str(together.out), 1e-4)


@pytest.mark.slow
def test_a_killed_process_leaves_a_checkpoint_to_go_on_from(config: Config, tmp_path: Path) -> None:
    whole, broken = (replace(config, out=str(tmp_path / name)) for name in ("whole", "broken"))
    world(2, trained, whole, 4)
    with pytest.raises(AssertionError, match="rank 1: died"):
        world(2, trained, broken, 4, 25)
    assert not Path(str(broken.out)).exists()
    assert (tmp_path / ".broken.partial" / "manifest.json").exists()
    # Alone it would be a training of other bits.
    with pytest.raises(InputError, match="processes was 2 and is not given"):
        train(broken, resume=True)
    world(2, trained, broken, 4, None, True)
    same_models(str(whole.out), str(broken.out), 0.0)
    assert not (tmp_path / ".broken.partial").exists()


def test_what_several_processes_cannot_train(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(0, 2)
    with pytest.raises(InputError, match="got a linear model, which one process fits with all its threads"):
        train(replace(config, model="linear"), group=group)
    with pytest.raises(InputError, match="got smooth-f1, which couples the rows of a batch"):
        train(replace(config, loss="smooth-f1"), group=group)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="WORLD_SIZE is 2, and RANK, MASTER_ADDR, MASTER_PORT is not set"), joined():
        pass
    _, stderr = call(f"train {config.data} --model mlp", 2)
    assert "start with torchrun, or unset WORLD_SIZE" in stderr
