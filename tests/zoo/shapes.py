"""Our own, of pictures, lines, volumes, sequences, point clouds and graphs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.entry import register

# ---- U-Nets ----


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class UNet(nn.Module):
    """Down by max pooling, up by `up(inputs, outputs)`, with concatenated skips; a score for each pixel and class."""

    def __init__(self, up: Callable[[int, int], nn.Module], widths: tuple[int, ...] = (8, 16, 32)) -> None:
        super().__init__()
        self.down = nn.ModuleList(block(a, b) for a, b in pairwise((3, *widths)))
        self.ups = nn.ModuleList(up(b, a) for a, b in pairwise(widths))
        self.merge = nn.ModuleList(block(2 * a, a) for a in widths[:-1])
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(widths[0], 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for layer in self.down[:-1]:
            x = layer(x)
            skips.append(x)
            x = self.pool(x)
        x = self.down[-1](x)
        for skip, up, merge in zip(reversed(skips), reversed(self.ups), reversed(self.merge), strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)


def upsampled(mode: str, corners: bool | None = None) -> Callable[[int, int], nn.Module]:
    return lambda a, b: nn.Sequential(nn.Upsample(scale_factor=2, mode=mode, align_corners=corners), nn.Conv2d(a, b, 1))


@register("U-Net", 3, 16, 16)
def unet_transposed() -> nn.Module:
    return UNet(lambda a, b: nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1))


@register("U-Net", 3, 16, 16)
def unet_nearest() -> nn.Module:
    return UNet(upsampled("nearest"))


@register("U-Net", 3, 16, 16)
def unet_bilinear() -> nn.Module:
    return UNet(upsampled("bilinear", True))


@register("U-Net", 3, 16, 16)
def unet_bicubic() -> nn.Module:
    return UNet(upsampled("bicubic", False))


@register("U-Net", 3, 16, 16)
def unet_shuffle() -> nn.Module:
    return UNet(lambda a, b: nn.Sequential(nn.Conv2d(a, 4 * b, 1), nn.PixelShuffle(2)))


class SegNet(nn.Module):
    """Max pooling whose places are kept, and used to put the values back on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = block(3, 8), block(8, 16)
        self.third, self.fourth = block(16, 8), nn.Conv2d(8, 4, 3, padding=1)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        h, places = self.pool(self.first(x))
        h, deeper = self.pool(self.second(h))
        return self.fourth(self.unpool(self.third(self.unpool(h, deeper)), places))


@register("SegNet", 3, 16, 16)
def segnet() -> nn.Module:
    return SegNet()


# ---- one and three dimensions, sequences, point clouds ----


class WaveNet(nn.Module):
    """Causal dilated convolutions in one dimension, with residual and skip paths; ReLU for its product of gates."""

    def __init__(self, channels: int = 12, depth: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, channels, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(channels, channels, 2, dilation=2**k) for k in range(depth))
        self.residual = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in range(depth))
        self.skip = nn.ModuleList(nn.Conv1d(channels, 8, 1) for _ in range(depth))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(8, 8, 1), nn.ReLU(), nn.Conv1d(8, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        h, skips = self.stem(x), torch.zeros(())
        for dilated, residual, skip in zip(self.dilated, self.residual, self.skip, strict=True):
            z = F.relu(dilated(F.pad(h, (dilated.dilation[0], 0))))
            skips = skips + skip(z)
            h = (h + residual(z)) * 0.5**0.5
        return self.head(skips)[..., -1]


@register("1-d", 2, 48)
def wavenet() -> nn.Module:
    return WaveNet()


@register("3-d", 1, 8, 12, 12)
def voxels() -> nn.Module:
    """Three-dimensional convolutions, transposed too, each kind of pooling."""
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(6, 8, (1, 3, 3)), nn.LeakyReLU(0.1), nn.AvgPool3d((2, 1, 1)),
        nn.ConvTranspose3d(8, 4, 2, stride=2), nn.ReLU(), nn.AdaptiveAvgPool3d((2, 2, 2)),
        nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip


class Recurrent(nn.Module):
    """A recurrent network of ReLUs over the steps of a sequence, unrolled by its own loop (IRNN)."""

    def __init__(self, inputs: int = 6, state: int = 10) -> None:
        super().__init__()
        self.read, self.keep = nn.Linear(inputs, state), nn.Linear(state, state, bias=False)
        self.head = nn.Linear(state, 4)
        self.register_buffer("start", torch.full((state,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.start.expand(x.shape[0], -1)
        for step in x.unbind(1):
            h = F.relu(self.read(step) + self.keep(h))
        return self.head(h)


@register("recurrent", 7, 6)
def recurrent() -> nn.Module:
    return Recurrent()


@register("point cloud", 20, 3)
def pointnet() -> nn.Module:
    """The same layers for each point, and the maximum over all of them."""

    class PointNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 32))
            self.all = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.all(self.each(x).amax(1))

    return PointNet()


class GraphNet(nn.Module):
    """Graph convolutions φ(A H W + b) over a fixed graph, and the mean of its vertices."""

    def __init__(self, vertices: int = 9) -> None:
        super().__init__()
        ring = torch.eye(vertices).roll(1, 0)
        self.register_buffer("adjacency", (torch.eye(vertices) + ring + ring.T) / 3)
        self.first, self.second, self.head = nn.Linear(5, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            x = torch.relu(self.adjacency @ layer(x))
        return self.head(x.mean(1))


@register("graph", 9, 5)
def graph_convolutions() -> nn.Module:
    return GraphNet()
