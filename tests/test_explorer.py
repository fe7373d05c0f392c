"""The explorer: its page has the numbers of the library, loads nothing, stays small, and takes every kind of input.

The arrays are read here as the page's script reads them, by a few lines of their own; what a channel of a site sees is
compared with differences of P(σ), which is linear in the masks of one site.
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dmbp
from dmbp import cli
from dmbp.account import elementwise
from dmbp.analysis import carries
from dmbp.datasets import sample_pairs
from dmbp.explorer.packing import block_sums, fitting_block
from dmbp.models import load_model

pytestmark = pytest.mark.xdist_group("explorer")

LIMIT = 5_000_000
LINES = ("positive", "negative", "nuisance", "y")
SIDES = ("positive", "negative")
LOADED = {"src", "srcset", "data", "poster", "action"}


class Frame(HTMLParser):
    """The elements of a page, and the text of those that have an id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._inside = dict(attrs).get("id") or tag

    def handle_data(self, data: str) -> None:
        self.texts[self._inside] = self.texts.get(self._inside, "") + data


def read(path: Path) -> dict[str, Any]:
    """The value of a page, its references replaced by what they refer to."""
    frame = Frame(path.read_text(encoding="utf-8"))
    held = b64decode(frame.texts["arrays"])

    def numbers(at: dict[str, Any]) -> np.ndarray:
        planes = np.frombuffer(zlib.decompress(held[at["at"] : at["at"] + at["bytes"]]), np.uint8)
        mixed = np.zeros((planes.size // at["planes"], 4), np.uint8)
        mixed[:, 4 - at["planes"] :] = planes.reshape(at["planes"], -1).T
        return mixed.reshape(-1).view("<f4").reshape(at["shape"])

    def found(value: Any) -> Any:
        if isinstance(value, dict):
            return numbers(value) if "planes" in value else {name: found(each) for name, each in value.items()}
        return [found(each) for each in value] if isinstance(value, list) else value

    value: dict[str, Any] = found(json.loads(frame.texts["data"]))
    return value


def near(value: Any, wanted: Any, scale: float) -> None:
    assert np.abs(np.asarray(value, float) - np.asarray(wanted, float)).max() <= 1e-6 * scale


@pytest.fixture(scope="module")
def digits() -> dmbp.Result:
    network, images = load_model("digit-pairs").network, sample_pairs().images[:2]
    return dmbp.explain(network, images, torch.tensor([3, 9]), iterations=12, snapshots=(0, 6, 12), progress=False)


@pytest.fixture(scope="module")
def page(digits: dmbp.Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits.to_html(tmp_path_factory.mktemp("page") / "why.html", image=1, title="Why <9> & not 3?")


def whole_map(result: dmbp.Result, line: str, image: int) -> np.ndarray:
    values: np.ndarray = elementwise(result.account, line)[image].numpy().astype(np.float64).sum(0)
    return values


def test_maps_scores_and_shares_are_the_librarys(digits: dmbp.Result, page: Path) -> None:
    value, image = read(page), 1
    [shown] = value["inputs"]
    assert shown["kind"] == "picture" and shown["block"] == 1
    np.testing.assert_array_equal(shown["x"], digits.input[image].numpy())
    for line in LINES:
        near(value["scores"][line], digits.scores[line][image].item(), 0)
        paper, complete = whole_map(digits, line, image), digits.shares[line].complete[image].double().numpy()
        for kind, wanted in {"paper": paper, "complete": complete}.items():
            kept, scale = shown["maps"][kind][line], np.abs(wanted).sum()
            np.testing.assert_array_equal(kept["values"], wanted.astype(np.float32))
            near(kept["values"].astype(float).sum(), kept["sum"], scale)
        near(shown["maps"]["paper"][line]["sum"], digits.shares[line].input_share[image].item(), np.abs(paper).sum())
        shares = value["shares"][line]
        near(sum(shares.values()), value["scores"][line], sum(map(abs, shares.values())) + np.abs(paper).sum())
    for part, steps in digits.history.items():
        np.testing.assert_array_equal(value["history"][part], steps[:, image].numpy())
    for kept, (count, values) in zip(shown["snapshots"], sorted(digits.snapshots.items()), strict=True):
        assert kept["at"] == count
        np.testing.assert_array_equal(kept["values"], values[image].sum(0).numpy())


def test_the_ledgers_rows_sum_to_each_part(digits: dmbp.Result, page: Path) -> None:
    value = read(page)
    for line in (*LINES, "unmasked"):
        terms = [row[line] for row in value["ledger"]]
        near(sum(terms), value["scores"][line], sum(map(abs, terms)))
    rest = {row["term"] for row in value["ledger"] if not row["placed"]}
    assert rest == set(digits.shares["y"].unplaced) != set()
    for node in value["network"]["nodes"]:
        own = [row["y"] for row in value["ledger"] if row["node"] == node["name"]]
        near(sum(own), node["constants"]["y"] if node["constants"] else 0, sum(map(abs, own)))


def test_what_channels_see_sums_to_the_whole_map(digits: dmbp.Result, page: Path) -> None:
    value, carried = read(page), carries(digits.split, 1)
    assert [carry.site for carry in carried.sites] == list(value["network"]["sites"]) == list(digits.masks)
    for carry in carried.sites:
        site = value["network"]["sites"][carry.site]
        for side in SIDES:
            own, whole = site[side], whole_map(digits, side, 1)
            near(own["part"], getattr(carry, side), carried.magnitude)
            near(own["all"]["maps"]["input"]["values"].astype(float).sum(), own["all"]["pixels"], np.abs(whole).sum())
            for channel in own["shown"]:
                seen = channel["maps"]["input"]["values"]
                near(seen.astype(float).sum(), channel["pixels"], np.abs(seen).sum())
    last = value["network"]["sites"]["blocks.4.relu"]  # nothing goes around it
    for side in SIDES:
        whole = whole_map(digits, side, 1)
        near(last[side]["all"]["maps"]["input"]["values"], whole, np.abs(whole).max())
        near(last[side]["part"], value["scores"][side], carried.magnitude)


@pytest.mark.parametrize("site", ["blocks.1.residual.1", "blocks.3.relu"])
@pytest.mark.parametrize("side", SIDES)
def test_a_channels_part_is_a_difference_of_masked_networks(
    digits: dmbp.Result, page: Path, site: str, side: str
) -> None:
    """P(σ) is linear in the masks of one site, so that opening one channel of it alone adds just its part."""
    lin, target, image = digits.split.lin, digits.target, 1
    masks = {name: mask if side == "positive" else 1 - mask for name, mask in digits.masks.items()}
    shut = dmbp.masked(lin, masks | {site: torch.zeros_like(masks[site])})
    shown = read(page)["network"]["sites"][site][side]["shown"]
    assert len(shown) == 5
    scale = sum(abs(channel["part"]) for channel in shown)
    for channel in shown:
        alone = torch.zeros_like(masks[site])
        alone[:, channel["channel"]] = masks[site][:, channel["channel"]]
        opened = dmbp.masked(lin, masks | {site: alone})
        part = (opened.score(target) - shut.score(target))[image].item()
        seen = ((opened.weight(target) - shut.weight(target)) * digits.input)[image].sum(0).numpy()
        assert abs(channel["part"] - part) <= 1e-4 * scale  # of scores: a difference of float32
        np.testing.assert_allclose(channel["maps"]["input"]["values"], seen, rtol=0, atol=1e-4 * np.abs(seen).max())
    others = [opened.score(target)[image].item() for opened in _each_channel(lin, masks, site)]
    parts = torch.tensor(others) - shut.score(target)[image]
    order = (parts if side == "positive" else -parts).argsort(descending=True)[:5]
    assert [channel["channel"] for channel in shown] == order.tolist()


def _each_channel(lin: Any, masks: dict[str, Tensor], site: str) -> Iterator[Any]:
    for channel in range(masks[site].shape[1]):
        alone = torch.zeros_like(masks[site])
        alone[:, channel] = masks[site][:, channel]
        yield dmbp.masked(lin, masks | {site: alone})


def test_the_page_loads_nothing_and_is_small(digits: dmbp.Result, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    frame = Frame(text)
    assert len(text.encode()) < LIMIT
    loads = [value for tag, name, value in frame.attributes if name in LOADED or (tag == "link" and name == "href")]
    assert loads and all(value.startswith("data:") for value in loads)
    code = frame.texts["style"] + frame.texts["script"]
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|importScripts|WebSocket|sendBeacon", code)
    assert set(re.findall(r"https?://[^\"'\s)]+", code)) == {"http://www.w3.org/2000/svg"}  # a name, no address
    assert "<title>Why &lt;9&gt; &amp; not 3?</title>" in text
    links = [value for tag, name, value in frame.attributes if tag == "a" and name == "href"]
    assert all(link.startswith("#") for link in links)  # lessons are named where their address is not


def test_lessons_are_linked_where_they_are(digits: dmbp.Result, tmp_path: Path) -> None:
    path = digits.to_html(tmp_path / "why.html", lessons="../tutorials/")
    links = [value for _, name, value in Frame(path.read_text()).attributes if name == "href" and "tutorials" in value]
    assert len(links) >= 6
    scripts = Path(__file__).parents[1] / "tutorials"
    for link in links:
        lesson, _, anchor = link.removeprefix("../tutorials/").partition(".html#")
        headings = re.findall(r"^# ## (.+)$", (scripts / f"{lesson}.py").read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("loss", ["all", "none"])
def test_a_table_has_bars_with_names(loss: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    result = dmbp.explain(network, torch.randn(2, 4).double(), 1, iterations=20, loss=loss, progress=False)
    names = ["age", "height", "weight", "income"]
    value = read(result.to_html(tmp_path / "table.html", names=names))
    [shown] = value["inputs"]
    assert (shown["kind"], shown["names"], shown["maps"]["complete"]) == ("features", names, {})
    near(shown["maps"]["paper"]["y"]["values"], elementwise(result.account, "y")[0], 1)
    for site in value["network"]["sites"].values():
        for side in SIDES:
            for unit in site[side]["shown"]:  # a unit has one position: its part is the product of what is told
                near(unit["value"] * unit["mask"] * unit["gradient"], unit["part"], 1)
    assert (loss == "none") == all(not site["negative"]["shown"] for site in value["network"]["sites"].values())


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(2, 4, 3), nn.Linear(3, 4)
        self.end = nn.Linear(4, 2)

    def forward(self, signal: Tensor, table: Tensor) -> Tensor:
        met: Tensor = torch.relu(self.one(signal)).mean(2) + torch.relu(self.two(table))
        return self.end(torch.relu(met))


OTHERS = {
    "signal": (nn.Conv1d(3, 4, 3), (2, 3, 20), "signal"),
    "channels": (nn.Conv2d(7, 4, 3), (1, 7, 8, 9), "picture"),
    "volume": (nn.Conv3d(2, 4, 3), (1, 2, 5, 6, 7), "volume"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_kind_of_input_has_a_page(name: str, tmp_path: Path) -> None:
    first, shape, kind = OTHERS[name]
    torch.manual_seed(0)
    network = nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    network(torch.randn(shape))
    result = dmbp.explain(network, torch.randn(shape), 0, iterations=3, snapshots=(1,), progress=False)
    value = read(result.to_html(tmp_path / "page.html", image=shape[0] - 1))
    [shown] = value["inputs"]
    assert shown["kind"] == kind and shown["picture"] is None
    for line in LINES:
        wanted = whole_map(result, line, shape[0] - 1)
        near(shown["maps"]["paper"][line]["values"], wanted, np.abs(wanted).sum())
        complete = result.shares[line].complete[-1]
        near(shown["maps"]["complete"][line]["values"], complete, complete.abs().sum().item())
    for side in SIDES:
        wanted = elementwise(result.account, side)[-1].numpy()
        assert np.abs(shown["channels"][side] - wanted).max() <= 2**-16 * np.abs(wanted).max()


def test_several_inputs_have_maps_each_and_a_file_has_no_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 12), torch.randn(1, 3)
    result = dmbp.explain(Sum(), x, 1, iterations=5, snapshots=(2,), progress=False)
    value = read(result.to_html(tmp_path / "two.html"))
    assert [(shown["name"], shown["kind"]) for shown in value["inputs"]] == [
        ("signal", "signal"),
        ("table", "features"),
    ]
    for side in SIDES:
        sums = [shown["maps"]["paper"][side]["sum"] for shown in value["inputs"]]
        near(sum(sums), result.shares[side].input_share[0].item(), sum(map(abs, sums)))
        for site in value["network"]["sites"].values():
            maps = site[side]["all"]["maps"].values()
            near(sum(each["values"].sum() for each in maps), site[side]["all"]["pixels"], 10)
    loaded = read(dmbp.load(result.save(tmp_path / "two.npz")).to_html(tmp_path / "loaded.html"))
    assert loaded["network"] is None
    assert [row["y"] for row in loaded["ledger"]] == [row["y"] for row in value["ledger"]]
    np.testing.assert_array_equal(
        loaded["inputs"][0]["maps"]["paper"]["y"]["values"], value["inputs"][0]["maps"]["paper"]["y"]["values"]
    )


def test_large_pictures_are_summed_over_blocks_and_say_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())]
    network = nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=4), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    result = dmbp.explain(network, torch.randn(1, 3, 601, 500), 0, iterations=1, snapshots=(0,), progress=False)
    path = result.to_html(tmp_path / "large.html")
    assert path.stat().st_size < LIMIT
    [shown] = (value := read(path))["inputs"]
    block = shown["block"]
    assert block > 1 and shown["x"] is None
    for line in LINES:
        wanted = whole_map(result, line, 0)
        padded = np.pad(wanted, [(0, -size % block) for size in wanted.shape])
        rows, columns = (size // block for size in padded.shape)
        sums = padded.reshape(rows, block, columns, block).sum((1, 3))
        near(shown["maps"]["paper"][line]["values"], sums, np.abs(wanted).sum())
    told = " ".join([*shown["left_out"], *value["network"]["left_out"]])
    assert f"blocks of {block} × {block}" in told and "left out" in told and "by channel" in told


def test_blocks_keep_sums_and_fit() -> None:
    values = np.random.default_rng(0).normal(size=(3, 7, 10))
    for block in (1, 2, 3, 10, 20):
        sums = block_sums(values, block, 2)
        assert sums.shape == (3, -(-7 // block), -(-10 // block))
        np.testing.assert_allclose(sums.sum((1, 2)), values.sum((1, 2)))
    assert fitting_block(2, (8, 8), 2 * 4 * 64) == 1 and fitting_block(2, (8, 8), 2 * 4 * 64 - 1) == 2


def test_the_command_line_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["explain", "--html", "--target", "3", "--iterations", "4", "--json", "--out", str(tmp_path)])
    page = Path(json.loads(capsys.readouterr().out)["page"])
    value = read(page)
    assert page.parent == tmp_path and page.name == "digit-pair-0-digit-pairs-3.html"
    assert value["about"]["title"] == "Why 3?\ndigit-pairs at digit-pair:0"
    assert [kept["at"] for kept in value["inputs"][0]["snapshots"]] == [0, 1, 2, 3, 4]


def test_what_does_not_fit_is_one_clear_error(
    digits: dmbp.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("dmbp.explorer.page.gathered", None)  # a page that cannot be written is not computed
        with pytest.raises(dmbp.DmbpError, match=r"cannot write .*nowhere"):
            digits.to_html(tmp_path / "nowhere" / "why.html")
        with pytest.raises(dmbp.DmbpError, match=r"cannot write .*folder"):
            digits.to_html(tmp_path / "folder")
    with pytest.raises(dmbp.DmbpError, match="image"):
        digits.to_html(tmp_path / "why.html", image=2)
    with pytest.raises(dmbp.DmbpError, match="a name for each of the 1 "):
        digits.to_html(tmp_path / "why.html", names=["a", "b"])
    with pytest.raises(dmbp.DmbpError, match=r"picture= must be \(H, W, 3\)"):
        digits.to_html(tmp_path / "why.html", picture=np.zeros((64, 64)))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
