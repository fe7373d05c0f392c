"""Lines of a forward that are refused, each with its node and words of the way out, and a model that has the line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from nets import seeded
from torch import Tensor, nn


class Case(NamedTuple):
    """A line of a forward, the node that is refused ("" where torch.export fails), and words of the way out."""

    line: str
    node: str
    way_out: str
    shape: tuple[int, ...] = (4,)
    layer: Callable[[], nn.Module] = nn.Identity
    module: str = "block"


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.sin(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


@torch.library.custom_op("linreg_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return 2 * x


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("linreg_tests::thrice", mutates_args=())
def thrice(x: Tensor) -> Tensor:
    return 3 * x


UNIT = "use a piecewise-linear unit instead"
UP_TO = "explain the network up to its input instead"
NORM = "use batch norm with running statistics instead"
SPREAD = "use means, sums or maxima instead"
FIXED = "keep all but one of them fixed (.detach() does not"
LOOP = "write the recurrence as a loop over nn.Linear"
RAMP = "use a ramp instead"
KEEP = "keep all elements, and set those not wanted to 0"
DTYPE = "keep one dtype throughout, torch.float64"
APART = "reshape to (N, …), and reduce over the other dimensions only"
OTHERS = "dimensions other than 0"
ONCE = "draw them once into a buffer"
PATH = "write the choice with operators (torch.where, clamp, maximum), drop an assert, or trace the part that has none"
OUTSIDE = "fix the categorical part: embed it outside"
COSINES = "fixed matrices of cosines and sines"
REAL_TORCH = "its forward must be written with operators of torch alone, without numpy"
ADD_RULE = "add a rule"

PLANE, STEPS = (3, 4, 4), (2, 4)


def layer(kind: Callable[..., nn.Module], *arguments: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: kind(*arguments, **options)


CASES = {
    # smooth units
    "sigmoid": Case("x = torch.sigmoid(x)", "block.sigmoid", UNIT),
    "tanh": Case("x = x.tanh()", "block.tanh", UNIT),
    "gelu": Case("x = F.gelu(x)", "block.gelu", UNIT),
    "silu, a layer": Case("x = self.layer(x)", "block.layer", UNIT, layer=nn.SiLU, module="block.layer"),
    "softplus": Case("x = F.softplus(x)", "block.softplus", UNIT),
    "elu": Case("x = F.elu(x)", "block.elu", UNIT),
    "mish": Case("x = F.mish(x)", "block.mish", UNIT),
    "hardswish": Case("x = F.hardswish(x)", "block.hardswish", UNIT),
    "exponential": Case("x = x.exp()", "block.exp", UNIT),
    "logarithm": Case("x = (1 + x.abs()).log()", "block.log", UNIT),
    "square root": Case("x = x.abs().sqrt()", "block.sqrt", UNIT),
    "sine": Case("x = torch.sin(x)", "block.sin", UNIT),
    "log-sum-exp": Case("x = x.logsumexp(1, keepdim=True)", "block.logsumexp", UNIT),
    "square": Case("x = x**2", "block.pow", UNIT),
    "reciprocal": Case("x = 1 / x", "block.reciprocal", UNIT),
    "autograd function": Case("x = Sine.apply(x)", "block.sin", UNIT),
    "sigmoid gate": Case("x = x * x.mean((2, 3), keepdim=True).sigmoid()", "block.sigmoid", UNIT, PLANE),
    # normalisation by data
    "softmax": Case("x = x.softmax(1)", "block.softmax", UP_TO),
    "log-softmax": Case("x = F.log_softmax(x, 1)", "block.log_softmax", UP_TO),
    "cosine similarity": Case("x = F.cosine_similarity(x, x.flip(1), 1)", "block.cosine_similarity", UP_TO),
    "fused attention": Case(
        "x = F.scaled_dot_product_attention(x, x, x)", "block.scaled_dot_product_attention", UP_TO, STEPS
    ),
    "attention": Case(
        "x = self.layer(x, x, x)[0]", "block.layer.softmax", UP_TO, STEPS,
        layer(nn.MultiheadAttention, 4, 2, batch_first=True), "block.layer",
    ),
    "attention without weights": Case(
        "x = self.layer(x, x, x, need_weights=False)[0]", "block.layer.scaled_dot_product_attention", UP_TO, STEPS,
        layer(nn.MultiheadAttention, 4, 2, batch_first=True), "block.layer",
    ),
    "transformer layer": Case(
        "x = self.layer(x)", "block.layer.self_attn.scaled_dot_product_attention", UP_TO, STEPS,
        layer(nn.TransformerEncoderLayer, 4, 2, 8, batch_first=True), "block.layer.self_attn",
    ),
    "transformer layer, norm first": Case(
        "x = self.layer(x)", "block.layer.norm1", NORM, STEPS,
        layer(nn.TransformerEncoderLayer, 4, 2, 8, batch_first=True, norm_first=True), "block.layer.norm1",
    ),
    "layer norm": Case("x = self.layer(x)", "block.layer", NORM, layer=layer(nn.LayerNorm, 4), module="block.layer"),
    "group norm": Case("x = self.layer(x)", "block.layer", NORM, PLANE, layer(nn.GroupNorm, 1, 3), "block.layer"),
    "root mean square norm": Case("x = F.rms_norm(x, (4,))", "block.rms_norm", NORM),
    "instance norm": Case(
        "x = self.layer(x)", "block.layer", "train it with track_running_stats=True", PLANE,
        layer(nn.InstanceNorm2d, 3), "block.layer",
    ),
    "batch norm without statistics": Case(
        "x = self.layer(x)", "block.layer", "train it with track_running_stats=True", PLANE,
        layer(nn.BatchNorm2d, 3, track_running_stats=False), "block.layer",
    ),
    "functional batch norm": Case(
        "x = F.batch_norm(x, None, None, training=True)", "block._native_batch_norm_legit",
        "train it with track_running_stats=True", PLANE,
    ),
    "local response norm": Case("x = F.local_response_norm(x, 2)", "block.mul", FIXED, PLANE),
    "norm": Case("x = x / x.norm(dim=1, keepdim=True)", "block.linalg_vector_norm", SPREAD),
    "deviation": Case("x = x.std(1, keepdim=True)", "block.std", SPREAD),
    # products and quotients of data
    "product": Case("x = x * x.flip(1)", "block.mul", FIXED),
    "matrix product": Case("x = x @ x.transpose(1, 2)", "block.matmul", FIXED, STEPS),
    "batch of matrix products": Case("x = torch.bmm(x[:, None], x[:, :, None])", "block.bmm", FIXED),
    "outer product": Case("x = torch.einsum('bi,bj->bij', x, x)", "block.einsum", FIXED),
    "bilinear": Case("x = self.layer(x, x)", "block.layer", FIXED, (4,), layer(nn.Bilinear, 4, 4, 3), "block.layer"),
    "gated linear unit": Case("x = F.glu(x, 1)", "block.glu", FIXED),
    "product of elements": Case("x = x.prod(1, keepdim=True)", "block.prod", FIXED),
    "quotient": Case("x = x / (1 + x.abs().sum(1, keepdim=True))", "block.div", "divide by a fixed value"),
    "long short-term memory": Case(
        "x = self.layer(x)[0]", "block.layer", LOOP, STEPS, layer(nn.LSTM, 4, 3, batch_first=True), "block.layer"
    ),
    "gated recurrence": Case(
        "x = self.layer(x)[0]", "block.layer", LOOP, STEPS, layer(nn.GRU, 4, 3, batch_first=True), "block.layer"
    ),
    "recurrence": Case(
        "x = self.layer(x)[0]", "block.layer", LOOP, STEPS, layer(nn.RNN, 4, 3, batch_first=True), "block.layer"
    ),
    "bounds from data": Case("x = x.clamp(max=x.mean(1, keepdim=True))", "block.clamp", "keep them fixed"),
    # steps, and choices by value
    "rounding": Case("x = x.round()", "block.round", RAMP),
    "floor": Case("x = torch.floor(x)", "block.floor", RAMP),
    "remainder": Case("x = x % 2", "block.remainder", RAMP),
    "rounding division": Case("x = torch.div(x, 2, rounding_mode='floor')", "block.div", RAMP),
    "largest index": Case("x = x.argmax(1).double()", "block.argmax", "choose fixed ones"),
    "embedding": Case("x = F.embedding(x.long().clamp(0, 3), torch.eye(4).double())", "block._to_copy", OUTSIDE),
    "elements that are not zero": Case("x = x.nonzero().double()", "block.nonzero", KEEP),
    "different elements": Case("x = x.unique()", "block._unique2", KEEP),
    # random numbers
    "dropout": Case("x = F.dropout(x, 0.5, training=True)", "block.native_dropout", "training=self.training"),
    "leaky relu of random slope": Case("x = F.rrelu(x, training=True)", "block.rrelu", "must be off in eval mode"),
    "noise": Case("x = x + torch.randn(4).double()", "block.randn", ONCE),
    "noise like data": Case("x = x + torch.rand_like(x)", "block.rand_like", ONCE),
    "random choice": Case("x = x * torch.bernoulli(torch.full((4,), 0.5))", "block.bernoulli", ONCE),
    "random order": Case("x = x[:, torch.randperm(4)]", "block.randperm", ONCE),
    # other kinds of tensors
    "other dtype": Case("x = x.float() * 2", "block._to_copy", DTYPE),
    "half within": Case("x = (x.half() * 2).double()", "block._to_copy", DTYPE),
    "quantised": Case("x = torch.fake_quantize_per_tensor_affine(x.float(), 0.1, 0, -9, 9)", "block._to_copy", DTYPE),
    "reduction to another dtype": Case(
        "x = x.sum(1, keepdim=True, dtype=torch.float32)", "block.sum", "keep the data in one dtype, torch.float64"
    ),
    "spectrum": Case("x = torch.fft.rfft(x).abs()", "block.fft_rfft", COSINES),
    "complex": Case("x = torch.complex(x, x).abs()", "block.complex", COSINES),
    "sparse": Case("x = x.to_sparse().to_dense()", "block.to_sparse", "keep the data dense"),
    # the batch
    "sum over the batch": Case("x = x.sum(0)", "block.sum", APART),
    "mean of the batch": Case("x = x - x.mean(0, keepdim=True)", "block.mean", APART),
    "sum of everything": Case("x = x + x.sum()", "block.sum", APART),
    "all in one row": Case("x = x.view(-1)", "block.view", APART),
    "batch moved": Case("x = x.transpose(0, 1)", "block.transpose", APART),
    "one of the batch": Case("x = F.linear(x, x[0:1])", "block.slice", APART),
    "batch doubled": Case("x = torch.cat([x, x])", "block.cat", APART),
    "batch flipped": Case("x = x.flip(0)", "block.flip", OTHERS),
    "batch rolled": Case("x = x.roll(1, -2)", "block.roll", OTHERS),
    "batch sorted": Case("x = x.sort(0).values", "block.sort", OTHERS),
    # what no rule knows
    "unknown operator": Case("x = torch.special.bessel_j0(x)", "block.special_bessel_j0", ADD_RULE),
    "operator of somebody else's": Case("x = twice(x)", "block.linreg_tests.twice", ADD_RULE),
    "operator without a shape": Case("x = thrice(x)", "", "register_fake"),
    # choices of Python
    "if": Case("x = x if x.sum() > 0 else -x", "", PATH),
    "while": Case("while x.sum() > 0: x = x - 1", "", PATH),
    "assert": Case("assert x.min() > -100", "", PATH),
    "range": Case("for _ in range(int(x.abs().max())): x = x + 1", "", PATH),
    "float": Case("x = x * float(x.max())", "", PATH),
    "slice to a value": Case("x = x[:, : int(x.abs().sum()) + 1]", "", PATH),
    "item": Case("x = x * x.max().item()", "block.item", PATH),
    "list": Case("x = torch.tensor(x.tolist())", "block.item", PATH),
    "cond": Case("x = torch.cond(x.sum() > 0, lambda z: 2 * z, lambda z: -z, (x,))", "block.cond", PATH),
    "numpy": Case("x = torch.from_numpy(x.numpy() * 2)", "", REAL_TORCH),
    "function of numpy": Case("x = torch.as_tensor(np.tanh(x))", "", REAL_TORCH),
}  # fmt: skip

SOURCE = """
class Block(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        {line}
        return x


class Model(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.block = Block(layer)

    def forward(self, x):
        return self.block(2 * x)
"""
LINE = 1 + SOURCE.partition("{line}")[0].count("\n")


def model_of(case: Case, file: Path) -> nn.Module:
    """A model whose block's forward has the line, in a file of its own."""
    source = SOURCE.format(line=case.line)
    file.write_text(source)
    names: dict[str, Any] = {
        "__name__": "user", "F": F, "np": np, "nn": nn, "torch": torch, "Sine": Sine, "twice": twice, "thrice": thrice,
    }  # fmt: skip
    exec(compile(source, str(file), "exec"), names)
    return seeded(lambda: names["Model"](case.layer()))
