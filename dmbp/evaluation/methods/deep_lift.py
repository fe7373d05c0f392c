"""DeepLift, which is Captum's, on the graph as a module of distinct layers, so that its hooks are right."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dmbp.evaluation.captured import captured
from dmbp.evaluation.checks import check_classes
from dmbp.evaluation.methods.method import Method
from dmbp.evaluation.worded import option
from dmbp.extras import install, needs
from linreg.module import Gate


@dataclass(frozen=True)
class DeepLift(Method):
    """The rescale rule: Δy shared out over x − x₀, each unit with the slope of its chord between the two.

    Captum's, told of all elementwise gates, of which it knows but some; it sums to f(x) − f(x₀). On a model itself its
    hooks fail where a ReLU is used twice, and are wrong without a word where one is called as a function.
    Needs Captum: the extra `baselines`.
    """

    label: ClassVar[str] = "deeplift"
    title: ClassVar[str] = "DeepLift (DL)"
    source: ClassVar[str] = "Shrikumar et al. (2017)"
    times_x: ClassVar[str] = "x − x₀"
    colours: ClassVar[str] = "own values"
    sign: ClassVar[str] = "signed"

    baseline: float = option(0.0, "x₀, in the network's input space: 0 is its mean colour", "Captum")

    def check_installed(self) -> None:
        if "captum" not in sys.modules and find_spec("captum"):
            return  # there, and slow to import
        needs("captum.attr", install("baselines"))

    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        captum = needs("captum.attr", install("baselines"))
        known = captured(network, x)
        check_classes(target.tolist(), known.graph.shape(known.graph.output)[0])
        layers = known.layers
        with quiet(), told_of_gates(), torch.enable_grad():
            return captum.DeepLift(layers).attribute(x, torch.full_like(x, self.baseline), target=target)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Captum's warnings that it hooks, and that x requires no gradient yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@contextmanager
def told_of_gates() -> Iterator[None]:
    """Captum's table of elementwise units, with those of a graph that are missing in it, for the time being."""
    module = needs("captum.attr._core.deep_lift", install("baselines"))
    table: dict[Any, Any] = module.SUPPORTED_NON_LINEAR
    before = dict(table)
    table.update(dict.fromkeys((Gate, nn.ReLU6, nn.Hardtanh, nn.PReLU), module.nonlinear))
    try:
        yield
    finally:
        table.clear()
        table.update(before)
