"""When to stop without a metric: the masks of an image rest once its map has come to rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dmbp.account import elementwise
from dmbp.learning.descent import Descent, OwnDescent, Scores
from dmbp.rank_correlation import spearman
from dmbp.split import Split, decompose
from linreg import Linearization
from linreg.inputs import INPUT

EVERY = 20  # iterations from one map to the next that it is compared with


@dataclass(eq=False)
class Settling:
    """Lets images rest whose complete map agrees with that of `EVERY` iterations before: Spearman's ρ ≥ `agreement`.

    y⁺ may grow without end while the map stays what it is, so the loss does not tell. Scores are weighed by `weights`
    (N, *output shape), and split with `unmasked` as `decompose` takes it.
    """

    lin: Linearization
    weights: Tensor
    unmasked: str
    agreement: float
    last: Tensor | None = None

    def __call__(self, descent: Descent | OwnDescent, steps: list[Scores]) -> bool:
        """Look at the maps, where it is time to; True once all images rest."""
        if len(steps) % EVERY == 0:
            before, self.last = self.last, self._maps(descent)
            if before is not None:
                # A constant map has no ranks: its NaN is no agreement.
                settled = spearman(before, self.last) >= self.agreement
                descent.active *= (~settled).to(descent.active)
        return not descent.active.any()

    @torch.no_grad()
    def _maps(self, descent: Descent | OwnDescent) -> Tensor:
        """Those at the present masks, (N, elements)."""
        masks = {site: theta.sigmoid().contiguous() for site, theta in descent.logits.items()}
        return map_rows(decompose(self.lin, masks, self.weights, self.unmasked))


@dataclass(eq=False)
class Late:
    """The masks of `EVERY` updates before the last of so many `iterations`, or of the nearest before an earlier end.

    What tells whether the map has come to rest, at the price of one copy of the masks.
    """

    iterations: int
    at: int = 0
    kept: Mapping[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def look(self, iteration: int, logits: Mapping[str, Tensor]) -> None:
        """Keep the masks before this update, where it is time to."""
        if (self.iterations - iteration) % EVERY == 0:
            self.at = iteration
            self.kept = {site: theta.sigmoid() for site, theta in logits.items()}

    def masks(self, reached: int) -> dict[str, Tensor]:
        """Those that were kept; none where fewer than half of `EVERY` updates came after them."""
        if reached - self.at < EVERY // 2:
            return {}
        return {site: sigma.contiguous() for site, sigma in self.kept.items()}


@torch.no_grad()
def map_rows(split: Split) -> Tensor:
    """The complete map of y⁺ + y⁻ of all inputs in a row, (N, elements).

    An input that is no picture has no such map: of features it is ∇ ⊙ x.
    """
    complete = _by_name((split.complete("positive") + split.complete("negative")).map)
    own = _by_name(elementwise(split, "positive", "negative"))
    rows = [values.flatten(1) if values.dim() > 1 else own[name].flatten(1) for name, values in complete.items()]
    return torch.cat(rows, 1)


def _by_name(values: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {INPUT: values} if isinstance(values, Tensor) else values
