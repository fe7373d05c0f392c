"""Gradient descent on the logits of masks (Algorithm 1, lines 4 to 11): RMSprop, in place, site by site."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dmbp.learning.kernels import accumulate, descend, learn
from dmbp.learning.objective import LOSSES, Loss, slopes, value_and_slopes
from dmbp.learning.passes import MaskedNetwork, Pair, passes
from dmbp.learning.scores import MaskedScores, in_layout

Scores = dict[str, Tensor]

WINDOW = 10  # iterations over which `tolerance` takes means: the loss oscillates


class Descent:
    """RMSprop on the logits of a masked network, in place: `active` (N,) is 0 for images whose masks rest.

    `logits` are those given, in the network's layout. The network's scores, and `aside`, are those over `scale` (N,) of
    which `y` is one, and splits are told in the units of y. `loss` names a built-in one: its gradient is never stored.
    """

    def __init__(
        self, network: MaskedNetwork, logits: Mapping[str, Tensor], y: Tensor, aside: Tensor | int, loss: str,
        lr: float, scale: Tensor | int = 1,
    ) -> None:  # fmt: skip
        self.network, self.lr, self.scale = network, lr, scale
        self.y, self.aside, self.loss = y, aside, loss
        self.logits = in_layout(network, logits)
        self.squares = {site: torch.zeros_like(theta) for site, theta in self.logits.items()}
        self.active = torch.ones_like(y)

    def forward(self) -> tuple[Scores, dict[str, Tensor]]:
        """The split (N,) at the present masks, and the values behind them."""
        # Lines 4 to 7: Eq. 11, with the biases of Eq. 14, is P(σ) and P(1 − σ), and these take no pass back.
        (plus, minus), kept = self.network.forward(self.logits)
        return split(self.y, (plus - self.aside) * self.scale, (minus - self.aside) * self.scale), kept

    def backward(self, split: Scores, kept: dict[str, Tensor]) -> None:
        """One step, at each site as soon as the sweep back has its gradient."""
        # Line 9, Eq. 10: of the loss only its slopes by y⁺ and y⁻ are needed.
        plus, minus = slopes(LOSSES[self.loss], self.y, split["positive"], split["negative"])
        both = self.loss == "+-" if self.network.whole else None
        sweeps = passes(plus * self.active, minus * self.active, both)
        if len(sweeps) == 1:  # lines 10 and 11 at once
            self._sweep(sweeps[0], lambda site, grad, side: self._learn(site, grad, side, kept.pop(site)))
            return
        totals = {site: torch.zeros_like(theta) for site, theta in self.logits.items()}
        for sweep in sweeps:  # line 10, Eq. 20
            self._sweep(sweep, lambda site, grad, side: self._accumulate(site, grad, side, kept[site], totals))
        kept.clear()
        for site, total in totals.items():  # line 11
            descend(self.logits[site], self.squares[site], total, self.lr)

    def losses(self, steps: Sequence[Scores]) -> Tensor:
        """The losses of the last iterations, whose splits these are: (iterations, N)."""
        loss = LOSSES[self.loss]
        return torch.stack([loss(self.y, step["positive"], step["negative"]) for step in steps])

    def _sweep(self, sweep: Pair, visit: Callable[[str, Tensor, Tensor], None]) -> None:
        side, weights = sweep
        self.network.backward(weights, lambda site, grad: visit(site, grad, side))

    def _learn(self, site: str, grad: Tensor, side: Tensor, value: Tensor) -> None:
        self.network.at(site, learn, side, grad, value, (self.logits[site], self.squares[site]), self.lr)

    def _accumulate(self, site: str, grad: Tensor, side: Tensor, value: Tensor, totals: Mapping[str, Tensor]) -> None:
        self.network.at(site, accumulate, side, grad, value, (self.logits[site], totals[site]))


class OwnDescent:
    """The same by a loss of one's own, f(y, y⁺, y⁻) → (N,), through `MaskedScores` and its autograd Function.

    `scores` are those over `scale` (N,); f is given them in the units of y, and its gradient is over `scale` too.
    """

    def __init__(
        self, scores: MaskedScores, logits: Mapping[str, Tensor], loss: Loss, lr: float, scale: Tensor | int = 1
    ) -> None:
        self.scores, self.loss, self.lr, self.scale = scores, loss, lr, scale
        self.y = scores.y * scale
        self.logits = in_layout(scores.network, logits)
        self.leaves = {site: theta.detach().requires_grad_() for site, theta in self.logits.items()}
        self.squares = {site: torch.zeros_like(theta) for site, theta in self.logits.items()}
        self.active = torch.ones_like(self.y)
        self.updates, self.values = 0, deque[Tensor](maxlen=2 * WINDOW)

    def forward(self) -> tuple[Scores, dict[str, Tensor]]:
        """The split (N,) at the present masks; the values behind them are autograd's to keep."""
        with torch.enable_grad():
            self.followed = self.scores(self.leaves)  # lines 4 to 7
        plus, minus = (score.detach() * self.scale for score in self.followed)
        return split(self.y, plus, minus), {}

    def backward(self, split: Scores, kept: dict[str, Tensor]) -> None:
        """One step, once all gradients are there. Raises DmbpError for a loss that cannot be learned from."""
        value, *slopes = value_and_slopes(self.loss, self.y, split["positive"], split["negative"], self.updates)
        weights = [slope * self.active for slope in slopes]
        gradients = torch.autograd.grad(self.followed, list(self.leaves.values()), weights)  # line 10
        for site, gradient in zip(self.leaves, gradients, strict=True):  # line 11
            descend(self.logits[site], self.squares[site], gradient, self.lr)
        self.values.append(value)
        self.updates += 1

    def losses(self, steps: Sequence[Scores]) -> Tensor:
        """The losses of the last iterations, as they were found: (iterations, N)."""
        return torch.stack(list(self.values)[-len(steps) :])


def split(y: Tensor, positive: Tensor, negative: Tensor) -> Scores:
    """The three parts of y, (N,) each: y~ is what the two leave (line 8)."""
    return {"positive": positive, "negative": negative, "nuisance": y - positive - negative}


def rest(descent: Descent | OwnDescent, steps: Sequence[Scores], tolerance: float) -> bool:
    """Let images rest whose loss has come to a stand; True once all do."""
    if len(steps) >= 2 * WINDOW and len(steps) % WINDOW == 0:
        losses = descent.losses(steps[-2 * WINDOW :])
        before, now = losses[:WINDOW].mean(0), losses[WINDOW:].mean(0)
        falls = before - now >= tolerance * torch.maximum(now.abs(), descent.y.abs())
        descent.active *= falls.to(descent.active)
    return not descent.active.any()
