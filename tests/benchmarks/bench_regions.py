"""What a line and a plane cost, against plain forward passes on as many points.

`python tests/benchmarks/bench_regions.py` takes digit pairs, whole. `--model SPEC`, as for `dmbp explain`, goes from a
black picture to a `--photo`, and `--pieces` says how many pieces, about, a stretch of the line has. Each row is one run
on this machine: pieces, seconds of the walk, seconds of the model itself on as many points, by its fastest batch size,
and their ratio. Times are those of this process, so that others on the machine disturb them less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import linreg
from dmbp.datasets import sample_pairs
from dmbp.images import read_image
from dmbp.models import load_model
from linreg.regions import Segment, estimate, plane, segment

BATCHES = (16, 64, 256)
ROW = "{:28} {:8,} pieces  {:9.2f} s   plain forwards {:9.2f} s   ratio {:.2f}"


def seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


@torch.no_grad()
def plain(model: nn.Module, line: Segment) -> float:
    """Seconds of the model for as many points as breakpoints, from a few of them."""
    rates = []
    for batch in BATCHES:
        points = line.points(line.t[: 2 * batch])
        model(points[:batch])
        took = seconds(lambda points=points, batch=batch: [model(part) for part in points.split(batch)])
        rates.append(took / len(points))
    return min(rates) * len(line.t)


def line(name: str, model: nn.Module, a: Tensor, b: Tensor, pieces: float) -> None:
    """One row; of a long line only the first stretch."""
    graph, stop = linreg.trace(model, torch.cat([a, b])), 1.0
    if pieces:
        expected = estimate(graph, a, b)
        print(f"{name:28} whole line: {expected}", flush=True)
        stop = min(1.0, pieces / expected.pieces)
    found: list[Segment] = []
    took = seconds(lambda: found.append(segment(graph, a, b, stretch=(0.0, stop), limit=10**7, progress=False)))
    forwards = plain(model, found[0])
    print(ROW.format(name, len(found[0]), took, forwards, took / forwards), flush=True)


def small_plane() -> None:
    """A classifier of the plane, 2-64-64-2."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    graph = linreg.trace(network.double(), torch.zeros(1, 2, dtype=torch.float64))
    corners = [torch.tensor([corner], dtype=torch.float64) for corner in ([0, 0], [1, 0], [0, 1])]
    count: list[int] = []
    took = seconds(lambda: count.append(len(plane(graph, *corners, bounds=((-2, 2), (-2, 2))))))
    print(f"{'plane of 2-64-64-2':28} {count[0]:8,} polygons {took:8.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", help="a photo network; without one, both digit-pair networks and a plane")
    parser.add_argument("--photo", default="skimage:chelsea", help="a file, or skimage:NAME")
    parser.add_argument("--pieces", type=float, default=0, help="about so many pieces, instead of the whole line")
    parser.add_argument("--double", action="store_true", help="in float64")
    wanted = parser.parse_args()
    dtype = torch.float64 if wanted.double else torch.float32
    if wanted.model:
        model = load_model(wanted.model)
        photo = read_image(wanted.photo)
        black, x = (model.preprocess.tensor(picture).to(dtype) for picture in (0 * photo, photo))
        line(wanted.model, model.network.to(dtype), black, x, wanted.pieces)
        return
    images = sample_pairs().images.to(dtype)
    for name in ("digit-pairs", "digit-pairs-vgg"):
        line(name, load_model(name).network.to(dtype), images[:1], images[1:2], wanted.pieces)
    small_plane()


if __name__ == "__main__":
    main()
