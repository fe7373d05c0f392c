"""A map laid over its picture: the picture grey and pale, the map in colours, transparent where it is zero."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dmbp.errors import DmbpError
from dmbp.files import DPI
from dmbp.plot.scales import PLAIN, limit_of
from linreg.plot.style import DIVERGING, own_settings

LUMA = np.array([0.299, 0.587, 0.114])  # of Rec. 601: how bright colours look
PALE = 0.35  # how far the grey picture is taken towards white, so that blue shows on black
FULL = 0.85  # how much of the picture full colour covers


@own_settings()
def draw_overlay(values: Tensor, picture: np.ndarray, limit: float | None = None) -> Figure:
    """One map (H, W) over a picture (H, W, 3) in [0, 1], and nothing else: for pages and talks.

    Red above zero, blue below; the more of the picture is covered the larger |values| is, all of 0.85 from `limit` on,
    which is the high percentile of the figure if it is not given. Raises DmbpError where the two differ in size.
    """
    array = values.numpy(force=True)
    if array.shape != picture.shape[:2]:
        raise DmbpError(f"a map of {array.shape} does not lie on a picture of {picture.shape[:2]}: give both one size")
    height, width = array.shape
    enlarged = max(1, round(PLAIN / max(height, width)))
    figure = Figure(figsize=(enlarged * width / DPI, enlarged * height / DPI))
    ax = figure.add_axes((0, 0, 1, 1), frameon=False)
    overlay(ax, array, picture, limit)
    ax.set_aspect("auto")
    ax.set_axis_off()
    return figure


def overlay(ax: Axes, values: np.ndarray, picture: np.ndarray, limit: float | None = None) -> None:
    """Draw a map (H, W) over a picture (H, W, 3) in `ax`."""
    limit = limit_of(values) if limit is None else limit
    ax.imshow(greyed(picture), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.imshow(coloured(values, limit), interpolation="nearest")


def greyed(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) as grey (H, W), paler."""
    grey: np.ndarray = picture @ LUMA
    return grey + PALE * (1 - grey)


def coloured(values: np.ndarray, limit: float) -> np.ndarray:
    """Values (H, W) as colours with their cover, (H, W, 4): the two full colours, more or less transparent."""
    strength = np.clip(np.abs(values) / limit, 0, 1)
    rgba = DIVERGING(np.where(values > 0, 1.0, 0.0))
    rgba[..., 3] = FULL * strength
    return rgba
