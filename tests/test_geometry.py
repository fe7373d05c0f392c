"""Where a unit looks: fields against pictures of one pixel, centres against centres of mass, ramps, shifted pictures.

Indices: i pixel, q position of a unit, both along one axis.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import lcm, prod
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from approx import values
from nets import Lambda
from places import geometry, line
from torch import Tensor, nn

import linreg
from linreg.geometry import Axis, Geometry, geometries

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
LINEAR = ("linear", "bilinear", "trilinear")
Layer = Callable[[Random, int, tuple[int, ...]], nn.Module]


# ---- random stacks of layers ----


def convolution(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    kernel = tuple(rng.randint(1, min(4, n)) for n in sizes)
    dilation = tuple(rng.choice((1, 2)) if 2 * (k - 1) < n else 1 for k, n in zip(kernel, sizes, strict=True))
    kind = CONVOLUTIONS[len(sizes) - 1]
    if rng.random() < 0.3:
        return kind(channels, 2, kernel, padding="same", dilation=dilation, bias=False)
    stride, padding = (tuple(rng.randint(low, low + 2) for _ in sizes) for low in (1, 0))
    return kind(channels, 2, kernel, stride, padding, dilation, bias=False)


def transposed(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    kernel, stride = ([rng.randint(1, 3) for _ in sizes] for _ in range(2))
    padding = [rng.randint(0, (k - 1) // 2) for k in kernel]
    extra = [rng.randint(0, s - 1) for s in stride]
    return TRANSPOSED[len(sizes) - 1](channels, 2, kernel, stride, padding, extra, bias=False)


def pool_sides(rng: Random, sizes: tuple[int, ...]) -> tuple[list[int], list[int], list[int]]:
    kernel = [rng.randint(1, min(3, n)) for n in sizes]
    return kernel, [rng.randint(1, 3) for _ in sizes], [rng.randint(0, k // 2) for k in kernel]


def max_pool(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    kernel, stride, padding = pool_sides(rng, sizes)
    dilation = [rng.choice((1, 2)) if 2 * (k - 1) < n else 1 for k, n in zip(kernel, sizes, strict=True)]
    return MAX_POOLS[len(sizes) - 1](kernel, stride, padding, dilation, ceil_mode=rng.random() < 0.5)


def average(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    return AVERAGES[len(sizes) - 1](*pool_sides(rng, sizes), ceil_mode=rng.random() < 0.5)


def adaptive(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    pools = ((nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d), (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
             (nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d))[len(sizes) - 1]  # fmt: skip
    return rng.choice(pools)(tuple(rng.randint(1, n + 1) for n in sizes))


def resampled(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    scale = rng.choice((2.0, 1.7, 0.6)) if min(sizes) > 2 else 2.0
    if rng.random() < 0.5:
        return Lambda(lambda x: F.interpolate(x, scale_factor=scale))
    corners = rng.random() < 0.5
    return Lambda(lambda x: F.interpolate(x, scale_factor=scale, mode=LINEAR[len(sizes) - 1], align_corners=corners))


def framed(rng: Random, channels: int, sizes: tuple[int, ...], modes: tuple[str, ...] = ("constant",)) -> nn.Module:
    sides = [rng.randint(0, min(2, n - 1)) for n in sizes[::-1] for _ in range(2)]
    mode = rng.choice(modes)
    return Lambda(lambda x: F.pad(x, sides, mode=mode))


def padded(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    return framed(rng, channels, sizes, ("constant", "reflect", "replicate", "circular"))


def cut(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    sides = [-rng.randint(0, min(2, (n - 1) // 3)) for n in sizes[::-1] for _ in range(2)]
    steps = [slice(rng.randint(0, 1) if n > 3 else 0, None, rng.randint(1, 2)) for n in sizes]
    if rng.random() < 0.3:
        return Lambda(lambda x: F.pad(x, sides))
    return Lambda(lambda x: x[(slice(None), slice(None), *steps)])


def mirrored(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    dims = rng.sample(range(2, 2 + len(sizes)), rng.randint(1, len(sizes)))
    return Lambda(lambda x: x.flip(dims))


class Beside(nn.Module):
    """A convolution beside its own input, added up, concatenated, or the larger of both."""

    def __init__(self, branch: nn.Module, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.branch, self.join = branch, join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.branch(x))


JOINS = (torch.add, torch.maximum, lambda x, z: torch.cat([x, z], 1), lambda x, z: x + z.amax(1, keepdim=True))


def beside(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    conv = CONVOLUTIONS[len(sizes) - 1](channels, channels, rng.choice((1, 3)), padding="same", bias=False)
    return Beside(conv, rng.choice(JOINS))


def pooled_beside(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    dims = rng.sample(range(2, 2 + len(sizes)), rng.randint(1, len(sizes)))
    return Lambda(lambda x: x + x.mean(dims, keepdim=True))


def shuffled(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    if len(sizes) != 2 or any(n % 2 for n in sizes):
        return nn.ReLU()
    return rng.choice((nn.PixelUnshuffle(2), nn.Sequential(nn.Conv2d(channels, 8, 1, bias=False), nn.PixelShuffle(2))))


LAYERS = (
    convolution,
    transposed,
    max_pool,
    average,
    adaptive,
    resampled,
    padded,
    cut,
    mirrored,
    beside,
    shuffled,
    pooled_beside,
)
FIRST = {1: (14,), 2: (9, 8), 3: (6, 5, 6)}


@torch.no_grad()
def stack(rng: Random, dims: int, kinds: tuple[Layer, ...], first: tuple[int, ...], length: int) -> nn.Sequential:
    """Layers that change no sign: their weights are positive, and there are no biases."""
    layers, x = [], torch.zeros(1, 2, *first, dtype=torch.float64)
    while len(layers) < length and 1 < x[0, 0].numel() <= 2 * prod(first):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.randint(0, 10**6))
            layer = rng.choice(kinds)(rng, x.shape[1], tuple(x.shape[2:])).double()
        for weight in layer.parameters():
            weight.uniform_(0.1, 1)
        try:
            x = layer(x)
        except RuntimeError:  # its window is larger than what is left
            continue
        layers.append(layer)
    return nn.Sequential(*layers).eval()


def outputs(model: nn.Sequential, x: Tensor) -> list[Tensor]:
    """What each layer gives."""
    found = []
    for layer in model:
        x = layer(x)
        found.append(x)
    return found


def places(model: nn.Sequential, shape: tuple[int, ...]) -> dict[int, Geometry]:
    """The geometry of what each layer gives, by its number."""
    graph = linreg.trace(model, values(2, *shape))
    last = {int(node.module.partition(".")[0]): node.name for node in graph.nodes}
    found = geometries(graph)
    return {number: found[name] for number, name in last.items()}


def field(geometry: Geometry, position: tuple[int, ...]) -> list[tuple[int, int]]:
    """First and last pixel of a unit at this position of a value (C, *positions), along each axis."""
    at = [0 if axis.dim is None else position[axis.dim - 2] for axis in geometry.axes]
    return [(int(axis.first[q]), int(axis.last[q])) for axis, q in zip(geometry.axes, at, strict=True)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_fields_are_those_of_pictures_of_one_pixel(dims: int, seed: int) -> None:
    """Nothing but 0 and positive numbers: a unit answers to a pixel if and only if it looks at it."""
    first = FIRST[dims]
    model = stack(Random(100 * dims + seed), dims, LAYERS, first, length=5)
    pixels = torch.eye(prod(first), dtype=torch.float64).view(-1, 1, *first).expand(-1, 2, *first)
    answers = [z.ne(0).any(1) for z in outputs(model, pixels)]
    found = places(model, (2, *first))
    assert len(found) >= len(model) // 2
    for number, place in found.items():
        assert place.shape[1:] == answers[number].shape[1:]
        for position in np.ndindex(place.shape[1:]):
            seen = answers[number][(slice(None), *position)].view(first).nonzero()
            expected = field(place, position)
            if any(a > b for a, b in expected):
                assert not len(seen), f"{model[number]} at {position} sees {seen}"
            else:
                hull = list(zip(seen.amin(0).tolist(), seen.amax(0).tolist(), strict=True))
                assert hull == expected, f"{model[number]} at {position}"


def averaging(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    """A layer that slides a window of equal weights, and takes the middle of it."""
    kind = rng.choice((convolution, average, framed, cut, mirrored))
    layer = kind(rng, channels, sizes)
    if isinstance(layer, nn.modules.conv._ConvNd):
        return Lambda(lambda x, conv: conv(x.mean(1, keepdim=True).expand(x.shape)), conv=layer)
    return layer


def inside(axis: Axis) -> list[int]:
    """The positions that look at the middle half of the axis only, so that no border reaches them."""
    quarter = axis.size / 4
    return [q for q, (a, b) in enumerate(zip(axis.first, axis.last, strict=True)) if quarter < a <= b < 3 * quarter]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("dims", "first"), [(1, (200,)), (2, (64, 60)), (3, (30, 28, 26))])
def test_the_centre_is_the_centre_of_mass_away_from_borders(dims: int, first: tuple[int, ...], seed: int) -> None:
    """Of what reaches a unit where all windows have equal weights: such a mass is a product of one for each axis."""
    model = stack(Random(10 * dims + seed), dims, (averaging,), first, length=4)
    for weight in model.parameters():
        nn.init.ones_(weight)
    x = torch.zeros(1, 2, *first, dtype=torch.float64, requires_grad=True)
    found, seen = places(model, (2, *first)), 0
    for number, z in enumerate(outputs(model, x)):
        for axis in found[number].axes if number in found else ():
            for q in inside(axis)[:5]:
                assert axis.centres is not None and axis.dim is not None
                units = z[0, 0].select(axis.dim - 2, q)
                (mass,) = torch.autograd.grad(units.sum(), x, retain_graph=True)
                along = mass.sum([d for d in range(mass.dim()) if d != axis.number])
                centre = (along * torch.arange(axis.size)).sum() / along.sum()
                assert axis.centres[q] == pytest.approx(centre.item(), abs=1e-9), f"{model[number]} at {q}"
                seen += 1
    assert seen >= 5 * dims


# ---- centres of what makes a picture larger ----


def ones(layer: nn.Module) -> nn.Module:
    for weight in layer.parameters():
        nn.init.ones_(weight)
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        ones(nn.ConvTranspose1d(1, 1, 2, 2, bias=False)),
        ones(nn.ConvTranspose1d(1, 1, 3, 2, padding=1, output_padding=1, bias=False)),
        ones(nn.ConvTranspose1d(1, 1, 4, 3, padding=1, output_padding=2, bias=False)),
        ones(nn.ConvTranspose1d(1, 1, 3, 2, dilation=3, bias=False)),
        ones(nn.ConvTranspose1d(1, 1, 1, 3, bias=False)),
        nn.Upsample(scale_factor=3),
        nn.Upsample(scale_factor=3, mode="nearest-exact"),
        nn.Upsample(scale_factor=2, mode="linear"),
        nn.Upsample(scale_factor=5, mode="linear"),
        Lambda(lambda x: x.repeat_interleave(4, 2)),
        Lambda(lambda x: x[..., [k // 3 for k in range(60)]]),
        nn.AdaptiveAvgPool1d(60),
        nn.AdaptiveMaxPool1d(40),
        Lambda(lambda x: x.unsqueeze(3).expand(-1, -1, -1, 3).reshape(x.shape[0], 1, 60)),
    ],
    ids=str,
)
def test_a_pixel_lies_at_the_centre_of_mass_of_the_units_that_read_it(layer: nn.Module) -> None:
    """As a unit lies at that of the pixels that it reads: an operator and its transpose tell the same."""
    axis, x = line(layer, 1, 20), torch.ones(1, 1, 20, dtype=torch.float64, requires_grad=True)
    assert axis.regular and axis.centres is not None
    for i in (8, 9, 10):
        reached = torch.autograd.functional.jacobian(layer.double(), x)[0, 0, :, 0, 0, i]
        centre = (reached * torch.from_numpy(axis.centres)).sum() / reached.sum()
        assert centre.item() == pytest.approx(i, abs=1e-9)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [1.7, 2.0, 0.6, 0.5, 1 / 3, 9, 31, 44])
def test_a_ramp_is_resampled_to_the_centres(size: float, corners: bool) -> None:
    """A linear map that keeps straight lines gives of x[i] = i where each unit lies, but where a border clips it."""
    options = {"size": size} if isinstance(size, int) else {"scale_factor": size}

    def function(x: Tensor) -> Tensor:
        return F.interpolate(x, **options, mode="linear", align_corners=corners)  # type: ignore[arg-type]

    axis, ramp = line(function, 1, 20), function(torch.arange(20.0, dtype=torch.float64).view(1, 1, -1))[0, 0]
    assert axis.regular and axis.centres is not None
    np.testing.assert_allclose(np.clip(axis.centres, 0, 19), ramp.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mode": "bilinear", "size": (8, 20), "antialias": True}, 1e-9),
        ({"mode": "bicubic", "size": (20, 10), "antialias": True}, 1e-9),
        ({"mode": "bicubic", "scale_factor": 2.0}, 0.1),
        ({"mode": "bicubic", "size": (21, 61), "align_corners": True}, 0.1),
    ],
)
def test_a_ramp_is_resampled_to_the_centres_by_other_kernels(options: dict, error: float) -> None:
    """Away from the borders, which cut a kernel off; PyTorch's cubic bends a line a little."""
    place = geometry(lambda x: F.interpolate(x, **options), 1, 40, 40)
    for axis in place.axes:
        ramp = torch.arange(40.0, dtype=torch.float64).view([40 if d == axis.number else 1 for d in range(4)])
        taken = F.interpolate(ramp.expand(1, 1, 40, 40), **options)[0, 0].select(3 - axis.number, 0)
        middle = inside(axis)
        assert axis.centres is not None and middle
        np.testing.assert_allclose(axis.centres[middle], taken[middle].numpy(), rtol=0, atol=error)


def test_fewer_pixels_lie_where_nearest_takes_them() -> None:
    axis = line(lambda x: F.interpolate(x, scale_factor=0.5), 1, 20)
    assert axis.centres is not None and axis.centres.tolist() == list(range(0, 20, 2))
    axis = line(lambda x: F.interpolate(x, size=7, mode="nearest-exact"), 1, 20)
    assert axis.centres is not None and axis.centres.tolist() == axis.first.tolist() == axis.last.tolist()


@pytest.mark.parametrize(("size", "count"), [(20, 7), (20, 6), (13, 13), (9, 4)])
def test_adaptive_windows_differ_by_place(size: int, count: int) -> None:
    for pool in (nn.AdaptiveAvgPool1d(count), nn.AdaptiveMaxPool1d(count)):
        axis = line(pool, 1, size)
        windows = [(q * size // count, -(-(q + 1) * size // count) - 1) for q in range(count)]
        assert list(zip(axis.first, axis.last, strict=True)) == windows
        assert axis.centres is not None and axis.centres.tolist() == [(a + b) / 2 for a, b in windows]
        assert axis.stride * (count - 1) == pytest.approx(np.ptp(axis.centres))
        assert axis.regular == (len(set(np.diff(axis.centres))) == 1)


# ---- shifted pictures ----


def equivariant(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    choices: tuple[Layer, ...] = (convolution, average, transposed, cut, framed, upsampled, beside)
    return rng.choice(choices)(rng, channels, sizes)


def upsampled(rng: Random, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    mode = rng.choice(("nearest", "linear"))
    return nn.Upsample(scale_factor=2, mode=mode)


@pytest.mark.parametrize("seed", range(10))
def test_a_picture_shifted_by_the_stride_shifts_the_centres(seed: int) -> None:
    """Units whose centres are so many pixels apart that no stride on the way comes out uneven read them alike."""
    model = stack(Random(seed), 1, (equivariant,), (240,), length=4)
    x = torch.zeros(1, 2, 240, dtype=torch.float64)
    found = places(model, (2, 240))
    axis, seen = found[len(model) - 1].axes[0], 0
    strides = (Fraction(place.axes[0].stride).limit_denominator(99) for place in found.values())
    period = lcm(*(stride.numerator for stride in strides))
    rows = torch.func.jacrev(lambda x: model(x)[0].sum(0))(x)[:, 0].sum(1)
    assert axis.regular and axis.centres is not None
    for q in inside(axis):
        for other in inside(axis):
            shift = axis.centres[other] - axis.centres[q]
            if other > q and shift / period == pytest.approx(round(shift / period), abs=1e-9):
                torch.testing.assert_close(rows[other], rows[q].roll(round(shift)), rtol=1e-12, atol=0)
                seen += 1
    assert seen
