"""The order in which images lie in memory: channels last where a CPU's convolutions are faster so.

The arithmetic of sites is elementwise: it takes the numbers in whatever order they lie, the same for all its operands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from linreg.operators import Affine, Convolution, Diagonal


def layout(dims: int, last: bool) -> torch.memory_format:
    """That of values with so many dimensions, the batch's among them: only pictures have channels to come last."""
    return torch.channels_last if last and dims == 4 else torch.contiguous_format


def rows(value: Tensor, order: torch.memory_format) -> Tensor:
    """The memory of a value (N, …) as (N, M): its own where it lies in this order, else a copy."""
    value = value.contiguous(memory_format=order)
    value = value.permute(0, 2, 3, 1) if order == torch.channels_last else value
    return value.view(len(value), -1)


def laid_out(affine: Affine) -> Affine:
    """The operator with what it holds of pictures, its weights or slopes, channels last."""
    if isinstance(affine, Convolution) and affine.weight.dim() == 4:
        return replace(affine, weight=affine.weight.contiguous(memory_format=torch.channels_last))
    if isinstance(affine, Diagonal) and affine.slope.dim() == 4:
        order, offset = torch.channels_last, affine.offset
        offset = None if offset is None else offset.contiguous(memory_format=order)
        return replace(affine, slope=affine.slope.contiguous(memory_format=order), offset=offset)
    return affine


def pays(affines: Mapping[str, Affine], like: Tensor, units: int) -> bool:
    """Whether channels should come last: oneDNN's convolutions on a CPU, which need not reorder their values then.

    Not where copies of weights would weigh more than half as much as one value for each of the `units` at the sites of
    all images; the gain is small there. (Depthwise and 1×1 weights lie in both orders at once.)
    """
    on_cpu = like.device.type == "cpu" and like.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    weights = [a.weight for a in affines.values() if isinstance(a, Convolution) and a.weight.dim() == 4]
    copied = sum(w.numel() for w in weights if not w.is_contiguous(memory_format=torch.channels_last))
    return on_cpu and bool(weights) and 2 * copied <= units
