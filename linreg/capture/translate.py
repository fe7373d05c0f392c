"""From an exported program to a graph: constants folded, names given, each call looked up in the table of rules."""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from linreg.approximation import Approximation
from linreg.capture.export import Program
from linreg.capture.fuse import pointwise
from linreg.capture.place import place_of_call
from linreg.errors import LinregError
from linreg.graph import INPUT, Node, OperatorGraph
from linreg.operators import BATCH, Call, Data, Known, rule_for
from linreg.operators.reasons import CONTROL, CUSTOM, RANDOM, SMOOTH, SMOOTH_AMONG_OTHERS, STEP, UNKNOWN
from linreg.operators.refusals import FAMILIES, REASONS, reason
from linreg.operators.smooth import UNITS, Interpolant, interpolant
from linreg.operators.steps import CHOSEN, JUMPS, Step, choice, steps_of
from linreg.operators.structure import RESHAPES
from linreg.operators.table import IDENTITIES, Rule, operator_name

# Calls that take sizes, and the argument that holds them.
SIZED = {
    "repeat": "repeats",
    "tile": "dims",
    "reshape": "shape",
    **dict.fromkeys(("expand", "view", "_unsafe_view", "zeros", "ones", "full", "empty"), "size"),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty", "affine_grid_generator"), "size"),
}
EMPTY = ("empty", "new_empty", "empty_like")
# Calls to which `self` gives no values: its sizes, one for each image, or its dtype and device.
ALIKE = ("zeros_like", "ones_like", "full_like", "empty_like", "fill", "zero", "copy")
TYPED = ("new_zeros", "new_ones", "new_full", "new_empty")
# Calls whose arguments are factors.
PRODUCTS = ("mul", "multiply", "mm", "bmm", "mv", "matmul", "einsum")


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
        self.sizes: dict[Any, int] = {}  # sizes that the exporter leaves open, of constant boolean masks

    def run(self) -> tuple[OperatorGraph, dict[str, str]]:
        self._inputs()
        self.names = self._names()
        self.dependent = self._dependent()
        for call in self.dependent:
            if operator_name(call.target) in FAMILIES[CONTROL]:
                self._refuse(call, str(CONTROL), None)
        for call in self.calls.nodes:
            if call.op == "call_function" and call in self.needed:
                self.values[call] = self._call(call)
        result = self.values.get(self.result)
        if isinstance(result, Step):
            self._refuse_step(self.result)
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
        made = self.nodes.values()
        nodes = tuple(node for node in made if node.name in reached)
        batch = None if self.program.dynamic else self.example.shape[0]
        shape = tuple(self.example.shape[1:])
        approximation = Approximation({n.name: n.operator for n in made if isinstance(n.operator, Interpolant)})
        like = (self.example.dtype, self.example.device)
        return OperatorGraph(nodes, output, shape, *like, batch, approximation=approximation)

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
                value = tensors[spec.target]
                self.values[call] = Known(name, value.detach().clone()) if isinstance(value, Tensor) else value

    def _dependent(self) -> list[fx.Node]:
        """The calls needed that depend on the values of the input, and not only on its sizes."""
        found = {call for call, value in self.values.items() if isinstance(value, Data)}
        for call in self.calls.nodes:
            if call in self.needed and found.intersection(call.all_input_nodes):
                found |= {call} if not operator_name(call.target).startswith("sym_") else set()
        return [call for call in self.calls.nodes if call in found and call.op == "call_function"]

    def _call(self, call: fx.Node) -> Any:
        """What one call gives."""
        value = call.meta.get("val")
        if isinstance(value, torch.SymInt | int):
            return self._size(call, value)
        if call.target is operator.getitem:
            return self._item(call)
        arguments = self._arguments(call)
        if operator_name(call.target) in (*ALIKE, *TYPED) and isinstance(arguments["self"], Data):
            arguments["self"] = self._blank(arguments["self"], operator_name(call.target) in ALIKE)
        images = None if self.program.dynamic else len(self.example)
        operands = Call(call.target, arguments, (), self.example.new_empty(0), images=images)
        converts = isinstance(operands["self"], Step) and _opname(call) in IDENTITIES
        if (operands.name in JUMPS and operands.data) or converts:
            return self._step(call, operands)
        if not operands.data:
            return self._step(call, operands) if steps_of(operands) else self._fold(call, operands)
        if _opname(call) in IDENTITIES and operands.data:
            return self._identity(call, operands)
        if isinstance(value, Tensor):
            return self._node(call, operands)
        return operands

    def _node(self, call: fx.Node, operands: Call) -> Data:
        """Add the node of a call, or of the one output in use of a call with several."""
        rule = self._rule(operands.target)
        if steps_of(operands):
            if rule is None or operands.name not in CHOSEN:
                self._refuse_step(call)
            rule = partial(choice, images=len(self.example))
        if rule is None:
            why = reason(operands.name, len(operands.data))
            random = why is UNKNOWN and torch.Tag.nondeterministic_seeded in operands.target.tags
            self._refuse(call, str(RANDOM if random else why), operands)
        self._check_sizes(call, operands)
        if len(operands.data) == 1 and free_unbacked_symbols(call.meta["val"]):
            self._learn(call, operands.evaluate(self._blank(operands.data[0], each=True).value))
        shape = self._shape(call)
        if _opname(call) in ("slice", "copy") and operands.data[0].shape == shape:
            return operands.data[0]
        if _opname(call) == "slice_scatter" and call.args[1].meta["val"].shape == call.meta["val"].shape:  # type: ignore[union-attr]
            return operands["src"]
        full = replace(operands, shape=shape)
        try:
            built, inputs = pointwise(*rule(full), full, self.nodes)
        except LinregError as error:
            self._refuse(call, str(error), operands)
        except (TypeError, AttributeError, RuntimeError) as error:
            self._refuse(call, f"its arguments are of a kind that its rule does not know ({error})", operands)
        name = self.names[call]
        place = place_of_call(call)
        self.nodes[name] = Node(name, built, tuple(x.name for x in inputs), shape, place.module, place.source)
        self.origins[name] = call.name
        return Data(name, shape)

    def _rule(self, target: Any) -> Rule | None:
        """The rule of an operator, which for a smooth unit is to interpolate it if that was asked for."""
        if self.program.pieces is not None and operator_name(target) in UNITS:
            return partial(interpolant, pieces=self.program.pieces)
        return rule_for(target)

    def _item(self, call: fx.Node) -> Any:
        several, index = call.args
        operands = self.values[several]  # type: ignore[index]
        if not isinstance(operands, Call):
            return Known(operands.name, operands.value[index], operands.each)
        if not operands.data or not call.meta["val"].is_floating_point():  # indices
            return self._step(call, replace(operands, output=int(index)))  # type: ignore[arg-type]
        return self._node(call, replace(operands, output=int(index)))  # type: ignore[arg-type]

    def _step(self, call: fx.Node, operands: Call) -> Step | Call:
        """What a call makes of data by comparing it, or of steps: it may go into one of CHOSEN only."""
        if torch.Tag.nondeterministic_seeded in operands.target.tags:
            self._refuse(call, str(RANDOM), operands)
        if not isinstance(call.meta["val"], Tensor):
            return operands
        return Step(replace(operands, shape=self._apart(call)))

    def _refuse_step(self, call: fx.Node) -> NoReturn:
        """Refuse the comparison that this value, or the first argument that is a step, comes from."""
        while True:
            value = self.values.get(call)
            before = [other for other in call.all_input_nodes if isinstance(self.values.get(other), Step | Call)]
            if not before:
                self._refuse(call, str(STEP), value.call if isinstance(value, Step) else None)
            call = before[0]

    def _fold(self, call: fx.Node, operands: Call) -> Any:
        """A call on constants alone: its value, under the name of its one source if there is just one."""
        sources = {leaf.name for leaf in operands.leaves if isinstance(leaf, Known)} - {""}
        if torch.Tag.nondeterministic_seeded in call.target.tags:  # type: ignore[union-attr]
            self._refuse(call, str(RANDOM), operands)
        each = any(isinstance(leaf, Known) and leaf.each for leaf in operands.leaves)
        if any(leaf is BATCH for leaf in operands.leaves):
            if not _one_for_each(operands):
                why = "it makes a constant from the number of images, other than one for each image"
                self._misplaced(call, f"{why}: make it as (N, …) with N first, or fix its size", operands)
            each = True
        self._check_sizes(call, operands)
        if each:
            self._apart(call)  # a constant of each image, made once, must stay one of each image
        value = operands.evaluate()
        if not isinstance(value, Tensor | tuple | list):
            return value
        if isinstance(value, Tensor):
            self._learn(call, value)
            value = torch.zeros_like(value) if operands.name in EMPTY else value
        return Known(sources.pop() if len(sources) == 1 else "", value, each)

    def _blank(self, data: Data, each: bool) -> Known:
        """Zeros of the data's shape: one image for all of them, where their number is open."""
        images = 1 if self.program.dynamic else len(self.example)
        return Known("", self.example.new_zeros(images, *data.shape), each and self.program.dynamic)

    def _learn(self, call: fx.Node, value: Tensor) -> None:
        """Keep the sizes of a value that the exporter leaves open."""
        for size, actual in zip(call.meta["val"].shape, value.shape, strict=True):
            if free_unbacked_symbols(size):
                self.sizes[size.node.expr] = actual

    def _check_sizes(self, call: fx.Node, operands: Call) -> None:
        """Refuse what computes with the number of images, other than to keep it as a size."""
        sized = operands.name in RESHAPES or operands.name in SIZED
        if any(isinstance(x, torch.SymInt) or (x is BATCH and not sized) for x in operands.leaves):
            self._misplaced(call, "it computes with the number of images, which the graph leaves open", operands)

    def _identity(self, call: fx.Node, operands: Call) -> Any:
        data = operands["self"] if operands["self"] is not None else operands["input"]
        if isinstance(data, Known):  # type_as(data)
            return Known(data.name, data.value.to(self.example.dtype), data.each)
        value = call.meta["val"]
        if isinstance(value, Tensor) and value.dtype != self.example.dtype:
            why = f"it converts the data to {value.dtype}: keep one dtype throughout, {self.example.dtype}"
            self._refuse(call, why, operands)
        if operands["train"]:
            why = "dropout is random in training mode: it must be off in eval mode"
            self._refuse(call, f"{why}, as F.dropout(…, training=self.training) is", operands)
        return data if isinstance(value, Tensor) else operands

    def _arguments(self, call: fx.Node) -> dict[str, Any]:
        """The call's arguments by the names of its schema, defaults filled in."""
        schema = getattr(call.target, "_schema", None)
        if schema is None:
            self._refuse(call, str(CUSTOM), None)
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
        size = value.node.expr.xreplace(self.sizes)
        return BATCH if size == self.batch else int(size) if size.is_number else value

    def _shape(self, call: fx.Node) -> tuple[int, ...]:
        """The shape of a value for one image; refuses values of another dtype."""
        dtype = call.meta["val"].dtype
        if dtype != self.example.dtype:
            self._refuse(call, f"its result is {dtype}: keep the data in one dtype, {self.example.dtype}", None)
        return self._apart(call)

    def _apart(self, call: fx.Node) -> tuple[int, ...]:
        """The shape of a value for one image; refuses values that do not keep the images apart."""
        sizes = [s.node.expr.xreplace(self.sizes) if isinstance(s, torch.SymInt) else s for s in call.meta["val"].shape]
        sizes = [s if isinstance(s, int) or not s.is_number else int(s) for s in sizes]
        if not sizes or sizes[0] != self.batch or any(not isinstance(s, int) for s in sizes[1:]):
            shape = ", ".join("N" if s == self.batch else str(s) for s in sizes)
            why = f"its result has shape ({shape}), which does not keep the images of a batch apart in dimension 0"
            advice = "reshape to (N, …), and reduce over the other dimensions only"
            unbatched = "; is the batch dimension missing? x[None]" * (self.example.dim() == 3)  # one picture (C, H, W)
            self._misplaced(call, f"{why}: {advice}{unbatched}", None)
        return tuple(sizes[1:])

    def _misplaced(self, call: fx.Node, why: str, operands: Call | None) -> NoReturn:
        """Refuse how a call arranges its values, or what it arranges them for: a later call that no rule will take.

        Attention of torch.nn moves the batch to another place before its softmax: the softmax is the reason.
        """
        for other in self.dependent:
            later = other not in self.values and _stack_key(other) == _stack_key(call)
            why_not = REASONS.get(operator_name(other.target), STEP)  # a comparison may be taken
            if later and self._rule(other.target) is None and why_not is not STEP:
                self._refuse(other, str(why_not), None)
        self._refuse(call, why, operands)

    def _refuse(self, call: fx.Node, why: str, operands: Call | None) -> NoReturn:
        place, parts = place_of_call(call), [user for user in call.users if user.target is operator.getitem]
        unnamed = f"{place.module}.{_opname(call)}".removeprefix(".")
        name = next((self.names[c] for c in (call, *parts) if c in self.names), unnamed)
        while call.target is operator.getitem:
            call = call.args[0]  # type: ignore[assignment]
        others = self._also_refused(call)
        counts = [f"{count} × {name}" for name, count in others.most_common(5)] + ["…"] * (len(others) > 5)
        also = [f"  also refused: {', '.join(counts)}"] * bool(counts)
        if why == str(SMOOTH) and not set(UNITS).issuperset(others):
            why = str(SMOOTH_AMONG_OTHERS)
        target = str(call.target).rpartition(".")[0] or call.target
        shapes = ", ".join(f"(N, {', '.join(map(str, d.shape))})" for d in operands.data) if operands else ""
        first = f"cannot take node '{name}', {target}{f' of {shapes}' if shapes else ''}: {why}"
        raise LinregError("\n".join([first, *place.lines, *also]))

    def _also_refused(self, refused: fx.Node) -> Counter[str]:
        """How many other calls on data have no rule, by name, and how many are products of data with data."""
        data = {call for call, value in self.values.items() if isinstance(value, Data) and value.name == INPUT}
        found: Counter[str] = Counter()
        for call in self.dependent:
            name, arguments = operator_name(call.target), pytree.tree_leaves((call.args, call.kwargs))
            if name in (*ALIKE, *TYPED):  # whose first argument gives no values
                arguments = arguments[1:]
            elif name in IDENTITIES:
                arguments = arguments[:1]
            operands = [each for each in arguments if isinstance(each, fx.Node) and each in data]
            if not operands or name in JUMPS:
                continue
            value = call.meta.get("val")
            if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex():
                data.add(call)
            if call is refused or call.target is operator.getitem or name in IDENTITIES:
                continue
            if self._rule(call.target) is None:
                found[name] += 1
            elif name in PRODUCTS and len(operands) > 1:
                found["product of data"] += 1
        return found

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
            place = place_of_call(call)
            last = groups[_stack_key(call)][-1] is call
            layer = place.kind.startswith("torch.nn.modules.") and "container" not in place.kind
            bare = layer and last and place.module
            base = place.module if bare else f"{place.module}.{_opname(call)}".removeprefix(".")
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
