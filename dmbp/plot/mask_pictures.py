"""Figures of `dmbp.analysis`: masks, their places, their agreement, and what the sites carry.

Each sheet is a figure made of panels; each panel is a function that draws into an `ax`, from records or masks alone.
Red stands for y⁺, blue for y⁻, white for σ = 0.5 or for zero, grey for nuisance and for units that cannot learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from dmbp.analysis import BINS, TOLERANCE, Agreement, Carries, Drift, Lean, SiteMask, drifts, leans
from dmbp.errors import DmbpError
from linreg.plot.style import (
    BLUE,
    DIVERGING,
    NUISANCE,
    OPPOSITE,
    PALE,
    PALE_BLUE,
    PALE_RED,
    PALER,
    RED,
    SAME,
    despine,
    own_settings,
)
from linreg.text import number

OUTLINE: dict[str, Any] = {"edgecolor": NUISANCE, "linewidth": 0.4}


@own_settings()
def mask_sheet(masks: Sequence[SiteMask], title: str = "", tolerance: float = TOLERANCE) -> Figure:
    """Site by site, the input's first: histogram of σ, channels' mean σ, kinds of units, drift from the start.

    Raises DmbpError where there is no site.
    """
    figure = _figure(1.9 + _row(masks) * len(masks), title)
    axes = figure.subplots(1, 4, sharey=True, width_ratios=(1.2, 1, 1.2, 0.9))
    draw_histograms(axes[0], masks)
    image = draw_channels(axes[1], masks)
    draw_units(axes[2], leans(masks, tolerance))
    draw_drifts(axes[3], drifts(masks, tolerance))
    for ax in axes[1:]:
        ax.tick_params(axis="y", left=False, labelleft=False)
    _sigma_bar(axes, image)
    return figure


@own_settings()
def draw_histograms(ax: Axes, masks: Sequence[SiteMask], bins: int = BINS) -> None:
    """One histogram of σ over the live units for each site, scaled to its own highest bar."""
    edges = np.linspace(0, 1, bins + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    for row, mask in enumerate(masks):
        counts = mask.histogram(bins)
        heights = 0.86 * counts / max(counts.max(), 1)
        # The axis points down, so that the input comes first: bars rise against it.
        ax.bar(centres, -heights, 1 / bins, bottom=row + 0.43, color=DIVERGING(centres))
        ax.stairs(row + 0.43 - heights, edges, baseline=row + 0.43, color=NUISANCE, lw=0.7)
    ax.axvline(0.5, color="black", lw=0.6, ls=":")
    _sites_down(ax, [mask.site for mask in masks])
    ax.set_xlim(0, 1)
    ax.set_xlabel("σ: 0 leans to y⁻, 1 to y⁺")
    ax.set_title("live units by σ (each to its own scale)", fontsize=10)


@own_settings()
def draw_channels(ax: Axes, masks: Sequence[SiteMask]) -> AxesImage:
    """Mean σ of each site's channels, sorted; grey where a channel has no live unit."""
    columns = 400
    strips = np.stack([_stretched(np.sort(mask.channel_means()), columns) for mask in masks])
    image = ax.imshow(
        strips, cmap=_with_grey(), vmin=0, vmax=1, aspect="auto", interpolation="nearest",
        extent=(0, 1, len(masks) - 0.5, -0.5),
    )  # fmt: skip
    for edge in range(1, len(masks)):
        ax.axhline(edge - 0.5, color="white", lw=2)
    _sites_down(ax, [mask.site for mask in masks])
    ax.set_xlabel("share of the site's channels, sorted")
    ax.set_title("channels by mean σ", fontsize=10)
    return image


@own_settings()
def draw_units(ax: Axes, records: Sequence[Lean]) -> None:
    """All units of each site by kind: live ones by where they lean, then those that never learn."""
    live = np.array([record.live / record.units for record in records])
    kinds = {
        "to y⁻": (live * _column(records, "negative"), BLUE),
        "undecided": (live * _column(records, "undecided"), "white"),
        "to y⁺": (live * _column(records, "positive"), RED),
        "unread": (_column(records, "unread") / _column(records, "units"), PALE),
        "closed": (_column(records, "closed") / _column(records, "units"), PALER),
    }
    left = np.zeros(len(records))
    for name, (shares, colour) in kinds.items():
        shares = np.nan_to_num(shares)
        ax.barh(range(len(records)), shares, 0.74, left, color=colour, label=name, **OUTLINE)
        left += shares
    _sites_down(ax, [record.site for record in records])
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of the site's units")
    _legend(ax, 3)


@own_settings()
def draw_drifts(ax: Axes, records: Sequence[Drift]) -> None:
    """How far the live units went from their start, and how many of them lean elsewhere than there."""
    live = np.array([max(record.live, 1) for record in records])
    changed = sum(_column(records, name) for name in ("decided", "undone", "crossed")) / live
    rows = range(len(records))
    ax.barh(rows, np.nan_to_num(_column(records, "mean")), 0.74, color=PALE, label="mean |σ − σ₀|", **OUTLINE)
    ax.plot(changed, rows, "o", color="black", ms=4, label="share whose lean changed")
    _sites_down(ax, [record.site for record in records])
    ax.set_xlim(0, 1)
    ax.set_xticks((0, 0.5, 1))
    ax.set_xlabel("live units, since the start σ₀")
    _legend(ax, 1)


@own_settings()
def draw_drift_lines(ax: Axes, steps: Mapping[int, Sequence[Drift]]) -> None:
    """Mean |σ − σ₀| of each site by iteration, from the drifts at some of them; the input's site darkest."""
    sites = [record.site for record in next(iter(steps.values()))]
    means = np.array([_column(records, "mean") for records in steps.values()])
    colours = colormaps["viridis"](np.linspace(0, 0.92, len(sites)))
    for site, values, colour in zip(sites, means.T, colours, strict=True):
        ax.plot(list(steps), values, color=colour, label=site)
    ax.set_xlabel("iteration")
    ax.set_ylabel("mean |σ − σ₀| of live units")
    ax.set_ylim(bottom=0)
    ax.legend(
        fontsize=8.5 if len(sites) <= 16 else 6.5, ncols=-(-len(sites) // 18), frameon=False, loc="center left",
        bbox_to_anchor=(1, 0.5),
    )  # fmt: skip
    _bare(ax)


@own_settings()
def spatial_sheet(
    masks: Sequence[SiteMask], picture: np.ndarray | None = None, title: str = "", limit: float | None = None
) -> Figure:
    """Mean σ over the live units of each position, one map for each site; `picture` (H, W[, 3]) is drawn first.

    White is 0.5, full colour 0.5 ± `limit`, grey a position without a live unit. By default, in a quarter of the sites
    1 % of the positions or more lie beyond. Raises DmbpError where no site has the shape (C, H, W).
    """
    pictures = {mask.site: mask.picture() for mask in masks if mask.sigma.ndim == 3}
    if not pictures:
        raise DmbpError("no site has the shape (C, H, W): there is nothing to draw in space")
    limit = _limit(pictures.values()) if limit is None else limit
    figure, places = _tiles(len(pictures) + (picture is not None), title)
    if picture is not None:
        _tile(places[0], "image x").imshow(picture, cmap="gray", interpolation="nearest")
    for ax, (site, values) in zip(places[picture is not None :], pictures.items(), strict=True):
        image = draw_positions(ax, values, site, limit)
    _sigma_bar(places, image)
    return figure


@own_settings()
def draw_positions(ax: Axes, values: np.ndarray, title: str = "", limit: float = 0.5) -> AxesImage:
    """A map (H, W) of mean σ, white at 0.5, full colour at 0.5 ± `limit`, grey where nan."""
    low, high = 0.5 - limit, 0.5 + limit
    return _tile(ax, title).imshow(values, cmap=_with_grey(), vmin=low, vmax=high, interpolation="nearest")


@own_settings()
def carry_sheet(carries: Carries, title: str = "", score: str = "y") -> Figure:
    """What passes each site, left to right: y⁺ and y⁻ above; below, the nuisance that comes up there."""
    figure = _figure(7.2, title)
    above, below = figure.subplots(2, 1, sharex=True)
    draw_carried(above, carries, score)
    draw_nuisance(below, carries, score)
    above.tick_params(axis="x", bottom=False, labelbottom=False)
    return figure


@own_settings()
def draw_carried(ax: Axes, carries: Carries, score: str = "y") -> None:
    """The parts of y⁺ and y⁻ that pass each site, and of them those that meet their first site there."""
    places = np.arange(len(carries.sites))
    for sign, side, pale, full in (("⁺", "positive", PALE_RED, RED), ("⁻", "negative", PALE_BLUE, BLUE)):
        ax.bar(places, _column(carries.sites, side), 0.8, color=pale, label=f"part of {score}{sign} that passes")
        first = _column(carries.sites, f"first_{side}")
        ax.bar(places, first, 0.4, color=full, label=f"… and met no site before (they sum to {score}{sign})")
        total = carries.scores[0 if side == "positive" else 1]
        _level(ax, total, f"{score}{sign} = {number(total)}", full)
    ax.axhline(0, color="black", lw=0.8)
    ax.set_ylabel("units of the score")
    _sites_across(ax, [carry.site for carry in carries.sites])
    _legend(ax, 2)


@own_settings()
def draw_nuisance(ax: Axes, carries: Carries, score: str = "y") -> None:
    """The part of y~ whose signs first disagree at each site, and the sum so far, begun with what meets no site."""
    places = np.arange(len(carries.sites))
    made = _column(carries.sites, "nuisance")
    ax.bar(places, made, 0.8, color=PALE, label=f"part of {score}~ whose signs first disagree here", **OUTLINE)
    start = carries.remainder[2]
    total = carries.scores[2]
    sums = start + np.cumsum(made)
    label = f"sum so far, begun with {number(start)} that met no site"
    ax.plot(places, sums, "o-", color="black", lw=1.2, ms=3.5, label=label)
    ax.axhline(0, color="black", lw=0.8)
    _level(ax, total, f"{score}~ = {number(total)}", "black")
    ax.set_ylabel("units of the score")
    _sites_across(ax, [carry.site for carry in carries.sites])
    _legend(ax, 2)


@own_settings()
def agreement_sheet(records: Sequence[Agreement], title: str = "") -> Figure:
    """Two explanations compared site by site, the input's first: sides and rank correlation."""
    figure = _figure(1.9 + _row(records) * len(records), title, width=9.6)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
    draw_sides(left, records)
    draw_correlations(right, records)
    right.tick_params(axis="y", left=False, labelleft=False)
    return figure


@own_settings()
def draw_sides(ax: Axes, records: Sequence[Agreement]) -> None:
    """Shares of the units live in both that lean to the same side, to no side in one of them, to opposite sides."""
    kinds = {"same": ("same side", SAME), "undecided": ("undecided", "white"), "opposite": ("opposite", OPPOSITE)}
    left = np.zeros(len(records))
    for name, (label, colour) in kinds.items():
        shares = np.nan_to_num(_column(records, name))
        ax.barh(range(len(records)), shares, 0.74, left, color=colour, label=label, **OUTLINE)
        left += shares
    _sites_down(ax, [record.site for record in records])
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of the units live in both")
    _legend(ax, 3)


@own_settings()
def draw_correlations(ax: Axes, records: Sequence[Agreement]) -> None:
    """Spearman's rank correlation of the two σ over the units live in both; nothing where it is not defined."""
    values, rows = _column(records, "correlation"), np.arange(len(records))
    ax.axvline(0, color="black", lw=0.8)
    ax.hlines(rows, 0, np.nan_to_num(values), color=NUISANCE, lw=2)
    ax.plot(values, rows, "o", color="black", ms=5)
    _sites_down(ax, [record.site for record in records])
    ax.set_xlim(-1.05, 1.05)
    ax.set_xlabel("Spearman's rank correlation of σ")


def _figure(height: float, title: str, width: float = 13.2) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=14)
    return figure


def _row(records: Sequence[object]) -> float:
    """Height of a row in inches: less where there are many."""
    if not records:
        raise DmbpError("there are no sites to draw")
    return 0.42 if len(records) <= 16 else 0.27


def _column(records: Sequence[object], name: str) -> np.ndarray:
    return np.array([getattr(record, name) for record in records], dtype=float)


def _stretched(values: np.ndarray, columns: int) -> np.ndarray:
    """Values repeated to fill a row of `columns`, nearest neighbour."""
    return values[np.arange(columns) * len(values) // columns]


def _with_grey() -> Colormap:
    return DIVERGING.with_extremes(bad=PALER)


def _sigma_bar(axes: Sequence[Axes], image: AxesImage) -> None:
    low, high = image.get_clim()
    extend = "both" if low > 0 else "neither"
    bar = axes[0].figure.colorbar(image, ax=list(axes), extend=extend, aspect=40, pad=0.01, fraction=0.05)
    bar.set_ticks([low, (low + 0.5) / 2, 0.5, (high + 0.5) / 2, high])
    bar.ax.yaxis.set_major_formatter("{x:.2f}")
    bar.set_label("mean σ (white: undecided, grey: no live unit)", fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _tiles(count: int, title: str) -> tuple[Figure, list[Axes]]:
    """A figure of `count` square places, six or seven in a row."""
    columns = min(count, 6 if count <= 24 else 7)
    rows = -(-count // columns)
    width = 12.4 / max(columns, 6)
    figure = _figure(0.5 + (width + 0.25) * rows, title, width=0.8 + width * columns)
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
    return figure, axes


def _limit(pictures: Iterable[np.ndarray]) -> float:
    """The upper quartile over the maps of the distance from 0.5 that 1 % of their positions surpass."""
    found = [np.abs(values[~np.isnan(values)] - 0.5) for values in pictures]
    limits = [np.percentile(distances, 99) for distances in found if distances.size]
    return float(np.percentile(limits, 75)) or 0.5 if limits else 0.5


def _sites_down(ax: Axes, sites: Sequence[str]) -> None:
    """The sites as rows, the input's first."""
    ax.set_yticks(range(len(sites)), sites, fontsize=9 if len(sites) <= 16 else 7.5)
    ax.set_ylim(len(sites) - 0.45, -0.55)
    ax.xaxis.label.set_fontsize(10)
    _bare(ax)


def _sites_across(ax: Axes, sites: Sequence[str]) -> None:
    ax.set_xticks(range(len(sites)), sites, rotation=60 if len(sites) <= 16 else 90, fontsize=8)
    for label in ax.get_xticklabels():
        label.set(ha="right" if len(sites) <= 16 else "center", rotation_mode="anchor" if len(sites) <= 16 else None)
    ax.set_xlim(-0.7, len(sites) - 0.3)
    _bare(ax)


def _level(ax: Axes, value: float, label: str, colour: str) -> None:
    """A dashed line across, named at its right end."""
    ax.axhline(value, color=colour, lw=1, ls="--")
    ax.annotate(
        label, (1, value), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
        color=colour, fontsize=10,
    )  # fmt: skip


def _legend(ax: Axes, columns: int) -> None:
    ax.legend(
        ncols=columns, fontsize=8.5, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), handlelength=1.0,
        columnspacing=1.0, handletextpad=0.4, borderaxespad=0.2,
    )  # fmt: skip


def _tile(ax: Axes, title: str) -> Axes:
    ax.set_title(title, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_color(PALE)
    return ax


def _bare(ax: Axes) -> None:
    despine(ax)
    ax.tick_params(axis="x", labelsize=8.5)
