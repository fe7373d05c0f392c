"""From an exported program to a graph: constants folded, names given, each call looked up in the table of rules."""

from __future__ import annotations

import operator
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from linreg.errors import LinregError
from linreg.graph import INPUT, Node, OperatorGraph
from linreg.operators import BATCH, Call, Data, Known, rule_for
from linreg.operators.structure import RESHAPES
from linreg.operators.table import operator_name
from linreg.refusals import way_out

IDENTITIES = {
    "clone", "alias", "contiguous", "detach", "detach_", "lift_fresh", "lift_fresh_copy", "dropout", "_to_copy", "to",
    "feature_dropout", "alpha_dropout", "native_dropout", "type_as",
}  # fmt: skip
SIZED = {
    "expand": "size",
    "repeat": "repeats",
    **dict.fromkeys(("zeros", "ones", "full", "new_zeros", "new_full"), "size"),
}


@dataclass(frozen=True)
class Program:
    """What is to be translated: the exported program, the place of the chosen output, whether the batch is free."""

    exported: ExportedProgram
    place: int
    dynamic: bool


def translate(program: Program, example: Tensor) -> tuple[OperatorGraph, dict[str, str]]:
    """The graph of a program, and for each node the name of the call it comes from.

    Raises LinregError at the first call that leads to the output and is not piecewise linear in the input.
    """
    return _Translator(program, example).run()


class _Translator:
    """One pass over the calls. `values` says what each gives: Data, Known, BATCH, or a Call with several outputs."""

    def __init__(self, program: Program, example: Tensor) -> None:
        self.program = program
        self.example = example
        self.calls = program.exported.graph
        self.values: dict[fx.Node, Any] = {}
        self.nodes: dict[str, Node] = {}
        self.origins: dict[str, str] = {}
        # The user's outputs: what the program writes back to buffers and inputs comes before them.
        outputs = program.exported.graph_signature.user_outputs
        self.result = next(n for n in self.calls.nodes if n.name == outputs[program.place])
        self.needed = _ancestors(self.result)
        self.batch: Any = None

    def run(self) -> tuple[OperatorGraph, dict[str, str]]:
        self._inputs()
        self.names = self._names()
        for call in self.calls.nodes:
            if call.op == "call_function" and call in self.needed:
                self.values[call] = self._call(call)
        result = self.values.get(self.result)
        if not isinstance(result, Data) or result.name == INPUT:
            raise LinregError(
                "the model's output does not depend on its input through any operator: nothing to explain"
            )
        return self._graph(result.name), self.origins

    def _graph(self, output: str) -> OperatorGraph:
        reached = {output}
        for node in reversed(self.nodes.values()):
            if node.name in reached:
                reached.update(node.inputs)
        nodes = tuple(node for node in self.nodes.values() if node.name in reached)
        batch = None if self.program.dynamic else self.example.shape[0]
        shape = tuple(self.example.shape[1:])
        return OperatorGraph(nodes, output, shape, self.example.dtype, self.example.device, batch)

    def _inputs(self) -> None:
        """The placeholders: the user's input is Data, all others are known."""
        exported = self.program.exported
        tensors = {**dict(exported.state_dict), **dict(exported.constants)}
        placeholders = {n.name: n for n in self.calls.nodes if n.op == "placeholder"}
        for spec in exported.graph_signature.input_specs:
            call = placeholders[spec.arg.name]
            if spec.kind == InputKind.USER_INPUT:
                self.values[call] = Data(INPUT, tuple(self.example.shape[1:]))
                size = call.meta["val"].shape[0]
                self.batch = size.node.expr if isinstance(size, torch.SymInt) else size
            elif call in self.needed:
                assert spec.target is not None
                name = "" if spec.kind == InputKind.CONSTANT_TENSOR and "lifted" in spec.target else spec.target
                self.values[call] = Known(name, tensors[spec.target].detach().clone())

    def _call(self, call: fx.Node) -> Any:
        """What one call gives."""
        value = call.meta.get("val")
        if isinstance(value, torch.SymInt | int):
            return self._size(call, value)
        if call.target is operator.getitem:
            return self._item(call)
        arguments = self._arguments(call)
        operands = Call(call.target, arguments, (), self.example.new_empty(0))
        if not operands.data:
            return self._fold(call, operands)
        if _opname(call) in IDENTITIES and operands.data:
            return self._identity(call, operands)
        if isinstance(value, Tensor):
            return self._node(call, operands)
        return operands

    def _node(self, call: fx.Node, operands: Call) -> Data:
        """Add the node of a call, or of the one output in use of a call with several."""
        rule = rule_for(operands.target)
        if rule is None:
            self._refuse(call, way_out(operands.name, len(operands.data)), operands)
        self._check_sizes(call, operands)
        shape = self._shape(call)
        if _opname(call) == "slice" and operands.data[0].shape == shape:
            return operands.data[0]
        full = Call(operands.target, operands.arguments, shape, operands.like, operands.output)
        try:
            built, inputs = rule(full)
        except LinregError as error:
            self._refuse(call, str(error), operands)
        except (TypeError, AttributeError, RuntimeError) as error:
            self._refuse(call, f"its arguments are of a kind that its rule does not know ({error})", operands)
        name = self.names[call]
        module, _ = _module(call)
        self.nodes[name] = Node(name, built, tuple(x.name for x in inputs), shape, module, _source(call))
        self.origins[name] = call.name
        return Data(name, shape)

    def _item(self, call: fx.Node) -> Any:
        several, index = call.args
        operands = self.values[several]  # type: ignore[index]
        if not isinstance(operands, Call):
            return Known(operands.name, operands.value[index], operands.each)
        return self._node(call, Call(operands.target, operands.arguments, (), operands.like, int(index)))  # type: ignore[arg-type]

    def _fold(self, call: fx.Node, operands: Call) -> Any:
        """A call on constants alone: its value, under the name of its one source if there is just one."""
        sources = {leaf.name for leaf in operands.leaves if isinstance(leaf, Known)} - {""}
        if torch.Tag.nondeterministic_seeded in call.target.tags:  # type: ignore[union-attr]
            self._refuse(call, "it draws random numbers: the network is another at each call", operands)
        each = any(isinstance(leaf, Known) and leaf.each for leaf in operands.leaves)
        if any(leaf is BATCH for leaf in operands.leaves):
            if not _one_for_each(operands):
                why = "it makes a constant from the number of images, other than one for each image"
                self._refuse(call, why, operands)
            each = True
        self._check_sizes(call, operands)
        if each:
            self._apart(call)  # a constant of each image, made once, must stay one of each image
        value = operands.evaluate()
        if not isinstance(value, Tensor | tuple | list):
            return value
        return Known(sources.pop() if len(sources) == 1 else "", value, each)  # type: ignore[arg-type]

    def _check_sizes(self, call: fx.Node, operands: Call) -> None:
        """Refuse what computes with the number of images, other than to keep it as a size."""
        sized = operands.name in RESHAPES or operands.name in SIZED
        if any(isinstance(x, torch.SymInt) or (x is BATCH and not sized) for x in operands.leaves):
            self._refuse(call, "it computes with the number of images, which the graph leaves open", operands)

    def _identity(self, call: fx.Node, operands: Call) -> Any:
        data = operands["self"] if operands["self"] is not None else operands["input"]
        if isinstance(data, Known):  # type_as(data)
            return Known(data.name, data.value.to(self.example.dtype))
        value = call.meta["val"]
        if isinstance(value, Tensor) and value.dtype != self.example.dtype:
            self._refuse(call, f"it converts the data to {value.dtype}: keep one dtype throughout", operands)
        if operands["train"]:
            self._refuse(call, "dropout is random in training mode: it must be off in eval mode", operands)
        return data if isinstance(value, Tensor) else operands

    def _arguments(self, call: fx.Node) -> dict[str, Any]:
        """The call's arguments by the names of its schema, defaults filled in."""
        schema = getattr(call.target, "_schema", None)
        if schema is None:
            self._refuse(call, "it is no operator of ATen", None)
        named = dict(zip((a.name for a in schema.arguments), call.args, strict=False)) | dict(call.kwargs)
        defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        return {name: self._resolve(value) for name, value in (defaults | named).items()}

    def _resolve(self, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return self.values[argument]
        if isinstance(argument, list | tuple):
            return [self._resolve(item) for item in argument]
        return argument

    def _size(self, call: fx.Node, value: torch.SymInt | int) -> Any:
        if not isinstance(value, torch.SymInt):
            return value
        if value.node.expr == self.batch:
            return BATCH
        return int(value) if value.node.expr.is_number else value

    def _shape(self, call: fx.Node) -> tuple[int, ...]:
        """The shape of a value for one image; refuses values of another dtype."""
        dtype = call.meta["val"].dtype
        if dtype != self.example.dtype:
            self._refuse(call, f"its result is {dtype}: keep the data in one dtype, {self.example.dtype}", None)
        return self._apart(call)

    def _apart(self, call: fx.Node) -> tuple[int, ...]:
        """The shape of a value for one image; refuses values that do not keep the images apart."""
        sizes = [s.node.expr if isinstance(s, torch.SymInt) else s for s in call.meta["val"].shape]
        if not sizes or sizes[0] != self.batch or any(not isinstance(s, int) for s in sizes[1:]):
            shape = ", ".join("N" if s == self.batch else str(s) for s in sizes)
            why = f"its result has shape ({shape}), which does not keep the images of a batch apart in dimension 0"
            self._refuse(call, f"{why}: reshape to (N, …), and reduce over the other dimensions only", None)
        return tuple(sizes[1:])

    def _refuse(self, call: fx.Node, why: str, operands: Call | None) -> NoReturn:
        name = self.names.get(call, call.name)
        module, kind = _module(call)
        shapes = ", ".join(f"(N, {', '.join(map(str, d.shape))})" for d in operands.data) if operands else ""
        target = operands.target if operands else call.target
        lines = [
            f"cannot take node '{name}', aten.{operator_name(target)}{f' of {shapes}' if shapes else ''}: {why}",
            f"  in module '{module}' ({kind})" if module else f"  in the model's own forward ({kind})" if kind else "",
            f"  at {_source(call)}" if _source(call) else "",
        ]
        raise LinregError("\n".join(line for line in lines if line))

    def _names(self) -> dict[fx.Node, str]:
        """A name for each call: the module's path, `path.op` for calls in a module of the user's, `@k` for repetitions.

        A layer of torch.nn that makes several calls (a padded convolution) gives its name to the last.
        """
        calls = [n for n in self.calls.nodes if n.op == "call_function" and isinstance(n.meta.get("val"), Tensor)]
        calls = [n for n in calls if n in self.needed]
        groups: dict[str, list[fx.Node]] = defaultdict(list)
        for call in calls:
            groups[_stack_key(call)].append(call)
        names: dict[fx.Node, str] = {}
        taken = {INPUT}
        for call in calls:
            module, kind = _module(call)
            last = groups[_stack_key(call)][-1] is call
            bare = kind.startswith("torch.nn.modules.") and "container" not in kind and last and module
            base = module if bare else f"{module}.{_opname(call)}".removeprefix(".")
            name, k = base, 0
            while name in taken:
                k += 1
                name = f"{base}@{k}"
            taken.add(name)
            names[call] = name
        return names


def _ancestors(call: fx.Node) -> set[fx.Node]:
    found, todo = {call}, [call]
    while todo:
        for other in todo.pop().all_input_nodes:
            if other not in found:
                found.add(other)
                todo.append(other)
    return found


def _one_for_each(operands: Call) -> bool:
    """Whether a constant is made N times along dimension 0: expand(N, …), zeros(N, …)."""
    size = operands[SIZED.get(operands.name, "")]
    rest = [leaf for leaf in operands.leaves if leaf is BATCH]
    return isinstance(size, list) and size[0] is BATCH and len(rest) == 1


def _opname(call: fx.Node) -> str:
    if call.target is operator.getitem:
        return _opname(call.args[0])  # type: ignore[arg-type]
    return {"_native_batch_norm_legit_no_training": "batch_norm"}.get(
        operator_name(call.target), operator_name(call.target)
    )


def _stack_key(call: fx.Node) -> str:
    stack = call.meta.get("nn_module_stack") or {}
    return next(reversed(stack), "")


def _module(call: fx.Node) -> tuple[str, str]:
    """Path and class of the innermost module that makes the call."""
    stack = list((call.meta.get("nn_module_stack") or {}).values())
    return stack[-1] if stack else ("", "")


def _source(call: fx.Node) -> str:
    """The innermost line of the user's own code, as "file:line: code"."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in \S+\n\s*(.+)', call.meta.get("stack_trace") or "")
    own = [f for f in frames if "/torch/" not in f[0].replace("\\", "/")] or frames
    return "{}:{}: {}".format(*own[-1]) if own else ""
