"""Pictures of path spectra: a score by the degree of its paths."""

from __future__ import annotations

from math import log10

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from linreg.paths import PathSpectrum
from linreg.plot.style import GREEN, PURPLE, despine, own_settings


@own_settings()
def draw_spectrum(spectrum: PathSpectrum, ax: Axes | None = None, image: int = 0) -> Axes:
    """The score of one image by the degree of its paths, in units of the score, and how many paths there are.

    Bars are the shares of the input and of constants, black their sum y_d; the numbers of paths have a logarithmic
    axis of their own. Returns the axes of the bars.
    """
    degrees = np.array(spectrum.degrees)
    if ax is None:
        width = min(max(5.5, 0.35 * (degrees[-1] - degrees[0]) + 3), 13.0)
        ax = Figure(figsize=(width, 3.8), layout="constrained").add_subplot()
    inputs, biases = (part[:, image].numpy(force=True) for part in (spectrum.input, spectrum.bias))
    ax.bar(degrees - 0.2, inputs, 0.4, color=GREEN, label="from the input")
    ax.bar(degrees + 0.2, biases, 0.4, color=PURPLE, label="from bias terms")
    ax.plot(degrees, inputs + biases, "D", color="black", ms=4, label="$y_d$, both together")
    ax.axhline(0, color="black", lw=0.8)
    total = spectrum.total[image].item()
    ax.set_xlabel(f"{spectrum.grade} that a path passes   (all paths together: y = {total:.4g})".replace("-", "−"))
    ax.set_ylabel("share of the score")
    ax.set_xlim(degrees[0] - 0.8, degrees[-1] + 0.8)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _draw_counts(ax, spectrum)
    despine(ax)
    return ax


def _draw_counts(ax: Axes, spectrum: PathSpectrum) -> None:
    """The numbers of paths on an axis of powers of ten: they may exceed every float."""
    right = ax.twinx()
    for counts, colour, style, start in (
        (spectrum.counts, GREEN, "o-", "the input"),
        (spectrum.constant_counts, PURPLE, "s:", "constants"),
    ):
        powers = {d: log10(count) for d, count in zip(spectrum.degrees, counts, strict=True) if count}
        right.plot(
            list(powers), list(powers.values()), style, color=colour, ms=3.5, lw=1, mfc="white", clip_on=False,
            label=f"paths from {start} (right)",
        )  # fmt: skip
    most = max(*spectrum.counts, *spectrum.constant_counts)
    right.set_ylim(0, max(1.0, 1.1 * log10(most)))
    right.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    right.yaxis.set_major_formatter(lambda power, _: f"$10^{{{power:.0f}}}$")
    right.set_ylabel("number of paths")
    right.spines["top"].set_visible(False)
    (bars, names), (lines, more) = ax.get_legend_handles_labels(), right.get_legend_handles_labels()
    ax.legend(
        bars[1:] + lines + bars[:1], names[1:] + more + names[:1],
        loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, fontsize=8,
    )  # fmt: skip
