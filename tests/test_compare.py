"""Comparisons: the maps and areas that methods and metrics give by themselves, people's own maps, and the picture."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Run, files
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import dmbp
from dmbp import DmbpError
from dmbp.cli.compare import methods_of
from dmbp.evaluation import insertion, methods
from dmbp.plot import draw_overlay
from dmbp.plot.overlay import coloured, greyed
from linreg.plot.style import BLUE, RED

pytestmark = pytest.mark.xdist_group("compare")


@cache
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4),
    ).double().eval()  # fmt: skip


@cache
def picture() -> torch.Tensor:
    return torch.randn(1, 3, 16, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def own(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


ASKED = ("dmbp:iterations=3", "nd", "dmbp:iterations=5,map=complete", "gradcam")


@cache
def compared() -> dmbp.Comparison:
    return dmbp.compare(network(), picture(), [1, 2], ASKED, step=30)


def test_each_map_and_area_is_that_of_the_method_and_the_metric_alone() -> None:
    found = compared()
    assert [row.name for row in found.rows] == list(ASKED) and found.targets == (1, 2)
    for row in found.rows:
        for place, k in enumerate(found.targets):
            alone = methods.parse(row.name)(network(), picture(), k)
            torch.testing.assert_close(row.maps[place], alone.sum(1)[0], rtol=1e-10, atol=1e-12)
            curve = insertion(network(), picture(), k, alone, step=30)
            for name, value in (("area", row.areas), ("lower", row.lower), ("upper", row.upper)):
                assert value[place] == pytest.approx(getattr(curve, name).item(), rel=1e-9)
    output = network()(picture())[0]
    assert found.scores == pytest.approx(output[[1, 2]].tolist())
    assert found.probabilities == pytest.approx(output.softmax(0)[[1, 2]].tolist())


def test_verdicts_are_those_of_the_explanations() -> None:
    for name, iterations in ((ASKED[0], 3), (ASKED[2], 5)):
        for place, k in enumerate((1, 2)):
            alone = dmbp.explain(network(), picture(), k, iterations=iterations, progress=False).verdict()
            assert compared()[name].verdicts[place].words == alone.words
    assert compared()["nd"].verdicts == ()


def test_dmbp_learns_once_for_all_its_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    learned = methods.DMBP.learned

    def counting(self: methods.DMBP, *given: Any) -> Any:
        asked.append(self.name)
        return learned(self, *given)

    monkeypatch.setattr(methods.DMBP, "learned", counting)
    dmbp.compare(network(), picture(), [1, 2], ASKED, insertion=False)
    assert len(asked) == 2  # one for each class


@pytest.mark.parametrize("shape", [(16, 20), (1, 16, 20), (3, 16, 20), (1, 1, 16, 20), (1, 3, 16, 20)])
def test_maps_of_ones_own(shape: tuple[int, ...]) -> None:
    values = own(0, *shape)
    found = dmbp.compare(network(), picture(), 2, ["nd"], {"mine": values}, step=40)["mine"]
    summed = torch.from_numpy(values.reshape(-1, 16, 20).sum(0))
    torch.testing.assert_close(found.maps[0], summed, rtol=0, atol=1e-12)
    assert found.areas[0] == insertion(network(), picture(), 2, summed[None], step=40).area.item()


def test_maps_of_ones_own_for_several_classes() -> None:
    pair = [own(0, 16, 20), own(1, 3, 16, 20)]
    found = dmbp.compare(network(), picture(), [0, 3], [], {"mine": pair}, insertion=False)
    torch.testing.assert_close(found["mine"].maps[1], torch.from_numpy(pair[1].sum(0)))
    assert found["mine"].areas == () and "insertion" not in found.summary()
    assert found.arrays()["map/mine"].shape == (2, 16, 20)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"methods": ["igg"]}, r"no method 'igg' \(did you mean 'ig'\?\); there are nd, "),
    "option": ({"methods": ["ig:stepps=3"]}, "has no option 'stepps' .did you mean 'steps'"),
    "size": ({"maps": {"mine": own(0, 20, 16)}}, r"the map 'mine': expected maps of the shape .*, not \(20, 16\)"),
    "NaN": ({"maps": {"mine": own(0, 16, 20) * np.nan}}, "the map 'mine': the map of picture 0 holds NaN"),
    "one map for two": ({"target": [0, 1], "maps": {"mine": [own(0, 16, 20)]}}, "a list of 2 maps"),
    "twice": ({"methods": ["nd"], "maps": {"nd": own(0, 16, 20)}}, "two maps of the name 'nd'"),
    "nothing": ({"methods": []}, "name at least one method"),
    "no class": ({"target": []}, "name at least one class"),
    "class twice": ({"target": [1, 1]}, "each class once"),
    "no such class": ({"target": 4}, "there is no class 4: the network has 4"),
    "probability": ({"probability": "odds"}, "probability must be"),
    "a batch": ({"x": picture().expand(2, -1, -1, -1)}, "x.n : n . 1. is one"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_work(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given, message = REFUSED[case]
    monkeypatch.setattr("dmbp.comparison._made", None)
    with pytest.raises(DmbpError, match=message):
        dmbp.compare(**{"network": network(), "x": picture(), "target": 1, "methods": ["nd"], **given})


def test_a_package_that_is_missing_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmbp.comparison._made", None)
    for name in ("captum", "captum.attr"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DmbpError, match=r"captum\.attr is not installed: .*baselines"):
        dmbp.compare(network(), picture(), 1, ["nd", "deeplift"])


# ---- pictures ----


def texts(figure: Figure) -> str:
    labels = [text for ax in figure.axes for text in (ax.get_title(), ax.get_xlabel())]
    return "\n".join([*labels, figure.get_supxlabel()])


@pytest.mark.parametrize("columns", [1, 3, 5])
def test_the_figure_shows_every_map_on_its_methods_scale(columns: int) -> None:
    figure = compared().plot(columns=columns, title="a $ title")
    drawn = [ax for ax in figure.axes if ax.images and ax.get_xlabel().startswith("insertion")]
    assert len(drawn) == 8
    limits: dict[str, set[float]] = {}
    for ax in drawn:
        low, high = ax.images[0].get_clim()
        assert low == -high < 0
        limits.setdefault(ax.get_title(), set()).add(high)
    assert len(limits) == 4 and all(len(each) == 1 for each in limits.values())
    bold = [ax.get_xlabel() for ax in drawn if ax.xaxis.label.get_fontweight() == "bold"]
    best = [max(row.areas[place] for row in compared().rows) for place in (0, 1)]
    assert {f"insertion {area:.3f}" for area in best} == set(bold)
    assert "scale of its own" in texts(figure) and texts(figure).count("probability 0.") >= 2


def test_an_overlay_is_clear_at_zero_and_full_at_the_limit() -> None:
    values = np.array([[0.0, 2.0], [-2.0, 1.0]])
    rgba = coloured(values, 2.0)
    np.testing.assert_allclose(rgba[..., 3], [[0, 0.85], [0.85, 0.425]])
    np.testing.assert_allclose(rgba[0, 1, :3], to_rgb(RED), atol=1e-6)
    np.testing.assert_allclose(rgba[1, 0, :3], to_rgb(BLUE), atol=1e-6)
    grey = greyed(np.array([[[0.0, 0, 0], [1, 1, 1], [1, 0, 0]]]))
    np.testing.assert_allclose(grey, [[0.35, 1.0, 0.299 + 0.35 * 0.701]])
    with pytest.raises(DmbpError, match="does not lie on a picture"):
        draw_overlay(torch.zeros(4, 4), np.zeros((4, 5, 3)))


# ---- the command line ----

PHOTO = ("photo.png", "--model", "net.py:named")


def test_the_command(run: Run) -> None:
    asked = ("--targets", "3", "crane, bird", "--methods", "dmbp:iterations=2,map=complete,nd", "gradcam")
    status, out, err = run("compare", *PHOTO, *asked, "--format", "png,svg", "--out", "new", "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert [target["target"] for target in report["targets"]] == [3, 0]
    assert [each["map"] for each in report["maps"]] == ["dmbp:iterations=2,map=complete", "nd", "gradcam"]
    assert json.loads(Path("new/photo-net-déjà-vu-3-comparison.json").read_text("utf-8")) == report
    with np.load(report["arrays"], allow_pickle=False) as arrays:
        assert arrays["map/nd"].shape == (2, 10, 14)
    with Image.open(report["figures"][0]) as figure:
        assert figure.format == "PNG"
    assert "<svg" in Path(report["figures"][1]).read_text("utf-8")
    status, out, _ = run("compare", *PHOTO, "--methods", "nd", "--out", "new")
    assert status == 0 and "insertion, " in out and "maps: new/photo-net" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "nd,igg"), "there is no method 'igg' (did you mean 'ig'?)"),
        (("--model", "net.py:unpooled"), "dmbp compare is for one picture and a network that gives scores of classes"),
        (("--targets", "crame"), "net has no class 'crame'; near: crane"),
        (("--format", "tiff"), "--format tiff: pictures are written as png, svg, pdf"),
        (("--out", "photo.png"), "cannot write to photo.png: Not a directory"),
    ],
)
def test_the_command_refuses_in_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    before = files()
    status, out, err = run("compare", *PHOTO, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1) and message in err
    assert files() == before


def test_methods_parted_by_commas() -> None:
    assert methods_of(["dmbp,ig:steps=20,rule=riemann_left", "nd"]) == ["dmbp", "ig:steps=20,rule=riemann_left", "nd"]


def test_explain_takes_two_classes_pictures_and_a_folder(run: Run) -> None:
    """y is the difference of the two scores; a folder gives all its pictures, or one by its number."""
    Path("folder").mkdir()
    for name in ("b.png", "a.png"):
        Path("folder", name).write_bytes(Path("photo.png").read_bytes())
    common = ("--model", "net.py:named", "--iterations", "1", "--json", "--out", "new")
    _, out, _ = run("explain", "folder", "photo.png", *common, "--target", "3", "--rather-than", "1", "--format", "svg")
    reports = json.loads(out)
    assert [Path(report["image"]).name for report in reports] == ["a.png", "b.png", "photo.png"]
    first = reports[0]
    assert first["rather_than"] == {"target": 1, "label": "crane, machine"}
    with np.load(first["arrays"], allow_pickle=False) as arrays:
        assert arrays["target"].tolist() == [[0, -1, 0, 1]]
        assert arrays["y"][0] == pytest.approx(arrays["output"][0, 3] - arrays["output"][0, 1], rel=1e-4)
    assert first["figure"].endswith("a-net-déjà-vu-3-rather-than-crane-1.svg")
    assert " against " in first["verdict"]["standing"]["words"]
    _, out, _ = run("explain", "folder", "--row", "1", *common)
    assert Path(json.loads(out)["image"]).name == "b.png"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("folder",), "folder is a folder without pictures"),
        (("photo.png", "none.png"), "none.png: there is no such image file"),
        (("photo.png", "--format", "tiff"), "and not as 'tiff'"),
        (("photo.png", "--agreement", "1"), "the agreement must be a number between 0 and 1"),
        (("photo.png", "--target", "1", "--rather-than", "1"), "against another than itself"),
        (("photo.png", "--rather-than", "crame"), "no class 'crame'"),
    ],
)
def test_explain_refuses_before_any_work(run: Run, arguments: tuple[str, ...], message: str) -> None:
    Path("folder").mkdir()
    before = files()
    status, out, err = run("explain", *arguments, "--model", "net.py:named", "--out", "out")
    assert (status, out, err.count("\n")) == (2, "", 1) and message in err
    assert files() == before


def test_explain_draws_maps_alone_and_over_the_picture_and_checks_them(run: Run) -> None:
    wanted = ("--map", "complete", "--overlay", "paper", "--check", "--iterations", "1", "--out", "new")
    status, out, _ = run("explain", *PHOTO, *wanted, "--target", "3", "--json")
    report = json.loads(out)
    assert status == 0 and set(report["files"]) == {"figure", "map", "overlay"}
    with Image.open(report["map"]) as alone, Image.open(report["overlay"]) as over:
        assert alone.size == over.size and alone.tobytes() != over.tobytes()
    tried = report["verdict"]["tried"]
    assert set(tried["areas"]) == {"paper", "complete", "nd", "random"} and set(tried["redrawn"]) == {
        "paper",
        "complete",
    }
    assert report["verdict"]["level"] in ("good", "doubtful", "do not trust")
    assert {"bound", "doubt", "shares", "verdict"} <= set(report) and report["verdict"]["standing"]["others"]
    assert any("insertion area, best first" in line for line in report["verdict"]["lines"])
