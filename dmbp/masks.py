"""Masks: where they sit, what they do to a linear region, and where they start (Eqs. 8, 16, Appendix B.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from scipy.sparse import csr_array
from torch import Tensor

from dmbp.errors import DmbpError
from linreg import Linearization, Node, OperatorGraph
from linreg.operators import Affine, Constant, Role
from linreg.operators.sparse import diagonal
from linreg.operators.structure import Reshape
from linreg.target import Target, cotangent, unit

Masks = Mapping[str, Tensor]
Sites = str | Sequence[str]


def find_sites(graph: OperatorGraph, sites: Sites = "gates") -> tuple[str, ...]:
    """The nodes whose output is masked, in the order of the graph.

    "gates": every elementwise gate, Σ Ŵ (Eq. 16), with weights behind it, w of Eq. 1. A last gate, behind which all is
    only averaged, pooled or reshaped (SqueezeNet ends so), is no site unless it is the only gate, or named: a class's
    score then has the same sign at all its units, so a mask on it would put all of y into y⁺. "blocks": a residual
    block φ(W h) + h is masked as a whole, Σ (Ŵ + I) — its sum, with all that is added in it, instead of the gates that
    only feed the sum; but not a sum that only feeds gates, which mask it anyway. Only direct readers count, and any sum
    of data is a block, the output's too. A sequence of node names is taken as it is. Raises DmbpError where nothing is
    left to mask.

    >>> import dmbp, linreg, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2), torch.nn.ReLU())
    >>> graph = linreg.trace(model, torch.ones(1, 2))
    >>> dmbp.find_sites(graph), dmbp.find_sites(graph, ["1", "3"])
    (('1',), ('1', '3'))
    """
    if isinstance(sites, str):
        check_rule(sites)
        found = tuple(node.name for node in graph.nodes if SITES[sites](graph, node))
        found = _with_weights_behind(graph, found) or found
    else:
        wanted = {graph[name].name for name in sites}
        found = tuple(node.name for node in graph.nodes if node.name in wanted)
    if not found:
        if not isinstance(sites, str):
            raise DmbpError("there is nothing to mask: no site is named")
        raise DmbpError(
            "there is nothing to mask: the network has no elementwise gate (ReLU and its kin); name nodes of "
            f"graph.summary() to mask them, sites=[{graph.output!r}], or take c ⊙ x with loss='none'"
        )
    return found


def check_rule(sites: object) -> None:
    """Raise DmbpError unless `sites` is a word that says where masks sit."""
    if not isinstance(sites, str) or sites not in SITES:
        raise DmbpError(f"sites must be one of {', '.join(map(repr, SITES))} or names of nodes, not {sites!r}")


def _with_weights_behind(graph: OperatorGraph, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the nodes that are no gate at the end, from which the output is only averaged, pooled or reshaped."""
    end = {graph.output}
    for node in reversed(graph.nodes):
        readers = graph.consumers(node.name)
        if readers and all(reader.name in end and _keeps_signs(reader) for reader in readers):
            end.add(node.name)
    return tuple(name for name in names if not (name in end and graph[name].is_gate))


def _keeps_signs(node: Node) -> bool:
    """Whether no weight or shift comes in: what goes through is averaged, chosen, rearranged, or cut by a gate."""
    chosen = node.operator.role in (Role.AVERAGE, Role.MAX_POOL, Role.CONCATENATION, Role.GATE)
    return chosen or isinstance(node.operator, Reshape)


def _is_sum(node: Node) -> bool:
    return node.operator.role is Role.SUM


def _masks_gate(graph: OperatorGraph, node: Node) -> bool:
    return node.is_gate


def _masks_block(graph: OperatorGraph, node: Node) -> bool:
    readers = graph.consumers(node.name)
    into_sums = bool(readers) and all(_is_sum(reader) for reader in readers)
    if _is_sum(node):
        gated = bool(readers) and all(reader.is_gate for reader in readers)
        return not (into_sums or gated)
    return node.is_gate and not into_sums


SITES = {"gates": _masks_gate, "blocks": _masks_block}


@dataclass(frozen=True, eq=False)
class Masked(Affine):
    """Σ (A x + β), Σ = diag(mask): an operator whose output, constants included, is multiplied by a mask (Eq. 8)."""

    affine: Affine
    mask: Tensor
    kind = "masked"
    new_value = True

    @property
    def role(self) -> Role:
        return self.affine.role

    @property
    def new_gradients(self) -> bool:
        return self.affine.new_gradients

    @property
    def constants(self) -> tuple[Constant, ...]:  # type: ignore[override]
        return tuple(replace(c, value=self.mask * c.value) for c in self.affine.constants)

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.mask * self.affine(*inputs)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        blocks = self.affine.sparse(image)
        if self.mask.dim() == 0:
            return tuple(self.mask.item() * block for block in blocks)
        return tuple(diagonal(self.mask[image]) @ block for block in blocks)

    def degrees(self) -> tuple[tuple[int, int], ...]:
        return self.affine.degrees()

    def shares(self, grad: Tensor) -> list[tuple[Constant, Tensor]]:
        return self.affine.shares(self.mask * grad)

    def behind(self, grad: Tensor) -> tuple[Affine, Tensor]:
        return self.affine.behind(self.mask * grad)

    def linear(self, *inputs: Tensor) -> Tensor:
        return self.mask * self.affine.linear(*inputs)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return self.affine.adjoint(self.mask * grad)


def masked(lin: Linearization, masks: Masks) -> Linearization:
    """P(σ): the frozen network in which the output of each site is multiplied by its mask, all constants kept.

    Its weight, ledger and matrices are those of Algorithm 1's backward pass with Σ.

    >>> import dmbp, linreg, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
    >>> half = dmbp.masked(lin, {"1": torch.full((1, 2), 0.5)})
    >>> half.output, half.weight()  # 0.5 · 3.5 + 10
    (tensor([[11.7500]]), tensor([[0.5000, 1.0000]]))
    """
    return lin.replace({lin.graph[name].name: Masked(lin.frozen[name], mask) for name, mask in masks.items()})


def check_masks(lin: Linearization, masks: Masks) -> None:
    """Raise DmbpError unless each mask belongs to a node, has its shape (N, *shape), and lies in [0, 1]."""
    if not isinstance(lin, Linearization):
        raise DmbpError(f"expected a Linearization, graph.linearize(x), not {type(lin).__name__}")
    if not isinstance(masks, Mapping) or not masks:
        came = "an empty one" if isinstance(masks, Mapping) else type(masks).__name__
        raise DmbpError(f"masks must be a mapping from names of nodes to tensors in [0, 1], not {came}")
    for name, mask in masks.items():
        wanted = (lin.input.shape[0], *lin.graph[name].shape)
        if not isinstance(mask, Tensor):
            raise DmbpError(f"the mask of '{name}' must be a tensor of shape {wanted}, not {type(mask).__name__}")
        if tuple(mask.shape) != wanted:
            raise DmbpError(f"the mask of '{name}' must have shape {wanted}, not {tuple(mask.shape)}")
        if mask.dtype != lin.graph.dtype or mask.device != lin.graph.device:
            raise DmbpError(
                f"the mask of '{name}' must be {lin.graph.dtype} on {lin.graph.device} like the network, "
                f"not {mask.dtype} on {mask.device}"
            )
        if not ((mask >= 0) & (mask <= 1)).all():
            raise DmbpError(
                f"the mask of '{name}' must lie in [0, 1]; it reaches from {mask.min():g} to {mask.max():g}"
            )


@torch.no_grad()
def initial_logits(lin: Linearization, sites: Sequence[str], target: Target = None) -> dict[str, Tensor]:
    """B.1: logits θ, σ = sigmoid(θ), by one sweep from the output back with both passes side by side.

    At a site the gradients of both passes arrive, summed over its readers and before its own mask: both positive give
    θ = 2, both negative θ = −2, all else, zero included, 0. The sweep goes on with the mask just set.

    >>> import dmbp, linreg, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
    >>> dmbp.initial_logits(lin, ["1"])  # both units weigh +1
    {'1': tensor([[2., 2.]])}
    """
    logits: dict[str, Tensor] = {}
    wanted = set(sites)
    seed = cotangent(target, lin.output)
    seed = seed / unit(seed)  # signs are all that counts, and small weights must not vanish on the way

    def step(node: Node, grads: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], ...]:
        plus, minus = grads  # ∇F⁺ and ∇F⁻ of B.1
        if node.name in wanted:
            theta = 2.0 * (((plus > 0) & (minus > 0)).to(plus) - ((plus < 0) & (minus < 0)).to(plus))
            logits[node.name] = theta.contiguous()
            sigma = theta.sigmoid()  # B.1's sigmoid(2), sigmoid(−2) or 0.5
            plus, minus = sigma * plus, (1 - sigma) * minus  # Σ and I − Σ
        affine = lin.frozen[node.name]
        return tuple(zip(affine.adjoint(plus), affine.adjoint(minus), strict=True))

    lin.graph.pull({lin.graph.output: (seed, seed)}, step, add=lambda a, b: (a[0] + b[0], a[1] + b[1]))
    return {name: logits[name] for name in sites}
