"""RISE: the mean of random masks, each weighed by the probability that it leaves to the class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor, nn

from dmbp.evaluation.checks import scores
from dmbp.evaluation.curves import PROBABILITIES
from dmbp.evaluation.methods.gradients import OURS, TOGETHER
from dmbp.evaluation.methods.method import Method
from dmbp.evaluation.worded import option

REFERENCE = "the authors' code"


@dataclass(frozen=True)
class RISE(Method):
    """Σ_i p(m_i ⊙ x) m_i / (n p₁) over n random masks m_i, with p the probability of the class: (N, 1, *picture).

    Masks are the authors': a grid of `cells` × `cells` zeros and ones, one with probability `p1`, enlarged bilinearly
    (mirrored at its border) to a cell more than the picture, and cut out at a random shift. Each picture meets the same
    masks. The masked picture is m ⊙ x in the network's input space, where 0 is its mean colour.
    """

    label: ClassVar[str] = "rise"
    title: ClassVar[str] = "RISE"
    source: ClassVar[str] = "Petsiuk et al. (2018)"
    times_x: ClassVar[str] = "no gradient"
    colours: ClassVar[str] = "none"
    sign: ClassVar[str] = "no negative values"

    masks: int = option(4000, "how many", "Petsiuk et al., for VGG-16 (for a ResNet-50, and in TorchRay: 8000)")
    cells: int = option(8, "of the grid, along each axis", "the authors' code (TorchRay: 7)")
    p1: float = option(0.5, "the probability that a cell is kept", "Petsiuk et al. (the authors' script: 0.1)")
    probability: str = option("softmax", "softmax, or sigmoid for networks of several labels", REFERENCE)
    seed: int = option(0, "of the masks", OURS)
    batch_size: int = option(64, TOGETHER, OURS, decides=False)

    def __post_init__(self) -> None:
        self._check_numbers("masks", "batch_size")
        self._check_numbers("cells", least=2)
        self._check_numbers("seed", least=0)
        self._check_positive("p1")
        self._check_word("probability", PROBABILITIES)

    @torch.no_grad()
    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        total = torch.zeros_like(x[:, :1])
        for masks in self.draw(tuple(x.shape[2:]), x):
            for n, k in enumerate(target.tolist()):
                output = scores(network, masks[:, None] * x[n], [k])
                chances = PROBABILITIES[self.probability](output)[:, k]
                total[n, 0] += torch.tensordot(chances, masks, dims=1)
        return total / (self.masks * self.p1)

    def draw(self, picture: tuple[int, ...], like: Tensor) -> Iterator[Tensor]:
        """All masks, (B, *picture) at a time, in the dtype and on the device of `like`."""
        generator = torch.Generator().manual_seed(self.seed)
        draws = torch.rand(self.masks, *(self.cells,) * len(picture), generator=generator, dtype=torch.float64)
        grids = (draws < self.p1).to(like)
        sides = [ceil(size / self.cells) for size in picture]  # of a cell, in pixels
        shifts = [torch.randint(side, (self.masks,), generator=generator) for side in sides]
        enlarge = [enlarging(self.cells, (self.cells + 1) * side).to(like) for side in sides]
        for chosen in torch.arange(self.masks).split(self.batch_size):
            masks = grids[chosen.to(grids.device)]
            for size, shift, matrix in zip(picture, shifts, enlarge, strict=True):
                rows = matrix[(shift[chosen][:, None] + torch.arange(size)).to(matrix.device)]  # (B, pixels, cells)
                masks = torch.einsum("bpc,bc...->b...p", rows, masks)
            yield masks


def enlarging(cells: int, pixels: int) -> Tensor:
    """Bilinear interpolation of cells to pixels with matching outer borders, mirrored there: (pixels, cells)."""
    place = (torch.arange(pixels, dtype=torch.float64) + 0.5) * cells / pixels - 0.5
    place = (cells - 1) - ((cells - 1) - place.abs()).abs()
    low = place.floor().long().clamp_max(cells - 2)
    part = (place - low)[:, None]
    grid = torch.eye(cells, dtype=torch.float64)
    return (1 - part) * grid[low] + part * grid[low + 1]
