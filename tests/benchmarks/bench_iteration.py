"""`dmbp bench` on four networks: an iteration beside its floor and the literal algorithm, and its peak memory.

`make bench`, or `python tests/benchmarks/bench_iteration.py [MODEL …]`. On the smallest network all else is measured
too, and the picture of growth is left in the folder for temporary files. torchvision's networks have random weights.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))
import vision  # noqa: F401 - so that torchvision can be imported

from dmbp.bench import PARTS, Settings, bench
from dmbp.bench.growth import draw_growth
from dmbp.bench.subject import read_subject

ITERATION = ("iteration", "compiled", "literal", "memory", "linearize")
CASES = {
    "digit-pairs": tuple(PARTS),
    "efficientnet-lite0": (*ITERATION, "own-loss", "captum"),
    "torchvision:resnet50": ITERATION,
    "torchvision:vgg16": ITERATION,
}


def report(models: list[str]) -> None:
    for model in models:
        subject, note = read_subject(model, None, torch.device("cpu"), torch.float32)
        measured = bench(subject, Settings(parts=CASES.get(model, ITERATION)), note)
        if measured.growth:
            folder = Path(tempfile.mkdtemp())
            measured.figure = str(folder / "growth.png")
            draw_growth(measured.growth, measured.title).savefig(measured.figure, dpi=200)
        print(f"\n{measured.text()}", flush=True)
        if measured.interrupted:
            raise KeyboardInterrupt


def test_iteration() -> None:
    """The benchmark as `make bench` runs it: it measures and prints, and asserts nothing about speed."""
    torch.set_num_threads(os.cpu_count() or 1)
    report(list(CASES))


if __name__ == "__main__":
    report(sys.argv[1:] or list(CASES))
