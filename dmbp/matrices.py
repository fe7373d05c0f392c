"""The three-way split as matrices: H⁺, H⁻ and H~, explicit, as operators, and by enumeration (Eqs. 6, 8, 9).

All are of one input, with a row for each element of `stop` and a column for each of `start`, as in `linreg.Jacobian`.
H⁺ alone is such a Jacobian, `masked(lin, masks).jacobian(stop, start)`, and so is H⁻, with the masks 1 − σ. H~ is
none: `matrices` makes it by a recurrence that never sees H, so that their sum can be checked.
"""

from __future__ import annotations

from functools import reduce
from itertools import product
from operator import add
from typing import NamedTuple

from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from dmbp.errors import DmbpError
from dmbp.masks import Masks, check_masks, masked
from linreg import Linearization, Node
from linreg.linearization import LIMIT
from linreg.operators.sparse import diagonal
from linreg.sparse_product import blocks

PATTERNS = 12  # sites: 4096 patterns


class Matrices(NamedTuple):
    """H⁺, H⁻ and H~ with H⁺ + H⁻ + H~ = H (Eq. 6)."""

    positive: csr_array
    negative: csr_array
    nuisance: csr_array


class Operators(NamedTuple):
    """The same without their matrices, for `scipy.sparse.linalg`."""

    positive: LinearOperator
    negative: LinearOperator
    nuisance: LinearOperator


def matrices(
    lin: Linearization, masks: Masks, stop: str | None = None, start: str = "input", limit: int = LIMIT
) -> Matrices:
    """H⁺ = Σ_L Ŵ_L … Σ_1 Ŵ_1, H⁻ with I − Σ, and H~ by a recurrence (Eq. 9); unmasked paths are in all three.

    The states start as (I, I, −I); an operator A maps all three, and a site makes (Σ M⁺, (I − Σ) M⁻,
    Σ (M⁻ + M~) + (I − Σ) (M⁺ + M~)). Raises LinregError for a batch, for nodes that are not connected, and where the
    matrices would take more than `limit` bytes (`operators` needs none).
    """
    check_masks(lin, masks)
    jacobian = lin.jacobian(stop, start)
    needed = jacobian.cost("csr")
    if 3 * needed.bytes > limit:
        raise DmbpError(f"each of three matrices is {needed}; the limit is {limit / 2**30:.3g} GiB: use operators()")
    identity = lin.jacobian(start, start).csr()
    begin = Matrices(identity, identity, -identity)
    nodes = lin.graph.between(jacobian.stop, start)
    inside = {start, *(node.name for node in nodes)}

    def step(node: Node, inputs: tuple[Matrices, ...]) -> Matrices:
        ways = [(b, m) for b, m, name in zip(blocks(lin, node), inputs, node.inputs, strict=True) if name in inside]
        plus, minus, mixed = (reduce(add, (block @ state[k] for block, state in ways)) for k in range(3))
        if node.name not in masks:
            return Matrices(plus, minus, mixed)
        sigma, other = diagonal(masks[node.name][0]), diagonal(1 - masks[node.name][0])
        return Matrices(sigma @ plus, other @ minus, sigma @ (minus + mixed) + other @ (plus + mixed))

    return lin.graph.evaluate({start: begin}, step, nodes, missing=lambda name: begin) if nodes else begin


def operators(lin: Linearization, masks: Masks, stop: str | None = None, start: str = "input") -> Operators:
    """H⁺, H⁻ and H~ = H − H⁺ − H⁻ as linear operators: nothing is built, each product is a pass through the network."""
    check_masks(lin, masks)
    other = {site: 1 - mask for site, mask in masks.items()}
    plus, minus = (masked(lin, sigma).operator(stop, start) for sigma in (masks, other))
    return Operators(plus, minus, lin.operator(stop, start) - plus - minus)


def sign_patterns(lin: Linearization, masks: Masks, stop: str | None = None) -> dict[str, Tensor]:
    """The 2^L products with Σ_l ("+") or I − Σ_l ("−") at each site, {"+−+": H}: H⁺ is "+++", H~ all the mixed ones.

    Signs are in the order of `masks`. On a chain, where every path passes every site, they sum to H. Raises DmbpError
    for more than 12 sites.
    """
    check_masks(lin, masks)
    if len(masks) > PATTERNS:
        raise DmbpError(
            f"{len(masks)} sites have 2^{len(masks)} sign patterns; at most {PATTERNS} sites: use matrices()"
        )
    sides = {site: {"+": mask, "−": 1 - mask} for site, mask in masks.items()}

    def one(signs: tuple[str, ...]) -> Tensor:
        sigma = {site: sides[site][sign] for site, sign in zip(masks, signs, strict=True)}
        return masked(lin, sigma).jacobian(stop).dense()

    return {"".join(signs): one(signs) for signs in product("+−", repeat=len(masks))}
