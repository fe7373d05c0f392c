"""The ledger as a waterfall; `steps` gives its numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from linreg.ledger import Ledger, module
from linreg.plot.style import BLUE, LINE, RED, TOTAL, despine, own_settings
from linreg.text import number


@dataclass(frozen=True)
class Step:
    """One bar of a waterfall: `share` of y, added to the running total `start`; `terms` of the ledger stand behind it.

    `magnitude` is Σ|terms| of these: where it is much larger than |share|, they cancel. `at_output`: no gate follows.
    """

    label: str
    share: float
    start: float
    terms: int
    magnitude: float
    at_output: bool = False

    @property
    def stop(self) -> float:
        """The running total after it."""
        return self.start + self.share


def steps(ledger: Ledger, image: int = 0, bars: int = 20, depth: int | None = None) -> list[Step]:
    """The running total of one image, from c·x, of each input, through its terms in the order of the graph to y.

    With `depth`, the terms of each module of that many levels are one step. Of more than `bars` steps the largest in
    absolute value are kept, and the others are one. What no gate follows, the output's bias above all, stays apart.
    """
    inner: dict[str, list[float]] = {}
    output: dict[str, list[float]] = {}
    for label, term in zip(ledger.labels, ledger.terms, strict=True):
        name = label if depth is None or term.at_output else module(term.node, depth)
        (output if term.at_output else inner).setdefault(name, []).append(term.total[image].item())
    first = {name: [share] for name, kind, share in ledger.rows(image)[: ledger.sources]}
    found = _running([*first.items(), *_largest(inner, max(bars - 1 - len(output), 1)), *output.items()])
    return [replace(step, at_output=place >= len(found) - len(output)) for place, step in enumerate(found)]


def _largest(groups: dict[str, list[float]], room: int) -> list[tuple[str, list[float]]]:
    """The groups, where there are more than `room` the largest of them and one of all others."""
    if len(groups) <= room:
        return list(groups.items())
    kept = sorted(groups, key=lambda name: -abs(sum(groups[name])))[: room - 1]
    others = [share for name, shares in groups.items() if name not in kept for share in shares]
    return [*((name, groups[name]) for name in groups if name in kept), (f"… {len(others)} other terms", others)]


def _running(groups: Iterable[tuple[str, list[float]]]) -> list[Step]:
    found, total = list[Step](), 0.0
    for label, shares in groups:
        found.append(Step(label, sum(shares), total, len(shares), sum(map(abs, shares))))
        total = found[-1].stop
    return found


@own_settings()
def waterfall(
    ledger: Ledger, ax: Axes | None = None, image: int = 0, bars: int = 20, depth: int | None = None, score: str = "y"
) -> Axes:
    """y = c·x + Σ g_k·β_k as a waterfall: each bar takes the running total from its start to its stop (Eq. 13).

    Red bars raise it, blue bars lower it, and the grey one is the score. `bars` and `depth` are those of `steps`, which
    gives the numbers. Without `ax` a figure that fits is made: `waterfall(ledger).figure.savefig("ledger.png")`.
    """
    found = steps(ledger, image, bars, depth)
    rows = [(step.start, step.stop, _name(step), RED if step.share > 0 else BLUE) for step in found]
    rows.append((0.0, found[-1].stop, score, TOTAL))
    if ax is None:
        size, layout = (8.5, 1.4 + 0.28 * len(rows)), ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
        ax = Figure(figsize=size, layout=layout).add_subplot()
    starts, stops, names, colours = zip(*rows, strict=True)
    places, widths = range(len(rows)), [stop - start for start, stop in zip(starts, stops, strict=True)]
    ax.barh(places, widths, 0.72, left=starts, color=colours, zorder=2)
    ax.vlines(stops[:-1], [p - 0.36 for p in places[:-1]], [p + 1.36 for p in places[:-1]], LINE, lw=0.9, zorder=3)
    _numbers(ax, starts, stops)
    ax.axvline(0, color=LINE, lw=0.9, ls=":", zorder=1)
    ax.set_yticks(places, names)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel(f"running total, in units of {score} (red adds, blue subtracts)")
    inputs = found[ledger.sources - 1].stop
    shares = f"c · x {number(inputs, signed=True)}, constants {number(found[-1].stop - inputs, signed=True)}"
    ax.set_title(f"{score} = {number(found[-1].stop)}:  {shares}")
    despine(ax, "left")
    ax.tick_params(axis="y", length=0)
    return ax


def _name(step: Step) -> str:
    """What is behind a bar: how many terms of a module, how much of the other terms cancels, what no gate follows."""
    if step.label.startswith("…"):
        return f"{step.label}, Σ|·| = {number(step.magnitude)}"
    if step.terms > 1:
        return f"{step.label} ({step.terms} terms)"
    return step.label + " (after the last gate)" * step.at_output


def _numbers(ax: Axes, starts: Iterable[float], stops: Iterable[float]) -> None:
    """Each bar's share beside the end that it moves to."""
    low, high = 0.0, 0.0
    for place, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        up = stop >= start
        share = number(stop - start, signed=True)
        ax.annotate(
            share, (stop, place), (5 if up else -5, 0), textcoords="offset points", fontsize=9,
            ha="left" if up else "right", va="center", zorder=1.5, bbox={"fc": "white", "ec": "none", "pad": 0.5},
        )  # fmt: skip
        low, high = min(low, start, stop), max(high, start, stop)
    room = 0.13 * (high - low or 1)
    ax.set_xlim(low - room, high + room)
