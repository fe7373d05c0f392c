"""How long a line and a plane take, against plain forward passes on as many points: `python tests/benchmarks/bench_regions.py`.

Each row is one run on this machine: the pieces of a line or a stretch of it, the seconds of the walk, the seconds of
the model itself on as many points in batches of the size that it is fastest with, and their ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

import torch
from torch import Tensor, nn

import dmbp.images
import dmbp.networks

BATCHES = (16, 64, 256)


def seconds(run: Callable[[], object]) -> float:
    begun = perf_counter()
    run()
    return perf_counter() - begun


@torch.no_grad()
def forwards(model: nn.Module, points: Callable[[Tensor], Tensor], t: Tensor) -> float:
    """Seconds that the model takes for all of these points, from a part of them, at its best batch size."""
    rates = []
    for batch in BATCHES:
        part = points(t[: min(len(t), 2 * batch)])
        batches = part.split(batch)
        model(batches[0])
        rates.append(seconds(lambda batches=batches: [model(x) for x in batches]) / len(part))
    return min(rates) * len(t)


def digit_pairs() -> Iterator[tuple[str, nn.Module, Tensor, Tensor, float]]:
    """The whole line between two pictures, on both shipped networks, in float64 and float32."""
    for name in dmbp.networks.PRETRAINED if hasattr(dmbp.networks, "PRETRAINED") else ("digit-pairs", "digit-pairs-vgg"):
        pretrained = dmbp.networks.pretrained(name)
        x = pictures(2)
        for dtype in (torch.float64, torch.float32):
            yield f"{name}, {dtype}", pretrained.to(dtype).eval(), x[:1].to(dtype), x[1:].to(dtype), 1.0
