"""A picture (C, H, W): itself with its mappings, the paper's maps, and the complete ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from dmbp.plot.marks import MARKED, outline
from dmbp.plot.scales import colour_bar, frame, limit_of, scaled
from dmbp.plot.view import Kind, Place, View
from linreg.plot.style import DIVERGING
from linreg.text import number

SCALE = 0.11  # inches
MOST = 14  # channels with a map of their own


def heights(view: View) -> tuple[float, ...]:
    height, width = view.x.shape[-2:]
    row = min(max(2.85 * height / width, 1.6), 2.4)  # wide ones need less
    return row, row, SCALE, row, SCALE


def draw(view: View, place: Place) -> None:
    """x and its mappings, the paper's maps with channels summed, the complete maps; the target is framed."""
    shown = scaled(view.x) if view.picture is None else view.picture
    first = place.cell(0, 0)
    first.imshow(shown, interpolation="nearest")
    channels = view.x.shape[0]
    name = "image x" if view.title == "x" else view.title
    frame(first, name if channels in _BESIDE else f"{name}: mean of the channels")
    _mark(first, view, MARKED)
    _BESIDE.get(channels, _channels)(view, place)
    _maps(view, place, 1, {name: values.sum(0) for name, values in view.maps.items()}, "pixels")
    _maps(view, place, 3, view.complete, "with biases")


def _mappings(view: View, place: Place) -> None:
    """∇⁺ and ∇⁻ on one scale, in units of the score per unit of x: colour around grey for RGB, else blue–white–red."""
    parts = view.mappings
    limit = limit_of(np.stack(parts))
    for column, (part, title) in enumerate(zip(parts, ("positive mapping ∇⁺", "negative mapping ∇⁻"), strict=True)):
        ax = place.cell(0, column + 1)
        if len(part) == 3:
            zero = "grey"
            ax.imshow(np.clip(0.5 + 0.5 * part / limit, 0, 1).transpose(1, 2, 0), interpolation="nearest")
        else:
            zero = "white"
            ax.imshow(part[0], cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        frame(ax, title)
        ax.set_xlabel(f"{zero} 0, full colour ±{number(limit)} per unit of x", fontsize=9)


def _channels(view: View, place: Place) -> None:
    """The map a of each channel, on one scale; of many channels, those with the largest Σ|a|."""
    values = view.maps["attribution a"]
    limit = limit_of(values)
    chosen = np.sort(np.argsort(-np.abs(values).sum((1, 2)), kind="stable")[:MOST])
    some = f"; the {MOST} of {len(values)} with the largest Σ|a|" if len(chosen) < len(values) else ""
    lines = 1 if len(chosen) <= 4 else 2
    columns = -(-len(chosen) // lines)
    spec = place.part(0, slice(1, 3)).subgridspec(lines, columns)
    for k, channel in enumerate(chosen):
        ax = place.figure.add_subplot(spec[k // columns, k % columns])
        ax.imshow(values[channel], cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        frame(ax, view.label(int(channel), "channel"), 8)
        ax.set_xlabel(f"Σ {number(float(values[channel].sum()))}", fontsize=8, labelpad=2)
        if k == columns // 2:
            ax.set_title(f"a, channel by channel{some}\n{ax.get_title()}", fontsize=8)


_BESIDE = {1: _mappings, 3: _mappings}  # by the number of channels; else a grid of them


def _maps(view: View, place: Place, row: int, maps: Mapping[str, np.ndarray], what: str) -> None:
    """Three maps (H, W) of y⁺, of y⁻ and of both, on one scale, with how much of these each sums to."""
    limit = limit_of(np.stack(list(maps.values())))
    captions = view.captions(maps, what)
    for column, ((name, values), caption) in enumerate(zip(maps.items(), captions, strict=True)):
        ax = place.cell(row, column)
        drawn = ax.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        frame(ax, name)
        ax.set_xlabel(caption, fontsize=9)
    _mark(ax, view)
    colour_bar(place.across(row + 1), drawn, limit, "pixel")


def _mark(ax: Axes, view: View, caption: str = "") -> None:
    target = view.target
    if target is not None:
        outline(ax, target, view.x.shape)
        ax.set_xlabel(caption or ax.get_xlabel(), fontsize=9)


PHOTO = Kind(heights, lambda view: 3.1, draw)
