"""Two small networks for digit pairs, and their weights: plain arrays in a .npz file, never code.

Both map pictures (N, 1, 64, 64) to logits (N, 10), one per digit class. A picture has two right classes, so the
probability of a class is the sigmoid of its logit.
"""

import os
import zipfile
import zlib
from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dmbp.errors import DmbpError


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
    load_weights(network, files("dmbp").joinpath("assets", f"{name}.npz"))
    return network.eval()


def load_weights(network: nn.Module, path: Traversable) -> None:
    """Fill `network` with the arrays of a .npz file written by `save_weights`.

    Raises `DmbpError`, before anything is changed, for a file that is no .npz of plain arrays, or whose names, shapes
    or dtypes are not exactly the network's, or which holds a value that is not finite.
    """
    arrays = _read(path)
    state = network.state_dict()
    if arrays.keys() != state.keys():
        missing, unknown = sorted(state.keys() - arrays.keys()), sorted(arrays.keys() - state.keys())
        raise DmbpError(f"{path}: weights do not fit the network: missing {missing}, unknown {unknown}")
    weights = {key: _fitting(arrays[key], like, f"{path}: {key}") for key, like in state.items()}
    network.load_state_dict(weights)


def save_weights(network: nn.Module, path: Path) -> None:
    """Write every parameter and buffer to the .npz file `path`, which appears whole or not at all."""
    arrays = {key: value.detach().cpu().numpy() for key, value in network.state_dict().items()}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Traversable) -> dict[str, np.ndarray | bytes]:
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream):  # np.load would also take other formats
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DmbpError(f"{path}: expected a .npz file of plain arrays: {error}") from error


def _fitting(array: np.ndarray | bytes, like: torch.Tensor, where: str) -> torch.Tensor:
    """`array` as a tensor, if it can stand in for `like`."""
    expected = like.numpy(force=True)
    if not isinstance(array, np.ndarray):  # numpy hands out other members of the archive as bytes
        raise DmbpError(f"{where}: expected an array, got {type(array).__name__}")
    if (array.shape, array.dtype) != (expected.shape, expected.dtype):
        raise DmbpError(f"{where}: expected {expected.shape} {expected.dtype}, got {array.shape} {array.dtype}")
    if not np.isfinite(array).all():
        raise DmbpError(f"{where}: expected finite values")
    return torch.from_numpy(array)
