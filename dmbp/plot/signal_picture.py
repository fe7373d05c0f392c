"""A signal: lines on a coloured ground, (C, T)."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from dmbp.plot.marks import span
from dmbp.plot.scales import colour_bar, limit_of
from dmbp.plot.view import Kind, Place, View
from linreg.plot.style import BLUE, DIVERGING, FRAME, INK, RED, despine

MOST = 6  # channels with strips of their own
SCALE, SUMS = 0.11, 1.55  # inches


def heights(view: View) -> tuple[float, ...]:
    strips = min(view.x.shape[0], MOST)
    return (max(0.8, 1.7 / strips),) * strips + (SCALE, SUMS, SUMS)


def air(view: View) -> float:
    return 2.6 + 0.12 * min(view.x.shape[0], MOST)


def draw(view: View, place: Place) -> None:
    """Each channel as a line, the ground in the colour of its map a at each step; below, all channels together.

    Of more channels than six the six with the largest Σ|a| are drawn. The two rows of curves show the paper's maps,
    summed over all channels, and the complete ones. Where the output has steps, those of the target stand between
    dashed lines.
    """
    maps = view.maps
    by_channel = maps["attribution a"]
    chosen, limit = strongest(view), limit_of(by_channel)
    first: Axes | None = None
    for row, channel in enumerate(chosen):
        ax = place.across(row, sharex=first)
        first = first or ax
        drawn = strip(ax, view, int(channel), by_channel[channel], limit)
        ax.tick_params(labelbottom=False, bottom=False)
    assert first is not None
    of = "" if len(chosen) == len(by_channel) else f"; the {MOST} channels of {len(by_channel)} with the largest Σ|a|"
    first.set_title(f"{view.title}, on the ground of its map a{of}", fontsize=11)
    colour_bar(place.across(len(chosen)), drawn, limit, "step and channel")
    sums = {title: each.sum(0) for title, each in maps.items()}
    _curves(place.across(len(chosen) + 1, sharex=first), view, sums, "steps", "all channels")
    _curves(place.across(len(chosen) + 2, sharex=first), view, view.complete, "with biases", "complete")


def strongest(view: View) -> np.ndarray:
    """The numbers of the channels that are drawn: those with the largest Σ|a|, in their order."""
    return np.sort(np.argsort(-np.abs(view.maps["attribution a"]).sum(1), kind="stable")[:MOST])


def strip(ax: Axes, view: View, channel: int, ground: np.ndarray, limit: float, size: float = 9) -> AxesImage:
    """A channel of x as a line, on the ground of a map of its steps."""
    x, steps = view.x[channel].numpy(force=True), len(ground)
    drawn = ax.imshow(
        ground[None], cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", extent=(-0.5, steps - 0.5, 0, 1),
        transform=ax.get_xaxis_transform(), interpolation="nearest",
    )  # fmt: skip
    ax.plot(x, color=INK, lw=1.3, marker="." if steps < 40 else None)
    _around(ax, x)
    ax.set_xlim(-0.5, steps - 0.5)
    ax.set_ylabel(view.label(channel, "channel"), fontsize=size)
    ax.tick_params(labelsize=size - 1)
    ax.spines[:].set_color(FRAME)
    _mark(ax, view, steps)
    return drawn


def _around(ax: Axes, values: np.ndarray) -> None:
    """Limits with some air."""
    low, high = float(values.min()), float(values.max())
    air = 0.12 * (high - low) or 1.0
    ax.set_ylim(low - air, high + air)


def _curves(ax: Axes, view: View, curves: dict[str, np.ndarray], what: str, name: str) -> None:
    """y⁺, y⁻ and both along the signal, and what each curve sums to."""
    styles = ((RED, 1.5), (BLUE, 1.5), ("black", 1.1))
    captions = view.captions(curves, what)
    for values, caption, (colour, width) in zip(curves.values(), captions, styles, strict=True):
        ax.plot(values, color=colour, lw=width, label=caption)
    both = list(curves.values())[2]
    steps = np.arange(len(both))
    ax.fill_between(steps, both, where=both > 0, color=RED, alpha=0.25, lw=0, interpolate=True)
    ax.fill_between(steps, both, where=both < 0, color=BLUE, alpha=0.25, lw=0, interpolate=True)
    ax.axhline(0, color="black", lw=0.6)
    ax.set_ylabel(name, fontsize=9)
    ax.legend(
        ncols=3, fontsize=8.5, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.97), handlelength=1.2,
        columnspacing=1.2,
    )  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(labelsize=8)
    despine(ax)
    _mark(ax, view, len(both))


def _mark(ax: Axes, view: View, steps: int) -> None:
    target = view.target
    if target is not None:
        span(ax, target, steps)


SIGNAL = Kind(heights, air, draw)
