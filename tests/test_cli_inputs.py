"""The command line on networks of one's own: tables, signals, many channels, segmentations, several inputs, one score.

What is explained is compared with the user's own network, called as its user would.
"""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Run, files
from PIL import Image
from torch import Tensor

NETWORKS = """
import torch
from torch import nn

def seeded(build):
    def built():
        torch.manual_seed(0)
        return build()
    return built

@seeded
def table():
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3)).double()

@seeded
def score():
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1), nn.Flatten(0)).double()

@seeded
def signal():
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(8, 3)).double()

@seeded
def bands():
    head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(nn.Conv2d(13, 4, 3), nn.ReLU(), *head).double()

@seeded
def places():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).double()

class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).double()

    def forward(self, x):
        return self.body(x).squeeze()

@seeded
def squeezed():
    return Squeezed()

@seeded
def grey():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 3)).double()

class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear, self.head = nn.Conv2d(3, 4, 3), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, image, features, mask):
        pixels = torch.relu(self.conv(image * mask)).mean((2, 3))
        logits = self.head(pixels + torch.relu(self.linear(features)))
        return torch.softmax(logits, 1)

@seeded
def both():
    return Both().double()

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = table()

    def forward(self, x):
        scores = self.body(x)
        return {"out": scores, "aux": -scores}

@seeded
def heads():
    return Heads()
"""
TABLE = "age,income in $,rooms\n31,2.5,3\n-1,0.5,2\n0.25,1,Rome\n"

pytestmark = pytest.mark.xdist_group("cli_inputs")


@pytest.fixture
def own(here: Path) -> dict[str, Any]:
    """A folder with networks and inputs; the networks, as their user has them."""
    (here / "own.py").write_text(NETWORKS)
    (here / "table.csv").write_text(TABLE)
    (here / "numbers-named.csv").write_text("a,b,c\n1,2,3\n")
    (here / "numbers.csv").write_text("1,2,3\n4,5,6\n")
    draw = np.random.default_rng(0)
    np.save("signal.npy", draw.standard_normal((2, 20)))
    np.save("bands.npy", draw.random((13, 9, 10)).astype(np.float32))
    np.save("rows.npy", draw.standard_normal((4, 3)))
    np.save("row.npy", draw.standard_normal((1, 3)))
    np.save("words.npy", np.array(["a", "b"]))
    mask = draw.random((2, 1, 8, 9)) > 0.4
    np.savez("both.npz", image=draw.random((2, 3, 8, 9)), features=draw.standard_normal((2, 5)), mask=mask)
    return runpy.run_path("own.py")


def told(run: Run, *arguments: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What --json prints of one target, and the arrays."""
    status, out, err = run("explain", *arguments, "--iterations", "1", "--out", "new", "--json")
    assert (status, err) == (0, ""), err
    report = json.loads(out)
    with Image.open(report["figure"]) as figure:
        assert min(figure.size) > 700
    with np.load(report["arrays"]) as arrays:
        return report, dict(arrays)


def test_table(run: Run, own: dict[str, Any]) -> None:
    x = torch.tensor([[-1, 0.5, 2]]).double()
    words = ("table.csv", "--row", "1", "--model", "own.py:table", "--labels", "low,middle,high", "--target", "middle")
    report, arrays = told(run, *words)
    assert (report["target"], report["label"]) == (1, "middle")
    np.testing.assert_array_equal(arrays["input"], x)
    assert report["y"] == pytest.approx(own["table"]()(x)[0, 1].item(), rel=1e-12)


def test_one_score(run: Run, own: dict[str, Any]) -> None:
    report, _ = told(run, "table.csv", "--model", "own.py:score")
    assert (report["target"], report["label"]) == (None, "the score")
    assert report["y"] == pytest.approx(own["score"]()(torch.tensor([[31, 2.5, 3]]).double()).item(), rel=1e-12)


@pytest.mark.parametrize(("file", "row"), [("table.csv", [[31, 2.5, 3]]), ("row.npy", None)])
def test_one_score_that_squeeze_leaves_without_a_batch(run: Run, own: dict[str, Any], file: str, row: Any) -> None:
    x = torch.tensor(row or np.load("row.npy")).double()
    report, _ = told(run, file, "--model", "own.py:squeezed")
    assert report["y"] == pytest.approx(own["squeezed"]()(x).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("file", "model", "more", "row"),
    [
        ("signal.npy", "signal", ("--names", "left,right"), None),
        ("bands.npy", "bands", (), None),
        ("rows.npy", "table", ("--row", "2"), 2),
        ("row.npy", "table", (), 0),
    ],
)
def test_arrays(run: Run, own: dict[str, Any], file: str, model: str, more: tuple[str, ...], row: int | None) -> None:
    """An array is one input, with a batch dimension or without, or a row of many; its top class is explained."""
    values = torch.from_numpy(np.load(file)).double()
    scores = own[model]()(values[None] if row is None else values[row][None])[0]
    report, _ = told(run, file, "--model", f"own.py:{model}", *more, "--map", "paper")
    with Image.open(report["map"]) as drawn:
        assert min(drawn.size) > 60
    assert report["target"] == scores.argmax().item()
    assert report["y"] == pytest.approx(scores.max().item(), rel=1e-12)


def test_arrays_are_scaled_where_it_is_said(run: Run, own: dict[str, Any]) -> None:
    words = ("--mean", "1", "2", "--std", "0.5", "4")
    _, arrays = told(run, "signal.npy", "--model", "own.py:signal", *words)
    wanted = (np.load("signal.npy") - [[1], [2]]) / [[0.5], [4]]
    np.testing.assert_allclose(arrays["input"][0], wanted, rtol=1e-14)


@pytest.mark.parametrize(
    ("words", "places"),
    [
        (("--at", "3,5"), np.s_[3:4, 5:6]),
        (("--box", "1:4,0:12"), np.s_[1:4, 0:12]),
        (("--region",), None),
    ],
)
@pytest.mark.parametrize("target", [None, 2])
def test_places(run: Run, own: dict[str, Any], words: tuple[str, ...], places: Any, target: int | None) -> None:
    """The mean of the user's own scores there: of the class, or of that which is largest there."""
    asked = () if target is None else ("--target", str(target))
    report, arrays = told(run, "photo.png", "--model", "own.py:places", "--size", "8,12", *words, *asked)
    scores = own["places"]()(torch.from_numpy(arrays["input"]))[0].detach().numpy()
    assert arrays["input"].shape == (1, 3, 8, 12) and scores.shape == (3, 8, 12)
    if places is None:
        best = scores.argmax(0)
        top = np.bincount(best.flatten(), minlength=3).argmax()
        chosen = best == (top if target is None else target)
    else:
        chosen = np.zeros((8, 12), bool)
        chosen[places] = True
        top = scores[:, chosen].mean(1).argmax()
    assert report["target"] == (top if target is None else target)
    assert report["y"] == pytest.approx(scores[report["target"]][chosen].mean(), rel=1e-10)
    assert report["where"] and report["where"].split()[0] in report["figure"]


def test_several_inputs(run: Run, own: dict[str, Any]) -> None:
    """One held fixed, the logits explained; each map ∇ ⊙ x of its own input, together with the biases the score."""
    words = ("both.npz", "--row", "1", "--model", "own.py:both", "--fixed", "mask", "--output", "head")
    report, arrays = told(run, *words, "--map", "complete")
    with np.load("both.npz") as given:
        x = {name: torch.from_numpy(given[name][1:]) for name in given}
    model, kept = own["both"](), dict[str, Tensor]()
    model.head.register_forward_hook(lambda module, inputs, output: kept.update(logits=output))
    model(**x)
    assert report["y"] == pytest.approx(kept["logits"].max().item(), rel=1e-12)
    pixels = arrays["y_attribution/image"].sum() + arrays["y_attribution/features"].sum()
    assert report["y"] == pytest.approx(pixels + arrays["y_ledger"].sum(), rel=1e-10)
    np.testing.assert_array_equal(arrays["fixed/mask"], x["mask"])
    assert "map of features" not in report  # a table has no places
    assert Path(report["map of image"]).name.endswith("-image-complete.png")


def test_regions_of_one_input_and_of_no_gates(run: Run, own: dict[str, Any]) -> None:
    """Several inputs are refused before anything is read for --to; a region without an end has no picture."""
    words = ("both.npz", "--row", "1", "--model", "own.py:both", "--fixed", "mask", "--output", "head")
    status, out, err = run("inspect", *words, "--regions", "--to", "both.npz")
    assert (status, out) == (2, "") and "--regions is for networks of one input" in err
    status, out, err = run(
        "inspect", "table.csv", "--model", "own.py:table", "--output", "0", "--regions", "--out", "new"
    )
    assert (status, err) == (0, "") and "as far as one likes" in out and "figure" not in out
    assert [path.suffix for path in Path("new").iterdir()] == [".npz"]


def test_an_output_by_its_name(run: Run, own: dict[str, Any]) -> None:
    words = ("table.csv", "--model", "own.py:heads", "--target", "0")
    assert told(run, *words, "--output", "aux")[0]["y"] == -told(run, *words, "--output", "out")[0]["y"]


def test_the_recipe_of_a_refusal_works_when_it_is_pasted(run: Run, own: dict[str, Any]) -> None:
    status, _, err = run("explain", "photo.png", "--model", "own.py:grey")
    assert status == 2 and "the network does not take an input of shape (1, 3, 224, 224): " in err
    (lines,) = re.findall(r"at the end of own\.py:\n\n(.+)\n\nand", err, re.DOTALL)
    with open("own.py", "a") as file:
        file.write("\n" + re.sub("^    ", "", lines, flags=re.MULTILINE) + "\n")
    (command,) = re.findall(r"--model (own\.py:\w+), or", err)
    report, arrays = told(run, "photo.png", "--model", command)
    assert arrays["input"].shape == (1, 1, 28, 28)
    (words,) = re.findall(r"or give (--size .+ --std .+?)\. ", err)
    again, others = told(run, "photo.png", "--model", "own.py:grey", *words.split())
    assert again["y"] == report["y"] and np.array_equal(others["input"], arrays["input"])


REFUSED = {
    "no place": (("photo.png", "--model", "own.py:places"), "say where the score is, by --at 112,112, --box 56:112,"),
    "a place of scores": (("table.csv", "--model", "own.py:table", "--at", "1,2"), "(N, 3) has no places"),
    "a place beyond": (("photo.png", "--model", "own.py:places", "--at", "300,0"), "300 does not lie in 0 to 224"),
    "a class of one score": (("table.csv", "--model", "own.py:score", "--target", "0"), "leave --target out"),
    "many rows": (("rows.npy", "--model", "own.py:table"), "--row takes one"),
    "no such row": (("rows.npy", "--model", "own.py:table", "--row", "4"), "there is no row 4 in an array of shape (4"),
    "no such line": (("table.csv", "--model", "own.py:table", "--row", "3"), "there is no row 3 of 3"),
    "a word": (("table.csv", "--model", "own.py:table", "--row", "2"), "row 2: 'rooms' is 'Rome', no number"),
    "no header": (("numbers.csv", "--model", "own.py:table"), "its first line must name the features"),
    "a table of pictures": (
        ("numbers-named.csv", "--model", "own.py:bands"),
        "does not take numbers-named.csv, (1, 3): ",
    ),
    "softmax at the end": (
        ("both.npz", "--model", "own.py:both", "--fixed", "mask"),
        "end the graph there: --output head\n",
    ),
    "no numbers": (("words.npy", "--model", "own.py:table"), "expected an array of numbers, not of <U1"),
    "no array": (("none.npy", "--model", "own.py:table"), "none.npy: there is no such file"),
    "no such input": (("both.npz", "--model", "own.py:both", "--fixed", "masks"), "holds image, features, mask"),
    "another shape": (("bands.npy", "--model", "own.py:signal"), "does not take bands.npy, (1, 13, 9, 10): Expected"),
    "a picture of bands": (("photo.png", "--model", "own.py:bands"), "give an array (13, H, W), .npy"),
    "a picture of a table": (("photo.png", "--model", "own.py:table"), "takes 3 features and no picture"),
    "two outputs": (("table.csv", "--model", "own.py:heads"), "choose one by --output, out, aux"),
    "no such output": (("table.csv", "--model", "own.py:heads", "--output", "head"), "the model has no output 'head'"),
    "too many labels": (("table.csv", "--model", "own.py:table", "--labels", "a,b"), "has 2 labels, and 3 scores"),
    "too many names": (
        ("signal.npy", "--model", "own.py:signal", "--names", "a,b,c"),
        "3 names of features or channels for",
    ),
    "mean alone": (("photo.png", "--model", "own.py:grey", "--mean", "0.5"), "--mean and --std belong together"),
    "no size": (
        ("photo.png", "--model", "own.py:grey", "--size", "8x8"),
        "expected a number of pixels, or height,width",
    ),
    "no box": (("photo.png", "--model", "own.py:places", "--box", "1:2:3"), "expected a range for each axis"),
    "map of a table": (("table.csv", "--model", "own.py:table", "--map", "complete"), "--map complete: no input of"),
    "over a table": (("table.csv", "--model", "own.py:table", "--overlay", "paper"), "--overlay draws over a picture"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(run: Run, own: dict[str, Any], case: str) -> None:
    """One message, and nothing written."""
    arguments, message = REFUSED[case]
    before = files()
    status, out, err = run("explain", *arguments, "--out", "out")
    assert (status, out) == (2, "") and message in err and err.count("error: ") == 1, err
    assert "Traceback" not in err and "linreg.trace" not in err and files() == before
    assert "cannot be read" not in err  # what could be read is refused for what it holds
