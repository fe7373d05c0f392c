"""From an unmodified model to its operator graph: export, translate, fuse, and compare with the model."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import replace
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from linreg.approximation import Approximation, apart
from linreg.capture.fuse import fuse_batch_norm
from linreg.capture.outputs import pick
from linreg.capture.place import Place, place_of_error
from linreg.capture.reference import Reference
from linreg.capture.translate import Program, translate
from linreg.errors import LinregError
from linreg.graph import INPUT, OperatorGraph
from linreg.operators.refusals import not_exported

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 2e-1}

PIECES = 32  # of each interpolant, unless said otherwise

WRAPPERS: dict[type, str] = {
    torch.jit.ScriptModule: "trace the module that it was made from",
    nn.DataParallel: "trace its own .module",
}


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
    """
    check(model, example)
    check_pieces(nonlinear, pieces)
    images = len(example)
    with evaluation(model), torch.no_grad():
        run(model, example)
        example, program, dynamic = export(model, example)
        others = other_batches(model, example) if dynamic else []
        expected, place = pick(run(model, example), output)
        captured = Program(program, place, dynamic, pieces if nonlinear else None)
        graph, origins = translate(captured, example)
    if fuse:
        graph = fuse_batch_norm(graph)
    interpolants = graph.approximation.interpolants
    exact = Reference(captured, {})
    reference = Reference(captured, {origins[name]: interpolant for name, interpolant in interpolants.items()})
    compare(graph, reference(example) if interpolants else expected, example, reference, origins)
    if interpolants and not _close(exact(example), expected):
        raise LinregError("the exported program does not reproduce the model's output: please report this network")
    for batch, result in others:
        value = pick(result, output)[0]
        if interpolants:
            compare_batch(exact, batch, value)
            value = reference(batch)
        compare_batch(graph, batch, value)
    if not interpolants:
        return graph
    return replace(graph, approximation=apart(interpolants, graph(example)[:images], expected[:images]))


def measure(graph: OperatorGraph, model: nn.Module, x: Tensor, *, output: str | int | None = None) -> Approximation:
    """How far a graph is from the model that it was traced from, at x (N, *input_shape); see `Approximation`.

    The model is run in eval mode, as in `trace`, and left as it was; `output` must be that of `trace`. Raises
    LinregError where x does not fit the graph, where the model fails on x or has no such output, and where its output
    has another shape than the graph's.
    """
    graph.check(x)
    with evaluation(model), torch.no_grad():
        return apart(graph.approximation.interpolants, graph(x), pick(run(model, x), output)[0])


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
    if not isinstance(model, nn.Module):
        raise LinregError(f"trace needs a torch.nn.Module, not {type(model).__name__}")
    for path, module in model.named_modules():
        for wrapper, advice in WRAPPERS.items():
            if isinstance(module, wrapper):
                named = f"module '{path}'" if path else "the model"
                raise LinregError(f"{named} is a {wrapper.__module__}.{wrapper.__qualname__}: {advice}")
    try:
        inspect.signature(model.forward).bind(example)
    except (TypeError, ValueError) as error:  # ValueError: a builtin shows no signature
        advice = "wrap it in a module whose forward takes the tensor to explain, and holds all else"
        raise LinregError(f"the model's forward must take one tensor ({error}): {advice}") from error
    if not isinstance(example, Tensor) or example.dim() < 2 or not example.is_floating_point():
        came = f"{tuple(example.shape)} of {example.dtype}" if isinstance(example, Tensor) else type(example).__name__
        tokens = isinstance(example, Tensor) and not example.is_floating_point()
        raise LinregError(
            f"the example must be a floating-point tensor with a batch dimension first, (N, …), not {came}"
            + "; for tokens, trace what follows the embedding" * tokens
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise LinregError(f"the model's '{name}' is not initialised yet: run the model once, model(example)")
        if not tensor.is_floating_point():
            continue
        if tensor.dtype != example.dtype or tensor.device != example.device:
            raise LinregError(
                f"the example is {example.dtype} on {example.device}, but the model's '{name}' is {tensor.dtype} on "
                f"{tensor.device}: bring both to one dtype and device with .to(…)"
            )
        if not tensor.isfinite().all():
            raise LinregError(f"the model's '{name}' holds NaN or infinite values: it has no linear region to look at")
    if example.shape[0] == 0 or not example.isfinite().all():
        raise LinregError("the example must hold at least one input, and finite numbers only")


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and then each of its modules in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def run(model: nn.Module, example: Tensor) -> Any:
    """The model's result on a copy of the example, with copies of its buffers: it may write to either."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the model's own, which its user knows
            return torch.func.functional_call(model, buffers, (example.clone(),))
    except Exception as error:
        first = str(error).strip().partition("\n")[0].rstrip(".:")
        why = f"the model fails on the example {tuple(example.shape)}: {type(error).__name__}: {first}"
        advice = "model.eval()(example) must run and return its scores"
        raise LinregError("\n".join([f"{why}: {advice}", *place_of_error(error, model).lines])) from error


def export(model: nn.Module, example: Tensor) -> tuple[Tensor, ExportedProgram, bool]:
    """The example in use, the model as a program of functional ATen calls, and whether it takes any batch size.

    A batch of one could be taken for a constant, or dropped by squeeze(), so there are at least two inputs in use,
    unless the model fixes its batch size.
    """
    two = example if len(example) > 1 else torch.cat([example, example / 2])
    failures: list[tuple[Exception, Place]] = []
    for inputs, shapes in ((two, ({0: Dim("batch")},)), (example, None)):
        try:
            with silence():
                program = torch.export.export(model, (inputs.clone(),), dynamic_shapes=shapes, strict=False)
                return inputs, program.run_decompositions({}), shapes is not None
        except Exception as error:
            failures.append((error, place_of_error(error, model)))
    # The batch size is no matter of the second; the first may still be the one that knows the line.
    telling, place = max(reversed(failures), key=lambda failure: bool(failure[1].source))
    why = f"torch.export cannot capture this model: {not_exported(telling)}"
    raise LinregError("\n".join([why, *place.lines])) from telling


@contextmanager
def silence() -> Iterator[None]:
    """No warnings, logs or prints of the exporter: they are of its own matters, and an exception says what fails."""
    loggers = [logger for name, logger in logging.root.manager.loggerDict.items() if name.partition(".")[0] == "torch"]
    handlers = {h: h.level for logger in loggers if isinstance(logger, logging.Logger) for h in logger.handlers}
    try:
        for handler in handlers:
            handler.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler, level in handlers.items():
            handler.setLevel(level)


def compare(
    graph: OperatorGraph, expected: Tensor, example: Tensor, reference: Reference, origins: dict[str, str]
) -> None:
    """Raise LinregError, naming the first node that differs from the reference, unless the graph gives what it must."""
    with torch.no_grad():
        if not expected.isfinite().all():
            raise LinregError("the model's own output on the example is not finite")
        try:
            value = graph(example)
        except (RuntimeError, TypeError) as error:
            raise LinregError(f"the graph fails where the model runs: {error}; please report this network") from error
        if _close(value, expected):
            return _compare_alone(graph, example)
        recorded = reference.values(example)
        for node, value in _values(graph, example):
            origin = recorded.get(origins.get(node, ""))
            if origin is not None and not _close(value, origin):
                raise LinregError(
                    f"the graph differs from the model, first at {graph[node]}: please report this network"
                )
    raise LinregError("the graph does not reproduce the model's output: please report this network")


def other_batches(model: nn.Module, example: Tensor) -> list[tuple[Tensor, Any]]:
    """The model's results on one input more than the example, and on one alone, where it takes them."""
    results = []
    for batch in (torch.cat([example, example[:1]]), example[:1]):
        with suppress(LinregError):
            results.append((batch, run(model, batch)))
    return results


def compare_batch(graph: OperatorGraph | Reference, batch: Tensor, expected: Tensor) -> None:
    """Raise LinregError unless graph or program agrees with the model on a batch of another size."""
    value = graph(batch)
    if expected.numel() != value.numel() or not _close(value, expected.reshape(value.shape)):
        raise LinregError(
            f"on {len(batch)} input(s) the model computes something else than on the example: its forward uses the "
            "number of inputs (len(x), x.shape[0], x.numel()) in its arithmetic, or to choose its path"
        )


def _compare_alone(graph: OperatorGraph, example: Tensor) -> None:
    """Raise LinregError where an image's output depends on the others, or on its place among them."""
    value, other = graph(example), 0.1 - 1.3 * example.flip(-1)
    first, rest = torch.cat([example[:1], other[1:]]), torch.cat([other[:1], example[1:]])
    alone = _close(graph(first)[:1], value[:1]) and _close(graph(rest)[1:], value[1:])
    if not (alone and _close(graph(example.roll(1, 0)), value.roll(1, 0))):
        raise LinregError("the model mixes the images of a batch: each output must depend on its own input only")


def _close(value: Tensor, expected: Tensor) -> bool:
    """Whether two outputs agree: to rounding, on the scale of each image."""
    if value.shape != expected.shape or not expected.numel():
        return value.shape == expected.shape
    scale = expected.flatten(1).abs().amax(1) if expected.dim() > 1 else expected.abs()
    error = (value - expected).flatten(1).abs().amax(1) if expected.dim() > 1 else (value - expected).abs()
    return bool((error <= TOLERANCE[expected.dtype] * scale.clamp_min(1e-3 * scale.max())).all())


def _values(graph: OperatorGraph, example: Tensor) -> Iterator[tuple[str, Tensor]]:
    values = {INPUT: example}
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        values[node.name] = node.operator.freeze(*inputs)(*inputs)
        yield node.name, values[node.name]
