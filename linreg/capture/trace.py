"""`trace`: what is asked of a model and an example, before the network is captured."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from linreg.approximation import Approximation, apart
from linreg.capture.attempts import Attempts
from linreg.capture.export import run
from linreg.capture.outputs import pick
from linreg.capture.private import plain_model, private
from linreg.errors import LinregError
from linreg.graph import OperatorGraph, plain

PIECES = 32  # of each interpolant, unless said otherwise

WRAPPERS: dict[type, str] = {
    torch.jit.ScriptModule: (
        "its forward is compiled: trace the module that it was made from, with load_state_dict(scripted.state_dict())"
    ),
    nn.DataParallel: "trace its own .module",
}


QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")


def trace(
    model: nn.Module,
    example: Tensor,
    *,
    fuse: bool = True,
    output: str | int | None = None,
    nonlinear: str | None = None,
    pieces: int = PIECES,
) -> OperatorGraph:
    """Capture `model` as a graph of piecewise-linear operators.

    `example` is a batch (N, …) of valid inputs; the graph takes any number of such inputs, of the same dtype and on the
    same device (a model whose forward holds their number as a constant, as with len(x), only that many:
    `graph.batch`). `fuse` folds batch norm into the convolution or linear layer before it. `output` chooses one where
    the model returns several: a key of its dict or a place in its tuple, "aux.1" for one within another.

    Smooth units are refused, unless `nonlinear` is "pwl": then each of those in `linreg.operators.smooth.UNITS` is
    replaced by an interpolant of so many `pieces` (an error without `nonlinear`). All else is exact for the network
    with these, and `graph.approximation` tells their maximal errors and how far they take its output from the model's.

    The model is left as it was: it is captured in eval mode, and its parameters are copied, so later changes of
    the model do not reach the graph. Its forward runs a few times, hooks included, on copies of its input and buffers,
    and on batches of other sizes. Of a custom torch.autograd.Function the forward is captured, as its operators; its
    own backward is not used. Raises LinregError, naming the node, its module and the source line, where the model is
    not piecewise linear, and where the graph does not reproduce its output on the example.

    >>> import torch, linreg
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> print(linreg.trace(model, torch.ones(1, 2)).summary())
    node  operator  shape  inputs
    ────  ────────  ─────  ──────
    0     linear    3      input
    1     relu      3      0
    2     linear    1      1
    """
    example = plain(example)
    model = plain_model(model)
    check(model, example)
    check_pieces(nonlinear, pieces)
    with private(model) as own:
        example = example.detach().clone()
        return Attempts(own, example, output, pieces if nonlinear else None, fuse).graph()


def measure(graph: OperatorGraph, model: nn.Module, x: Tensor, *, output: str | int | None = None) -> Approximation:
    """How far a graph is from the model that it was traced from, at x (N, *input_shape); see `Approximation`.

    The model is run in eval mode, as in `trace`, and left as it was; `output` must be that of `trace`. Raises
    LinregError where x does not fit the graph, where the model fails on x or has no such output, and where its output
    has another shape than the graph's.

    >>> import torch, linreg
    >>> model, x = torch.nn.Tanh(), torch.tensor([[-1.0, 0.5]])
    >>> graph = linreg.trace(model, x, nonlinear="pwl", pieces=16)
    >>> print(linreg.measure(graph, model, x).summary())
    node  unit  pieces  max error
    ────  ────  ──────  ─────────
    tanh  tanh      16   7.06e-03
    image 0: the output is 0.00594 off at most, 7.8e-03 of its scale 0.7616
    """
    x = plain(x)
    graph.check(x)
    with private(plain_model(model)) as own:
        return apart(graph.approximation.interpolants, graph(x), pick(run(own, x), output)[0])


def check_pieces(nonlinear: str | None, pieces: int) -> None:
    """Raise LinregError unless these say how to take smooth units, or not at all."""
    if nonlinear not in (None, "pwl"):
        raise LinregError(f'nonlinear must be None, to refuse smooth units, or "pwl", not {nonlinear!r}')
    if not isinstance(pieces, int) or isinstance(pieces, bool) or pieces < 3:
        raise LinregError(f"pieces must be a whole number, at least 3 (two asymptotes and a chord), not {pieces!r}")
    if nonlinear is None and pieces != PIECES:
        raise LinregError(f'pieces={pieces} is for smooth units, which are refused unless nonlinear="pwl": give both')


def check(model: nn.Module, example: Tensor) -> None:
    """Raise LinregError unless the model takes one tensor, and both are of one dtype, on one device, and finite."""
    _check_module(model)
    _check_forward(model, example)
    _check_example(example)
    _check_weights(model, example)
    if example.is_meta:
        raise LinregError("the example is on the device meta, which holds no values: give one with values")
    if example.shape[0] == 0 or not example.isfinite().all():
        raise LinregError("the example must hold at least one input, and finite numbers only")


def _check_module(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        advice = ": give program.module()" if isinstance(model, ExportedProgram) else ""
        raise LinregError(f"trace needs a torch.nn.Module, not {type(model).__name__}{advice}")
    for path, module in model.named_modules():
        if type(module).__module__.startswith(QUANTIZED):
            why = f"module '{path}' is quantized, and computes with integers: trace the model that it was made from"
            raise LinregError(why)
        for wrapper, advice in WRAPPERS.items():
            if isinstance(module, wrapper):
                named = f"module '{path}'" if path else "the model"
                raise LinregError(f"{named} is a {wrapper.__module__}.{wrapper.__qualname__}: {advice}")


def _check_forward(model: nn.Module, example: Tensor) -> None:
    try:
        inspect.signature(model.forward).bind(example)
    except (TypeError, ValueError) as error:  # ValueError: a builtin shows no signature
        advice = "wrap it in a module whose forward takes the tensor to explain, and holds all else"
        raise LinregError(f"the model's forward must take one tensor ({error}): {advice}") from error


def _check_example(example: Tensor) -> None:
    if isinstance(example, Tensor) and example.dim() > 1 and example.is_floating_point():
        return
    came = f"{tuple(example.shape)} of {example.dtype}" if isinstance(example, Tensor) else type(example).__name__
    tokens = isinstance(example, Tensor) and not example.is_floating_point()
    raise LinregError(
        f"the example must be a floating-point tensor with a batch dimension first, (N, …), not {came}"
        + "; for tokens, trace what follows the embedding" * tokens
    )


def _check_weights(model: nn.Module, example: Tensor) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise LinregError(f"the model's '{name}' is not initialised yet: run the model once, model(example)")
        if tensor.layout is not torch.strided:
            raise LinregError(f"the model's '{name}' is stored as a sparse tensor: keep it dense, with .to_dense()")
        if not tensor.is_floating_point():
            continue
        if tensor.dtype != example.dtype or tensor.device != example.device:
            empty = "; on meta there are no values: load them with load_state_dict(…, assign=True)" * tensor.is_meta
            raise LinregError(
                f"the example is {example.dtype} on {example.device}, but the model's '{name}' is {tensor.dtype} on "
                f"{tensor.device}: bring both to one dtype and device with .to(…){empty}"
            )
        if tensor.is_meta:
            raise LinregError(
                f"the model's '{name}' is on the device meta, which holds no values: load them with "
                "load_state_dict(…, assign=True), and give an example with values"
            )
        if not tensor.isfinite().all():
            raise LinregError(f"the model's '{name}' holds NaN or infinite values: it has no linear region to look at")
