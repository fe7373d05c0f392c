"""What an operator is.

An `Operator` is one node of the graph: a piecewise-linear function of its data inputs. `freeze` fixes its piece at
given inputs and returns an `Affine`, which is all that the rest of the toolkit ever computes with.

Indices: n image of the batch, k data input of the node. Shapes written without n are those of one image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from math import inf
from typing import ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from linreg.errors import LinregError
from linreg.operators.contest import Contest
from linreg.operators.reach import Follows, Placed
from linreg.operators.rounding import Rounding
from linreg.operators.sparse import degrees_of, diagonal

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Constant:
    """β: one constant that a node adds to its output. It becomes one line of the ledger.

    `kind` is one of "bias", "shift" (batch norm), "offset" (of a gate), "pad" and "constant"; `value` broadcasts to the
    output, with or without the batch dimension; `name` is the parameter's, or "" for the node's own.
    """

    kind: str
    value: Tensor
    name: str = ""

    def share(self, grad: Tensor) -> Tensor:
        """g ⊙ β, summed over the positions that share one constant: (N, *β) — the summand ∇_b F ⊙ b of Eq. 14.

        A β of −∞ where g = 0 has no share: it is padding that no maximum chose.
        """
        shape = self.value.shape if self.value.dim() == grad.dim() else (1, *self.value.shape)
        shape = (1,) * (grad.dim() - len(shape)) + tuple(shape)
        grad = sum_to(grad, (grad.shape[0], *shape[1:]))
        return grad * self.value.where((grad != 0) | self.value.isfinite(), 0)

    def of_each_image(self, grad: Tensor) -> bool:
        """Whether each image has its own β, as a gate's offset is: g ⊙ β is then as large as the node's value."""
        return self.value.dim() == grad.dim() and self.value[0].numel() == grad[0].numel()

    def located(self, grad: Tensor, dims: Sequence[int]) -> Tensor:
        """g ⊙ β by position: Σ over all dimensions but the batch and `dims`, (N, *positions) in the order of `dims`."""
        others = tuple(dim for dim in range(1, grad.dim()) if dim not in dims)
        kept = self._summed(grad, others)
        if not kept.isfinite().all():  # a β of −∞ has no share where g = 0
            value = self.value.expand_as(grad).where((grad != 0) | self.value.isfinite(), 0)
            kept = Constant(self.kind, value)._summed(grad, others)
        order = sorted(dims)
        return kept.permute(0, *(1 + order.index(dim) for dim in dims))

    def _summed(self, grad: Tensor, dims: tuple[int, ...]) -> Tensor:
        """Σ g ⊙ β over `dims`."""
        if not dims:
            return grad * self.value
        shape = (1,) * (grad.dim() - self.value.dim()) + tuple(self.value.shape)
        if any(size > 1 for dim, size in enumerate(shape) if dim not in dims):
            return (grad * self.value).sum(dims)
        # β is the same at all positions, as a bias is: a matrix product, which makes no second tensor of g's size.
        weights = self.value.expand([grad.shape[dim] if dim in dims else 1 for dim in range(grad.dim())])
        rows = grad.movedim(dims, tuple(range(1, 1 + len(dims)))).flatten(1, len(dims))
        return (weights.reshape(1, -1) @ rows.reshape(*rows.shape[:2], -1)).reshape(len(grad), *rows.shape[2:])


def sum_to(value: Tensor, shape: Shape) -> Tensor:
    """Adjoint of broadcasting `shape` to `value.shape`: sum over the dimensions that were expanded."""
    return value if value.shape == shape else value.sum_to_size(shape)


def with_parameters(layer: nn.Module, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """The layer, made on the device "meta" so that no numbers are drawn, with copies of these for its parameters."""
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


class Role(Enum):
    """What an operator is for in a network; an operator that is for none of these says `OTHER`.

    It decides which sums `sites="blocks"` masks, which way to a join is the lightest, and the marker in a picture.
    """

    WEIGHTS = auto()  # mixes its input by weights
    GATE = auto()
    SUM = auto()  # adds up several values, such as the two branches of a residual block
    CONCATENATION = auto()
    MAX_POOL = auto()
    AVERAGE = auto()  # or a total
    SCALE = auto()  # or a shift: multiplies each element, adds a constant to it, or both
    OTHER = auto()


class Operator(ABC):
    """A piecewise-linear function of data inputs x_1 … x_K, each (N, *shape_k).

    `channel_axis` is the axis of one image along which a layer has its channels, in z as in x; None for what has none.
    """

    channel_axis: ClassVar[int | None] = None

    @property
    def role(self) -> Role:
        return Role.OTHER

    @property
    @abstractmethod
    def kind(self) -> str:
        """What the summary calls it: a word for people, which decides nothing."""

    @abstractmethod
    def freeze(self, *inputs: Tensor) -> Affine:
        """The affine function that this operator is on the linear region of `inputs`."""

    @abstractmethod
    def moves(self, *errors: Tensor) -> Tensor:
        """How far z can move where each input moves by no more than its error, within the region or out of it."""

    def evaluate(self, *inputs: Tensor) -> Tensor:
        """z at any inputs; autograd differentiates the affine function that the operator is there."""
        return self.freeze(*(x.detach() for x in inputs))(*inputs)

    @property
    def jumps(self) -> bool:
        """Whether z may jump where the operator changes its piece; else it is continuous."""
        return False

    def levels(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What changes its sign where the piece changes, (N, …) each, affine where the inputs are; see also `contest`.

        None for an affine operator, whose one piece is all there is.
        """
        return ()

    def contest(self, output: Shape) -> Contest | None:
        """Which elements compete for each element of z, of shape `output`, if an order among them decides the piece."""
        return None

    def deciders(
        self, inputs: tuple[Tensor, ...], output: Shape
    ) -> tuple[tuple[Operator, tuple[Tensor, ...], Shape], ...]:
        """The operators whose contests decide the piece, with their inputs and the shapes of their values: itself."""
        return ((self, inputs, output),)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        """Where z, of shape `output`, looks along the dimensions of each input; None for one that only decides."""
        raise LinregError(f"operator '{self.kind}' does not tell where its positions look")

    def layer(self) -> Callable[..., Tensor]:
        """What computes z in PyTorch: a new layer of torch.nn where there is one, else a function."""
        return self.evaluate


class Affine(Operator):
    """z = A(x_1, …, x_K) + Σ β, with A linear: an operator on one linear region.

    A subclass gives `linear` (A), `adjoint` (Aᵀ) and `sparse` (A as matrices), and lists its β in `constants`.
    `new_value`, `new_gradients` and `shared` are promises that spare copies; one that is not sure does not make them.
    """

    constants: tuple[Constant, ...] = ()

    @property
    def new_value(self) -> bool:
        """Whether z lies in memory made for it, which no input and nobody else holds: adding constants makes such."""
        return bool(self.constants)

    @property
    def new_gradients(self) -> bool:
        """Whether each result of `adjoint` lies in memory made for it, which neither g nor another of them shares."""
        return False

    @property
    def shared(self) -> bool:
        """Whether A is the same for every image: it holds no slope, index or factor that belongs to one of them.

        Where the graph fixes the number of images, a function may hold something of each: there it is not asked.
        """
        return False

    @abstractmethod
    def linear(self, *inputs: Tensor) -> Tensor:
        """A(x_1, …, x_K): the operator without its constants."""

    @abstractmethod
    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        """Aᵀ g: one tensor for each data input."""

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        """The matrices (A_1, …, A_K) of A for one image: flattened output × flattened input, both in C order."""
        raise LinregError(f"operator '{self.kind}' gives no explicit matrix: use `operator`, which needs none")

    def degrees(self) -> tuple[tuple[int, int], ...]:
        """For each of these matrices, at most how many nonzeros a row and a column have; builds nothing large."""
        return tuple(degrees_of(matrix) for matrix in self.sparse())

    def shares(self, grad: Tensor) -> list[tuple[Constant, Tensor]]:
        """Each β with its share of the score, where `grad` is the score's gradient at z."""
        return [(constant, constant.share(grad)) for constant in self.constants]

    def behind(self, grad: Tensor) -> tuple[Affine, Tensor]:
        """The operator itself, without what multiplies its output, and the gradient that arrives at it through that."""
        return self, grad

    def elements(self, place: int, grad: Tensor) -> Tensor:
        """g ⊙ β of the constant at `place` for each element of g = `grad`, whatever is done with the constants.

        Its share is linear in g, so the derivative of its sum by g is β (a masked operator's: σ ⊙ β).
        """
        beta: Tensor = torch.func.grad(lambda g: self.shares(g)[place][1].sum())(grad)
        return grad * beta

    def rounding(self, *inputs: Tensor) -> Rounding:
        """How A rounds at such inputs, (N, *shape) each: by its matrices, with two roundings to spare.

        An operator that has no matrices has an infinite bound: true, and of no use.
        """
        try:
            images = [self.sparse(n) for n in range(len(inputs[0]))]
        except LinregError:
            return Rounding(self.linear, inf, inf)
        degrees = [[degrees_of(matrix) for matrix in matrices] for matrices in images]
        forward = max(sum(row for row, _ in each) for each in degrees)
        backward = max(column for each in degrees for _, column in each)
        return Rounding(partial(self._absolute, images), forward + 2, backward + 2)

    def moves(self, *errors: Tensor) -> Tensor:
        return self.rounding(*errors).absolute(*errors)

    def _absolute(self, images: list[tuple[csr_array, ...]], *inputs: Tensor) -> Tensor:
        flat = [x.double().reshape(len(x), -1).numpy(force=True) for x in inputs]  # numpy has no bfloat16
        rows = [sum(abs(A) @ x[n] for A, x in zip(matrices, flat, strict=True)) for n, matrices in enumerate(images)]
        return torch.from_numpy(np.stack(rows)).to(inputs[0]).view(self.linear(*inputs).shape)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """A(x_1, …, x_K) + Σ β."""
        value = self.linear(*inputs)
        for constant in self.constants:
            value = value + constant.value
        return value

    def freeze(self, *inputs: Tensor) -> Affine:
        return self


@dataclass(frozen=True, eq=False)
class Diagonal(Affine):
    """z = s ⊙ x + t: a gate on its region (Eq. 3), s and t shaped like x; `switch` says that s is 0 or 1 everywhere.

    A switch chooses and does not multiply: a closed gate gives 0 even where what arrives overflowed (0 · inf is NaN).
    Its slopes may be of any dtype; those of frozen gates take a byte each.
    """

    slope: Tensor
    offset: Tensor | None = None
    switch: bool = False
    kind = "gate"
    role = Role.GATE
    new_value = new_gradients = True

    @property
    def constants(self) -> tuple[Constant, ...]:  # type: ignore[override]
        return () if self.offset is None else (Constant("offset", self.offset),)

    def linear(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        # x where s > 0, else 0: the kernel of ReLU's backward, and on a CPU many times as fast as `where`.
        return torch.ops.aten.threshold_backward(x, self.slope.to(x.dtype), 0) if self.switch else x * self.slope

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return (self.linear(grad),)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        return (diagonal(self.slope[image]),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        roundings = 0 if self.switch else 1
        return Rounding(replace(self, slope=self.slope.abs()).linear, roundings, roundings)


@dataclass(frozen=True, eq=False)
class LinearFunction(Affine):
    """z = f(x_1, …, x_K) + Σ β for any f that is linear; its adjoint is the vector-Jacobian product of f itself.

    Abstract: a subclass says what kind of function f is, and so what its matrices are.

    `shapes` are those of the inputs without the batch: a linear f has the same Jacobian everywhere, so zeros will do.
    """

    shared = True

    function: Callable[..., Tensor]
    shapes: tuple[Shape, ...]
    constants: tuple[Constant, ...] = ()
    kind: str = "linear map"

    def linear(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)

    @property
    def new_value(self) -> bool:
        """What is made of several values is a view of none."""
        return len(self.shapes) > 1 or super().new_value

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        zeros = [grad.new_zeros(()).expand(grad.shape[0], *shape) for shape in self.shapes]
        pull: Callable[[Tensor], tuple[Tensor, ...]] = torch.func.vjp(self.function, *zeros)[1]
        return pull(grad)

    @abstractmethod
    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        """The matrices of f."""
