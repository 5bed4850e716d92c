"""Attention trained at 64 keys and tested at up to 1,024: usual scale and entropy-invariant scale.

    make bench-length    (about 3 minutes on 2 idle cores; --quick: a tenth of the steps, writes nothing)

Retrieval: each sequence has n random keys with a class each; the query is a noisy copy of one key, and its class is
wanted. One head of attention with learned maps of queries, keys and values, and a linear layer. At the trained length
both scales are one constant, so that both models can learn the same; they differ at other lengths alone.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import manyhot
from cpu import ROOT, machine

TRAINED, TESTED = 64, (64, 128, 256, 512, 1024)
SIZE, CLASSES, NOISE = 16, 8, 0.5
STEPS, BATCH, SEEDS, TEST_ROWS = 1500, 64, 3, 1000

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def drawn(rows: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    keys = torch.randn(rows, n, SIZE, generator=generator)
    classes = torch.randint(CLASSES, (rows, n), generator=generator)
    wanted = torch.randint(n, (rows,), generator=generator)
    row = torch.arange(rows)
    query = keys[row, wanted] + NOISE * torch.randn(rows, SIZE, generator=generator)
    return query, keys, classes, classes[row, wanted]


class Retrieval(nn.Module):
    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        self.query, self.key = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)
        self.value, self.leave = nn.Embedding(CLASSES, SIZE), nn.Linear(SIZE, CLASSES)

    def forward(self, query: Tensor, keys: Tensor, classes: Tensor) -> Tensor:
        found = self.attention(self.query(query).unsqueeze(1), self.key(keys), self.value(classes))
        return self.leave(found.squeeze(1))


def trained(attention: Attention, seed: int, steps: int) -> Retrieval:
    torch.manual_seed(seed)
    model, generator = Retrieval(attention), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        *given, wanted = drawn(BATCH, TRAINED, generator)
        optimizer.zero_grad()
        F.cross_entropy(model(*given), wanted).backward()
        optimizer.step()
        rates.step()
    return model


@torch.no_grad()
def tested(model: Retrieval, n: int) -> float:
    generator, right = torch.Generator().manual_seed(1000 + n), []
    for _ in range(TEST_ROWS // 100):
        *given, wanted = drawn(100, n, generator)
        right.append((model(*given).argmax(-1) == wanted).float().mean().item())
    return float(np.mean(right))


def nearest(n: int) -> float:
    """Return how often the key that is nearest to the query has the class: what no attention is far above."""
    query, keys, classes, wanted = drawn(TEST_ROWS, n, torch.Generator().manual_seed(2000 + n))
    best = (query.unsqueeze(1) - keys).square().sum(-1).argmin(1)
    return (classes[torch.arange(TEST_ROWS), best] == wanted).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps; writes nothing")
    steps = STEPS // 10 if parser.parse_args().quick else STEPS
    # A learned map takes up any kappa; this one starts both models from the same function at the trained length.
    kappa = SIZE**0.5 / np.log(TRAINED)
    kinds: dict[str, Attention] = {
        "usual, 1/sqrt(d)": F.scaled_dot_product_attention,
        "entropy-invariant": partial(manyhot.entropy_invariant_attention, kappa=kappa),
    }
    result: dict[str, Any] = {"nearest key": [[nearest(n) for n in TESTED]]}
    for name, attention in kinds.items():
        models = [trained(attention, seed, steps) for seed in range(SEEDS)]
        result[name] = [[tested(model, n) for n in TESTED] for model in models]
    lines = ["# Attention at other lengths", "", *(f"- {name}: {value}" for name, value in machine().items()), ""]
    lines += [f"Retrieval, trained at {TRAINED} keys: accuracy in percent at other numbers of keys, mean of {SEEDS} "]
    lines[-1] += f"seeds, in brackets the lowest and highest. {CLASSES} classes: chance is {100 / CLASSES:.1f}."
    lines += ["", "| | " + " | ".join(f"{n} keys" for n in TESTED) + " |", "|---" * (len(TESTED) + 1) + "|"]
    for name, runs in result.items():
        table = 100 * np.array(runs)
        cells = [f"{x.mean():.1f}" + (f" ({x.min():.1f}-{x.max():.1f})" if len(x) > 1 else "") for x in table.T]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    report = "\n".join([*lines, ""])
    print(report)
    if steps == STEPS:
        folder = ROOT / "benchmarks" / "results"
        (folder / "length.json").write_text(json.dumps({"lengths": TESTED, **result}, indent=1) + "\n")
        (folder / "length.md").write_text(report)


if __name__ == "__main__":
    main()
