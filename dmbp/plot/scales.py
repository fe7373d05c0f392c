"""What all pictures of maps share: the scale of a map, its bar of colours, a picture of an input, and a frame."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from torch import Tensor

from linreg.plot.style import FRAME
from linreg.text import number

PLAIN = 896  # dots of the longer side of a map alone, or about so many
PERCENTILE = 99.5  # of |a|: a few extreme pixels must not leave the rest of the map white


def limit_of(values: np.ndarray) -> float:
    """The scale of a map: a high percentile of its non-zero absolute values."""
    absolute = np.abs(values[values != 0])
    return float(np.percentile(absolute, PERCENTILE)) if absolute.size else 1.0


def scaled(x: Tensor) -> np.ndarray:
    """(C, H, W) as a picture (H, W, 3), from its own lowest value to its highest.

    One channel and three are grey and colour; of any other number the mean is grey.
    """
    shown = x if x.shape[0] in (1, 3) else x.mean(0, keepdim=True)
    low, high = shown.min(), shown.max()
    unit = (shown - low) / (high - low).clamp_min(1e-12)
    return unit.expand(3, -1, -1).permute(1, 2, 0).numpy(force=True)


def frame(ax: Axes, title: str, size: float = 11) -> None:
    """A picture's title and thin frame, without ticks."""
    ax.set_title(title.replace("$", r"\$"), fontsize=size)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(FRAME)


def colour_bar(ax: Axes, drawn: AxesImage, limit: float, of: str) -> None:
    """The bar that belongs to maps drawn from −limit to limit, in `ax`; `of` is what a value is a share for."""
    bar = ax.figure.colorbar(drawn, cax=ax, orientation="horizontal", extend="both")
    bar.set_ticks([-limit, -limit / 2, 0, limit / 2, limit], labels=[number(v * limit) for v in (-1, -0.5, 0, 0.5, 1)])
    bar.set_label(f"share of the score per {of} (red for, blue against, white none)", fontsize=10)
    bar.ax.tick_params(labelsize=9)
