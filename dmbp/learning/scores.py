"""y⁺ and y⁻ as differentiable functions of the masks' logits: for objectives, optimisers and loops of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dmbp.errors import DmbpError
from dmbp.learning.autograd import both_passes
from dmbp.learning.options import Options
from dmbp.learning.passes import MaskedNetwork, Pair
from dmbp.masks import Masks, Sites, check_masks, initial_logits, masked
from dmbp.split import Split, decompose
from linreg import Linearization
from linreg.surroundings import plain
from linreg.target import Target, cotangent, held


@dataclass(frozen=True, eq=False)
class MaskedScores:
    """θ ↦ (y⁺, y⁻) of the images of a linear region; `masked_scores` makes it and says what it costs.

    `y` is the score, (N,); `counting` says where u = P(0) goes (see `decompose`).
    """

    lin: Linearization
    target: Target
    counting: str
    network: MaskedNetwork
    y: Tensor

    @classmethod
    @torch.no_grad()
    def of(
        cls, lin: Linearization, sites: Sequence[str], target: Target, counting: str, whole: bool, low: bool = False
    ) -> MaskedScores:
        """With kernels on whole tensors where `whole`, and layers of bfloat16 products where `low`."""
        network = MaskedNetwork.of(lin, sites, cotangent(target, lin.output), whole, low)
        return cls(lin, held(target), counting, network, lin.score(target))

    def __repr__(self) -> str:
        return f"MaskedScores(images={len(self.y)}, sites={self.sites}, unmasked={self.counting!r})"

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the masked nodes, in the order of the graph."""
        return tuple(self.network.sites)

    @cached_property
    @torch.no_grad()
    def unmasked(self) -> Tensor:
        """u = P(0), (N,): what no mask touches."""
        return masked(self.lin, {site: self.y.new_zeros(()) for site in self.sites}).score(self.target)

    @property
    def aside(self) -> Tensor:
        """What both scores are less by, (N,): u, or 0 with `counting` "both"."""
        return self.unmasked if self.counting == "nuisance" else torch.zeros_like(self.y)

    @plain()
    def logits(self, start: Masks | None = None) -> dict[str, Tensor]:
        """New leaf tensors θ (N, *shape of the site), which require gradients: of B.1, or of masks to `start` from."""
        logits = in_layout(self.network, start_logits(self.lin, self.sites, self.target, start))
        return {site: theta.requires_grad_() for site, theta in logits.items()}

    def __call__(self, logits: Mapping[str, Tensor]) -> Pair:
        """(y⁺, y⁻), each (N,), of logits {site: θ}; differentiable with respect to these, once.

        Raises DmbpError for logits that are not those of the sites.
        """
        self._check(logits)
        (plus, minus), aside = both_passes(self.network, logits), self.aside
        return plus - aside, minus - aside

    def split(self, logits: Mapping[str, Tensor]) -> Split:
        """The exact split by the masks σ = sigmoid(θ), with all its ledgers."""
        self._check(logits)
        masks = {site: logits[site].detach().sigmoid().contiguous() for site in self.sites}
        return decompose(self.lin, masks, self.target, self.counting)

    def _check(self, logits: Mapping[str, Tensor]) -> None:
        if not isinstance(logits, Mapping) or set(logits) != set(self.sites):
            raise DmbpError("the logits must be a mapping from each site to a tensor: " + ", ".join(self.sites))
        for site, theta in logits.items():
            wanted = _described(self.y.new_empty(()).expand(len(self.y), *self.lin.graph.shape(site)))
            if (came := _described(theta)) != wanted:
                raise DmbpError(f"the logits of '{site}' must be {wanted}, not {came}")


def _described(value: object) -> str:
    """What a tensor must have in common with another to stand in its place."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} {tuple(value.shape)} on {value.device}"


@plain()
def masked_scores(
    lin: Linearization,
    sites: Sites = "gates",
    target: Target = None,
    *,
    unmasked: str = "nuisance",
    compiled: bool | None = None,
) -> MaskedScores:
    """y⁺ and y⁻ as differentiable functions of logits θ, σ = sigmoid(θ), for objectives and loops of your own.

    (y⁺, y⁻) = (P(σ) − u, P(1 − σ) − u), each (N,), with u = P(0) (Eqs. 9, 11; with `unmasked` "both" u stays in
    either). `scores = masked_scores(lin, sites, target)` has `scores.sites`, `scores.y`, `scores.logits()`, which gives
    B.1's start as new leaf tensors, `scores(logits)`, and `scores.split(logits)`, the exact split by what was learned.
    `sites`, `unmasked` and `compiled` are told in `Options`, `target` in `linreg.target.cotangent`.

    The gradient is a custom `torch.autograd.Function`, in closed form: ∂P/∂θ = g ⊙ h ⊙ ± (1 − mask), with g the adjoint
    that arrives at a site and h the value that left it (Eq. 20). It is of first order only: a second derivative raises.

    A call makes two masked forwards of what lies behind the first sites; its backward makes one sweep where each image
    has a gradient in only one of y⁺ and y⁻, as with Eq. 10, else two. From the call until its backward, both values of
    each masked unit are kept, and the backward adds a gradient for each. The value shares the memory of `lin`, and
    keeps no logits; from call to backward autograd refers to them, so that a change in place in between raises.

    Device and dtype, float32 or float64, are those of `lin`. Raises DmbpError for sites that are none, another dtype,
    and infinite values at a site; LinregError for a target that does not fit the output.

    >>> import dmbp, linreg, torch
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
    >>> lin = linreg.trace(network, torch.ones(1, 4).double()).linearize(torch.randn(5, 4).double())
    >>> scores = dmbp.masked_scores(lin, target=1)
    >>> logits = scores.logits()
    >>> optimizer = torch.optim.Adam(logits.values(), lr=0.1)
    >>> for _ in range(20):
    ...     optimizer.zero_grad()
    ...     positive, negative = scores(logits)
    ...     (negative - positive).sum().backward()
    ...     optimizer.step()
    >>> split = scores.split(logits)
    >>> split.positive.shape, bool(split.error.max() < 1e-12)
    (torch.Size([5]), True)
    """
    options = Options(sites=sites, unmasked=unmasked, compiled=compiled)
    names = options.sites_in(lin)
    scores = MaskedScores.of(lin, names, target, unmasked, options.whole_on(lin.graph.device))
    with torch.no_grad():
        _, values = scores.network.forward(scores.logits())
    check_finite(values)
    return scores


def check_start(lin: Linearization, sites: Sequence[str], start: Masks) -> None:
    """Raise DmbpError unless these are masks of these sites."""
    check_masks(lin, start)
    if set(start) != set(sites):
        raise DmbpError("the masks to start from must be those of the sites: " + ", ".join(sites))


def start_logits(lin: Linearization, sites: Sequence[str], target: Target, start: Masks | None) -> dict[str, Tensor]:
    """θ of B.1, or of given masks: logit(σ), held within ±12 so that a mask of exactly 0 or 1 can still move."""
    if start is None:
        return initial_logits(lin, sites, target)
    check_start(lin, sites, start)
    return {site: start[site].detach().logit().clamp(-12, 12).contiguous() for site in sites}


def in_layout(network: MaskedNetwork, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The logits in the order in which the network's sites lie in memory: themselves where they lie so."""
    return {site: theta.contiguous(memory_format=network.sites[site].layout) for site, theta in logits.items()}


def check_scores(split: Mapping[str, Tensor], after: str) -> None:
    """Raise DmbpError where a part of a split has overflowed: no mask is learned from it."""
    for part, values in split.items():
        broken = (~values.isfinite()).nonzero()
        if len(broken):
            image = int(broken[0, -1])
            raise DmbpError(
                f"the score of image {image} leaves the range of {values.dtype} {after} ({part}): take float64, or "
                "scale the network's input or the target's weights"
            )


def check_finite(values: Mapping[str, Tensor]) -> None:
    """Raise DmbpError where the value of a site is infinite: no mask but 0 changes it, and its gradient is NaN."""
    for site, value in values.items():
        if not value.isfinite().all():
            raise DmbpError(
                f"site '{site}' holds infinite values, which no mask scales: put a large finite number in their place, "
                "or leave it out of `sites`"
            )
