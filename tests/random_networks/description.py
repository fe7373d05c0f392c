"""A description of a network, and the module that runs it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from nets import randomised
from torch import Tensor, nn

from random_networks.table import AGAIN, KINDS, Layer, Shape


@dataclass(frozen=True)
class Step:
    """Value = operator of this kind (values that it reads)."""

    kind: str
    reads: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """A description: the shape of one input, the number of images, the seed of all weights, the steps."""

    shape: Shape
    images: int
    seed: int
    steps: tuple[Step, ...]

    def model(self) -> nn.Module:
        """The network in float64 and eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return randomised(Model(self).double()).eval().requires_grad_(False)

    def input(self, images: int | None = None) -> Tensor:
        # Not the weights' own numbers: an input that equals a bound of a clamp lies on a kink.
        generator = torch.Generator().manual_seed(2**32 + self.seed)
        return torch.randn(images or self.images, *self.shape, generator=generator, dtype=torch.float64)


class Model(nn.Module):
    """Runs a description: its value is that of the last step."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.steps = network.steps
        self.layers: tuple[Layer, ...] = ()
        shapes = [network.shape]
        for step in network.steps:
            layer = build(step, shapes[step.reads[0]], self.layers)
            self.layers += (layer,)
            shapes.append(shape_of(layer, [shapes[i] for i in step.reads]))
        for i, layer in enumerate(self.layers):
            if isinstance(layer, nn.Module):
                self.add_module(f"step{i}", layer)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step, layer in zip(self.steps, self.layers, strict=True):
            values.append(layer(*(values[i] for i in step.reads)))
        return values[-1]


def build(step: Step, shape: Shape, layers: tuple[Layer, ...] = ()) -> Layer:
    """The module or function of a step that first reads a value of this shape."""
    if step.kind == AGAIN:
        return layers[step.options["step"]]
    return KINDS[step.kind].build(shape, **step.options)


@torch.no_grad()
def shape_of(layer: Layer, shapes: list[Shape]) -> Shape:
    """What the layer makes of images of these shapes, as it tells when it is run."""
    if isinstance(layer, nn.Module):
        layer = layer.double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the copy that "same" makes for an even window, once in each process
        return tuple(layer(*(torch.zeros(2, *shape, dtype=torch.float64) for shape in shapes)).shape[1:])
