"""Localization: whether evidence for a class lies where the class is, and evidence against it where another is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmbp.errors import DmbpError
from dmbp.evaluation.checks import first
from linreg.text import number

HALVES = ("left", "right")


@dataclass(frozen=True, eq=False)
class Localization:
    """Shares from 0 to 1, each (N,) in float64 on the CPU; NaN where a map has nothing of that sign to share out.

    `positive`: of the sum of the map's positive values, what lies in the own part. `negative`: of the sum of its
    negative values, what lies in the other. By chance each is the share of its part in the picture: of a half, 0.5.
    """

    positive: Tensor
    negative: Tensor

    def __repr__(self) -> str:
        means = {name: number(getattr(self, name).nanmean().item()) for name in ("positive", "negative")}
        return f"Localization(N = {len(self.positive)}: positive {means['positive']}, negative {means['negative']})"


def localization(maps: Tensor, own: str | Sequence[str] | Tensor) -> Localization:
    """Σ max(a, 0) in the own part over Σ max(a, 0), and Σ max(−a, 0) in the other part over Σ max(−a, 0).

    `maps` (N, C, H, W) are summed over their colours first, with their signs; (N, H, W) are taken as they are. `own` is
    where the class is, and the rest of the picture where another is: "left" or "right" (of an odd width, the middle
    column is on the right), one for all or one for each picture, or True in a mask (H, W) or (N, H, W).

    Raises DmbpError for other shapes and words, NaN in a map, and a part that is empty or the whole picture.

    >>> import torch
    >>> from dmbp.evaluation import localization
    >>> found = localization(torch.tensor([[[3.0, 1.0], [0.0, -2.0]]]), "left")
    >>> found.positive, found.negative
    (tensor([0.7500], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    maps = torch.as_tensor(maps).detach()
    if maps.dim() not in (3, 4) or maps.numel() == 0:
        raise DmbpError(f"expected maps (N, C, H, W) or (N, H, W), not {tuple(maps.shape)}")
    values = (maps.sum(1) if maps.dim() == 4 else maps).cpu().double()
    bad = (~values.isfinite()).flatten(1).any(1)
    if bad.any():
        raise DmbpError(f"the map of picture {first(bad)} holds NaN or infinite values")
    mask = _mask(own, values)
    return Localization(_share(values.clamp_min(0), mask), _share((-values).clamp_min(0), ~mask))


def _share(values: Tensor, mask: Tensor) -> Tensor:
    """What lies in the mask, of all; 0/0 is NaN."""
    return values.where(mask, 0).sum((1, 2)) / values.sum((1, 2))


def _mask(own: str | Sequence[str] | Tensor, values: Tensor) -> Tensor:
    """The own part of each picture, (N, H, W)."""
    if isinstance(own, Tensor):
        fits = own.dtype == torch.bool and tuple(own.shape) in (tuple(values.shape), tuple(values.shape[1:]))
        if not fits:
            raise DmbpError(
                f"a mask must hold True and False, of the shape {tuple(values.shape[1:])} or {tuple(values.shape)}, "
                f"not {own.dtype} {tuple(own.shape)}"
            )
        mask = own.cpu().expand_as(values)
    else:
        words = [own] * len(values) if isinstance(own, str) else list(own)
        if len(words) != len(values) or not set(words) <= set(HALVES):
            raise DmbpError(f"own must be 'left' or 'right', for all or each of {len(values)} pictures, not {own!r}")
        left = torch.arange(values.shape[2]) < values.shape[2] // 2
        mask = torch.stack([left if word == "left" else ~left for word in words])[:, None].expand_as(values)
    whole = mask.flatten(1).all(1) | ~mask.flatten(1).any(1)
    if whole.any():
        raise DmbpError(f"picture {first(whole)}: the own part must be neither empty nor the whole picture")
    return mask
