"""`dmbp bench`: it measures what it says, and its text says what its JSON says. No speed is asserted."""

from __future__ import annotations

import json
import math
import pickle
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Run, called
from matplotlib.figure import Figure
from nets import randomised
from PIL import Image
from torch import Tensor, nn

import dmbp
import linreg
from dmbp import bench
from dmbp.bench import resident
from dmbp.bench.growth import line
from dmbp.bench.growth_picture import draw_growth
from dmbp.bench.literal import Literal
from dmbp.bench.subject import flops, in_turn, read_subject
from dmbp.files import save_figure_apart
from dmbp.models import load_model, untrained

NETWORKS = """
import torch
from torch import nn
from dmbp.images import Preprocess
from dmbp.models import Model

def small(*layers):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 4, 3), nn.ReLU(), *layers)
    return Model("a small/net.py", network, Preprocess((12, 16), (0.5,) * 3, (0.25,) * 3))

def free():
    return small(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))

def fixed():
    return small(nn.Flatten(), nn.Linear(4 * 8 * 12, 5))
"""
COSTS = {
    "batch", "name", "seconds", "seconds_per_image", "over_floor", "over_dmbp", "flops", "flops_per_second", "peak_mb",
    "peak_mb_per_image", "peak_over_floor",
}  # fmt: skip
PAIRS = {"name", "batch", "seconds", "rival", "rival_seconds", "ratio"}
GROWTH = {"name", "amounts", "seconds", "floor_seconds", "start", "slope", "residual"}
MACHINE = {"cpu", "cores", "threads", "device", "torch", "python", "system", "date"}
TINY = ("--rounds", "1", "--iterations", "1", "--batch", "1", "2")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETWORKS)
    return partial(called, capsys, "bench")


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        return [n for item in (value.values() if isinstance(value, dict) else value) for n in numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


# ---- the command ----


def _known(graph: object, x: Tensor, target: object, sides: Sequence[str] = ("plain", "dmbp")) -> dict[str, float]:
    return {side: {"plain": 2.0, "learning": 4.0, "dmbp": 5.0}[side] * len(x) for side in sides}


@pytest.fixture
def known_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the processes that measure memory, which take their time to start."""
    monkeypatch.setattr(bench, "peaks", _known)


@pytest.mark.usefixtures("known_peaks")
def test_json_of_everything(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmbp.learning.passes.compiled", lambda kernel: kernel)  # a compiler takes its time
    status, out, err = run("--model", "net.py:free", *TINY, "--out", "out", "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert set(report["machine"]) == MACHINE and report["machine"]["torch"] == torch.__version__
    assert report["settings"]["model"] == "a small/net.py" and not report["interrupted"]
    assert all(set(row) == COSTS for row in report["costs"]) and all(set(row) == PAIRS for row in report["pairs"])
    assert all(set(row) == GROWTH for row in report["growth"])
    names = [bench.FLOOR, bench.FIRST, bench.GIVEN, bench.OURS, bench.COMPILED, bench.OWN, bench.LITERAL]
    assert [(row["batch"], row["name"]) for row in report["costs"]] == [(n, name) for n in (1, 2) for name in names]
    assert [row["name"] for row in report["growth"]] == ["iterations", "images", "pixels"]
    assert [row["amounts"][-1] for row in report["growth"]] == [40, 8, 24 * 32]
    assert len(report["pairs"]) == 2 * 2 + 2 + 2 + 2
    for part in ("costs", "pairs"):
        assert all(math.isfinite(n) and n > 0 for n in numbers(report[part]))
    for row in report["costs"]:
        peak = {bench.FLOOR: (2.0, 1.0), bench.OURS: (5.0, 2.5)}.get(row["name"], (None, None))
        assert (row["peak_mb_per_image"], row["peak_over_floor"]) == peak
    assert all(row["difference"] < 1e-3 and row["iterations"] == 2 and row["sites"] == 2 for row in report["masks"])
    with Image.open(report["figure"]) as figure:
        assert Path(report["figure"]) == Path("out/growth-net.png") and min(figure.size) > 700


@pytest.mark.usefixtures("known_peaks")
def test_the_shipped_network_and_the_ratios_of_the_text(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr("dmbp.cli.bench.bench", lambda *arguments: kept.append(bench.bench(*arguments)) or kept[0])
    status, out, err = run(*TINY, "--only", "iteration", "memory", "linearize", "--dtype", "float64", "--threads", "1")
    assert (status, err) == (0, "") and not Path("dmbp-out").exists()
    assert out.startswith("digit-pairs, float64, on cpu, 1 thread\n") and bench.LITERAL not in out
    report = json.loads(json.dumps(kept[0].as_dict()))
    lines = [re.split(r"\s{2,}", text) for text in out.splitlines()]
    for row in report["costs"]:
        floor = next(r for r in report["costs"] if r["batch"] == row["batch"] and r["name"] == bench.FLOOR)
        (cells,) = (cells for cells in lines if cells[:2] == [row["name"], str(row["batch"])])
        assert cells[4] == f"{row['seconds'] / floor['seconds']:.2f}"
        assert float(cells[7]) == pytest.approx(row["flops"] / row["seconds"] / 1e9, rel=5e-3)
        assert float(cells[3].replace(",", "")) == pytest.approx(1e3 * row["seconds"] / row["batch"], rel=1e-3)
        if row["peak_mb"] is not None:
            assert cells[9] == f"{row['peak_mb'] / floor['peak_mb']:.2f}"
    for row in report["pairs"]:
        (cells,) = (cells for cells in lines if cells[:2] == [row["name"], str(row["batch"])])
        assert cells[3] == row["rival"] and cells[5] == f"{row['seconds'] / row['rival_seconds']:.2f}"


@pytest.mark.skipif(not resident.FORGET.exists(), reason="there is no peak of memory to be read")
def test_memory(tmp_path: Path) -> None:
    """Two ReLUs of 2²⁰ numbers: plain passes keep two such, DMBP at least masks, logits and their squares of both."""
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    x = torch.randn(1, 1, 512, 512)
    problem = linreg.trace(network.append(nn.Flatten()), x), x, torch.zeros(1, dtype=torch.long)
    (tmp_path / "problem").write_bytes(pickle.dumps(problem))
    plain, ours = resident._in_child(tmp_path / "problem", "plain"), resident._resident(resident.explanation(*problem))
    size = 4 * 2**20 / 1e6
    assert 2 * size < plain < 20 * size and 6 * size < ours < 60 * size


def test_one_size_only(run: Run) -> None:
    status, out, _ = run("--model", "net.py:fixed", *TINY, "--only", "growth", "--json")
    report = json.loads(out)
    assert status == 0 and [row["name"] for row in report["growth"]] == ["iterations", "images"]
    assert report["notes"][0].startswith("growth with pixels: not measured") and Path(report["figure"]).is_file()


def test_interrupted_it_prints_what_was_measured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: object, iterations: int) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.Problem, "iteration", interrupt)
    status, out, err = run("--model", "net.py:free", *TINY, "--only", "captum", "linearize", "--json")
    assert status == 130 and err == "dmbp: interrupted; kept what was measured so far\n"
    report = json.loads(out)
    assert report["interrupted"] and len(report["pairs"]) == 2 * 2 and report["notes"] == []


def test_without_captum(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    status, out, _ = run("--model", "net.py:free", *TINY, "--only", "captum")
    assert status == 0 and out.count("Captum is not installed: in the folder") == out.count('".[baselines]"') == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "resnet"), "unknown model 'resnet'"),
        (("--model", "torchvision:resnet5"), "torchvision has no classifier 'resnet5'; near: resnet50"),
        (("--model", "net.py:missing"), "it defines no function 'missing'"),
        (("--device", "meta"), "--device meta: this machine or this build of torch has no such device"),
        (("--weights", "none.pt"), "none.pt: there is no such file of weights"),
        (("--out", "net.py"), "cannot write to net.py"),
        (("--batch", "0"), "argument --batch: expected a whole number of at least 1, not '0'"),
        (("--rounds", "-1"), "argument --rounds: expected"),
        (("--threads", "two"), "argument --threads: expected a whole number of at least 1, not 'two'"),
        (("--dtype", "int8"), "argument --dtype: invalid choice: 'int8'"),
        (("--only", "speed"), "argument --only: invalid choice: 'speed'"),
    ],
)
def test_bad_options(run: Run, arguments: tuple[str, ...], says: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "") and says in err
    assert err.startswith("usage: ") or err.count("\n") == 1


# ---- what is measured ----


def small(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return randomised(nn.Sequential(*layers)).double().eval()


NETS = {
    "relu6 and norms": lambda: small(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU6(), nn.MaxPool2d(2), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Conv2d(3, 4, 3, padding=1), nn.Hardtanh(-0.5, 0.5), nn.Flatten(), nn.Linear(64, 3),
    ),
    "leaky and abs": lambda: small(nn.Flatten(), nn.Linear(200, 8), nn.LeakyReLU(0.3), nn.Linear(8, 6), nn.ReLU(),
                                   nn.Linear(6, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_literal_masks_are_ours(name: str) -> None:
    """The literal algorithm shares the frozen operators with ours, and nothing of how masks are learned."""
    x = 2 * torch.randn(3, 2, 10, 10, generator=torch.Generator().manual_seed(1)).double()
    lin = linreg.trace(NETS[name](), x).linearize(x)
    target = torch.tensor([0, 2, 1])
    literal = Literal(lin, target)
    untouched = dmbp.decompose(lin, literal.masks, target).unmasked
    torch.testing.assert_close(literal.untouched, untouched, rtol=1e-12, atol=1e-12)
    start = literal.masks
    for _ in range(12):
        literal.step()
    ours = dmbp.learn_masks(lin, target, iterations=12, progress=False).masks
    assert any((start[site] - ours[site]).abs().max() > 0.01 for site in start)
    for site, mask in literal.masks.items():
        torch.testing.assert_close(mask, ours[site], rtol=1e-10, atol=1e-10)


def test_floor_and_flops_of_a_network_counted_by_hand(run: Run) -> None:
    subject, note = read_subject("net.py:free", None, torch.device("cpu"), torch.float64)
    problem = subject.problem(3)
    assert note == "" and problem.x.shape == (3, 3, 12, 16) and len({image.sum().item() for image in problem.x}) == 3
    torch.testing.assert_close(problem.folded(problem.x), problem.given(problem.x))
    forward = 3 * 2 * (10 * 14 * 4 * 3 * 9 + 8 * 12 * 4 * 4 * 9 + 16 * 5)
    assert flops(problem.floor) == 3 * forward and problem.order is None


def test_medians_without_the_first_round() -> None:
    clocks = {name: iter(values) for name, values in {"a": (90.0, 1.0, 7.0, 3.0), "b": (90.0, 5.0, 5.0, 6.0)}.items()}
    order: list[str] = []

    def clock(name: str) -> float:
        order.append(name)
        return next(clocks[name])

    assert in_turn({name: lambda name=name: clock(name) for name in clocks}, 3, "") == {"a": 3.0, "b": 5.0}
    assert order == ["a", "b"] * 4


def test_line() -> None:
    x = np.array([1.0, 2.0, 4.0, 8.0])
    np.testing.assert_allclose(line(x, 0.5 + 0.25 * x), (0.5, 0.25, 0), atol=1e-12)
    *_, residual = line(x, x**2)
    assert residual > 0.3


def test_the_picture_of_growth_shows_its_points_and_its_line() -> None:
    row = {
        "name": "images", "amounts": [1, 2, 4], "seconds": [0.3, 0.5, 0.9], "floor_seconds": [0.2, 0.4, 0.8],
        "start": 0.1, "slope": 0.2, "residual": 0.0,
    }  # fmt: skip
    (ax,) = draw_growth([row], "title").axes
    fit, ours, floor = ax.get_lines()
    assert fit.get_ydata().tolist() == pytest.approx([0.1, 0.9]) and list(ours.get_ydata()) == row["seconds"]
    assert list(floor.get_ydata()) == row["floor_seconds"]
    assert ax.get_xlabel() == "images in the batch" and ax.get_ylabel() == "time"
    assert "100.00 ms + 200.00 ms per image" in ax.get_legend().get_texts()[0].get_text()


def test_untrained_networks_are_always_the_same() -> None:
    before = torch.random.get_rng_state()
    first, second = (untrained("torchvision:shufflenet_v2_x0_5") for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state()) and not first.network.training
    state, other = first.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(state[key], other[key]) for key in state)
    assert state["conv1.1.running_var"].std() > 0 and len(first.labels or ()) == 1000


def test_weights_that_are_given_are_read(tmp_path: Path) -> None:
    network = load_model("digit-pairs").network
    with torch.no_grad():
        next(network.parameters()).zero_()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    subject, _ = read_subject("digit-pairs", tmp_path / "weights.pth", torch.device("cpu"), torch.float32)
    assert not next(subject.network.parameters()).any()


def test_figures_of_two_networks_of_one_file_name_stand_beside_each_other(tmp_path: Path) -> None:
    """One of the same thing takes its own place; what is no figure of ours, or of something else, is left alone."""

    def written(of: str, title: str) -> Path:
        figure = Figure(figsize=(1, 1))
        figure.suptitle(title)
        return save_figure_apart(figure, tmp_path, "growth-net", of)

    first, second = written("a/net.py", "a"), written("b/net.py", "b")
    assert (first.name, second.name) == ("growth-net.png", "growth-net-2.png")
    kept = first.read_bytes()
    assert written("b/net.py", "another") == second and first.read_bytes() == kept
    assert written("a/net.py", "another") == first and first.read_bytes() != kept
    Image.new("RGB", (9, 9)).save(tmp_path / "growth-net-3.png")
    assert written("c/net.py", "c").name == "growth-net-4.png" and not list(tmp_path.glob("*partial*"))
