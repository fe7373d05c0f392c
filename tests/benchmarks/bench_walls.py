"""What the walls of a region cost, in seconds of this process, beside a forward and a backward pass.

`python tests/benchmarks/bench_walls.py` takes 784-256-256-10 with its largest ball, and digit pairs; `--model SPEC`
with `--photo`, as for `dmbp explain`, another network. All in float64.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

import linreg
from dmbp.datasets import sample_pairs
from dmbp.images import read_image
from dmbp.models import load_model
from linreg import regions

Found = TypeVar("Found")


def timed(run: Callable[[], Found]) -> tuple[Found, float]:
    began = time.process_time()
    found = run()
    return found, time.process_time() - began


def walls(name: str, model: nn.Module, x: Tensor) -> linreg.Linearization:
    """The ten nearest walls, in seconds and in forward passes."""
    lin = linreg.trace(model.double(), x.double()).linearize(x.double())
    _, forward = timed(lambda: lin.graph(lin.input))
    found, took = timed(lambda: regions.walls(lin))
    print(
        f"{name:24} forward {forward:.3f} s, walls {took:.2f} s, {took / forward:.0f} forwards; {found.told}",
        flush=True,
    )
    return lin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--photo", default="skimage:chelsea")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.model:
        model = load_model(options.model)
        walls(options.model, model.network, model.preprocess.tensor(read_image(options.photo)))
        return
    layers = nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    lin = walls("784-256-256-10", nn.Sequential(*layers), torch.rand(1, 784))
    ball, took = timed(lambda: regions.polytope(lin, bounds=(0, 1)).ball)
    print(f"{'its Chebyshev centre':24} {took:.2f} s, inradius {ball.radius:.4g} with pixels in [0, 1]", flush=True)
    walls("digit-pairs", load_model("digit-pairs").network, sample_pairs().images[:1])


if __name__ == "__main__":
    main()
