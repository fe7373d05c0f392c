"""Scores as differentiable functions of the masks: values, gradients in closed form, and a loop of one's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from nets import NETS, Lambda
from torch import Tensor, nn
from triad import check_promises

import dmbp
import linreg
from dmbp import DmbpError
from dmbp.learning.autograd import MaskedPasses
from dmbp.learning.kernels import accumulate
from dmbp.learning.objective import LOSSES
from dmbp.learning.passes import MaskedNetwork, Pair
from dmbp.learning.precision import lowered
from dmbp.split import UNMASKED
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


def scores_of(lin: linreg.Linearization, sites: dmbp.masks.Sites, target: list[int]) -> dmbp.MaskedScores:
    """P(σ) and P(1 − σ), with nothing set aside."""
    return dmbp.masked_scores(lin, sites, target, unmasked="both")


def random_logits(scores: dmbp.MaskedScores, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(theta: Tensor) -> Tensor:
        return torch.randn(theta.shape, generator=generator, dtype=torch.float64).requires_grad_()

    return {site: draw(theta) for site, theta in scores.logits().items()}


def plain_scores(scores: dmbp.MaskedScores, logits: dict[str, Tensor]) -> Pair:
    """P(σ) and P(1 − σ) as two forward passes that autograd follows."""
    lin = scores.lin

    def score(sign: int) -> Tensor:
        def step(node: linreg.Node, inputs: tuple[Tensor, ...]) -> Tensor:
            value = lin.frozen[node.name](*inputs)
            return value * torch.sigmoid(sign * logits[node.name]) if node.name in logits else value

        output = lin.graph.evaluate({"input": lin.input}, step)
        return (output * cotangent(scores.target, lin.output)).flatten(1).sum(1)

    return score(1), score(-1)


def gradients(pair: Pair, cotangents: Pair, logits: dict[str, Tensor]) -> list[Tensor]:
    total = sum((s * c).sum() for s, c in zip(pair, cotangents, strict=True))
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
    scores = dmbp.masked_scores(lin.graph.linearize(lin.input[:2]), sites, TARGET[:2])
    logits = random_logits(scores)

    def pair(*theta: Tensor) -> Pair:
        return scores(dict(zip(scores.sites, theta, strict=True)))

    exhaustive = sum(theta.numel() for theta in logits.values()) < 100  # else one random direction
    assert torch.autograd.gradcheck(pair, tuple(logits.values()), fast_mode=not exhaustive)


@pytest.mark.parametrize("unmasked", UNMASKED)
@pytest.mark.parametrize(("name", "sites"), CASES)
def test_scores_are_those_of_the_masked_network(name: str, sites: str, unmasked: str) -> None:
    lin = region(name)
    scores = dmbp.masked_scores(lin, sites, TARGET, unmasked=unmasked)
    assert scores.sites == dmbp.find_sites(lin.graph, sites)
    logits = random_logits(scores)
    sigma = {site: theta.detach().sigmoid() for site, theta in logits.items()}
    aside = dmbp.masked(lin, {site: 0 * mask for site, mask in sigma.items()}).score(TARGET)
    aside = aside if unmasked == "nuisance" else 0 * aside
    other = {site: 1 - mask for site, mask in sigma.items()}
    split, tolerance = scores.split(logits), {"rtol": 1e-12, "atol": 1e-12}
    for found, part, masks in zip(scores(logits), (split.positive, split.negative), (sigma, other), strict=True):
        torch.testing.assert_close(found, dmbp.masked(lin, masks).score(TARGET) - aside, **tolerance)
        torch.testing.assert_close(found, part, **tolerance)
    torch.testing.assert_close(scores.y, lin.score(TARGET), **tolerance)
    assert all(torch.equal(split.masks[site], mask) for site, mask in sigma.items()) and split.counting == unmasked


@pytest.mark.parametrize("sides", COTANGENTS)
@pytest.mark.parametrize(("name", "sites"), CASES)
def test_gradients_are_those_of_plain_autograd(name: str, sites: str, sides: str) -> None:
    scores = scores_of(region(name), sites, TARGET)
    logits = random_logits(scores)
    ours = gradients(scores(logits), COTANGENTS[sides], logits)
    expected = gradients(plain_scores(scores, logits), COTANGENTS[sides], logits)
    for site, found, wanted in zip(scores.sites, ours, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13, msg=lambda text, site=site: f"{site}: {text}")
    assert sides == "none" or max(wanted.abs().max() for wanted in expected) > 1e-6


@pytest.mark.parametrize("sides", COTANGENTS)
@pytest.mark.parametrize(("name", "sites"), [("chain_with_biases", "gates"), ("mobile", "blocks")])
def test_each_image_of_a_batch_has_the_gradient_that_it_has_alone(name: str, sites: str, sides: str) -> None:
    lin = region(name)
    whole = scores_of(lin, sites, TARGET)
    logits = random_logits(whole)
    together = gradients(whole(logits), COTANGENTS[sides], logits)
    for i in range(len(TARGET)):
        alone = scores_of(lin.graph.linearize(lin.input[i : i + 1]), sites, TARGET[i : i + 1])
        own = {site: theta[i : i + 1].detach().requires_grad_() for site, theta in logits.items()}
        plus, minus = (c[i : i + 1] for c in COTANGENTS[sides])
        expected = [torch.zeros_like(theta) for theta in own.values()]
        for score, c in zip(alone(own), (plus, minus), strict=True):  # one pass at a time
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
    scores = scores_of(region("chain_with_biases"), "gates", TARGET)
    logits = random_logits(scores)
    gradients(scores(logits), COTANGENTS[sides], logits)
    assert len(calls) == sweeps


def test_one_score_alone_can_be_differentiated() -> None:
    """The other's cotangent is then not zero but missing."""
    scores = scores_of(region("chain_with_biases"), "gates", TARGET)
    logits = random_logits(scores)
    for side in (0, 1):
        ours = torch.autograd.grad(scores(logits)[side].sum(), list(logits.values()))
        expected = torch.autograd.grad(plain_scores(scores, logits)[side].sum(), list(logits.values()))
        for found, wanted in zip(ours, expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "sites"),
    [("residual_outer", ["3.add"]), ("residual_outer", ["2.relu"]), ("wiring", ["relu@1"]), ("shortcut", ["deep.4"])],
)
def test_what_lies_before_the_sites_is_a_constant(name: str, sites: list[str]) -> None:
    """Only the sites and what follows them is evaluated again; values that enter past a site come from before."""
    scores = scores_of(region(name), sites, TARGET)
    assert len(scores.network.nodes) < len(scores.lin.graph.nodes)
    logits = random_logits(scores)
    ours, expected = scores(logits), plain_scores(scores, logits)
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    found, wanted = (gradients(pair, COTANGENTS["both sides"], logits) for pair in (ours, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)


def test_a_second_derivative_is_refused() -> None:
    scores = scores_of(region("chain_with_biases"), "gates", TARGET)
    logits = random_logits(scores)
    plus, _ = scores(logits)
    first = torch.autograd.grad((plus**2).sum(), list(logits.values()), create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice a function that was marked with @once_diff"):
        first[0].sum().backward()
    plus, _ = scores(logits)  # and where the cotangent is fixed there is nothing to differentiate
    first = torch.autograd.grad(plus.sum(), list(logits.values()), create_graph=True)
    assert not any(grad.requires_grad for grad in first)


def test_only_the_scores_are_differentiable() -> None:
    scores = scores_of(region("chain_with_biases"), "gates", TARGET)
    outputs = MaskedPasses.apply(scores.network, *random_logits(scores).values())
    assert [value.requires_grad for value in outputs] == [True, True] + [False] * (len(outputs) - 2)


@pytest.mark.parametrize("name", ["chain_with_biases", "conv_bn", "residual_inner", "pools", "shortcut"])
def test_closed_gates_have_a_gradient_of_exactly_zero(name: str) -> None:
    lin = region(name)
    scores = scores_of(lin, "gates", TARGET)
    logits = random_logits(scores)
    for sides in ("positive only", "one side for each image", "both sides"):
        grads = gradients(scores(logits), COTANGENTS[sides], logits)
        for site, grad in zip(scores.sites, grads, strict=True):
            closed = lin.frozen[site].slope == 0  # type: ignore[attr-defined]
            assert closed.any() and not closed.all()
            assert (grad[closed] == 0).all(), site
            assert (grad[~closed] != 0).any(), site


def test_saturated_gates_have_the_gradient_of_their_offset() -> None:
    """A ReLU6 at 6 has slope 0 too, but a value that its mask multiplies; one at 0 has none."""
    lin = region("mobile")
    scores = scores_of(lin, "gates", TARGET)
    logits = random_logits(scores)
    grads = gradients(scores(logits), COTANGENTS["positive only"], logits)
    for site, grad in zip(scores.sites, grads, strict=True):
        slope, (offset,) = lin.frozen[site].slope, lin.frozen[site].constants  # type: ignore[attr-defined]
        assert (grad[(slope == 0) & (offset.value == 0)] == 0).all(), site
        assert (grad[offset.value == 6] != 0).any(), site


@pytest.mark.parametrize("name", ["chain", "mobile", "residual_outer", "wiring", "selections"])
def test_masked_and_lowered_operators_keep_their_promises(name: str) -> None:
    """Of what is new memory, and of what is the same for all images: as every operator on its own."""
    lin = region(name)
    logits = random_logits(scores_of(lin, [node.name for node in lin.graph.nodes], TARGET))
    check_promises(dmbp.masked(lin, {site: theta.detach().sigmoid() for site, theta in logits.items()}))
    check_promises(lin.replace({name: lowered(affine) for name, affine in lin.frozen.items()}))


@pytest.mark.parametrize("value", [-800.0, 800.0])
def test_extreme_logits_give_finite_gradients(value: float) -> None:
    """σ is then exactly 0 or 1 and its slope exactly 0."""
    scores = scores_of(region("chain_with_biases"), "gates", TARGET)
    logits = {site: torch.full_like(theta, value).requires_grad_() for site, theta in random_logits(scores).items()}
    for grad in gradients(scores(logits), COTANGENTS["both sides"], logits):
        assert (grad == 0).all()


def test_eq_20_holds_at_each_site_of_a_chain() -> None:
    """y⁺ = [∇_h F⁺ ⊙ σ]ᵀ h + the constants behind the site, with h the value in the masked network before its mask."""
    lin = region("chain_with_biases")
    scores = scores_of(lin, "gates", TARGET)
    logits = {site: theta.detach() for site, theta in random_logits(scores).items()}
    with torch.no_grad():
        (plus, _), values = scores.network.forward(logits)
        kept, arriving = {site: value.clone() for site, value in values.items()}, dict[str, Tensor]()

        def visit(site: str, grad: Tensor) -> None:
            arriving[site] = grad.clone()
            state = (logits[site], torch.zeros_like(logits[site]))
            scores.network.at(site, accumulate, torch.ones(3).double(), grad, values[site], state)

        scores.network.backward(torch.ones(3).double(), visit)
    ledger = scores.split(logits).ledger("positive")
    names = [node.name for node in lin.graph.nodes]
    for site in scores.sites:
        later = [term.total for term in ledger.terms if names.index(term.node) > names.index(site)]
        through = (arriving[site] * kept[site][:3]).sum(1)
        torch.testing.assert_close(through + torch.stack(later).sum(0), plus, rtol=1e-12, atol=1e-12)


# ---- a loop of one's own ----


def test_logits_are_new_leaves_from_b1_or_from_given_masks() -> None:
    lin = region("mobile")
    scores = dmbp.masked_scores(lin, target=TARGET)
    first, second = scores.logits(), scores.logits()
    for site, theta in dmbp.initial_logits(lin, scores.sites, TARGET).items():
        assert torch.equal(first[site], theta) and first[site].is_leaf and first[site].requires_grad
        assert first[site].data_ptr() != second[site].data_ptr()
    start = {site: torch.rand_like(theta) for site, theta in first.items()}
    for site, theta in scores.logits(start).items():
        torch.testing.assert_close(theta.detach().sigmoid(), start[site], rtol=1e-12, atol=1e-12)
    with pytest.raises(DmbpError, match="the masks to start from must be those of the sites"):
        scores.logits({scores.sites[0]: start[scores.sites[0]]})


@pytest.mark.parametrize("unmasked", UNMASKED)
@pytest.mark.parametrize(("name", "sites"), [("chain_with_biases", "gates"), ("mobile", "blocks"), ("gates", "gates")])
def test_a_loop_of_ones_own_with_rmsprop_is_learn_masks(name: str, sites: str, unmasked: str) -> None:
    lin = region(name)
    scores = dmbp.masked_scores(lin, sites, TARGET, unmasked=unmasked)
    logits = scores.logits()
    optimizer = torch.optim.RMSprop(logits.values(), lr=0.01)
    for _ in range(20):
        positive, negative = scores(logits)
        optimizer.zero_grad()
        LOSSES["all"](scores.y, positive, negative).sum().backward()
        optimizer.step()
    learned = dmbp.learn_masks(lin, TARGET, iterations=20, sites=sites, unmasked=unmasked, progress=False)
    for site, mask in scores.split(logits).masks.items():
        torch.testing.assert_close(mask, learned.masks[site], rtol=0, atol=1e-10)


def test_float32_is_float64_to_rounding() -> None:
    model, x = NETS["mobile"]()
    single = dmbp.masked_scores(linreg.trace(model.float(), x.float()).linearize(x.float()), target=TARGET)
    double = dmbp.masked_scores(region("mobile"), target=TARGET)
    logits = random_logits(double)
    rounded = {site: theta.detach().float().requires_grad_() for site, theta in logits.items()}
    ours, expected = single(rounded), double(logits)
    for found, wanted in zip(ours, expected, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
    sides = COTANGENTS["both sides"]
    gradient = gradients(ours, (sides[0].float(), sides[1].float()), rounded)
    for found, wanted in zip(gradient, gradients(expected, sides, logits), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-4)


def test_channels_last_are_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of logits in either order."""
    first = dmbp.masked_scores(region("mobile"), target=TARGET)
    monkeypatch.setattr("dmbp.learning.passes.pays", lambda *arguments: True)
    last = dmbp.masked_scores(region("mobile"), target=TARGET)
    logits = random_logits(first)
    turned = {
        site: theta.detach().contiguous(memory_format=last.network.sites[site].layout).requires_grad_()
        for site, theta in logits.items()
    }
    assert any(theta.stride() != logits[site].stride() for site, theta in turned.items())
    expected = gradients(first(logits), COTANGENTS["both sides"], logits)
    for own in (logits, turned):
        for found, wanted in zip(gradients(last(own), COTANGENTS["both sides"], own), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


def test_nothing_but_the_logits_gradient_is_written() -> None:
    lin = region("residual_outer")
    scores = dmbp.masked_scores(lin, target=TARGET)
    logits = random_logits(scores)
    held = [lin.input, lin.output, scores.y, *logits.values(), *scores.network.border.values()]
    before = [value.detach().clone() for value in held]
    for _ in range(2):  # the second as the first: nothing was used up
        positive, negative = scores(logits)
        (positive + 2 * negative).sum().backward()
    assert all(torch.equal(old, value) for old, value in zip(before, held, strict=True))
    once = gradients(scores(logits), (numbers(1, 1, 1), numbers(2, 2, 2)), logits)
    for theta, grad in zip(logits.values(), once, strict=True):
        torch.testing.assert_close(theta.grad, 2 * grad, rtol=1e-12, atol=1e-13)


def test_logits_that_change_before_the_backward_are_seen() -> None:
    scores = dmbp.masked_scores(region("chain_with_biases"), target=TARGET)
    logits = scores.logits()
    positive, _ = scores(logits)
    with torch.no_grad():
        logits["3"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        positive.sum().backward()


def test_scores_are_made_under_inference_mode_too() -> None:
    lin = region("chain_with_biases")
    with torch.inference_mode():
        inner = lin.graph.linearize(lin.input.clone())
        made = dmbp.masked_scores(inner, target=TARGET)
    logits = random_logits(made)
    ours, expected = made(logits), plain_scores(made, logits)
    for found, wanted in zip(
        gradients(ours, COTANGENTS["both sides"], logits),
        gradients(expected, COTANGENTS["both sides"], logits),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)


def test_wrong_logits_are_refused() -> None:
    scores = dmbp.masked_scores(region("chain_with_biases"), target=TARGET)
    logits = scores.logits()
    wrong: list[tuple[Any, str]] = [
        (list(logits.values()), "the logits must be a mapping from each site to a tensor: 1, 3, 5"),
        ({"1": logits["1"]}, "the logits must be a mapping from each site to a tensor: 1, 3, 5"),
        (logits | {"1": logits["1"][:2]}, r"the logits of '1' must be torch.float64 \(3, 8\) on cpu, not .* \(2, 8\)"),
        (logits | {"1": logits["1"].float()}, r"the logits of '1' must be .*, not torch.float32 \(3, 8\) on cpu"),
        (logits | {"1": logits["1"].to("meta")}, r"the logits of '1' must be .*, not torch.float64 \(3, 8\) on meta"),
        (logits | {"1": 0.5}, "the logits of '1' must be .*, not float"),
    ]
    for given, message in wrong:
        for use in (scores, scores.split):
            with pytest.raises(DmbpError, match=message):
                use(given)  # type: ignore[operator]


def test_what_has_no_scores_is_refused() -> None:
    lin = region("chain_with_biases")
    low = linreg.trace(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).bfloat16(), torch.zeros(1, 4).bfloat16())
    overflowing = Lambda(lambda x: x.masked_fill(x < 0, -torch.inf).amax(1, keepdim=True))
    x = torch.tensor([[1.0, -1.0]])
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: dmbp.masked_scores(lin.graph, target=0), "expected a Linearization"),  # type: ignore[arg-type]
        (lambda: dmbp.masked_scores(lin, "layers", 0), "sites must be one of 'gates', 'blocks'"),
        (lambda: dmbp.masked_scores(lin, ["nowhere"], 0), "no node 'nowhere'"),
        (lambda: dmbp.masked_scores(lin, target=7), "class 7 does not exist"),
        (lambda: dmbp.masked_scores(lin, target=0, unmasked="twice"), "unmasked must be one of"),
        (lambda: dmbp.masked_scores(low.linearize(torch.zeros(1, 4).bfloat16()), target=0), "float32 or float64"),
        (lambda: dmbp.masked_scores(linreg.trace(overflowing, x).linearize(x)), "site 'masked_fill' holds infinite"),
    ]
    for make, message in wrong:
        with pytest.raises(linreg.LinregError, match=message):
            make()


def test_they_print_as_people_read_them() -> None:
    scores = dmbp.masked_scores(region("chain_with_biases"), target=TARGET)
    assert repr(scores) == "MaskedScores(images=3, sites=('1', '3', '5'), unmasked='nuisance')"
