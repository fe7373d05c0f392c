"""Which piece each gate and selection is on: what tells one linear region from another."""

from __future__ import annotations

import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.linearization import Linearization
from linreg.operators import Affine, Diagonal, Guided, Selection, Where


def disagreements(a: Linearization, b: Linearization) -> dict[str, Tensor]:
    """How many units of each gate and selection are on different pieces in two linearizations of one network, (N,).

    They may differ in dtype (float32 against float64), which is what it is for, and in their inputs. Raises LinregError
    where their graphs have not the same sites.
    """
    ours, theirs = _pieces(a), _pieces(b)
    if ours.keys() != theirs.keys() or len(a.input) != len(b.input):
        odd = sorted(ours.keys() ^ theirs.keys()) or [f"{len(a.input)} and {len(b.input)} images"]
        raise LinregError(f"only two linearizations of one network can be compared; these differ in {', '.join(odd)}")
    return {site: _differing(ours[site], theirs[site]) for site in ours}


def _pieces(lin: Linearization) -> dict[str, tuple[Tensor, ...]]:
    """What tells a region from others: slope and offset of each gate, index of each selection."""
    found: dict[str, tuple[Tensor, ...]] = {}
    for name, affine in lin.frozen.items():
        if isinstance(affine, Diagonal) and lin.graph[name].is_gate:
            offset = torch.zeros_like(affine.slope) if affine.offset is None else affine.offset
            found[name] = (affine.slope, offset.expand_as(affine.slope))
        elif isinstance(affine, Selection):
            found[name] = (affine.index,)
        elif isinstance(affine, Where | Guided):
            found[name] = _chosen(lin, name, affine)
    return found


def _chosen(lin: Linearization, name: str, affine: Affine) -> tuple[Tensor, ...]:
    """What A makes of 1, 2, … in the place of its inputs, and its constants: they tell what was chosen."""
    x, shapes = lin.input, [lin.graph.shape(other) for other in lin.graph[name].inputs]
    marked = affine.linear(*(x.new_full((len(x), *shape), k) for k, shape in enumerate(shapes, 1)))
    return marked, *(constant.value.expand_as(marked) for constant in affine.constants)


def _differing(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> Tensor:
    """In the shorter of the two arithmetics: a slope of 0.1 is not the same number in both."""
    different = torch.zeros_like(ours[0], dtype=torch.bool)
    for a, b in zip(ours, theirs, strict=True):
        shorter = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
        different |= a.to(shorter) != b.to(a.device, shorter)
    return different.reshape(len(different), -1).sum(1)
