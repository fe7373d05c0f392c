"""The VOC networks, from files of the names and shapes that TorchRay distributes, which these tests write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from dmbp.errors import DmbpError
from dmbp.models import load_model
from dmbp.models.voc_networks import CAFFE, VOC_CLASSES

pytestmark = pytest.mark.xdist_group("voc-networks")
LARGE = 5_000_000
FILES = {"vgg16": "vgg16_voc-b050e8c3.pth.tar", "resnet50": "resnet50_voc-9ca920d6.pth.tar"}


def drawn(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Random, of the size that keeps signals; a large matrix is windows of one row of numbers: a small file."""
    inner = max(1, torch.Size(shape[1:]).numel())
    scale = (2 / inner) ** 0.5
    if shape.numel() < LARGE:
        return torch.randn(shape, generator=generator) * scale
    row = torch.randn(shape[0] + inner - 1, generator=generator) * scale
    return row.as_strided(shape, (1, 1))


def vgg16_file() -> dict[str, Tensor]:
    """Caffe's: the classifier has no dropouts, and may hold convolutions."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        state = torchvision.models.vgg16(num_classes=20).state_dict()
    told = {"classifier.3": "classifier.2", "classifier.6": "classifier.4"}
    made = {}
    for key, value in state.items():
        layer, _, part = key.rpartition(".")
        made[f"{told.get(layer, layer)}.{part}"] = drawn(value.shape, generator)
    made["classifier.0.weight"] = made["classifier.0.weight"].unflatten(1, (512, 7, 7))
    return made


def resnet50_file() -> dict[str, Tensor]:
    """Caffe's: a bias in conv1, and each batch norm as two layers, 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    made = {"conv1.bias": torch.randn(64, generator=generator)}
    with torch.device("meta"):
        state = torchvision.models.resnet50(num_classes=20).state_dict()
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        norm = re.fullmatch(r"(.*bn\d|.*downsample\.1)\.(\w+)", key)
        half = f"{norm[1]}.{0 if norm[2].startswith('running') else 1}.{norm[2]}" if norm else key
        made[half] = torch.rand(value.shape, generator=generator) + 0.5 if norm else drawn(value.shape, generator)
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("torchray")
    paths = {name: folder / file for name, file in FILES.items()}
    torch.save(vgg16_file(), paths["vgg16"])
    torch.save(resnet50_file(), paths["resnet50"])
    yield paths


def literal_vgg16(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Layer by layer, from Caffe's definition: BGR in, pools of 2 in ceil mode."""
    h = x.flip(1)
    place = 0
    for block in (2, 2, 3, 3, 3):
        for _ in range(block):
            h = F.conv2d(h, weights[f"features.{place}.weight"], weights[f"features.{place}.bias"], padding=1).relu()
            place += 2
        h = F.max_pool2d(h, 2, ceil_mode=True)
        place += 1
    h = h.flatten(1)
    for layer in (0, 2, 4):
        h = F.linear(h, weights[f"classifier.{layer}.weight"].flatten(1), weights[f"classifier.{layer}.bias"])
        h = h.relu() if layer < 4 else h
    return h


def literal_resnet50(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Layer by layer, from Caffe's definition: BGR in, and the stride of a stage on its first 1×1."""

    def norm(h: Tensor, name: str) -> Tensor:
        low = [weights[f"{name}.0.running_{part}"] for part in ("mean", "var")]
        return F.batch_norm(h, *low, weights[f"{name}.1.weight"], weights[f"{name}.1.bias"])

    h = F.conv2d(x.flip(1), weights["conv1.weight"], weights["conv1.bias"], stride=2, padding=3)
    h = F.max_pool2d(norm(h, "bn1").relu(), 3, 2, padding=0, ceil_mode=True)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = norm(F.conv2d(h, weights[f"{name}.conv1.weight"], stride=stride), f"{name}.bn1").relu()
            inner = norm(F.conv2d(inner, weights[f"{name}.conv2.weight"], padding=1), f"{name}.bn2").relu()
            inner = norm(F.conv2d(inner, weights[f"{name}.conv3.weight"]), f"{name}.bn3")
            if block == 0:
                h = F.conv2d(h, weights[f"{name}.downsample.0.weight"], stride=stride)
                h = norm(h, f"{name}.downsample.1")
            h = (h + inner).relu()
    return F.linear(h.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_network_is_caffes_by_a_literal_computation(files: dict[str, Path], name: str) -> None:
    """On a picture of 217×217, where ceil mode makes another size; VGG, whose classifier has one size, on 224×224."""
    model = load_model(f"voc:{name}", files[name])
    assert (model.labels, model.probability, model.preprocess) == (VOC_CLASSES, "sigmoid", CAFFE)
    network = model.network
    assert not network.training and isinstance(network, nn.Module)
    side = 217 if name == "resnet50" else 224
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(2))
    weights = torch.load(files[name], weights_only=True)
    literal = {"vgg16": literal_vgg16, "resnet50": literal_resnet50}[name](weights, x)
    scores = model.scores(x)
    assert scores.shape == (1, 20) and scores.std() > 0
    torch.testing.assert_close(scores, literal, rtol=1e-3, atol=1e-4 * float(literal.abs().max()))
    turned = model.scores(x.flip(1))
    assert (turned - literal).abs().max() > 1e-2 * literal.abs().max(), "the order of the colours counts"


def test_pools_of_vgg_are_in_ceil_mode_and_means_are_caffes() -> None:
    from dmbp.models.voc_networks import VOC_NETWORKS

    with torch.device("meta"):
        network = VOC_NETWORKS["vgg16"].build()
    pools = [module for module in network.modules() if isinstance(module, nn.MaxPool2d)]
    assert len(pools) == 5 and all(pool.ceil_mode for pool in pools)
    x = CAFFE.tensor(torch.tensor([1.0, 0.5, 0.0]).expand(300, 260, 3).numpy())
    assert x.shape == (1, 3, 224, 224)
    wanted = torch.tensor([255 - 123.68, 127.5 - 116.779, -103.939])
    torch.testing.assert_close(x[0, :, 100, 100], wanted, rtol=1e-4, atol=1e-3)


def test_a_file_that_is_another_one_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        DmbpError,
        match=r"voc:resnet50 needs its weights: fetch https:.*resnet50_voc-9ca920d6.pth.tar and .* torchvision",
    ):
        load_model("voc:resnet50")
    with pytest.raises(DmbpError, match="there is no network voc:vgg19; expected voc:vgg16, voc:resnet50"):
        load_model("voc:vgg19")
    with pytest.raises(DmbpError, match=r"expected conv1.weight, a convolution of three channels, got nothing"):
        load_model("voc:resnet50", files["vgg16"])
    cut = {key: value for key, value in resnet50_file().items() if not key.startswith("layer4.2")}
    torch.save(cut, tmp_path / FILES["resnet50"])
    with pytest.raises(DmbpError, match=r"do not fit the network; missing: layer4\.2\.conv1"):
        load_model("voc:resnet50", tmp_path / FILES["resnet50"])
