"""Layers with weights: fully connected, convolutions, batch norm, products with fixed tensors."""

from __future__ import annotations

import torch
from approx import values
from torch import nn

from cases.case import IMAGES, LINE, PLANE, ROW, SPACE, W34, Case, layer

aten = torch.ops.aten
W2433, MANY, CUBE = values(2, 4, 3, 3), values(4, 6, 2), values(3, 2, 4)
STATISTICS = {"running_mean": values(4, seed=2), "running_var": values(4, seed=3).abs() + 0.5}


CASES = {
    # fully connected
    "linear": Case(layer(nn.Linear, 5, 4), (5,)),
    "linear without bias": Case(layer(nn.Linear, 5, 4, bias=False), (5,)),
    "linear over the last dimension": Case(layer(nn.Linear, 5, 4), (2, 3, 5)),
    "addmm": Case(lambda x: torch.addmm(ROW, x, W34, beta=0.5, alpha=-2.0), (3,)),
    "mm": Case(lambda x: torch.mm(x, W34), (3,)),
    "matmul": Case(lambda x: x @ W34, (2, 3)),
    "matmul from the left": Case(lambda x: W34 @ x, (4, 2)),
    "bmm": Case(lambda x: torch.bmm(x, W34.expand(IMAGES, 3, 4)), (2, 3)),
    # convolutions
    "conv1d": Case(layer(nn.Conv1d, 4, 3, 3, stride=2, padding=1), LINE),
    "conv1d dilated": Case(layer(nn.Conv1d, 4, 3, 3, dilation=3), LINE),
    "conv2d": Case(layer(nn.Conv2d, 4, 3, 3), PLANE),
    "conv2d without bias": Case(layer(nn.Conv2d, 4, 3, 3, bias=False), PLANE),
    "conv2d strided, padded": Case(layer(nn.Conv2d, 4, 3, 3, stride=2, padding=1), PLANE),
    "conv2d unequal": Case(layer(nn.Conv2d, 4, 3, (2, 3), stride=(1, 2), padding=(2, 0), dilation=(1, 2)), PLANE),
    "conv2d grouped": Case(layer(nn.Conv2d, 4, 6, 3, groups=2), PLANE),
    "conv2d depthwise": Case(layer(nn.Conv2d, 4, 8, 3, padding=1, groups=4), PLANE),
    "conv2d valid": Case(layer(nn.Conv2d, 4, 3, 3, padding="valid"), PLANE),
    "conv2d same, odd kernel": Case(layer(nn.Conv2d, 4, 3, 3, padding="same", dilation=2), PLANE),
    "conv2d same, even kernel": Case(layer(nn.Conv2d, 4, 3, 2, padding="same"), PLANE),
    "conv2d same, odd and even": Case(layer(nn.Conv2d, 4, 6, (4, 3), padding="same", groups=2), PLANE),
    "conv2d reflecting": Case(layer(nn.Conv2d, 4, 3, 3, padding=1, padding_mode="reflect"), PLANE),
    "conv2d circular": Case(layer(nn.Conv2d, 4, 3, 3, padding=1, padding_mode="circular"), PLANE),
    "conv3d": Case(layer(nn.Conv3d, 4, 2, 2, stride=(1, 2, 1), padding=1), SPACE),
    "conv by its own name": Case(
        lambda x: aten.convolution(x, W2433, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1), PLANE
    ),
    "transposed conv1d": Case(layer(nn.ConvTranspose1d, 4, 3, 3, stride=2, padding=1, output_padding=1), LINE),
    "transposed conv2d": Case(layer(nn.ConvTranspose2d, 4, 3, 3, stride=3, output_padding=(2, 1)), (4, 2, 3)),
    "transposed conv2d grouped": Case(layer(nn.ConvTranspose2d, 4, 6, 2, groups=2, dilation=2, padding=1), (4, 3, 2)),
    "transposed conv3d": Case(layer(nn.ConvTranspose3d, 4, 2, 2, stride=2, bias=False), (4, 2, 1, 2)),
    "conv2d, weight norm": Case(
        layer(lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 3, 3, bias=False))), PLANE
    ),
    # batch norm
    "batch norm of channels": Case(layer(nn.BatchNorm2d, 4), PLANE),
    "batch norm, not affine": Case(layer(nn.BatchNorm2d, 4, affine=False, eps=0.1), PLANE),
    "batch norm of numbers": Case(layer(nn.BatchNorm1d, 5), (5,)),
    "batch norm of lines": Case(layer(nn.BatchNorm1d, 4), LINE),
    "batch norm of volumes": Case(layer(nn.BatchNorm3d, 4), SPACE),
    "batch norm without training": Case(
        lambda x: aten._native_batch_norm_legit_no_training(x, ROW, None, *STATISTICS.values(), 0.1, 1e-5)[0], PLANE
    ),
    "conv and batch norm": Case(
        layer(nn.Sequential, nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.BatchNorm2d(6)), PLANE
    ),
    "batch norm, then conv": Case(
        layer(nn.Sequential, nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)), PLANE
    ),
    "conv (same) and batch norm": Case(
        layer(nn.Sequential, nn.Conv2d(4, 3, 2, padding="same"), nn.BatchNorm2d(3)), PLANE
    ),
    "transposed conv and batch norm": Case(
        layer(nn.Sequential, nn.ConvTranspose2d(4, 3, 2), nn.BatchNorm2d(3)), PLANE
    ),
    "linear and batch norm": Case(layer(nn.Sequential, nn.Linear(5, 4), nn.BatchNorm1d(4)), (5,)),
    "linear and batch norm of rows": Case(layer(nn.Sequential, nn.Linear(5, 4), nn.BatchNorm1d(3)), (3, 5)),
    # products
    "mv": Case(lambda x: torch.mv(x, ROW)[:, None], (4,)),
    "vector from the left": Case(lambda x: ROW @ x, LINE),
    "matmul of many": Case(lambda x: x @ MANY, PLANE),
    "bmm of one for all": Case(lambda x: torch.bmm(x, W34.expand(x.shape[0], 3, 4)), (2, 3)),
    "addmm of rows": Case(lambda x: torch.addmm(W34[:1, :3], x, W34.T), (4,)),
    "addmm to data": Case(lambda x: torch.addmm(x[:, :3], x, W34.T, beta=0.5, alpha=-1), (4,)),
    "addmm of constants": Case(lambda x: torch.addmm(x, W34[:1].expand(x.shape[0], 4), W34.T), (3,)),
    "addmv": Case(lambda x: torch.addmv(ROW[0], x, ROW, beta=2, alpha=0.5)[:, None], (4,)),
    "baddbmm": Case(lambda x: torch.baddbmm(ROW, x, W34.expand(x.shape[0], 3, 4), beta=0.5, alpha=2), (2, 3)),
    "baddbmm to data": Case(lambda x: torch.baddbmm(x, x, W34[:, :3].expand(x.shape[0], 3, 3)), (2, 3)),
    "baddbmm from the left": Case(lambda x: torch.baddbmm(ROW[:3, None], W34.expand(x.shape[0], 3, 4), x), LINE),
    "einsum": Case(lambda x: torch.einsum("nij,jk->nki", x, W34.T), (4, 4)),
    "einsum of several": Case(lambda x: torch.einsum("bij, kj, ik -> bk", x, W34, W34[:, :3].T @ W34[:, 1:]), (3, 4)),
    "einsum, implied": Case(lambda x: torch.einsum("...ij,jk", x, W34.T), (2, 3, 4)),
    "einsum of a diagonal": Case(lambda x: torch.einsum("nii->ni", x), (4, 4)),
    "einsum with one for each image": Case(
        lambda x: torch.einsum("bij,bjk->bik", x, W34.T.expand(IMAGES, 4, 3)), (2, 4)
    ),
    "tensordot": Case(lambda x: torch.tensordot(x, CUBE, dims=([1, 2], [2, 0])), (4, 3)),
    "inner": Case(lambda x: torch.inner(x, W34), (2, 4)),
    "vecdot": Case(lambda x: torch.linalg.vecdot(x, W34.T, dim=1), (4, 3)),
}  # fmt: skip
