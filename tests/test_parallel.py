"""Losses over several processes: those of one process on all rows and all labels, and few collectives."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import manyhot
import manyhot.parallel
from manyhot import IndexTargets
from manyhot.parallel import LabelShard
from worlds import world

ROWS, LABELS, FEATURES, CLASSES = 11, 23, 5, 4
SIZES = pytest.mark.parametrize("size", [1, 2, 3, 4])
LINEAR: dict[str, Callable[..., Tensor]] = {
    "zlpr": manyhot.linear_zlpr_loss,
    "pairwise": manyhot.linear_pairwise_loss,
    "single_log": manyhot.linear_single_log_loss,
    "bce": manyhot.linear_bce_loss,
}


def drawn() -> dict[str, Tensor]:
    """Draw the same numbers in every process: rows, of which two are unknown, and a layer."""
    generator = torch.Generator().manual_seed(20220805)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    targets = (torch.rand(ROWS, LABELS, generator=generator) < 0.2).double()
    targets[0], targets[1] = 0, 1
    targets[[2, 7]] = -1
    for row, size in ((3, 2), (5, 3), (6, 4)):  # the labels of one process alone, all of them
        targets[row] = 0
        targets[row, : LabelShard(LABELS, 0, size).stop] = 1
    ids = torch.randint(CLASSES, (ROWS,), generator=generator)
    ids[4] = -1
    return {
        "x": normal(ROWS, FEATURES),
        "weight": normal(LABELS, FEATURES),
        "bias": normal(LABELS),
        "targets": targets,
        "known": (torch.rand(ROWS, LABELS, generator=generator) < 0.7),
        "ids": ids,
        "soft": normal(ROWS, CLASSES).softmax(-1),
        "to_classes": normal(CLASSES, FEATURES),
        "sample_weight": torch.rand(ROWS, generator=generator, dtype=torch.float64),
    }


def listed(targets: Tensor) -> IndexTargets:
    return IndexTargets([row.eq(1).nonzero().squeeze(-1).tolist() for row in targets])


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the collectives that are started, and the numbers that they send."""
    counts: Counter[str] = Counter()
    kept = {name: getattr(dist, name) for name in ("all_reduce", "all_gather")}

    def counting(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tensor = args[0] if name == "all_reduce" else args[1]
            counts[name] += 1
            counts[f"{name} numbers"] += tensor.numel()
            return kept[name](*args, **kwargs)

        return call

    for name in kept:
        setattr(dist, name, counting(name))
    try:
        yield counts
    finally:
        for name, function in kept.items():
            setattr(dist, name, function)


# --- rows split ------------------------------------------------------------------------------------------------------

COUPLED: dict[str, Callable[[dict[str, Tensor], Tensor, slice, Any], Tensor]] = {
    "smooth F micro": lambda d, w, r, group: manyhot.smooth_f_loss(
        d["x"][r] @ w.T, d["targets"][r], sample_weight=d["sample_weight"][r], group=group
    ),
    "smooth F macro": lambda d, w, r, group: manyhot.smooth_f_loss(
        d["x"][r] @ w.T, d["targets"][r], average="macro", beta=2.0, mask=d["known"][r], group=group
    ),
    **{
        f"multiway {form} {kind}": lambda d, w, r, group, form=form, kind=kind: manyhot.multiway_loss(
            d["x"][r] @ w[:CLASSES].T, d[kind][r], form=form, group=group
        )
        for form in ("pairwise", "first_order", "mean_centred")
        for kind in ("ids", "soft")
    },
}


def own_rows(rank: int, size: int) -> slice:
    """Cut the rows unevenly: the last process has what the others leave; of four, one has none."""
    ends = {1: [0, 11], 2: [0, 4, 11], 3: [0, 1, 5, 11], 4: [0, 3, 3, 8, 11]}[size]
    return slice(ends[rank], ends[rank + 1])


def rows_split(rank: int, size: int) -> dict[str, Any]:
    data, rows, out = drawn(), own_rows(rank, size), {}
    module = nn.Linear(FEATURES, LABELS, bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(data["weight"])
    replica = nn.parallel.DistributedDataParallel(module)
    targets = data["targets"][rows]
    known = (targets >= 0).any(-1)
    with counted() as counts:
        total = manyhot.zlpr_loss(replica(data["x"][rows]), targets, reduction="sum")
        loss = manyhot.parallel.mean(total, known.sum())
    assert counts == {"all_reduce": 1, "all_reduce numbers": 1}, counts
    loss.backward()
    out["zlpr"] = (loss.item(), module.weight.grad.numpy())  # pyright: ignore
    for name, formula in COUPLED.items():
        weight = data["weight"].clone().requires_grad_()
        loss = formula(data, weight, rows, dist.group.WORLD)
        loss.backward()
        gradient = weight.grad
        assert gradient is not None
        dist.all_reduce(gradient)
        out[name] = (loss.item(), gradient.numpy() / size)
    return out


@SIZES
def test_rows_split_among_processes_are_one_batch(size: int) -> None:
    data = drawn()
    answers = world(size, rows_split)
    weight = data["weight"].requires_grad_()
    whole = {name: formula(data, weight, slice(None), None) for name, formula in COUPLED.items()}
    whole["zlpr"] = manyhot.zlpr_loss(data["x"] @ weight.T, data["targets"])
    for name, loss in whole.items():
        (gradient,) = torch.autograd.grad(loss, weight)
        values = [answer[name][0] for answer in answers]
        # Each process has its share of the mean; what couples rows has one value on all.
        value = np.mean(values) if name == "zlpr" else values
        np.testing.assert_allclose(value, loss.item(), rtol=1e-12)
        for answer in answers:
            np.testing.assert_allclose(answer[name][1], gradient, rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_mean_of_processes_without_a_known_row_is_0() -> None:
    loss = torch.zeros((), requires_grad=True)
    assert manyhot.parallel.mean(loss, 0).item() == 0


def test_what_does_not_couple_rows_refuses_a_group() -> None:
    logits, targets = torch.zeros(2, 3), torch.ones(2, 3)
    refused: tuple[dict[str, Any], ...] = ({"average": "samples"}, {"reduction": "sum"})
    for options in refused:
        with pytest.raises(ValueError, match=r"manyhot\.parallel\.mean"):
            manyhot.smooth_f_loss(logits, targets, group=object(), **options)
    with pytest.raises(ValueError, match="over must be None; got 1"):
        manyhot.multiway_loss(torch.zeros(2, 3, 4), torch.zeros(2, 3).long(), over=1, group=object())


# --- labels split ----------------------------------------------------------------------------------------------------


def labels_split(rank: int, size: int) -> dict[str, Any]:
    data, shard, out = drawn(), LabelShard(LABELS, rank, size), {}
    own = slice(shard.start, shard.stop)
    leaves = [data["x"].requires_grad_(), data["weight"][own].requires_grad_(), data["bias"][own].requires_grad_()]
    for name, loss in LINEAR.items():
        for reduction in ("mean", "none"):
            with counted() as counts:
                value = loss(
                    *leaves[:2], listed(data["targets"]), bias=leaves[2], shard=shard, chunk=4, reduction=reduction
                )
            forward = dict(counts)
            with counted() as counts:
                gradients = torch.autograd.grad((value * data["sample_weight"]).sum(), leaves)
            out[name, reduction] = (
                value.detach().numpy(), [g.numpy() for g in gradients], own, forward, dict(counts)
            )  # fmt: skip
    out["infinite"] = infinite_and_empty(shard)
    return out


def infinite_and_empty(shard: LabelShard) -> np.ndarray:
    """Take rows where one process has nothing on a side, and one whose logit is infinite."""
    weight = torch.zeros(LABELS, 1, dtype=torch.float64)
    weight[5] = torch.inf
    x = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    own = weight[shard.start : shard.stop].clone().requires_grad_()
    targets = IndexTargets([[5], [0], list(range(LABELS))])
    rows = manyhot.linear_zlpr_loss(x, own, targets, shard=shard, reduction="none")
    (gradient,) = torch.autograd.grad(rows.sum(), own)
    assert gradient.isfinite().all()
    return rows.detach().numpy()


@SIZES
def test_labels_split_among_processes_are_one_layer(size: int) -> None:
    data = drawn()
    answers = world(size, labels_split)
    leaves = [data[name].requires_grad_() for name in ("x", "weight", "bias")]
    for name, loss in LINEAR.items():
        for reduction in ("mean", "none"):
            value = loss(*leaves[:2], listed(data["targets"]), bias=leaves[2], reduction=reduction)
            expected = torch.autograd.grad((value * data["sample_weight"]).sum(), leaves)
            for answer in answers:
                found, gradients, own, forward, backward = answer[name, reduction]
                np.testing.assert_allclose(found, value.detach(), rtol=1e-12)
                assert found.tobytes() == answers[0][name, reduction][0].tobytes()
                for got, wanted in zip(gradients, (expected[0], expected[1][own], expected[2][own]), strict=True):
                    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)
                if size > 1:
                    sides = 1 if name == "bce" else 2
                    adds = {"all_reduce": 1, "all_reduce numbers": ROWS * FEATURES}
                    gathers = {"all_gather": 1, "all_gather numbers": sides * ROWS}
                    # The gradient of summed BCE is made in the forward pass, that of the features added up too.
                    early = name == "bce" and reduction == "mean"
                    assert (forward, backward) == ((gathers | adds, {}) if early else (gathers, adds))
    for answer in answers:
        assert answer["infinite"].tolist()[1] == np.inf
        assert np.isfinite(answer["infinite"][[0, 2]]).all()
        assert answer["infinite"].tobytes() == answers[0]["infinite"].tobytes()


def training(rank: int, size: int) -> list[np.ndarray]:
    torch.manual_seed(0)
    prior = torch.linspace(0.01, 0.5, LABELS)
    data, shard = drawn(), LabelShard(LABELS, rank, size)
    layer = manyhot.LinearZLPRLoss(
        FEATURES, LABELS, prior=prior, label_shard=(rank, size), update=manyhot.SGDUpdate(0.5), dtype=torch.float64
    )
    with torch.no_grad():
        layer.weight.copy_(data["weight"][shard.start : shard.stop])
    for _ in range(5):
        layer(data["x"], listed(data["targets"])).backward()
    values, labels = layer.top_k(data["x"], 2)
    assert ((labels >= shard.start) & (labels < shard.stop)).all()
    return [layer.weight.detach().numpy(), values.numpy()]


def test_a_layer_in_three_slices_trains_as_one() -> None:
    (whole, best), parts = training(0, 1), world(3, training)
    np.testing.assert_allclose(np.concatenate([weight for weight, _ in parts]), whole, rtol=1e-9)
    both = -np.sort(-np.concatenate([values for _, values in parts], 1), 1)[:, :2]
    np.testing.assert_allclose(both, best, rtol=1e-9)


def test_wrong_slices_are_refused() -> None:
    x, weight = torch.zeros(2, 3), torch.zeros(5, 3)
    with pytest.raises(ValueError, match="rank must lie in 0 to size - 1; got rank 2 of 2"):
        LabelShard(10, 2, 2)
    with pytest.raises(ValueError, match="each process needs a label; got 2 labels for 3"):
        LabelShard(2, 0, 3)
    with pytest.raises(ValueError, match="this process has labels 0 to 3 of 8, 4 rows of weight; got 5"):
        manyhot.linear_zlpr_loss(x, weight, IndexTargets([[0], [1]]), shard=LabelShard(8, 0, 2))
    with pytest.raises(RuntimeError, match=r"torch\.distributed is not initialised: start with torchrun"):
        manyhot.linear_zlpr_loss(x, weight, IndexTargets([[0], [9]]), shard=LabelShard(10, 0, 2))
