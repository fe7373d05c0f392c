"""What a user has switched on around a call changes no result, and is as it was afterwards."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import dmbp
import linreg
from dmbp.learning.precision import matrix_products
from dmbp.plot import draw_map
from dmbp.plot.mask_pictures import draw_positions
from linreg.plot import draw_graph, draw_matrix, waterfall

pytestmark = pytest.mark.xdist_group("surroundings")


def model() -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(4)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4),
        nn.Hardtanh(-0.5, 0.5), nn.Linear(4, 2),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return network, torch.randn(2, 1, 6, 6, generator=generator)


def numbers(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """All that the two packages compute of an input, from tracing on."""
    graph = linreg.trace(network, x)
    lin = graph.linearize(x)
    certificate, one = lin.certificate(1), graph.linearize(x[:1])
    result = dmbp.explain(graph, x, 1, iterations=4, snapshots=(2,), progress=False)
    own = dmbp.explain(graph, x, 1, iterations=4, loss=lambda y, p, n: n - p, progress=False)
    every = list(dmbp.explain_all(graph, x, 1, iterations=4, progress=False))
    scores = dmbp.masked_scores(lin, target=1)
    logits = scores.logits()
    with torch.inference_mode(False), torch.enable_grad():
        scores(logits)[0].sum().backward()
    return {
        "graph": graph(x), "output": lin.output, "weight": lin.weight(1), "total": lin.ledger(1).total,
        "bound": certificate.bound, "doubtful": certificate.doubtful, "matrix": one.matrix(),
        "singular": one.jacobian().singular_values(), "attribution": result.attribution, "own": own.attribution,
        "snapshot": result.snapshots[2], "split": result.split.error, "complete": result.complete,
        "all": torch.stack([each.attribution for each in every]), **{f"θ {s}": logits[s].grad for s in scores.sites},
        "interpolant": linreg.trace(nn.Sequential(network, nn.Tanh()), x, nonlinear="pwl")(x),
    }  # fmt: skip


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def new_precision(setting: Any, value: str) -> Iterator[None]:
    before = setting.fp32_precision
    setting.fp32_precision = value
    try:
        yield
        assert setting.fp32_precision == value
    finally:
        setting.fp32_precision = before


AROUND: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to half": lambda: torch.autocast("cpu", dtype=torch.float16),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "default device": lambda: torch.device("meta"),
    "default dtype": default_dtype,
    "tf32 by the new name": lambda: new_precision(torch.backends.cuda.matmul, "tf32"),
    "convolutions by the new name": lambda: new_precision(torch.backends.cudnn.conv, "tf32"),
    "ieee by the new name": lambda: new_precision(torch.backends.cuda.matmul, "ieee"),
}


@pytest.mark.parametrize("around", AROUND)
def test_results_are_those_without(around: str) -> None:
    """To the bit, and of the network's dtype."""
    network, x = model()
    expected = numbers(network, x)
    with AROUND[around]():
        found = numbers(network, x)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name
        assert not found[name].is_inference() or around == "inference mode", name


def test_what_inference_mode_makes_is_of_use_outside() -> None:
    """Weights and pictures that were made in it too: a linear region is learned from afterwards."""
    with torch.inference_mode():
        network, x = nn.Sequential(nn.Linear(4, 6), nn.Softshrink(), nn.Linear(6, 2), nn.ReLU()), torch.randn(2, 4)
        graph = linreg.trace(network, x)
        lin = graph.linearize(x)
    scores = dmbp.masked_scores(lin, target=0)
    logits = scores.logits()
    (scores(logits)[0] - scores(logits)[1]).sum().backward()
    assert all(theta.grad is not None for theta in logits.values())
    with torch.inference_mode():
        torch.testing.assert_close(lin.output, network(x))


def precisions() -> list[str]:
    backends = torch.backends
    settings = (backends, backends.cuda.matmul, backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn)
    return [setting.fp32_precision for setting in settings]


@pytest.mark.parametrize("precision", ["full", "bf16", "tf32"])
@pytest.mark.parametrize("value", ["none", "ieee", "tf32"])
def test_torchs_precision_is_given_back(precision: str, value: str) -> None:
    with new_precision(torch.backends.cuda.matmul, value):
        before = precisions()
        with matrix_products(precision):
            inside = precisions()
        assert precisions() == before
        assert (inside[1], inside[3]) == ("tf32", "tf32") if precision == "tf32" else inside == before
        with pytest.raises(KeyError), matrix_products(precision):
            raise KeyError
        assert precisions() == before
    before = precisions(), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    network, x = model()
    dmbp.explain(network, x, 0, iterations=1, precision="full" if precision == "tf32" else precision, progress=False)
    assert before == (precisions(), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)


UNUSUAL = {
    "image.origin": "lower", "image.cmap": "jet", "image.interpolation": "bicubic", "axes.facecolor": "black",
    "axes.grid": True, "figure.facecolor": "red", "savefig.facecolor": "green", "savefig.bbox": "tight",
    "savefig.transparent": True, "font.size": 30, "lines.linewidth": 9, "axes.spines.left": False,
}  # fmt: skip


def pixels(figure: Figure) -> np.ndarray:
    file = io.BytesIO()
    figure.savefig(file, format="raw", dpi=50)
    return np.frombuffer(file.getvalue(), np.uint8)


def test_matplotlibs_settings_change_no_picture(tmp_path: Any) -> None:
    """A figure saved in a process with odd settings is that of a new one, and these are as they were."""
    network, x = model()
    graph = linreg.trace(network, x)
    result = dmbp.explain(graph, x, 1, iterations=2, progress=False)
    lin = graph.linearize(x[:1])

    def saved(name: str) -> list[bytes]:
        figures = {"map": draw_map(result.complete[0]), "all": result.plot(), "matrix": draw_matrix(lin).figure}
        figures |= {"waterfall": waterfall(lin.ledger(1)).figure, "graph": draw_graph(graph).figure}
        paths = [dmbp.files.save_figure(figure, tmp_path / f"{name}-{key}.png") for key, figure in figures.items()]
        return [path.read_bytes() for path in paths]

    expected = saved("plain")
    with mpl.rc_context(UNUSUAL):  # type: ignore[arg-type]
        held = dict(mpl.rcParams)
        found, notebook = saved("odd"), dmbp.explain(graph, x, 1, iterations=2, progress=False)._repr_png_()
        assert dict(mpl.rcParams) == held
    assert found == expected
    assert notebook is not None
    first_row = draw_map(torch.tensor([[1.0, 1.0], [0.0, 0.0]])).axes[0].images[0]
    with mpl.rc_context({"image.origin": "lower"}):
        turned = draw_map(torch.tensor([[1.0, 1.0], [0.0, 0.0]])).axes[0].images[0]
        tile = draw_positions(Figure().add_subplot(), np.array([[1.0], [0.0]]))
    assert first_row.origin == turned.origin == tile.origin == "upper"
