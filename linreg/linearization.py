"""A network frozen at one input: the affine function y = c·x + Σ β that it is on that linear region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from linreg.errors import LinregError
from linreg.graph import INPUT, Node, OperatorGraph
from linreg.inputs import Given
from linreg.ledger import Ledger, Term
from linreg.operators import Affine, Diagonal
from linreg.target import Target, cotangent, held, sum_per_image
from linreg.text import counted, table

if TYPE_CHECKING:  # what methods make of a linearization: their files import this one
    from linreg.certificate import Certificate
    from linreg.jacobian import Jacobian
    from linreg.regions.pattern import Pattern

LIMIT = 2**31  # bytes of an explicit matrix, unless said otherwise


@dataclass(frozen=True, eq=False)
class Linearization:
    """The graph with every gate frozen at `input` (N, *input_shape): affine operators, one for each node.

    `frozen` maps a node to its operator (Ŵ_l is a convolution followed by the diagonal of its gate), `output` is what
    they give at `input`, (N, *output shape). Several inputs are laid in a row there; `inputs` has each by its name.

    >>> import torch, linreg
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
    >>> lin.output, lin.weight(), lin.ledger().bias_share  # 13.5 = (1, 2)·(1, 1) + 10.5
    (tensor([[13.5000]]), tensor([[1., 2.]]), tensor([10.5000]))
    """

    graph: OperatorGraph
    input: Tensor
    frozen: Mapping[str, Affine]
    output: Tensor

    def __repr__(self) -> str:
        return f"Linearization of {self.graph!r} at {counted(len(self.input), 'input')}"

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the network was given, by name: its data, (N, *shape) each, and what is held fixed."""
        return {**self.graph.inputs.by_name(self.input), **self.graph.bound}

    def replace(self, frozen: Mapping[str, Affine]) -> Linearization:
        """The same region with some operators exchanged (by masked ones, say), and the output that they give."""
        frozen = {**self.frozen, **frozen}
        with torch.no_grad():
            output = self.graph.evaluate({"input": self.input}, lambda node, xs: frozen[node.name](*xs))
        return Linearization(self.graph, self.input, frozen, output)

    @torch.no_grad()
    def forward(self, v: Given, stop: str | None = None, start: str = "input") -> Tensor:
        """J v, with J = ∂stop/∂start on this region (no constants); `stop` is the output by default.

        v is (N, *shape of start), a vector for each input: each goes through that input's own region. (Many vectors
        through the region of one input: `jacobian`.) Of a network of several inputs "input" is the row of them all,
        which may be given as they are, in order or by name, and `start` may be one of them. Raises LinregError for
        unknown or unconnected nodes and for a wrong shape.
        """
        stop = stop or self.graph.output
        row = v if isinstance(v, Tensor) or start != INPUT else self.graph.inputs.row(self.graph.inputs.named(v))
        self._check(row, start)
        assert isinstance(row, Tensor)
        nodes = self.graph.between(stop, start)
        if start == stop:
            return row
        return self.graph.evaluate(
            {start: row}, lambda node, xs: self.frozen[node.name].linear(*xs), nodes, missing=self._zeros
        )

    @torch.no_grad()
    def adjoint(self, g: Tensor, stop: str | None = None, start: str = "input") -> Tensor:
        """Jᵀ g, with J = ∂stop/∂start on this region: g (N, *shape of stop) pulled back to `start`.

        Of a network of several inputs `start` may be one of them; "input" is the row of them all.
        """
        stop = stop or self.graph.output
        self._check(g, stop)
        nodes = self.graph.between(stop, start)
        if start == stop:
            return g
        return self.graph.pull({stop: g}, lambda node, g: self.frozen[node.name].adjoint(g), nodes)[start].contiguous()

    def jacobian(self, stop: str | None = None, start: str = "input") -> Jacobian:
        """J = ∂stop/∂start on this region, of one input, as one value; `stop` is the output by default.

        H_L there, H_l at a node before it. It multiplies (`J @ v`, `J.T @ g`), gives its matrix, rows and columns, and
        tells its size, singular values, norms, rank and null space: see `Jacobian`. Both factorings of the paper are
        sub-paths. Gates on outputs (Eq. 3), Ŵ_l = diag(gate) W_l: from the gate before, or the input, to this gate.
        Gates on inputs (Eq. 13), Ŵ_l = W_l diag(gate): from the layer before, where it comes into its gate, to this
        layer; W_1 from the input. Of several inputs `start` may be one; "input" is the row of them all. Raises
        LinregError for unknown or unconnected nodes and for several images at once.

        >>> import torch, linreg
        >>> network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2, bias=False))
        >>> lin = linreg.trace(network, torch.ones(1, 4)).linearize(torch.ones(1, 4))
        >>> J = lin.jacobian()
        >>> J.shape, J.rows(1).shape
        ((2, 4), torch.Size([1, 4]))
        >>> torch.equal(J.T @ torch.eye(2), J.dense())
        True
        """
        from linreg.jacobian import Jacobian

        return Jacobian(self, stop or self.graph.output, start)

    def matrix(
        self, stop: str | None = None, start: str = "input", format: str = "dense", limit: int = LIMIT
    ) -> Tensor | csr_array:
        """J = ∂stop/∂start on this region as a matrix, of one input: flattened `stop` × flattened `start`, in C order.

        `format` is "dense", for `Jacobian.dense` (a tensor of the graph's dtype, on its device), or "csr", for
        `Jacobian.csr` (scipy). Raises LinregError as `jacobian` does, and before any work where the matrix would take
        more than `limit` bytes.

        >>> import torch, linreg
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
        >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
        >>> lin.matrix("1")  # of two hidden units the second is closed
        tensor([[1., 2.],
                [0., 0.]])
        """
        from linreg.jacobian import choose

        jacobian = self.jacobian(stop, start)
        return choose(format, {"dense": jacobian.dense, "csr": jacobian.csr})(limit)

    def operator(self, stop: str | None = None, start: str = "input") -> LinearOperator:
        """J = ∂stop/∂start as a `scipy.sparse.linalg.LinearOperator`, without a matrix: `Jacobian.aslinearoperator`."""
        return self.jacobian(stop, start).aslinearoperator()

    def score(self, target: Target = None) -> Tensor:
        """y of each image, (N,): the output weighted by `target` (w of Eq. 1)."""
        return sum_per_image(self.output * cotangent(target, self.output))

    def weight(self, target: Target = None) -> Any:
        """c = wᵀ H_L = ∇ₓ y, shaped like the input (Eqs. 4, 5); of several inputs {name: c} for each.

        >>> import torch, linreg
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
        >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
        >>> lin.weight()
        tensor([[1., 2.]])
        """
        return self.graph.inputs.parted(self.adjoint(cotangent(target, self.output)))

    @torch.no_grad()
    def ledger(self, target: Target = None) -> Ledger:
        """Every constant's share of y, g_k ⊙ β_k, and c ⊙ x (Eqs. 13, 14, 18, 19).

        >>> import torch, linreg
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
        >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
        >>> print(lin.ledger().summary())
        term                 kind   share of y
        ───────────────────  ─────  ──────────
        c · x                input          +3
        0.bias               bias         +0.5
        2.bias               bias          +10
        all of bias                      +10.5
        after the last gate                +10
        total                            +13.5
        """
        seed, last, terms = cotangent(target, self.output), self.graph.after_gates(), list[Term]()
        inputs = self.graph.inputs
        geometries = {} if inputs.several else self.graph.geometries
        views = self.graph.views if inputs.several else {}

        def step(node: Node, grad: Tensor) -> tuple[Tensor, ...]:
            affine, grad = self.frozen[node.name].behind(grad)
            for number, constant in reversed(list(enumerate(affine.constants))):
                name, at_output = constant.name or f"{node.name}.{constant.kind}", node.name in last
                late = partial(self._spread, seed, node.name, number)
                place = None if inputs.several else geometries[node.name].located(constant, grad)
                seen = {key: view[node.name].located(constant, grad) for key, view in views.items()}
                placed = {key: share for key, share in seen.items() if share is not None}
                own = None if constant.of_each_image(grad) else constant.share(grad)
                whole = sum_per_image(constant.share(grad) if place is None else place) if own is None else None
                layout = partial(self._channel_dim, node.name)
                terms.append(Term(node.name, name, constant.kind, own, at_output, late, place, whole, placed, layout))
            return affine.adjoint(grad)

        weight = self.graph.pull({self.graph.output: seed}, step)["input"].contiguous()
        return Ledger(weight, self.input, tuple(reversed(terms)), geometries, inputs, views)

    def certificate(self, target: Target = None) -> Certificate:
        """Whether y = c·x + Σ ledger holds at this input, to what, and within which proved bound.

        >>> import torch, linreg
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
        >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
        >>> certificate = lin.certificate()
        >>> certificate.score, certificate.total, certificate.completeness_error <= certificate.bound
        (tensor([13.5000]), tensor([13.5000]), tensor([True]))
        """
        from linreg.certificate import Certificate

        cotangent(target, self.output)
        return Certificate(self, held(target))

    def pattern(self, image: int = 0) -> Pattern:
        """The piece of every gate and selection at one of the inputs, as a value: see `linreg.regions`."""
        from linreg.regions.pattern import pattern_of

        return pattern_of(self, image)

    def open_fraction(self, name: str) -> float | None:
        """The share of a gate's units whose slope is not 0, over all images; None for a node that is no gate."""
        affine = self.frozen[self.graph[name].name]
        return affine.slope.ne(0).double().mean().item() if isinstance(affine, Diagonal) else None

    def summary(self) -> str:
        """The graph's table with the share of open gates."""
        rows = []
        for row in self.graph.rows():
            share = self.open_fraction(row[0])
            rows.append((*row[:3], "" if share is None else f"{share:.1%}", row[3]))
        return table(rows, ("node", "operator", "shape", "open", "inputs"), right=(3,))

    def _spread(self, seed: Tensor, node: str, place: int) -> Tensor:
        return self.frozen[node].elements(place, self.adjoint(seed, start=node))

    def _channel_dim(self, name: str) -> int | None:
        return self.graph.channel_dims[name]

    def _zeros(self, name: str) -> Tensor:
        return self.input.new_zeros(self.input.shape[0], *self.graph.shape(name))

    def _check(self, value: object, name: str) -> None:
        if not isinstance(value, Tensor):
            raise LinregError(f"a vector at '{name}' must be a torch.Tensor, not {type(value).__name__}")
        wanted = (self.input.shape[0], *self.graph.shape(name))
        if tuple(value.shape) != wanted:
            raise LinregError(f"a vector at '{name}' must have shape {wanted}, not {tuple(value.shape)}")
        if value.dtype != self.graph.dtype or value.device != self.graph.device:
            raise LinregError(
                f"a vector at '{name}' must be {self.graph.dtype} on {self.graph.device} like the network, "
                f"not {value.dtype} on {value.device}"
            )
