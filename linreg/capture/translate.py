"""From an exported program to a graph: one pass over its calls, each looked up in the table of rules."""

from __future__ import annotations

import operator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from linreg.approximation import Approximation
from linreg.capture.constants import fold, one_for_each, parameters
from linreg.capture.example import Arguments
from linreg.capture.fuse import pointwise
from linreg.capture.held import SIZED_BY_FIXED, Held
from linreg.capture.names import name_calls
from linreg.capture.place import place_of_call
from linreg.capture.program import ALIKE, TYPED, Batch, Program
from linreg.capture.refuse import Refusals, Refused, refused_step
from linreg.capture.sizes import Sizes, check_sizes, is_open
from linreg.errors import LinregError
from linreg.graph import INPUT, Node, OperatorGraph
from linreg.inputs import Inputs
from linreg.operators.base import Operator, Shape
from linreg.operators.given import Given, converted, is_conditional
from linreg.operators.part import Part
from linreg.operators.reasons import CATEGORY, CONTROL, CUSTOM, RANDOM, UNKNOWN, AcrossImages
from linreg.operators.refusals import FAMILIES, reason
from linreg.operators.smooth import UNITS, Interpolant, interpolant
from linreg.operators.steps import CHOSEN, FINITE, JUMPS, Step, choice, steps_of
from linreg.operators.table import IDENTITIES, Built, Call, Data, Known, Rule, operator_name, order_of, rule_for

WHOLE = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


def translate(program: Program, example: Arguments) -> tuple[OperatorGraph, dict[str, str]]:
    """The graph of a program, and for each node the name of the call it comes from.

    Raises LinregError at the first call that leads to the output and is not piecewise linear in the input.
    """
    from linreg.capture.one_image import OneImage  # which is a translator itself

    return (OneImage if program.batch is Batch.ONE else Translator)(program, example).run()


def _rule_of(target: Any, pieces: int | None) -> Rule | None:
    """The rule of an operator, which for a smooth unit is to interpolate it if `pieces` ask for that."""
    if pieces is not None and operator_name(target) in UNITS:
        return partial(interpolant, pieces=pieces)
    return rule_for(target)


class Translator:
    """One pass over the calls that lead to the output; `operands` are a call with the values of its arguments.

    `values` says what each call gives: Data (the value of a node), Known (a constant), Given (what fixed inputs
    decide), Step (what jumps), BATCH, a number, or its operands where it gives several values, until `getitem` takes
    one out. What is found out on the way are `values`, `nodes` with their `origins`, `sizes`, and `held`, what fixed
    inputs decide; all else is given.
    """

    def __init__(self, program: Program, arguments: Arguments) -> None:
        self.program = program
        self.arguments = arguments
        self.example = arguments.first
        # The number of images, if it is fixed.
        self.fixed = len(arguments) if program.batch is Batch.FIXED else None
        self.names = name_calls(program.calls, arguments.inputs.nodes.values())
        self.refusals = Refusals(program, self.names, partial(_rule_of, pieces=program.pieces))
        self.sizes = Sizes.of_input(program.input.meta["val"])
        self.values: dict[fx.Node, Any] = parameters(program)
        self.held = Held.of(arguments, alone=program.batch is Batch.ONE)
        self.nodes: dict[str, Node] = {}
        self.origins: dict[str, str] = {}
        for call, name in zip(program.inputs, arguments.names, strict=True):
            self.values[call] = Given(name, name)
        self._lay_in_a_row(arguments.inputs)

    def _lay_in_a_row(self, inputs: Inputs) -> None:
        """The data: "input" itself, or parts of it."""
        if not inputs.several:
            self.values[self.program.input] = Data(INPUT, inputs.data[0].shape)
            return
        *firsts, total = inputs.starts
        for call, entry, first in zip(self.program.data, inputs.data, firsts, strict=True):
            name = inputs.nodes[entry.name]
            self.nodes[name] = Node(name, Part(first, total, entry.shape), (INPUT,), entry.shape)
            self.values[call] = Data(name, entry.shape)

    def run(self) -> tuple[OperatorGraph, dict[str, str]]:
        for call in self.program.dependent:
            # Before all others: `x.sum()` of `if x.sum() > 0` would be refused for mixing the images.
            if operator_name(call.target) in FAMILIES[CONTROL]:
                raise self.refusals.error(call, Refused(CONTROL))
        for call in self.program.calls:
            try:
                self.values[call] = self._call(call)
            except Refused as refused:
                raise self.refusals.error(call, refused) from refused.__cause__
        return self._graph(self._output()), self.origins

    def _call(self, call: fx.Node) -> Any:
        """What one call gives, by the first case that it fits: each says what would go wrong if it came later."""
        value = call.meta.get("val")
        # A size, such as x.shape[0] or 2 * x.shape[0]: it would be taken for several values that depend on the data,
        # and Python's own `*` refused as no operator of torch.
        if isinstance(value, torch.SymInt | int):
            return self.sizes.argument(value)
        # One of several values: `getitem` too would be refused as no operator of torch.
        if call.target is operator.getitem:
            return self._item(call)
        operands = self._operands(call)
        # What is the same for all finite data: as a step it would be refused.
        if operands.name in FINITE and operands.data:
            return self._finite(value, operands)
        # What jumps: `x > 0` has no rule and would be refused, `~(x > 0)` has no data and would be evaluated as a
        # constant, and `(x > 0).type_as(x)` would be passed on as it is, in its old dtype.
        if _jumps(operands):
            return self._step(value, operands)
        # A constant: as an identity it would come in the dtype of the data, whatever its own; rules want data.
        if not operands.data:
            return self._given(call, operands) if is_conditional(operands) else self._constant(call, operands)
        if operands.name == "type_as" and isinstance(operands["self"], Given):
            return self._given(call, converted(operands, self.example.dtype))
        # Data as it is: no rule takes what is no operator.
        if operands.name in IDENTITIES:
            return _identity(value, operands, self.example.dtype)
        # Data made anew. Of several values, each gets a node of its own, where `getitem` takes it out.
        return self._node(call, operands) if isinstance(value, Tensor) else operands

    def _item(self, call: fx.Node) -> Any:
        several, index = call.args
        operands = self.values[several]  # type: ignore[index]
        if isinstance(operands, Known):
            if operands.each:
                self.sizes.of_one_image(call.meta["val"])
            return replace(operands, value=operands.value[index])  # type: ignore[index]
        if isinstance(operands, Given):
            return replace(operands, output=index)
        one, value = replace(operands, output=index), call.meta["val"]
        is_data = bool(operands.data) and value.is_floating_point()  # and not the indices of a pool
        return self._node(call, one) if is_data else self._step(value, one)

    def _finite(self, value: Any, operands: Call) -> Known:
        """Whether finite data are NaN or infinite: no."""
        shape = self._zeros(operands.data[0]).shape
        answer = torch.full(shape, FINITE[operands.name], device=self.example.device)
        return Known("", answer, each=self.program.batch is Batch.OPEN)

    def _step(self, value: Any, operands: Call) -> Step | Call:
        """What a call makes of data by comparing it, or of steps: it may go into one of CHOSEN only."""
        if torch.Tag.nondeterministic_seeded in operands.target.tags:
            raise Refused(RANDOM, operands)
        if not isinstance(value, Tensor):
            return operands
        return Step(replace(operands, shape=self._step_shape(value, operands)))

    def _step_shape(self, value: Tensor, operands: Call) -> Shape:
        return self.sizes.of_one_image(value)

    def _given(self, call: fx.Node, operands: Call) -> Given:
        """What fixed inputs alone decide: any operator of torch will do, as each time it is simply called."""
        if torch.Tag.nondeterministic_seeded in operands.target.tags:
            raise Refused(RANDOM, operands)
        if is_open(call.meta["val"]):
            raise Refused(SIZED_BY_FIXED, operands)
        return self.held.add(call.name, operands)

    def _constant(self, call: fx.Node, operands: Call) -> Any:
        value = call.meta["val"]
        try:
            each = one_for_each(operands)
        except Refused:
            if not self.held.each or torch.Tag.nondeterministic_seeded in operands.target.tags:
                raise
            return self._given(call, operands)  # a graph with fixed inputs is bound to a number of images
        check_sizes(operands)
        if each and isinstance(value, Tensor):
            self.sizes.of_one_image(value)  # made once, it must stay one for each image
        constant = fold(operands, each)
        if isinstance(constant, Known) and isinstance(constant.value, Tensor):
            self.sizes = self.sizes.learn(value, constant.value)
        return constant

    def _node(self, call: fx.Node, operands: Call) -> Any:
        """The data that a call gives, and its node. That it has no rule is said before all that is wrong with it."""
        rule = self._rule(call, operands)
        check_sizes(operands)
        rule, operands, whole = self._shaped(call, rule, operands)
        passed = _passed(call, operands)
        if passed is not None:
            return passed
        built, inputs = self._built(rule, operands)
        name = self.names[call]
        if is_conditional(operands):
            self.held.calls[name] = operands
        self.origins[name] = call.name
        return self._add(name, call, built, inputs, Data(name, operands.shape, whole))

    def _add(self, name: str, call: fx.Node, built: Operator, inputs: tuple[Data, ...], data: Data) -> Data:
        """A node, and the data that it gives."""
        place, reads = place_of_call(call), tuple(each.name for each in inputs)
        self.nodes[name] = Node(name, built, reads, data.shape, place.module, place.source)
        return data

    def _shaped(self, call: fx.Node, rule: Rule, operands: Call) -> tuple[Rule, Call, bool]:
        """The rule and the call with its shape, and whether that is all of the program's own shape."""
        return rule, replace(operands, shape=self._shape(call, operands)), False

    def _rule(self, call: fx.Node, operands: Call) -> Rule:
        """The rule for a call; where it acts on steps too, that rule on each region, if it may choose by them."""
        rule = _rule_of(operands.target, self.program.pieces)
        if steps_of(operands):
            if rule is None or operands.name not in CHOSEN:
                raise refused_step(call, self.values)
            return partial(choice, images=len(self.example))
        if rule is not None:
            return rule
        why = reason(operands.name, len(operands.data))
        random = why is UNKNOWN and torch.Tag.nondeterministic_seeded in operands.target.tags
        raise Refused(RANDOM if random else why, operands)

    def _shape(self, call: fx.Node, operands: Call) -> Shape:
        """The shape of a node's value for one image; a try on zeros tells the sizes that the exporter leaves open."""
        self._check_value(call, operands)
        return self.sizes.of_one_image(call.meta["val"])

    def _check_value(self, call: fx.Node, operands: Call) -> None:
        """Learn the open sizes of a value; raises Refused where it is of another dtype than the data."""
        value, dtype = call.meta["val"], self.example.dtype
        if len(operands.data) == 1 and is_open(value):
            if is_conditional(operands):
                raise Refused(SIZED_BY_FIXED, operands)
            self.sizes = self.sizes.learn(value, operands.evaluate(self._zeros(operands.data[0])))
        if value.dtype != dtype:
            raise Refused(f"its result is {value.dtype}: keep the data in one dtype, {dtype}")

    def _built(self, rule: Rule, operands: Call) -> Built:
        own = {name: node for name, node in self.nodes.items() if name not in self.held.calls}
        try:
            if is_conditional(operands):  # which is made anew, by its rule alone, for each choice of fixed inputs
                return self.held.built(operands)
            return pointwise(*rule(operands), operands, own)
        except LinregError as error:
            raise Refused(str(error), operands, arranges=isinstance(error, AcrossImages)) from error
        except (TypeError, AttributeError, RuntimeError) as error:
            why = f"its arguments are of a kind that its rule does not know ({error})"
            raise Refused(why, operands) from error

    def _operands(self, call: fx.Node) -> Call:
        """The call with values for its arguments; data that gives it no values but a shape is given as zeros."""
        arguments = {name: self._value(argument) for name, argument in _arguments(call).items()}
        name, like = operator_name(call.target), arguments.get("self")
        if name in (*ALIKE, *TYPED) and isinstance(like, Data):
            arguments["self"] = Known("", self._zeros(like), each=name in ALIKE and self.program.batch is Batch.OPEN)
        like, order = self.example.new_empty(0), order_of(call.target)
        return Call(call.target, arguments, (), like, images=self.fixed, order=order)

    def _value(self, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return self.values[argument]
        return [self._value(item) for item in argument] if isinstance(argument, list | tuple) else argument

    def _zeros(self, data: Data) -> Tensor:
        """Zeros of the data's shape: one image for all of them, where their number is open."""
        return self.example.new_zeros(self.fixed or 1, *data.shape)

    def _output(self) -> str:
        """The node of the output."""
        call = self.program.result
        result = self.values.get(call)
        if isinstance(result, Step):
            raise self.refusals.error(call, refused_step(call, self.values))
        if isinstance(result, Data) and result.name != INPUT:
            return self._final(call, result).name
        raise LinregError("the model's output does not depend on its input through any operator: nothing to explain")

    def _final(self, call: fx.Node, result: Data) -> Data:
        """The data of the output as the graph gives it."""
        return result

    def _graph(self, output: str) -> OperatorGraph:
        """The nodes that lead to the output: a gate that took up several calls leaves theirs without a reader."""
        made, reached = self.nodes.values(), {output}
        for node in reversed(made):
            if node.name in reached:
                reached.update(node.inputs)
        reached.update(self.arguments.inputs.nodes.values())  # an input that leads nowhere has its place all the same
        nodes = tuple(node for node in made if node.name in reached)
        inputs, like = self.arguments.inputs, (self.example.dtype, self.example.device)
        shape = (inputs.starts[-1],) if inputs.several else inputs.data[0].shape
        approximation = Approximation({n.name: n.operator for n in made if isinstance(n.operator, Interpolant)})
        return OperatorGraph(
            nodes, output, shape, *like, self.fixed, approximation=approximation,
            signature=None if self.arguments.alone else inputs, conditions=self.held.conditions(reached),
            one_by_one=self.program.batch is Batch.ONE,
        )  # fmt: skip


def _arguments(call: fx.Node) -> dict[str, Any]:
    """The arguments of a call by the names of its schema, defaults filled in."""
    schema = getattr(call.target, "_schema", None)
    if schema is None:
        raise Refused(CUSTOM)
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    positional = zip((a.name for a in schema.arguments), call.args, strict=False)
    return {**defaults, **dict(positional), **call.kwargs}


def _jumps(operands: Call) -> bool:
    """Whether what a call gives is a step: of comparing data, of steps alone, or of a step in the dtype of data."""
    compares = operands.name in JUMPS and bool(operands.data)
    converts = operands.name in IDENTITIES and isinstance(operands["self"], Step)
    return compares or converts or (bool(steps_of(operands)) and not operands.data)


def _identity(value: Any, operands: Call, dtype: torch.dtype) -> Any:
    """What a call gives that leaves its data as they are; raises Refused where it changes them after all."""
    data = operands["self"] if operands["self"] is not None else operands["input"]
    if isinstance(data, Known):  # type_as(constant, data)
        return replace(data, value=data.value.to(dtype))
    if isinstance(value, Tensor) and value.dtype in WHOLE:
        raise Refused(CATEGORY, operands)
    if isinstance(value, Tensor) and value.dtype != dtype:
        raise Refused(f"it converts the data to {value.dtype}: keep one dtype throughout, {dtype}", operands)
    if operands["train"]:
        why = "dropout is random in training mode: it must be off in eval mode"
        raise Refused(f"{why}, as F.dropout(…, training=self.training) is", operands)
    return data if isinstance(value, Tensor) else operands


def _passed(call: fx.Node, operands: Call) -> Any:
    """What a call passes on as it is, if it does: `x` in `x[:]`, and `y` in `x[:] = y`, where that is all of x."""
    if operands.name in ("slice", "copy", "expand") and operands.data[0].shape == operands.shape:
        return operands.data[0]
    if operands.name == "slice_scatter" and call.args[1].meta["val"].shape == call.meta["val"].shape:  # type: ignore[union-attr]
        return operands["src"]
    return None
