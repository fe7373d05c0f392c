"""A program that was exported at one image, translated so that the graph applies it to each image of a batch.

Where a model merges frames, views or tokens with the batch, puts something else before it, or takes one image only, no
dimension of its values is the batch. At one image there is none to be told from the others: a value of the program, of
shape (T, C, H, W) say, is one image's, and the graph's is (N, T, C, H, W). Each call is brought to that form:

- a layer that expects images takes the parts along the first dimension for them, as it does in the program (`Each`);
- an elementwise call broadcasts as it is, once its data have as many dimensions as its result;
- sums, maxima and products count dimensions without a batch (`Call.lifted`), and so does all that only moves values,
  which is vectorized over the images.

A value with a 1 in front is held without that, and nothing of all this is needed while all data are such.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from linreg.capture.agreement import TOLERANCE
from linreg.capture.example import Arguments
from linreg.capture.program import Program
from linreg.capture.refuse import Refused
from linreg.capture.translate import Translator
from linreg.errors import LinregError
from linreg.operators.base import LinearFunction, Shape
from linreg.operators.each import for_each
from linreg.operators.given import is_conditional
from linreg.operators.smooth import UNITS
from linreg.operators.steps import ELEMENTWISE as CHOOSING
from linreg.operators.steps import Step, data_of, steps_of
from linreg.operators.structure import Reshape
from linreg.operators.table import Built, Call, Data, Rule

# Calls that take images, and how many dimensions one of these has.
SIDES = {"1d": 2, "2d": 3, "3d": 4}
WINDOWS = ("conv", "conv_transpose", "max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")
LAYERS: dict[str, int | None] = {
    **{f"{name}{sides}": dims for name in WINDOWS for sides, dims in SIDES.items()},
    **{f"max_pool{sides}_with_indices": dims for sides, dims in SIDES.items()},
    "_adaptive_avg_pool2d": 3,
    **dict.fromkeys(("batch_norm", "native_batch_norm", "cudnn_batch_norm", "instance_norm", "prelu"), None),
    **dict.fromkeys(("_native_batch_norm_legit_no_training", "_prelu_kernel", "convolution", "grid_sampler"), None),
    **{f"upsample_{kind}": None for kind in ("nearest1d", "nearest2d", "nearest3d", "bicubic2d", "linear1d")},
    **{f"_upsample_nearest_exact{sides}": None for sides in SIDES},
    **dict.fromkeys(("upsample_bilinear2d", "upsample_trilinear3d"), None),
    **dict.fromkeys(("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"), None),
}
BROADCASTING = {
    *(CHOOSING - {"max_unpool2d", "max_unpool3d", "index_put"}), *UNITS,
    "relu", "leaky_relu", "abs", "relu6", "hardtanh", "clamp", "clip", "clamp_min", "clamp_max",
    "threshold", "hardsigmoid", "rrelu", "subtract", "negative", "multiply", "div", "divide", "true_divide", "lerp",
    "addcmul", "addcdiv", "maximum", "fmax", "max", "minimum", "fmin", "min", "linear", "nan_to_num",
}  # fmt: skip
REDUCING = {
    "mean", "sum", "amax", "amin", "aminmax", "topk", "sort", "kthvalue", "median", "cumsum", "diff", "mv", "mm", "bmm",
    "matmul", "addmm", "addmv", "baddbmm", "einsum", "tensordot", "inner", "linalg_vecdot",
    "scatter_reduce", "index_reduce",
}  # fmt: skip


class OneImage(Translator):
    """The pass over a program of one image; see above."""

    def __init__(self, program: Program, arguments: Arguments) -> None:
        super().__init__(program, arguments)
        self.sizes = replace(self.sizes, batch=None)

    def _shaped(self, call: fx.Node, rule: Rule, operands: Call) -> tuple[Rule, Call, bool]:
        self._check_value(call, operands)
        shape = self._program_shape(call.meta["val"])
        name, plain = operands.name, shape[:1] == (1,) and not any(data.whole for data in operands.data)
        broadcasts = name in BROADCASTING and not self._reduces(operands)
        if plain and (broadcasts or name in LAYERS or self._keeps_first(rule, operands, shape)):
            return rule, replace(operands, shape=shape[1:]), False
        if name in LAYERS:
            operands = self._whole(call, replace(operands, shape=shape))
            if self._is_one(operands):
                return rule, operands, True
            if is_conditional(operands):
                raise Refused(
                    "a fixed input is part of this layer, which acts on parts of an image: let the model hold that "
                    "input as a buffer, and do not give it",
                    operands,
                )
            return for_each(rule), operands, True
        if steps_of(operands) and not (broadcasts and self._fit(operands, len(shape))):
            raise Refused("it arranges a choice by data anew, and the model was captured at one image", operands)
        if broadcasts:
            return rule, self._aligned(call, replace(operands, shape=shape)), True
        if name in REDUCING or self._reduces(operands):
            return rule, self._whole(call, replace(operands, shape=shape, lifted=True)), True
        first = shape[:1] == (1,)
        return rule, replace(operands, shape=shape[1:] if first else shape, lifted=True), not first

    def _built(self, rule: Rule, operands: Call) -> Built:
        built, inputs = super()._built(rule, operands)
        if operands.lifted and isinstance(built, LinearFunction):
            self._check_transpose(built)
        return built, inputs

    def _check_transpose(self, built: LinearFunction) -> None:
        """⟨A x, y⟩ = ⟨x, Aᵀ y⟩: what PyTorch makes of a vectorized function has been wrong before."""
        generator = torch.Generator().manual_seed(0)

        def drawn(shape: Shape) -> Tensor:
            return torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(self.example)

        x = [drawn(shape) for shape in built.shapes]
        z = built.linear(*x)
        y = drawn(tuple(z.shape[1:]))
        products = [(z * y).flatten(), *((a * b).flatten() for a, b in zip(x, built.adjoint(y), strict=True))]
        left, *right = products
        size = sum(product.abs().sum() for product in products)
        if (left.sum() - sum(product.sum() for product in right)).abs() > TOLERANCE[z.dtype] * size:
            raise Refused("its adjoint is not its transpose: please report this network")

    def _step_shape(self, value: Tensor, operands: Call) -> Shape:
        """Elementwise, of data and steps of as many dimensions; or what a layer says of the places of its maxima."""
        shape = self._program_shape(value)
        whole = any(data.whole for data in data_of(operands))
        shape = shape if whole else shape[1:]
        parts: list[Data | Step] = [*operands.data, *steps_of(operands)]
        ranks = {len(part.shape) for part in parts}
        elementwise = operands.name in CHOOSING and (not whole or ranks == {len(shape)})
        if elementwise or (not whole and operands.name in LAYERS):
            return shape
        raise Refused("it arranges comparisons of data anew, and the model was captured at one image", operands)

    def _fit(self, operands: Call, rank: int) -> bool:
        """Whether its steps have as many dimensions as its result."""
        steps = steps_of(operands)
        return all(len(step.shape) == rank and any(data.whole for data in step.data) for step in steps)

    def _reduces(self, operands: Call) -> bool:
        """Whether `max` or `min` is that of one value along a dimension."""
        return operands.name in ("max", "min") and operands["other"] is None

    def _keeps_first(self, rule: Rule, operands: Call, shape: Shape) -> bool:
        """Whether the rule takes the first dimension, of size 1, for that of the images."""
        if operands.name not in (*REDUCING, "index_put") and not self._reduces(operands):
            return False
        known = self.held.bound(operands) if is_conditional(operands) else operands
        try:
            rule(replace(known, shape=shape[1:]))
        except LinregError:
            return False
        return True

    def _is_one(self, operands: Call) -> bool:
        """Whether a layer is called on one image alone, as torch.nn allows, and not on several."""
        return len(operands.data[0].shape) == LAYERS[operands.name]

    def _whole(self, call: fx.Node, operands: Call) -> Call:
        """The call with data in all of the program's own shape."""
        return self._with_data(call, operands, lambda data: _program(data))

    def _aligned(self, call: fx.Node, operands: Call) -> Call:
        """The call with data of as many dimensions as its result."""
        rank = len(operands.shape)

        def shape(data: Data) -> Shape:
            own = _program(data)
            return (1,) * (rank - len(own)) + own

        return self._with_data(call, operands, shape)

    def _with_data(self, call: fx.Node, operands: Call, shape: Any) -> Call:
        def changed(argument: Any) -> Any:
            if isinstance(argument, Data):
                return self._reshaped(call, argument, shape(argument))
            return [changed(item) for item in argument] if isinstance(argument, list) else argument

        return replace(operands, arguments={name: changed(each) for name, each in operands.arguments.items()})

    def _reshaped(self, call: fx.Node, data: Data, shape: Shape) -> Data:
        """The data in another shape, by a node of its own if need be."""
        if data.shape == shape:
            return replace(data, whole=True)
        name = f"{data.name}.as_{'×'.join(map(str, shape))}"
        if name not in self.nodes:
            self._add(name, call, Reshape(data.shape, shape), (data,), Data(name, shape))
        return Data(name, shape, whole=True)

    def _program_shape(self, value: Tensor) -> Shape:
        """The shape that a value has in the program."""
        sizes = tuple(self.sizes.number(size) for size in value.shape)
        if not all(isinstance(size, int) for size in sizes):
            raise Refused("the size of its result depends on the values of its data")
        return sizes

    def _zeros(self, data: Data) -> Tensor:
        return self.example.new_zeros(_program(data))

    def _final(self, call: fx.Node, result: Data) -> Data:
        """Without a 1 in front."""
        if result.whole and result.shape[:1] == (1,):
            return self._reshaped(call, result, result.shape[1:])
        return result


def _program(data: Data) -> Shape:
    """The shape that data have in the program."""
    return data.shape if data.whole else (1, *data.shape)
