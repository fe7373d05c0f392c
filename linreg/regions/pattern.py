"""Which piece each gate and selection is on: what tells one linear region from another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linreg.errors import LinregError
from linreg.graph import INPUT, Node
from linreg.linearization import Linearization
from linreg.operators import Affine, Diagonal, Gate, Guided, Selection, Where
from linreg.operators.sparse import to_numpy
from linreg.regions.decisions import on_upper_piece
from linreg.text import counted

Array = NDArray[Any]


@dataclass(frozen=True, eq=False, repr=False)
class Pattern(Mapping[str, Array]):
    """The piece of every unit of a network at one input, as a value: two are equal, and hash alike, if all pieces are.

    `pattern[site]` has the pieces of one gate or selection, shaped as its value: for a gate the number of kinks below
    (a ReLU: 1 open, 0 closed), for a maximum the place of what it chose, for a choice by comparison a number that
    stands for what it chose. The arrays cannot be written to. Made by `Linearization.pattern`. (A median, a k-th value
    and a choice by logic may choose the same in several cells: their pattern is then the same, while `inequalities` are
    those of the one cell.)

    >>> import torch, linreg
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> graph = linreg.trace(model, torch.ones(1, 2))
    >>> here, there = (graph.linearize(torch.tensor([x])).pattern() for x in ([1.0, 1.0], [3.0, 1.0]))
    >>> here["1"], there["1"], here == there, here.hamming(there)
    (array([1, 0], dtype=uint8), array([1, 1], dtype=uint8), False, {'1': 1})
    """

    pieces: Mapping[str, Array]

    def __post_init__(self) -> None:
        for array in self.pieces.values():
            array.flags.writeable = False

    def __getitem__(self, site: str) -> Array:
        try:
            return self.pieces[site]
        except KeyError:
            raise LinregError(f"the pattern has no site {site!r}; it has {', '.join(self) or 'none'}") from None

    def __contains__(self, site: object) -> bool:
        return site in self.pieces

    def __iter__(self) -> Iterator[str]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    def __repr__(self) -> str:
        return f"Pattern({counted(self.units, 'unit')} of {counted(len(self), 'site')}, {self.key[:8]})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pattern):
            return NotImplemented
        same = self.key == other.key and self.keys() == other.keys()
        return same and all(np.array_equal(self[site], other[site]) for site in self)

    def __hash__(self) -> int:
        return int(self.key[:15], 16)

    @property
    def units(self) -> int:
        """How many units there are."""
        return sum(array.size for array in self.pieces.values())

    @cached_property
    def key(self) -> str:
        """A digest of all pieces, the same on every machine: a name for the pattern in a file."""
        digest = blake2b(digest_size=16)
        for site, array in sorted(self.pieces.items()):
            digest.update(f"{site} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
        return digest.hexdigest()

    def hamming(self, other: Pattern) -> dict[str, int]:
        """How many units of each site are on different pieces. Raises LinregError where the sites are not the same."""
        _check_sites(self.keys() ^ other.keys())
        return {site: int((self[site] != other[site]).sum()) for site in self}


def pattern_of(lin: Linearization, image: int = 0) -> Pattern:
    """The pattern of one image: what `Linearization.pattern` gives."""
    if not 0 <= image < len(lin.input):
        raise LinregError(f"there is no image {image}: this linearization holds {counted(len(lin.input), 'input')}")
    return Pattern({site: _as_whole(parts, image) for site, parts in _pieces(lin).items()})


def disagreements(a: Linearization, b: Linearization) -> dict[str, Tensor]:
    """How many units of each gate and selection are on different pieces in two linearizations of one network, (N,).

    They may differ in dtype (float32 against float64), which is what it is for, and in their inputs. Raises LinregError
    where their graphs have not the same sites. (Of one image each: `Pattern.hamming`.)
    """
    ours, theirs = _pieces(a), _pieces(b)
    _check_sites(ours.keys() ^ theirs.keys())
    if len(a.input) != len(b.input):
        raise LinregError(
            f"two linearizations of as many inputs are compared; these hold {len(a.input)} and {len(b.input)} images"
        )
    return {site: _differing(ours[site], theirs[site]) for site in ours}


def _check_sites(odd: set[str]) -> None:
    if odd:
        raise LinregError(f"only two patterns of one network can be compared; these differ in {', '.join(sorted(odd))}")


def _pieces(lin: Linearization) -> dict[str, tuple[Tensor, ...]]:
    """What tells a region from others: (N, *shape) of each node that decides, and for a choice several of these."""
    found: dict[str, tuple[Tensor, ...]] = {}
    repeating = set[str]()
    for name, affine in lin.frozen.items():
        operator = lin.graph[name].operator
        if isinstance(affine, Diagonal) and isinstance(operator, Gate):
            number = _number(operator, affine, lin.graph.dtype)
            found[name] = () if number is None else (number,)
            repeating |= {name} if number is None else set()
        elif isinstance(affine, Selection):
            found[name] = (affine.index,)
        elif isinstance(affine, Where) and not isinstance(operator, Affine):
            found[name] = (affine.condition.expand(len(lin.input), *affine.shape),)
        elif isinstance(affine, Guided):
            found[name] = _chosen(lin, name, affine)
    return found | _counted(lin, repeating)


def _number(gate: Gate, frozen: Diagonal, dtype: torch.dtype) -> Tensor | None:
    """The number of kinks below each unit, read off the slope and offset that it was frozen to, (N, *shape).

    None where the gate is the same line on two of its pieces, as hardshrink is: they do not tell these apart.
    """
    slope, offset = frozen.slope, frozen.offset
    kinks = _kinks(gate, slope, dtype)
    result = torch.full(slope.shape, -1, dtype=torch.int32, device=slope.device)
    for piece, z in enumerate(_between(kinks)):
        line = gate.freeze(z[None])
        assert isinstance(line, Diagonal)
        same = line.slope == slope
        if offset is not None:
            same = same & (offset == (0 if line.offset is None else line.offset))
        if ((result >= 0) & same & kinks[piece - 1].isfinite()).any():
            return None
        result.masked_fill_(same & (result < 0), piece)
    result.masked_fill_(result < 0, len(kinks) + 1)  # a piece that is one point
    return result.to(torch.uint8) if len(kinks) < 255 else result


def _counted(lin: Linearization, names: set[str]) -> dict[str, tuple[Tensor, ...]]:
    """The number of kinks below each unit of these gates, by the values that come into them."""
    found: dict[str, tuple[Tensor, ...]] = {}

    def step(node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
        affine = lin.frozen[node.name]
        if node.name in names and isinstance(node.operator, Gate):
            up = on_upper_piece(node.operator, inputs[0], affine)
            kinks = _kinks(node.operator, inputs[0], inputs[0].dtype)
            found[node.name] = (sum((k < inputs[0]) | ((k == inputs[0]) & up) for k in kinks),)
        return affine(*inputs)

    if names:
        with torch.no_grad():
            lin.graph.evaluate({INPUT: lin.input}, step)
    return found


def _kinks(gate: Gate, like: Tensor, dtype: torch.dtype) -> Tensor:
    """(m, *shape), rising, in the dtype of z: what is frozen between them must be the same number there."""
    values = [torch.as_tensor(kink, dtype=dtype, device=like.device).expand(like.shape[1:]) for kink in gate.kinks]
    return torch.stack(values).sort(0).values


def _between(kinks: Tensor) -> Iterator[Tensor]:
    """A number below all kinks, one between each two, one above all."""
    low = kinks[0].where(kinks[0].isfinite(), 0) - 1
    yield low
    for left, right in pairwise(kinks):
        yield torch.where(right.isfinite(), (left + right) / 2, left + 1)
    yield kinks[-1] + 1


def _chosen(lin: Linearization, name: str, affine: Affine) -> tuple[Tensor, ...]:
    """What A makes of 1, 2, … in the place of its inputs, and its constants: they tell what was chosen."""
    x, shapes = lin.input, [lin.graph.shape(other) for other in lin.graph[name].inputs]
    marked = affine.linear(*(x.new_full((len(x), *shape), k) for k, shape in enumerate(shapes, 1)))
    return marked, *(constant.value.expand_as(marked) for constant in affine.constants)


def _as_whole(parts: tuple[Tensor, ...], image: int) -> Array:
    """The pieces of one image as whole numbers; of several parts a number that stands for them all."""
    own = [part[image if len(part) > 1 else 0].cpu() for part in parts]
    if not own[0].is_floating_point():
        return own[0].to(torch.uint8 if own[0].dtype == torch.bool else own[0].dtype).clone().numpy()
    result = np.zeros(own[0].shape, np.int64)
    for array in map(to_numpy, own):
        bits = np.ascontiguousarray(array + 0.0, dtype=np.float32).view(np.int32)  # −0 as 0
        result = result * 1_000_003 + bits
    return result


def _differing(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> Tensor:
    """In the shorter of the two arithmetics: a slope of 0.1 is not the same number in both."""
    different = torch.zeros_like(ours[0], dtype=torch.bool)
    for a, b in zip(ours, theirs, strict=True):
        shorter = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
        different |= a.to(shorter) != b.to(a.device, shorter)
    return different.reshape(len(different), -1).sum(1)
