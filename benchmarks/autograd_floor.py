"""How much of a small batch's time is autograd's own: a Function that computes nothing, beside ZLPR and torch's BCE.

    .venv/bin/python benchmarks/autograd_floor.py      (a few seconds)

Forward and backward of one batch of 28 labels, microseconds: the fastest of many repeats, since what else runs on the
machine only ever adds. Below the first line nothing written in Python for torch can get.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import manyhot

REPEATS, CALLS = 60, 200


class Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(logits, targets)
        return torch.empty(())

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        logits, _ = ctx.saved_tensors
        return torch.empty_like(logits), None


def microseconds(loss: Callable[[Tensor], Tensor], logits: Tensor) -> float:
    fastest = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(CALLS):
            torch.autograd.grad(loss(logits), logits)
        fastest = min(fastest, time.perf_counter() - start)
    return fastest / CALLS * 1e6


def main() -> None:
    for rows in (64, 1024):
        logits = torch.randn(rows, 28, requires_grad=True)
        targets = torch.rand(rows, 28) < 0.1
        numbers = targets.float()
        losses: dict[str, Callable[[Tensor], Tensor]] = {
            "a Function of nothing": lambda s, t=targets: Nothing.apply(s, t),  # pyright: ignore
            "zlpr_loss": lambda s, t=targets: manyhot.zlpr_loss(s, t),
            "binary_cross_entropy_with_logits": lambda s, t=numbers: F.binary_cross_entropy_with_logits(s, t),
        }
        print(f"{rows} x 28, {torch.get_num_threads()} threads")
        for name, loss in losses.items():
            print(f"  {name:34}{microseconds(loss, logits):8.1f}")


if __name__ == "__main__":
    main()
