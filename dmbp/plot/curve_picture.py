"""The picture of a metric's curve, like the paper's Figure 3: snapshots on the way, the map, and the curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from dmbp.errors import DmbpError
from dmbp.evaluation.curves import Curve
from dmbp.evaluation.ways import Way
from dmbp.plot.scales import frame, limit_of, scaled
from linreg.plot.style import DIVERGING, NUISANCE, PALE, RED, despine
from linreg.text import number

SHARES = (0.0, 0.05, 0.15, 0.3, 0.6, 1.0)  # of the pixels, of the snapshots


def draw_curve(
    curve: Curve,
    way: Way,
    image: int = 0,
    *,
    picture: Callable[[Tensor], np.ndarray] | None = None,
    shares: Sequence[float] = SHARES,
    title: str = "",
    score: str = "probability",
) -> Figure:
    """One picture of a curve: what the network saw after such shares of the pixels, the map's order, and its scores.

    `way` is that of the curve, `dmbp.evaluation.ways.insertion_way(x, maps)` and its like. `picture` makes (H, W, 3) in
    [0, 1] of a snapshot (C, H, W), as `preprocess.picture` does; without it, snapshots are scaled to the range of the
    two ends. Under each snapshot stands its score; points of the curve that hang on the order of equal values are grey,
    and a band shows where the curve could go. The map is red where its pixels come first, blue where last, white at
    zero. Raises DmbpError where there is no such picture, or none that can be drawn, and where curve and way differ.
    """
    _check(curve, way, image)
    counts, scores = curve.counts, curve.scores[image].double()
    chosen = [int((counts - share * counts[-1]).abs().argmin()) for share in shares]
    figure = Figure(figsize=(max(2.1 * len(chosen), 8.4), 5.6), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.08))
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=14, wrap=True)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.35))[:, 0]
    snapshots = way.pictures(image, counts[chosen].to(way.start.device))
    axes = above.subplots(1, len(chosen), squeeze=False)[0]
    for ax, shown, at in zip(axes, _drawn(snapshots, picture), chosen, strict=True):
        ax.imshow(shown, interpolation="nearest")
        frame(ax, f"{counts[at] / counts[-1]:.0%} of the pixels")
        ax.set_xlabel(f"{score} {number(scores[at].item())}", fontsize=10)
    left, right = below.subplots(1, 2, width_ratios=(1, 2.2))
    _order(left, way, image)
    _curve(right, curve, image, chosen, score)
    return figure


def _check(curve: Curve, way: Way, image: int) -> None:
    if not 0 <= image < len(curve.scores):
        raise DmbpError(f"there is no image {image!r}: the curve has {len(curve.scores)}, counted from 0")
    if tuple(way.values.shape) != (len(curve.scores), int(curve.counts[-1])):
        raise DmbpError("the curve was made on another way: of other pictures, or another number of pixels")
    if way.start.dim() != 4 or way.start.shape[1] not in (1, 3):
        raise DmbpError(f"only pictures (1 or 3, H, W) can be drawn, not {tuple(way.start.shape[1:])}")


def _drawn(snapshots: Tensor, picture: Callable[[Tensor], np.ndarray] | None) -> list[np.ndarray]:
    if picture is not None:
        return [picture(each) for each in snapshots]
    return list(np.stack(np.split(scaled(torch.cat(list(snapshots), 1)), len(snapshots))))


def _order(ax: Axes, way: Way, image: int) -> None:
    values = way.values[image].view(way.start.shape[2:]).numpy(force=True)
    limit = limit_of(values)
    ax.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    frame(ax, "the map: red first, blue last")


def _curve(ax: Axes, curve: Curve, image: int, chosen: list[int], score: str) -> None:
    share = (curve.counts / curve.counts[-1]).numpy()
    scores, tied = curve.scores[image].double().numpy(), curve.tied[image].numpy()
    if tied.any():
        low, high = np.where(tied, 0, scores), np.where(tied, 1, scores)
        ax.fill_between(share, low, high, color=PALE, alpha=0.5, lw=0, label="by the order of equal values")
    ax.fill_between(share, scores, color=RED, alpha=0.2, lw=0)
    ax.plot(share, scores, color=RED, lw=1.8)
    for at in chosen:
        ax.plot(share[at], scores[at], "o", color=NUISANCE if tied[at] else RED, ms=6, clip_on=False, zorder=3)
    area, lower, upper = (getattr(curve, name)[image].item() for name in ("area", "lower", "upper"))
    bounds = f", {number(lower)} to {number(upper)} by the order of equal values" if lower < upper else ""
    ax.set_title(f"area {number(area)}{bounds}", fontsize=11)
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(0, 1.04)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xlabel("pixels")
    ax.set_ylabel(score)
    despine(ax)
