"""Where masks sit by default: at gates with weights behind them (w of Eq. 1)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import dmbp
import linreg


class Head(nn.Module):
    """Two convolutions with ReLUs, and what `end` makes of the second one's output."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        self.first, self.gate = nn.Conv2d(2, 4, 3), nn.ReLU()
        self.last, self.last_gate = nn.Conv2d(4, 3, 3), nn.ReLU()
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.last_gate(self.last(self.gate(self.first(x)))))


class Weighed(nn.Module):
    """A last layer written by hand: weights of both signs, and a sum."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * torch.tensor([1.0, -1.0, 2.0])[:, None, None]).sum((2, 3))


ENDS = {
    "averaged": (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), ("gate",)),
    "pooled and averaged": (nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten(), nn.ReLU()), ("gate",)),
    "itself": (nn.Flatten(), ("gate",)),
    "weighed by hand": (Weighed(), ("gate", "last_gate")),
    "a layer": (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), ("gate", "last_gate")),
}


def built(end: nn.Module) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, x = Head(end).double(), torch.randn(2, 2, 10, 10, dtype=torch.float64)
        network(x)
    return network.double().requires_grad_(False), x


@pytest.mark.parametrize("name", ENDS)
def test_a_last_gate_is_a_site_where_weights_follow(name: str) -> None:
    end, expected = ENDS[name]
    network, x = built(end)
    assert dmbp.find_sites(linreg.trace(network, x)) == expected


@pytest.mark.parametrize("name", [name for name, (_, sites) in ENDS.items() if sites == ("gate",)])
def test_a_last_gate_that_is_no_site_has_one_sign_for_each_class(name: str) -> None:
    """By plain autograd; masked all the same, B.1 puts it wholly into y⁺, and y⁻ is left with 1 − σ(2) of it."""
    network, x = built(ENDS[name][0])
    z = network.last(network.gate(network.first(x))).requires_grad_()
    score = network.end(network.last_gate(z))[:, 1].sum()
    (gradient,) = torch.autograd.grad(score, z)
    assert (gradient >= 0).all() and (gradient > 0).any()
    graph = linreg.trace(network, x)
    logits = dmbp.initial_logits(graph.linearize(x), ["last_gate"], 1)["last_gate"]
    assert (logits[gradient > 0] == 2).all() and (logits >= 0).all()


def test_the_only_gate_and_a_named_one_stay_sites() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).double()
    graph = linreg.trace(network, torch.ones(1, 3).double())
    assert dmbp.find_sites(graph) == dmbp.find_sites(graph, "blocks") == ("1",)
    network, x = built(ENDS["averaged"][0])
    assert dmbp.find_sites(linreg.trace(network, x), ["last_gate"]) == ("last_gate",)
