"""The pieces of a network along a line: against forward passes, closed forms, autograd and Captum."""

from __future__ import annotations

import os
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from nets import Lambda
from random_networks import Network, networks
from torch import Tensor, nn

import dmbp.along
import linreg
from dmbp.datasets import sample_pairs
from dmbp.networks import pretrained
from dmbp.plot.along_picture import draw_along
from linreg.operators.contest import Contest
from linreg.plot import draw_rule_errors, draw_rules
from linreg.regions import Segment, density, disagreements, estimate, rule_errors, segment
from linreg.regions.line import LARGE
from linreg.regions.rules import RULES, gaps
from linreg.regions.segments import walk

EXAMPLES = int(os.environ.get("LINREG_EXAMPLES", 40))  # 200 and more were tried by hand
D = torch.float64


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def line_of(model: nn.Module, a: Tensor, b: Tensor, **options: object) -> Segment:
    graph = linreg.trace(model.double().eval(), torch.cat([a, b]))
    return segment(graph, a, b, progress=False, **options)  # type: ignore[arg-type]


def perceptron(*sizes: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [part for m, n in pairwise(sizes) for part in (nn.Linear(m, n), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).double()


def convolutional(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 2), nn.ReLU6(),
        nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(16, 5),
    ).double().eval()  # fmt: skip


def turned(line: Segment, t: Tensor, k: Tensor) -> Tensor:
    """How many units are on another piece at t than in the middle of piece k, (n,)."""
    odd = disagreements(line.graph.linearize(line.points(t)), line.linearize(k))
    return sum(odd.values(), torch.zeros(len(t), dtype=torch.long))


def check(line: Segment, seed: int = 0, points: int = 200) -> None:
    """No piece is missed, none is told twice, and y is affine on each."""
    generator = torch.Generator().manual_seed(seed)
    inside = line.t[:-1, None] + line.lengths[:, None] * torch.rand(len(line), 3, generator=generator, dtype=D)
    t = torch.cat([inside.flatten(), torch.rand(points, generator=generator, dtype=D)])
    k = line.piece(t)
    clear = torch.minimum(t - line.t[k], line.t[k + 1] - t) > 1e-12  # else rounding of x decides
    t, k = t[clear], k[clear]
    assert not turned(line, t, k).any()
    output = line.graph(line.points(t))
    scale = output.abs().max().clamp_min(1)
    assert (line.output(t) - output).abs().max() <= 1e-10 * scale
    if len(line) > 1:
        numbers = torch.arange(len(line))
        assert (turned(line, line.middles[1:], numbers[:-1]) > 0).all()


@settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(networks())
def test_random_networks_have_these_pieces_and_no_others(network: Network) -> None:
    """Every gate, selection, comparison, residual and concatenation there is; jumps too."""
    model, x = network.model(), network.input(2)
    graph = linreg.trace(model, network.input(network.images))
    if graph.batch is not None:
        return
    check(segment(graph, 2 * x[:1], 2 * x[1:], progress=False), network.seed)


@pytest.mark.parametrize("depth", [1, 4, 10])
def test_a_sawtooth_of_depth_L_has_2_to_the_L_pieces(depth: int) -> None:
    """relu(2x) − relu(4x − 2), L times: breakpoints at k / 2^L, slopes ± 2^L by turns."""
    tooth = [nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)]
    nn.utils.vector_to_parameters(torch.tensor([2.0, 4.0, 0.0, -2.0, 1.0, -1.0]), nn.Sequential(*tooth).parameters())
    line = line_of(nn.Sequential(*tooth * depth), torch.zeros(1, 1, dtype=D), torch.ones(1, 1, dtype=D))
    assert torch.equal(line.t, torch.arange(2**depth + 1, dtype=D) / 2**depth)
    assert torch.equal(line.slopes(), 2.0**depth * (-1.0) ** torch.arange(2**depth))


def test_ten_thousand_points_are_on_their_pieces() -> None:
    x = drawn(13, 2, 1, 12, 12)
    check(line_of(convolutional(2), x[:1], x[1:]), points=10_000)


class TwoInputs(nn.Module):
    """Of frames merged with the batch, and of a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.other = nn.Linear(4, 12)

    def forward(self, video: Tensor, more: Tensor) -> Tensor:
        frames = self.frames(video.flatten(0, 1)).unflatten(0, (-1, video.shape[1]))
        return F.relu(frames.flatten(1) - self.other(more)).sum(1, keepdim=True)


def test_several_inputs_and_parts_of_an_image() -> None:
    torch.manual_seed(0)
    ends = [(drawn(seed, 1, 6, 1, 4, 4), drawn(seed + 1, 1, 4)) for seed in (14, 16)]
    model = TwoInputs().double()
    graph = linreg.trace(model, tuple(torch.cat(each) for each in zip(*ends, strict=True)))
    line = segment(graph, *ends, progress=False)
    assert len(line) > 20
    check(line)
    shares = line.integrated_gradients()
    change = model(*ends[1]) - model(*ends[0])
    total = sum(share.sum() for share in shares.values())
    assert set(shares) == {"video", "more"} and abs(total - change) <= 1e-10


def test_what_flips_is_what_two_patterns_tell() -> None:
    x = drawn(1, 2, 1, 12, 12)
    line = line_of(convolutional(), x[:1], x[1:])
    assert len(line) > 100
    lin = line.linearize()
    patterns = [lin.pattern(k) for k in range(len(line))]
    for k in range(1, len(line)):
        told = {site: sorted(units.tolist()) for site, units in line.flips(k).items()}
        found = {site: np.flatnonzero(patterns[k][site] != patterns[k - 1][site]).tolist() for site in patterns[k]}
        assert told == {site: units for site, units in found.items() if units}


def test_candidates_of_many_contests_take_no_copy_of_the_pictures() -> None:
    contest = Contest(torch.tensor([[0, 3], [2, -1]]), torch.tensor([[0], [1]]), lambda rows: rows, 1, 10**9)
    pictures = torch.arange(2.0)[:, None].expand(2, 10**9)  # a copy for each row below would be 400 TB
    image, of = torch.tensor([0, 1]).repeat(50_000), torch.tensor([0, 0, 1, 1]).repeat(25_000)
    rows = contest.rows(pictures, image, of)
    assert rows[:4].tolist() == [[0, 0], [1, 1], [0, -torch.inf], [1, -torch.inf]]


def test_chunks_change_nothing() -> None:
    """With memory for a few cells the line is cut in many chunks, and has the same pieces, bit for bit."""
    x = drawn(2, 2, 1, 12, 12)
    graph = linreg.trace(convolutional(), x)
    whole, chunked = (walk(graph, x[:1], x[1:], (0.0, 1.0), memory) for memory in (2**30, 2**15))
    assert len(whole) == len(chunked) > 100
    assert (whole.t - chunked.t).abs().max() < 1e-13
    assert torch.equal(whole.flip_unit, chunked.flip_unit) and torch.equal(whole.flip_site, chunked.flip_site)
    stretch = segment(graph, x[:1], x[1:], stretch=(0.25, 0.5), progress=False)
    inside = whole.t[(whole.t > 0.25) & (whole.t < 0.5)]
    assert (stretch.t[1:-1] - inside).abs().max() < 1e-13


@pytest.mark.parametrize(
    "made",
    [
        lambda x: torch.cat([F.relu(x), F.relu(-x), F.relu(F.relu(x))], 1),
        lambda x: F.relu(x).topk(2, 1).values,
        lambda x: F.threshold(x, 0.1, -1.0).cumsum(1),
        lambda x: torch.where(x > x.flip(1), x, 2 * x - 1),
        lambda x: F.max_unpool1d(*F.max_pool1d(x[:, None], 2, return_indices=True), 2)[:, 0],
        lambda x: torch.where((x.view(-1, 2, 3) > 0).mT, x.view(-1, 3, 2), 0 * x.view(-1, 3, 2)).flatten(1),
        lambda x: F.relu((1e-3 * x + torch.arange(6, dtype=D)).sort(1).values - 2),
    ],
    ids=[
        "twice the same kinks",
        "topk of ties",
        "jumps",
        "jumps by comparison",
        "unpooled",
        "jumps by comparison of another shape",
        "an order that stays",
    ],
)
def test_ties_and_jumps(made: object) -> None:
    x = drawn(3, 2, 6)
    check(line_of(Lambda(made), x[:1], x[1:]))  # type: ignore[arg-type]


def test_degenerate_lines() -> None:
    """A line of length 0, one within a wall, a dead unit, a network without gates: one piece where nothing flips."""
    model = perceptron(3, 8, 4)
    x = drawn(4, 1, 3)
    point = line_of(model, x, x)
    assert len(point) == 1 and not point.integrated_gradients(0).any() and np.isnan(point.density)
    assert len(line_of(nn.Linear(3, 2), x, -x)) == 1
    wall = nn.Linear(2, 2, bias=False)
    nn.utils.vector_to_parameters(torch.tensor([1.0, 0.0, 0.0, 1.0]), wall.parameters())
    a = torch.tensor([[0.0, -1.0]], dtype=D)
    within = line_of(nn.Sequential(wall, nn.ReLU()), a, -a)
    assert within.t.tolist() == [0, 0.5, 1] and within.flips(1)["1"].tolist() == [1]
    rounded = drawn(5, 2, 16)  # w·x = 0 up to rounding at both ends
    w = drawn(6, 16)
    rounded -= (rounded @ w / (w @ w))[:, None] * w
    near = nn.Sequential(nn.Linear(16, 1, bias=False), nn.ReLU(), nn.Linear(1, 1)).double()
    nn.utils.vector_to_parameters(torch.cat([w, torch.ones(2, dtype=D)]), near.parameters())
    assert len(line_of(near, rounded[:1], rounded[1:])) <= 2


@pytest.mark.parametrize("shapes", [((1, 2), (1, 3)), ((2, 3), (2, 3)), ((3,), (3,))])
def test_what_does_not_fit_is_refused_at_once(shapes: tuple[tuple[int, ...], ...]) -> None:
    graph = linreg.trace(perceptron(3, 4, 2), torch.zeros(2, 3, dtype=D))
    with pytest.raises(linreg.LinregError):
        segment(graph, *(torch.zeros(shape, dtype=D) for shape in shapes))


def test_refusals() -> None:
    graph = linreg.trace(perceptron(3, 4, 2), torch.zeros(2, 3, dtype=D))
    a, b = torch.zeros(1, 3, dtype=D), torch.ones(1, 3, dtype=D)
    for wrong in (b * torch.nan, b.float()):
        with pytest.raises(linreg.LinregError):
            segment(graph, a, wrong)
    for options in ({"stretch": (0.5, 0.5)}, {"stretch": (0, 2)}, {"stretch": 0.5}, {"by": "region"}):
        with pytest.raises(linreg.LinregError):
            segment(graph, a, b, **options)  # type: ignore[arg-type]
    line = segment(graph, a, b, progress=False)
    for wrong in (0, len(line)):
        with pytest.raises(linreg.LinregError, match="breakpoint"):
            line.flips(wrong)
    with pytest.raises(linreg.LinregError, match="from t"):
        line.output([1.5])  # type: ignore[arg-type]
    with pytest.raises(linreg.LinregError, match="1 piece or more"):
        line.integrated_gradients(0, size=-1)
    with pytest.raises(linreg.LinregError, match=r"graph, linreg\.trace"):
        segment(nn.Linear(3, 2), a, b)  # type: ignore[arg-type]
    same = [line.integrated_gradients(target) for target in (1, [1], torch.tensor([[0.0, 1.0]], dtype=D))]
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])


# ---- Integrated Gradients ----


def test_exact_integrated_gradients_are_complete_and_what_captum_tends_to() -> None:
    captum = pytest.importorskip("captum.attr", reason="needs the extra: baselines")
    x, model = drawn(7, 2, 1, 12, 12), convolutional(1)
    line = line_of(model, x[:1], x[1:])
    exact = line.integrated_gradients(2)
    change = line.score([1.0], 2) - line.score([0.0], 2)  # type: ignore[arg-type]
    assert abs(exact.sum() - change) <= 1e-10 * exact.abs().sum()
    errors = []
    for steps in (50, 400, 3200):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = captum.IntegratedGradients(model).attribute(
                x[1:], x[:1], target=2, n_steps=steps, method="riemann_middle", internal_batch_size=400
            )
        errors.append(float((theirs - exact).abs().sum() / exact.abs().sum()))
    assert errors[2] < errors[1] < errors[0] and errors[2] < 0.05 * errors[0] + 1e-4


@pytest.mark.parametrize("rule", RULES)
def test_errors_of_rules_are_those_of_their_gradients(rule: str) -> None:
    """The gap from the slopes is the sum of the map by autograd."""
    x = drawn(8, 2, 5)
    line = line_of(perceptron(5, 12, 12, 3), x[:1], x[1:])
    errors = rule_errors(line, [1], (3, 10, 2000), rule)
    with pytest.raises(linreg.LinregError, match="two or more each"):
        rule_errors(line, 1, 5, rule)  # type: ignore[arg-type]
    assert torch.allclose(errors.gap, gaps(line, 1, (3, 10, 2000), rule), atol=1e-12)
    assert errors.distance[2] < 0.2 * errors.distance[0]
    t, w = RULES[rule](10)
    points = line.points(t).requires_grad_()
    (gradient,) = torch.autograd.grad(line.graph.to_module()(points)[:, 1].sum(), points)
    literal = ((line.b - line.a) * (w[:, None] * gradient)).sum()
    change = line.score([1.0], 1) - line.score([0.0], 1)  # type: ignore[arg-type]
    assert abs(literal - change - errors.gap[1]) < 1e-12


def test_equal_maps_are_merged() -> None:
    """A unit that nothing reads flips for nothing."""
    model = perceptron(3, 6, 2)
    with torch.no_grad():
        model[2].weight[:, 3:] = 0  # type: ignore[index, operator]
    a = drawn(9, 1, 3) * 3
    line = line_of(model, a, -a)
    read = sorted({float(t) for t, unit in zip(line.flip_t, line.flip_unit, strict=True) if unit < 3})
    assert len(line) > len(read) + 1
    merged = line_of(model, a, -a, by="map")
    assert merged.t[1:-1].tolist() == read
    t = torch.rand(50, dtype=D)
    assert torch.allclose(merged.output(t), line.output(t), atol=1e-12)


# ---- how many ----


def test_an_estimate_holds_what_is_there() -> None:
    x = drawn(10, 2, 1, 12, 12)
    graph = linreg.trace(convolutional(), x)
    pieces = len(segment(graph, x[:1], x[1:], progress=False))
    expected = estimate(graph, x[:1], x[1:], stretches=8)
    assert expected.low <= pieces <= expected.high and expected.seconds > 0
    around = density(graph, x[:1], 0.01, lines=4)
    assert len(around.counts) == 4 and around.mean == pytest.approx(sum(around.counts) / 4 / 0.02)


def test_what_is_too_long_is_said_before_it_is_begun() -> None:
    images = sample_pairs().images
    graph = linreg.trace(pretrained("digit-pairs"), images[:2])
    with pytest.raises(linreg.LinregError, match=r"about .* pieces .* limit is 100"):
        segment(graph, images[:1], images[1:2], limit=100)
    assert sum(node.is_gate for node in graph.nodes) and LARGE < 10**6
    small = linreg.trace(perceptron(3, 50, 2), torch.zeros(2, 3, dtype=D))
    a = drawn(11, 1, 3) * 9
    with pytest.raises(linreg.LinregError, match="already"):
        walk(small, a, -a, (0.0, 1.0), 2**12, limit=5)


def test_an_interrupted_line_keeps_what_is_done() -> None:
    x = drawn(2, 2, 1, 12, 12)
    graph = linreg.trace(convolutional(), x)
    whole, chunks = walk(graph, x[:1], x[1:], (0.0, 1.0), 2**30), []

    def report(t: float, pieces: int) -> None:
        chunks.append(t)
        if len(chunks) == 9:
            raise KeyboardInterrupt

    broken = walk(graph, x[:1], x[1:], (0.0, 1.0), 2**15, report)
    assert not broken.complete and float(broken.t[-1]) == chunks[-1] < 1 and "broken off" in repr(broken)
    done = whole.t[whole.t < broken.t[-1]]
    assert len(done) == len(broken) > 10 and (broken.t[:-1] - done).abs().max() < 1e-13
    with pytest.raises(linreg.LinregError, match="broken off"):
        rule_errors(broken, 0)


@pytest.mark.parametrize("unmasked", ["nuisance", "both"])
def test_the_split_along_a_line_is_that_at_each_point(unmasked: str) -> None:
    x = drawn(12, 2, 5)
    line = line_of(perceptron(5, 9, 9, 3), x[:1], x[1:])
    masks = {node.name: torch.rand(1, *node.shape, dtype=D) for node in line.graph.nodes if node.is_gate}
    parts = dmbp.along.along(line, masks, 1, unmasked, size=4)
    drawn_lines = draw_along(parts).get_lines()
    assert np.array_equal(drawn_lines[1].get_ydata()[0::3], parts.positive[:, 0].numpy())
    t = torch.rand(40, dtype=D)
    k = line.piece(t)
    each = {site: mask.expand(40, *mask.shape[1:]) for site, mask in masks.items()}
    split = dmbp.decompose(line.graph.linearize(line.points(t)), each, 1, unmasked)
    place = (t - parts.ends[k, 0]) / (parts.ends[k, 1] - parts.ends[k, 0])
    for name in ("y", "positive", "negative", "nuisance", "unmasked"):
        ends = getattr(parts, name)[k]
        assert torch.allclose(torch.lerp(ends[:, 0], ends[:, 1], place), getattr(split, name), atol=1e-10), name


def test_pictures_of_a_line_show_its_numbers() -> None:
    x = drawn(18, 2, 5)
    line = line_of(perceptron(5, 9, 3), x[:1], x[1:])
    ax = line.draw(1)
    ends = torch.stack(line.scores(1), 1).flatten()
    assert np.array_equal(ax.get_lines()[0].get_ydata(), ends.numpy())
    steps = range(2, 40)
    drawn_gaps = draw_rules(line, 1, steps, ["left"]).get_lines()[0].get_ydata()
    change = abs(float(ends[-1] - ends[0]))
    assert np.allclose(drawn_gaps, gaps(line, 1, steps, "left").abs().numpy() / change)
    errors = rule_errors(line, 1, (3, 9))
    assert draw_rule_errors(errors).get_lines()[0].get_ydata().tolist() == errors.distance.tolist()
