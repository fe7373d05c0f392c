"""The graph of a network, captured once for all the calls that a network is explained in.

An evaluation asks hundreds of times about one network, and tracing takes seconds. What was captured is kept as long as
the network itself lives, and is used as long as no number of its parameters and buffers has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from linreg import OperatorGraph, trace
from linreg.module import Network

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element
Fingerprint = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Captured:
    """The graph, the state of the network that it was traced from, and the graph as a module of distinct layers."""

    graph: OperatorGraph
    state: Fingerprint

    @cached_property
    def layers(self) -> Network:
        return self.graph.to_module().requires_grad_(False)

    def fits(self, x: Tensor, state: Fingerprint) -> bool:
        graph = self.graph
        alike = graph.input_shape == tuple(x.shape[1:]) and graph.dtype == x.dtype and graph.device == x.device
        return alike and graph.batch in (None, len(x)) and self.state == state


_KEPT: WeakKeyDictionary[nn.Module, Captured] = WeakKeyDictionary()


def captured(network: nn.Module, x: Tensor) -> Captured:
    """The network at pictures like x, traced anew where shape, dtype, device or weights are others than last time.

    Raises LinregError where the network is not piecewise linear.
    """
    state = fingerprint(network)
    kept = _KEPT.get(network)
    if kept is None or not kept.fits(x, state):
        graph = trace(network, x[:1])
        if graph.batch not in (None, len(x)):
            graph = trace(network, x)
        kept = _KEPT[network] = Captured(graph, state)
    return kept


def keep(network: nn.Module, graph: OperatorGraph) -> None:
    """Let `captured` find a graph that was traced from the network as it is."""
    _KEPT[network] = Captured(graph, fingerprint(network))


@torch.no_grad()
def fingerprint(network: nn.Module) -> Fingerprint:
    """Of each parameter and buffer: where it lies, how often it was written to, and the sum of its bits."""
    return tuple(_state(tensor.detach()) for tensor in chain(network.parameters(), network.buffers()))


def _state(tensor: Tensor) -> tuple[int, ...]:
    version = -1 if tensor.is_inference() else tensor._version
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    whole = tensor if tensor.dtype == torch.bool else tensor.contiguous().view(BITS[tensor.element_size()])
    return tensor.data_ptr(), version, int(whole.sum())
