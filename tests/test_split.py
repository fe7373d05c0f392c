"""y = y⁺ + y⁻ + y~ for given masks: exact, and each part what the paper defines it to be (Eqs. 6 to 9, 13, 14)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from itertools import product

import pytest
import torch
from approx import assert_within
from literal import layers
from nets import NETS, traced
from splits import Masks, complement, literal_shares, random_masks, recurred, uniform_masks
from torch import Tensor, nn

import dmbp
import linreg
from dmbp.account import PARTS
from dmbp.learning.objective import loss_all

TARGET = [0, 2, 1]
IMAGES = len(TARGET)
EXACT = 1e-12


def region(name: str) -> tuple[nn.Module, linreg.Linearization]:
    t = traced(name)
    return t.model, t.lin


def picked(output: Tensor) -> Tensor:
    """The score of each image's own class."""
    return output[torch.arange(IMAGES), TARGET]


def scale(lin: linreg.Linearization) -> Tensor:
    """Σ|terms| of y: the size of its rounding errors."""
    return lin.ledger(TARGET).magnitude


SPLITS = [(name, sites) for name in NETS for sites in ("gates", "blocks")]


@pytest.mark.parametrize(("name", "sites"), SPLITS)
@pytest.mark.parametrize("unmasked", ["nuisance", "both"])
def test_the_three_parts_give_the_models_score(name: str, sites: str, unmasked: str) -> None:
    """y from the model itself, y~ from the recurrence, which knows nothing of y."""
    model, lin = region(name)
    masks = random_masks(lin, sites)
    split = dmbp.decompose(lin, masks, TARGET, unmasked)
    parts = recurred(lin, masks, TARGET, unmasked)
    with torch.no_grad():
        y = picked(model(lin.input))
    assert_within(split.y, y, scale(lin))
    for part in PARTS:
        assert_within(getattr(split, part), getattr(parts, part), scale(lin))
    assert_within(split.positive + split.negative + parts.nuisance, y, scale(lin))
    assert_within(parts.total, y, scale(lin))
    assert_within(split.error, 0.0, scale(lin))


def test_error_sees_a_split_that_is_not_exact() -> None:
    _, lin = region("chain_with_biases")
    masks = random_masks(lin)
    split = dmbp.decompose(lin, masks, TARGET)
    wrong = replace(split, passes=(dmbp.masked(lin, complement(masks)), *split.passes[1:]))
    assert (wrong.error > 1e-3).all()


@pytest.mark.parametrize("name", NETS)
def test_uniform_masks(name: str) -> None:
    """σ = 1: y⁺ = y − u, y⁻ = 0, y~ = u; σ = 0: the two change places."""
    _, lin = region(name)
    ones, zeros = (dmbp.decompose(lin, uniform_masks(lin, value), TARGET) for value in (1.0, 0.0))
    size = scale(lin)
    for split, all_of_it, nothing in [(ones, "positive", "negative"), (zeros, "negative", "positive")]:
        assert_within(getattr(split, all_of_it), split.y - split.unmasked, size)
        assert_within(getattr(split, nothing), 0.0, size)
        assert_within(split.nuisance, split.unmasked, size)
        assert split.ledger(nothing).weight.abs().max() <= EXACT * size.max()
    assert_within(ones.unmasked, zeros.unmasked, size)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("unmasked", ["nuisance", "both"])
def test_complementary_masks_swap_the_two_sides(name: str, unmasked: str) -> None:
    _, lin = region(name)
    masks = random_masks(lin)
    split = dmbp.decompose(lin, masks, TARGET, unmasked)
    swapped = dmbp.decompose(lin, complement(masks), TARGET, unmasked)
    for part, other in [("positive", "negative"), ("negative", "positive"), ("nuisance", "nuisance")]:
        assert_within(getattr(swapped, part), getattr(split, other), scale(lin))
        torch.testing.assert_close(swapped.attribution(part), split.attribution(other), rtol=1e-10, atol=1e-12)
    assert (split.positive - split.negative).abs().min() > 1e-6  # to swap two equal numbers would prove nothing


@pytest.mark.parametrize(("name", "sites"), SPLITS)
def test_the_masked_network_is_linear_in_the_mask_of_each_site(name: str, sites: str) -> None:
    _, lin = region(name)
    masks, others = random_masks(lin, sites, seed=1), random_masks(lin, sites, seed=2)
    for site in masks:
        mix = 0.3 * masks[site] + 0.7 * others[site]
        p, q, r = (
            dmbp.masked(lin, {**masks, site: mask}).score(TARGET) for mask in (masks[site], others[site], mix)
        )  # fmt: skip
        assert_within(r, 0.3 * p + 0.7 * q, scale(lin))


def test_the_masked_network_depends_on_the_mask_of_each_site() -> None:
    """Otherwise to be linear in it would be no feat; one node of `wiring` is cut off behind it, by a slice."""
    inert = set()
    for name, sites in SPLITS:
        _, lin = region(name)
        masks, others = random_masks(lin, sites, seed=1), random_masks(lin, sites, seed=2)
        whole = dmbp.masked(lin, masks).score(TARGET)
        for site in masks:
            moved = dmbp.masked(lin, {**masks, site: others[site]}).score(TARGET)
            if (moved - whole).abs().max() < 1e-6:
                inert.add((name, site))
    assert inert <= {("wiring", "sub")}


def one_layer() -> tuple[nn.Sequential, linreg.Linearization]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()
        x = torch.randn(IMAGES, 5, dtype=torch.float64)
    return model, linreg.trace(model, x).linearize(x)


def test_with_one_masked_layer_the_nuisance_is_what_no_mask_touches() -> None:
    """y~ = u, the output's bias; Algorithm 1 to the letter counts it twice, and leaves −u."""
    model, lin = one_layer()
    bias = model[2].bias.detach()[TARGET]
    for unmasked, expected in [("nuisance", bias), ("both", -bias)]:
        split = dmbp.decompose(lin, random_masks(lin), TARGET, unmasked)
        assert_within(split.unmasked, bias, scale(lin))
        assert_within(split.nuisance, expected, scale(lin))
        assert_within(split.ledger("nuisance").total, expected, scale(lin))
        assert split.attribution("nuisance").abs().max() <= EXACT


@pytest.mark.parametrize("name", NETS)
def test_both_leaves_the_unmasked_in_either_pass(name: str) -> None:
    _, lin = region(name)
    masks = random_masks(lin)
    aside, both = (dmbp.decompose(lin, masks, TARGET, unmasked) for unmasked in ("nuisance", "both"))
    u = aside.unmasked
    assert_within(both.unmasked, u, scale(lin))
    assert_within(both.positive, aside.positive + u, scale(lin))
    assert_within(both.negative, aside.negative + u, scale(lin))
    assert_within(both.nuisance, aside.nuisance - 2 * u, scale(lin))


def test_what_no_mask_touches_is_the_output_bias_and_the_paths_past_every_site() -> None:
    model, lin = region("chain_with_biases")
    assert_within(dmbp.decompose(lin, random_masks(lin), TARGET).unmasked, model[-1].bias.detach()[TARGET], scale(lin))
    model, lin = region("shortcut")
    with torch.no_grad():
        u = picked(model.wide(lin.input.flatten(1)) + model.deep[-1].bias)
    split = dmbp.decompose(lin, random_masks(lin), TARGET)
    assert_within(split.unmasked, u, scale(lin))
    weight = model.wide.weight.detach()[TARGET].view_as(lin.input)
    torch.testing.assert_close(split.ledger("unmasked").weight, weight, rtol=0, atol=EXACT)


def signed_layers(model: nn.Module, x: Tensor, masks: Masks) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """Of each hidden layer of a chain {"+": Σ D W, "-": (I − Σ) D W, "b+": Σ D b, "b-": (I − Σ) D b}; and (w, b)."""
    assert isinstance(model, nn.Sequential)
    *hidden, last = layers(model)
    found, h = [], x
    for (weight, bias), mask in zip(hidden, masks.values(), strict=True):
        gate = torch.diag((weight @ h + bias > 0).to(x))
        h = gate @ (weight @ h + bias)
        signs = {"+": torch.diag(mask[0]) @ gate, "-": torch.diag(1 - mask[0]) @ gate}
        found.append({s: m @ weight for s, m in signs.items()} | {f"b{s}": m @ bias for s, m in signs.items()})
    return found, list(last)


def along(chain: list[dict[str, Tensor]], pattern: tuple[str, ...], start: Tensor) -> Tensor:
    """`start` through the layers' matrices, each with its sign."""
    return reduce(lambda h, part: part[0][part[1]] @ h, zip(chain, pattern, strict=True), start)


def test_matrices_are_sums_over_sign_patterns() -> None:
    """H⁺ and H⁻ are the two uniform patterns of (+, −)^L, H~ the sum of the 2^L − 2 mixed ones (Eq. 9)."""
    model, whole = region("chain")
    lin = whole.graph.linearize(whole.input[:1])
    masks = random_masks(lin, seed=3)
    chain, (w, _) = signed_layers(model, lin.input[0], masks)
    patterns = list(product("+-", repeat=len(chain)))
    mixed = [p for p in patterns if len(set(p)) == 2]
    assert len(mixed) == 2 ** len(chain) - 2 == 6
    identity = torch.eye(5).double()
    expected = {
        "positive": along(chain, patterns[0], identity),
        "negative": along(chain, patterns[-1], identity),
        "nuisance": sum(along(chain, p, identity) for p in mixed),
    }
    last = lin.graph["5"]
    for sigma, part in [(masks, "positive"), (complement(masks), "negative")]:
        rows = [dmbp.masked(lin, sigma).adjoint(e[None], stop=last.name)[0] for e in torch.eye(*last.shape).double()]
        torch.testing.assert_close(torch.stack(rows), expected[part], rtol=EXACT, atol=EXACT)
    for target in range(3):
        split = dmbp.decompose(lin, masks, target)
        for part, matrix in expected.items():
            torch.testing.assert_close(split.ledger(part).weight[0], w[target] @ matrix, rtol=EXACT, atol=EXACT)
    for j, e in enumerate(torch.eye(5).double()):
        column = dmbp.recurrence(replace(lin, input=e[None]), masks)
        for state, matrix in zip(column, expected.values(), strict=True):
            torch.testing.assert_close(state[0], w @ matrix[:, j], rtol=EXACT, atol=EXACT)


def test_biases_meet_the_masks_from_their_layer_on() -> None:
    """Bias l lies behind L − l + 1 sites: its uniform patterns go to y⁺ and y⁻, its mixed ones to y~; the last to u."""
    model, whole = region("chain_with_biases")
    lin = whole.graph.linearize(whole.input[:1])
    masks = random_masks(lin, seed=4)
    chain, (w, b) = signed_layers(model, lin.input[0], masks)
    sums = {"positive": torch.zeros(3).double(), "negative": torch.zeros(3).double(), "nuisance": b.clone()}

    def add(pattern: tuple[str, ...], value: Tensor) -> None:
        part = "nuisance" if len(set(pattern)) == 2 else {"+": "positive", "-": "negative"}[pattern[0]]
        sums[part] += w @ value

    for pattern in product("+-", repeat=len(chain)):
        add(pattern, along(chain, pattern, start=lin.input[0]))
    for l in range(len(chain)):
        for pattern in product("+-", repeat=len(chain) - l):
            add(pattern, along(chain[l + 1 :], pattern[1:], start=chain[l][f"b{pattern[0]}"]))
    for target in range(3):
        split = dmbp.decompose(lin, masks, target)
        for part, expected in sums.items():
            assert_within(getattr(split, part), expected[target], lin.ledger(target).magnitude)


def test_objective_is_the_larger_of_two_lines() -> None:
    """y⁻ − y⁺ + |y − y⁺ − y⁻| = max(y − 2 y⁺, 2 y⁻ − y) (Eq. 10): one of the two passes has no gradient."""
    generator = torch.Generator().manual_seed(0)
    y, positive, negative = (
        10 * torch.randn(3, 1000, generator=generator, dtype=torch.float64)
    ).requires_grad_().unbind()  # fmt: skip
    literal = negative - positive + (y - positive - negative).abs()
    lines = torch.stack([y - 2 * positive, 2 * negative - y])
    torch.testing.assert_close(literal, lines.max(0).values, rtol=0, atol=1e-13)
    loss = loss_all(y, positive, negative)
    torch.testing.assert_close(loss, literal, rtol=0, atol=1e-13)
    slopes = torch.autograd.grad(loss.sum(), (positive, negative))
    first = lines.argmax(0) == 0
    assert first.any() and not first.all()
    assert torch.equal(slopes[0], torch.where(first, -2.0, 0.0).double())
    assert torch.equal(slopes[1], torch.where(first, 0.0, 2.0).double())


@pytest.mark.parametrize(("name", "sites"), SPLITS)
@pytest.mark.parametrize("unmasked", ["nuisance", "both"])
def test_ledgers_sum_to_their_parts(name: str, sites: str, unmasked: str) -> None:
    """Σ ∇ ⊙ x + Σ_k g_k · β_k is each of y⁺, y⁻, y~ and u."""
    _, lin = region(name)
    split = dmbp.decompose(lin, random_masks(lin, sites), TARGET, unmasked)
    for part in PARTS:
        ledger = split.ledger(part)
        assert_within(ledger.total, getattr(split, part), scale(lin))
        assert torch.equal(split.attribution(part), ledger.weight * lin.input)
        assert_within(split.attribution(part).flatten(1).sum(1) + ledger.bias_share, getattr(split, part), scale(lin))


@pytest.mark.parametrize(("name", "sites"), SPLITS)
@pytest.mark.parametrize("unmasked", ["nuisance", "both"])
def test_every_term_of_a_part_is_its_own_share(name: str, sites: str, unmasked: str) -> None:
    """∇ and each g_k · β_k of y⁺, y⁻, y~ and u, by autograd through the literal recurrence; first three sum to y's."""
    model, lin = region(name)
    masks = random_masks(lin, sites)
    split = dmbp.decompose(lin, masks, TARGET, unmasked)
    shares = literal_shares(lin, masks, TARGET, unmasked)
    for part in PARTS:
        ledger = split.ledger(part)
        torch.testing.assert_close(ledger.weight, shares[part].weight, rtol=1e-10, atol=EXACT)
        for term, expected in zip(ledger.terms, shares[part].constants.values(), strict=True):
            assert_within(term.total, expected, scale(lin))
    x = lin.input.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(picked(model(x)).sum(), x)
    three = sum(shares[part].weight for part in ("positive", "negative", "nuisance"))
    torch.testing.assert_close(three, gradient, rtol=1e-10, atol=EXACT)
    terms = zip(lin.ledger(TARGET).terms, *(shares[p].constants.values() for p in PARTS[:3]), strict=True)
    for term, *each in terms:
        assert_within(sum(each), term.total, scale(lin))


@pytest.mark.parametrize("node", ["0", "2"])
def test_ledgers_sum_to_their_parts_where_a_layer_with_a_bias_is_masked(node: str) -> None:
    """A site may be any node: here convolutions, whose bias is one number for each channel and meets a mask of many."""
    lin = convolutions()
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, *lin.graph[node].shape)
    split = dmbp.decompose(lin, {node: torch.rand(shape, generator=generator, dtype=torch.float64)}, TARGET)
    for part in PARTS:
        assert_within(split.ledger(part).total, getattr(split, part), scale(lin))


def convolutions() -> linreg.Linearization:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.Flatten(), nn.Linear(18, 3))
        model = model.double()
        x = torch.randn(IMAGES, 1, 6, 6, dtype=torch.float64)
    return linreg.trace(model, x).linearize(x)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda masks: {}, "masks must be a mapping .* not an empty one"),
        (lambda masks: {"nowhere": masks["1"]}, "no node 'nowhere'"),
        (lambda masks: {"1": masks["1"][0]}, r"must have shape \(3, 8\), not \(8,\)"),
        (lambda masks: {"1": masks["1"][:2]}, r"must have shape \(3, 8\), not \(2, 8\)"),
        (lambda masks: {"1": masks["1"].float()}, "must be torch.float64"),
        (lambda masks: {"1": masks["1"] - 0.5}, r"must lie in \[0, 1\]"),
        (lambda masks: {"1": masks["1"] + 0.5}, r"must lie in \[0, 1\]"),
        (lambda masks: {"1": masks["1"] * float("nan")}, r"must lie in \[0, 1\]"),
        (lambda masks: {"1": masks["1"].log()}, r"must lie in \[0, 1\]"),
    ],
)
def test_masks_that_do_not_fit_are_refused(spoil: Callable[[Masks], Masks], message: str) -> None:
    _, lin = region("chain_with_biases")
    with pytest.raises(linreg.LinregError, match=message):
        dmbp.decompose(lin, spoil(random_masks(lin)), TARGET)


def test_masks_that_are_no_tensors_are_refused() -> None:
    _, lin = region("chain_with_biases")
    with pytest.raises(linreg.LinregError, match=r"the mask of .*1"):
        dmbp.decompose(lin, {"1": 0.5}, TARGET)  # type: ignore[dict-item]


def test_other_wrong_arguments_are_refused() -> None:
    _, lin = region("chain_with_biases")
    masks = random_masks(lin)
    with pytest.raises(dmbp.DmbpError, match="unmasked must be one of 'nuisance', 'both', not 'twice'"):
        dmbp.decompose(lin, masks, TARGET, "twice")
    with pytest.raises(linreg.LinregError, match="3 classes"):
        dmbp.decompose(lin, masks, 3)
    with pytest.raises(linreg.LinregError, match="`target`"):
        dmbp.decompose(lin, masks)
    with pytest.raises(dmbp.DmbpError, match="positive, negative, nuisance, unmasked, not 'neutral'"):
        dmbp.decompose(lin, masks, TARGET).ledger("neutral")


@pytest.mark.parametrize("sites", ["gate", [], "1"])
def test_sites_that_do_not_exist_are_refused(sites: object) -> None:
    _, lin = region("chain_with_biases")
    with pytest.raises(dmbp.DmbpError, match=r"'gates', 'blocks'|nothing to mask"):
        dmbp.find_sites(lin.graph, sites)  # type: ignore[arg-type]


def test_named_sites_are_taken_in_the_order_of_the_graph() -> None:
    _, lin = region("chain_with_biases")
    assert dmbp.find_sites(lin.graph, ["5", "1"]) == ("1", "5")
    with pytest.raises(linreg.LinregError, match="no node '7'"):
        dmbp.find_sites(lin.graph, ["1", "7"])


def test_a_masked_region_can_be_split_again() -> None:
    """Its operators list their constants, masked: the recurrence needs them."""
    _, lin = region("chain_with_biases")
    masks = random_masks(lin)
    inner = dmbp.masked(lin, {next(iter(masks)): masks[next(iter(masks))]})
    assert (dmbp.decompose(inner, masks, TARGET).error <= 1e-12 * scale(lin)).all()
