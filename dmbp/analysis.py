"""What learned masks say, site by site: where they lean, how far they moved, whom they agree with, what they carry.

Indices: l site, i unit of a site, c channel (a site's first dimension). A unit's mask is σ; above 0.5 it leans to y⁺,
below to y⁻. Every function looks at one image of a batch. Its records are plain numbers, one for each site in the order
of the graph: `summary` prints them, `dataclasses.asdict` makes dictionaries of them. Where a site has no unit to speak
of, shares and means are nan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import nan
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from dmbp.account import check_image
from dmbp.errors import DmbpError
from dmbp.masks import Masks, check_masks
from dmbp.result import Result
from dmbp.split import Split
from linreg import Linearization, Node
from linreg.operators import Diagonal
from linreg.target import Target, cotangent
from linreg.text import counted, number, table

TOLERANCE = 0.05  # |σ − 0.5| up to which a unit is undecided: two of RMSprop's first steps
BINS = 25  # odd, so that one bin lies around 0.5


@dataclass(frozen=True, eq=False)
class SiteMask:
    """The masks of one site for one image, all arrays of the site's shape: σ, σ₀, and which units can learn.

    A unit is `closed` where its gate has slope 0 and offset 0: its value is 0 whatever the masks before it, so
    ∂P/∂σ = g v = 0. A saturated ReLU6 is not closed: it hands on its offset, and learns. A unit is `unread` where its
    gate is not closed and no path leads on to the score (not selected by a max pool, or read by closed gates only:
    g = 0). Neither ever leaves σ₀; all others are `live`. A site that is no gate has no closed units.
    """

    site: str
    sigma: np.ndarray
    initial: np.ndarray
    closed: np.ndarray
    unread: np.ndarray

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.sigma.shape))
        return f"SiteMask({self.site!r}, {shape}: {self.live.sum():,} live units of {self.sigma.size:,})"

    @property
    def live(self) -> np.ndarray:
        """The units that can learn."""
        return ~(self.closed | self.unread)

    def histogram(self, bins: int = BINS) -> np.ndarray:
        """How many live units have their σ in each of `bins` equal parts of [0, 1]."""
        return np.histogram(self.sigma[self.live], bins, (0, 1))[0]

    def channel_means(self) -> np.ndarray:
        """Mean σ of each channel's live units, (C,)."""
        return _means(self.sigma, self.live, tuple(range(1, self.sigma.ndim)))

    def picture(self) -> np.ndarray:
        """Mean σ over the channels' live units at each position, (H, W). Raises DmbpError unless σ is (C, H, W)."""
        if self.sigma.ndim != 3:
            raise DmbpError(f"site '{self.site}' has shape {self.sigma.shape}: only (C, H, W) makes a picture")
        return _means(self.sigma, self.live, (0,))


@dataclass(frozen=True)
class Lean:
    """Units of a site by kind, and of the live ones: the shares that lean to y⁺, to y⁻ and to neither, and mean σ."""

    site: str
    units: int
    closed: int
    unread: int
    live: int
    positive: float
    negative: float
    undecided: float
    mean: float
    number: ClassVar[str] = ".3f"


@dataclass(frozen=True)
class Drift:
    """Of a site's live units: mean |σ − σ₀|, the largest, and how many left the middle, came back to it, or crossed it.

    `decided` counts those that were undecided and lean now, `undone` the reverse, `crossed` those that lean to the
    other side.
    """

    site: str
    live: int
    mean: float
    largest: float
    decided: int
    undone: int
    crossed: int
    number: ClassVar[str] = ".4f"


@dataclass(frozen=True)
class Agreement:
    """Two explanations at one site, over the units live in both (`common`).

    Shares that lean to the `same` side, to `opposite` sides, or in one of them to none (`undecided`); Spearman's rank
    correlation of the two σ, nan where either is constant.
    """

    site: str
    common: int
    same: float
    opposite: float
    undecided: float
    correlation: float
    number: ClassVar[str] = ".3f"


@dataclass(frozen=True)
class Carry:
    """What passes one site, in units of the score.

    `positive` and `negative` are the parts of y⁺ and y⁻ that pass the site: g⁺ · h⁺ in P(σ), g⁻ · h⁻ in P(1 − σ);
    `first_positive` and `first_negative` those that met no site before. `nuisance` is the part of y~ whose signs
    disagree here for the first time: `from_positive` had met σ only and meets 1 − σ, `from_negative` the reverse.
    """

    site: str
    positive: float
    negative: float
    first_positive: float
    first_negative: float
    nuisance: float
    from_positive: float
    from_negative: float
    number: ClassVar[str] = "+.5g"


@dataclass(frozen=True)
class Carries:
    """The parts of a split by site: Σ_l first_positive = y⁺, Σ_l first_negative = y⁻ and Σ_l nuisance = y~, each less
    the `remainder` (positive, negative, nuisance) of what no site touches.

    With u in y~ the remainder is (0, 0, u); with u in both passes it is (u, u, −u). The `positive` of the sites do not
    sum to y⁺: a path counts at each site that it passes. `magnitude` is Σ|terms|, the scale of rounding errors.
    """

    sites: tuple[Carry, ...]
    remainder: tuple[float, float, float]
    scores: tuple[float, float, float]
    magnitude: float

    def __repr__(self) -> str:
        scores = (f"{name} = {number(y, figures=4)}" for name, y in zip(("y⁺", "y⁻", "y~"), self.scores, strict=True))
        return f"Carries({counted(len(self.sites), 'site')}; {', '.join(scores)})"

    @property
    def error(self) -> float:
        """The largest of |Σ_l part_l + remainder − part| over y⁺, y⁻ and y~."""
        sums = (sum(getattr(carry, name) for carry in self.sites) for name in PARTITIONS)
        return max(abs(s + r - y) for s, r, y in zip(sums, self.remainder, self.scores, strict=True))

    def summary(self) -> str:
        """The table of the sites; the columns of y⁺, y⁻ and y~ sum to their last line."""
        rows = [(c.site, *(f"{getattr(c, name):+.5g}" for name in CARRIED)) for c in self.sites]
        rows += [
            (name, "", "", *(f"{value:+.5g}" for value in values))
            for name, values in (("(no site)", self.remainder), ("total", self.scores))
        ]
        header = ("site", "y⁺ passing", "y⁻ passing", "y⁺ first here", "y⁻ first here", "y~ made here")
        return table(rows, header, range(1, len(header)))


PARTITIONS = ("first_positive", "first_negative", "nuisance")
CARRIED = ("positive", "negative", *PARTITIONS)


def site_masks(result: Result, image: int = 0, masks: Masks | None = None) -> tuple[SiteMask, ...]:
    """The masks of each site for one image: the learned ones, or in their place `masks`, of an earlier iteration.

    Raises DmbpError where the batch has no such image or `masks` do not fit the sites.
    """
    check_image(result.split, image)
    masks = _fitting(masks, result)
    lin = result.split.lin
    grads = _adjoints(lin, result.split.target, result.masks)

    def of(site: str) -> SiteMask:
        closed = _closed(lin, site)[image]
        unread = ~closed & (grads[site][image] == 0)
        parts = (masks[site][image], result.initial[site][image], closed, unread)
        return SiteMask(site, *(part.numpy(force=True) for part in parts))

    return tuple(of(site) for site in result.masks)


def leans(masks: Iterable[SiteMask], tolerance: float = TOLERANCE) -> tuple[Lean, ...]:
    """Where each site leans: σ > 0.5 + tolerance to y⁺, σ < 0.5 − tolerance to y⁻, else undecided."""

    def of(mask: SiteMask) -> Lean:
        sigma = mask.sigma[mask.live]
        sides = _sides(sigma, tolerance)
        closed, unread = int(mask.closed.sum()), int(mask.unread.sum())
        positive, negative, undecided = (_mean_of(sides == side) for side in (1, -1, 0))
        return Lean(
            mask.site, mask.sigma.size, closed, unread, sigma.size, positive, negative, undecided, _mean_of(sigma)
        )

    return tuple(of(mask) for mask in masks)


def drifts(masks: Iterable[SiteMask], tolerance: float = TOLERANCE) -> tuple[Drift, ...]:
    """How far each site's live units are from their start σ₀."""

    def of(mask: SiteMask) -> Drift:
        now, start = mask.sigma[mask.live], mask.initial[mask.live]
        moved, side, before = np.abs(now - start), _sides(now, tolerance), _sides(start, tolerance)
        counts = ((before == 0) & (side != 0), (before != 0) & (side == 0), before * side < 0)
        largest = float(moved.max()) if moved.size else nan
        return Drift(mask.site, moved.size, _mean_of(moved), largest, *(int(c.sum()) for c in counts))

    return tuple(of(mask) for mask in masks)


def agreements(
    first: Sequence[SiteMask], second: Sequence[SiteMask], tolerance: float = TOLERANCE
) -> tuple[Agreement, ...]:
    """Compare two explanations by one network: of two classes, two images, or from two starts.

    Raises DmbpError unless both have the same sites, of the same shapes.
    """
    _check_same_sites(first, second)
    return tuple(_agreement(a, b, tolerance) for a, b in zip(first, second, strict=True))


@torch.no_grad()
def carries(split: Split, image: int = 0) -> Carries:
    """Which sites carry y⁺ and y⁻, and which create y~ (Eq. 9).

    Paths are sorted by the signs they meet: p all +, m all −, n no site yet. In front of site l, after its gate,
    they have the values p, m, n; g is the adjoint behind it, in the whole network, in P(σ) and in P(1 − σ). Then

        positive_l = g⁺ · σ (p + n)        first_positive_l = g⁺ · σ n              from_positive_l = g · (1 − σ) p
        negative_l = g⁻ · (1 − σ) (m + n)  first_negative_l = g⁻ · (1 − σ) n        from_negative_l = g · σ m

    A path of y~ has one site where its signs disagree for the first time, and what follows is free: hence the whole
    network's g. So y~ = u + Σ_l nuisance_l, where u has met no site. Raises DmbpError where there is no such image.
    """
    check_image(split, image)
    parts = _parts(split, image)
    rows = tuple(Carry(site, *(part.sum().item() for part in values)) for site, values in parts.items())
    u = split.unmasked[image].item()
    scores = (split.positive[image].item(), split.negative[image].item(), split.nuisance[image].item())
    remainder = (0.0, 0.0, u) if split.counting == "nuisance" else (u, u, -u)
    magnitude = abs(u) + sum(part.abs().sum().item() for values in parts.values() for part in values[2:5])
    return Carries(rows, remainder, scores, magnitude)


def summary(records: Sequence[Lean | Drift | Agreement | Carry]) -> str:
    """Records of one kind as a table, one line for each site."""
    names = [field.name for field in fields(records[0])] if records else ["site"]
    rows = [[_cell(getattr(record, name), record.number) for name in names] for record in records]
    return table(rows, names, range(1, len(names)))


def _cell(value: Any, number: str) -> str:
    if isinstance(value, float):
        return "–" if np.isnan(value) else format(value, number)
    return f"{value:,}" if isinstance(value, int) else value


def _parts(split: Split, image: int) -> dict[str, tuple[Tensor, ...]]:
    """The elementwise products of `carries`, in the order of Carry's fields."""
    states = _pure_states(split.lin, split.masks)
    whole, plus, minus = (_adjoints(part, split.target, states) for part in (split.lin, *split.passes[:2]))

    def of(site: str) -> tuple[Tensor, ...]:
        p, m, n = (state[image] for state in states[site])
        g, g_plus, g_minus = (grads[site][image] for grads in (whole, plus, minus))
        s = split.masks[site][image]
        lost = g * (1 - s) * p, g * s * m
        first = g_plus * s * n, g_minus * (1 - s) * n
        return g_plus * s * (p + n), g_minus * (1 - s) * (m + n), *first, sum(lost), *lost  # type: ignore[return-value]

    return {site: of(site) for site in states}


def _pure_states(lin: Linearization, masks: Masks) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """(p, m, n) in front of each site's mask: what has met only σ, what only 1 − σ, and what no site.

    They start as (0, 0, x); constants join n alone, and a site makes (σ (p + n), (1 − σ) (m + n), 0) of them.
    """
    arriving: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def step(node: Node, inputs: tuple[tuple[Tensor, Tensor, Tensor], ...]) -> tuple[Tensor, Tensor, Tensor]:
        affine = lin.frozen[node.name]
        plus, minus, none = zip(*inputs, strict=True)
        state = affine.linear(*plus), affine.linear(*minus), affine(*none)
        if node.name not in masks:
            return state
        arriving[node.name] = p, m, n = state
        sigma = masks[node.name]
        return sigma * (p + n), (1 - sigma) * (m + n), torch.zeros_like(n)

    zero = torch.zeros_like(lin.input)
    lin.graph.evaluate({"input": (zero, zero, lin.input)}, step)
    return arriving


@torch.no_grad()
def _adjoints(lin: Linearization, target: Target, sites: Mapping[str, Any]) -> dict[str, Tensor]:
    """∂y/∂h of the output of each site, (N, *shape)."""
    found: dict[str, Tensor] = {}

    def step(node: Node, grad: Tensor) -> tuple[Tensor, ...]:
        if node.name in sites:
            found[node.name] = grad
        return lin.frozen[node.name].adjoint(grad)

    lin.graph.pull({lin.graph.output: cotangent(target, lin.output)}, step)
    return found


def _closed(lin: Linearization, site: str) -> Tensor:
    affine = lin.frozen[site]
    if not isinstance(affine, Diagonal):
        return torch.zeros(len(lin.input), *lin.graph.shape(site), dtype=torch.bool, device=lin.input.device)
    closed = affine.slope == 0
    return closed if affine.offset is None else closed & (affine.offset == 0)


def _agreement(first: SiteMask, second: SiteMask, tolerance: float) -> Agreement:
    common = first.live & second.live
    a, b = first.sigma[common], second.sigma[common]
    product = _sides(a, tolerance) * _sides(b, tolerance)
    same, opposite, undecided = (_mean_of(product == sign) for sign in (1, -1, 0))
    return Agreement(first.site, a.size, same, opposite, undecided, _rank_correlation(a, b))


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return nan
    return float(spearmanr(a, b).statistic)


def _sides(sigma: np.ndarray, tolerance: float) -> np.ndarray:
    """1 where σ leans to y⁺, −1 where to y⁻, 0 where it is undecided."""
    lean = sigma - 0.5
    return np.where(np.abs(lean) > tolerance, np.sign(lean), 0).astype(int)


def _mean_of(values: np.ndarray) -> float:
    return float(values.mean(dtype=np.float64)) if values.size else nan


def _means(values: np.ndarray, counted: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Mean over `axes` of the values that count, nan where none does."""
    number = counted.sum(axes)
    total = np.where(counted, values, 0).sum(axes, dtype=np.float64)
    return np.where(number > 0, total / np.maximum(number, 1), nan)


def _fitting(masks: Masks | None, result: Result) -> Masks:
    if masks is None:
        return result.masks
    if set(masks) != set(result.masks):
        raise DmbpError("the masks must be those of the sites: " + ", ".join(result.masks))
    check_masks(result.split.lin, masks)
    return masks


def _check_same_sites(first: Sequence[SiteMask], second: Sequence[SiteMask]) -> None:
    one, other = ({mask.site: mask.sigma.shape for mask in masks} for masks in (first, second))
    if one != other:
        where = next((s for s in (*one, *other) if one.get(s) != other.get(s)), "")
        raise DmbpError(
            f"only explanations by one network can be compared, with the same sites: '{where}' has "
            f"shape {one.get(where, 'none')} in one and {other.get(where, 'none')} in the other"
        )
