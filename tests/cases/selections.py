"""Selections among values, and pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from cases.case import LINE, PLANE, SPACE, Case, halves, layer

aten = torch.ops.aten


CASES = {
    # selections
    "maximum": Case(lambda x: torch.maximum(*halves(x)), PLANE),
    "maximum, broadcasting": Case(lambda x: torch.maximum(x.mean((1, 2), keepdim=True), x), PLANE),
    "max of two": Case(lambda x: torch.max(*halves(x)), PLANE),
    "minimum": Case(lambda x: torch.minimum(*halves(x)), PLANE),
    "min of two": Case(lambda x: torch.min(x, x.flip(1)), PLANE),
    "fmax": Case(lambda x: torch.fmax(*halves(x)), PLANE),
    "fmin": Case(lambda x: torch.fmin(*halves(x)), PLANE),
    "max over a dimension": Case(lambda x: x.max(2)[0], PLANE),
    "min over a dimension": Case(lambda x: x.min(-1, keepdim=True)[0], PLANE),
    "maxout": Case(lambda x: x.view(x.shape[0], 2, 2, 5, 6).max(2).values, PLANE),
    "amax over positions": Case(lambda x: x.amax((-1, 2)), PLANE),
    "amax over channels and columns": Case(lambda x: x.amax((3, 1), keepdim=True), PLANE),
    "amax over all": Case(lambda x: x.amax((1, 2), keepdim=True), (4, 5)),
    "amin": Case(lambda x: x.amin(1), PLANE),
    "aminmax": Case(lambda x: x.aminmax(dim=1)[0] - 2 * x.aminmax(dim=1)[1], PLANE),
    "topk": Case(lambda x: x.topk(3, 1)[0], PLANE),
    "topk, smallest": Case(lambda x: x.flatten(1).topk(5, largest=False)[0], PLANE),
    "sort": Case(lambda x: x.sort(1)[0], PLANE),
    "sort, stable": Case(lambda x: x.sort(dim=2, stable=True, descending=True)[0], PLANE),
    "kthvalue": Case(lambda x: x.kthvalue(2, 1)[0], PLANE),
    "median": Case(lambda x: x.median(2, keepdim=True)[0], PLANE),
    # pools
    "max pool": Case(layer(nn.MaxPool2d, 2), PLANE),
    "max pool, overlapping": Case(layer(nn.MaxPool2d, 3, 2, padding=1), PLANE),
    "max pool, ceil": Case(layer(nn.MaxPool2d, 2, ceil_mode=True), PLANE),
    "max pool, dilated": Case(layer(nn.MaxPool2d, 2, 1, dilation=2), PLANE),
    "max pool, unequal": Case(layer(nn.MaxPool2d, (2, 3), (1, 2), padding=(1, 0)), PLANE),
    "max pool with indices": Case(lambda x: F.max_pool2d_with_indices(x, 2)[0], PLANE),
    "max pool of lines": Case(layer(nn.MaxPool1d, 3, 2, padding=1, ceil_mode=True), LINE),
    "max pool of volumes": Case(layer(nn.MaxPool3d, 2, 1), SPACE),
    "max pool of volumes with indices": Case(lambda x: F.max_pool3d_with_indices(x, (2, 1, 3))[0], SPACE),
    "max pool of lines with indices": Case(lambda x: F.max_pool1d_with_indices(x, 3, 2, 1)[0], LINE),
    "max pool of volumes, padded, ceil": Case(layer(nn.MaxPool3d, 2, 2, padding=1, ceil_mode=True), SPACE),
    "max pool of lines, dilated": Case(layer(nn.MaxPool1d, 2, 1, dilation=3), LINE),
    "adaptive max pool of lines": Case(layer(nn.AdaptiveMaxPool1d, 4), LINE),
    "adaptive max pool": Case(layer(nn.AdaptiveMaxPool2d, (2, 4)), PLANE),
    "adaptive max pool to one": Case(layer(nn.AdaptiveMaxPool2d, 1), PLANE),
    "adaptive max pool of volumes": Case(layer(nn.AdaptiveMaxPool3d, (2, None, 3)), SPACE),
    "max pool and back": Case(
        lambda x: F.max_unpool2d(-2 * F.max_pool2d(x, 2), F.max_pool2d(x, 2, return_indices=True)[1], 2), (2, 4, 6)
    ),
    "max pool and back, of volumes": Case(
        lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2), (2, 4, 2, 4)
    ),
    "average pool": Case(layer(nn.AvgPool2d, 2), PLANE),
    "average pool, overlapping": Case(layer(nn.AvgPool2d, 3, 1, padding=1), PLANE),
    "average pool without padding": Case(
        layer(nn.AvgPool2d, 3, 2, padding=1, ceil_mode=True, count_include_pad=False), PLANE
    ),
    "average pool, divided": Case(layer(nn.AvgPool2d, 2, divisor_override=3), PLANE),
    "average pool of lines": Case(layer(nn.AvgPool1d, 3, 2, padding=1), LINE),
    "average pool of volumes": Case(layer(nn.AvgPool3d, 2, 1), SPACE),
    "adaptive pool of lines": Case(layer(nn.AdaptiveAvgPool1d, 4), LINE),
    "adaptive pool": Case(layer(nn.AdaptiveAvgPool2d, (2, 4)), PLANE),
    "adaptive pool to one": Case(layer(nn.AdaptiveAvgPool2d, 1), PLANE),
    "adaptive pool of volumes": Case(layer(nn.AdaptiveAvgPool3d, (2, 1, 3)), SPACE),
    "adaptive pool by its own name": Case(lambda x: aten._adaptive_avg_pool2d(x, [2, 4]), PLANE),
    "mean of positions": Case(lambda x: x.mean((2, 3)), PLANE),
    "mean of channels": Case(lambda x: x.mean(1, keepdim=True), PLANE),
    "sum of positions": Case(lambda x: x.sum((-1, -2), keepdim=True), PLANE),
    "sum of channels": Case(lambda x: x.sum(1), PLANE),
}  # fmt: skip
