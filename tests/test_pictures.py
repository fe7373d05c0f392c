"""Pictures of tables, signals, volumes, many channels and segmentations: what is drawn is what plain autograd gives."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor, nn

import dmbp
import linreg
from dmbp import DmbpError, Result
from dmbp.plot import draw_alone
from linreg.target import Target

TOO_DEEP = r"tables \(F,\), signals \(C, T\), pictures \(C, H, W\) and volumes .* shape \(1, 2, 3, 3, 3\)"


def network(dimensions: int, channels: int, pooled: bool = True) -> nn.Module:
    """Two layers for (N, channels), or convolutions for so many dimensions more, with places in the output or not."""
    torch.manual_seed(dimensions)
    if not dimensions:
        return nn.Sequential(nn.Linear(channels, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    layers = [kind(channels, 4, 3, padding=1), nn.ReLU(), kind(4, 3, 3, padding=1)]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dimensions - 1]
    return nn.Sequential(*layers, *([pool(1), nn.Flatten()] if pooled else [])).double()


def explained(model: nn.Module, x: Tensor, target: Target) -> tuple[Result, np.ndarray]:
    """An explanation without masks, whose map is c ⊙ x, and the same by autograd."""
    result = dmbp.explain(model, x, target, loss="none", progress=False)
    leaf = x.clone().requires_grad_()
    weights = linreg.target.cotangent(target, model(x))
    (grad,) = torch.autograd.grad((weights * model(leaf)).sum(), leaf)
    return result, (grad * x)[0].numpy()


def axes(figure: Figure) -> dict[str, Axes]:
    return {ax.get_title(): ax for ax in figure.axes}


def check_inside(figure: Figure) -> None:
    """No text leaves the figure."""
    figure.savefig(BytesIO())
    box = figure.get_tightbbox()
    assert box.x0 >= -0.01 and box.y0 >= -0.01
    assert box.x1 <= figure.get_figwidth() + 0.01 and box.y1 <= figure.get_figheight() + 0.01


@pytest.mark.parametrize("features", [5, 40])
def test_table(features: int) -> None:
    """Bars in the order of |a|, of the features' own values, the rest summed; each under its name with its value."""
    x = torch.randn(1, features, generator=torch.Generator().manual_seed(1)).double()
    result, wanted = explained(network(0, features), x, 1)
    names = [f"costs in ${k}" for k in range(features)]
    figure = result.plot(names=names, title="a $table$")
    ax = axes(figure)["attribution a"]
    order = np.argsort(-np.abs(wanted), kind="stable")
    bars = np.array([bar.get_width() for bar in ax.patches if bar.get_height() < 0.7])
    rest = [wanted[order[16:]].sum()] if features > 16 else []
    np.testing.assert_allclose(bars, [*wanted[order[:16]], *rest], rtol=1e-10)
    labels = [label.get_text() for label in axes(figure)["positive ∇⁺ ⊙ x"].get_yticklabels()]
    assert labels[0].startswith(f"costs in \\${order[0]} = ")
    assert (labels[-1] == "24 more features, together") == (features == 40)
    assert float(ax.get_xlabel().split()[1].replace("−", "-")) == pytest.approx(wanted.sum(), rel=1e-2)
    check_inside(figure)


@pytest.mark.parametrize("channels", [1, 9])
def test_signal(channels: int) -> None:
    """Each strip shows a channel on the ground of its map; the curves are sums over channels; the target is framed."""
    x = torch.randn(1, channels, 30, generator=torch.Generator().manual_seed(2)).double()
    result, wanted = explained(network(1, channels, pooled=False), x, linreg.target.box(2, (4, 9)))
    figure = result.plot()
    strips = [ax for ax in figure.axes if ax.images]
    chosen = sorted(np.argsort(-np.abs(wanted).sum(1), kind="stable")[:6])
    assert [ax.get_ylabel() for ax in strips] == [f"channel {channel}" for channel in chosen]
    for ax, channel in zip(strips, chosen, strict=True):
        np.testing.assert_allclose(ax.images[0].get_array()[0], wanted[channel], rtol=1e-10, atol=1e-15)
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), x[0, channel])
        (span,) = ax.patches
        assert (span.get_x(), span.get_x() + span.get_width()) == (3.5, 8.5)
    (curves,) = [ax for ax in figure.axes if ax.get_ylabel() == "all channels"]
    np.testing.assert_allclose(curves.lines[2].get_ydata(), wanted.sum(0), rtol=1e-10, atol=1e-15)
    check_inside(figure)


def test_volume() -> None:
    """The strongest slices, the target's among them, as they are; the voxel is framed in its slice alone."""
    x = torch.randn(1, 2, 9, 6, 8, generator=torch.Generator().manual_seed(3)).double()
    result, wanted = explained(network(3, 2, pooled=False), x, linreg.target.at(0, (4, 1, 5)))
    figure = result.plot()
    slices = [ax for ax in figure.axes if ax.get_title().startswith("slice ")]
    assert [ax.get_title() for ax in slices] == [f"slice {k}" for k in (2, 3, 4, 5, 6)]  # what the voxel sees
    (first,) = [k for k, ax in enumerate(figure.axes) if ax.get_ylabel() == "a, channels summed"]
    for k, ax in zip((2, 3, 4, 5, 6), figure.axes[first : first + 5], strict=True):
        np.testing.assert_allclose(ax.images[0].get_array(), wanted[:, k].sum(0), rtol=1e-10, atol=1e-15)
    assert framed(slices[2]) == (4.5, 5.5, 0.5, 1.5)
    assert [framed(ax) for ax in slices[:2] + slices[3:]] == [None] * 4
    check_inside(figure)


def framed(ax: Axes) -> tuple[float, ...] | None:
    """The box of an outline: left, right, top, bottom, in pixels."""
    lines = [each for each in ax.collections if isinstance(each, LineCollection)]
    if not lines:
        return None
    points = np.concatenate([segment for segment in lines[0].get_segments()])
    return (*points[:, 0][[points[:, 0].argmin(), points[:, 0].argmax()]].tolist(),
            *points[:, 1][[points[:, 1].argmin(), points[:, 1].argmax()]].tolist())  # fmt: skip


@pytest.mark.parametrize("channels", [2, 4, 13, 20])
def test_many_channels(channels: int) -> None:
    """A map of each channel, or of the fourteen strongest, under its name, and the sums over all."""
    x = torch.randn(1, channels, 10, 12, generator=torch.Generator().manual_seed(4)).double()
    result, wanted = explained(network(2, channels), x, 1)
    names = [f"band {k}" for k in range(channels)]
    figure = result.plot(names=names)
    maps = {title.splitlines()[-1]: ax.images[0].get_array() for title, ax in axes(figure).items() if ax.images}
    chosen = sorted(np.argsort(-np.abs(wanted).sum((1, 2)), kind="stable")[:14])
    assert [name for name in maps if name in names] == [f"band {k}" for k in chosen]
    for k in chosen:
        np.testing.assert_allclose(maps[f"band {k}"], wanted[k], rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(maps["attribution a"], wanted.sum(0), rtol=1e-10, atol=1e-15)
    check_inside(figure)


def test_target_on_the_picture() -> None:
    """A pixel, a box, and a region of an output of half the size, framed where it lies."""
    x = torch.randn(1, 3, 12, 16, generator=torch.Generator().manual_seed(5)).double()
    model = network(2, 3, pooled=False)
    halved = nn.Sequential(model, nn.AvgPool2d(2))
    mask = torch.zeros(6, 8).bool()
    mask[1:3, 4:7] = True
    cases = [
        (model, linreg.target.at(1, (2, 7)), (6.5, 7.5, 1.5, 2.5)),
        (model, linreg.target.box(1, (2, 5), (0, 4)), (-0.5, 3.5, 1.5, 4.5)),
        (halved, linreg.target.region(1, mask), (7.5, 13.5, 1.5, 5.5)),
        (model, linreg.target.box(1, (0, 12), (0, 16)), None),
    ]
    for network_, target, wanted in cases:
        figure = explained(network_, x, target)[0].plot()
        drawn = axes(figure)
        assert framed(drawn["image x"]) == framed(drawn["attribution a"]) == wanted
        assert framed(drawn["positive mapping ∇⁺"]) is None
        check_inside(figure)


def test_each_input_in_its_own_way() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.table = network(2, 3), network(0, 4)

        def forward(self, image: Tensor, table: Tensor) -> Tensor:
            return self.image(image) + torch.relu(self.table(table))

    given = {"image": torch.rand(1, 3, 8, 9).double(), "table": torch.rand(1, 4).double()}
    result = dmbp.explain(Both(), given, 1, iterations=1, progress=False)
    figure = result.plot(names={"table": ["age", "height", "weight", "pulse"]})
    assert {"image", "attribution a", "table: positive ∇⁺ ⊙ x"} <= set(axes(figure))
    labels = [label.get_text() for ax in figure.axes for label in ax.get_yticklabels()]
    assert any(label.startswith("pulse = ") for label in labels)
    check_inside(figure)
    with pytest.raises(DmbpError, match="'table' has 4 features, and 2 names are given"):
        result.plot(names={"table": ["age", "height"]})


def test_what_has_no_picture_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(54, 3), nn.ReLU(), nn.Linear(3, 2))
    result = dmbp.explain(model, torch.rand(1, 1, 2, 3, 3, 3), 1, iterations=1, progress=False)
    with pytest.raises(DmbpError, match=TOO_DEEP):
        result.plot()


def test_maps_alone() -> None:
    """The map that is asked for, of the same numbers, as wide as a column; none where there is none."""
    draw = torch.Generator().manual_seed(6)
    table, wanted = explained(network(0, 20), torch.randn(1, 20, generator=draw).double(), 1)
    figure = draw_alone(table, names=[f"column {k}" for k in range(20)])
    (ax,) = figure.axes
    order = np.argsort(-np.abs(wanted), kind="stable")
    lengths = [bar.get_width() for bar in ax.patches if bar.get_height() < 0.7]
    np.testing.assert_allclose(lengths, [*wanted[order[:12]], wanted[order[12:]].sum()], rtol=1e-10)
    check_inside(figure)
    with pytest.raises(DmbpError, match=r"there is no complete map of 'input', \(20,\)"):
        draw_alone(table, which="complete")
    signal, wanted = explained(network(1, 2), torch.randn(1, 2, 30, generator=draw).double(), 1)
    for which, grounds in (("paper", list(wanted)), ("complete", [signal.complete[0].numpy()] * 2)):
        figure = draw_alone(signal, which=which)
        for strip, ground in zip(figure.axes, grounds, strict=True):
            np.testing.assert_allclose(strip.images[0].get_array()[0], ground, rtol=1e-10, atol=1e-15)
        check_inside(figure)
    volume, wanted = explained(network(3, 2), torch.randn(1, 2, 4, 6, 5, generator=draw).double(), 1)
    figure = draw_alone(volume)
    assert [ax.get_title() for ax in figure.axes] == [f"slice {k}" for k in range(4)]
    for k, ax in enumerate(figure.axes):
        np.testing.assert_allclose(ax.images[0].get_array(), wanted[:, k].sum(0), rtol=1e-10, atol=1e-15)
    check_inside(figure)
