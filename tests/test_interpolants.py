"""One smooth unit in pieces: the error that is told is a bound, is reached, and falls with the square of the pieces."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from curves import FUNCTIONS, apply, every_function, interpolant, module, pwl, samples

from linreg.operators.smooth import UNITS, Unit


@every_function
@pytest.mark.parametrize(("pieces", "count"), [(3, 10**5), (4, 10**5), (7, 10**5), (32, 10**5), (300, 10**5)])
def test_error_is_a_bound_and_is_reached(name: str, pieces: int, count: int) -> None:
    function, _, _ = FUNCTIONS[name]
    found = interpolant(name, pieces)
    z = samples(found.breaks.tolist(), count)
    error = (apply(found, z) - apply(function, z)).abs()
    assert (error <= found.max_error + 1e-14 * (1 + z.abs())).all(), z[error.argmax()]
    if name != "softplus with a jump":
        assert error.max() >= 0.999 * found.max_error


@every_function
@pytest.mark.parametrize("pieces", [3, 4, 7, 32, 300])
def test_pieces_are_those_asked_for_and_meet(name: str, pieces: int) -> None:
    found = interpolant(name, pieces)
    assert len(found.slopes) == len(found.offsets) == len(found.breaks) + 1 == found.pieces == pieces
    assert (found.breaks.diff() > 0).all()
    left, right = (part * found.breaks + t for part, t in (
        (found.slopes[:-1], found.offsets[:-1]), (found.slopes[1:], found.offsets[1:])
    ))  # fmt: skip
    torch.testing.assert_close(left, right, rtol=0, atol=1e-13)
    assert found.kind == f"{found.unit} ({pieces} pieces)" and not found.jumps


@every_function
def test_beyond_the_knots_are_the_asymptotes(name: str) -> None:
    """The lines are those of the table above; within the knots φ is f at each."""
    function, left, right = FUNCTIONS[name]
    found = interpolant(name)
    lines = [(found.slopes[place].item(), found.offsets[place].item()) for place in (0, -1)]
    assert lines == [pytest.approx(left, abs=1e-15), pytest.approx(right, abs=1e-15)]
    inner = found.breaks[1:-1]
    far = torch.tensor([-1e3, 1e3], dtype=torch.float64)
    torch.testing.assert_close(apply(found, far), apply(function, far), rtol=0, atol=found.max_error + 1e-12)
    if name != "softplus with a jump":
        torch.testing.assert_close(
            apply(found, inner), apply(function, inner), rtol=0, atol=1e-8 if "plus" in name else 1e-14
        )


@pytest.mark.parametrize(
    ("name", "low", "high"), [("hardswish", -3, 3), ("elu with a kink", None, 0), ("selu", None, 0)]
)
def test_what_is_linear_costs_nothing(name: str, low: float | None, high: float) -> None:
    """Where f is its asymptote φ is f, and its kink there a break."""
    found = interpolant(name)
    z = torch.linspace(high, 40, 1000, dtype=torch.float64)
    torch.testing.assert_close(apply(found, z), apply(FUNCTIONS[name][0], z), rtol=1e-15, atol=0)
    assert found.breaks[-1] == high and (low is None or found.breaks[0] == low)


@every_function
def test_error_falls_with_the_square_of_the_pieces(name: str) -> None:
    if name == "softplus with a jump":
        floor = interpolant(name, 1000).max_error
        assert floor == pytest.approx(np.log1p(np.exp(-5)) / 2, rel=1e-2)
        return
    errors = np.array([interpolant(name, 2**k).max_error for k in range(2, 8)])
    assert (np.diff(errors) < 0).all()
    assert (np.log2(errors[2:-1] / errors[3:]) > 1.75).all() and (np.log2(errors[2:-1] / errors[3:]) < 2.3).all()
    assert errors[-1] < errors[0] / 500


@pytest.mark.parametrize("name", ["tanh", "silu", "gelu", "softplus", "hardswish"])
def test_error_is_spread_evenly(name: str) -> None:
    """Each chord has the error of the others, and the ends, which are off their asymptote, too."""
    found, function = interpolant(name, 64), FUNCTIONS[name][0]
    knots = found.breaks
    inside = knots[:-1, None] + torch.linspace(0.02, 0.98, 49, dtype=torch.float64) * knots.diff()[:, None]
    errors = (apply(found, inside) - apply(function, inside)).abs().amax(1)
    assert errors.median() > 0.8 * found.max_error
    assert (errors > 0.5 * found.max_error).double().mean() > 0.9


def units() -> dict[str, Unit]:
    arguments = {
        "gelu": [{"approximate": "none"}, {"approximate": "tanh"}], "celu": [{"alpha": 0.7}],
        "softplus": [{"beta": 3.0, "threshold": 20.0}], "elu": [{"alpha": 2.0, "scale": 1.0, "input_scale": 0.5}],
    }  # fmt: skip
    return {f"{name} {given}": UNITS[name](given) for name in UNITS for given in arguments.get(name, [{}])}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", units())
def test_curvature_keeps_its_sign_between_inflections(name: str) -> None:
    """On this the proof of the error rests."""
    unit = units()[name]
    low, high = (np.clip(end, -30, 30) for end in unit.ends)
    places = [low, *unit.inflections, high]
    for start, stop in pairwise(places):
        z = torch.linspace(start, stop, 20001, dtype=torch.float64)[1:-1].requires_grad_()
        (slope,) = torch.autograd.grad(unit.function(z).sum(), z, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), z)
        curvature = curvature[curvature.abs() > 1e-13]
        assert len(curvature) > 1000 and len(curvature.sign().unique()) == 1


def test_every_unit_is_tested() -> None:
    tested = {interpolant(name).unit for name in FUNCTIONS}
    assert tested >= set(UNITS) - {"special_expit", "special_erf", "special_erfc", "arctan"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_arithmetics_add_their_rounding(dtype: torch.dtype) -> None:
    z = torch.linspace(-12, 12, 24001, dtype=torch.float64).to(dtype)[None]
    for name in ("silu", "tanh", "softplus", "atan"):
        graph = pwl(module(FUNCTIONS[name][0]), z)
        (found,) = graph.approximation.interpolants.values()
        assert found.breaks.dtype == found.slopes.dtype == dtype
        assert found.max_error == interpolant(name).max_error
        error = (graph(z).double() - FUNCTIONS[name][0](z.double())).abs()
        assert (error <= found.max_error + 4 * torch.finfo(dtype).eps * (1 + z.double().abs())).all()


def test_many_pieces() -> None:
    found = interpolant("gelu", 20000)
    assert found.max_error < 1e-8
    z = samples(found.breaks.tolist()[::100], 10**5)
    assert ((apply(found, z) - F.gelu(z)).abs() <= found.max_error + 1e-14 * (1 + z.abs())).all()
