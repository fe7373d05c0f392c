"""What chance gives: a map that knows nothing of network, picture or class, beside which all others are to be read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dmbp.evaluation.checks import scores
from dmbp.evaluation.methods.gradients import OURS
from dmbp.evaluation.methods.method import Method
from dmbp.evaluation.worded import option


@dataclass(frozen=True)
class RandomMap(Method):
    """Independent draws from the uniform distribution on −1 to 1, one for each position: (N, 1, *picture).

    A map without information, the "random" of RISE's own comparison: an evaluation says by it what chance gives. The
    draws are another for each picture and class, found from `seed` and the picture's own numbers, so that the same
    picture has the same map each time, alone and in a batch, on every device.
    """

    label: ClassVar[str] = "random"
    title: ClassVar[str] = "Random map"
    source: ClassVar[str] = "none; beside RISE in Petsiuk et al. (2018)"
    times_x: ClassVar[str] = "no gradient"
    colours: ClassVar[str] = "none"
    sign: ClassVar[str] = "signed, at random"

    seed: int = option(0, "of the draws", OURS)

    def __post_init__(self) -> None:
        self._check_numbers("seed", least=0)

    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            scores(network, x[:1], [int(target.max())])  # which tells a class that there is not
        maps = [self.draw(picture, k) for picture, k in zip(x, target.tolist(), strict=True)]
        return torch.stack(maps).to(x)

    def draw(self, picture: Tensor, target: int) -> Tensor:
        """The map of one picture (C, *picture), (1, *picture) in float64."""
        digest = hashlib.sha256(f"{self.seed} {target} {tuple(picture.shape)} ".encode())
        digest.update(picture.double().contiguous().numpy(force=True).tobytes())
        generator = torch.Generator().manual_seed(int.from_bytes(digest.digest()[:8]) // 2)
        shape = (1, *picture.shape[1:])
        return 2 * torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu") - 1
