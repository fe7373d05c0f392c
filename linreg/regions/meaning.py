"""What "linear region" means: the one option that tells its meanings apart, the same in this whole room."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.target import Target

By = Literal["pattern", "map"]
ROUNDINGS = 1e4  # by which numbers of two maps may differ, of the largest of them, and the maps be the same


def check_by(by: str) -> None:
    """Raise LinregError unless `by` is "pattern" (all units keep their pieces) or "map" (the affine function stays)."""
    if by not in get_args(By):
        wanted = " or ".join(map(repr, get_args(By)))
        raise LinregError(f"by must be {wanted}, for what two inputs of one linear region have in common; not {by!r}")


def of_all(target: Target, output: Tensor) -> Target:
    """The target by which two maps are compared: without one, a sum of all elements of the output, (N, *shape).

    It has random weights, so that maps which differ anywhere differ in it.
    """
    if target is not None or output[0].numel() <= 1:
        return target
    weights = torch.randn(output.shape[1:], generator=torch.Generator().manual_seed(0), dtype=output.dtype)
    return weights.to(output)
