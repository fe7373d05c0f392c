"""Grad-CAM, Guided Backprop, and the two together, on linreg's graph: no hooks, and right where ReLUs are functions.

Index letters: N pictures, k channels of a layer, q its positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmbp.errors import DmbpError
from dmbp.evaluation.captured import captured
from dmbp.evaluation.methods.gradients import PAPER
from dmbp.evaluation.methods.method import Method
from dmbp.evaluation.worded import option
from linreg import Linearization, OperatorGraph
from linreg.graph import INPUT, Node
from linreg.operators import Role
from linreg.target import cotangent

LAYER = "the node whose channels are weighed; empty: where the last layer with weights and positions ends"
FOLLOWING = {Role.GATE, Role.SUM, Role.SCALE, Role.CONCATENATION}  # what still belongs to a layer, or to its block
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class GradCAM(Method):
    """ReLU(Σ_k α_k A_k) with α_k = mean_q ∂y/∂A_kq, enlarged bilinearly to the picture: (N, 1, *picture).

    A are the activations at the end of the last convolution: behind the ReLU that follows, and behind the sum of the
    block that it belongs to ("layer4" of a ResNet, "features.29" of VGG-16, as in TorchRay). The ReLU at the end is the
    authors' own; without it (`relu=False`, as in Captum) the map is signed.
    """

    label: ClassVar[str] = "gradcam"
    title: ClassVar[str] = "Grad-CAM (GC)"
    source: ClassVar[str] = "Selvaraju et al. (2020)"
    times_x: ClassVar[str] = "times the activations"
    colours: ClassVar[str] = "none"
    sign: ClassVar[str] = "no negative values; relu=False: signed"

    layer: str = option("", LAYER, "Selvaraju et al.: the last convolutional layer")
    relu: bool = option(True, "whether negative values become zero", "Selvaraju et al., Eq. 2")

    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        lin = captured(network, x).graph.linearize(x)
        return enlarged(class_activation(lin, target, self.layer, self.relu), x)


@dataclass(frozen=True)
class GuidedBackprop(Method):
    """x ⊙ the gradient of which every gate, on the way back, passes on only what is positive.

    Behind an open ReLU that is Springenberg et al.'s rule; other gates (ReLU6, leaky ones) follow it with their own
    slopes, where Captum leaves them as they are. The map is signed: the first layer mixes signs again.
    """

    label: ClassVar[str] = "guided-backprop"
    title: ClassVar[str] = "Guided Backprop (GBp)"
    source: ClassVar[str] = "Springenberg et al. (2015)"
    times_x: ClassVar[str] = "yes (there: no)"
    colours: ClassVar[str] = "own values"
    sign: ClassVar[str] = "signed"

    times_input: bool = option(True, "whether it is multiplied by x", PAPER)

    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        found = guided(captured(network, x).graph.linearize(x), target)
        return found * x if self.times_input else found


@dataclass(frozen=True)
class GuidedGradCAM(Method):
    """Guided Backprop ⊙ Grad-CAM enlarged to the picture, by default times the picture."""

    label: ClassVar[str] = "guided-gradcam"
    title: ClassVar[str] = "Guided Grad-CAM (GGC)"
    source: ClassVar[str] = "Selvaraju et al. (2020)"
    times_x: ClassVar[str] = "yes (there: no)"
    colours: ClassVar[str] = "own values"
    sign: ClassVar[str] = "signed"

    layer: str = option("", LAYER, "Selvaraju et al.: the last convolutional layer")
    enlarge: str = option("bilinear", "bilinear, or nearest as in Captum", "Selvaraju et al., Section 3.2")
    times_input: bool = option(True, "whether it is multiplied by x", PAPER)

    def __post_init__(self) -> None:
        self._check_word("enlarge", ("bilinear", "nearest"))

    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        lin = captured(network, x).graph.linearize(x)
        coarse = class_activation(lin, target, self.layer, relu=True)
        found = guided(lin, target) * enlarged(coarse, x, nearest=self.enlarge == "nearest")
        return found * x if self.times_input else found


@torch.no_grad()
def guided(lin: Linearization, target: Tensor) -> Tensor:
    """The sweep back in which gates pass on nothing negative, shaped like the input."""

    def step(node: Node, grad: Tensor) -> tuple[Tensor, ...]:
        return lin.frozen[node.name].adjoint(grad.clamp_min(0) if node.is_gate else grad)

    return lin.graph.pull({lin.graph.output: cotangent(target, lin.output)}, step)[INPUT]


@torch.no_grad()
def class_activation(lin: Linearization, target: Tensor, layer: str, relu: bool) -> Tensor:
    """Σ_k α_k A_k at the layer, (N, 1, *positions)."""
    layer = layer or last_layer(lin.graph)
    if not has_positions(lin.graph, lin.graph[layer]):
        shape = lin.graph[layer].shape
        raise DmbpError(f"Grad-CAM needs a layer of channels and positions: '{layer}' has the shape {shape}")
    nodes = lin.graph.between(layer, INPUT)
    values = lin.graph.evaluate({INPUT: lin.input}, lambda node, xs: lin.frozen[node.name](*xs), nodes)
    grad = lin.adjoint(cotangent(target, lin.output), start=layer)
    alpha = grad.flatten(2).mean(2).view(*grad.shape[:2], *[1] * (grad.dim() - 2))
    found = (alpha * values).sum(1, keepdim=True)
    return found.clamp_min(0) if relu else found


def last_layer(graph: OperatorGraph) -> str:
    """The last node with weights that has positions, and what follows it and still belongs to it or its block.

    Raises DmbpError where no layer with weights has positions.
    """
    weighted = [node for node in graph.nodes if node.operator.role is Role.WEIGHTS and has_positions(graph, node)]
    if not weighted:
        raise DmbpError(
            "Grad-CAM needs a convolution: no layer with weights has channels and positions; name a `layer`"
        )
    last = weighted[-1]
    while True:
        readers = graph.consumers(last.name)
        if len(readers) != 1 or readers[0].operator.role not in FOLLOWING or not has_positions(graph, readers[0]):
            return last.name
        last = readers[0]


def has_positions(graph: OperatorGraph, node: Node) -> bool:
    """Whether its value is (channels, *positions), more than one position, of as many axes as the picture."""
    return len(node.shape) == len(graph.input_shape) and prod(node.shape[1:]) > 1


def enlarged(coarse: Tensor, x: Tensor, nearest: bool = False) -> Tensor:
    """(N, 1, *positions) at the size of the picture."""
    picture = x.shape[2:]
    if nearest:
        return F.interpolate(coarse, size=picture, mode="nearest")
    return F.interpolate(coarse, size=picture, mode=MODES[len(picture)], align_corners=False)
