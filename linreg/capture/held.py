"""What fixed inputs decide, collected on the way through a program, and tried at once on the example."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from linreg.capture.example import Arguments
from linreg.operators.given import Conditions, Given, bound, built, evaluated, sources
from linreg.operators.steps import steps_of
from linreg.operators.table import Built, Call, Known

SIZED_BY_FIXED = (
    "its size depends on the values of a fixed input: choose by where(mask, x, 0) or x * mask, which keeps the size, "
    "or let the model hold that input as a buffer"
)


@dataclass(eq=False)
class Held:
    """The fixed inputs of an example of so many `images`; `each` says that one of them is another for each image."""

    images: int
    each: bool
    values: dict[str, Known]
    steps: list[tuple[Given, Call]] = field(default_factory=list)
    calls: dict[str, Call] = field(default_factory=dict)

    @classmethod
    def of(cls, arguments: Arguments, alone: bool = False) -> Held:
        """`alone` says that the example is one image, and what is its own is the same for all that a graph is given."""
        values = {name: Known(name, value) for name, value in arguments.held.items()}
        return cls(len(arguments), arguments.shared != arguments.fixed and not alone, values)

    def add(self, name: str, call: Call) -> Given:
        """What a call on fixed inputs alone gives, under the name of the inputs that it comes from."""
        given = Given(f"%{name}", " and ".join(sources(call)))
        self.values[given.key] = Known(given.name, evaluated(self.bound(call)))
        self.steps.append((given, call))
        return given

    def built(self, call: Call) -> Built:
        """The operator of a call on data at the example's fixed inputs, and that data."""
        return built(self.bound(call), " and ".join(sources(call)))

    def bound(self, call: Call) -> Call:
        """The call at the example's fixed inputs."""
        return bound(call, self.values, self.images if self.each else None)

    def conditions(self, nodes: Collection[str]) -> Conditions:
        """For a graph of these nodes."""
        calls = {name: call for name, call in self.calls.items() if name in nodes}
        wanted = {key for call in calls.values() for key in _keys(call)}
        steps = list[tuple[Given, Call]]()
        for given, call in reversed(self.steps):
            if given.key in wanted:
                wanted.update(_keys(call))
                steps.insert(0, (given, call))
        return Conditions(tuple(steps), calls)


def _keys(call: Call) -> set[str]:
    """What it asks fixed inputs for, steps included."""
    found = {leaf.key for leaf in call.leaves if isinstance(leaf, Given)}
    return found.union(*(_keys(step.call) for step in steps_of(call)))
