"""A picture of y, y⁺, y⁻ and y~ along a line through a network."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dmbp.along import Along
from linreg.plot.style import BLUE, INK, NUISANCE, RED, despine, own_settings

LINES = {"y": ("y", INK), "positive": ("y⁺", RED), "negative": ("y⁻", BLUE), "nuisance": ("y~", NUISANCE)}


@own_settings()
def draw_along(along: Along, ax: Axes | None = None) -> Axes:
    """y and its parts over t, exactly: straight on each piece; the parts jump where a unit flips. Returns the axes."""
    if ax is None:
        ax = Figure(figsize=(7.0, 3.6), layout="constrained").add_subplot()
    t = along.ends.numpy(force=True)
    apart = np.full((len(t), 1), np.nan)  # the pen is lifted between two pieces
    for name, (label, colour) in LINES.items():
        values: torch.Tensor = getattr(along, name)
        heights = np.hstack([values.numpy(force=True), apart]).ravel()
        ax.plot(np.hstack([t, apart]).ravel(), heights, color=colour, lw=1.2, label=label)
    ax.axhline(0, color=INK, lw=0.5)
    ax.set_xlim(t[0, 0], t[-1, 1])
    ax.set_xlabel(f"t   ({len(t):,} pieces)")
    ax.set_ylabel("share of the score")
    ax.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
    despine(ax)
    return ax
