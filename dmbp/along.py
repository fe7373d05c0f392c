"""y⁺, y⁻ and y~ for fixed masks, along a line through the network: exactly, piece by piece.

On a piece the gates are those of the unmasked network there, so that y and its parts are affine in t. At a breakpoint y
is continuous and its parts are not: what a mask leaves of a unit's input need not be 0 where the input itself is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dmbp.errors import DmbpError
from dmbp.masks import Masks
from dmbp.split import decompose
from linreg import Linearization
from linreg.regions import Segment
from linreg.target import Target, cotangent, sum_per_image

PIECES = 64  # that go through the network at a time


@dataclass(frozen=True, eq=False)
class Along:
    """y and its parts on each piece k of a line, from its start to its end: (K, 2) each.

    `ends` (K, 2) are the places t of both; `unmasked` is u = P(0). Between the ends all are affine in t.
    """

    ends: Tensor
    y: Tensor
    positive: Tensor
    negative: Tensor
    nuisance: Tensor
    unmasked: Tensor


@torch.no_grad()
def along(
    segment: Segment, masks: Masks, target: Target = None, unmasked: str = "nuisance", size: int = PIECES
) -> Along:
    """The exact split on every piece of a line, for one set of masks, {site: σ, (1, *shape of the site)}.

    `unmasked` is that of `dmbp.decompose`; so many pieces, `size`, go through the network at a time. Raises DmbpError
    for masks that do not fit.

    >>> import dmbp.along, linreg, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1.0, -1.0, 2.0, 0.5]), model.parameters())
    >>> graph = linreg.trace(model, torch.zeros(1, 1))
    >>> line = linreg.regions.segment(graph, torch.zeros(1, 1), torch.full((1, 1), 2.0))  # 2 relu(2 t − 1) + 1/2
    >>> dmbp.along.along(line, {"1": torch.tensor([[0.75]])}).positive.tolist()
    [[0.0, 0.0], [0.0, 1.5]]
    """
    for site, mask in masks.items():
        if not isinstance(mask, Tensor) or mask.shape[:1] != (1,):
            raise DmbpError(f"the masks of a line are those of one image: that of '{site}' must have shape (1, …)")
    if size < 1:
        raise DmbpError(f"1 piece or more goes through the network at a time, not {size}")
    w = cotangent(target, segment.starts[:1])
    parts = [_on(segment, slice(k, min(k + size, len(segment))), masks, w, unmasked) for k in range(
        0, len(segment), size)]  # fmt: skip
    y, positive, negative, u = (torch.cat(each) for each in zip(*parts, strict=True))
    ends = torch.stack([segment.t[:-1], segment.t[1:]], 1)
    return Along(ends, y, positive, negative, y - positive - negative, u)


def _on(
    segment: Segment, pieces: slice, masks: Masks, w: Tensor, unmasked: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, y⁺, y⁻ and u on some pieces, (n, 2) each; w (1, *output shape) are the weights of the score."""
    lin = segment.linearize(pieces)
    each = {site: mask.expand(len(lin.input), *mask.shape[1:]) for site, mask in masks.items()}
    split = decompose(lin, each, w[0], unmasked)
    ends = [segment.points(t[pieces]) for t in (segment.t[:-1], segment.t[1:])]

    def scores(passed: Linearization) -> Tensor:
        return torch.stack([sum_per_image(w * _at(passed, x)) for x in ends], 1)

    y, (plus, minus, u) = scores(lin), (scores(passed) for passed in split.passes)
    aside = u if unmasked == "nuisance" else torch.zeros_like(u)
    return y, plus - aside, minus - aside, u


def _at(lin: Linearization, x: Tensor) -> Tensor:
    """The output of frozen operators at other inputs."""
    return lin.graph.evaluate({"input": x}, lambda node, inputs: lin.frozen[node.name](*inputs))
