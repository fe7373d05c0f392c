"""The operator graph: nodes in topological order, and the two sweeps that everything else is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from linreg.approximation import Approximation
from linreg.errors import LinregError
from linreg.inputs import INPUT as INPUT
from linreg.inputs import Given, Input, Inputs, check_bound, check_data
from linreg.inputs import check_shape as check_shape
from linreg.operators import Affine, Gate, Operator
from linreg.operators.given import Conditions
from linreg.surroundings import plain, undisturbed
from linreg.text import table

if TYPE_CHECKING:  # what methods make of a graph: their files import this one
    import networkx as nx
    from matplotlib.axes import Axes

    from linreg.geometry import Geometry
    from linreg.linearization import Linearization
    from linreg.module import Network

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Node:
    """One operator of the graph, named after the module whose output it holds.

    `inputs` names the nodes it reads (or "input"), `shape` is that of its value for one image, `module` the path of the
    module it was called in and `source` the user's line.
    """

    name: str
    operator: Operator
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    module: str = ""
    source: str = ""

    @property
    def is_gate(self) -> bool:
        """Whether the node is an elementwise gate, the default place of a mask (Eq. 16)."""
        return isinstance(self.operator, Gate)

    def __repr__(self) -> str:
        return f"Node({self.name!r}, {self.operator.kind}, from {', '.join(self.inputs)}, shape {self.shape})"

    def __str__(self) -> str:
        return f"node '{self.name}' ({self.operator.kind}){f' at {self.source}' if self.source else ''}"


@dataclass(frozen=True, eq=False)
class OperatorGraph:
    """A piecewise-linear network as a graph of operators; made by `linreg.trace`, independent of any input.

    `nodes` are in topological order and all lead to `output`. `batch` is the one batch size that the network accepts,
    or None if it takes any. `one_by_one` says that the model was captured at one image, because it merges the images of
    a batch with something else, or takes one only: the graph applies what it found to each of any number, all with the
    same fixed inputs. `fused` tells which node took up a node that is no longer there. `approximation` lists the
    interpolants of smooth units, and how far they take the graph from the model on its example. `inputs` has what the
    network takes, by name; several data inputs are laid in a row, of `input_shape` (see `linreg.inputs`).

    >>> import torch, linreg
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> graph = linreg.trace(model, torch.ones(1, 2))
    >>> graph
    OperatorGraph((N, 2) to '2': 3 operators, 1 gate, torch.float32)
    >>> graph["1"], graph(torch.ones(1, 2))
    (Node('1', relu, from 0, shape (2,)), tensor([[13.5000]]))
    """

    nodes: tuple[Node, ...]
    output: str
    input_shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    batch: int | None = None
    fused: Mapping[str, str] = field(default_factory=dict)
    approximation: Approximation = field(default_factory=Approximation)
    signature: Inputs | None = None
    conditions: Conditions = field(default_factory=Conditions)
    bound: Mapping[str, Tensor] = field(default_factory=dict)
    one_by_one: bool = False

    def __getitem__(self, name: str) -> Node:
        try:
            return self._by_name[name]
        except KeyError:
            raise LinregError(self._missing(name)) from None

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.input_shape))
        counts = {"operator": len(self.nodes), "gate": sum(node.is_gate for node in self.nodes)}
        size = ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items())
        images = "N" if self.batch is None else self.batch
        taken, alone = f"({images}, {shape})", ", each image by itself" * self.one_by_one
        if self.signature is not None:
            taken = "; ".join(map(str, self.signature.entries))
        return f"OperatorGraph({taken} to '{self.output}': {size}, {self.dtype}{alone})"

    def __call__(self, x: Given) -> Tensor:
        """The network's output at x, (N, *output shape). Raises LinregError where x does not fit, as `linearize`."""
        graph, x = self.take(x)
        with torch.no_grad():
            return graph.evaluate({INPUT: x}, lambda node, inputs: node.operator.freeze(*inputs)(*inputs))

    @cached_property
    def inputs(self) -> Inputs:
        """What the network takes, {name: Input}: one called "input", or the model's arguments by name."""
        return self.signature or Inputs((Input(INPUT, self.input_shape, self.dtype),))

    def bind(self, fixed: Mapping[str, Tensor]) -> OperatorGraph:
        """The network with its fixed inputs at these values, by name: one that takes data alone.

        A fixed input that is another for each image makes it a network of so many images. Raises LinregError where one
        is missing, unknown, or does not fit.
        """
        from linreg.binding import bind

        return bind(self, fixed)

    def take(self, given: Given) -> tuple[OperatorGraph, Tensor]:
        """The graph, bound to the fixed inputs if there are any, and what is given as data: one tensor, or the row.

        `given` are the inputs in order or by name; for a network of data alone also the row itself, (N, *input_shape).
        Raises LinregError where one does not fit.
        """
        from linreg.binding import take

        return take(self, given)

    @plain()
    def linearize(self, x: Given) -> Linearization:
        """Freeze every gate at x (N, *input_shape): the affine function that the network is there (Eqs. 3, 4, 13).

        A network of several inputs takes them in order, `linearize((x1, x2))`, or by name. It keeps a copy of x, and
        computes in the graph's dtype, under autocast too. Raises LinregError where x has another shape, dtype or device
        than the graph, or is not finite.

        >>> import torch, linreg
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
        >>> graph = linreg.trace(model, torch.ones(1, 2))
        >>> print(graph.linearize(torch.ones(1, 2)).summary())  # of the two hidden units one is open
        node  operator  shape   open  inputs
        ────  ────────  ─────  ─────  ──────
        0     linear    2             input
        1     relu      2      50.0%  0
        2     linear    1             1
        """
        from linreg.linearization import Linearization

        graph, x = self.take(x)
        x = x.detach().clone()  # the caller may use its memory for the next image
        frozen: dict[str, Affine] = {}

        def step(node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
            frozen[node.name] = affine = node.operator.freeze(*inputs)
            return affine(*inputs)

        with torch.no_grad():
            output = graph.evaluate({INPUT: x}, step)
        if not output.isfinite().all():
            raise LinregError(graph._overflow(x, frozen))
        return Linearization(graph, x, frozen, output)

    @undisturbed()
    def evaluate(
        self,
        values: dict[str, T],
        step: Callable[[Node, tuple[T, ...]], T],
        nodes: Iterable[Node] | None = None,
        missing: Callable[[str], T] | None = None,
    ) -> T:
        """The forward sweep: value(node) = step(node, values of its inputs), each value dropped after its last use.

        `values` seeds it; `nodes` restricts it to a part of the graph (default: all), where `missing` stands for what
        comes in from outside of it. Returns the last value.
        """
        nodes = self.nodes if nodes is None else tuple(nodes)
        last = {name: node for node in nodes for name in node.inputs}
        values, result = dict(values), None
        for node in nodes:
            inputs = tuple(values[n] if n in values or missing is None else missing(n) for n in node.inputs)
            result = values[node.name] = step(node, inputs)
            del inputs
            for name in set(node.inputs):
                if last[name] is node:
                    values.pop(name, None)
        assert result is not None
        return result

    @undisturbed()
    def pull(
        self,
        grads: dict[str, T],
        step: Callable[[Node, T], tuple[T, ...]],
        nodes: Iterable[Node] | None = None,
        add: Callable[[T, T], T] = torch.add,  # type: ignore[assignment]
    ) -> dict[str, T]:
        """The backward sweep: step(node, g) gives one gradient for each input of the node; consumers' are added up.

        Returns the gradients that arrived outside of `nodes` (default: all), usually that of "input".
        """
        grads = dict(grads)
        for node in reversed(self.nodes if nodes is None else tuple(nodes)):
            if node.name not in grads:
                continue
            for name, part in zip(node.inputs, step(node, grads.pop(node.name)), strict=True):
                grads[name] = add(grads[name], part) if name in grads else part
        return grads

    def between(self, stop: str, start: str) -> tuple[Node, ...]:
        """The nodes after `start` on the paths from `start` to `stop`, `stop` included.

        Raises LinregError where no path leads from one to the other.
        """
        for name in (start, stop):
            if name != INPUT:
                self[name]
        after, before = {start}, {stop}
        for node in self.nodes:
            if after.intersection(node.inputs):
                after.add(node.name)
        for node in reversed(self.nodes):
            if node.name in before:
                before.update(node.inputs)
        if stop not in after:
            back = " (the other way round there is one)" if start in self.after(stop) else ""
            raise LinregError(f"no path leads from '{start}' to '{stop}'{back}")
        return tuple(n for n in self.nodes if n.name in after & before and n.name != start)

    def consumers(self, name: str) -> tuple[Node, ...]:
        """The nodes that read the value of `name`."""
        return tuple(node for node in self.nodes if name in node.inputs)

    def after_gates(self) -> set[str]:
        """The affine nodes behind the last gates and selections: their constants weigh the same at every input."""
        before: set[str] = set()
        after: set[str] = set()
        for node in reversed(self.nodes):
            if node.name in before or not isinstance(node.operator, Affine):
                before.update(node.inputs)
            else:
                after.add(node.name)
        return after

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a node's value for one image; `input_shape` for "input"."""
        return self.input_shape if name == INPUT else self[name].shape

    def geometry(self, name: str, input: str | None = None) -> Geometry:
        """Where the units of a node look: the centre and stride of its positions in the input, their receptive fields.

        From the graph alone; see `linreg.geometry`. Of several inputs `input` says in which. A node without a place
        (behind a flatten, a global pool) says why. Raises LinregError, with the node, where branches that meet look at
        different places, or an operator does not tell where it looks; `graph.views` gives that as a value.
        """
        if name != INPUT:
            self[name]
        if input is None:
            return self.geometries[name].require()
        if input not in self.views:
            listed = ", ".join(map(repr, self.views))
            raise LinregError(f"the network has no input {input!r} that is data: it has {listed}")
        return self.views[input][name].require()

    def check(self, x: Tensor) -> None:
        """Raise LinregError unless x (N, *input_shape) is one that the graph can take."""
        if self.bound and isinstance(x, Tensor) and x.dim():
            check_bound(self.batch, len(x))
        check_data(x, self.input_shape, self.batch, self.dtype, self.device)

    def summary(self) -> str:
        """A table of the nodes: name, operator, shape of the value for one image, inputs."""
        return table(self.rows(), ("node", "operator", "shape", "inputs"))

    def rows(self) -> list[tuple[str, ...]]:
        """What `summary` prints, as data."""
        return [(n.name, n.operator.kind, "×".join(map(str, n.shape)), ", ".join(n.inputs)) for n in self.nodes]

    def to_networkx(self) -> nx.DiGraph:
        """The graph for networkx; nodes carry `kind`, `shape`, `module` and `is_gate`."""
        import networkx as nx  # slow to import, and few need it

        result = nx.DiGraph()
        result.add_node(INPUT, kind=INPUT, shape=self.input_shape, module="", is_gate=False)
        for node in self.nodes:
            result.add_node(
                node.name, kind=node.operator.kind, shape=node.shape, module=node.module, is_gate=node.is_gate
            )
            result.add_edges_from((name, node.name) for name in node.inputs)
        return result

    def to_module(self) -> Network:
        """The network as an `nn.Module`: each operator a module of its own, under the node's name, called once.

        What torch.nn has a layer for is that layer, out of place, with copies of the weights (batch norm folded in, as
        in the graph); the rest are `linreg.module.Function`, gates among them `linreg.module.Gate`. Captum's LRP asks
        for a rule for each `Function`, before its first call; its DeepLift asks for nothing, and silently takes the
        plain gradient of the gates that it does not know: the docstrings of these two classes have the lines that tell
        them. `network.paths` maps the name of each node to the path of its layer.

        It takes and gives what the graph does; autograd, hooks, `.to(…)`, `state_dict`, pickle and `torch.export` work
        on it as on any other module. It is in eval mode: in training mode, batch norm that is not folded in would take
        the statistics of the batch.
        """
        from linreg.module import Network

        return Network(self)

    def draw(self, ax: Axes | None = None, colour: Mapping[str, float] | None = None, label: str = "") -> Axes:
        """A picture of the graph, its nodes coloured by any numbers {name: number}; see `linreg.plot.draw_graph`."""
        from linreg.plot import draw_graph

        return draw_graph(self, ax, colour, label)

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @property
    def geometries(self) -> Mapping[str, Geometry]:
        """Those of "input" and of all nodes; nothing is refused: what has no place says why.

        Raises LinregError for a network of several inputs: `views` has those in each of them.
        """
        if self.inputs.several:
            raise LinregError("the network has several inputs: graph.views tells where its nodes look in each of them")
        return self.views[self.inputs.data[0].name]

    @cached_property
    def views(self) -> Mapping[str, Mapping[str, Geometry]]:
        """Where the nodes look in each of the inputs that are data: {input: {node: Geometry}}."""
        from linreg.geometry import geometries

        return {entry.name: geometries(self, input=entry.name) for entry in self.inputs.data}

    @cached_property
    def channel_dims(self) -> Mapping[str, int | None]:
        """Which dimension of each value holds its channels, where the layers around it tell; see `linreg.channels`."""
        from linreg.channels import channel_dims

        return channel_dims(self)

    def after(self, start: str) -> set[str]:
        """The names of `start` and of all nodes that depend on it."""
        after = {start}
        for node in self.nodes:
            if after.intersection(node.inputs):
                after.add(node.name)
        return after

    def _missing(self, name: str) -> str:
        if name == INPUT:
            return "'input' is the network's input, no operator"
        if self.inputs.nodes.get(name) == INPUT:
            return f"'{name}' is the network's one input that is data: as a node it is called '{INPUT}'"
        if name in {*self.bound, *(entry.name for entry in self.inputs.fixed)}:
            return f"'{name}' is held fixed: it is part of operators and constants, and no node"
        if name in self.fused:
            return f"'{name}' was fused into '{self.fused[name]}': ask for that, or trace with fuse=False to keep both"
        near = get_close_matches(name, [*self._by_name, INPUT], n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "summary() lists them"
        return f"the graph has no node '{name}'; {hint}"

    def _overflow(self, x: Tensor, frozen: Mapping[str, Affine]) -> str:
        found: list[str] = []

        def step(node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
            value = frozen[node.name](*inputs)
            if not value.isfinite().all():
                found.append(str(node))
            return value

        self.evaluate({INPUT: x}, step)
        return f"the network's output is not finite: {found[0]} is the first to overflow or to give NaN in {self.dtype}"
