"""The complete map: every term of a score on the picture, c ⊙ x where it comes from pixels, the others at their places.

Eq. 14 writes a score as y = c·x + Σ_k g_k·β_k, and the map c ⊙ x shows its first part only. But a constant β of node v
acts at each position q of v, where its share is Σ_channels (g ⊙ β)[q], and q has a place on the picture: its centre
c(q), which is s pixels from the next one (`linreg.geometry`). So each share is spread over the pixels i around it:

    map_i = Σ_channels (c ⊙ x)_i + Σ_v Σ_q K_v(i, q) share_v[q],   K_v(i, q) ∝ Λ((i − c(q)) / s),   Σ_i K_v(i, q) = 1,

with the hat Λ(t) = max(0, 1 − |t|) along each axis: bilinear interpolation, transposed. The hat is the linear B-spline,
the narrowest continuous kernel whose copies at distance s add up to 1 everywhere: equal shares at all positions make an
even ground. It is positive, so that nothing is sharpened and no sign changes; where s = 1 it is a point, and a constant
stays where it is. As each column of K sums to 1, the map sums to what the terms do. What has no place (the output's
bias, what follows a flattening or a global pool) is kept apart, by name: Σ_i map_i + rest = y.

Of several inputs each has a map of its own, with its own c ⊙ x. A constant is laid on the pictures that its node looks
at and has places on; where these are several, each gets an equal share of it: Σ_inputs Σ_i map_i + rest = y.

Indices: n image, i pixel, q position of a node, k constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.geometry import Axis, Geometry
from linreg.graph import INPUT
from linreg.ledger import Ledger
from linreg.operators.sparse import Array
from linreg.surroundings import undisturbed
from linreg.target import sum_per_image
from linreg.text import counted, number


@dataclass(frozen=True, eq=False)
class CompleteMap:
    """A score laid on the picture: `map` + `rest` = the score.

    `pixels` (N, *picture) is Σ_channels c ⊙ x. `placed` are the shares of the constants by node, (N, *positions), and
    `geometry` tells where their positions lie. `unplaced` are the shares of terms without a place, (N,), by label, and
    `why` says for each why it has none.
    """

    pixels: Tensor
    placed: Mapping[str, Tensor]
    geometry: Mapping[str, Geometry]
    unplaced: Mapping[str, Tensor]
    why: Mapping[str, str]

    def __repr__(self) -> str:
        images, *picture = self.pixels.shape
        shape = "×".join(map(str, picture)) or "no picture"
        return f"CompleteMap({counted(images, 'image')} of {shape}; {_parts(self, len(self.placed))})"

    @cached_property
    def map(self) -> Tensor:
        """All that has a place, (N, *picture), in units of the score for each pixel."""
        return sum(self._spread(tuple(self.placed)), self.pixels)

    @property
    def rest(self) -> Tensor:
        """What has no place, (N,): a number, told apart in `unplaced`."""
        return sum(self.unplaced.values(), torch.zeros_like(sum_per_image(self.pixels)))

    @property
    def total(self) -> Tensor:
        """Σ_i map_i + rest, (N,): the score, to rounding."""
        return sum_per_image(self.map) + self.rest

    @property
    def pixel_share(self) -> Tensor:
        """What comes straight from pixels, (N,): all that the map c ⊙ x shows."""
        return sum_per_image(self.pixels)

    @property
    def placed_share(self) -> Tensor:
        """What comes from constants that have a place, (N,)."""
        return sum((sum_per_image(share) for share in self.placed.values()), torch.zeros_like(self.rest))

    def layer(self, *nodes: str) -> Tensor:
        """What the constants of some nodes put where, (N, *picture).

        Raises LinregError for a node that has no constants with a place; `placed` holds those that have.
        """
        for name in nodes:
            if name not in self.placed:
                raise LinregError(
                    f"no constant of '{name}' has a place on the picture; those of these nodes do: "
                    f"{', '.join(map(repr, self.placed)) or 'none'}"
                )
        return sum(self._spread(nodes), torch.zeros_like(self.pixels))

    def _spread(self, nodes: tuple[str, ...]) -> list[Tensor]:
        """The shares of nodes on the picture, those with the same geometry together."""
        together: dict[tuple[bytes, ...], list[str]] = {}
        for name in nodes:
            together.setdefault(_key(self.geometry[name]), []).append(name)
        sums = ((names[0], sum(self.placed[name] for name in names)) for names in together.values())
        return [spread(share, self.geometry[name]) for name, share in sums]  # type: ignore[arg-type]

    def __add__(self, other: CompleteMap) -> CompleteMap:
        return self._combined(other, 1)

    def __sub__(self, other: CompleteMap) -> CompleteMap:
        """Term by term, of two maps of one graph: that of y⁺ is that of P(σ) less that of u."""
        return self._combined(other, -1)

    def _combined(self, other: CompleteMap, sign: int) -> CompleteMap:
        placed = {name: share + sign * other.placed[name] for name, share in self.placed.items()}
        unplaced = {label: share + sign * other.unplaced[label] for label, share in self.unplaced.items()}
        return CompleteMap(self.pixels + sign * other.pixels, placed, self.geometry, unplaced, self.why)


def complete_map(ledger: Ledger) -> CompleteMap:
    """What `Ledger.complete` gives. Raises LinregError for a ledger that was made without a graph."""
    if INPUT not in ledger.geometries:
        raise LinregError("the ledger was made without a graph, which tells where its terms lie: use lin.ledger(…)")
    placed: dict[str, Tensor] = {}
    unplaced: dict[str, Tensor] = {}
    why: dict[str, str] = {}
    for label, term in zip(ledger.labels, ledger.terms, strict=True):
        if term.places is None:
            unplaced[label], why[label] = term.total, ledger.geometries[term.node].why
        else:
            placed[term.node] = placed[term.node] + term.places if term.node in placed else term.places
    pixels = _over_channels(ledger.input, ledger.geometries[INPUT])
    return CompleteMap(pixels, placed, ledger.geometries, unplaced, why)


@dataclass(frozen=True, eq=False)
class CompleteMaps(Mapping[str, CompleteMap]):
    """A score laid on several inputs, by name: all maps + `rest` = the score.

    `map` has them all, {name: (N, *picture)}; what no input has a place for is `unplaced`, by label, and `why` says
    why. An input that is no picture, (N, features), has the sum of its c ⊙ x, (N,).
    """

    parts: Mapping[str, CompleteMap]
    unplaced: Mapping[str, Tensor]
    why: Mapping[str, str]

    def __repr__(self) -> str:
        layers = len({name for part in self.parts.values() for name in part.placed})
        return f"CompleteMaps({', '.join(map(repr, self.parts))}; {_parts(self, layers)})"

    def __getitem__(self, name: str) -> CompleteMap:
        return self.parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def map(self) -> dict[str, Tensor]:
        """All that has a place, {name: (N, *picture)}, in units of the score for each pixel."""
        return {name: part.map for name, part in self.parts.items()}

    @property
    def rest(self) -> Tensor:
        """What has no place on any input, (N,)."""
        return sum(self.unplaced.values(), self.pixel_share * 0)

    @property
    def total(self) -> Tensor:
        """All maps and the rest, (N,): the score, to rounding."""
        return sum((part.total for part in self.parts.values()), self.rest)

    @property
    def pixel_share(self) -> Tensor:
        """What comes straight from the inputs, (N,)."""
        return torch.stack([part.pixel_share for part in self.parts.values()]).sum(0)

    @property
    def placed_share(self) -> Tensor:
        """What comes from constants that have a place, (N,)."""
        return torch.stack([part.placed_share for part in self.parts.values()]).sum(0)

    def __add__(self, other: CompleteMaps) -> CompleteMaps:
        return self._combined(other, 1)

    def __sub__(self, other: CompleteMaps) -> CompleteMaps:
        """Term by term, of the maps of one graph."""
        return self._combined(other, -1)

    def _combined(self, other: CompleteMaps, sign: int) -> CompleteMaps:
        parts = {name: part._combined(other.parts[name], sign) for name, part in self.parts.items()}
        unplaced = {label: share + sign * other.unplaced[label] for label, share in self.unplaced.items()}
        return CompleteMaps(parts, unplaced, self.why)


def _parts(laid: CompleteMap | CompleteMaps, layers: int) -> str:
    """The first image's sum in words: what comes from pixels, what from constants with a place, what is left."""
    total, pixels, placed, rest = (
        number(part[0].item()) for part in (laid.total, laid.pixel_share, laid.placed_share, laid.rest)
    )
    constants = f"constants of {counted(layers, 'node')}"
    more = f"; of image 0 of {len(laid.rest)}" if len(laid.rest) > 1 else ""
    return f"{total} = pixels {pixels} + {constants} {placed} + without a place {rest}{more}"


def complete_maps(ledger: Ledger) -> CompleteMaps:
    """What `Ledger.complete` gives for several inputs."""
    assert ledger.inputs is not None
    placed: dict[str, dict[str, Tensor]] = {name: {} for name in ledger.views}
    unplaced: dict[str, Tensor] = {}
    why: dict[str, str] = {}
    for label, term in zip(ledger.labels, ledger.terms, strict=True):
        if not term.views:
            unplaced[label] = term.total
            why[label] = "; ".join(f"on '{name}': {view[term.node].why}" for name, view in ledger.views.items())
        for name, share in term.views.items():
            shared = share / len(term.views)
            before = placed[name].get(term.node)
            placed[name][term.node] = shared if before is None else before + shared
    parts = {}
    for name, values in ledger.by_input().items():
        own = ledger.views[name][ledger.inputs.nodes[name]]
        parts[name] = CompleteMap(_over_channels(values, own), placed[name], ledger.views[name], {}, {})
    return CompleteMaps(parts, unplaced, why)


def _over_channels(values: Tensor, own: Geometry) -> Tensor:
    """c ⊙ x of an input, summed over what are no axes of its picture."""
    channels = [dim for dim in range(1, values.dim()) if dim not in {axis.dim for axis in own.axes}]
    return values.sum(channels) if channels else values


@undisturbed()
def spread(share: Tensor, geometry: Geometry) -> Tensor:
    """Shares by position (N, *positions) over the pixels around their centres, (N, *picture), with the same sum."""
    for axis in geometry.axes:  # each takes the first axis of positions, and puts its pixels last
        share = torch.tensordot(share, torch.from_numpy(hats(axis)).to(share), dims=([1], [1]))
    return share


def hats(axis: Axis) -> Array:
    """K(i, q) of one axis: (pixels, positions), each column sums to 1.

    A centre beyond the border, as padding makes them, counts as at the border.
    """
    assert axis.centres is not None
    width = max(abs(axis.stride), 1.0)
    centres = np.clip(axis.centres, 0, axis.size - 1)
    kernel = np.maximum(0.0, 1 - np.abs(np.arange(axis.size)[:, None] - centres) / width)
    return kernel / kernel.sum(0)


def _key(geometry: Geometry) -> tuple[bytes, ...]:
    """What two geometries have the same if their positions lie at the same places."""
    return tuple(axis.centres.tobytes() if axis.centres is not None else b"" for axis in geometry.axes)
