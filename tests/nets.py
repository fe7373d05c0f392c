"""Small networks of every supported kind, with seeded random weights and batch norm statistics, in float64.

`NETS[name]()` gives (model in eval mode, a batch of three inputs). The same name gives the same numbers each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import linreg

Net = tuple[nn.Module, Tensor]
NETS: dict[str, Callable[[], Net]] = {}


def net(*shape: int) -> Callable[[Callable[[], nn.Module]], Callable[[], Net]]:
    """Register a builder under its name; `shape` is that of one input."""

    def register(build: Callable[[], nn.Module]) -> Callable[[], Net]:
        seed = len(NETS)
        NETS[build.__name__] = factory = partial(seeded_net, build, *shape, images=3, seed=seed)
        return factory

    return register


def seeded_net(build: Callable[[], nn.Module], *shape: int, images: int = 2, seed: int = 0) -> Net:
    """A model in eval mode, with random weights and batch norm statistics, and a batch of inputs, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = randomised(build().double()).eval()
        return model, torch.randn(images, *shape, dtype=torch.float64)


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Such a model alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return randomised(build().double()).eval()


class Wide(nn.BatchNorm2d):
    """Batch norm whose output is wide enough to saturate a ReLU6 on both sides."""


def randomised(model: nn.Module) -> nn.Module:
    """The model with the statistics and affine parameters of its batch norms drawn at random."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                if module.running_mean is not None and module.running_var is not None:
                    module.running_mean.normal_(0, 0.3)
                    module.running_var.uniform_(0.5, 2)
                if module.affine:
                    gain = 8 if isinstance(module, Wide) else 1
                    module.weight.uniform_(0.5 * gain, 1.5 * gain)
                    module.bias.normal_(0, 0.3)
    return model


def mlp(*widths: int, bias: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Lambda(nn.Module):
    """A module of one function, and of the parameters, buffers or modules that it reads as attributes."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        parts = dict(self.named_children()) | dict(self.named_buffers(recurse=False))
        return self.function(x, **parts, **dict(self.named_parameters(recurse=False)))


class Outer(nn.Module):
    """φ(W h) + h, the residual layer of the paper's text."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, h: Tensor) -> Tensor:
        return self.relu(self.conv(h)) + h


class Inner(nn.Module):
    """φ(W₂ φ(W₁ h) + skip(h)), torchvision's basic block: one ReLU, used twice and in place."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        shrink = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.downsample = None if (inputs, stride) == (outputs, 1) else nn.Sequential(*shrink)

    def forward(self, h: Tensor) -> Tensor:
        identity = h if self.downsample is None else self.downsample(h)
        out = self.relu(self.bn1(self.conv1(h)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class Inverted(nn.Module):
    """MobileNetV2's block: expand, depthwise, project, with ReLU6 inside and a linear residual."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False), Wide(wide), nn.ReLU6(inplace=True),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), Wide(wide), nn.ReLU6(inplace=True),
            nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, h: Tensor) -> Tensor:
        return h + self.layers(h)


@net(5)
def chain() -> nn.Module:
    return mlp(5, 8, 7, 6, 3, bias=False)


@net(5)
def chain_with_biases() -> nn.Module:
    return mlp(5, 8, 7, 6, 3, bias=True)


@net(3, 6, 6)
def conv_bn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4, affine=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


@net(3, 6, 6)
def free_bn() -> nn.Module:
    """Batch norm before zero-padded convolutions, as in DenseNet: it cannot be folded into them."""
    return nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(),
        nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(3), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


@net(3, 6, 6)
def residual_outer() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), Outer(4), Outer(4), nn.Flatten(), nn.Linear(64, 3)
    )  # fmt: skip


@net(3, 8, 8)
def residual_inner() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        Inner(4, 4), Inner(4, 6, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


@net(3, 6, 6)
def mobile() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), Wide(4), nn.ReLU6(inplace=True),
        Inverted(4, 3), Inverted(4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


@net(3, 9, 9)
def pools() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1),
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2, 1, padding=1),
        nn.Conv2d(4, 4, 2), nn.ReLU(), nn.MaxPool2d(2, 1), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


@net(6)
def gates() -> nn.Module:
    function = lambda x, a, b, c, d, leaky, tanh, prelu: d(  # noqa: E731
        torch.cat([leaky(a(x)), tanh(b(x)), prelu(c(x)).abs(), torch.clamp(a(x) - b(x), -0.3, 0.2)], 1)
    )
    linears = {name: nn.Linear(6, 6) for name in "abc"} | {"d": nn.Linear(24, 3)}
    return Lambda(
        function, **linears, leaky=nn.LeakyReLU(0.1), tanh=nn.Hardtanh(-0.4, 0.5), prelu=nn.PReLU(6, 0.2)
    )  # fmt: skip


class Wiring(nn.Module):
    """Split, shuffle, slice, pad, concatenate, transpose: what moves values about (ShuffleNet, DenseNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.left = nn.Conv2d(4, 4, 3, groups=4)
        self.right = nn.Conv2d(4, 4, 1)
        self.shuffle = nn.ChannelShuffle(2)
        self.head = nn.Linear(3 * 4 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.stem(x))
        a, b = h.chunk(2, dim=1)
        a = F.relu(self.left(F.pad(a, (1, 1, 1, 1), mode="reflect")))
        b = F.relu(self.right(F.pad(b, (2, 0, 0, 2), value=0.7))[:, :, 1:5, 1:5])
        h = self.shuffle(torch.cat([a, b, h[:, :4] - a], dim=1))[:, ::2]
        first, second = h.split([4, 2], dim=1)
        h = torch.cat([first, second.transpose(2, 3)], dim=1).view(x.shape[0], 3, 2, 4, 4)
        return self.head(h.permute(0, 1, 3, 2, 4).reshape(x.shape[0], -1))


@net(3, 6, 6)
def wiring() -> nn.Module:
    return Wiring()


@net(2, 10)
def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=2, dilation=2), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(4, 6, 3), nn.ReLU(), nn.AvgPool1d(3), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


@net(2, 6, 6, 6)
def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 3, 3, stride=2, padding=1), nn.BatchNorm3d(3), nn.ReLU(),
        nn.Conv3d(3, 4, 2), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


class Constants(nn.Module):
    """Normalises its own input, twice; one ReLU in place and reused, another as a function; a learned offset."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6])[:, None, None])
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.25])[:, None, None])
        self.conv = nn.Conv2d(3, 4, 3)
        self.offset = nn.Parameter(torch.randn(4, 1, 1))
        self.relu = nn.ReLU(inplace=True)
        self.first = nn.Linear(64, 6)
        self.second = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = (x * 2 - 1 - self.mean) / self.std
        h = self.relu(self.conv(x))
        h = F.relu(0.5 - h + self.offset)
        h = self.relu(self.first(h.flatten(1)))
        return -self.second(h)


@net(3, 6, 6)
def constants() -> nn.Module:
    return Constants()


@net(6)
def dropout() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
    )  # fmt: skip


class Shortcut(nn.Module):
    """A path from the input to the output that no gate touches."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3)
        )
        self.wide = nn.Linear(108, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.deep(x) + self.wide(x.flatten(1))


@net(3, 6, 6)
def shortcut() -> nn.Module:
    return Shortcut()


@net(3, 6, 6)
def selections() -> nn.Module:
    """Maxout, soft thresholds, conditions on the value itself and on another, maxima over windows and over channels."""

    def function(x: Tensor, **layer: nn.Module) -> Tensor:
        h = layer["shrink"](layer["c"](torch.maximum(layer["a"](x), layer["b"](x))))
        h = torch.where(h > 0.2, 2 * h - 0.2, h)
        h = torch.where(h.mean(1, keepdim=True) > 0, h, 0.1 - h)
        return layer["d"](torch.cat([layer["pool"](h).flatten(1), h.amax((1, 3))], 1))

    convolutions = {"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(3, 4, 3), "c": nn.Conv2d(4, 5, 1)}
    return Lambda(
        function, **convolutions, d=nn.Linear(5 * 4 + 4, 3), shrink=nn.Softshrink(0.1), pool=nn.AdaptiveMaxPool2d(2)
    )


every_net = pytest.mark.parametrize("name", NETS)
NORMED = ("conv_bn", "free_bn", "residual_inner", "mobile", "conv1d", "conv3d")
fused_or_not = pytest.mark.parametrize(("name", "fuse"), [(n, True) for n in NETS] + [(n, False) for n in NORMED])


@dataclass(frozen=True)
class Traced:
    """A network, its batch of inputs, and its linearization there."""

    model: nn.Module
    x: Tensor
    lin: linreg.Linearization

    @property
    def graph(self) -> linreg.OperatorGraph:
        return self.lin.graph


def traced(name: str, fuse: bool = True) -> Traced:
    """A network of NETS, traced once for all the tests that only look at it; only those of NORMED have what to fuse."""
    return _traced(name, fuse or name not in NORMED)


@cache
def _traced(name: str, fuse: bool) -> Traced:
    model, x = NETS[name]()
    return Traced(model, x, linreg.trace(model, x, fuse=fuse).linearize(x))


# Blocks that can follow one another in any order: each takes and gives four channels.
BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(),
    "leaky": lambda: nn.LeakyReLU(0.2),
    "hardtanh": lambda: nn.Hardtanh(-0.5, 0.5),
    "conv": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "grouped": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
    "same": lambda: nn.Conv2d(4, 4, 2, padding="same"),
    "norm": lambda: nn.BatchNorm2d(4),
    "max": lambda: nn.MaxPool2d(3, 1, padding=1),
    "average": lambda: nn.AvgPool2d(3, 1, padding=1),
    "pad": lambda: nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.Conv2d(4, 4, 3)),
    "outer": lambda: Outer(4),
    "inner": lambda: Inner(4, 4),
    "inverted": lambda: Inverted(4, 2),
    "wired": lambda: Lambda(lambda x: torch.cat([x[:, 2:], 1 - x[:, :2]], 1)),
}
