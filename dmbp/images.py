"""Any image file in, the network's input out, and back again for drawing.

Index letters: N pictures, C channels, H rows, W columns. A picture is an array (H, W, 3) of values in [0, 1].
"""

import math
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

from dmbp.errors import DmbpError
from dmbp.extras import install
from dmbp.files import say

SMALLEST = 8  # pixels a side: below that a picture shows nothing that could be explained
LARGEST = 2**24  # pixels that are kept of a picture
SKIMAGE = "skimage:"
WHITE_OF = {"I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I": 65535, "F": 1}  # greyscale deeper than 8 bits


def read_image(name: str | Path) -> np.ndarray:
    """The image file `name`, upright and in RGB: float32 (H, W, 3) in [0, 1].

    `skimage:NAME` is one of the photos that scikit-image ships. Transparency is laid over white, 16-bit
    greyscale keeps its depth, and every other kind of colour is converted. A picture of more than 2²⁴ pixels is read
    smaller by the least whole number that brings it below that, which is many times more than networks take. Of an
    animation the first frame is read; that, and that colour of 16 bits is read as of 8, is said on standard error.

    Raises `DmbpError` for a file that is missing, no image, cut short and unsafely large (from 179 million pixels on),
    and for a picture of fewer than 8 pixels a side.
    """
    path = _skimage_photo(str(name).removeprefix(SKIMAGE)) if str(name).startswith(SKIMAGE) else Path(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is read of it is bounded
            with Image.open(path) as image:
                notes = _notes(image)
                pixels = _pixels(ImageOps.exif_transpose(_bounded(image)))
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        raise DmbpError(f"{path}: {_reason(error)}") from error
    height, width, _ = pixels.shape
    if min(height, width) < SMALLEST:
        raise DmbpError(f"{path}: expected at least {SMALLEST}×{SMALLEST} pixels, got {width}×{height}")
    for note in notes:
        say(f"{path}: {note}")
    return pixels


def _bounded(image: Image.Image) -> Image.Image:
    """The picture, or a smaller one whose pixels are means of squares of its own; a JPEG is decoded smaller already."""
    if (factor := _factor(image)) == 1:
        return image
    turned = image.getexif()
    image.draft(image.mode, (image.width // factor, image.height // factor))  # one that is no JPEG stays as it is
    rest = _factor(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB", *WHITE_OF):
        image = image.convert("RGB")
    image = image.convert("I") if image.mode.startswith("I;16") else image
    small = image.reduce(rest)
    small.getexif().update(turned)
    return small


def _factor(image: Image.Image) -> int:
    """How many times smaller it must be on each side."""
    return max(1, math.ceil(math.sqrt(image.width * image.height / LARGEST)))


def _notes(image: Image.Image) -> list[str]:
    """What of a file is not read."""
    frames = getattr(image, "n_frames", 1)
    said = [f"the first of its {frames} frames is read"] * (frames > 1 and image.format != "MPO")
    tiles = getattr(image, "tile", None)
    raw = str(tiles[0].args) if tiles else ""
    return said + ["its 16 bits of colour are read as 8"] * (image.mode in ("RGB", "RGBA") and ";16" in raw)


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode in WHITE_OF:
        grey = np.asarray(image, dtype=np.float32) / WHITE_OF[image.mode]
        if not ((grey >= 0) & (grey <= 1)).all():  # true of NaN too
            raise ValueError(f"expected values between 0 and {WHITE_OF[image.mode]}")
        return np.repeat(grey[..., None], 3, axis=-1)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    rgba = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
    colour, opacity = rgba[..., :3], rgba[..., 3:]
    return 1 - opacity * (1 - colour)


_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (FileNotFoundError, "there is no such image file"),
    (IsADirectoryError, "this is a directory, not an image file"),
    (UnidentifiedImageError, "this is not an image, or of a kind that Pillow does not know"),
    (Image.DecompressionBombError, "the image has too many pixels to be read safely: make it smaller first"),
)


def _reason(error: Exception) -> str:
    known = (reason for kind, reason in _REASONS if isinstance(error, kind))
    return next(known, f"the image cannot be read: {error}")


def _skimage_photo(photo: str) -> Path:
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DmbpError(f"{SKIMAGE}{photo} needs scikit-image: {install('demo')}")
    files = sorted(Path(spec.origin).with_name("data").glob("*.[jp][pn]g"))
    photos = {file.stem: file for file in files}
    if photo not in photos:
        raise DmbpError(f"scikit-image ships no photo {photo!r}; expected one of {', '.join(photos)}")
    return photos[photo]


@dataclass(frozen=True)
class Preprocess:
    """x = (p − mean) / std, where p is the middle of the picture, resized to `size`; and back.

    size: (H, W) of the network's input. mean, std: one value per channel. One channel is grey, three are RGB; networks
    of other numbers take arrays, of which `picture` shows the mean.
    crop: how much of the largest centred box of the shape H : W is taken, 1 for all of it.
    Shrinking is antialiased, as in Pillow and torchvision.

    Raises `DmbpError` for values that make no sense.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        if not self.mean or len(self.std) != len(self.mean):
            raise DmbpError(f"Preprocess: expected a mean and a std for each channel, got {self.mean} and {self.std}")
        if min(self.size) < 1 or min(self.std) <= 0 or not 0 < self.crop <= 1:
            raise DmbpError(f"Preprocess: expected size and std above 0 and crop in (0, 1], got {self}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise DmbpError(f'Preprocess: expected "bilinear" or "bicubic", got {self.interpolation!r}')

    @property
    def channels(self) -> int:
        return len(self.mean)

    def tensor(self, image: np.ndarray) -> torch.Tensor:
        """The picture `image` (H₀, W₀, 3) in the network's input space: float32 (1, C, H, W)."""
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or not np.isfinite(image).all():
            raise DmbpError(f"Preprocess: expected a finite picture (H, W, 3), got shape {image.shape}")
        if self.channels not in (1, 3):
            raise DmbpError(
                f"the network takes {self.channels} channels, and a picture has three: give an array, "
                f"({self.channels}, {self.size[0]}, {self.size[1]}), as .npy"
            )
        pixels = torch.tensor(image, dtype=torch.float32).movedim(-1, 0).unsqueeze(0)
        pixels = self._middle(_grey(pixels) if self.channels == 1 else pixels)
        resized = F.interpolate(pixels, self.size, mode=self.interpolation, antialias=True)
        mean, std = self._statistics(resized)
        return (resized.clamp(0, 1) - mean) / std  # bicubic overshoots

    def picture(self, x: torch.Tensor) -> np.ndarray:
        """The input `x`, (1, C, H, W) or (C, H, W), as a picture (H, W, 3): p = x · std + mean in [0, 1]."""
        mean, std = self._statistics(x)
        pixels = (x.detach() * std + mean).clamp(0, 1).reshape(x.shape[-3:])
        pixels = pixels if len(pixels) in (1, 3) else pixels.mean(0, keepdim=True)
        return pixels.expand(3, -1, -1).movedim(0, -1).numpy(force=True)

    def _middle(self, pixels: torch.Tensor) -> torch.Tensor:
        height, width = pixels.shape[-2:]
        pixels_per_pixel = self.crop * min(height / self.size[0], width / self.size[1])
        box = [max(1, math.floor(side * pixels_per_pixel + 0.5)) for side in self.size]
        top, left = (height - box[0]) // 2, (width - box[1]) // 2
        return pixels[..., top : top + box[0], left : left + box[1]]

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = like.new_tensor(self.mean), like.new_tensor(self.std)
        return mean[:, None, None], std[:, None, None]


def _grey(pixels: torch.Tensor) -> torch.Tensor:
    """Luma (ITU-R 601), written as differences so that grey pixels keep their value to the last bit."""
    red, green, blue = pixels.split(1, dim=1)
    return green + 0.299 * (red - green) + 0.114 * (blue - green)
