"""How the loss and the map move with iterations, learning rate and small changes of the masks.

`make bench`, or `python tests/benchmarks/bench_study.py [--full]`: the eight digit pairs that ship here, each with its
left digit as target, and with --full EfficientNet-Lite0 on two photos. The loss is that of Eq. 10, its mean over the
pictures; maps are summed over colours and compared, by Spearman's rank correlation over pixels, with the paper's: 200
iterations at a learning rate of 0.01. The least correlation of any picture stands beside the mean.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import dmbp
from dmbp.datasets import sample_pairs
from dmbp.images import read_image
from dmbp.learning.objective import loss_all
from dmbp.models import load_model
from dmbp.plot import pixel_map
from linreg import OperatorGraph, trace
from linreg.text import table

ITERATIONS, RATES = (25, 50, 100, 200, 400), (0.005, 0.01, 0.02, 0.05)
PAPER = (0.01, 200)
NOISE = 1e-3  # standard deviation of what is added to each mask, held in [0, 1]
PHOTOS = {"skimage:chelsea": 285, "skimage:coffee": 967}


def correlations(maps: Tensor, others: Tensor) -> np.ndarray:
    """Spearman's rank correlation of each picture's two maps, (N,)."""
    pairs = zip(pixel_map(maps).flatten(1).numpy(), pixel_map(others).flatten(1).numpy(), strict=True)
    return np.array([spearmanr(*pair).statistic for pair in pairs])


def perturbed(result: dmbp.Result) -> Tensor:
    """The map of the same masks with noise added."""
    generator = torch.Generator().manual_seed(0)
    masks = {
        site: (mask + NOISE * torch.randn(mask.shape, generator=generator)).clamp(0, 1)
        for site, mask in result.masks.items()
    }
    split = dmbp.decompose(result.split.lin, masks, result.split.target)
    return split.attribution("positive") + split.attribution("negative")


def study(graph: OperatorGraph, x: Tensor, target: Tensor) -> str:
    """The table of one network."""
    losses, maps = {}, {}
    for rate in RATES:
        result = dmbp.explain(graph, x, target, iterations=max(ITERATIONS), lr=rate, snapshots=ITERATIONS)
        history = loss_all(result.split.y, result.history["positive"], result.history["negative"]).mean(1)
        for count in ITERATIONS:
            losses[rate, count], maps[rate, count] = history[count].item(), result.snapshots[count]
    paper = dmbp.explain(graph, x, target, iterations=PAPER[1], lr=PAPER[0])
    rows = [
        _row(f"{rate:g}", f"{count}", losses[rate, count], maps[rate, count], maps[PAPER]) for rate, count in losses
    ]
    note = f"{NOISE:g} of noise in the masks"
    rows.append(_row(f"{PAPER[0]:g}", f"{PAPER[1]}, {note}", float("nan"), perturbed(paper), maps[PAPER]))
    return table(rows, ("lr", "iterations", "loss", "Spearman", "least"), right=(2, 3, 4))


def _row(rate: str, count: str, loss: float, maps: Tensor, reference: Tensor) -> tuple[str, ...]:
    found = correlations(maps, reference)
    return rate, count, "" if np.isnan(loss) else f"{loss:,.2f}", f"{found.mean():.4f}", f"{found.min():.4f}"


def digit_pairs() -> tuple[nn.Module, Tensor, Tensor]:
    pairs = sample_pairs()
    return load_model("digit-pairs").network, pairs.images, pairs.labels[:, 0]


def photos() -> tuple[nn.Module, Tensor, Tensor]:
    model = load_model("efficientnet-lite0")
    x = torch.cat([model.preprocess.tensor(read_image(photo)) for photo in PHOTOS])
    return model.network, x, torch.tensor(list(PHOTOS.values()))


def report(full: bool) -> None:
    cases = {"digit-pairs, eight pictures": digit_pairs}
    if full:
        cases["efficientnet-lite0, two photos"] = photos
    for name, case in cases.items():
        network, x, target = case()
        print(f"\n{name}\n\n{study(trace(network, x), x, target)}", flush=True)


def test_study() -> None:
    """The study as `make bench` runs it: it prints, and asserts nothing."""
    torch.set_num_threads(os.cpu_count() or 1)
    report(full=False)


if __name__ == "__main__":
    report("--full" in sys.argv[1:])
