"""The picture of an explanation, in the style of the paper's Figures 1, 2 and 6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
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
    result: Result,
    image: int = 0,
    picture: np.ndarray | Mapping[str, np.ndarray] | None = None,
    title: str = "",
    score: str = "y",
) -> Figure:
    """One image of a result: picture, mappings ∇⁺ and ∇⁻, the paper's maps and the complete ones, y's by iteration.

    The paper's maps are ∇⁺⊙x, ∇⁻⊙x and their sum, summed over the channels; the complete ones have the bias terms too,
    each at its place. Under each map stands what it sums to. The maps of a row are on one scale, white at exactly zero;
    units are those of the score. `picture` (H, W, 3) in [0, 1] is drawn in the place of x itself, which is scaled to
    its own range. Of several inputs each that is a picture has its own rows, and `picture` is by name. Raises DmbpError
    where no input is a picture (C, H, W) with one or three channels, and where the batch has no such image.
    """
    check_image(result.account, image)
    layout = result.account.layout
    names = [entry.name for entry in layout.data if len(entry.shape) == 3 and entry.shape[0] in (1, 3)]
    if not names:
        shapes = ", ".join(str(entry.shape) for entry in layout.data)
        raise DmbpError(f"only pictures (1 or 3, H, W) can be drawn; the input has shape {shapes}: see arrays()")
    sizes = [layout[name].shape[-2:] for name in names]
    rows = [min(max(2.85 * height / width, 1.6), 2.4) for height, width in sizes]  # inches: wide ones need less
    figure = Figure(
        figsize=(13.2, 3.4 * len(names) + 3 * sum(rows)), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    )
    ratios = [ratio for row in rows for ratio in (row, row, 0.11, row, 0.11)]
    grid = figure.add_gridspec(len(ratios), 4, width_ratios=(1, 1, 1, 1.4), height_ratios=ratios)
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=15, wrap=True)
    pictures = picture if isinstance(picture, Mapping) else {names[0]: picture}
    for place, name in enumerate(names):
        _rows_of_one(figure, grid, 5 * place, result, image, name, pictures.get(name), score)
    _history(figure.add_subplot(grid[0, 3]), result, image, score)
    _shares(figure.add_subplot(grid[1:5, 3]), result, image, score)
    return figure


def _rows_of_one(
    figure: Figure, grid: GridSpec, first: int, result: Result, image: int, name: str,
    picture: np.ndarray | None, score: str,
) -> None:  # fmt: skip
    """The rows of one input: itself with its mappings, and both kinds of maps."""
    above, paper, complete = ([figure.add_subplot(grid[first + line, k]) for k in range(3)] for line in (0, 1, 3))
    several = result.account.layout.several
    _picture(
        above[0], scaled(result.inputs[name][image]) if picture is None else picture, name if several else "image x"
    )
    _mappings(above[1:], result, image, name)
    pixels = [pixel_map(_of(value, name)) for value in (result.positive, result.negative, result.attribution)]
    names = ("positive ∇⁺ ⊙ x", "negative ∇⁻ ⊙ x", "attribution a")
    scale = figure.add_subplot(grid[first + 2, :3])
    _maps(paper, scale, dict(zip(names, pixels, strict=True)), "pixels", result, image, score)
    names = ("complete, positive", "complete, negative", "complete, both")
    values = [result.shares["positive"].complete, result.shares["negative"].complete, result.complete]
    maps = {title: _of(value, name) for title, value in zip(names, values, strict=True)}
    _maps(complete, figure.add_subplot(grid[first + 4, :3]), maps, "with biases", result, image, score)


def _of(values: Any, name: str) -> Tensor:
    """What belongs to one input, where there are several."""
    found: Tensor = values[name] if isinstance(values, Mapping) else values
    return found


def _picture(ax: Axes, picture: np.ndarray, title: str) -> None:
    ax.imshow(picture, interpolation="nearest")
    frame(ax, title)


def _mappings(axes: list[Axes], result: Result, image: int, name: str) -> None:
    """∇⁺ and ∇⁻ on one scale, in units of the score per unit of x: colour around grey for RGB, else blue–white–red."""
    mappings = (result.account.layout.parted(result.shares[part].mapping) for part in ("positive", "negative"))
    parts = [_of(mapping, name)[image].numpy(force=True) for mapping in mappings]
    limit = limit_of(np.stack(parts))
    for ax, part, title in zip(axes, parts, ("positive mapping ∇⁺", "negative mapping ∇⁻"), strict=True):
        if len(part) == 3:
            zero = "grey"
            ax.imshow(np.clip(0.5 + 0.5 * part / limit, 0, 1).transpose(1, 2, 0), interpolation="nearest")
        else:
            zero = "white"
            ax.imshow(part[0], cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        frame(ax, title)
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
