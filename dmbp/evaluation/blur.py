"""The blurred picture from which insertion starts: the kernel of RISE's reference, to the last digit."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmbp.errors import DmbpError

SIDE, SIGMA = 11, 5.0  # of the kernel, in pixels
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def blurred(x: Tensor) -> Tensor:
    """x (N, C, *picture) convolved with the kernel, each channel by itself, with zeros beyond the border.

    This is done in the network's input space, so that the zeros are its mean colour. Raises DmbpError for pictures of
    more than three dimensions.
    """
    dims = x.dim() - 2
    if dims not in CONVOLUTIONS:
        raise DmbpError(f"a picture of 1 to 3 dimensions can be blurred, not one of shape {tuple(x.shape[2:])}")
    channels = x.shape[1]
    weight = torch.from_numpy(kernel(dims)).to(x).expand(channels, 1, *(SIDE,) * dims)
    return CONVOLUTIONS[dims](x, weight, padding=SIDE // 2, groups=channels)


@cache
def kernel(dims: int = 2) -> np.ndarray:
    """What a Gaussian filter with σ = 5 makes of a single pixel in the middle of 11×11, in float32.

    The filter reflects at its borders (scipy's default), and nearly half of a Gaussian of this width lies beyond them:
    what comes back makes it almost a box. In 2 dimensions: centre 0.0088326282, middle of an edge 0.0082664880, corner
    0.0077366354, before they are rounded to float32.
    """
    from scipy.ndimage import gaussian_filter

    pixel = np.zeros((SIDE,) * dims)
    pixel[(SIDE // 2,) * dims] = 1
    return gaussian_filter(pixel, SIGMA).astype(np.float32)
