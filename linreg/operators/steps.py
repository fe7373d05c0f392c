"""Steps: values that only jump, such as `x > 0`, and the operators whose affine function they choose.

On one linear region a step is a constant. So a call on data and steps is, on that region, the same call on data and
constants, whose rule is in the table: `where(x > 0, a, b)`, `x * (x > 0)`, `a + x.sign()`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from typing import Any

from scipy.sparse import csr_array
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import Affine, Constant, Operator, Role, Shape
from linreg.operators.reach import Follows, Placed
from linreg.operators.rounding import Rounding
from linreg.operators.table import BATCH, Built, Call, Data, Known, rule_for

# What is asked of data that are finite, and the answer: no step, but a constant.
FINITE = {"isnan": False, "isinf": False, "isposinf": False, "isneginf": False, "isfinite": True}
COMPARISONS = ("gt", "ge", "lt", "le", "eq", "ne")
SIGNS = ("sign", "sgn")
JUMPS = (*COMPARISONS, *SIGNS)
LOGIC = ("logical_not", "bitwise_not", "logical_and", "logical_or", "logical_xor", "__and__", "__or__", "__xor__",
         "bitwise_and", "bitwise_or", "bitwise_xor")  # fmt: skip
Decider = tuple[Operator, tuple[Tensor, ...], Shape]  # with its inputs, and the shape of its value
CHOSEN = {"where": "where", "masked_fill": "where", "mul": "scale", "add": "shift", "sub": "shift", "rsub": "shift",
          "max_unpool2d": "unpool", "max_unpool3d": "unpool", "index_put": "where"}  # fmt: skip
ELEMENTWISE = {*JUMPS, *LOGIC, *CHOSEN, "neg", "clone", "to", "_to_copy", "type_as"}


@dataclass(frozen=True, eq=False)
class Step:
    """A value that jumps and is constant elsewhere: what `call` makes of data by comparing it, or of other steps.

    The arguments of the call are Data, Known and Step; `shape` is that of one image.
    """

    call: Call

    @property
    def shape(self) -> Shape:
        return self.call.shape

    @property
    def data(self) -> tuple[Data, ...]:
        """All that it depends on."""
        return data_of(self.call)

    def evaluate(self, values: Mapping[str, Tensor]) -> Tensor:
        """Its value, (N, *shape), where these are the values of the data."""
        return settled(self.call, values, data=True).evaluate()

    def levels(self, values: Mapping[str, Tensor]) -> list[Tensor]:
        """What changes its sign where the step jumps: the data, or differences of data, that it compares."""
        if self.call.name in JUMPS and self.call.data:
            sides = settled(self.call, values, data=True)
            return [sides.tensor(sides["self"]) - (0 if sides["other"] is None else sides.tensor(sides["other"]))]
        return [level for step in steps_of(self.call) for level in step.levels(values)]

    def deciders(self, values: Mapping[str, Tensor]) -> list[Decider]:
        """The operators whose places it is, as those that a max pool finds.

        Raises LinregError where data decide it in another way than by comparison.
        """
        found = [decider for step in steps_of(self.call) for decider in step.deciders(values)]
        rule = rule_for(self.call.target)
        if self.call.data and self.call.name not in JUMPS:
            if rule is None:
                raise LinregError(
                    f"aten.{self.call.name} does not tell where its values jump: compare the data instead"
                )
            operator, data = rule(self.call)
            found.append((operator, tuple(values[each.name] for each in data), self.shape))
        return found

    def is_elementwise(self, shape: Shape) -> bool:
        """Whether each element depends on those of data of this shape in the same place only, by comparing data."""
        parts, name = steps_of(self.call), self.call.name
        known = name in ELEMENTWISE and not (name in COMPARISONS and parts and self.call.data)
        fits = self.shape == shape and all(data.shape == shape for data in self.call.data)
        return known and fits and all(step.is_elementwise(shape) for step in parts)


def steps_of(call: Call) -> list[Step]:
    return [leaf for leaf in call.leaves if isinstance(leaf, Step)]


def data_of(call: Call) -> tuple[Data, ...]:
    """All the data that a call depends on, that of its steps included, each once."""
    leaves = (leaf.data if isinstance(leaf, Step) else (leaf,) for leaf in call.leaves if isinstance(leaf, Step | Data))
    return tuple({data.name: data for each in leaves for data in each}.values())


def settled(call: Call, values: Mapping[str, Tensor], data: bool = False) -> Call:
    """The call with its steps, and if wanted its data, as the constants that they are on the region of `values`."""
    images = next(iter(values.values())).shape[0]  # not len(…), which fixes it for torch.export

    def settle(argument: Any) -> Any:
        if isinstance(argument, Step):
            return Known("", argument.evaluate(values))
        if data and isinstance(argument, Data):
            return Known("", values[argument.name])
        if data and argument is BATCH:
            return images
        return [settle(item) for item in argument] if isinstance(argument, list) else argument

    return replace(call, arguments={name: settle(argument) for name, argument in call.arguments.items()})


@dataclass(frozen=True, eq=False)
class Guided(Affine):
    """z = A(x_1, …, x_K) + Σ β, of inputs x_1 … x_K, u_1 …: the u only decided which A and β these are."""

    affine: Affine
    guides: tuple[Shape, ...]

    @property
    def kind(self) -> str:
        return self.affine.kind

    @property
    def role(self) -> Role:
        return self.affine.role

    @property
    def new_value(self) -> bool:
        return self.affine.new_value

    @property
    def new_gradients(self) -> bool:
        return self.affine.new_gradients

    @property
    def constants(self) -> tuple[Constant, ...]:  # type: ignore[override]
        """They are those of this region: offsets."""
        return tuple(replace(constant, kind="offset") for constant in self.affine.constants)

    def linear(self, *inputs: Tensor) -> Tensor:
        return self.affine.linear(*self._own(inputs))

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return (*self.affine.adjoint(grad), *(grad.new_zeros(grad.shape[0], *shape) for shape in self.guides))

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        own = self.affine.sparse(image)
        return (*own, *(csr_array((own[0].shape[0], prod(shape)), dtype=own[0].dtype) for shape in self.guides))

    def rounding(self, *inputs: Tensor) -> Rounding:
        rule = self.affine.rounding(*self._own(inputs))
        return replace(rule, absolute=lambda *errors: rule.absolute(*self._own(errors)))

    def _own(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return inputs[: len(inputs) - len(self.guides)]


@dataclass(frozen=True, eq=False)
class Choice(Operator):
    """A call on data and steps: on one region it is affine in that data, which comes first among the `inputs`.

    `role` is that of the affine functions among which it chooses.
    """

    call: Call
    inputs: tuple[Data, ...]
    guides: tuple[Shape, ...]
    role: Role = Role.OTHER

    @property
    def kind(self) -> str:
        return CHOSEN[self.call.name]

    def freeze(self, *inputs: Tensor) -> Guided:
        built, data = _built(self.call, self._values(inputs))
        affine = built.freeze(*inputs[: len(data)])
        return Guided(affine, self.guides)

    def moves(self, *errors: Tensor) -> Tensor:
        """By any amount: it may jump."""
        return errors[0].new_full((len(errors[0]), *self.call.shape), inf)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        """That of what the call becomes; what only decides is not read."""
        places, guides = self.call["indices"], [None] * len(self.guides)
        if isinstance(places, Step):
            return (_unpooled(places, inputs[0], output), *guides)
        images = self.call.images or 1
        zeros = [self.call.like.new_zeros(images, *data.shape) for data in self.inputs]
        built, data = _built(self.call, self._values(tuple(zeros)))
        return (*built.reach(inputs[: len(data)], output), *guides)

    @property
    def jumps(self) -> bool:
        return True

    def levels(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What its steps compare."""
        values = self._values(inputs)
        return tuple(level for step in steps_of(self.call) for level in step.levels(values))

    def deciders(self, inputs: tuple[Tensor, ...], output: Shape) -> tuple[Decider, ...]:
        """Those whose places it uses, as a max pool's."""
        values = self._values(inputs)
        return tuple(decider for step in steps_of(self.call) for decider in step.deciders(values))

    def is_elementwise(self, shape: Shape) -> bool:
        """Whether each element depends on those of data of this shape in the same place only."""
        fits = all(data.shape == shape for data in self.inputs)
        return fits and all(step.is_elementwise(shape) for step in steps_of(self.call))

    def _values(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {data.name: value for data, value in zip(self.inputs, inputs, strict=True)}


def _built(call: Call, values: Mapping[str, Tensor]) -> Built:
    rule = rule_for(call.target)
    assert rule is not None
    return rule(settled(call, values))


def _unpooled(places: Step, x: Placed, output: Shape) -> Follows:
    """Of values that go back to where a max pool found its own: each may go to any place of its window."""
    rule, pooled = rule_for(places.call.target), places.call.data
    if rule is None or len(pooled) != 1 or (pooled[0].shape, places.shape) != (output, x.shape):
        raise LinregError("it puts values at places which no max pool of its own size gave")
    pool, _ = rule(places.call)
    (windows,) = pool.reach((Placed(output, x.dims),), x.shape)
    return {d: (e, window.inverse()) for d, (e, window) in (windows or {}).items()}


def choice(call: Call, images: int) -> Built:
    """The operator of a call on data and steps; so many images are enough to see which data it takes."""
    found = data_of(call)
    built, data = _built(call, {data.name: call.like.new_zeros(images, *data.shape) for data in found})
    guides = tuple(other for other in found if other.name not in {d.name for d in data})
    inputs = (*data, *guides)
    return Choice(call, inputs, tuple(guide.shape for guide in guides), built.role), inputs
