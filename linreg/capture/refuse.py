"""How a refusal is worded: the node, its module, the user's line, the way out, and what else would be refused.

Whoever finds a reason raises `Refused` with it, and needs to know of nothing but the call at hand. `Refusals`, which
knows the program, makes of it the error that the user sees.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

from torch import Tensor, fx

from linreg.capture.names import path_of_operator, run_of_module
from linreg.capture.place import place_of_call
from linreg.capture.program import Program, values_read, whole
from linreg.errors import LinregError
from linreg.operators.reasons import SMOOTH, SMOOTH_AMONG_OTHERS, SOFTMAX, STEP, Reason
from linreg.operators.refusals import REASONS
from linreg.operators.smooth import UNITS
from linreg.operators.steps import JUMPS, Step
from linreg.operators.table import IDENTITIES, Call, Rule, operator_name

PRODUCTS = ("mul", "multiply", "mm", "bmm", "mv", "matmul", "einsum")  # calls whose arguments are factors
HEADS = (*(name for name, found in REASONS.items() if found is SOFTMAX), "sigmoid", "log_sigmoid")
SHOWN = 5  # kinds of other calls that an error lists


class Refused(LinregError):
    """Why a call is refused. `operands` shows the shapes of its data; `at` is the call meant, if not the one at hand.

    `arranges`: it is refused for how it arranges its values, which it may do for another call's sake.
    """

    def __init__(
        self, why: Reason | str, operands: Call | None = None, *, at: fx.Node | None = None, arranges: bool = False
    ) -> None:
        super().__init__(str(why))
        self.operands = operands
        self.at = at
        self.arranges = arranges


class Arranged(LinregError):
    """A call is refused for how it arranges its values: as one image has them, it may be taken."""


def refused_step(call: fx.Node, values: Mapping[fx.Node, Any]) -> Refused:
    """The refusal of a step where only data will do: it names the comparison that the step comes from."""
    while True:
        value = values.get(call)
        before = [other for other in call.all_input_nodes if isinstance(values.get(other), Step | Call)]
        if not before:
            return Refused(STEP, value.call if isinstance(value, Step) else None, at=call)
        call = before[0]


@dataclass(frozen=True)
class Refusals:
    """The refusals of a program, whose nodes have these names; `rule` is that of an operator, or None."""

    program: Program
    names: Mapping[fx.Node, str]
    rule: Callable[[Any], Rule | None]

    def error(self, call: fx.Node, refused: Refused) -> LinregError:
        """The error for the user.

        Attention of torch.nn moves the batch to another place before its softmax: the softmax is the reason. So where
        an arrangement is refused, a later call of the same module that no rule takes is named in its place.
        """
        call = refused.at or call
        served = self._served(call) if refused.arranges else None
        if served is not None:
            call, refused = served, Refused(REASONS[operator_name(served.target)])
        kind = Arranged if refused.arranges else LinregError
        return kind(self._worded(call, str(refused), refused.operands))

    def _worded(self, call: fx.Node, why: str, operands: Call | None) -> str:
        name, place, call = self._name(call), place_of_call(call), whole(call)
        others = self._others(call)
        if why == str(SMOOTH) and not set(UNITS).issuperset(others):
            why = str(SMOOTH_AMONG_OTHERS)
        why += self._logits(call)
        target = str(call.target).rpartition(".")[0] or call.target
        first = f"cannot take node '{name}', {target}{_shapes(operands)}: {why}"
        return "\n".join([first, *place.lines, *_listed(others)])

    def _logits(self, call: fx.Node) -> str:
        """Where a network ends in a softmax or a sigmoid: how to explain what comes into it, if a module gives that."""
        if operator_name(call.target) not in HEADS or not self._is_last(call):
            return ""
        (scores, *_), within = call.all_input_nodes, _modules(call)
        given_by = [path for path in _modules(whole(scores)) if path and path not in within]
        if not given_by:
            return ""
        return f". To explain what comes into it, end the graph there: linreg.trace(…, output={given_by[0]!r})"

    def _is_last(self, call: fx.Node) -> bool:
        """Whether the output is what a call gives, reshaped at most."""
        last = self.program.result
        while last is not call and len(last.all_input_nodes) == 1:
            (last,) = last.all_input_nodes
        return last is call

    def _name(self, call: fx.Node) -> str:
        """The name of the call's node: where it gives several values, that of the first one taken out."""
        parts = [user for user in call.users if user.target is operator.getitem]
        named = (self.names[each] for each in (call, *parts) if each in self.names)
        return next(named, path_of_operator(call))

    def _served(self, call: fx.Node) -> fx.Node | None:
        """The first call on data from this one on that no rule takes, in the same run of the same module."""
        module, dependent = run_of_module(call), set(self.program.dependent)
        for other in dropwhile(lambda each: each is not call, self.program.calls):
            if other not in dependent or run_of_module(other) != module:
                continue
            never_taken = REASONS.get(operator_name(other.target), STEP) is not STEP  # a step may be
            if never_taken and self.rule(other.target) is None:
                return other
        return None

    def _others(self, refused: fx.Node) -> Counter[str]:
        """How many other calls on data have no rule, by name, and how many are products of data with data."""
        data, found = set(self.program.data), Counter[str]()
        for call in self.program.dependent:
            read = sum(isinstance(each, fx.Node) and each in data for each in values_read(call))
            if read == 0 or operator_name(call.target) in JUMPS:
                continue
            if _may_be_data(call.meta.get("val")):
                data.add(call)
            kind = None if call is refused else self._kind(call, read)
            if kind is not None:
                found[kind] += 1
        return found

    def _kind(self, call: fx.Node, read: int) -> str | None:
        """What a call on so many values that are data is listed as, if it would be refused."""
        name = operator_name(call.target)
        if call.target is operator.getitem or name in IDENTITIES:
            return None
        if self.rule(call.target) is None:
            return name
        return "product of data" if name in PRODUCTS and read > 1 else None


def _modules(call: fx.Node) -> list[str]:
    """The paths of the modules that are at work in a call, the outermost first."""
    return [path for path, _ in (call.meta.get("nn_module_stack") or {}).values()]


def _may_be_data(value: Any) -> bool:
    """Whether a value, or several, can be data further on: indices and comparisons cannot."""
    return not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex()


def _shapes(operands: Call | None) -> str:
    data = operands.data if operands else ()
    shapes = ", ".join(f"(N, {', '.join(map(str, each.shape))})" for each in data)
    return f" of {shapes}" if shapes else ""


def _listed(others: Counter[str]) -> list[str]:
    counts = [f"{count} × {name}" for name, count in others.most_common(SHOWN)]
    more = ["…"] * (len(others) > SHOWN)
    return [f"  also refused: {', '.join([*counts, *more])}"] * bool(counts)
