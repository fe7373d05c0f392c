"""Pictures of a line through a network: y with its pieces, and what steps miss of Integrated Gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from linreg.plot.style import BLUE, GREEN, INK, LINE, OURS, PURPLE, RED, despine, own_settings
from linreg.regions.rules import RULES, RuleErrors, gaps
from linreg.regions.segments import Segment
from linreg.target import Target

MARKS = 400  # breakpoints that are still told apart by eye
COLOURS = dict(zip(RULES, (BLUE, RED, GREEN, OURS, PURPLE), strict=True))


@own_settings()
def draw_segment(segment: Segment, target: Target = None, ax: Axes | None = None) -> Axes:
    """y along the line, exactly, over t. Up to 400 breakpoints are ticks below; more are a histogram."""
    if ax is None:
        ax = Figure(figsize=(7.0, 3.6), layout="constrained").add_subplot()
    starts, ends = (each.numpy(force=True) for each in segment.scores(target))
    t = segment.t.numpy()
    ax.plot(np.stack([t[:-1], t[1:]], 1).ravel(), np.stack([starts, ends], 1).ravel(), color=INK, lw=1.2)
    below = ax.inset_axes((0, -0.22, 1, 0.1), sharex=ax)
    inner = t[1:-1]
    if len(inner) <= MARKS:
        below.vlines(inner, 0, 1, color=LINE, lw=0.6)
    else:
        below.hist(inner, bins=200, color=LINE)
    below.set_yticks([])
    below.set_xlabel(f"t   ({len(segment):,} pieces; below, where one ends)")
    despine(below, "left")
    ax.tick_params(labelbottom=False)
    ax.set_xlim(t[0], t[-1])
    ax.set_ylabel("y")
    despine(ax)
    return ax


@own_settings()
def draw_rules(
    segment: Segment, target: Target = None, steps: Sequence[int] = range(2, 301), rules: Sequence[str] = tuple(RULES),
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """By how much Integrated Gradients in m steps miss y(b) − y(a), for each m and rule, against the exact ones.

    In units of |y(b) − y(a)|, both axes logarithmic. Dots are each m, a line is the worst from m on, up to the last. It
    is the gap that is drawn, from the slopes of all pieces; the maps may be farther off than it tells: see
    `draw_rule_errors`.
    """
    if ax is None:
        ax = Figure(figsize=(6.4, 4.0), layout="constrained").add_subplot()
    starts, ends = segment.scores(target)
    change = abs(float(ends[-1] - starts[0])) or 1.0
    for rule in rules:
        error = gaps(segment, target, steps, rule).abs().numpy() / change
        worst = np.maximum.accumulate(error[::-1])[::-1]
        ax.loglog(list(steps), error, ".", color=COLOURS[rule], ms=1.5, alpha=0.4)
        ax.loglog(list(steps), worst, color=COLOURS[rule], lw=1.2, label=rule)
    ax.set_xlabel("steps m")
    ax.set_ylabel("|Σ IG$_m$ − (y(b) − y(a))| / |y(b) − y(a)|")
    ax.set_title(f"{len(segment):,} pieces: the exact sum has no error", fontsize=10)
    ax.legend(frameon=False)
    despine(ax)
    return ax


@own_settings()
def draw_rule_errors(errors: RuleErrors, ax: Axes | None = None) -> Axes:
    """The distance of the maps of m steps from the exact one, ‖IG_m − IG‖₁ / ‖IG‖₁, over m."""
    if ax is None:
        ax = Figure(figsize=(6.4, 4.0), layout="constrained").add_subplot()
    ax.loglog(errors.steps, errors.distance.numpy(), "o-", color=COLOURS[errors.rule], ms=4, lw=1, label=errors.rule)
    ax.set_xlabel("steps m")
    ax.set_ylabel("‖IG$_m$ − IG‖₁ / ‖IG‖₁")
    ax.legend(frameon=False)
    despine(ax)
    return ax
