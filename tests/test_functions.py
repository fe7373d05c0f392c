"""The custom autograd Function: values, and mask gradients in closed form, against differences and plain autograd."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from nets import NETS
from torch import Tensor
from triad import check_promises

import dmbp
import linreg
from dmbp.learning.autograd import MaskedScores, masked_scores
from dmbp.learning.passes import MaskedNetwork, Pair
from dmbp.learning.precision import lowered
from linreg.target import cotangent

TARGET = [0, 2, 1]
CASES = [
    ("chain_with_biases", "gates"),
    ("conv_bn", "gates"),
    ("residual_outer", "gates"),
    ("residual_outer", "blocks"),
    ("residual_inner", "gates"),
    ("mobile", "gates"),
    ("mobile", "blocks"),
    ("pools", "gates"),
    ("gates", "gates"),
    ("shortcut", "gates"),
    ("shortcut", "blocks"),
    ("wiring", "gates"),
]


@cache
def region(name: str) -> linreg.Linearization:
    model, x = NETS[name]()
    return linreg.trace(model, x).linearize(x)


def network(lin: linreg.Linearization, sites: str | list[str], target: list[int]) -> MaskedNetwork:
    return MaskedNetwork.of(lin, dmbp.find_sites(lin.graph, sites), cotangent(target, lin.output))


def random_logits(net: MaskedNetwork, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(site: str) -> Tensor:
        shape = (net.seed.shape[0], *net.lin.graph[site].shape)
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    return {site: draw(site) for site in net.sites}


def plain_scores(net: MaskedNetwork, logits: dict[str, Tensor]) -> Pair:
    """P(σ) and P(1 − σ) as two forward passes that autograd follows."""

    def score(sign: int) -> Tensor:
        def step(node: linreg.Node, inputs: tuple[Tensor, ...]) -> Tensor:
            value = net.lin.frozen[node.name](*inputs)
            return value * torch.sigmoid(sign * logits[node.name]) if node.name in logits else value

        output = net.lin.graph.evaluate({"input": net.lin.input}, step)
        return (output * net.seed).flatten(1).sum(1)

    return score(1), score(-1)


def gradients(scores: Pair, cotangents: Pair, logits: dict[str, Tensor]) -> list[Tensor]:
    total = sum((s * c).sum() for s, c in zip(scores, cotangents, strict=True))
    return list(torch.autograd.grad(total, list(logits.values())))


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


COTANGENTS = {
    "positive only": (numbers(1.5, -1, 0.3), numbers(0, 0, 0)),
    "negative only": (numbers(0, 0, 0), numbers(2, 0.7, -1)),
    "one side for each image": (numbers(1.5, 0, -1), numbers(0, 2, 0)),
    "one image has none": (numbers(0, 0, -1), numbers(0, 2, 0)),
    "none": (numbers(0, 0, 0), numbers(0, 0, 0)),
    "both sides": (numbers(-1, -1, -1), numbers(1, 1, 1)),
    "both sides of one image": (numbers(0.5, 0, -1), numbers(0, 3, 1)),
}


@pytest.mark.parametrize(("name", "sites"), CASES)
def test_gradcheck(name: str, sites: str) -> None:
    lin = region(name)
    net = network(lin.graph.linearize(lin.input[:2]), sites, TARGET[:2])
    logits = random_logits(net)

    def scores(*theta: Tensor) -> Pair:
        return masked_scores(net, dict(zip(net.sites, theta, strict=True)))

    exhaustive = sum(theta.numel() for theta in logits.values()) < 100  # else one random direction
    assert torch.autograd.gradcheck(scores, tuple(logits.values()), fast_mode=not exhaustive)


@pytest.mark.parametrize(("name", "sites"), CASES)
def test_scores_are_those_of_the_masked_network(name: str, sites: str) -> None:
    lin = region(name)
    net = network(lin, sites, TARGET)
    logits = random_logits(net)
    sigma = {site: theta.detach().sigmoid() for site, theta in logits.items()}
    plus, minus = masked_scores(net, logits)
    tolerance = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(plus, dmbp.masked(lin, sigma).score(TARGET), **tolerance)
    other = dmbp.masked(lin, {site: 1 - mask for site, mask in sigma.items()})
    torch.testing.assert_close(minus, other.score(TARGET), **tolerance)


@pytest.mark.parametrize("sides", COTANGENTS)
@pytest.mark.parametrize(("name", "sites"), CASES)
def test_gradients_are_those_of_plain_autograd(name: str, sites: str, sides: str) -> None:
    net = network(region(name), sites, TARGET)
    logits = random_logits(net)
    ours = gradients(masked_scores(net, logits), COTANGENTS[sides], logits)
    expected = gradients(plain_scores(net, logits), COTANGENTS[sides], logits)
    for site, found, wanted in zip(net.sites, ours, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13, msg=lambda text, site=site: f"{site}: {text}")
    assert sides == "none" or max(wanted.abs().max() for wanted in expected) > 1e-6


@pytest.mark.parametrize("sides", COTANGENTS)
@pytest.mark.parametrize(("name", "sites"), [("chain_with_biases", "gates"), ("mobile", "blocks")])
def test_each_image_of_a_batch_has_the_gradient_that_it_has_alone(name: str, sites: str, sides: str) -> None:
    lin = region(name)
    logits = random_logits(network(lin, sites, TARGET))
    together = gradients(masked_scores(network(lin, sites, TARGET), logits), COTANGENTS[sides], logits)
    for i in range(len(TARGET)):
        alone = network(lin.graph.linearize(lin.input[i : i + 1]), sites, TARGET[i : i + 1])
        own = {site: theta[i : i + 1].detach().requires_grad_() for site, theta in logits.items()}
        plus, minus = (c[i : i + 1] for c in COTANGENTS[sides])
        scores = masked_scores(alone, own)
        expected = [torch.zeros_like(theta) for theta in own.values()]
        for score, c in zip(scores, (plus, minus), strict=True):  # one pass at a time
            if c.item():
                grads = torch.autograd.grad(score.sum(), list(own.values()), retain_graph=True)
                expected = [e + c * g for e, g in zip(expected, grads, strict=True)]
        for found, wanted in zip(together, expected, strict=True):
            torch.testing.assert_close(found[i : i + 1], wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("sides", "sweeps"),
    [("positive only", 1), ("one side for each image", 1), ("both sides", 2), ("both sides of one image", 2)],
)
def test_one_sweep_is_enough_where_each_image_needs_one_side(
    sides: str, sweeps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eq. 10 needs two masked forwards and one backward, whichever pass each image of the batch follows."""
    original, calls = MaskedNetwork.backward, []

    def counted(self: MaskedNetwork, *args: object) -> dict[str, Tensor]:
        calls.append(1)
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(MaskedNetwork, "backward", counted)
    net = network(region("chain_with_biases"), "gates", TARGET)
    logits = random_logits(net)
    gradients(masked_scores(net, logits), COTANGENTS[sides], logits)
    assert len(calls) == sweeps


def test_one_score_alone_can_be_differentiated() -> None:
    """The other's cotangent is then not zero but missing."""
    net = network(region("chain_with_biases"), "gates", TARGET)
    logits = random_logits(net)
    for side in (0, 1):
        ours = torch.autograd.grad(masked_scores(net, logits)[side].sum(), list(logits.values()))
        expected = torch.autograd.grad(plain_scores(net, logits)[side].sum(), list(logits.values()))
        for found, wanted in zip(ours, expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "sites"),
    [("residual_outer", ["3.add"]), ("residual_outer", ["2.relu"]), ("wiring", ["relu@1"]), ("shortcut", ["deep.4"])],
)
def test_what_lies_before_the_sites_is_a_constant(name: str, sites: list[str]) -> None:
    """Only the sites and what follows them is evaluated again; values that enter past a site come from before."""
    net = network(region(name), sites, TARGET)
    assert len(net.nodes) < len(net.lin.graph.nodes)
    logits = random_logits(net)
    ours, expected = masked_scores(net, logits), plain_scores(net, logits)
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    found, wanted = (gradients(scores, COTANGENTS["both sides"], logits) for scores in (ours, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)


def test_a_second_derivative_is_refused() -> None:
    net = network(region("chain_with_biases"), "gates", TARGET)
    logits = random_logits(net)
    plus, _ = masked_scores(net, logits)
    first = torch.autograd.grad((plus**2).sum(), list(logits.values()), create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice a function that was marked with @once_diff"):
        first[0].sum().backward()
    plus, _ = masked_scores(net, logits)  # and where the cotangent is fixed there is nothing to differentiate
    first = torch.autograd.grad(plus.sum(), list(logits.values()), create_graph=True)
    assert not any(grad.requires_grad for grad in first)


def test_only_the_scores_are_differentiable() -> None:
    net = network(region("chain_with_biases"), "gates", TARGET)
    outputs = MaskedScores.apply(net, *random_logits(net).values())
    assert [value.requires_grad for value in outputs] == [True, True] + [False] * (len(outputs) - 2)


@pytest.mark.parametrize("name", ["chain_with_biases", "conv_bn", "residual_inner", "pools", "shortcut"])
def test_closed_gates_have_a_gradient_of_exactly_zero(name: str) -> None:
    lin = region(name)
    net = network(lin, "gates", TARGET)
    logits = random_logits(net)
    for sides in ("positive only", "one side for each image", "both sides"):
        grads = gradients(masked_scores(net, logits), COTANGENTS[sides], logits)
        for site, grad in zip(net.sites, grads, strict=True):
            closed = lin.frozen[site].slope == 0  # type: ignore[attr-defined]
            assert closed.any() and not closed.all()
            assert (grad[closed] == 0).all(), site
            assert (grad[~closed] != 0).any(), site


def test_saturated_gates_have_the_gradient_of_their_offset() -> None:
    """A ReLU6 at 6 has slope 0 too, but a value that its mask multiplies; one at 0 has none."""
    lin = region("mobile")
    net = network(lin, "gates", TARGET)
    logits = random_logits(net)
    grads = gradients(masked_scores(net, logits), COTANGENTS["positive only"], logits)
    for site, grad in zip(net.sites, grads, strict=True):
        slope, (offset,) = lin.frozen[site].slope, lin.frozen[site].constants  # type: ignore[attr-defined]
        assert (grad[(slope == 0) & (offset.value == 0)] == 0).all(), site
        assert (grad[offset.value == 6] != 0).any(), site


@pytest.mark.parametrize("name", ["chain", "mobile", "residual_outer", "wiring", "selections"])
def test_masked_and_lowered_operators_keep_their_promises(name: str) -> None:
    """Of what is new memory, and of what is the same for all images: as every operator on its own."""
    lin = region(name)
    logits = random_logits(network(lin, [node.name for node in lin.graph.nodes], TARGET))
    check_promises(dmbp.masked(lin, {site: theta.detach().sigmoid() for site, theta in logits.items()}))
    check_promises(lin.replace({name: lowered(affine) for name, affine in lin.frozen.items()}))


@pytest.mark.parametrize("value", [-800.0, 800.0])
def test_extreme_logits_give_finite_gradients(value: float) -> None:
    """σ is then exactly 0 or 1 and its slope exactly 0."""
    net = network(region("chain_with_biases"), "gates", TARGET)
    logits = {site: torch.full_like(theta, value).requires_grad_() for site, theta in random_logits(net).items()}
    for grad in gradients(masked_scores(net, logits), COTANGENTS["both sides"], logits):
        assert (grad == 0).all()
