"""The colours of all pictures, of linreg and of dmbp, and how their axes look.

Red stands for what raises a score, blue for what lowers it: the two are told apart by colour-blind eyes too. What comes
from the input is green, what comes from constants purple. Greys are for what has no sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

RED, PALE_RED = "#b2182b", "#f4a582"
BLUE, PALE_BLUE = "#2166ac", "#92c5de"
GREEN, PURPLE = "#5aae61", "#9970ab"
SAME, OPPOSITE = "#35978f", "#bf812d"  # of two explanations
OURS, RIVAL = "#d55e00", "#0072b2"  # of Okabe and Ito: of two things measured

INK = "#404040"  # names and outlines
TOTAL = "#4d4d4d"  # the bar of a whole
NUISANCE = "#767676"  # y~
LINE = "#8c8c8c"  # what leads the eye
NO_VALUE = "#a6a6a6"
PALE = "#bdbdbd"
PALER = "#e3e3e3"
BAND = "#f1f1f1"  # behind what belongs together
FRAME, GRID = "#bbbbbb", "#dddddd"

# Unlike in matplotlib's own maps, the middle is white to the bit: zero is nothing.
DIVERGING = LinearSegmentedColormap.from_list("blue_white_red", [BLUE, PALE_BLUE, "#ffffff", PALE_RED, RED], N=257)


# The markers of a graph, by what an operator is for in it.
MARKERS = {
    "input": "#d9d9d9",
    "weights": "#88a8d0",
    "gate": "#f2b54a",
    "sum": "#7fbf8e",
    "concatenation": "#c79ac7",
    "max pool": "#e08a6a",
    "average": "#a9cfe0",
    "scale": "#c9c08a",
    "other": PALE,
}


_ONE = RLock()  # matplotlib's settings are those of the process: two that set them by turns would leave the wrong ones


@contextmanager
def own_settings() -> Iterator[None]:
    """Inside, matplotlib's settings are its defaults, and then again the user's: `image.origin` turns no map over.

    Also a decorator, `@own_settings()`, of whatever draws.
    """
    with _ONE, matplotlib.style.context("default"):
        yield


def despine(ax: Axes, *sides: str) -> None:
    """Leave out the frame at the top and on the right, and at other sides."""
    ax.spines[["top", "right", *sides]].set_visible(False)
