"""The graph as an ordinary `nn.Module`: for tools that hook, exchange or train layers.

Such tools see modules and nothing else: to them, a ReLU that is called as a function does not exist, and one that is
used twice or works in place breaks their hooks. Here each operator is a module of its own, called once, out of place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from types import MappingProxyType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

from linreg.errors import LinregError
from linreg.graph import INPUT, OperatorGraph
from linreg.inputs import check_shape


class Network(nn.Module):
    """The network of a graph, in eval mode; made by `OperatorGraph.to_module`.

    `paths` tells where the layer of each node is: a key for `get_submodule`. It is the node's name, but for a name
    that others go on from ("conv" beside "conv.pad"), which gets ".output" behind it, for a name that begins like an
    attribute of this class, which gets "_" behind its first part, and for "@": torch.export takes modules "conv" and
    "conv@1" for two calls of one, and would give both the weights of one of them, so that this is "conv_1".

    Captum's LRP must be told of the layers that are a `Function`, its DeepLift of some units and of those that are a
    `Gate`: their docstrings have the lines.
    """

    def __init__(self, graph: OperatorGraph) -> None:
        super().__init__()
        if graph.inputs.fixed:
            names = ", ".join(repr(entry.name) for entry in graph.inputs.fixed)
            raise LinregError(f"a module is of data alone: bind the fixed inputs first, graph.bind(…) of {names}")
        self._inputs, self._shape, self._batch = graph.inputs, graph.input_shape, graph.batch
        self._steps = tuple(_steps(graph))
        self._paths: dict[str, str] = {}
        self._paths = _paths([node.name for node in graph.nodes], reserved=partial(hasattr, self))
        for node in graph.nodes:
            layer = node.operator.layer()
            if not isinstance(layer, nn.Module):
                layer = (Gate if node.is_gate else Function)(layer, node.operator.kind)
            self._put(self._paths[node.name], layer)
        self.eval()

    @property
    def paths(self) -> MappingProxyType[str, str]:
        """{name of a node: path of its layer}."""
        return MappingProxyType(self._paths)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """The network's output at x (N, *input_shape), or at several inputs in order.

        Raises LinregError where one has another shape.
        """
        if others:
            x = self._inputs.row(self._inputs.named((x, *others)))
        check_shape(x, self._shape, self._batch)
        values = {INPUT: x}
        for step in self._steps:
            layer = self.get_submodule(self._paths[step.node])
            values[step.node] = layer(*(values[name] for name in step.inputs))
            for name in step.last:
                del values[name]
        return values[self._steps[-1].node]

    def _put(self, path: str, layer: nn.Module) -> None:
        *parts, last = path.split(".")
        parent: nn.Module = self
        for part in parts:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, layer)


class Function(nn.Module):
    """What no layer of torch.nn computes (a sum, a concatenation, a reshape), as a layer; its tensors are buffers.

    Captum's LRP asks for a rule for each layer of a kind that it does not know. The right one, for all that are linear,
    is `EpsilonRule`, the same as for a convolution, set before LRP's first call; LRP takes it off again at the end:

        for layer in network.modules():
            if isinstance(layer, Function):
                layer.rule = EpsilonRule()
    """

    def __init__(self, function: Callable[..., Tensor], kind: str) -> None:
        super().__init__()
        self.kind = kind
        names: dict[int, _Name] = {}  # a tensor that is met twice is one buffer

        def hold(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if id(leaf) not in names:
                # An empty one is there for its dtype and device: torch.export takes two of them for one.
                stored = leaf.numel() > 0
                names[id(leaf)] = (_Name if stored else _Empty)(f"held_{len(names)}")
                kept = leaf.detach().clone() if stored else leaf.new_zeros(1)
                self.register_buffer(str(names[id(leaf)]), kept, persistent=stored)
            return names[id(leaf)]

        self._function = _mapped(function, hold)

    def forward(self, *inputs: Tensor) -> Tensor:
        function = _mapped(self._function, self._held)
        return function(*inputs)

    def _held(self, leaf: Any) -> Any:
        if not isinstance(leaf, _Name):
            return leaf
        return self.get_buffer(leaf)[:0] if isinstance(leaf, _Empty) else self.get_buffer(leaf)

    def extra_repr(self) -> str:
        return self.kind


class Gate(Function):
    """An elementwise gate that torch.nn has no layer for: a clamp, an interpolant, a choice.

    Captum's DeepLift knows some units of torch.nn (ReLU and LeakyReLU among them), and takes the plain gradient of all
    others without a word: of ReLU6, Hardtanh, clamps, interpolants. Its sum is then not f(x) − f(baseline). Its rule
    for elementwise units is right for these too, and it can be told so:

        from captum.attr._core import deep_lift

        for kind in (linreg.module.Gate, nn.ReLU6, nn.Hardtanh, nn.PReLU):
            deep_lift.SUPPORTED_NON_LINEAR[kind] = deep_lift.nonlinear

    What chooses among several values (maxout, adaptive max pooling, `where` on other data) is no elementwise unit, and
    stays with its gradient; max pooling by windows it knows.
    """


class _Name(str):
    """The name of a buffer, in the place of a tensor."""


class _Empty(_Name):
    """The name of a buffer whose dtype and device are those of an empty tensor."""


@dataclass(frozen=True)
class _Step:
    """One call: the node, what it reads, and what nothing reads after it."""

    node: str
    inputs: tuple[str, ...]
    last: tuple[str, ...]


def _steps(graph: OperatorGraph) -> Iterable[_Step]:
    last = {name: node for node in graph.nodes for name in node.inputs}
    for node in graph.nodes:
        yield _Step(node.name, node.inputs, tuple(name for name in dict.fromkeys(node.inputs) if last[name] is node))


def _paths(names: list[str], reserved: Callable[[str], bool]) -> dict[str, str]:
    """A place for each name, such that no place lies within another."""
    starts = {name: name.partition(".")[0] for name in names}
    firsts = {first: f"{first}_" if reserved(first.replace("@", "_")) else first for first in starts.values()}
    plain = {name: ".".join((firsts[starts[name]], *name.split(".")[1:])) for name in names}
    held = {path for path in plain.values() if "@" not in path}
    for name in (name for name, path in plain.items() if "@" in path):
        plain[name] = plain[name].replace("@", "_")
        while plain[name] in held:
            plain[name] += "_"
        held.add(plain[name])
    within = {path[:place] for path in plain.values() for place, letter in enumerate(path) if letter == "."}
    taken = {*plain.values(), *within}
    for name, path in plain.items():
        if path in within:
            place, k = f"{path}.output", 0
            while place in taken:
                k += 1
                place = f"{path}.output_{k}"
            taken.add(place)
            plain[name] = place
    return plain


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of nested values, arguments of partial functions and owners of methods among them, with changed leaves."""

    def each(values: Iterable[Any]) -> list[Any]:
        return [_mapped(item, change) for item in values]

    if isinstance(value, np.ndarray):  # tables for matrices; torch.compile takes them for tensors
        return value
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value)]
        return replace(value, **dict(zip(names, each(getattr(value, name) for name in names), strict=True)))
    if isinstance(value, list | tuple):
        return type(value)(each(value))
    if isinstance(value, dict):
        return dict(zip(value, each(value.values()), strict=True))
    if isinstance(value, partial):
        keywords = dict(zip(value.keywords, each(value.keywords.values()), strict=True))
        return partial(_mapped(value.func, change), *each(value.args), **keywords)
    if isinstance(value, MethodType):
        return partial(value.__func__, _mapped(value.__self__, change))  # a method made anew is not compiled
    return change(value)
