"""The picture of an explanation, in the style of the paper's Figures 1, 2 and 6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dmbp.account import check_image
from dmbp.errors import DmbpError
from dmbp.files import DPI
from linreg.plot.style import BLUE, DIVERGING, FRAME, GREEN, NUISANCE, PURPLE, RED, despine, own_settings
from linreg.text import number

if TYPE_CHECKING:
    from dmbp.result import Result

PLAIN = 896  # dots of the longer side of a map alone, or about so many
PERCENTILE = 99.5  # of |a|: a few extreme pixels must not leave the rest of the map white


@own_settings()
def draw_explanation(
    result: Result, image: int = 0, picture: np.ndarray | None = None, title: str = "", score: str = "y"
) -> Figure:
    """One image of a result: picture, mappings ∇⁺ and ∇⁻, the paper's maps and the complete ones, y's by iteration.

    The paper's maps are ∇⁺⊙x, ∇⁻⊙x and their sum, summed over the channels; the complete ones have the bias terms too,
    each at its place. Under each map stands what it sums to. The maps of a row are on one scale, white at exactly zero;
    units are those of the score. `picture` (H, W, 3) in [0, 1] is drawn in the place of x itself, which is scaled to
    its own range. Raises DmbpError where the input is no picture (C, H, W) with one or three channels, and where the
    batch has no such image.
    """
    check_image(result.account, image)
    x = result.input[image]
    if x.dim() != 3 or x.shape[0] not in (1, 3):
        raise DmbpError(
            f"only pictures (1 or 3, H, W) can be drawn; the input has shape {tuple(x.shape)}: see arrays()"
        )
    height, width = x.shape[-2:]
    row = min(max(2.85 * height / width, 1.6), 2.4)  # inches: wide pictures need less
    figure = Figure(figsize=(13.2, 3.4 + 3 * row), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    grid = figure.add_gridspec(5, 4, width_ratios=(1, 1, 1, 1.4), height_ratios=(row, row, 0.11, row, 0.11))
    above, paper, complete = ([figure.add_subplot(grid[line, k]) for k in range(3)] for line in (0, 1, 3))
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=15, wrap=True)
    _picture(above[0], scaled(x) if picture is None else picture)
    _mappings(above[1:], result, image)
    positive, negative = (result.shares[part].complete for part in ("positive", "negative"))
    pixels = [pixel_map(value) for value in (result.positive, result.negative, result.attribution)]
    names = ("positive ∇⁺ ⊙ x", "negative ∇⁻ ⊙ x", "attribution a")
    _maps(paper, figure.add_subplot(grid[2, :3]), dict(zip(names, pixels, strict=True)), "pixels", result, image, score)
    names = ("complete, positive", "complete, negative", "complete, both")
    maps = dict(zip(names, (positive, negative, result.complete), strict=True))
    _maps(complete, figure.add_subplot(grid[4, :3]), maps, "with biases", result, image, score)
    _history(figure.add_subplot(grid[0, 3]), result, image, score)
    _shares(figure.add_subplot(grid[1:, 3]), result, image, score)
    return figure


def _picture(ax: Axes, picture: np.ndarray) -> None:
    ax.imshow(picture, interpolation="nearest")
    frame(ax, "image x")


def _mappings(axes: list[Axes], result: Result, image: int) -> None:
    """∇⁺ and ∇⁻ on one scale, in units of the score per unit of x: colour around grey for RGB, else blue–white–red."""
    parts = [result.shares[part].mapping[image].numpy(force=True) for part in ("positive", "negative")]
    limit = limit_of(np.stack(parts))
    for ax, part, name in zip(axes, parts, ("positive mapping ∇⁺", "negative mapping ∇⁻"), strict=True):
        if len(part) == 3:
            zero = "grey"
            ax.imshow(np.clip(0.5 + 0.5 * part / limit, 0, 1).transpose(1, 2, 0), interpolation="nearest")
        else:
            zero = "white"
            ax.imshow(part[0], cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        frame(ax, name)
        ax.set_xlabel(f"{zero} 0, full colour ±{number(limit)} per unit of x", fontsize=9)


def _maps(
    axes: list[Axes], scale: Axes, maps: Mapping[str, Tensor], what: str, result: Result, image: int, score: str
) -> None:
    """Three maps (N, H, W) of y⁺, of y⁻ and of both, on one scale, with how much of these each sums to."""
    values = [each[image].numpy(force=True) for each in maps.values()]
    limit = limit_of(np.stack(values))
    positive, negative = (result.scores[part][image].item() for part in ("positive", "negative"))
    totals = {f"{score}⁺": positive, f"{score}⁻": negative, f"{score}⁺ + {score}⁻": positive + negative}
    if result.loss == "none":
        totals = {f"{score}⁺": positive, f"{score}⁻": negative, score: result.scores["y"][image].item()}
    for ax, name, each, (of, total) in zip(axes, maps, values, totals.items(), strict=True):
        drawn = ax.imshow(each, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        frame(ax, name)
        ax.set_xlabel(f"{what}: {number(float(each.sum()))} of {of} = {number(total)}", fontsize=9)
    bar = scale.figure.colorbar(drawn, cax=scale, orientation="horizontal", extend="both")
    bar.set_ticks([-limit, -limit / 2, 0, limit / 2, limit], labels=[number(v * limit) for v in (-1, -0.5, 0, 0.5, 1)])
    bar.set_label("share of the score per pixel (red for, blue against, white none)", fontsize=10)
    bar.ax.tick_params(labelsize=9)


@own_settings()
def draw_map(values: Tensor) -> Figure:
    """One map (H, W) and nothing else, as many dots as it has pixels or a multiple: for pages and talks.

    Red above zero, blue below, white at exactly zero; full colour at a high percentile of |values|, as in the figure.
    """
    height, width = values.shape
    enlarged = max(1, round(PLAIN / max(height, width)))
    figure = Figure(figsize=(enlarged * width / DPI, enlarged * height / DPI))
    array = values.numpy(force=True)
    limit = limit_of(array)
    ax = figure.add_axes((0, 0, 1, 1), frameon=False)
    ax.imshow(array, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest", aspect="auto")
    ax.set_axis_off()
    return figure


def pixel_map(attribution: Tensor) -> Tensor:
    """Σ over channels of a map (N, C, H, W): (N, H, W). The absolute value is never taken before the sum."""
    return attribution.sum(1)


def _history(ax: Axes, result: Result, image: int, score: str) -> None:
    lines = {"positive": (f"{score}⁺", RED), "negative": (f"{score}⁻", BLUE), "nuisance": (f"{score}~", NUISANCE)}
    for part, (name, colour) in lines.items():
        values = result.history[part][:, image].numpy(force=True)
        ax.plot(values, color=colour, lw=2, label=name, marker="o" if len(values) == 1 else None)
    y = result.scores["y"][image].item()
    ax.axhline(y, color="black", lw=1.2, ls="--", label=f"{score} = {number(y)}")
    ax.set_xlabel("iteration")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=(1, 2, 5, 10)))
    ax.legend(ncols=4, fontsize=10, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.98), handlelength=1.4)
    ax.margins(x=0.01)
    despine(ax)
    ax.tick_params(labelsize=9)


def _shares(ax: Axes, result: Result, image: int, score: str) -> None:
    """How much of y⁺, y⁻ and y~ comes from the input and how much from biases."""
    parts, names = ("positive", "negative", "nuisance"), (f"{score}⁺", f"{score}⁻", f"{score}~")
    shares = [result.shares[part] for part in parts]
    inputs = [share.input_share[image].item() for share in shares]
    biases = [share.bias_share[image].item() for share in shares]
    places = np.arange(len(parts))
    ax.bar(places - 0.19, inputs, 0.36, color=GREEN, label="from the input")
    ax.bar(places + 0.19, biases, 0.36, color=PURPLE, label="from bias terms")
    ax.axhline(0, color="black", lw=0.8)
    totals = [result.scores[part][image].item() for part in parts]
    ax.set_xticks(places, [f"{n} = {number(t)}" for n, t in zip(names, totals, strict=True)])
    ax.legend(ncols=2, fontsize=10, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.98), handlelength=1.4)
    despine(ax)
    ax.tick_params(labelsize=9)


def limit_of(values: np.ndarray) -> float:
    """The scale of a map: a high percentile of its non-zero absolute values."""
    absolute = np.abs(values[values != 0])
    return float(np.percentile(absolute, PERCENTILE)) if absolute.size else 1.0


def scaled(x: Tensor) -> np.ndarray:
    """(C, H, W) of one or three channels as a picture (H, W, 3), from its own lowest value to its highest."""
    low, high = x.min(), x.max()
    unit = (x - low) / (high - low).clamp_min(1e-12)
    return unit.expand(3, -1, -1).permute(1, 2, 0).numpy(force=True)


def frame(ax: Axes, title: str) -> None:
    """A picture's title and thin frame, without ticks."""
    ax.set_title(title, fontsize=11)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(FRAME)
