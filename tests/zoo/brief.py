"""Published networks in fewer layers: the same classes, wired in the same way, for tests that need no depth."""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from torchvision.models import DenseNet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.segmentation.fcn import FCN, FCNHead

from zoo.published import ZOO


def densenet() -> nn.Module:
    """Four dense blocks of two or three layers, not of 6, 12, 24 and 16."""
    return DenseNet(growth_rate=8, block_config=(2, 3, 2, 2), num_init_features=16, num_classes=10)


def fcn() -> nn.Module:
    """One bottleneck in each stage of the ResNet, not 3, 4, 6 and 3; strides replaced by dilation, as there."""
    backbone = ResNet(Bottleneck, [1, 1, 1, 1], replace_stride_with_dilation=[False, True, True])
    body = IntermediateLayerGetter(backbone, {"layer4": "out", "layer3": "aux"})
    return FCN(body, FCNHead(2048, 21), FCNHead(1024, 21))


BRIEF = {
    "densenet121": replace(ZOO["densenet121"], build=densenet, large=False),
    "fcn_resnet50": replace(ZOO["fcn_resnet50"], build=fcn),
}
