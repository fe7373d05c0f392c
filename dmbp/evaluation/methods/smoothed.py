"""Any method's map, blurred: insertion rewards smoothness, so a sharp map is compared with its blurred self too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dmbp.evaluation.methods.method import Method

SIGN = "~"  # between a method's name and σ: "nd~4"


@dataclass(frozen=True)
class Smoothed(Method):
    """The map of `method` convolved with a Gaussian of `sigma` pixels, each colour by itself; scipy's, reflecting.

    Its name is the method's with σ behind it, "nd~4", which `parse` reads.
    """

    label: ClassVar[str] = "smoothed"
    title: ClassVar[str] = "A map of another method, blurred"
    source: ClassVar[str] = "dmbp"
    times_x: ClassVar[str] = "as the method's"
    colours: ClassVar[str] = "as the method's"
    sign: ClassVar[str] = "as the method's"

    method: Method
    sigma: float

    def __post_init__(self) -> None:
        self._check_positive("sigma")

    @property
    def name(self) -> str:
        return f"{self.method.name}{SIGN}{self.sigma:g}"

    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        from scipy.ndimage import gaussian_filter  # slow to import, and few need it

        sharp = self.method(network, x, target)
        sigmas = (0, 0, *(self.sigma,) * (x.dim() - 2))
        return torch.from_numpy(gaussian_filter(sharp.double().numpy(force=True), sigmas)).to(sharp)
