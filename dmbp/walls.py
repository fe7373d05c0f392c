"""What a wall does to a split: y goes on where one linear region ends and the next begins, and its parts jump."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dmbp.account import LINES
from dmbp.masks import Masks
from dmbp.split import Split, decompose
from linreg.regions import Neighbour
from linreg.target import Target


@dataclass(frozen=True, eq=False)
class Jump:
    """The splits of two regions that meet in a wall, for the same masks and at the same point of the wall.

    The unit that turns has z = 0 there, so that y is the same from both sides. What the masks let through to it is not
    0, its z⁺ and z⁻: where it opens, its mask's share of these comes in, and y~ takes it back.
    """

    here: Split
    beyond: Split

    @property
    def scores(self) -> dict[str, float]:
        """By how much y, y⁺, y⁻, y~ and u jump: {name: beyond − here}; y by nothing, and y⁺ + y⁻ + y~ neither."""
        return {line: (self.beyond.scores[line] - self.here.scores[line]).item() for line in LINES}

    def weight(self, part: str) -> Tensor:
        """By how much the mapping ∇ of "y", "positive", "negative" or "nuisance" jumps, shaped like the input."""
        return self.beyond.ledger(part).weight - self.here.ledger(part).weight


def jump(neighbour: Neighbour, masks: Masks, target: Target = None, unmasked: str = "nuisance") -> Jump:
    """The split on both sides of a wall, with fixed masks. Raises DmbpError for masks that do not fit.

    >>> import dmbp.walls, linreg, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
    >>> neighbour = linreg.regions.across(lin, linreg.regions.walls(lin)[0])
    >>> found = dmbp.walls.jump(neighbour, {"1": torch.tensor([[0.75, 0.5]])})
    >>> found.weight("positive")  # half of the second unit comes in
    tensor([[ 0.5000, -1.0000]])
    """
    return Jump(*(decompose(side, masks, target, unmasked) for side in (neighbour.here, neighbour.beyond)))
