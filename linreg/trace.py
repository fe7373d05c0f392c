"""From an unmodified model to its operator graph: export, translate, fuse, and compare with the model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from linreg.errors import LinregError
from linreg.fuse import fuse_batch_norm
from linreg.graph import INPUT, OperatorGraph
from linreg.outputs import pick
from linreg.translate import Program, translate

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}


def trace(model: nn.Module, example: Tensor, *, fuse: bool = True, output: str | int | None = None) -> OperatorGraph:
    """Capture `model` as a graph of piecewise-linear operators.

    `example` is a batch (N, …) of valid inputs; the graph takes any number of such inputs, of the same dtype and on the
    same device. `fuse` folds batch norm into the convolution or linear layer before it. `output` chooses one where the
    model returns several: a key of its dict or a place in its tuple.

    The model is left as it was: it is captured in eval mode, and its parameters are copied, so later changes of
    the model do not reach the graph. Raises LinregError, naming the node, its module and the source line, where the
    model is not piecewise linear, and where the graph does not reproduce its output on the example.
    """
    check(model, example)
    with evaluation(model), torch.no_grad():
        run(model, example)
        example, program, dynamic = export(model, example)
        expected, place = pick(run(model, example), output)
        graph, origins = translate(Program(program, place, dynamic), example)
    if fuse:
        graph = fuse_batch_norm(graph)
    compare(graph, expected, example, program, origins)
    return graph


def check(model: nn.Module, example: Tensor) -> None:
    """Raise LinregError unless model and example are of one floating dtype, on one device, and finite."""
    if not isinstance(model, nn.Module):
        raise LinregError(f"trace needs a torch.nn.Module, not {type(model).__name__}")
    if not isinstance(example, Tensor) or example.dim() < 2 or not example.is_floating_point():
        came = f"{tuple(example.shape)} of {example.dtype}" if isinstance(example, Tensor) else type(example).__name__
        raise LinregError(
            f"the example must be a floating-point tensor with a batch dimension first, (N, …), not {came}"
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
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
        shape, reason = tuple(example.shape), str(error).strip().partition("\n")[0]
        raise LinregError(f"the model fails on the example {shape}: {type(error).__name__}: {reason}") from error


def export(model: nn.Module, example: Tensor) -> tuple[Tensor, ExportedProgram, bool]:
    """The example in use, the model as a program of functional ATen calls, and whether it takes any batch size.

    A batch of one could be taken for a constant, or dropped by squeeze(), so there are at least two inputs in use,
    unless the model fixes its batch size.
    """
    two = example if len(example) > 1 else torch.cat([example, example / 2])
    failures: list[Exception] = []
    for inputs, shapes in ((two, ({0: Dim("batch")},)), (example, None)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the exporter's own deprecations, which are not the user's
                program = torch.export.export(model, (inputs.clone(),), dynamic_shapes=shapes, strict=False)
                return inputs, program.run_decompositions({}), shapes is not None
        except Exception as error:
            failures.append(error)
    first = str(failures[-1]).strip().splitlines()
    raise LinregError(
        f"torch.export cannot capture this model: {type(failures[-1]).__name__}: {first[0] if first else ''}\n"
        "Its forward must not choose its path by the values of its data (`if x.sum() > 0`, `.item()`): write such a "
        "choice with operators, or trace the part that has none."
    ) from failures[-1]


def compare(
    graph: OperatorGraph, expected: Tensor, example: Tensor, program: ExportedProgram, origins: dict[str, str]
) -> None:
    """Raise LinregError, naming the first node that differs, unless the graph gives the model's output."""
    with torch.no_grad():
        if not expected.isfinite().all():
            raise LinregError("the model's own output on the example is not finite")
        if _close(graph(example), expected):
            return _compare_alone(graph, example)
        reference = _Recorder(program.module()).values(example.clone())
        for node, value in _values(graph, example):
            origin = reference.get(origins.get(node, ""))
            if origin is not None and not _close(value, origin):
                raise LinregError(
                    f"the graph differs from the model, first at {graph[node]}: please report this network"
                )
    raise LinregError("the graph does not reproduce the model's output: please report this network")


def _compare_alone(graph: OperatorGraph, example: Tensor) -> None:
    """Raise LinregError where an image's output depends on another image: rotating the batch must rotate the output."""
    if not _close(graph(example.roll(1, 0)), graph(example).roll(1, 0)):
        raise LinregError("the model mixes the images of a batch: each output must depend on its own input only")


def _close(value: Tensor, expected: Tensor) -> bool:
    scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return value.shape == expected.shape and bool((value - expected).abs().max() <= TOLERANCE[expected.dtype] * scale)


def _values(graph: OperatorGraph, example: Tensor) -> Iterator[tuple[str, Tensor]]:
    values = {INPUT: example}
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        values[node.name] = node.operator.freeze(*inputs)(*inputs)
        yield node.name, values[node.name]


class _Recorder(torch.fx.Interpreter):
    """Runs the exported program and keeps every value."""

    def values(self, example: Tensor) -> dict[str, Tensor]:
        self.recorded: dict[str, Tensor] = {}
        self.run(example)
        return self.recorded

    def run_node(self, n: torch.fx.Node) -> object:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.recorded[n.name] = result
        return result
