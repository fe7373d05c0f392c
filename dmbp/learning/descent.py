"""Gradient descent on the logits of masks (Algorithm 1, lines 9 to 11): RMSprop, in place, site by site."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dmbp.learning.kernels import accumulate, descend, learn
from dmbp.learning.objective import LOSSES, slopes
from dmbp.learning.passes import MaskedNetwork, Pair, passes

Scores = dict[str, Tensor]

WINDOW = 10  # iterations over which `tolerance` takes means: the loss oscillates


class Descent:
    """RMSprop on the logits of a masked network, in place: `active` (N,) is 0 for images whose masks rest.

    `logits` are those given, in the network's layout.
    """

    def __init__(
        self, network: MaskedNetwork, logits: Mapping[str, Tensor], y: Tensor, aside: Tensor | int, loss: str, lr: float
    ) -> None:
        self.network, self.lr = network, lr
        self.y, self.aside, self.loss = y, aside, loss
        self.logits = {s: theta.contiguous(memory_format=network.sites[s].layout) for s, theta in logits.items()}
        self.squares = {site: torch.zeros_like(theta) for site, theta in self.logits.items()}
        self.active = torch.ones_like(y)

    def forward(self) -> tuple[Scores, dict[str, Tensor]]:
        """The split (N,) at the present masks, and the values behind them."""
        (plus, minus), kept = self.network.forward(self.logits)
        plus, minus = plus - self.aside, minus - self.aside
        return {"positive": plus, "negative": minus, "nuisance": self.y - plus - minus}, kept

    def backward(self, split: Scores, kept: dict[str, Tensor]) -> None:
        """One step, at each site as soon as the sweep back has its gradient."""
        plus, minus = slopes(LOSSES[self.loss], self.y, split["positive"], split["negative"])
        both = self.loss == "+-" if self.network.whole else None
        sweeps = passes(plus * self.active, minus * self.active, both)
        if len(sweeps) == 1:
            self._sweep(sweeps[0], lambda site, grad, side: self._learn(site, grad, side, kept.pop(site)))
            return
        totals = {site: torch.zeros_like(theta) for site, theta in self.logits.items()}
        for sweep in sweeps:
            self._sweep(sweep, lambda site, grad, side: self._accumulate(site, grad, side, kept[site], totals))
        for site, total in totals.items():
            descend(self.logits[site], self.squares[site], total, self.lr)

    def rest(self, steps: Sequence[Scores], tolerance: float) -> bool:
        """Let images rest whose loss has come to a stand; True once all do."""
        if len(steps) >= 2 * WINDOW and len(steps) % WINDOW == 0:
            losses = torch.stack(
                [LOSSES[self.loss](self.y, s["positive"], s["negative"]) for s in steps[-2 * WINDOW :]]
            )
            before, now = losses[:WINDOW].mean(0), losses[WINDOW:].mean(0)
            self.active *= (before - now >= tolerance * torch.maximum(now.abs(), self.y.abs())).to(self.active)
        return not self.active.any()

    def _sweep(self, sweep: Pair, visit: Callable[[str, Tensor, Tensor], None]) -> None:
        side, weights = sweep
        self.network.backward(weights, lambda site, grad: visit(site, grad, side))

    def _learn(self, site: str, grad: Tensor, side: Tensor, value: Tensor) -> None:
        self.network.at(site, learn, side, grad, value, (self.logits[site], self.squares[site]), self.lr)

    def _accumulate(self, site: str, grad: Tensor, side: Tensor, value: Tensor, totals: Mapping[str, Tensor]) -> None:
        self.network.at(site, accumulate, side, grad, value, (self.logits[site], totals[site]))
