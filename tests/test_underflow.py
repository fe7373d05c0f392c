"""The proved bounds where products underflow: small weights and inputs, down to numbers that have no full precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import linreg
from linreg import certificate as certificates
from linreg.margins import carry

pytestmark = pytest.mark.xdist_group("underflow")
IMAGES = 200
SMALL = {torch.float16: 2.0**-12, torch.float32: 2.0**-84, torch.bfloat16: 2.0**-84, torch.float64: 2.0**-400}


def linearized(seed: int, dtype: torch.dtype) -> tuple[nn.Module, linreg.Linearization]:
    """A network whose weights are of the order of powers of a small number, at as many inputs of all such orders."""
    generator = torch.Generator().manual_seed(seed)
    small, like = SMALL[dtype], {"generator": generator, "dtype": torch.float64}
    if seed % 2:
        shape: tuple[int, ...] = (9,)
        layers = [nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 10), nn.LeakyReLU(0.3), nn.Linear(10, 3)]
    else:
        shape = (1, 3, 3)
        layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(4, 3)]
    network = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in network.parameters():
            order = small ** float(0.8 * torch.rand((), generator=generator)) * (small if parameter.dim() == 1 else 1)
            parameter.copy_(torch.randn(parameter.shape, **like) * order)
    network = network.to(dtype)
    orders = small ** (1.2 * torch.rand(IMAGES, **like)).reshape(-1, *[1] * len(shape))
    x = (torch.randn(IMAGES, *shape, **like) * orders).to(dtype)
    return network, linreg.trace(network, x[:2]).linearize(x)


@pytest.mark.parametrize("dtype", SMALL, ids=str)
def test_completeness_is_within_its_bound(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """And in float16 it would not be without the term of underflow, so that these cases can tell."""
    found = [linearized(seed, dtype)[1] for seed in range(4)]
    errors = torch.stack([lin.certificate(0).completeness_error.double() for lin in found])
    assert (errors <= torch.stack([lin.certificate(0).bound for lin in found])).all()
    assert (errors > 0).any()
    if dtype == torch.float16:
        monkeypatch.setattr(certificates, "underflow", lambda like: 0.0)
        assert (errors > torch.stack([lin.certificate(0).bound for lin in found])).sum() >= 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_values_are_within_their_errors(dtype: torch.dtype) -> None:
    """The errors from the input on that gates are judged by, beside the same network and inputs in float64."""
    for seed in range(4):
        network, lin = linearized(seed, dtype)
        exact = linreg.trace(network.double(), lin.input[:2].double())
        values: dict[str, Tensor] = {}

        def note(node: linreg.Node, inputs: tuple[Tensor, ...], values: dict[str, Tensor] = values) -> Tensor:
            values[node.name] = node.operator.freeze(*inputs)(*inputs)
            return values[node.name]

        exact.evaluate({"input": lin.input.double()}, note)

        def check(node: linreg.Node, states: tuple, values: dict[str, Tensor] = values) -> tuple:
            state = carry(node.operator, states)
            assert ((state[0].double() - values[node.name]).abs() <= state[1].double()).all(), node
            return state

        zero = torch.zeros_like(lin.input)
        lin.graph.evaluate({"input": (lin.input, zero, zero)}, check)


def test_masked_units_are_not_in_doubt() -> None:
    """Units of −∞, as a fixed mask makes them, are as far from a kink as can be."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 2)
            self.register_buffer("off", torch.tensor([True, False, False, True, False, False]))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x).masked_fill(self.off, -torch.inf).relu())

    torch.manual_seed(2)
    model, x = Masked().double(), torch.randn(3, 4, dtype=torch.float64)
    certificate = linreg.trace(model, x).linearize(x).certificate(0)
    assert certificate.doubtful.tolist() == [0, 0, 0]
    assert certificate.margins[0].relative.isfinite().all() and (certificate.margins[0].relative > 1).all()
