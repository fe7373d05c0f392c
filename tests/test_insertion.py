"""Insertion, cIM and deletion: bit for bit what a literal computation gives, ties and their bounds among it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from dmbp import DmbpError
from dmbp.evaluation import Curve, complementary_insertion, deletion, insertion
from dmbp.evaluation.blur import blurred, kernel
from dmbp.evaluation.ways import Way, deletion_way, insertion_way
from dmbp.plot.curve_picture import draw_curve

CLASSES = 5
Literal = tuple[list[float], float]


def whole_numbers(*shape: int, low: int, high: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, shape, generator=generator, dtype=torch.float64)


def exact_network(inputs: int, seed: int) -> nn.Module:
    """Weights −1, 0, 1: on pictures of few bits, blurred or not, float64 rounds nothing, in whatever order it sums."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 4), nn.ReLU(), nn.Linear(4, CLASSES)).double().eval()
    for k, parameter in enumerate(network.parameters()):
        parameter.data = whole_numbers(*parameter.shape, low=-1, high=1, seed=97 * seed + k) / (8 if k == 0 else 1)
    return network


def case(seed: int) -> tuple[nn.Module, Tensor, Tensor, list[int], list[list[int]], int, int]:
    """A network, two pictures, their maps with many ties, classes, other classes, the step, the batch size."""
    rng = np.random.default_rng(seed)
    channels, height, width = int(rng.choice([1, 3])), *map(int, rng.integers(2, 9, 2))
    x = whole_numbers(2, channels, height, width, low=-8, high=8, seed=seed) / 4
    few = int(rng.choice([0, 1, 2, 50]))  # 0: a constant map; 50: hardly any ties
    maps = whole_numbers(2, channels, height, width, low=-few, high=few, seed=seed + 1000)
    target = [int(k) for k in rng.integers(CLASSES, size=2)]
    others = [[int(k) for k in rng.permutation(CLASSES) if k != own][: rng.integers(1, 4)] for own in target]
    step, batch = int(rng.integers(1, height * width + 2)), int(rng.integers(1, 40))
    return exact_network(channels * height * width, seed), x, maps, target, others, step, batch


def literal_blur(picture: np.ndarray) -> np.ndarray:
    """(C, H, W): every pixel the sum of its 11×11 neighbours, weighted; there is nothing beyond the border."""
    pixel = np.zeros((11, 11))
    pixel[5, 5] = 1
    weights = gaussian_filter(pixel, 5).astype(np.float32).astype(np.float64)
    out = np.zeros_like(picture)
    channels, height, width = picture.shape
    for c, i, j, a, b in itertools.product(range(channels), range(height), range(width), range(11), range(11)):
        if 0 <= i + a - 5 < height and 0 <= j + b - 5 < width:
            out[c, i, j] += weights[a, b] * picture[c, i + a - 5, j + b - 5]
    return out


def literal(
    network: nn.Module,
    start: np.ndarray,
    finish: np.ndarray,
    order: list[tuple[int, int]],
    classes: list[int],
    step: int,
) -> Literal:
    """RISE's loop: one picture at a time, pixels set one after the other."""
    picture, scores = start.copy(), []
    for k in range(0, len(order) + step, step):
        for i, j in order[max(k - step, 0) : k]:
            picture[:, i, j] = finish[:, i, j]
        with torch.no_grad():
            probabilities = network(torch.from_numpy(picture)[None]).softmax(1)[0].tolist()
        scores.append(sum(probabilities[c] for c in classes) / len(classes))
        if k >= len(order):
            break
    return scores, literal_area(scores)


def literal_area(scores: list[float]) -> float:
    exact = sum(map(Fraction, scores)) - Fraction(scores[0]) / 2 - Fraction(scores[-1]) / 2
    return float(exact) / (len(scores) - 1)


def ordered(values: np.ndarray, sign: int) -> list[tuple[int, int]]:
    """Row by row where values are equal."""
    return sorted(np.ndindex(*values.shape), key=lambda place: (sign * values[place], place))


def expected(name: str, seed: int, n: int) -> Literal:
    network, x, maps, target, others, step, _ = case(seed)
    picture, values = x[n].numpy(), maps[n].numpy().sum(0)
    if name == "insertion":
        return literal(network, literal_blur(picture), picture, ordered(values, -1), [target[n]], step)
    if name == "deletion":
        return literal(network, picture, np.zeros_like(picture), ordered(values, -1), [target[n]], step)
    return literal(network, literal_blur(picture), picture, ordered(values, 1), others[n], step)


def found(name: str, seed: int) -> Curve:
    network, x, maps, target, others, step, batch = case(seed)
    metrics: dict[str, Callable[..., Curve]] = {"insertion": insertion, "deletion": deletion}
    if name in metrics:
        return metrics[name](network, x, target, maps, step=step, batch_size=batch)
    return complementary_insertion(network, x, target, maps, others, step=step, batch_size=batch)


@pytest.mark.parametrize("name", ["insertion", "deletion", "complementary_insertion"])
def test_bit_for_bit_the_literal_computation(name: str) -> None:
    tied = 0
    for seed in range(50):
        curve = found(name, seed)
        tied += int(curve.tied.sum())
        for n in range(2):
            scores, area = expected(name, seed, n)
            assert curve.scores[n].tolist() == scores, (seed, n)
            assert curve.area[n].item() == area, (seed, n)
        assert curve.counts.tolist()[0] == 0 and curve.counts.tolist()[-1] == case(seed)[2][0, 0].numel()
    assert tied > 100


def test_the_bounds_hold_for_every_order_of_ties() -> None:
    """All orders of six pixels: those that the map allows stay within, and without ties the bounds meet."""
    network = exact_network(6, seed=3)
    x = whole_numbers(1, 1, 2, 3, low=-8, high=8, seed=4) / 4
    for values in ([[1, 1, 1], [0, 0, 2]], [[0, 0, 0], [0, 0, 0]], [[5, 3, 1], [4, 2, 0]]):
        maps = torch.tensor(values, dtype=torch.float64)[None]
        curve = insertion(network, x, 1, maps, step=1, baseline=torch.zeros_like)
        areas = []
        for order in itertools.permutations(np.ndindex(2, 3)):
            if all(maps[0][a] >= maps[0][b] for a, b in itertools.pairwise(order)):
                areas.append(literal(network, np.zeros((1, 2, 3)), x[0].numpy(), list(order), [1], 1)[1])
        assert curve.lower.item() <= min(areas) <= curve.area.item() <= max(areas) <= curve.upper.item()
        assert curve.area.item() in areas
        assert (len(areas) == 1) == (curve.lower.item() == curve.upper.item())
    constant = insertion(network, x, 1, torch.zeros(1, 2, 3), step=1)
    assert constant.tied.tolist() == [[False, True, True, True, True, True, False]]


def test_a_batch_gives_what_its_pictures_give_alone() -> None:
    """To the bit, in float32 too: which pictures go together depends on nothing but the picture itself."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 5, 3)).eval()
        x, maps = torch.randn(4, 3, 8, 7), torch.randn(4, 3, 8, 7)
    target = torch.tensor([0, 2, 1, 1])
    together = insertion(network, x, target, maps, batch_size=10)
    for n in range(4):
        alone = insertion(network, x[n : n + 1], [int(target[n])], maps[n : n + 1], batch_size=10)
        assert torch.equal(alone.scores[0], together.scores[n]) and alone.area == together.area[n]
    for shaped in (maps.sum(1, keepdim=True), maps.sum(1), maps.sum(1).numpy()):
        assert torch.equal(insertion(network, x, target, shaped, batch_size=10).scores, together.scores)


def test_a_curve_costs_its_forwards_and_no_more() -> None:
    """n + 1 pictures, in as few batches as there can be, none of them much smaller than the others."""
    sizes: list[int] = []
    network = exact_network(15 * 15, seed=1)
    network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    x = whole_numbers(2, 1, 15, 15, low=-8, high=8, seed=1)
    assert insertion(network, x, 0, x).scores.shape == (2, 114) and sizes == 2 * [29, 29, 29, 27]


def test_the_kernel_is_rises() -> None:
    """The digits of the reference, and that what is convolved by it is zero beyond the border."""
    digits = {(5, 5): 0.0088326282, (0, 5): 0.0082664880, (5, 10): 0.0082664880, (0, 0): 0.0077366354}
    for place, value in digits.items():
        assert abs(kernel()[place] - value) < 6e-10  # a rounding to float32
    assert kernel().dtype == np.float32
    x = whole_numbers(2, 2, 7, 6, low=-8, high=8, seed=1)
    assert torch.equal(blurred(x), torch.stack([torch.from_numpy(literal_blur(each.numpy())) for each in x]))
    line = torch.zeros(1, 1, 21, dtype=torch.float64)
    line[..., 10] = 1
    assert torch.equal(blurred(line)[0, 0, 5:16], torch.from_numpy(kernel(1)).double())
    assert blurred(torch.ones(1, 2, 3, 4, 5)).shape == (1, 2, 3, 4, 5)


def test_steps_sizes_and_starts() -> None:
    """⌈P / 224⌉ pixels a step unless said otherwise; sigmoid, a function, and a start of one's own."""
    network = exact_network(20 * 23, seed=1)
    x, maps = (whole_numbers(1, 1, 20, 23, low=-8, high=8, seed=seed) / 4 for seed in (1, 2))
    curve = insertion(network, x, 0, maps)
    assert curve.counts.tolist() == [*range(0, 460, 3), 460] and curve.scores.shape == (1, 155)
    with torch.no_grad():
        whole, grey = network(x), network(torch.zeros_like(x) + 0.5)
    labels = deletion(network, x, 2, maps, probability="sigmoid", baseline=torch.full_like(x, 0.5))
    assert labels.scores[0, 0] == whole.sigmoid()[0, 2] and labels.scores[0, -1] == grey.sigmoid()[0, 2]
    half = insertion(network, x, 2, torch.arange(460.0).view(maps.shape), probability=lambda scores: 0 * scores + 0.5)
    assert half.area.item() == 0.5
    assert repr(half) == "Curve(1 picture, 154 steps: mean area 0.500 from 0.500 to 0.500 by order of ties)"


X = torch.zeros(2, 1, 4, 4)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "NaN in a map": ({"maps": X.clone().index_fill_(0, torch.tensor(1), torch.nan)}, "map of picture 1 holds NaN"),
    "another size": ({"maps": torch.zeros(2, 1, 4, 5)}, r"expected maps of the shape \(2, 1, 4, 4\) or \(2, 4, 4\)"),
    "another number": ({"maps": torch.zeros(1, 4, 4)}, "expected maps"),
    "unknown class": ({"target": [0, 5]}, "there is no class 5: the network has 5"),
    "negative class": ({"target": -1}, "counted from 0"),
    "no class": ({"target": "dog"}, "expected a class"),
    "weights": ({"target": [0.5, 0.5]}, "expected a class"),
    "too many classes": ({"target": [1, 2, 3]}, "one for each of 2 pictures"),
    "no picture": ({"x": torch.zeros(2, 16)}, "expected pictures"),
    "whole numbers": ({"x": X.int()}, "floating point"),
    "NaN in a picture": ({"x": X / 0}, "picture 0 holds NaN"),
    "no step": ({"step": 0}, "step must be a whole number of at least 1"),
    "no batch": ({"batch_size": True}, "batch_size must be"),
    "no probability": ({"probability": "logit"}, "probability must be"),
    "not a probability": ({"probability": lambda scores: scores - 3}, "a score is no probability"),
    "a baseline that does not fit": ({"baseline": torch.zeros(1)}, "the baseline must be shaped like"),
    "training": ({"network": exact_network(16, 0).train()}, "training mode"),
    "no network": ({"network": len}, "expected a torch.nn.Module"),
    "no row of scores": ({"network": nn.Identity().eval()}, "one row of scores for each picture"),
    "NaN scores": ({"network": nn.Sequential(exact_network(16, 0), nn.Threshold(1e9, torch.nan)).eval()}, "NaN"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name: str) -> None:
    changed, words = REFUSED[name]
    given = {"network": exact_network(16, seed=0), "x": X.double(), "target": 0, "maps": X} | changed
    with pytest.raises(DmbpError, match=words):
        insertion(**given)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([[1]], "each of 2 pictures, not of 1"),
        ([[1], []], "picture 1 has no other class"),
        ([[0], [1]], "picture 0: the other classes must differ from class 0"),
        ([[1, 1], [2]], "and from each other"),
        ([[1], [9]], "there is no class 9"),
    ],
)
def test_other_classes_that_do_not_fit_are_refused(others: list[list[int]], words: str) -> None:
    with pytest.raises(DmbpError, match=words):
        complementary_insertion(exact_network(16, seed=0), X.double(), [0, 0], X, others)


def shown(x: Tensor, image: int, colours: int) -> tuple[Curve, Way, Any]:
    maps = whole_numbers(2, 4, 6, low=0, high=1, seed=2)
    curve = insertion(exact_network(colours * 24, seed=0), x, 1, maps, step=1)
    way = insertion_way(x, maps)
    return curve, way, draw_curve(curve, way, image, shares=(0, 0.25, 1), title="IM", score="p")


@pytest.mark.parametrize("colours", [1, 3])
def test_the_picture_of_a_curve(colours: int) -> None:
    """What the network saw stands above what it said of it; grey where that hangs on the order of equal values."""
    x = whole_numbers(2, colours, 4, 6, low=-8, high=8, seed=1) / 4
    curve, way, figure = shown(x, 1, colours)
    snapshots, (below, line) = figure.axes[:3], figure.axes[3:]
    assert [ax.get_title() for ax in snapshots] == ["0% of the pixels", "25% of the pixels", "100% of the pixels"]
    ends = torch.cat([blurred(x[1:]), x[1:]])
    low, high = ends.min(), torch.cat([ends, way.pictures(1, torch.tensor([6]))]).max()
    picture = torch.from_numpy(np.asarray(snapshots[2].images[0].get_array()))
    torch.testing.assert_close(picture, ((x[1] - low) / (high - low)).expand(3, -1, -1).permute(1, 2, 0))
    assert np.array_equal(below.images[0].get_array(), way.values[1].view(4, 6))
    assert np.array_equal(line.lines[0].get_ydata(), curve.scores[1])
    inner, ends = line.lines[2], (line.lines[1], line.lines[3])
    assert inner.get_color() != ends[0].get_color() == ends[1].get_color() and curve.tied[1, 6]
    assert "by the order of equal values" in line.get_title()
    made = draw_curve(curve, way, picture=lambda each: np.full((4, 6, 3), 0.5))
    assert (np.asarray(made.axes[0].images[0].get_array()) == 0.5).all()


def test_pictures_that_cannot_be_drawn() -> None:
    x = whole_numbers(2, 1, 4, 6, low=-8, high=8, seed=1)
    curve, way, _ = shown(x, 0, 1)
    with pytest.raises(DmbpError, match="there is no image 2"):
        draw_curve(curve, way, 2)
    with pytest.raises(DmbpError, match="made on another way"):
        draw_curve(curve, insertion_way(x[:1], x[:1]))
    with pytest.raises(DmbpError, match=r"only pictures \(1 or 3, H, W\)"):
        draw_curve(curve, deletion_way(x.repeat(1, 2, 1, 1), x))
