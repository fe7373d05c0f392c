"""The command line: what it prints and writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import LABELS, Run, explained, files
from PIL import Image
from splits import recurred

import dmbp
import linreg
from dmbp.account import PARTS
from dmbp.datasets import sample_pairs
from dmbp.models import load_model
from dmbp.networks import pretrained

KEYS = {
    "model", "target", "label", "y", "positive", "negative", "nuisance", "unmasked", "completeness_error", "iterations",
    "seconds", "figure", "arrays",
}  # fmt: skip

# ---- what it prints and writes ----


def test_without_arguments_both_digits_of_the_shipped_pair(run: Run) -> None:
    status, out, err = run("explain", "--iterations", "2")
    assert (status, err) == (0, "")
    digits = sample_pairs().labels[0].tolist()
    names = {f"digit-pair-0-digit-pairs-{digit}.{kind}" for digit in digits for kind in ("png", "npz")}
    assert {path.name for path in Path("dmbp-out").iterdir()} == names
    for digit in digits:
        assert f"{digit}, digit-pairs at digit-pair:0: 2 iterations in" in out
        assert f"figure: dmbp-out/digit-pair-0-digit-pairs-{digit}.png" in out
    for word in ("from the input", "from bias terms", "y⁺", "y⁻", "u, in y~: what no mask touches", "certificate:"):
        assert out.count(word) >= 2


def test_the_name_of_the_pairs_alone_is_the_first_of_them(run: Run) -> None:
    status, out, err = run("explain", "digit-pair", "--iterations", "0")
    assert (status, err) == (0, "") and "digit-pair-0-digit-pairs-3.png" in out
    prose = [line for line in out.splitlines() if not line.startswith(("figure: ", "arrays: "))]
    assert max(map(len, prose)) <= 100


def test_json(run: Run) -> None:
    reports = explained(run, iterations=2)
    assert [report["target"] for report in reports] == sample_pairs().labels[0].tolist()
    for report in reports:
        assert set(report) >= KEYS
        assert report["label"] == str(report["target"]) and report["iterations"] == 2
        assert 0 <= report["completeness_error"] < 1e-4
        with Image.open(report["figure"]) as figure:
            assert figure.format == "PNG" and min(figure.size) > 700
        with np.load(report["arrays"], allow_pickle=False) as arrays:
            check_arrays(dict(arrays), report)
            check_split(dict(arrays), report)
    assert not list(Path("out").glob("*partial*"))


def check_arrays(arrays: dict[str, np.ndarray], report: dict[str, Any]) -> None:
    """The map of each part sums to its input share, and with the ledger to the part itself."""
    for part in ("positive", "negative", "nuisance", "unmasked"):
        share = arrays[f"{part}_attribution"].sum()
        assert arrays[f"{part}_input_share"].item() == pytest.approx(share, abs=1e-4)
        assert arrays[part].item() == report[part] == pytest.approx(share + arrays[f"{part}_ledger"].sum(), abs=1e-4)
        assert len(arrays[f"{part}_ledger"]) == len(arrays["ledger_terms"])
    both = arrays["positive_attribution"] + arrays["negative_attribution"]
    np.testing.assert_allclose(arrays["attribution"], both, atol=1e-6)
    assert arrays["attribution"].shape == arrays["input"].shape == (1, 1, 64, 64)
    assert arrays["y"].item() == report["y"]
    assert arrays["history_positive"].shape == (3, 1)


def check_split(arrays: dict[str, np.ndarray], report: dict[str, Any]) -> None:
    """The parts are those of the masks that were written, by the recurrence, and sum to the network's own score."""
    network, x = pretrained("digit-pairs"), torch.from_numpy(arrays["input"])
    lin = linreg.trace(network, x).linearize(x)
    masks = {key.removeprefix("mask/"): torch.from_numpy(m) for key, m in arrays.items() if key.startswith("mask/")}
    parts, size = recurred(lin, masks, report["target"]), lin.ledger(report["target"]).magnitude.item()
    for part in PARTS:
        assert report[part] == pytest.approx(getattr(parts, part).item(), abs=1e-5 * size)
    with torch.no_grad():
        score = network(x)[0, report["target"]].item()
    assert report["y"] == pytest.approx(score, abs=1e-5 * size)
    assert parts.total.item() == pytest.approx(score, abs=1e-5 * size)


def test_one_target_is_one_object(run: Run) -> None:
    report = explained(run, "digit-pair:5", "--model", "digit-pairs-vgg", "--target", "4", "--target", " 4")
    assert (report["model"], report["target"]) == ("digit-pairs-vgg", 4)


def test_photo_with_the_shipped_network(run: Run) -> None:
    report = explained(run, "photo.png", "--model", "digit-pairs")
    assert report["image"] == "photo.png" and report["label"] in "0123456789"


def test_own_network_with_its_top_class(run: Run) -> None:
    report = explained(run, "photo.png", "--model", "net.py:model")
    assert report["label"] == f"class {report['target']}"
    assert Path(report["figure"]).name == f"photo-net-class-{report['target']}.png"


def test_own_network_without_preprocessing(run: Run) -> None:
    assert explained(run, "photo.png", "--model", "net.py:body")["model"] == "net.py:body"


def test_own_network_in_float64(run: Run) -> None:
    assert explained(run, "photo.png", "--model", "net.py:double")["completeness_error"] < 1e-14


def test_targets_by_name_and_id_have_files_of_their_own(run: Run) -> None:
    arguments = [word for target in ("0", "crane, machine", "A/B", "Déjà", "3") for word in ("--target", target)]
    reports = explained(run, "photo.png", "--model", "net.py:named", *arguments)
    assert [(report["target"], report["label"]) for report in reports] == list(enumerate(LABELS))
    names = ["crane-0", "crane-1", "a-b-c-frac-2", "déjà-vu-3"]
    assert [Path(report["arrays"]).name for report in reports] == [f"photo-net-{name}.npz" for name in names]


def test_what_the_users_code_prints_is_not_on_standard_output(run: Run) -> None:
    status, out, err = run("explain", "photo.png", "--model", "net.py:loud", "--iterations", "0", "--json")
    assert status == 0 and json.loads(out)["model"] == "net"
    assert err == "made\nrun\n"


def grey(pixels: Image.Image) -> Image.Image:
    return pixels.convert("L")


def deep(pixels: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(pixels.convert("L")).astype(np.uint16) * 257)


def transparent(pixels: Image.Image) -> Image.Image:
    pixels.putalpha(128)
    return pixels


def cmyk(pixels: Image.Image) -> Image.Image:
    return pixels.convert("CMYK")


@pytest.mark.parametrize(
    ("convert", "mode", "ending"),
    [(grey, "L", "png"), (deep, "I;16", "png"), (transparent, "RGBA", "png"), (cmyk, "CMYK", "jpg")],
)
def test_kinds_of_images(run: Run, convert: Callable[[Image.Image], Image.Image], mode: str, ending: str) -> None:
    name = f"été {mode[0]}.v2 (1).{ending}"
    with Image.open("photo.png") as photo:
        convert(photo).save(name)
    with Image.open(name) as image:
        assert image.mode == mode
    report = explained(run, name, "--model", "net.py:model")
    assert report["image"] == name
    assert Path(report["figure"]).name.startswith(f"été-{mode[0]}-v2-1-net-class-")


@pytest.mark.parametrize(("loss", "sites"), [("all", "gates"), ("+-", "blocks"), ("+", "gates"), ("none", "blocks")])
def test_losses_and_sites(run: Run, loss: str, sites: str) -> None:
    report = explained(run, "photo.png", "--model", "net.py:model", "--loss", loss, "--sites", sites)
    assert report["iterations"] == (0 if loss == "none" else 1)


def test_where_the_text_says_the_unmasked_share_is(run: Run) -> None:
    status, out, _ = run("explain", "photo.png", "--model", "net.py:model", "--iterations", "1", "--unmasked", "both")
    assert status == 0 and "u, in y⁺ and in y⁻: what no mask touches" in out and ": 1 iteration in" in out


def test_a_second_run_replaces_the_files_of_the_first(run: Run) -> None:
    first = explained(run, "--target", "3")
    assert files("out")[Path(first["figure"])] != b"old figure"
    assert files("out")[Path(first["arrays"])] != b"old arrays"


def test_inspect(run: Run) -> None:
    before = files()
    status, out, err = run("inspect")
    assert (status, err) == (0, "") and files() == before
    for word in ("digit-pairs at digit-pair:0", "blocks.0.residual.0.1", "conv2d + bn", "c · x", "certificate: y = "):
        assert word in out
    assert out.count("ledger of") == 2


def test_inspect_json(run: Run) -> None:
    status, out, err = run("inspect", "photo.png", "--model", "net.py:named", "--target", "1", "--json")
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert [node["operator"] for node in told["nodes"]][:2] == ["conv2d", "relu"]
    assert 0 < told["nodes"][1]["open"] < 1 and told["nodes"][0]["open"] is None
    (target,) = told["targets"]
    assert (target["target"], target["label"]) == (1, LABELS[1])
    assert target["y"] == pytest.approx(sum(term["share"] for term in target["ledger"]["terms"]), abs=1e-6)
    assert target["completeness_error"] < 1e-6


def test_inspect_regions(run: Run) -> None:
    """The nearest walls are those of the network in float64, beyond which a unit turns; a line's pieces are counted."""
    status, out, err = run(
        "inspect", "photo.png", "--model", "net.py:double", "--regions", "--to", "photo.png", "--json"
    )
    assert (status, err) == (0, "")
    told = json.loads(out)["regions"]
    assert told["walls"] >= told["units"] > 0 and told["line"]["pieces"] == 1
    first = told["nearest"][0]
    assert first["site"] in ("1", "2") and 0 < told["max_norm"] < first["distance"] < told["inradius"]
    status, out, err = run("inspect", "photo.png", "--model", "net.py:double", "--regions", "--out", "drawn")
    assert (status, err) == (0, "") and "every row was made" in out and "it reaches" in out
    with np.load(next(Path("drawn").glob("*-walls.npz")), allow_pickle=False) as arrays:
        assert arrays["distance"][0] == first["distance"] and arrays["site"][0] == first["site"]
        model = load_model("net.py:double")
        ahead = (torch.from_numpy(arrays["point"][0]) - torch.from_numpy(arrays["input"][0])).double()
        points = torch.from_numpy(arrays["input"]).double() + torch.tensor([0, 0.999, 1.001]).view(3, 1, 1, 1) * ahead
    lin = linreg.trace(model.network.double(), points).linearize(points)
    assert lin.pattern(0) == lin.pattern(1) != lin.pattern(2)
    assert next(Path("drawn").glob("*-walls.png")).stat().st_size > 5000
    status, _, err = run("inspect", "--out", "drawn")
    assert status == 2 and "give --regions too" in err


# ---- the figure ----


def test_figure(here: Path) -> None:
    """Every map is white at exactly zero, the ticks are whole iterations, and no text leaves the figure."""
    model = load_model("digit-pairs")
    result = dmbp.explain(model.network, sample_pairs().images[:1], 3, iterations=1, loss="none", progress=False)
    figure = result.plot(title="3, $digit$-pairs")
    figure.savefig("figure.png")
    maps = {ax.get_title(): ax.images[0] for ax in figure.axes if ax.images}
    assert list(maps) == [
        "image x", "positive mapping ∇⁺", "negative mapping ∇⁻", "positive ∇⁺ ⊙ x", "negative ∇⁻ ⊙ x", "attribution a",
        "complete, positive", "complete, negative", "complete, both",
    ]  # fmt: skip
    for name in list(maps)[1:]:
        drawn = maps[name]
        assert drawn.to_rgba(np.zeros((1, 1)))[0, 0].tolist() == [1, 1, 1, 1]
    assert not np.any(maps["negative ∇⁻ ⊙ x"].get_array()) and np.any(maps["attribution a"].get_array())
    history = next(ax for ax in figure.axes if ax.get_xlabel() == "iteration")
    low, high = history.get_xlim()
    assert [tick for tick in history.get_xticks() if low <= tick <= high] == [0]
    inside = figure.get_tightbbox()
    assert inside.x0 >= 0 and inside.y0 >= 0
    assert inside.x1 <= figure.get_figwidth() and inside.y1 <= figure.get_figheight()
