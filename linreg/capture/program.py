"""An exported program, read: what is given to it, which calls lead to its output, which of them depend on its input."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import Any

from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from linreg.operators.table import IDENTITIES, operator_name

# Calls to which `self` gives no values, but its sizes, one result for each image, or only its dtype and device.
ALIKE = ("zeros_like", "ones_like", "full_like", "empty_like", "fill", "zero", "copy")
TYPED = ("new_zeros", "new_ones", "new_full", "new_empty")


class Batch(Enum):
    """What an exported program knows of the batch."""

    OPEN = auto()  # it takes any number of images
    ONE = auto()  # it was exported at one image, and the graph applies it to each
    FIXED = auto()  # it takes as many images as the example holds


@dataclass(frozen=True, eq=False)
class Program:
    """What is to be translated: the exported program, the place of the chosen output, what it knows of the batch.

    `pieces` are those of the interpolants that take the place of smooth units; with None, these are refused. `fixed`
    are the places of the inputs that are held fixed. `ends` is a call that is explained in the place of an output.
    """

    exported: ExportedProgram
    place: int
    batch: Batch
    pieces: int | None = None
    fixed: frozenset[int] = frozenset()
    ends: fx.Node | None = None

    @property
    def tensors(self) -> dict[str | None, Any]:
        """Parameters, buffers and constants, by name."""
        return {**self.exported.state_dict, **self.exported.constants}

    @cached_property
    def result(self) -> fx.Node:
        """The call that gives the chosen output, or the placeholder of an input that is one.

        It is among the user's own outputs; what the program writes back to buffers and inputs comes before them.
        """
        if self.ends is not None:
            return self.ends
        name = self.exported.graph_signature.user_outputs[self.place]
        return next(call for call in self.exported.graph.nodes if call.name == name)

    @cached_property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The placeholders of the tensors that the user gives, in order."""
        specs = self.exported.graph_signature.input_specs
        placeholders = {call.name: call for call in self.exported.graph.nodes if call.op == "placeholder"}
        return tuple(placeholders[spec.arg.name] for spec in specs if spec.kind == InputKind.USER_INPUT)

    @cached_property
    def data(self) -> tuple[fx.Node, ...]:
        """Those of them that are data, and not held fixed."""
        return tuple(call for place, call in enumerate(self.inputs) if place not in self.fixed)

    @property
    def input(self) -> fx.Node:
        """The first of these."""
        return self.data[0]

    @cached_property
    def needed(self) -> frozenset[fx.Node]:
        """All that the output depends on, placeholders included: an auxiliary head leaves no trace."""
        found, todo = {self.result}, [self.result]
        while todo:
            new = set(todo.pop().all_input_nodes) - found
            found |= new
            todo.extend(new)
        return frozenset(found)

    @cached_property
    def calls(self) -> tuple[fx.Node, ...]:
        """The calls that the output depends on, in order."""
        return tuple(call for call in self.exported.graph.nodes if call.op == "call_function" and call in self.needed)

    @property
    def all_calls(self) -> tuple[fx.Node, ...]:
        """All calls that give a tensor, whatever depends on them, in order."""
        return tuple(call for call in self.exported.graph.nodes if call.op == "call_function")

    @cached_property
    def dependent(self) -> tuple[fx.Node, ...]:
        """Those of them that depend on the values of the data, and not only on its sizes."""
        found = set(self.data)
        for call in self.calls:
            asks_for_size = operator_name(call.target).startswith("sym_")
            if not asks_for_size and found.intersection(call.all_input_nodes):
                found.add(call)
        return tuple(call for call in self.calls if call in found)


def whole(call: fx.Node) -> fx.Node:
    """The call that gives several values, where this one takes out one of them; else the call itself."""
    while call.target is operator.getitem:
        call = call.args[0]  # type: ignore[assignment]
    return call


def values_read(call: fx.Node) -> list[Any]:
    """The arguments of a call whose values matter to what it gives: `zeros_like` asks its first for the shape alone."""
    arguments: list[Any] = pytree.tree_leaves((call.args, call.kwargs))
    name = operator_name(call.target)
    if name in (*ALIKE, *TYPED):
        return arguments[1:]
    return arguments[:1] if name in IDENTITIES else arguments
