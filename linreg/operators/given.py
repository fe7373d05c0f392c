"""Fixed inputs: values that they alone decide, and the operators that these values are part of.

A call on data and on such values has no operator of its own: it has one for each choice of the fixed inputs, by the
rule that takes the same call with constants. `Conditions` keeps these calls, and makes the operators anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import Operator
from linreg.operators.steps import Step, choice, steps_of
from linreg.operators.table import BATCH, Built, Call, Known, rule_for


@dataclass(frozen=True)
class Given:
    """An argument that fixed inputs decide: the value of this `key`, or one of several that it holds.

    `name` is that of the fixed input whose values it carries, for the ledger.
    """

    key: str
    name: str
    output: Any = None


Values = Mapping[str, Known]


def sources(call: Call) -> tuple[str, ...]:
    """The fixed inputs that a call depends on, by name, steps included."""
    found = [leaf.name for leaf in call.leaves if isinstance(leaf, Given)]
    for step in steps_of(call):
        found.extend(sources(step.call))
    return tuple(dict.fromkeys(found))


def is_conditional(call: Call) -> bool:
    """Whether a call depends on fixed inputs."""
    return any(isinstance(leaf, Given) for leaf in call.leaves) or any(is_conditional(s.call) for s in steps_of(call))


def bound(call: Call, values: Values, images: int | None) -> Call:
    """The call with constants for what fixed inputs decide; with `images`, one of that many, whatever N was."""

    def settle(argument: Any) -> Any:
        if isinstance(argument, Given):
            known = values[argument.key]
            return known if argument.output is None else replace(known, value=known.value[argument.output])
        if isinstance(argument, Step):
            return Step(bound(argument.call, values, images))
        if isinstance(argument, Known) and argument.each and images is not None:
            return Known(argument.name, argument.value.expand(images, *argument.value.shape[1:]))
        if argument is BATCH and images is not None:
            return images
        return [settle(item) for item in argument] if isinstance(argument, list) else argument

    settled = {name: settle(argument) for name, argument in call.arguments.items()}
    return replace(call, arguments=settled, images=call.images if images is None else images)


def converted(call: Call, dtype: torch.dtype) -> Call:
    """The call that gives `self` in another dtype, in the place of one that takes that from its other argument."""
    return replace(call, target=torch.ops.aten._to_copy.default, arguments={"self": call["self"], "dtype": dtype})


def built(call: Call, name: str) -> Built:
    """The operator of a bound call, and its data; its constants that have no name of their own get this one."""
    rule = rule_for(call.target)
    assert rule is not None  # there was one when the graph was made
    operator, data = choice(call, call.images or 1) if steps_of(call) else rule(call)
    own = [constant for constant in getattr(operator, "constants", ()) if constant.kind == "constant"]
    if is_dataclass(operator) and any(constant.name == "" for constant in own):
        constants = (replace(c, name=c.name or name) if c in own else c for c in operator.constants)
        operator = replace(operator, constants=tuple(constants))
    return operator, data


@dataclass(frozen=True, eq=False)
class Conditions:
    """What a graph needs to be bound to its fixed inputs.

    `steps` are the calls on fixed inputs alone, in order, each with its key and the name of its value; `calls` are
    those of the nodes whose operators fixed inputs decide.
    """

    steps: tuple[tuple[Given, Call], ...] = ()
    calls: Mapping[str, Call] = field(default_factory=dict)

    @torch.no_grad()
    def values(self, fixed: Mapping[str, Tensor], images: int | None) -> dict[str, Known]:
        """All that these fixed inputs decide, by key; a fixed input's own key is its name.

        Raises LinregError where the network cannot compute with them, such as the index of a class that it lacks.
        """
        found = {name: Known(name, value) for name, value in fixed.items()}
        for given, call in self.steps:
            try:
                found[given.key] = Known(given.name, evaluated(bound(call, found, images)))
            except (RuntimeError, IndexError, ValueError) as error:
                why = str(error).strip().partition("\n")[0]
                raise LinregError(
                    f"the network cannot take this fixed input, {given.name}: {call.name}: {why}"
                ) from error
        return found

    def operators(self, fixed: Mapping[str, Tensor], images: int | None) -> dict[str, Operator]:
        """The operators of the nodes, for these fixed inputs. Raises LinregError where there is none for them."""
        values, found = self.values(fixed, images), dict[str, Operator]()
        for name, call in self.calls.items():
            try:
                found[name], _ = built(bound(call, values, images), " and ".join(sources(call)))
            except (LinregError, RuntimeError, IndexError) as error:
                raise LinregError(f"node '{name}' cannot be taken with these fixed inputs: {error}") from error
        return found


def evaluated(call: Call) -> Any:
    """What a bound call without data gives; memory that is not set counts as zeros."""
    value = call.evaluate()
    return torch.zeros_like(value) if call.name in EMPTY and isinstance(value, Tensor) else value


EMPTY = ("empty", "new_empty", "empty_like")  # they give whatever the memory holds
