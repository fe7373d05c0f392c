"""How far a graph is from the model it was traced from, where interpolants took the place of smooth units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.smooth import Interpolant
from linreg.text import table


@dataclass(frozen=True, eq=False)
class Approximation:
    """The interpolants of a graph, by node, and how far its outputs are from the model's on a batch.

    The node of one that a choice took up (`where(x > 0, x, x.tanh())`) is no longer in the graph. `distance` is
    max |graph(x) − model(x)| over the outputs of each image, `scale` max |model(x)|, both (N,). `linreg.trace` measures
    nothing where there are no interpolants, and they are empty; `linreg.measure` always does.
    """

    interpolants: Mapping[str, Interpolant] = field(default_factory=dict)
    distance: Tensor = field(default_factory=lambda: torch.zeros(0))
    scale: Tensor = field(default_factory=lambda: torch.zeros(0))

    @property
    def relative(self) -> Tensor:
        """The distance in units of the scale, (N,)."""
        return self.distance / self.scale

    def __repr__(self) -> str:
        worst = f", {self.relative.max():.2g} of the output's scale" if len(self.distance) else ""
        return f"Approximation({len(self.interpolants)} interpolants{worst})"

    def summary(self) -> str:
        """A table of the interpolants with their pieces and maximal errors, and the distance on a few images.

        Of more than four images, on the first three and the worst, with the median of all.
        """
        rows = [(node, i.unit, str(i.pieces), f"{i.max_error:.2e}") for node, i in self.interpolants.items()]
        header = ("node", "unit", "pieces", "max error")
        units = table(rows, header, right=(2, 3)) if rows else "no smooth unit was replaced"
        images = zip(self.distance.tolist(), self.scale.tolist(), self.relative.tolist(), strict=True)
        lines = [
            f"image {n}: the output is {distance:.3g} off at most, {relative:.1e} of its scale {scale:.4g}"
            for n, (distance, scale, relative) in enumerate(images)
        ]
        if len(lines) > SHOWN:
            worst = int(self.relative.argmax())
            middle = f"… {len(lines)} images in all, the median {self.relative.median():.1e} of its scale; the worst:"
            lines = [*lines[: SHOWN - 1], middle, lines[worst]]
        return "\n".join([units, *lines])


SHOWN = 4  # images in a summary


def apart(interpolants: Mapping[str, Interpolant], value: Tensor, expected: Tensor) -> Approximation:
    """The report on two outputs (N, …): the graph's and the model's. Raises LinregError where they differ in shape.

    But for dimensions of 1: a model may squeeze() a batch of one.
    """
    if [size for size in value.shape if size != 1] != [size for size in expected.shape if size != 1]:
        raise LinregError(
            f"the graph's output has shape {tuple(value.shape)}, and the model's {tuple(expected.shape)}: the graph is "
            "of another model, or `output` is not the one that it was traced with"
        )
    expected = expected.reshape(value.shape)
    distance, scale = (each.reshape(len(each), -1).abs().amax(1) for each in (value - expected, expected))
    return Approximation(interpolants, distance, scale)
