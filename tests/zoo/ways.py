"""Our own, of every unit and of every way to write a forward."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from zoo.entry import register
from zoo.shapes import block

# ---- units ----


@register("MLP", 12)
def mlp() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((12, 40, 40, 30, 20)):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(20, 5))


class Maxout(nn.Module):
    """max over k of W_k x + b_k (Goodfellow et al. 2013)."""

    def __init__(self, inputs: int, outputs: int, pieces: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs * pieces)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(-1, (-1, self.pieces)).amax(-1)


@register("maxout", 12)
def maxout() -> nn.Module:
    return nn.Sequential(Maxout(12, 20), Maxout(20, 20), nn.Linear(20, 4))


class Pairs(nn.Module):
    """The larger and the smaller half of the channels, pair by pair (max-feature-map; MaxMin)."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)


@register("maxout", 3, 12, 12)
def max_min() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        Pairs(),
        nn.Conv2d(8, 8, 3),
        Pairs(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


class CReLU(nn.Module):
    """[φ(z), φ(−z)] (Shang et al. 2016)."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([F.relu(z), F.relu(-z)], 1)


@register("CReLU", 3, 16, 16)
def crelu() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2), CReLU(), nn.Conv2d(12, 8, 3), nn.BatchNorm2d(8), CReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip


# Hardsigmoid is not among them: autograd gives it the slope 1/6 in single precision, whatever the data's.
UNITS = {
    "relu": nn.ReLU(), "relu6": nn.ReLU6(), "hardtanh": nn.Hardtanh(-0.7, 0.9), "leaky_relu": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(6), "rrelu": nn.RReLU(), "threshold": nn.Threshold(0.2, -0.1),
    "hardshrink": nn.Hardshrink(0.4), "softshrink": nn.Softshrink(0.3),
}  # fmt: skip


class Gates(nn.Module):
    """One branch for each elementwise unit, summed."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({name: nn.Sequential(nn.Conv2d(3, 6, 3), unit) for name, unit in UNITS.items()})
        self.signed, self.bounded, self.chosen = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        total = self.signed(x).abs() + self.bounded(x).clamp(-0.5, 1.5)
        for branch in self.branches.values():
            total = total + branch(x)
        z = self.chosen(x)
        total = total + torch.where(z > 0.1, 2 * z - 0.1, 0.1)
        return self.head(total.flatten(1))


@register("all gates", 3, 8, 8)
def gates() -> nn.Module:
    return Gates()


class Unrolled(nn.Module):
    """Sparse coding by iterated soft thresholding, unrolled, with shared and learned matrices (LISTA)."""

    def __init__(self, steps: int = 4) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(10, 24, bias=False), nn.Linear(24, 10)
        self.again = nn.Parameter(torch.eye(24) - 0.05 * torch.randn(24, 24))
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        b = self.encode(x)
        z = F.softshrink(b, 0.3)
        for _ in range(self.steps):
            z = F.softshrink(b + z @ self.again.T * 0.2, 0.3)
        return self.decode(z)


@register("unrolled", 10)
def lista() -> nn.Module:
    return Unrolled()


# ---- ways to write a forward ----


class InPlace(nn.Module):
    """What a functional forward does: in-place sums and units, loops, slices, constants, one module many times."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.gain = nn.Parameter(torch.rand(4, 8, 1, 1))
        self.offset = nn.Parameter(torch.randn(8, 1, 1))
        self.weight = nn.Parameter(torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x.sub(self.mean).mul_(2).clamp_(-3, 3)
        h = torch.relu_(self.stem(x))
        for gain in self.gain:
            z = F.relu(self.shared(h), inplace=True)
            h = h + z * gain
            h += self.offset
            h.mul_(0.6)
        left, right = h[:, :, :, :4], h[:, :, :, 4:]
        h = F.relu(left - right.flip(3)) + 0.5
        return F.linear(h.mean((2, 3)), self.weight)


@register("functional, in place", 3, 8, 8)
def in_place() -> nn.Module:
    return InPlace()


class Assigned(nn.Module):
    """Writes slices of one tensor: a padded frame and its channels, filled in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        frame = x.new_full((x.shape[0], 8, 10, 10), 0.3)
        frame[:, :4, 1:-1, 1:-1] = self.a(x).relu()
        frame[:, 4:, 1:-1, 1:-1] = self.b(x).relu()
        frame[:, :, 0] += 0.2
        return self.head(frame).relu_().sum((2, 3))


@register("functional, in place", 3, 8, 8)
def assigned() -> nn.Module:
    return Assigned()


class Fixup(nn.Module):
    """Residual blocks without normalisation: scalar biases and a multiplier in place of it (Zhang et al. 2019)."""

    def __init__(self, channels: int = 8, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
            for _ in range(depth)
        )
        self.biases = nn.Parameter(0.3 * torch.randn(depth, 4))
        self.scales = nn.Parameter(torch.rand(depth))
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.stem(x))
        for (first, second), bias, scale in zip(self.layers, self.biases, self.scales, strict=True):
            z = F.relu(first(h + bias[0]) + bias[1])
            h = F.relu(h + second(z + bias[2]) * scale + bias[3])
        return self.head(F.adaptive_avg_pool2d(h, 1).flatten(1))


@register("functional, in place", 3, 8, 8)
def fixup() -> nn.Module:
    return Fixup()


@register("parametrised weights", 3, 10, 10)
def normed_weights() -> nn.Module:
    """Weight norm, spectral norm, and a mask on the weights (as of a pruned or causal convolution)."""

    class Causal(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            mask = torch.ones_like(weight[0, 0])
            mask[1, 1:], mask[2] = 0, 0
            return weight * mask

    masked = nn.Conv2d(8, 8, 3, padding=1)
    nn.utils.parametrize.register_parametrization(masked, "weight", Causal())
    return nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), masked, nn.ReLU(),
        parametrizations.spectral_norm(nn.Conv2d(8, 6, 3)), nn.ReLU(), nn.Flatten(),
        parametrizations.weight_norm(nn.Linear(6 * 36, 4)),
    )  # fmt: skip


class Nest(nn.Module):
    """Lists and dictionaries of modules within one another, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        twice = nn.Sequential(nn.Linear(10, 10), nn.ReLU())
        self.stages = nn.ModuleList([nn.ModuleDict({"a": nn.Sequential(nn.Linear(6, 10), nn.Sequential(nn.ReLU()))})])
        self.stages.append(nn.ModuleDict({"a": twice, "b": nn.Sequential(twice, nn.Identity(), nn.Linear(10, 10))}))
        self.head = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Linear(10, 3)))

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = sum(branch(x) for branch in stage.values())
        return self.head(x)


@register("nests", 6)
def nest() -> nn.Module:
    return Nest()


@register("hooks", 3, 8, 8)
def hooked() -> nn.Module:
    """Forward hooks that change what their modules take and give."""
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))
    net[0].register_forward_hook(lambda module, inputs, output: 2 * output - 0.1)
    net[2].register_forward_pre_hook(lambda module, inputs: (inputs[0].flip(3) + 0.2,))
    return net


class Heads(nn.Module):
    """Several outputs: a class, a map and a box, of which one is explained."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(3, 8), block(8, 8))
        self.classes, self.map, self.box = nn.Linear(8, 5), nn.Conv2d(8, 1, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        h = self.body(x)
        pooled = h.mean((2, 3))
        return {"classes": self.classes(pooled).softmax(1), "detections": (self.map(h), self.box(pooled))}


@register("several outputs", 3, 8, 8, output="detections.1")
def heads() -> nn.Module:
    return Heads()
