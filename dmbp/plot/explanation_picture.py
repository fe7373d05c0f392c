"""The picture of an explanation, in the style of the paper's Figures 1, 2 and 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dmbp.account import check_image
from dmbp.errors import DmbpError
from dmbp.files import DPI
from dmbp.plot.bars_picture import BARS
from dmbp.plot.photo_picture import PHOTO
from dmbp.plot.scales import PLAIN, limit_of
from dmbp.plot.signal_picture import SIGNAL
from dmbp.plot.view import Place, View
from dmbp.plot.volume_picture import VOLUME
from linreg.inputs import Input
from linreg.plot.style import BLUE, DIVERGING, GREEN, NUISANCE, PURPLE, RED, despine, own_settings
from linreg.text import number

if TYPE_CHECKING:
    from dmbp.result import Result

CHARACTERS = 13.5  # of 10 points, about so many to an inch
LINE = 0.22  # inches of a line of these
KINDS = {1: BARS, 2: SIGNAL, 3: PHOTO, 4: VOLUME}  # by how many dimensions the input has


@own_settings()
def draw_explanation(
    result: Result,
    image: int = 0,
    picture: np.ndarray | Mapping[str, np.ndarray] | None = None,
    title: str = "",
    score: str = "y",
    names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    below: Sequence[str] | None = None,
) -> Figure:
    """One image of a result: its input with its maps, the y's by iteration, and what comes from the input.

    How an input is drawn is a matter of its shape: a picture (C, H, W) with the mappings ∇⁺ and ∇⁻, the paper's maps
    and the complete ones (`dmbp.plot.photo_picture`; of neither one nor three channels, with a map of each); a table
    (F,) as bars, a signal (C, T) as lines on a coloured ground, a volume (C, D, H, W) as slices (`bars_picture`,
    `signal_picture`, `volume_picture` beside it). The paper's maps are ∇⁺⊙x, ∇⁻⊙x and their sum; the complete ones
    have the bias terms too, each at its place. Under each map stands what it sums to. The maps of a row are on one
    scale, white at exactly zero; units are those of the score. Where the score is that of a pixel or a region of the
    output, this is framed.

    `picture` (H, W, 3) in [0, 1] is drawn in the place of x itself, which is scaled to its own range; `names` are those
    of the features of a table, or of channels. Of several inputs each that can be drawn has its own rows, and
    `picture` and `names` are by name. Lines `below` stand under all, the verdict if none are given.

    Raises DmbpError where no input can be drawn, where names are not as many as features or channels, and where the
    batch has no such image.
    """
    check_image(result.account, image)
    drawn = [entry for entry in result.account.layout.data if len(entry.shape) in KINDS]
    if not drawn:
        shapes = ", ".join(str(entry.shape) for entry in result.account.layout.data)
        raise DmbpError(
            f"tables (F,), signals (C, T), pictures (C, H, W) and volumes (C, D, H, W) can be drawn; the input has "
            f"shape {shapes}: see arrays()"
        )
    by_name = partial(_by_name, first=drawn[0].name, several=result.account.layout.several)
    pictures, labels = by_name(picture), by_name(names)
    views = [View(result, image, e.name, score, pictures.get(e.name), named(labels.get(e.name), e)) for e in drawn]
    kinds = [KINDS[len(view.x.shape)] for view in views]
    heights = [kind.height(view) for kind, view in zip(kinds, views, strict=True)]  # inches
    figure = Figure(
        figsize=(13.2, sum(heights) + 0.3), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, hspace=0.02)
    )
    grid = figure.add_gridspec(len(views), 2, width_ratios=(3, 1.4), height_ratios=heights)
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=15, wrap=True)
    for row, (kind, view) in enumerate(zip(kinds, views, strict=True)):
        rows = kind.heights(view)
        kind.draw(view, Place(figure, grid[row, 0].subgridspec(len(rows), 3, height_ratios=rows)))
    words_below(figure, result.verdict(image).lines()[:2] if below is None else below)
    right = grid[0, 1].subgridspec(2, 1, height_ratios=(1, 1.7))
    _history(figure.add_subplot(right[0]), result, image, score)
    _shares(figure.add_subplot(right[1]), result, image, score)
    return figure


def words_below(figure: Figure, lines: Sequence[str]) -> None:
    """Lines of text under a figure, broken where it ends; the figure grows by them."""
    width = round(CHARACTERS * figure.get_figwidth())
    parts = [part for line in lines for part in wrap(line, width)]
    figure.set_figheight(figure.get_figheight() + LINE * len(parts))
    figure.supxlabel("\n".join(parts).replace("$", r"\$"), fontsize=10, x=0.01, ha="left", linespacing=1.5)


def _by_name(given: Any, first: str, several: bool) -> Mapping[str, Any]:
    """What is given for one input, or for several by name."""
    if several and isinstance(given, Mapping):
        return given
    return {} if given is None else {first: given}


def named(given: Sequence[str] | None, entry: Input) -> tuple[str, ...] | None:
    """The names of an input's features or channels. Raises DmbpError where these are not as many."""
    if given is not None and len(given) != entry.shape[0]:
        what = "features" if len(entry.shape) == 1 else "channels"
        raise DmbpError(f"'{entry.name}' has {entry.shape[0]} {what}, and {len(given)} names are given")
    return None if given is None else tuple(map(str, given))


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
