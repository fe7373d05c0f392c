"""Arithmetic with fixed numbers and tensors, sums and differences, resampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from approx import values
from torch import nn

from cases.case import CHANNELS, IMAGES, LINE, PLANE, ROW, SPACE, Case, halves, layer

aten = torch.ops.aten
GRID, GRIDS = values(1, 3, 4, 2, seed=5), values(1, 2, 2, 2, 3)
THETA = torch.tensor([[[0.8, 0.2, 0.1], [-0.3, 1.1, 0.0]]]).double()


CASES = {
    # arithmetic
    "add": Case(lambda x: torch.add(*halves(x), alpha=-3), PLANE),
    "add itself": Case(lambda x: x + x, PLANE),
    "add, broadcasting": Case(lambda x: x + x.mean((2, 3), keepdim=True), PLANE),
    "add a constant": Case(lambda x: x + CHANNELS, PLANE),
    "add to a constant": Case(lambda x: torch.add(CHANNELS, x, alpha=2), PLANE),
    "add a constant, broadcasting": Case(lambda x: x + ROW, (1,)),
    "add what is made for each image": Case(lambda x: x + torch.ones(x.shape[0], 1).double(), (3,)),
    "add a number": Case(lambda x: x + 0.3, PLANE),
    "subtract": Case(lambda x: halves(x)[0] - halves(x)[1], PLANE),
    "subtract a constant": Case(lambda x: x - CHANNELS, PLANE),
    "subtract, alpha": Case(lambda x: torch.sub(CHANNELS, x, alpha=2), PLANE),
    "subtract from a number": Case(lambda x: torch.rsub(x, 1, alpha=0.5), PLANE),
    "negate": Case(torch.neg, PLANE),
    "multiply": Case(lambda x: x * CHANNELS, PLANE),
    "multiply, broadcasting": Case(lambda x: CHANNELS * x, (1, 2, 3)),
    "multiply by a number": Case(lambda x: -2 * x, PLANE),
    "divide": Case(lambda x: x / CHANNELS, PLANE),
    "divide by a number": Case(lambda x: x / 4, PLANE),
    # sums and differences
    "cumsum": Case(lambda x: x.cumsum(-1), PLANE),
    "diff": Case(lambda x: x.diff(dim=1), PLANE),
    "diff of diff": Case(lambda x: x.diff(2), LINE),
    "lerp": Case(lambda x: torch.lerp(halves(x)[0], halves(x)[1], 0.3), PLANE),
    "lerp by a tensor": Case(lambda x: torch.lerp(*halves(x), CHANNELS[:2]), PLANE),
    "lerp to a constant": Case(lambda x: torch.lerp(x, CHANNELS, CHANNELS.abs()), PLANE),
    "addcmul": Case(lambda x: torch.addcmul(x, CHANNELS, x.mean(2, keepdim=True), value=-2), PLANE),
    "addcmul to a constant": Case(lambda x: torch.addcmul(CHANNELS, CHANNELS, x, value=0.5), PLANE),
    "addcmul of constants": Case(lambda x: torch.addcmul(x, CHANNELS, ROW[:3, None, None, None][0]), PLANE),
    "addcdiv": Case(lambda x: torch.addcdiv(CHANNELS, x, CHANNELS, value=0.5), PLANE),
    "negative": Case(torch.negative, PLANE),
    "subtract by its long name": Case(lambda x: torch.subtract(x, CHANNELS), PLANE),
    "multiply by its long name": Case(lambda x: torch.multiply(x, CHANNELS), PLANE),
    "divide by its long name": Case(lambda x: torch.divide(x, CHANNELS), PLANE),
    "divide by its true name": Case(lambda x: torch.true_divide(x, x.shape[1]), PLANE),
    # resampling
    "nearest of lines": Case(layer(nn.Upsample, scale_factor=2), LINE),
    "nearest": Case(lambda x: F.interpolate(x, scale_factor=1.7), PLANE),
    "nearest to the size of another": Case(lambda x: x + F.interpolate(x[:, :, ::2, 1:], size=x.shape[2:]), PLANE),
    "nearest of volumes": Case(layer(nn.Upsample, (5, 7, 2)), SPACE),
    "nearest exact of lines": Case(
        lambda x: F.interpolate(x, 5, mode="nearest-exact"), LINE, twin=lambda x: x[:, :, ::2]
    ),
    "nearest exact": Case(
        lambda x: F.interpolate(x, scale_factor=(2, 0.6), mode="nearest-exact"), PLANE,
        twin=lambda x: x.repeat_interleave(2, 2)[..., ::2],
    ),
    "nearest exact of volumes": Case(
        lambda x: F.interpolate(x, (8, 2, 3), mode="nearest-exact"), SPACE,
        twin=lambda x: x.repeat_interleave(2, 2)[:, :, :, ::2, ::2],
    ),
    "linear of lines": Case(layer(nn.Upsample, scale_factor=1.5, mode="linear"), LINE),
    "bilinear": Case(lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"), PLANE),
    "bilinear at corners": Case(layer(nn.UpsamplingBilinear2d, (8, 4)), PLANE),
    "bilinear by its kernel's name": Case(lambda x: aten.upsample_bilinear2d(x, [8, 9], False, 1.6, 1.5), PLANE),
    "bilinear, smoothed": Case(lambda x: F.interpolate(x, (3, 4), mode="bilinear", antialias=True), PLANE),
    "trilinear": Case(lambda x: F.interpolate(x, (5, 2, 6), mode="trilinear", align_corners=True), SPACE),
    "bicubic": Case(lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic"), PLANE),
    "bicubic at corners": Case(lambda x: F.interpolate(x, (3, 8), mode="bicubic", align_corners=True), PLANE),
    "bicubic, smoothed": Case(lambda x: F.interpolate(x, (3, 4), mode="bicubic", antialias=True), PLANE),
    "grid sample": Case(lambda x: F.grid_sample(x, GRID.expand(x.shape[0], -1, -1, -1), align_corners=False), PLANE),
    "grid sample, nearest": Case(
        lambda x: F.grid_sample(x, GRID.expand(IMAGES, 3, 4, 2), "nearest", "reflection", align_corners=True), PLANE
    ),
    "grid sample of volumes": Case(
        lambda x: F.grid_sample(x, GRIDS.expand(x.shape[0], -1, -1, -1, -1), align_corners=True), SPACE
    ),
    "affine grid": Case(
        lambda x: F.grid_sample(
            x, F.affine_grid(THETA.expand(x.shape[0], 2, 3), x.shape, align_corners=False), "bicubic", "border", False
        ), PLANE,
    ),
    "instance norm by running statistics": Case(
        layer(nn.InstanceNorm2d, 4, affine=True, track_running_stats=True), PLANE
    ),
}  # fmt: skip
