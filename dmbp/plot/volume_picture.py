"""A volume or a film: slices, (C, D, H, W)."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes

from dmbp.plot.marks import outline
from dmbp.plot.scales import colour_bar, frame, limit_of, scaled
from dmbp.plot.view import Kind, Place, View
from linreg.plot.style import DIVERGING
from linreg.text import number

MOST = 6  # slices side by side
SCALE = 0.11


def heights(view: View) -> tuple[float, ...]:
    height, width = view.x.shape[-2:]
    row = min(max(1.5 * height / width, 1.0), 2.0)
    return row, row, SCALE, row, SCALE


def draw(view: View, place: Place) -> None:
    """Six slices along the first axis: x, the paper's map a with channels summed, and the complete map.

    They are those of the target, where the output has places, and those with the largest Σ|complete|, in their order;
    under each stands what it sums to. Each row of maps is on one scale, white at zero.
    """
    paper, complete = view.maps["attribution a"].sum(0), view.complete["complete, both"]
    chosen = strongest(view)
    beside = scaled(torch.cat([view.x[:, slice_] for slice_ in chosen.tolist()], 2))
    axes = _row(place, 0, chosen)
    axes[0].set_ylabel(view.title, fontsize=10)
    for ax, slice_, shown in zip(axes, chosen, np.split(beside, len(chosen), 1), strict=True):
        ax.imshow(shown, interpolation="nearest")
        frame(ax, f"slice {slice_}", 10)
        if mark(ax, view, int(slice_)):
            ax.set_xlabel("framed: the target", fontsize=9)
    _maps(view, place, 1, chosen, paper, "a, channels summed")
    _maps(view, place, 3, chosen, complete, "complete, both")


def strongest(view: View) -> np.ndarray:
    """The numbers of the slices that are drawn: those of the target and with the largest Σ|complete|, in order."""
    complete = view.complete["complete, both"]
    strength = np.abs(complete).sum((1, 2))
    target = view.target
    if target is not None:
        slices = (np.flatnonzero(target.any((1, 2))) + 0.5) * len(complete) / len(target)
        strength[slices.astype(int)] += np.abs(complete).sum()
    strongest = np.argsort(-strength, kind="stable")[:MOST]
    return np.sort(strongest[: max(np.count_nonzero(strength[strongest]), 1)])


def _row(place: Place, row: int, chosen: np.ndarray) -> list[Axes]:
    spec = place.part(row).subgridspec(1, MOST)
    return [place.figure.add_subplot(spec[column]) for column in range(len(chosen))]


def _maps(view: View, place: Place, row: int, chosen: np.ndarray, values: np.ndarray, name: str) -> None:
    """A row of slices of one map, and its scale."""
    limit = limit_of(values)
    axes = _row(place, row, chosen)
    for ax, slice_ in zip(axes, chosen, strict=True):
        drawn = ax.imshow(values[slice_], cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        frame(ax, "")
        ax.set_xlabel(f"Σ {number(float(values[slice_].sum()))}", fontsize=9)
        mark(ax, view, int(slice_))
    of, whole = list(view.totals.items())[-1]
    axes[0].set_ylabel(name, fontsize=10)
    shown = f"{len(chosen)} of {len(values)} slices" if len(chosen) < len(values) else f"all {len(values)} slices"
    scale = place.across(row + 1)
    colour_bar(scale, drawn, limit, "voxel")
    sums = f"all slices: {number(float(values.sum()))} of {of} = {number(whole)}; drawn: {shown}"
    scale.set_xlabel(f"{scale.get_xlabel()}\n{sums}", fontsize=9)


def mark(ax: Axes, view: View, slice_: int) -> bool:
    """Frame the part of the target in a slice; whether there is one."""
    target = view.target
    inside = None if target is None else target[slice_ * len(target) // view.x.shape[1]]
    if inside is None or not inside.any():
        return False
    outline(ax, inside, view.x.shape)
    return True


VOLUME = Kind(heights, lambda view: 3.0, draw)
