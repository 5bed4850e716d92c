"""The head from which every small label set is in reach: what keeps that, and what breaks it."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

import manyhot


def small_sets(n: int, k: int) -> Tensor:
    sets = torch.tensor(list(itertools.product((0, 1), repeat=n)))
    return sets[sets.sum(1) <= k]


def in_reach(weight: Tensor, sets: Tensor, **options: object) -> int:
    return int((manyhot.reachable_sets(weight, sets, **options).status == "yes").sum())  # pyright: ignore


def drawn(seed: int, features: int = 7, n: int = 12, k: int = 3) -> manyhot.ReachableHead:
    """Return a head all of whose parameters are drawn."""
    torch.manual_seed(seed)
    head = manyhot.ReachableHead(features, n, k, order=torch.randperm(n))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


SETS = small_sets(12, 3)


def test_logits_are_a_trigonometric_polynomial() -> None:
    head = drawn(0, features=9)
    x = torch.randn(4, 9)
    coefficients = x.double() @ head.project.weight.double().T
    for i in range(12):
        t, scale = head.angles[i].item(), head.log_scale[i].double().exp()
        curve = [1.0, *(f(j * t) for j in (1, 2, 3) for f in (math.cos, math.sin))]
        want = scale * (coefficients @ torch.tensor(curve, dtype=torch.float64)) + head.bias[i]
        torch.testing.assert_close(head(x)[:, i].double(), want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head(x), x @ head.weight.T + head.bias, rtol=1e-4, atol=1e-4)


def test_all_299_sets_of_up_to_3_of_12_labels_are_in_reach() -> None:
    assert len(SETS) == 299
    head = manyhot.ReachableHead(7, 12, 3)
    assert in_reach(head.weight, SETS) == 299
    # A plain head of the same rank has not all of them.
    counts = [in_reach(torch.randn(12, 7, generator=torch.Generator().manual_seed(s)), SETS) for s in range(3)]
    assert all(150 < count < 290 for count in counts), counts


def test_whatever_is_trained_keeps_them() -> None:
    head = drawn(1).double()
    reach = manyhot.reachable_sets(head.weight, SETS, bias=head.bias, tolerance=1e-10)
    assert (reach.status == "yes").all()
    logits = head(torch.tensor(reach.witness))
    assert torch.equal(manyhot.decide(logits), SETS)


def test_angles_keep_a_distance() -> None:
    head = manyhot.ReachableHead(7, 12, 3)
    with torch.no_grad():
        head.gap_logits.copy_(torch.tensor([50.0] + [0.0] * 11))
    t = head.angles.sort().values
    gaps = torch.cat((t.diff(), (2 * math.pi - t[-1:] + t[:1])))
    assert gaps.min().item() == pytest.approx(0.1 * 2 * math.pi / 12, rel=1e-4)
    assert gaps.sum().item() == pytest.approx(2 * math.pi)


def test_what_keeps_and_what_breaks_them() -> None:
    sets = small_sets(8, 2)
    weight = manyhot.ReachableHead(5, 8, 2).weight.detach().double()
    basis = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    equal, negative = weight.clone(), weight.clone()
    equal[5] = equal[6]
    negative[5] *= -1
    kept = (weight, weight @ basis, torch.cat((weight, torch.randn(8, 2, dtype=torch.float64)), 1))
    assert [in_reach(w, sets) for w in kept] == [37] * 3
    lower_rank = weight @ basis[:, :4] @ basis[:, :4].T
    assert max(in_reach(w, sets) for w in (equal, negative, lower_rank)) < 37
    assert in_reach(weight, sets, nonnegative=True) < 37  # behind a ReLU


def test_in_reach_is_checked_by_other_programmes() -> None:
    head = drawn(2, features=5, n=8, k=2).double()
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    for members in small_sets(8, 2).numpy():
        signs = np.where(members, 1.0, -1.0)
        solved = linprog(np.zeros(5), A_ub=-signs[:, None] * weight, b_ub=signs * bias - 1, bounds=(None, None))
        assert solved.status == 0


def test_order_from_targets_widens_margins() -> None:
    # Pairs that are six apart in the given order, and a label that is alone.
    rows = torch.zeros(20, 13, dtype=torch.int64)
    for r in range(20):
        i = r % 6
        rows[r, [i, i + 6]] = 1
    sets = rows.unique(dim=0)
    margins = {}
    for name, order in (("given", None), ("targets", rows), ("listed", manyhot.IndexTargets([[0, 6], [1, 7]]))):
        head = manyhot.ReachableHead(5, 13, 2, order=order)
        assert sorted(head.place.tolist()) == list(range(13))  # pyright: ignore
        margins[name] = manyhot.reachable_sets(head.curve, sets).margin.min()
    assert margins["targets"] > 2 * margins["given"]
    again = manyhot.ReachableHead(5, 13, 2, order=rows)
    assert torch.equal(again.angles, manyhot.ReachableHead(5, 13, 2, order=rows.numpy()).angles)


def test_training_and_saving() -> None:
    torch.manual_seed(0)
    head = manyhot.ReachableHead(8, 6, 2, order=[5, 3, 1, 0, 2, 4])
    fixed = manyhot.ReachableHead(8, 6, 2, trainable=False)
    names = {name for name, p in fixed.named_parameters() if p.requires_grad}
    assert names == {"project.weight", "bias"}
    x = torch.randn(32, 8)
    before = copy.deepcopy(head.state_dict())
    manyhot.zlpr_loss(head(x), x[:, :6] > 1).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    torch.optim.SGD(head.parameters(), 0.1).step()
    assert not torch.equal(head.angles, drawn(0, 8, 6, 2).angles)
    fixed.load_state_dict(before)
    want = head
    want.load_state_dict(before)
    assert torch.equal(fixed(x), want(x))
    assert head(torch.zeros(2, 3, 8)).shape == (2, 3, 6)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((6, 12, 3), {}, "sets of 3 labels need 7 features, 2 max_labels [+] 1; got 6"),
        ((7, 12, 0), {}, "must be 1 or more; got 7, 12 and 0"),
        ((7, 3, 1), {"order": [0, 1, 1]}, r"order must be a permutation of the ids 0 to 2.*got \[0, 1, 1\]"),
        ((7, 3, 1), {"order": torch.zeros(5, 4)}, r"order as targets must have shape \(rows, 3\); got \(5, 4\)"),
    ],
)
def test_errors(arguments: tuple[int, int, int], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        manyhot.ReachableHead(*arguments, **options)  # pyright: ignore
