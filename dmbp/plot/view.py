"""One input of one explanation, as its picture needs it: its values, its maps, what these sum to, where the target is.

Index letters: C channels; after them the axes of the picture, H and W, or one of a signal, or three of a volume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecBase, SubplotSpec
from torch import Tensor

from linreg.text import number

if TYPE_CHECKING:
    from dmbp.result import Result


@dataclass(frozen=True, eq=False)
class View:
    """One input, `name`, of one image of a result.

    `picture` (H, W, 3) is drawn in the place of x where that is a picture; `names` are those of features or channels;
    `score` is what the score is called.
    """

    result: Result
    image: int
    name: str
    score: str = "y"
    picture: np.ndarray | None = None
    names: tuple[str, ...] | None = None

    @property
    def title(self) -> str:
        """What the input is called: by its name where there are several."""
        return self.name if self.result.account.layout.several else "x"

    @property
    def x(self) -> Tensor:
        """The input itself, (*shape)."""
        return self.result.inputs[self.name][self.image]

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """∇⁺ ⊙ x, ∇⁻ ⊙ x and a, each shaped like x."""
        values = (self.result.positive, self.result.negative, self.result.attribution)
        titles = ("positive ∇⁺ ⊙ x", "negative ∇⁻ ⊙ x", "attribution a")
        return {title: self._array(value) for title, value in zip(titles, values, strict=True)}

    @property
    def complete(self) -> dict[str, np.ndarray]:
        """The complete maps of y⁺, of y⁻ and of both, (*axes): with the bias terms at their places."""
        shares = self.result.shares
        values = (shares["positive"].complete, shares["negative"].complete, self.result.complete)
        titles = ("complete, positive", "complete, negative", "complete, both")
        return {title: self._array(value) for title, value in zip(titles, values, strict=True)}

    @property
    def mappings(self) -> list[np.ndarray]:
        """∇⁺ and ∇⁻, each shaped like x."""
        layout = self.result.account.layout
        parts = (layout.parted(self.result.shares[part].mapping) for part in ("positive", "negative"))
        return [self._array(part) for part in parts]

    @property
    def totals(self) -> dict[str, float]:
        """What three maps are parts of: y⁺, y⁻ and their sum, or y where no masks were learned."""
        scores, score = self.result.scores, self.score
        positive, negative, y = (scores[part][self.image].item() for part in ("positive", "negative", "y"))
        both = {score: y} if self.result.loss == "none" else {f"{score}⁺ + {score}⁻": positive + negative}
        return {f"{score}⁺": positive, f"{score}⁻": negative} | both

    def captions(self, maps: Mapping[str, np.ndarray], what: str) -> list[str]:
        """What stands under each of three maps: how much it shows of its part of the score."""
        sums = (number(float(values.sum())) for values in maps.values())
        parts = self.totals.items()
        return [f"{what}: {total} of {of} = {number(whole)}" for total, (of, whole) in zip(sums, parts, strict=True)]

    def label(self, index: int, kind: str) -> str:
        """The name of a feature or channel, as matplotlib takes it."""
        name = self.names[index] if self.names else f"{kind} {index}"
        return name.replace("$", r"\$")

    @property
    def target(self) -> np.ndarray | None:
        """Which places of the output the score is taken from, booleans (*places), as of a pixel of a segmentation.

        None where the output has no such places, as many axes as the input's picture, or all of them count.
        """
        weights = self.result.target[self.image].numpy(force=True)
        if weights.ndim < 2 or weights.ndim != len(self.x.shape):
            return None
        inside = (weights != 0).any(0)
        return None if inside.all() or not inside.any() else inside

    def _array(self, value: Any) -> np.ndarray:
        own: Tensor = value[self.name] if isinstance(value, Mapping) else value
        return own[self.image].numpy(force=True)


@dataclass(frozen=True, eq=False)
class Place:
    """Where in a figure an input is drawn: in the rows of a grid of three columns."""

    figure: Figure
    grid: GridSpecBase

    def cell(self, row: int, column: int) -> Axes:
        return self.figure.add_subplot(self.grid[row, column])

    def across(self, row: int, **options: Any) -> Axes:
        """A whole row."""
        return self.figure.add_subplot(self.grid[row, :], **options)

    def part(self, row: int, columns: slice = slice(None)) -> SubplotSpec:
        """Several cells, to be parted further."""
        return self.grid[row, columns]


@dataclass(frozen=True)
class Kind:
    """A way to draw an input: the heights of its rows, with `air` for what stands between them, and what draws them.

    Inches; the three columns take nine.
    """

    heights: Callable[[View], tuple[float, ...]]
    air: Callable[[View], float]
    draw: Callable[[View, Place], None]

    def height(self, view: View) -> float:
        """All that it takes, in inches."""
        return sum(self.heights(view)) + self.air(view)
