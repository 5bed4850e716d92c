"""Generate scenes of wanted label sets: a diffusion model steered by the gradient of ZLPR, and one told the labels.

Scenes are one to four of scikit-learn's 8x8 digits in a row; their labels are the digits in them. A small denoiser
learns scenes in which some pairs of digits never occur together. Then it draws scenes for wanted sets, half of them
with such a pair:

- unguided: it is not told what is wanted, so this is chance;
- classifier guidance: a classifier of noisy scenes, trained by ZLPR, adds s sigma_t grad(-zlpr_loss(logits, wanted));
- classifier-free: the denoiser was told the labels as a many-hot vector, now and then not, and both answers are mixed.

What came out is read by an independent model: an mlp of `manyhot train`, fitted to clean scenes of other images. Its
share of sets read exactly on real scenes is the ceiling.

    python examples/guided_generation.py [--share 0.1] [--out scenes.png]     under 10 minutes on 2 cores, 1 at a tenth
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import manyhot

SLOTS, SIDE, DIGITS = 4, 8, 10
# Never together in training: 0 and 1, 2 and 3, and so on.
APART = [(d, d + 1) for d in range(0, DIGITS, 2)]
STEPS, BATCH, READER_ROWS, WANTED = 1200, 64, 4000, 500
STRENGTHS = (1.0, 4.0, 16.0)
FREE_STRENGTH = 2.0
SAMPLER_STEPS = 25
# Noise begins here and not at 1, where nothing of the scene is left to compute with.
NOISIEST = 0.96


def draw_sets(rows: int, random: np.random.Generator, allowed: Callable[[np.ndarray], bool]) -> np.ndarray:
    """Draw label sets of one to four digits, all sizes alike: (rows, 10) boolean."""
    sets: list[np.ndarray] = []
    while len(sets) < rows:
        one = np.zeros(DIGITS, dtype=bool)
        one[random.permutation(DIGITS)[: random.integers(1, SLOTS + 1)]] = True
        if allowed(one):
            sets.append(one)
    return np.array(sets)


def is_new(labels: np.ndarray) -> bool:
    """Say whether a set has a pair that training scenes never have."""
    return any(labels[a] and labels[b] for a, b in APART)


def paint(sets: np.ndarray, images: dict[int, np.ndarray], random: np.random.Generator) -> np.ndarray:
    """Put an image of each digit of a set into a slot of its own: (rows, 1, 8, 32) in [-1, 1]."""
    scenes = np.zeros((len(sets), 1, SIDE, SLOTS, SIDE), dtype=np.float32)
    for scene, labels in zip(scenes, sets, strict=True):
        digits = np.flatnonzero(labels)
        for digit, slot in zip(digits, random.permutation(SLOTS), strict=False):
            scene[0, :, slot] = images[digit][random.integers(len(images[digit]))]
    return scenes.reshape(len(sets), 1, SIDE, -1) / 8 - 1


# --- the networks -----------------------------------------------------------------------------------------------------


def waves(t: Tensor) -> Tensor:
    """Write times in [0, 1] as 16 numbers, (rows, 16)."""
    turns = t.unsqueeze(-1) * torch.arange(1, 9) * torch.pi / 2
    return torch.cat((turns.sin(), turns.cos()), -1)


class Block(nn.Module):
    """Two convolutions beside a shortcut; what is known of the whole scene is added in between."""

    def __init__(self, inputs: int, outputs: int, known: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.known, self.norm = nn.Linear(known, outputs), nn.GroupNorm(8, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """Return (rows, outputs, height, width)."""
        h = self.norm(self.first(F.silu(x)) + self.known(known)[..., None, None])
        return self.shortcut(x) + self.second(F.silu(h))


class Denoiser(nn.Module):
    """A small U-Net that finds the noise in a scene; `labels` is the many-hot condition, all 0 where it is not told."""

    def __init__(self, width: int = 24, known: int = 96) -> None:
        super().__init__()
        # The last of the inputs says whether labels are told at all: the empty set is not the unknown one.
        self.embed = nn.Sequential(nn.Linear(16 + DIGITS + 1, known), nn.SiLU(), nn.Linear(known, known), nn.SiLU())
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.fine, self.middle = Block(width, width, known), Block(width, 3 * width, known)
        self.coarse = Block(3 * width, 6 * width, known)
        # All slots at once: which digits are elsewhere decides what may stand here.
        self.across = nn.Conv2d(6 * width, 6 * width, (1, 7), padding=(0, 3), groups=6)
        self.deep = Block(6 * width, 6 * width, known)
        self.up_middle, self.up_fine = Block(9 * width, 3 * width, known), Block(4 * width, width, known)
        self.leave = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor, told: Tensor) -> Tensor:
        """Return the noise, shape of x."""
        told = told.float().unsqueeze(-1)
        known = self.embed(torch.cat((waves(t), labels * told, told), -1))
        fine = self.fine(self.enter(x), known)
        middle = self.middle(F.avg_pool2d(fine, 2), known)
        coarse = self.coarse(F.avg_pool2d(middle, 2), known)
        coarse = self.deep(coarse + self.across(F.silu(coarse)), known)
        middle = self.up_middle(torch.cat((F.interpolate(coarse, scale_factor=2), middle), 1), known)
        return self.leave(F.silu(self.up_fine(torch.cat((F.interpolate(middle, scale_factor=2), fine), 1), known)))


class NoisyClassifier(nn.Module):
    """Logits of the digits in a scene with noise: what is found in any place counts."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(16, 64), nn.SiLU())
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.fine, self.middle = Block(width, width, 64), Block(width, 2 * width, 64)
        self.slot = nn.Conv2d(2 * width, 4 * width, 4, stride=(4, 2), padding=(0, 1))
        self.leave = nn.Conv2d(4 * width, DIGITS, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return (rows, 10)."""
        known = self.embed(waves(t))
        h = self.middle(F.avg_pool2d(self.fine(self.enter(x), known), 2), known)
        return self.leave(F.silu(self.slot(F.silu(h)))).flatten(2).logsumexp(-1)


# --- diffusion: x_t = alpha x + sigma noise, alpha = cos, sigma = sin of a quarter turn -------------------------------


def schedule(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma at times in [0, 1]."""
    return (t * torch.pi / 2).cos(), (t * torch.pi / 2).sin()


def train(draw: Callable[[int], tuple[Tensor, Tensor]], steps: int) -> tuple[Denoiser, NoisyClassifier]:
    """Fit the denoiser, and a classifier for half as many steps, to scenes with noise."""
    torch.manual_seed(0)
    # Channels last: two thirds of the time of a convolution on the CPU.
    denoiser, classifier = (
        network.to(memory_format=torch.channels_last)  # pyright: ignore
        for network in (Denoiser(), NoisyClassifier())
    )

    def noisy() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scenes, labels = draw(BATCH)
        t, noise = NOISIEST * torch.rand(BATCH), torch.randn_like(scenes)
        alpha, sigma = (part.view(-1, 1, 1, 1) for part in schedule(t))
        return alpha * scenes + sigma * noise, t, labels, noise

    def noise_error() -> Tensor:
        x, t, labels, noise = noisy()
        return F.mse_loss(denoiser(x, t, labels, torch.rand(BATCH) < 0.8), noise)

    def label_error() -> Tensor:
        x, t, labels, _ = noisy()
        return manyhot.zlpr_loss(classifier(x, t), labels)

    for network, error, count in ((denoiser, noise_error, steps), (classifier, label_error, steps // 2)):
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(count, 1))
        for _ in range(count):
            optimizer.zero_grad()
            error().backward()
            optimizer.step()
            rates.step()
        network.eval().requires_grad_(False)
    return denoiser, classifier


# From a scene with noise, a time and the wanted labels to the noise in it.
Predicted = Callable[[Tensor, Tensor, Tensor], Tensor]


def unguided(denoiser: Denoiser) -> Predicted:
    """Predict the noise without a word about labels."""
    return lambda x, t, labels: denoiser(x, t, torch.zeros_like(labels), torch.zeros(len(x)))


def guided(denoiser: Denoiser, classifier: NoisyClassifier, strength: float) -> Predicted:
    """Add what raises the classifier's -ZLPR of the wanted labels."""
    plain = unguided(denoiser)

    def predicted(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            gain = -manyhot.zlpr_loss(classifier(leaf, t), labels, reduction="sum")
            (slope,) = torch.autograd.grad(gain, leaf)
        sigma = schedule(t)[1].view(-1, 1, 1, 1)
        return plain(x, t, labels) - strength * sigma * slope

    return predicted


def classifier_free(denoiser: Denoiser, strength: float) -> Predicted:
    """Go beyond what the labels change in the denoiser's answer."""
    plain = unguided(denoiser)

    def predicted(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        told, untold = denoiser(x, t, labels, torch.ones(len(x))), plain(x, t, labels)
        return untold + strength * (told - untold)

    return predicted


@torch.no_grad()
def sample(predicted: Predicted, labels: Tensor) -> Tensor:
    """Draw a scene for each row of labels, from the same noise whatever the method: DDIM."""
    x = torch.randn(len(labels), 1, SIDE, SLOTS * SIDE, generator=torch.Generator().manual_seed(1))
    times = torch.linspace(NOISIEST, 0, SAMPLER_STEPS + 1)
    for now, then in pairwise(times):
        (alpha, sigma), (next_alpha, next_sigma) = schedule(now), schedule(then)
        noise = predicted(x, now.expand(len(x)), labels)
        scene = ((x - sigma * noise) / alpha).clamp(-1, 1)
        x = next_alpha * scene + next_sigma * (x - alpha * scene) / sigma
    return x.clamp(-1, 1)


# --- the reader, and the table ----------------------------------------------------------------------------------------


def pixels(scenes: Any) -> np.ndarray:
    """Write scenes as rows of grey levels 0 to 16, as scikit-learn has them."""
    return (np.asarray(scenes, dtype=np.float32).reshape(len(scenes), -1) + 1) * 8


def fit_reader(scenes: np.ndarray, sets: np.ndarray) -> manyhot.Run:
    """Train an mlp of the command on clean scenes."""
    with tempfile.TemporaryDirectory() as folder:
        names = [f"p{i}" for i in range(SIDE * SLOTS * SIDE)] + ["labels"]
        lines = [",".join(names)]
        for row, labels in zip(pixels(scenes), sets, strict=True):
            lines.append(",".join([*(f"{v:g}" for v in row), "|".join(map(str, np.flatnonzero(labels)))]))
        table = Path(folder, "scenes.csv")
        table.write_text("\n".join([*lines, ""]))
        run = Path(folder, "run")
        command = [str(Path(sys.executable).with_name("manyhot")), "train", str(table), "--labels", "labels"]
        subprocess.run([*command, "--model", "mlp", "--out", str(run)], check=True, capture_output=True)
        return manyhot.load_run(run)


def exactly(reader: manyhot.Run, scenes: Any, sets: np.ndarray) -> np.ndarray:
    """Say which scenes are read as exactly their set, (rows,) boolean."""
    read = reader.predict(pixels(scenes))
    return np.array([set(found) == {str(d) for d in np.flatnonzero(s)} for found, s in zip(read, sets, strict=True)])


def draw_grid(path: Path, sets: np.ndarray, drawn: dict[str, np.ndarray]) -> None:
    """Write some scenes as PNG: a row a wanted set, a column a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.1 * len(drawn), 0.62 * len(sets) + 0.4), layout="constrained", dpi=80)
    axes = figure.subplots(len(sets), len(drawn), squeeze=False)
    for column, (name, scenes) in enumerate(drawn.items()):
        axes[0, column].set_title(name, fontsize=9)
        for row, labels in enumerate(sets):
            place = axes[row, column]
            place.imshow(scenes[row, 0], cmap="gray_r", vmin=-1, vmax=1)
            place.set_xticks([])
            place.set_yticks([])
            if column == 0:
                place.set_ylabel(" ".join(map(str, np.flatnonzero(labels))), rotation=0, ha="right", va="center")
    figure.savefig(path)


def main(share: float = 1.0, out: Path | None = None) -> dict[str, list[float]]:
    """Train, draw and read; return percent read exactly, of all sets and of those with a pair never seen."""
    random = np.random.default_rng(0)
    data: Any = load_digits()
    part = random.permutation(len(data.images)) % 5  # two fifths to generate from, two to read, one to judge the reader
    images = {
        name: {d: data.images[np.isin(part, parts) & (data.target == d)] for d in range(DIGITS)}
        for name, parts in {"generator": (0, 1), "reader": (2, 3), "judge": (4,)}.items()
    }

    def draw(rows: int) -> tuple[Tensor, Tensor]:
        sets = draw_sets(rows, random, lambda labels: not is_new(labels))
        return torch.from_numpy(paint(sets, images["generator"], random)), torch.from_numpy(sets).float()

    seen = draw_sets(round(WANTED * share / 2), random, lambda labels: not is_new(labels))
    new = draw_sets(round(WANTED * share / 2), random, is_new)
    wanted = np.concatenate((seen, new))
    sets = draw_sets(round(READER_ROWS * max(share, 0.2)), random, lambda _: True)
    reader = fit_reader(paint(sets, images["reader"], random), sets)
    denoiser, classifier = train(draw, round(STEPS * share))
    methods = {"unguided": unguided(denoiser)}
    methods |= {f"guided, s = {s:g}": guided(denoiser, classifier, s) for s in STRENGTHS}
    methods["classifier-free"] = classifier_free(denoiser, FREE_STRENGTH)
    labels = torch.from_numpy(wanted).float()
    drawn = {"real": paint(wanted, images["judge"], random)}
    drawn |= {name: sample(method, labels).numpy() for name, method in methods.items()}
    print(f"{len(wanted)} scenes a method, read by an mlp as exactly the wanted set, in percent")
    print(f"{'':18}  all sets   a pair never seen together")
    table = {}
    for name, scenes in drawn.items():
        right = exactly(reader, scenes, wanted)
        table[name] = [100 * float(right.mean()), 100 * float(right[len(seen) :].mean())]
        print(f"{name:18}  {table[name][0]:8.1f}   {table[name][1]:8.1f}")
    if out:
        rows = np.r_[0:4, len(seen) : len(seen) + 4]
        draw_grid(out, wanted[rows], {name: scenes[rows] for name, scenes in drawn.items()})
        out.with_suffix(".json").write_text(json.dumps({"scenes": len(wanted), "exactly": table}, indent=1) + "\n")
        print(f"wrote {out} and {out.with_suffix('.json')}")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=1.0, help="of the training steps and scenes")
    parser.add_argument("--out", type=Path, help="where to write some scenes as PNG, and the table beside it as JSON")
    given = parser.parse_args()
    main(given.share, given.out)
