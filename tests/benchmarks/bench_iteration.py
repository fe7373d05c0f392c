"""What one iteration costs: time against two plain forwards and one input-backward, memory against one of each.

`make bench`, or `python tests/benchmarks/bench_iteration.py [MODEL[:BATCH] …]`. Ratios are of medians, taken in turn
within one process; memory is the peak of the resident set above that of the loaded model (Linux), each in a process
of its own.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import dmbp
from dmbp.datasets import sample_pairs
from dmbp.models import load_model
from linreg import trace

CASES = (
    "digit-pairs", "digit-pairs:4", "efficientnet-lite0", "efficientnet-lite0:4", "torchvision-resnet50",
    "torchvision-vgg16",
)  # fmt: skip
ROUNDS, ITERATIONS = 7, 4
THREADS = torch.get_num_threads() if "pytest" not in sys.modules else max(1, (os.cpu_count() or 1))


def problem(case: str) -> tuple[nn.Module, Tensor]:
    """A network in eval mode and a batch for it: "NAME" or "NAME:BATCH"; torchvision's have random weights."""
    name, _, batch = case.partition(":")
    count = int(batch or 1)
    if name.startswith("torchvision-"):
        sys.path.append(str(Path(__file__).parents[1]))
        from vision import torchvision

        torch.manual_seed(0)
        network = torchvision.models.get_model(name.removeprefix("torchvision-"), weights=None)
        return network.eval(), torch.randn(count, 3, 224, 224)
    model = load_model(name)
    if name.startswith("digit-pairs"):
        return model.network, sample_pairs().images[:count]
    photo = np.random.default_rng(0).random((224, 224, 3)).astype(np.float32)
    return model.network, model.preprocess.tensor(photo).expand(count, -1, -1, -1).contiguous()


def plain(network: nn.Module, x: Tensor, forwards: int) -> None:
    """`forwards` plain forwards, and an input-backward of one of them that is not counted twice."""
    with torch.no_grad():
        for _ in range(forwards - 1):
            network(x)
    x = x.clone().requires_grad_()
    torch.autograd.grad(network(x).max(1).values.sum(), x)


def time_ratio(case: str) -> tuple[float, float]:
    """Median seconds of two forwards and one input-backward, and of one iteration."""
    network, x = problem(case)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    lin = trace(network, x).linearize(x)
    target = lin.output.argmax(1)
    floors, ours = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        plain(network, x, 2)
        floors.append(time.perf_counter() - began)
        ticks: list[float] = []
        tick: Callable[..., None] = lambda *_, ticks=ticks: ticks.append(time.perf_counter())  # noqa: E731
        dmbp.learn_masks(lin, target, iterations=ITERATIONS + 2, progress=False, callback=tick)
        ours.append((ticks[-1] - ticks[1]) / ITERATIONS)
    return statistics.median(floors), statistics.median(ours)


def resident(kind: str) -> float:
    """MB of the process's resident set: now ("VmRSS") or at its peak since `forget_peak` ("VmHWM")."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[kind].split()[0]) / 1024


def peak(case: str, ours: bool) -> None:
    """Print the peak of memory, in MB, that plain passes or an explanation add to the loaded (and traced) model."""
    network, x = problem(case)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    graph = trace(network, x)
    target = graph(x).argmax(1)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what tracing freed goes back to the system, and is not counted as ours
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
    before = resident("VmRSS")
    if ours:
        dmbp.explain(graph, x, target, iterations=3, progress=False)
    else:
        plain(network, x, 1)
    print(resident("VmHWM") - before)


def memory(case: str) -> tuple[float, float]:
    """Peak MB of the plain passes and of an explanation."""
    command = [sys.executable, __file__, "--peak", case]
    plain_peak, our_peak = (
        float(subprocess.run([*command, side], check=True, capture_output=True, text=True).stdout.split()[-1])
        for side in ("plain", "ours")
    )
    return plain_peak, our_peak


def report(cases: tuple[str, ...] = CASES) -> str:
    """The table: seconds and megabytes of the plain passes and of ours, and their ratios."""
    lines = [f"{torch.get_num_threads()} threads, torch {torch.__version__}", ""]
    lines += [f"{'network:batch':26}{'floor s':>9}{'ours s':>9}{'ratio':>7}{'plain MB':>10}{'ours MB':>9}{'ratio':>7}"]
    for case in cases:
        floor, ours = time_ratio(case)
        small, large = memory(case)
        lines.append(
            f"{case:26}{floor:9.4f}{ours:9.4f}{ours / floor:7.2f}"
            f"{small:10.1f}{large:9.1f}{large / max(small, 0.1):7.2f}"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)


def test_iteration() -> None:
    """The benchmark as `make bench` runs it: it measures and prints, and asserts nothing about speed."""
    torch.set_num_threads(THREADS)
    print("\n" + report())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        peak(sys.argv[2], sys.argv[3] == "ours")
    else:
        print(report(tuple(sys.argv[1:]) or CASES))
