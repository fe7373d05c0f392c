"""A map alone, as wide as a column of text and to be read there: of a table, a signal, a picture or a volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dmbp.account import check_image
from dmbp.errors import DmbpError
from dmbp.plot.bars_picture import bars, ranked
from dmbp.plot.explanation_picture import draw_map, named
from dmbp.plot.scales import frame, limit_of
from dmbp.plot.signal_picture import strip, strongest
from dmbp.plot.view import View
from dmbp.plot.volume_picture import mark
from dmbp.plot.volume_picture import strongest as slices
from linreg.inputs import Input
from linreg.plot.style import DIVERGING, own_settings
from linreg.text import number

if TYPE_CHECKING:
    from dmbp.result import Result

WIDTH = 3.4  # inches
SIZE = 7  # points
MOST = 12  # features with bars of their own
MAPS = {"paper": "attribution a", "complete": "complete, both"}


@own_settings()
def draw_alone(
    result: Result, image: int = 0, which: str = "paper", name: str | None = None, names: Sequence[str] | None = None
) -> Figure:
    """One map and nothing else, the paper's a or the "complete" one: bars, lines on its ground, pixels, or slices.

    Of several inputs `name` is that of one, by default the first; `names` are those of its features or channels. A
    picture has its channels summed, and no frame. Raises DmbpError for a map that there is not: a table has no complete
    one, as features have no places for biases to stand at.
    """
    check_image(result.account, image)
    entries = {entry.name: entry for entry in result.account.layout.data}
    name = next(iter(entries)) if name is None else name
    if name not in entries or which not in MAPS:
        raise DmbpError(f"expected a map of {', '.join(MAPS)} of {', '.join(entries)}, not {which!r} of {name!r}")
    if not can_be_drawn(entries[name], which):
        raise DmbpError(f"there is no {which} map of '{name}', {entries[name].shape}, that could be drawn alone")
    view = View(result, image, name, names=named(names, entries[name]))
    values = (view.complete if which == "complete" else view.maps)[MAPS[which]]
    return DRAWN[len(entries[name].shape)](view, values)


def can_be_drawn(entry: Input, which: str) -> bool:
    """Whether an input has a map of that name that can be drawn."""
    dimensions = len(entry.shape)
    return dimensions in DRAWN and not (dimensions == 1 and which == "complete")


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, hspace=0.01))


def _table(view: View, values: np.ndarray) -> Figure:
    labels, found, summed = ranked(view, MOST)
    figure = _figure(0.19 * len(labels) + 0.6)
    ax = figure.subplots()
    own = found[MAPS["paper"]]
    bars(ax, own, max(np.abs(own).max(), np.finfo(float).tiny), summed, SIZE)
    ax.set_yticks(range(len(labels)), labels, fontsize=SIZE)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_xlabel(_sum(view, values, "features"), fontsize=SIZE)
    return figure


def _signal(view: View, values: np.ndarray) -> Figure:
    """Of the complete map, which is of steps alone, each channel has the same ground."""
    chosen = strongest(view)
    figure = _figure(0.55 * max(len(chosen), 2) + 0.4)
    limit = limit_of(values)
    axes = figure.subplots(len(chosen), 1, sharex=True, squeeze=False)[:, 0]
    for ax, channel in zip(axes, chosen, strict=True):
        strip(ax, view, int(channel), values if values.ndim == 1 else values[channel], limit, SIZE)
    axes[-1].set_xlabel(_sum(view, values, "steps"), fontsize=SIZE)
    return figure


def _picture(view: View, values: np.ndarray) -> Figure:
    return draw_map(torch.from_numpy(np.ascontiguousarray(values.sum(0) if values.ndim == 3 else values)))


def _volume(view: View, values: np.ndarray) -> Figure:
    voxels = values.sum(0) if values.ndim == 4 else values
    chosen = slices(view)
    columns = min(len(chosen), 3)
    rows = -(-len(chosen) // columns)
    height, width = voxels.shape[-2:]
    figure = _figure(rows * (WIDTH / columns * height / width + 0.15) + 0.2)
    limit = limit_of(voxels)
    for k, slice_ in enumerate(chosen):
        ax = figure.add_subplot(rows, columns, k + 1)
        ax.imshow(voxels[slice_], cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        frame(ax, f"slice {slice_}", SIZE)
        mark(ax, view, int(slice_))
    figure.supxlabel(_sum(view, values, f"all {len(voxels)} slices"), fontsize=SIZE)
    return figure


def _sum(view: View, values: np.ndarray, what: str) -> str:
    """What the map sums to, and of what."""
    of, whole = list(view.totals.items())[-1]
    return f"{what}: {number(float(values.sum()))} of {of} = {number(whole)}"


DRAWN: dict[int, Callable[[View, np.ndarray], Figure]] = {1: _table, 2: _signal, 3: _picture, 4: _volume}
