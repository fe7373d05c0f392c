"""The networks fine-tuned on PASCAL VOC that the paper takes from [38], read from the files that TorchRay distributes.

They were trained with Caffe, and differ from torchvision's networks of the same names: 20 scores, of which each has a
probability of its own (a sigmoid); ceil-mode pooling; in the ResNet-50 a bias in conv1, max pooling without padding,
and the stride of layers 2 to 4 on the first 1×1 convolution. They take RGB pictures once the first convolution's
channels, BGR in the files, are turned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dmbp.errors import DmbpError
from dmbp.extras import install, needs
from dmbp.images import Preprocess
from dmbp.models.weights import fill, read_weights
from dmbp.models.words import kind_of

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
MEANS = (123.68, 116.779, 103.939)  # Caffe's, of red, green and blue bytes
# The shorter side becomes 224 and the middle square is taken: the metrics, and the paper, have 224×224 pixels.
CAFFE = Preprocess((224, 224), tuple(mean / 255 for mean in MEANS), (1 / 255,) * 3)
TORCHRAY = "https://dl.fbaipublicfiles.com/torchray"


@dataclass(frozen=True)
class Distributed:
    """A network as TorchRay distributes it: its file, how torchvision's is patched, and how names become torchvision's.

    `first` is the convolution whose input channels are turned from BGR to RGB.
    """

    file: str
    build: Callable[[], nn.Module]
    rename: Callable[[str], str]
    first: str


def voc_network(name: str, weights: Path | None) -> nn.Module:
    """The network `name`, "vgg16" or "resnet50", with the weights of TorchRay's file, taking RGB.

    Raises `DmbpError` for another name, without a file, and for a file that does not fit.
    """
    if name not in VOC_NETWORKS:
        raise DmbpError(
            f"there is no network voc:{name}; expected {', '.join(f'voc:{known}' for known in VOC_NETWORKS)}"
        )
    found = VOC_NETWORKS[name]
    if weights is None:
        raise DmbpError(
            f"voc:{name} needs its weights: fetch {TORCHRAY}/{found.file} and pass it with --weights FILE; and "
            f"torchvision, with {install('eval')}"
        )
    network = found.build()
    return fill(network, _as_torchvision(read_weights(weights), found, network, weights), weights)


def _as_torchvision(
    weights: Mapping[str, Tensor], found: Distributed, network: nn.Module, path: Path
) -> dict[str, Tensor]:
    """The weights under torchvision's names and in its shapes, for RGB."""
    renamed = {found.rename(key): value for key, value in weights.items()}
    first = renamed.get(found.first)
    if first is None or first.dim() != 4 or first.shape[1] != 3:
        came = "nothing" if first is None else kind_of(first)
        raise DmbpError(f"{path}: expected {found.first}, a convolution of three channels, got {came}")
    renamed[found.first] = first.flip(1)
    state = network.state_dict()
    # Caffe's fully connected layers may be kept as convolutions: the same numbers in the same order
    return {key: _reshaped(value, state.get(key)) for key, value in renamed.items()}


def _reshaped(value: Tensor, like: Tensor | None) -> Tensor:
    is_matrix = like is not None and like.dim() == 2 and value.dim() == 4
    return value.reshape(len(value), -1) if is_matrix else value


def _vgg16() -> nn.Module:
    network = _torchvision().vgg16(num_classes=len(VOC_CLASSES))
    for module in network.modules():
        if isinstance(module, nn.MaxPool2d):
            module.ceil_mode = True
    return network


def _resnet50() -> nn.Module:
    network = _torchvision().resnet50(num_classes=len(VOC_CLASSES))
    network.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=True)
    network.maxpool = nn.MaxPool2d(3, stride=2, padding=0, ceil_mode=True)
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return network


def _torchvision() -> Any:
    return needs("torchvision", install("eval")).models


def _with_dropouts(key: str) -> str:
    """torchvision's classifier has two dropouts in between, which the file does not count."""
    return re.sub(r"^classifier\.([024])\.", lambda layer: f"classifier.{int(layer[1]) * 3 // 2}.", key)


def _without_halves(key: str) -> str:
    """Caffe's batch norm is two layers, 0 (statistics) and 1 (weight and bias)."""
    return re.sub(r"(bn\d|downsample\.\d)\.[01]\.", r"\1.", key)


VOC_NETWORKS = {
    "vgg16": Distributed("vgg16_voc-b050e8c3.pth.tar", _vgg16, _with_dropouts, "features.0.weight"),
    "resnet50": Distributed("resnet50_voc-9ca920d6.pth.tar", _resnet50, _without_halves, "conv1.weight"),
}
