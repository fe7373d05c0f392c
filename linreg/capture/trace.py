"""`trace`: what is asked of a model and an example, before the network is captured."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from linreg.approximation import Approximation, apart
from linreg.capture.attempts import Attempts
from linreg.capture.ending import ended
from linreg.capture.example import Arguments, Fixed, arguments
from linreg.capture.export import run
from linreg.capture.outputs import pick
from linreg.capture.private import plain_model, private
from linreg.errors import LinregError
from linreg.graph import OperatorGraph
from linreg.inputs import Given, check_fixed
from linreg.numerals import whole_number
from linreg.surroundings import plain

PIECES = 32  # of each interpolant, unless said otherwise

WRAPPERS: dict[type, str] = {
    torch.jit.ScriptModule: (
        "its forward is compiled: trace the module that it was made from, with load_state_dict(scripted.state_dict())"
    ),
    nn.DataParallel: "trace its own .module",
}


QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")


@plain()
def trace(
    model: nn.Module,
    example: Given,
    *,
    fixed: Fixed = None,
    fuse: bool = True,
    output: str | int | None = None,
    nonlinear: str | None = None,
    pieces: int = PIECES,
) -> OperatorGraph:
    """Capture `model` as a graph of piecewise-linear operators.

    `example` is a batch (N, …) of valid inputs; the graph takes any number of such inputs, of the same dtype and on the
    same device (a model whose forward holds their number as a constant, as with len(x), only that many:
    `graph.batch`). `fuse` folds batch norm into the convolution or linear layer before it. `output` chooses one where
    the model returns several: a key of its dict or a place in its tuple, "aux.1" for one within another; or a module of
    the model ("head@1" for its second call), where the graph then ends, of merged frames with (N, parts, …); or a node
    that no module owns, as `graph.summary()` prints it: "add@3".

    Several inputs are a tuple in order, a dict by the names of forward's arguments, or both, (x, {"mask": m}). What
    `fixed` names, or counts from 0, is held fixed: masks, lengths, class indices, conditions, of any dtype, each
    image's own where their dimension 0 is the batch. What they give alone stands in the ledger. See `linreg.inputs`.

    Smooth units are refused, unless `nonlinear` is "pwl": then each of those in `linreg.operators.smooth.UNITS` is
    replaced by an interpolant of so many `pieces` (an error without `nonlinear`). All else is exact for the network
    with these, and `graph.approximation` tells their maximal errors and how far they take its output from the model's.

    The model is left as it was: it is captured in eval mode, and its parameters are copied. Its forward runs a few
    times, hooks included, on copies of its input and buffers, and on batches of other sizes. The backward of a custom
    autograd.Function is not used. Raises LinregError, naming node, module and source line, where the model is not
    piecewise linear, and where the graph does not reproduce its output on the example.

    >>> import torch, linreg
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> print(linreg.trace(model, torch.ones(1, 2)).summary())
    node  operator  shape  inputs
    ────  ────────  ─────  ──────
    0     linear    3      input
    1     relu      3      0
    2     linear    1      1

    Two inputs, and a condition that is held fixed:

    >>> class Both(torch.nn.Module):
    ...     def forward(self, left, right, weights):
    ...         return (torch.relu(left - right) * weights).sum(1, keepdim=True)
    >>> left, right, weights = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 2.0]]), torch.tensor([[0, 4]])
    >>> graph = linreg.trace(Both(), (left, right, weights), fixed="weights")
    >>> lin = graph.linearize((left, right, weights))
    >>> lin.output, lin.weight()
    (tensor([[12.]]), {'left': tensor([[0., 4.]]), 'right': tensor([[ 0., -4.]])})
    """
    model = plain_model(model)
    given = check(model, example, fixed)
    check_pieces(nonlinear, pieces)
    with private(model) as own:
        given = given.mapped(lambda value: value.detach().clone())
        with ended(own, lambda: run(own, given), output) as part:
            attempts = Attempts(own, given, part, pieces if nonlinear else None, fuse, within=part != output)
            return attempts.graph_up_to(output) if isinstance(output, str) and part == output else attempts.graph()


@plain()
def measure(graph: OperatorGraph, model: nn.Module, x: Given, *, output: str | int | None = None) -> Approximation:
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
    value = graph(x)
    model = plain_model(model)
    given = arguments(model, x, tuple(entry.name for entry in graph.inputs.fixed) or None)
    with private(model) as own, ended(own, lambda: run(own, given), output) as chosen:
        return apart(graph.approximation.interpolants, value, pick(run(own, given), chosen)[0])


def check_pieces(nonlinear: str | None, pieces: int) -> None:
    """Raise LinregError unless these say how to take smooth units, or not at all."""
    if nonlinear not in (None, "pwl"):
        raise LinregError(f'nonlinear must be None, to refuse smooth units, or "pwl", not {nonlinear!r}')
    count = whole_number(pieces)
    if count is None or count < 3:
        raise LinregError(f"pieces must be a whole number, at least 3 (two asymptotes and a chord), not {pieces!r}")
    if nonlinear is None and pieces != PIECES:
        raise LinregError(f'pieces={pieces} is for smooth units, which are refused unless nonlinear="pwl": give both')


def check(model: nn.Module, example: Given, fixed: Fixed = None) -> Arguments:
    """The example as the model's arguments.

    Raises LinregError unless the model takes it, its data and the model's weights are of one dtype, all is on one
    device, and finite.
    """
    _check_module(model)
    given = arguments(model, example, fixed)
    for name, value in given.data.items():
        _check_example(value, "" if given.alone else name)
        _check_weights(model, value)
        if value.is_meta:
            raise LinregError("the example is on the device meta, which holds no values: give one with values")
        if value.shape[0] == 0 or not value.isfinite().all():
            raise LinregError("the example must hold at least one input, and finite numbers only")
    for name, value in given.data.items():
        if (value.dtype, value.device) != (given.first.dtype, given.first.device):
            first = f"{given.first.dtype} on {given.first.device}"
            raise LinregError(
                f"all data must be of one dtype and device, {first}; '{name}' is {value.dtype} on {value.device}"
            )
    for entry in given.inputs.fixed:
        check_fixed(entry, given.held[entry.name], len(given), given.first.device)
    return given


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


def _check_example(example: Tensor, name: str = "") -> None:
    if isinstance(example, Tensor) and example.dim() > 1 and example.is_floating_point():
        return
    came = f"{tuple(example.shape)} of {example.dtype}" if isinstance(example, Tensor) else type(example).__name__
    tokens = isinstance(example, Tensor) and not example.is_floating_point()
    what, advice = "the example", "; for tokens, trace what follows the embedding" * tokens
    if name:
        what, advice = f"the input '{name}'", f"; what is not explained is held fixed, fixed={name!r}"
    raise LinregError(
        f"{what} must be a floating-point tensor with a batch dimension first, (N, …), not {came}{advice}"
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
        if not tensor.detach().isfinite().all():
            raise LinregError(f"the model's '{name}' holds NaN or infinite values: it has no linear region to look at")
