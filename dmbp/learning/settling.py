"""When to stop without a metric: the masks of an image rest once its map has come to rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dmbp.account import elementwise
from dmbp.learning.descent import Descent, OwnDescent, Scores
from dmbp.rank_correlation import spearman
from dmbp.split import decompose
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
        """The complete map of y⁺ + y⁻ at the present masks, of all inputs in a row, (N, elements).

        An input that is no picture has no such map: of features it is ∇ ⊙ x.
        """
        masks = {site: theta.sigmoid().contiguous() for site, theta in descent.logits.items()}
        split = decompose(self.lin, masks, self.weights, self.unmasked)
        complete = _by_name((split.complete("positive") + split.complete("negative")).map)
        own = _by_name(elementwise(split, "positive", "negative"))
        rows = [values.flatten(1) if values.dim() > 1 else own[name].flatten(1) for name, values in complete.items()]
        return torch.cat(rows, 1)


def _by_name(values: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {INPUT: values} if isinstance(values, Tensor) else values
