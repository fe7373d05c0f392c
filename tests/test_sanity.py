"""Localization and layer randomization against literal twins: loops over pixels, and scipy's rank correlation."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from nets import Inner, seeded_net
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from dmbp import DmbpError
from dmbp.evaluation import layer_randomization, localization, methods
from dmbp.evaluation.randomization import redraw, spearman, weighted_layers


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal_shares(values: np.ndarray, own: np.ndarray) -> tuple[float, float]:
    """Of one picture (H, W), pixel by pixel."""
    positive = {True: 0.0, False: 0.0}
    negative = {True: 0.0, False: 0.0}
    for place in np.ndindex(*values.shape):
        if values[place] > 0:
            positive[bool(own[place])] += values[place]
        else:
            negative[bool(own[place])] -= values[place]
    return positive[True] / sum(positive.values()), negative[False] / sum(negative.values())


def test_localization_is_the_literal_one() -> None:
    """Words for all and for each, masks for all and for each, colours summed before signs are looked at."""
    given = maps(4, 3, 6, 7)
    left = np.broadcast_to(np.arange(7) < 3, (6, 7))
    odd = np.indices((6, 7)).sum(0) % 3 == 0
    each = torch.from_numpy(np.stack([left, ~left, odd, ~odd]))
    halves = [(["left", "right", "left", "right"], [left, ~left, left, ~left]), ("right", [~left] * 4),
              (torch.from_numpy(odd), [odd] * 4), (each, list(each.numpy()))]  # fmt: skip
    for own, masks in halves:
        found = localization(given, own)
        for n, mask in enumerate(masks):
            expected = literal_shares(given[n].numpy().sum(0), mask)
            np.testing.assert_allclose((found.positive[n], found.negative[n]), expected, rtol=1e-12)
        flat = localization(given.sum(1), own)
        assert torch.equal(flat.positive, found.positive) and torch.equal(flat.negative, found.negative)
    right = localization(given, "right")
    torch.testing.assert_close(localization(given, "left").positive, 1 - right.positive)


def test_localization_without_evidence_of_a_sign() -> None:
    """0/0 is NaN, and a mean of what there is leaves it out."""
    found = localization(torch.stack([torch.ones(2, 2), -torch.ones(2, 2), torch.zeros(2, 2)]), "left")
    assert found.positive.isnan().tolist() == [False, True, True]
    assert found.negative.isnan().tolist() == [True, False, True]
    assert repr(found) == "Localization(N = 3: positive 0.500, negative 0.500)"


@pytest.mark.parametrize(
    ("given", "own", "words"),
    [
        (torch.ones(4, 4), "left", r"expected maps \(N, C, H, W\)"),
        (torch.full((1, 4, 4), torch.nan), "left", "the map of picture 0 holds NaN"),
        (torch.ones(1, 4, 4), "top", "'left' or 'right'"),
        (torch.ones(1, 4, 4), ["left", "right"], "each of 1 pictures"),
        (torch.ones(1, 4, 4), torch.ones(4, 4), "must hold True and False"),
        (torch.ones(1, 4, 4), torch.ones(3, 4, dtype=torch.bool), "must hold True and False"),
        (torch.ones(2, 4, 4), torch.arange(32).view(2, 4, 4) < 16, "picture 0: the own part"),
        (torch.ones(1, 4, 1), "left", "picture 0: the own part"),
    ],
)
def test_localization_refuses(given: Tensor, own: Any, words: str) -> None:
    with pytest.raises(DmbpError, match=words):
        localization(given, own)


def test_ranks_correlate_as_scipys() -> None:
    """With ties of every number, to rounding; a constant row has none."""
    for seed in range(20):
        coarse = 1 + 3 * (seed % 5)
        a, b = (maps(3, 40, seed=seed + k).mul(coarse).round() for k in (0, 100))
        expected = [spearmanr(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
        np.testing.assert_allclose(spearman(a, b), expected, rtol=0, atol=1e-12)
    constant = torch.ones(1, 40, dtype=torch.float64)
    assert spearman(constant, a[:1]).isnan().all() and spearman(a, a).allclose(torch.ones(3, dtype=torch.float64))


class Net(nn.Module):
    """Layers that are made in another order than they are called; one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)
        self.block = Inner(4, 6, stride=2)
        self.stem = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x).relu()).mean((2, 3)))


LAYERS = ["stem", "block.downsample.0", "block.conv1", "block.conv2", "head"]


@pytest.mark.parametrize("order", ["last", "top-down", "bottom-up"])
def test_layer_randomization_is_the_literal_one(order: str) -> None:
    model, x = seeded_net(Net, 2, 6, 5, images=3, seed=1)
    before = copy.deepcopy(model.state_dict())
    target, method = torch.tensor([0, 2, 1]), methods.ND()
    found = layer_randomization(method, model, x, target, order=order, seed=7)
    chosen = {"last": ["head"], "top-down": LAYERS[::-1], "bottom-up": LAYERS}[order]
    assert list(found.layers) == chosen and found.correlations.shape == (len(chosen), 3)

    def ranked() -> list[np.ndarray]:
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(leaf).gather(1, target[:, None]).sum(), leaf)
        return list((grad * x).sum(1).flatten(1).numpy())

    first, generator = ranked(), torch.Generator().manual_seed(7)
    for row, name in zip(found.correlations, chosen, strict=True):
        layer = model.get_submodule(name)
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                size = parameter.detach().square().mean().sqrt()
                parameter.data = size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        expected = [spearmanr(a, b).statistic for a, b in zip(first, ranked(), strict=True)]
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)
    model.load_state_dict(before)
    again = layer_randomization(method, model, x, target, order=order, seed=7)
    other = layer_randomization(method, model, x, target, order=order, seed=8)
    assert torch.equal(again.correlations, found.correlations)
    assert not torch.equal(other.correlations, found.correlations)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_does_not_look_at_the_network_passes_no_check() -> None:
    """A map of edges keeps its ranks; Guided Backprop, nearly; the gradient of a redrawn head does not."""
    model, x = seeded_net(Net, 2, 6, 5, images=3, seed=1)
    edges = layer_randomization(lambda network, x, target: x.diff(dim=3, prepend=x[..., :1]), model, x, 0)
    assert edges.layers == ("head",) and edges.correlations.allclose(torch.ones(1, 3, dtype=torch.float64))
    assert repr(edges) == "Randomization(head: 1.00)" and dict(edges) == {"head": pytest.approx(1)}
    constant = layer_randomization(lambda network, x, target: torch.zeros_like(x), model, x, 0)
    assert constant.correlations.isnan().all()


def test_what_is_kept_of_a_network_is_not_of_the_redrawn_one() -> None:
    """A method that caches the graph it traced meets new weights at each layer."""
    build = lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))  # noqa: E731
    model, x = seeded_net(build, 2, 6, 5, images=3, seed=1)
    found = layer_randomization(methods.DMBP(loss="none"), model, x, 0, order="top-down")
    expected = layer_randomization(methods.ND(), model, x, 0, order="top-down")
    torch.testing.assert_close(found.correlations, expected.correlations, rtol=0, atol=1e-12)
    assert found.layers == ("3", "0") and len(set(found.correlations.flatten().tolist())) == 6


def test_weights_that_are_computed_from_others_are_redrawn_too() -> None:
    """Under weight norm, spectral norm and the older hooks: the correlations of a plain network of the same weights."""

    def build() -> nn.Module:
        layers = [nn.Conv2d(2, 9, 3), nn.Conv2d(9, 9, 1), nn.Conv2d(9, 4, 1), nn.Linear(48, 3)]
        return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2], nn.ReLU(), nn.Flatten(), layers[3])

    model, x = seeded_net(build, 2, 6, 5, images=3, seed=1)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(0)
        parametrizations.weight_norm(model[0])
        parametrizations.spectral_norm(model[2])
        nn.utils.spectral_norm(model[4])
        nn.utils.weight_norm(model[7])
    plain, _ = seeded_net(build, 2, 6, 5, images=3, seed=1)
    with torch.no_grad():
        model.eval()(x)  # after which all weights are those of eval mode
        for place in (0, 2, 4, 7):
            plain[place].weight.copy_(model[place].weight)
            plain[place].bias.copy_(model[place].bias)
    before = copy.deepcopy(model.state_dict())
    for order in ("last", "top-down", "bottom-up"):
        expected = layer_randomization(methods.ND(), plain, x, 0, order=order)
        found = layer_randomization(methods.ND(), model, x, 0, order=order)
        assert found.layers == expected.layers and len(found.layers) == (1 if order == "last" else 4)
        torch.testing.assert_close(found.correlations, expected.correlations, rtol=0, atol=1e-12)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_layers_and_their_sizes() -> None:
    """In the order of the calls; each parameter keeps its mean square."""
    model, x = seeded_net(Net, 2, 6, 5, images=1, seed=1)
    assert weighted_layers(model, x) == LAYERS
    assert not any(module._forward_pre_hooks for module in model.modules())
    layer = nn.Linear(400, 300).double()
    with torch.no_grad():
        layer.weight.fill_(0.2)
        layer.bias.zero_()
    redraw(layer, torch.Generator().manual_seed(0))
    assert abs(layer.weight.std().item() - 0.2) < 0.002 and abs(layer.weight.mean().item()) < 0.002
    assert not layer.bias.any()


def test_layer_randomization_refuses() -> None:
    model, x = seeded_net(Net, 2, 6, 5, images=2, seed=1)
    with pytest.raises(DmbpError, match="order must be one of 'last', 'top-down', 'bottom-up', not 'up'"):
        layer_randomization(methods.ND(), model, x, 0, order="up")
    with pytest.raises(DmbpError, match="the network calls no layer"):
        layer_randomization(methods.ND(), nn.Flatten().eval(), x, 0)
    with pytest.raises(DmbpError, match="the map of picture 0 holds NaN"):
        layer_randomization(lambda network, x, target: x * torch.nan, model, x, 0)
    with pytest.raises(DmbpError, match="training mode"):
        layer_randomization(methods.ND(), model.train(), x, 0)
