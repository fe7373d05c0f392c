"""dmbp against the literal Algorithm 1 of `literal_dmbp`, which differentiates backward passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import literal_dmbp as literal
import pytest
import torch
from nets import NETS, Net, seeded_net
from splits import random_masks
from torch import Tensor, nn

import dmbp
import linreg

ITERATIONS = 20
IMAGES = 2
CLASSES = [0, 2]


class Basic(nn.Module):
    """φ(W₂ φ(W₁ h) + h), torchvision's block, with a ReLU for each call as the twin needs it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, h: Tensor) -> Tensor:
        return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(h))))) + h)


class Outer(nn.Module):
    """φ(W h) + h."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.relu = nn.Linear(width, width), nn.ReLU()

    def forward(self, h: Tensor) -> Tensor:
        return self.relu(self.linear(h)) + h


def seeded(build: Callable[[], nn.Module], *shape: int) -> Callable[[], Net]:
    return partial(seeded_net, build, *shape, images=IMAGES)


def saturating() -> nn.Module:
    """Gates with offsets and with two slopes; wide weights saturate a good part of them."""
    model = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 8), nn.Hardtanh(-1.5, 0.5), nn.Linear(8, 8), nn.LeakyReLU(0.2),
        nn.Linear(8, 8), nn.PReLU(8, 0.3), nn.Linear(8, 3),
    )  # fmt: skip
    nn.init.normal_(model[0].weight, 0, 4)
    return model


@dataclass(frozen=True)
class Case:
    """A network, and where its masks sit by definition: at every gate (Eq. 16), or at whole blocks Σ (Ŵ + I)."""

    build: Callable[[], Net]
    gates: tuple[str, ...]
    blocks: tuple[str, ...] = ()

    @property
    def sites(self) -> dict[str, tuple[str, ...]]:
        return {"gates": self.gates, "blocks": self.blocks or self.gates}


CASES = {
    "chain": Case(NETS["chain_with_biases"], ("1", "3", "5")),
    "batch norm": Case(NETS["conv_bn"], ("2", "5", "9")),
    "free batch norm": Case(NETS["free_bn"], ("2", "5")),
    "pooling": Case(NETS["pools"], ("1", "4", "7")),
    "residual": Case(NETS["residual_outer"], ("1", "2.relu", "3.relu"), ("1", "2.add", "3.add")),
    "residual first": Case(
        seeded(lambda: nn.Sequential(Outer(5), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), 5),
        ("0.relu", "2"),
        ("0.add", "2"),
    ),
    "torchvision": Case(
        seeded(
            lambda: nn.Sequential(
                nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), Basic(3), Basic(3),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3),
            ),
            2, 8, 8,
        ),
        ("2", "4.relu1", "4.relu2", "5.relu1", "5.relu2"),
    ),
    "linear residual": Case(
        NETS["mobile"],
        ("2", "3.layers.2", "3.layers.5", "4.layers.2", "4.layers.5"),
        ("2", "3.layers.2", "3.layers.5", "3.add", "4.layers.2", "4.layers.5", "4.add"),
    ),
    "saturating": Case(seeded(saturating, 6), ("1", "3", "5", "7")),
}  # fmt: skip


PLACES = [
    (name, place) for name, case in CASES.items() for place in (("gates", "blocks") if case.blocks else ("gates",))
]
OBJECTIVES = [("all", "nuisance"), ("all", "both"), ("+-", "nuisance"), ("+", "nuisance")]


@cache
def network(name: str) -> tuple[nn.Module, Tensor, linreg.Linearization]:
    model, x = CASES[name].build()
    x = x[:IMAGES]
    return model, x, linreg.trace(model, x).linearize(x)


def one_hot(image: int) -> Tensor:
    return torch.eye(3, dtype=torch.float64)[CLASSES[image]][None]


@cache
def twin(name: str, place: str, loss: str, unmasked: str) -> tuple[literal.Learned, ...]:
    """Algorithm 1, image by image."""
    model, x, _ = network(name)
    sites = CASES[name].sites[place]
    return tuple(
        literal.algorithm_1(
            model, x[i : i + 1], one_hot(i), sites, loss=loss, unmasked=unmasked, iterations=ITERATIONS
        )
        for i in range(IMAGES)
    )  # fmt: skip


def stacked(parts: tuple[dict[str, Tensor], ...]) -> dict[str, Tensor]:
    return {site: torch.cat([part[site] for part in parts]) for site in parts[0]}


@pytest.mark.parametrize("place", ["gates", "blocks"])
@pytest.mark.parametrize("name", CASES)
def test_sites_are_where_the_paper_puts_them(name: str, place: str) -> None:
    assert dmbp.find_sites(network(name)[2].graph, place) == CASES[name].sites[place]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_b1_equals_the_literal_sweep_exactly(name: str, place: str) -> None:
    model, x, lin = network(name)
    sites = CASES[name].sites[place]
    ours = dmbp.initial_logits(lin, sites, CLASSES)
    swept = []
    for i in range(IMAGES):
        image = x[i : i + 1]
        swept.append(literal.initial_logits(literal.frozen(model, image), image, one_hot(i), sites))
    assert list(ours) == list(sites)
    for site, expected in stacked(tuple(swept)).items():
        assert torch.equal(ours[site], expected), site
    assert {-2.0, 2.0} <= set(torch.cat([theta.flatten() for theta in ours.values()]).tolist())


class Cancelling(nn.Module):
    """Σ φ(a φ(x)) − φ(b φ(x)), with a and b such that at φ(x) ∇F⁺ is positive and ∇F⁻ cancels to exactly 0."""

    def __init__(self) -> None:
        super().__init__()
        two = torch.tensor(2.0, dtype=torch.float64)
        self.a, self.b = 1 - torch.sigmoid(-two), 1 - torch.sigmoid(two)
        self.first, self.left, self.right = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return (self.left(self.a * h) - self.right(self.b * h)).sum(1, keepdim=True)


def test_b1_takes_a_gradient_of_zero_for_no_sign() -> None:
    model, x = Cancelling(), torch.ones(1, 2, dtype=torch.float64)
    x[0, 1] = -1
    sites = ("first", "left", "right")
    ours = dmbp.initial_logits(linreg.trace(model, x).linearize(x), sites)
    swept = literal.initial_logits(literal.frozen(model, x), x, torch.ones(1, 1, dtype=torch.float64), sites)
    expected = {"first": [[0.0, 0.0]], "left": [[2.0, 2.0]], "right": [[-2.0, -2.0]]}
    assert {site: theta.tolist() for site, theta in ours.items()} == expected
    assert {site: theta.tolist() for site, theta in swept.items()} == expected


@pytest.mark.parametrize(("name", "place"), PLACES)
@pytest.mark.parametrize("unmasked", ["nuisance", "both"])
def test_split_equals_the_literal_backward_passes(name: str, place: str, unmasked: str) -> None:
    """Scores, mappings ∇ₓF± and every ∇_b F± ⊙ b, for masks at random."""
    model, x, lin = network(name)
    masks = random_masks(lin, CASES[name].sites[place])
    split = dmbp.decompose(lin, masks, CLASSES, unmasked)
    for i in range(IMAGES):
        image, w = x[i : i + 1], one_hot(i)
        net = literal.frozen(model, image)
        own = {site: mask[i : i + 1] for site, mask in masks.items()}
        plus = literal.backward_pass(net, image, w, own)
        minus = literal.backward_pass(net, image, w, {site: 1 - mask for site, mask in own.items()})
        nothing = literal.backward_pass(net, image, w, {site: torch.zeros(()) for site in own})
        share = 1 if unmasked == "nuisance" else 0
        y = (w * model(image)).sum()
        nuisance = y - (plus.score - share * nothing.score) - (minus.score - share * nothing.score)
        scale = lin.ledger(CLASSES).magnitude[i].item()
        for found, expected in [
            (split.y, y),
            (split.positive, plus.score - share * nothing.score),
            (split.negative, minus.score - share * nothing.score),
            (split.nuisance, nuisance),
            (split.unmasked, nothing.score),
        ]:
            assert (found[i] - expected).abs() <= 1e-12 * scale
        for part, masked, less in [("positive", plus, share), ("negative", minus, share), ("unmasked", nothing, 0)]:
            ledger = split.ledger(part)
            torch.testing.assert_close(
                ledger.weight[i : i + 1], masked.gradient - less * nothing.gradient, rtol=0, atol=1e-12 * scale
            )
            ours = {term.name: term.total[i] for term in ledger.terms}
            theirs = {b: (masked.terms[b] - less * nothing.terms[b]).sum() for b in masked.terms}
            assert all((ours.get(b, 0) - value).abs() <= 1e-12 * scale for b, value in theirs.items())
            assert set(ours) <= set(theirs)


@pytest.mark.parametrize(("name", "place"), PLACES)
@pytest.mark.parametrize(("loss", "unmasked"), OBJECTIVES)
def test_masks_equal_those_of_algorithm_1(name: str, place: str, loss: str, unmasked: str) -> None:
    """The images are optimised together here, and each by itself in the twin: a batch is independent problems."""
    _, _, lin = network(name)
    runs = twin(name, place, loss, unmasked)
    ours = dmbp.learn_masks(
        lin, CLASSES, iterations=ITERATIONS, loss=loss, sites=place, unmasked=unmasked, progress=False
    )  # fmt: skip
    expected, start = stacked(tuple(run.masks for run in runs)), stacked(tuple(run.start for run in runs))
    assert list(ours.masks) == list(expected)
    for site, mask in expected.items():
        assert (ours.masks[site] - mask).abs().max() <= 1e-10, site
        assert torch.equal(ours.initial[site], start[site].sigmoid())
    moved = torch.cat([(expected[site] - start[site].sigmoid()).abs().flatten() for site in expected])
    assert moved.max() > 0.01  # 20 steps that went nowhere would prove nothing
    history = torch.tensor([run.history for run in runs], dtype=torch.float64)  # image, iteration, part
    for k, part in enumerate(("positive", "negative", "nuisance")):
        torch.testing.assert_close(ours.history[part], history[:, :, k].T, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("name", "place"), PLACES)
@pytest.mark.parametrize("unmasked", ["nuisance", "both"])
def test_map_equals_that_of_algorithm_1(name: str, place: str, unmasked: str) -> None:
    _, x, lin = network(name)
    result = dmbp.explain(
        lin.graph, x, CLASSES, iterations=ITERATIONS, sites=place, unmasked=unmasked, progress=False
    )  # fmt: skip
    expected = torch.cat([run.attribution for run in twin(name, place, "all", unmasked)])
    torch.testing.assert_close(result.attribution, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("first", "second"), [("all", "+-"), ("all", "+"), ("+-", "+")])
def test_objectives_lead_to_different_masks(name: str, first: str, second: str) -> None:
    """By far more than the comparison with the twin allows, which would else say nothing about which of them it saw.

    "all" follows y⁺ or y⁻ alone, and RMSprop does not see that 2 y⁺ is twice y⁺: it can come near "+".
    """
    masks = [stacked(tuple(run.masks for run in twin(name, "gates", loss, "nuisance"))) for loss in (first, second)]
    assert max((masks[0][site] - masks[1][site]).abs().max() for site in masks[0]) > 1e-6


def test_counting_the_unmasked_twice_leads_to_other_masks() -> None:
    """In "all", u enters through the sign of y~: for some network here, the two ways of counting part."""
    runs = [twin("residual first", "gates", "all", unmasked) for unmasked in ("nuisance", "both")]
    masks = [torch.cat([mask.flatten() for run in pair for mask in run.masks.values()]) for pair in runs]
    assert (masks[0] - masks[1]).abs().max() > 1e-4
