"""Two small networks for digit pairs, and their weights: plain arrays in a .npz file, never code.

Both map pictures (N, 1, 64, 64) to logits (N, 10), one per digit class. A picture has two right classes, so the
probability of a class is the sigmoid of its logit.
"""

from collections.abc import Callable
from importlib.resources import as_file, files

import torch
from torch import nn

from dmbp.errors import DmbpError
from dmbp.models.weights import load_weights


class DigitPairsResNet(nn.Module):
    """Five residual blocks with batch normalisation, averaged over the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv_bn(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.blocks = nn.Sequential(
            _Block(16, 16, stride=1),
            _Block(16, 32, stride=2),
            _Block(32, 32, stride=1),
            _Block(32, 64, stride=2),
            _Block(64, 64, stride=1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classify(self.pool(self.blocks(self.stem(images))).flatten(1))


class _Block(nn.Module):
    """relu(F(h) + skip(h)), the skip a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(_conv_bn(inputs, outputs, 3, stride), nn.ReLU(), _conv_bn(outputs, outputs, 3))
        self.skip = nn.Identity() if inputs == outputs else _conv_bn(inputs, outputs, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.relu(self.residual(h) + self.skip(h))


def _conv_bn(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (over the stride), then batch normalisation, which holds the bias."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class DigitPairsVGG(nn.Module):
    """Plain convolutions with biases and max pools: no batch normalisation, no residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv_relu(1, 16), nn.MaxPool2d(2),
            *_conv_relu(16, 32), *_conv_relu(32, 32), nn.MaxPool2d(2),
            *_conv_relu(32, 64), nn.MaxPool2d(2),
            *_conv_relu(64, 64), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classify = nn.Linear(64 * 4 * 4, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(images).flatten(1))


def _conv_relu(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # without it, and without BN, training stalls
    return conv, nn.ReLU()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "digit-pairs": DigitPairsResNet,
    "digit-pairs-vgg": DigitPairsVGG,
}


def pretrained(name: str) -> nn.Module:
    """The network `name`, "digit-pairs" or "digit-pairs-vgg", with the weights shipped here, in eval mode.

    Raises `DmbpError` for another name.
    """
    if name not in NETWORKS:
        raise DmbpError(f"pretrained: expected one of {', '.join(NETWORKS)}; got {name!r}")
    network = NETWORKS[name]()
    with as_file(files("dmbp").joinpath("assets", f"{name}.npz")) as path:
        load_weights(network, path)
    return network.eval()
