"""The pictures that a curve scores: from one picture to another, pixels in the order of a map.

Index letters: N pictures, P positions of a picture (H·W).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dmbp.errors import DmbpError
from dmbp.evaluation.blur import blurred
from dmbp.evaluation.checks import check_pictures, pixel_values

Baseline = Tensor | Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Way:
    """From `start` to `finish`, both (N, C, *picture): the pixels of the highest `values` (N, P) come first.

    Pixels of equal value come row by row.
    """

    start: Tensor
    finish: Tensor
    values: Tensor

    @cached_property
    def sorted(self) -> tuple[Tensor, Tensor]:
        """Values from high to low, and where they are, both (N, P)."""
        values, order = self.values.sort(dim=1, descending=True, stable=True)
        return values, order

    @cached_property
    def rank(self) -> Tensor:
        """The place of each pixel in the order, (N, *picture), counted from 0."""
        order = self.sorted[1]
        places = torch.arange(order.shape[1], dtype=torch.int32, device=order.device)
        rank = torch.empty_like(order, dtype=torch.int32).scatter_(1, order, places.expand_as(order))
        return rank.view(len(rank), *self.start.shape[2:])

    def pictures(self, n: int, counts: Tensor) -> Tensor:
        """Picture n after so many pixels, (B, C, *picture) for B counts on the device of the pictures."""
        came = self.rank[n][None, None] < counts.view(-1, *[1] * (self.start.dim() - 1))
        return self.finish[n].where(came, self.start[n])

    def tied(self, counts: Tensor) -> Tensor:
        """Whether a picture hangs on the order of equal values, (N, B): the last pixel in is equal to the next one."""
        values = self.sorted[0]
        inner = (counts > 0) & (counts < values.shape[1])
        last = counts.clamp(1, values.shape[1] - 1)
        return (values[:, last - 1] == values[:, last]) & inner


def insertion_way(x: Tensor, maps: Tensor, baseline: Baseline = blurred) -> Way:
    """From the baseline to x, highest values first."""
    check_pictures(x)
    return Way(made(baseline, x), x, pixel_values(maps, x))


def complementary_way(x: Tensor, maps: Tensor, baseline: Baseline = blurred) -> Way:
    """From the baseline to x, lowest values first."""
    check_pictures(x)
    return Way(made(baseline, x), x, -pixel_values(maps, x))


def deletion_way(x: Tensor, maps: Tensor, baseline: Baseline = torch.zeros_like) -> Way:
    """From x to the baseline, highest values first."""
    check_pictures(x)
    return Way(x, made(baseline, x), pixel_values(maps, x))


def made(baseline: Baseline, x: Tensor) -> Tensor:
    """The baseline, shaped like x; raises DmbpError where it is not."""
    pictures = baseline if isinstance(baseline, Tensor) else baseline(x)
    if pictures.shape != x.shape:
        raise DmbpError(f"the baseline must be shaped like the pictures, {tuple(x.shape)}, not {tuple(pictures.shape)}")
    return pictures.to(x)
