"""Maps made smooth: how much of a metric is smoothness alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from dmbp.errors import DmbpError
from dmbp.evaluation.measures import Judged

BY = " blurred by "


@dataclass(frozen=True)
class Blurred:
    """The maps of `base`, summed over colours and blurred by a Gaussian of `sigma` pixels: (N, 1, H, W).

    Insertion rewards smooth maps, of whatever method. What is better than its rivals only as long as they are sharp is
    not better. The border is mirrored; the Gaussian is cut at 4 σ. Raises `DmbpError` for a σ that is not positive.
    """

    base: Judged
    sigma: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma < float("inf"):
            raise DmbpError(f"maps are blurred by a positive number of pixels, not {self.sigma}")

    @property
    def name(self) -> str:
        """That of `base`, and by how much."""
        return f"{self.base.name}{BY}{self.sigma:g}"

    def __call__(self, network: nn.Module, x: Tensor, target: Any) -> Tensor:
        return self.blur(self.base(network, x, target))

    def blur(self, maps: Tensor) -> Tensor:
        """Maps (N, C, H, W) of `base`, blurred."""
        summed = maps.detach().sum(1, keepdim=True).double().numpy(force=True)
        return torch.from_numpy(gaussian_filter(summed, (0, 0, self.sigma, self.sigma))).to(maps)
