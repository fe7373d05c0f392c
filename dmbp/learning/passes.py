"""Both masked passes of a network, and the way back through them, on which the gradient of the masks is had.

Indices: l site, n image. σ_l = sigmoid(θ_l); h_l is the value of site l behind its mask, g_l the adjoint that arrives
there. Then ∂P/∂θ_l = g_l ⊙ h_l ⊙ (1 − σ_l) (by Eq. 20): one backward sweep of first order, where Algorithm 1
differentiates a backward pass. Both passes go forward together, as one batch of 2N: those with σ first, then 1 − σ.

Sites work in place. Most of what an iteration does beside its layers is to read and write the values at the sites, and
the values behind the masks, kept for the way back, are most of what it holds. So a site overwrites the value that comes
in with the one behind its mask, and the gradient that arrives with the one that goes on, wherever nobody else can read
that memory; elsewhere it works on a copy. `_site` decides which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from dmbp.learning.kernels import compiled, enter, in_pieces
from dmbp.learning.memory_format import laid_out, layout, pays, rows
from dmbp.learning.precision import lowered
from linreg import Linearization, Node
from linreg.operators import Affine, Diagonal
from linreg.target import sum_per_image

Pair = tuple[Tensor, Tensor]
Visit = Callable[[str, Tensor], None]
Kernel = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Site:
    """What a masked node does to both passes. `slope` and `offset` of its gate are (N, M), M units an image, or None.

    The slopes of a switch take a byte each. `takes` tells whether it may overwrite the value that comes in, `gives` the
    gradient that arrives: nobody else reads that memory. `order` is the name of its `layout`, the order of its units in
    memory: torch's own value does not pickle at every protocol.
    """

    slope: Tensor | None
    offset: Tensor | None
    switch: bool
    takes: bool
    gives: bool
    order: str

    @property
    def layout(self) -> torch.memory_format:
        return getattr(torch, self.order)

    def rows(self, value: Tensor) -> Tensor:
        """The memory of a value (N, …) as (N, M): its own where it lies in this site's layout, else a copy."""
        return rows(value, self.layout)

    def place(self, like: Tensor) -> Tensor:
        """Room for a value in this site's layout."""
        return torch.empty_like(like, memory_format=self.layout)


@dataclass(frozen=True, eq=False)
class MaskedNetwork:
    """The part of a linear region that masks can change: the sites and all nodes after them.

    `affines` are its operators, `border` the values that enter it, the same for every mask, for both passes; `seed` is
    w, so that P = Σ w ⊙ output. `whole` says that kernels run on whole tensors, compiled.
    """

    lin: Linearization
    affines: Mapping[str, Affine]
    sites: Mapping[str, Site]
    nodes: tuple[Node, ...]
    border: Mapping[str, Tensor]
    seed: Tensor
    whole: bool

    @classmethod
    @torch.no_grad()
    def of(
        cls, lin: Linearization, sites: Sequence[str], seed: Tensor, whole: bool = False, low: bool = False
    ) -> MaskedNetwork:
        """The network behind `sites`; with `low`, its layers multiply numbers of bfloat16."""
        after = set(sites)
        for node in lin.graph.nodes:
            if after.intersection(node.inputs):
                after.add(node.name)
        nodes = tuple(node for node in lin.graph.nodes if node.name in after)
        entering = {name for node in nodes for name in node.inputs} - after
        border = {"input": lin.input} if "input" in entering else {}

        def step(node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
            value = lin.frozen[node.name](*inputs)
            if node.name in entering:
                border[node.name] = value
            return value

        before = [node for node in lin.graph.nodes if node.name not in after]
        if before:
            lin.graph.evaluate({"input": lin.input}, step, before)
        affines = {node.name: lin.frozen[node.name] for node in nodes}
        units = len(lin.input) * sum(prod(lin.graph.shape(name)) for name in sites)
        last = pays(affines, lin.input, units)
        places = {name: _site(lin, name, sites, after, last) for name in sites}
        if last:
            gates = {name for name, site in places.items() if site.slope is not None}  # which have their own
            affines = {name: affine if name in gates else laid_out(affine) for name, affine in affines.items()}
        twice = {name: torch.cat([value, value]) for name, value in border.items()}
        twice = {name: value.contiguous(memory_format=layout(value.dim(), last)) for name, value in twice.items()}
        affines = {name: lowered(affine) for name, affine in affines.items()} if low else affines
        return cls(lin, affines, places, nodes, twice, seed, whole)

    def forward(self, logits: Mapping[str, Tensor]) -> tuple[Pair, dict[str, Tensor]]:
        """(P(σ), P(1 − σ)), each (N,), and the values behind the masks, (2N, M)."""
        images, kept = len(self.seed), dict[str, Tensor]()

        def step(node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
            affine = self.affines[node.name]
            if node.name not in self.sites:
                return self._both(node, affine, inputs)
            site = self.sites[node.name]
            z = inputs[0] if site.slope is not None else self._both(node, affine, inputs)
            # The kernel overwrites z: the very memory that came in, if the site may have it and it lies in this order.
            z = (z.contiguous if site.takes else z.clone)(memory_format=site.layout)
            kept[node.name] = flat = site.rows(z)
            tensors = (flat[:images], flat[images:], site.rows(logits[node.name]), site.slope, site.offset)
            if self.whole:
                compiled(enter)(*tensors, site.switch)
            else:
                in_pieces(enter, tuple(t if t is None else t.view(-1) for t in tensors), site.switch)
            return z

        output = self.lin.graph.evaluate(dict(self.border), step, self.nodes)
        # Eq. 11 with the biases of Eq. 14: w · output of the masked network is ∇F⁺ · x + Σ ∇_b F⁺ · b, and ∇F⁻'s.
        return (self._score(output[:images]), self._score(output[images:])), kept

    def backward(self, cotangent: Tensor, visit: Visit) -> None:
        """One sweep back from cotangent_n · w of each image: Jᵀ of whichever pass `visit` follows.

        At each site, from the last to the first, `visit(site, g)` takes the gradient g (N, M) that arrives, and puts in
        its place the one that goes on to what the site's gate reads.
        """

        def step(node: Node, grad: Tensor) -> tuple[Tensor, ...]:
            affine = self.affines[node.name]
            if node.name in self.sites:
                site = self.sites[node.name]
                # `visit` overwrites the gradient, and so the one that arrived, on the same terms.
                grad = (grad.contiguous if site.gives else grad.clone)(memory_format=site.layout)
                visit(node.name, site.rows(grad))
                if site.slope is not None:
                    return (grad,)
            return affine.adjoint(grad)

        seed = cotangent.view(-1, *[1] * (self.seed.dim() - 1)) * self.seed
        self.lin.graph.pull({self.lin.graph.output: seed}, step, self.nodes)

    def at(
        self, site: str, kernel: Kernel, side: Tensor, grad: Tensor, value: Tensor, state: Sequence[Tensor], *rest: Any
    ) -> None:
        """Run a kernel of the way back at a site: each image in the pass of its `side` (N,), 1 for σ and 0 for 1 − σ.

        `grad` (N, M) and `value` (2N, M), that behind the mask in both passes, are rows; `state` are values (N, …).
        """
        images, slope, switch = len(grad), self.sites[site].slope, self.sites[site].switch
        state = [self.sites[site].rows(t) for t in state]
        if self.whole:
            side = side.view(-1, 1)
            value = torch.where(side > 0, value[:images], value[images:])
            compiled(kernel)(grad, value, *state, slope, side, switch, *rest)
            return
        for n, plus in enumerate(side.tolist()):
            own = value[n if plus else images + n]
            tensors = (grad[n], own, *(t[n] for t in state), None if slope is None else slope[n])
            in_pieces(kernel, tensors, plus, switch, *rest)

    def _both(self, node: Node, affine: Affine, inputs: tuple[Tensor, ...]) -> Tensor:
        """An operator on both passes: at once, unless it holds something of each image."""
        if self.lin.graph.batch is None and _same_for_all(affine, len(node.shape)):
            return affine(*inputs)
        images = len(self.seed)
        return torch.cat([affine(*(v[:images] for v in inputs)), affine(*(v[images:] for v in inputs))])

    def _score(self, output: Tensor) -> Tensor:
        return sum_per_image(output * self.seed)


def _site(lin: Linearization, name: str, sites: Sequence[str], after: set[str], last: bool) -> Site:
    """The site of a node, and what it may overwrite.

    The gradient that arrives is the output's own, or a sum over several readers: both are new memory. That of a single
    reader is what its adjoint gives: a reshape's is a view of the gradient at the reader, and a sum's goes to its other
    inputs too.

    The value that comes in is what the node computes, before its mask; a reshape's is a view of what it reads. A gate
    is computed together with its mask: what comes in is the value of the node that it reads, its source. That must be
    new memory too, made in each iteration and not once for all, which no other node reads, and which is no site's: a
    site keeps its value for the way back.
    """
    node, affine = lin.graph[name], lin.frozen[name]
    order = layout(1 + len(node.shape), last)
    readers = [reader for reader in lin.graph.nodes for source in reader.inputs if source == name]
    gives = len(readers) != 1 or lin.frozen[readers[0].name].new_gradients
    if not isinstance(affine, Diagonal):
        return Site(None, None, False, affine.new_value, gives, _named(order))
    (source,) = node.inputs
    alone = source in after and source not in sites and len(lin.graph.consumers(source)) == 1
    takes = alone and lin.frozen[source].new_value
    slope = affine.slope.to(torch.int8) if affine.switch else affine.slope
    offset = None if affine.offset is None else rows(affine.offset, order)
    return Site(rows(slope, order), offset, affine.switch, takes, gives, _named(order))


def _named(order: torch.memory_format) -> str:
    return str(order).removeprefix("torch.")


def _same_for_all(affine: Affine, dims: int) -> bool:
    """Whether an operator with z of so many dimensions holds nothing of a single image, as far as it knows."""
    return affine.shared and all(c.value.dim() <= dims or len(c.value) == 1 for c in affine.constants)


def passes(plus: Tensor, minus: Tensor, both: bool | None = None) -> list[Pair]:
    """(side, cotangent) of the sweeps back that the scores' cotangents ask for.

    One is enough where each image needs the gradient of only one of its passes, as with Eq. 10. `both` says so
    beforehand, without a look at the numbers, for which a GPU would have to be waited for.
    """
    side = (plus != 0).to(plus)
    if both is None:
        both = bool(((plus != 0) & (minus != 0)).any())
    if both:
        return [(torch.ones_like(side), plus), (torch.zeros_like(side), minus)]
    return [(side, torch.where(plus != 0, plus, minus))]
