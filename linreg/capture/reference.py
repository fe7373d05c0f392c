"""The exported program, run beside the graph; where the graph has interpolants, with them in place of their calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from linreg.capture.example import Arguments
from linreg.capture.program import Batch, Program
from linreg.errors import LinregError
from linreg.operators.smooth import Interpolant

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}


class Reference(fx.Interpreter):
    """Inputs ↦ the program's output, where the calls named in `interpolants` give what these give.

    The program is run as the pure function that it is: buffers and inputs stay as they are.
    """

    def __init__(self, program: Program, interpolants: Mapping[str, Interpolant]) -> None:
        super().__init__(program.exported.graph_module)
        self.program, self.interpolants = program, interpolants
        self.recorded: dict[str, Tensor] | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The program's output at inputs in their order, (N, …)."""
        signature, tensors, rest = self.program.exported.graph_signature, self.program.tensors, iter(inputs)
        specs = signature.input_specs
        given = [next(rest) if spec.kind == InputKind.USER_INPUT else tensors.get(spec.target) for spec in specs]
        if self.program.ends is not None:
            return self._up_to(self.program.ends.name, given)
        returned = [spec.arg.name for spec in signature.output_specs]
        with torch.no_grad():
            results = self.run(*given, enable_io_processing=False)
        return results[returned.index(self.program.result.name)]

    def _up_to(self, name: str, given: list[Any]) -> Tensor:
        """What the call of that name gives."""
        before, self.recorded = self.recorded, {} if self.recorded is None else self.recorded
        try:
            with torch.no_grad():
                self.run(*given, enable_io_processing=False)
            return self.recorded[name]
        finally:
            self.recorded = before

    def of_batch(self, batch: Arguments) -> Tensor:
        """The same for any number of images: a program of one is run on each."""
        if self.program.batch is not Batch.ONE:
            return self(*batch.values)
        images = (batch.image(n) for n in range(len(batch)))
        return torch.stack([self(*image.values) for image in images])

    def values(self, *inputs: Tensor) -> dict[str, Tensor]:
        """What each call gives there, by its name."""
        self.recorded = {}
        try:
            self(*inputs)
            return self.recorded
        finally:
            self.recorded = None

    def run_node(self, n: fx.Node) -> Any:
        """What one call gives; `fx.Interpreter` asks for each in turn."""
        result = super().run_node(n)
        interpolant = self.interpolants.get(n.name)
        if interpolant is not None:
            (z, *_), _ = self.fetch_args_kwargs_from_env(n)
            result = _approximated(interpolant, z, result)
        if self.recorded is not None and isinstance(result, Tensor):
            self.recorded[n.name] = result
        return result


def _approximated(interpolant: Interpolant, z: Tensor, smooth: Tensor) -> Tensor:
    """φ(z); raises LinregError where it is farther from what the call itself gives than it may be."""
    value = interpolant.freeze(z)(z)
    allowed = interpolant.max_error + ROUNDING[z.dtype] * (1 + z.abs() + smooth.abs())
    if ((value - smooth).abs() > allowed).any():
        raise LinregError(f"the interpolant of {interpolant.unit} misses its error: please report this network")
    return value
