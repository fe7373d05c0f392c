"""The zoo as a table: every network traced, timed and certified, in float64 and on random weights.

`make zoo`, or `python tests/benchmarks/bench_zoo.py [--all] [--size HEIGHT] [NAME …]`: some of each family by default.
Prints Markdown; progress goes to stderr. The two costs are medians of five rounds taken in turn, each in units of what
plain PyTorch needs for the same, on the same input: `linearize` against a forward of the model (eval, no gradients,
batch norms unfused), `weight` against the backward of one score to the input, its forward not counted; "–" where these
take less than 5 ms. The errors are those of `certify.Evidence`: of the output, of c, the largest of any constant's
share, and that of completeness.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))
from certify import Evidence, certify, run
from zoo import BATCH, ZOO, representatives

ROUNDS = 5
SHORT = 5e-3  # seconds: a network that runs in less shows the interpreter's time, not its own
COLUMNS = (
    "network", "input", "nodes", "gates", "trace, s", "linearize / forward", "weight / backward", "error of y",
    "error of c", "error of each bias", "error of completeness",
)  # fmt: skip


def seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def costs(evidence: Evidence) -> tuple[str, str]:
    """The cost of `linearize` in plain forwards, and of `weight` in plain backwards; "–" where they are too short."""
    model, entry, lin, target = evidence.model.requires_grad_(False), evidence.entry, evidence.lin, evidence.target
    rounds: list[tuple[float, ...]] = []
    for _ in range(ROUNDS + 1):
        with torch.no_grad():
            forward = seconds(lambda: model(evidence.x))
        linearize = seconds(lambda: lin.graph.linearize(evidence.x))
        x = evidence.x.clone().requires_grad_()
        y = (run(model, entry, x) * target).sum()
        backward = seconds(lambda y=y, x=x: torch.autograd.grad(y, x))
        rounds.append((forward, linearize, backward, seconds(lambda: lin.weight(target))))
    forward, linearize, backward, weight = (statistics.median(times) for times in zip(*rounds[1:], strict=True))
    pairs = ((linearize, forward), (weight, backward))
    return tuple(f"{ours / plain:.2f}" if plain >= SHORT else "–" for ours, plain in pairs)


def row(name: str) -> tuple[str, ...]:
    """One network's cells; where it fails, why."""
    size = "×".join(map(str, ZOO[name].shape))
    try:
        evidence = certify(name)
    except Exception as error:  # a row of its own, and on with the next
        return (name, size, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".replace("|", "\\|"))
    wrong = [*evidence.missing, *evidence.foreign, *evidence.changed]
    errors = (evidence.output, evidence.weight, max(evidence.constants.values(), default=0.0), evidence.completeness)
    return (
        name + f" (wrong: {', '.join(wrong)})" * bool(wrong), size, str(len(evidence.lin.graph.nodes)),
        str(evidence.gates), f"{evidence.seconds:.1f}", *costs(evidence),
        *(f"{error:.0e}" if error else "0" for error in errors),
    )  # fmt: skip


def machine() -> str:
    """The hardware, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description="The zoo as a Markdown table.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks of tests/zoo (default: some of each family)")
    parser.add_argument("--all", action="store_true", help="every network")
    parser.add_argument("--size", type=int, help="height and width of the pictures that torchvision's networks take")
    options = parser.parse_args()
    unknown = set(options.names) - ZOO.keys()
    if unknown:
        parser.error(f"no such network: {', '.join(sorted(unknown))}; there are {', '.join(ZOO)}")
    if options.size:
        for name, entry in ZOO.items():
            if entry.large:
                ZOO[name] = replace(entry, shape=(*entry.shape[:-2], options.size, options.size))
    names = options.names or (list(ZOO) if options.all else representatives())
    print(f"{machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}; float64, batches of {BATCH}\n")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for k, name in enumerate(names, 1):
        print(f"{k}/{len(names)} {name}", file=sys.stderr, flush=True)
        print("| " + " | ".join(row(name)) + " |", flush=True)


if __name__ == "__main__":
    main()
