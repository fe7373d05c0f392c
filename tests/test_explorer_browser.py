"""The explorer in a browser: each control is driven, the numbers on the page are the library's, and nothing is loaded.

Without a browser on this machine these tests are skipped; `tests/test_explorer.py` looks at the page without one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dmbp
from dmbp.account import elementwise
from dmbp.analysis import carries
from dmbp.datasets import sample_pairs
from dmbp.explorer import site_channels as site_channels  # the page's lines of Python name it
from dmbp.models import load_model

api = pytest.importorskip("playwright.sync_api", reason="needs the extra: browser")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("explorer")]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PARTS = ("both", "positive", "negative", "nuisance", "y")
LINES = ("y", "positive", "negative", "nuisance")
SIZES = ((1400, 900, "light"), (400, 800, "dark"))
PAINT = "(performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0)"
SEEN = """Object.fromEntries([...document.querySelectorAll("#site .choose").keys()].map((place) => {
    document.querySelectorAll("#site .choose")[place].click();
    return [state.chosen, Number(document.querySelector("#site .seen .number").dataset.value)];
}))"""
VALUES = "(selector) => [...document.querySelectorAll(selector)].map((each) => Number(each.dataset.value))"
LINES_OF_PYTHON = (
    "[...document.querySelectorAll('.number')].map((each) => [each.dataset.python, each.dataset.value])"
    ".filter(([python]) => python)"
)
EACH_NUMBER = "document.querySelectorAll('.number').forEach((each) => each.click())"
HEADERS = ["age", "height", "weight", "income", "a name that is much too long for its column"]


@dataclass
class Window:
    """A page in the browser, and what it did that it must not do: errors, warnings, requests."""

    page: Any
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self.faults.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        self.page.on("request", self._asked)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith("data:") and request.resource_type != "document":
            self.faults.append(f"asks {request.url}")

    def open(self, path: Path) -> None:
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready]")

    def js(self, code: str) -> Any:
        return self.page.evaluate(code)

    def number(self, selector: str, place: int = 0) -> float:
        """The full value of a number that is shown."""
        return float(self.page.locator(f"{selector} .number").nth(place).get_attribute("data-value"))

    def choose(self, label_of: str) -> None:
        self.page.locator(f"label[for='{label_of}']").click()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)
        found = found or (own if Path(own).exists() else None)
        if found is None:
            pytest.skip("no Chromium on this machine")
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(params=SIZES, ids=[f"{width}-{theme}" for width, _, theme in SIZES])
def window(browser: Any, request: pytest.FixtureRequest) -> Iterator[Window]:
    width, height, theme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=theme, offline=True, has_touch=width < 500
    )
    yield Window(context.new_page())
    context.close()


class Both(nn.Module):
    """A signal and a table into one score, with a shortcut beside the first gate."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.beside = nn.Conv1d(2, 6, 3), nn.Linear(5, 6), nn.Linear(5, 6)
        self.end = nn.Linear(6, 3)

    def forward(self, signal: Tensor, table: Tensor) -> Tensor:
        met: Tensor = torch.relu(self.one(signal)).mean(2) + torch.relu(self.two(table)) + self.beside(table)
        return self.end(torch.relu(met))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[dmbp.Result, Path]:
    network, image = load_model("digit-pairs").network, sample_pairs().images[:1]
    result = dmbp.explain(network, image, 3, iterations=20, snapshots=(0, 5, 20), progress=False)
    return result, result.to_html(tmp_path_factory.mktemp("pages") / "digits.html", title="Why a 3?")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[dmbp.Result, Path]:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    result = dmbp.explain(network, torch.randn(3, 5), 1, iterations=20, progress=False)
    return result, result.to_html(tmp_path_factory.mktemp("pages") / "table.html", image=2, names=HEADERS)


def near(value: float, wanted: float, scale: float) -> None:
    assert abs(value - wanted) <= 1e-6 * scale, (value, wanted)


def whole(result: dmbp.Result, part: str, image: int) -> float:
    if part == "both":
        return result.shares["positive"].input_share[image].item() + result.shares["negative"].input_share[image].item()
    return result.shares[part].input_share[image].item()


def check_sums(window: Window, result: dmbp.Result, image: int) -> None:
    """What is written and what is drawn, against the library: maps, parts, learning, sites, ledger."""
    magnitude = sum(result.shares[line].terms[:, image].abs().sum().item() for line in LINES)  # Σ|terms|
    magnitude += sum(elementwise(result.account, line)[image].abs().sum().item() for line in LINES)
    for place, line in enumerate(LINES):
        near(window.number("#split", place), result.scores[line][image].item(), 0)
    if window.page.locator("label[for=kind-paper]").count():
        window.choose("kind-paper")
    for part in PARTS:
        window.choose(f"part-{part}")
        scale = window.js("shownMap().values.reduce((sum, value) => sum + Math.abs(value), 0)")
        near(window.number("#map-sum"), whole(result, part, image), scale)
        near(window.js("total(shownMap().values)"), whole(result, part, image), scale)
    window.choose("part-both")
    for at in (0, result.iterations // 2, result.iterations):
        window.js(f"goTo({at})")
        for place, part in enumerate(("positive", "negative", "nuisance")):
            near(window.number("#curves-now", place), result.history[part][at, image].item(), 0)
        near(window.number("#curves-now", 3), result.scores["y"][image].item(), 100)
    for line in LINES:
        window.choose(f"line-{line}")
        shares = window.js("data.ledger.map((row) => row[state.line])")
        written = window.page.evaluate(VALUES, "#ledger tbody .number")
        assert written == shares
        near(sum(written), (result.shares[line].input_share + result.shares[line].bias_share)[image].item(), magnitude)
        near(sum(written), result.scores[line][image].item(), magnitude)


def check_sites(window: Window, result: dmbp.Result, image: int) -> None:
    """Each site's parts are the library's, and what its channels, the others and what goes around see sums to all."""
    for carry in carries(result.split, image).sites:
        window.page.locator(f".column[data-node='{carry.site}']").click()
        for side in ("positive", "negative"):
            window.choose(f"side-{side}")
            own = getattr(carry, side)
            near(window.number("#site .channels p", 0 if side == "positive" else 1), own, abs(own) + 1e-3)
            parts = window.page.evaluate(VALUES, "#site table:not(.sums) tbody td:nth-child(2) .number")
            near(sum(parts), own, sum(map(abs, parts)) + 1e-3)
            *terms, all_of_it = (window.number("#site .sums", place) for place in range(4))
            near(sum(terms), all_of_it, sum(map(abs, terms)))
            near(all_of_it, result.shares[side].input_share[image].item(), sum(map(abs, terms)) + 1e-3)
            by_choice = window.js(SEEN)
            beside = sum(by_choice.get(name, 0) for name in ("all", "others", "around"))
            near(beside, by_choice["whole"], sum(map(abs, terms)) + 1e-3)


def check_python(window: Window, result: dmbp.Result) -> None:
    """The line of Python of each number gives that number."""
    lines = dict(window.js(LINES_OF_PYTHON))
    assert len(lines) > 30
    for line, value in lines.items():
        near(float(eval(line, {"dmbp": dmbp, "result": result, "sum": sum})), float(value), 10 + 10 * abs(float(value)))


def drive(window: Window) -> None:
    """Every control there is, twice over: as far as it goes, and back."""
    page = window.page
    for radio in page.locator("input[type=radio]").all():
        window.choose(radio.get_attribute("id"))
    for name in [each.get_attribute("id") for each in page.locator("input[type=range]").all()]:
        for share in (0, 0.4, 1):
            page.locator(f"#{name}").evaluate(
                "(range, share) => { range.value = Number(range.min) + share * (range.max - range.min);"
                " range.dispatchEvent(new Event('input', { bubbles: true })); }",
                share,
            )
    for name in [each.get_attribute("id") for each in page.locator("select").all()]:
        for value in page.locator(f"#{name} option").evaluate_all("(all) => all.map((option) => option.value)"):
            page.locator(f"#{name}").select_option(value)
        page.locator(f"#{name}").select_option(index=0)
    window.choose("part-both")
    for name in ("tool", "column", "frame", "feature", "choose", "sorter"):
        window.js(f"document.querySelectorAll('button.{name}:not(#play)').forEach((button) => button.click())")
    if page.locator("#play").count():
        page.locator("#play").click()
        page.wait_for_function("document.getElementById('play').timer && state.at < lastIteration()")
        page.locator("#play").click()
        page.locator("#iteration").press("End")
        assert window.js("state.at === lastIteration()")
    for _ in range(3):
        page.locator("#theme").click()
    assert "system" in page.locator("#theme").inner_text()


def check_copies(window: Window) -> None:
    """Under each panel a table and a line of Python; each number shows itself in full."""
    page = window.page
    for panel in ("map", "learning", "trust", "network", "ledger"):
        for place, wanted in enumerate((",", "result.")):
            page.locator(f".take[data-panel={panel}] button").nth(place).click()
            page.wait_for_function(f"(window.lastCopied ?? '').includes('{wanted}')")
        assert "result." in window.js("window.lastCopied")
    page.locator("#split .number").first.click()
    assert float(page.locator("#card code").first.inner_text()) == window.number("#split")
    assert (
        page.locator("#card code").nth(1).inner_text()
        == 'result.scores["y"][' + window.js("String(data.about.image)") + "]"
    )
    page.keyboard.press("Escape")
    assert page.locator("#card").is_hidden()
    window.js(EACH_NUMBER)
    count = page.locator(".number").count()
    assert count > 20
    page.keyboard.press("Escape")


def test_the_digit_pair(window: Window, digits: tuple[dmbp.Result, Path]) -> None:
    result, path = digits
    window.open(path)
    check_sums(window, result, 0)
    window.choose("kind-complete")
    for part in ("positive", "negative", "nuisance", "y"):
        window.choose(f"part-{part}")
        near(window.number("#map-sum"), result.shares[part].complete[0].sum().item(), 200)
    check_sites(window, result, 0)
    check_python(window, result)
    window.page.locator(".column[data-node='blocks.1.residual.0.1']").click()
    check_python(window, result)
    window.page.locator(".column.masked").first.click()
    window.choose("kind-paper")
    window.choose("part-positive")
    canvas = window.page.locator("#map-view canvas")
    canvas.focus()
    window.js("change({ pixel: 0 }, 'reading'); mapView.at = 0")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "+", "+", "0"):
        canvas.press(key)
    assert window.js("state.pixel") == 2 * 64 + 1
    row = {part: window.number(f"#map-reading tbody tr:nth-child({place})") for place, part in enumerate(PARTS, 1)}
    near(row["positive"], result.positive[0, 0, 2, 1].item(), 1e-3)
    near(row["y"], (result.shares["y"].mapping * result.input)[0, 0, 2, 1].item(), 1e-3)
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.5, "y": box["height"] * 0.25})
    assert window.js("places(state.pixel, [64, 64])") == [16, 32]
    window.js("goTo(6)")
    assert window.js("shownMap().snapshot.at") == 5
    near(window.number("#map-sum"), result.snapshots[5][0].sum().item(), 10)
    drive(window)
    check_copies(window)
    assert window.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert window.faults == []


def test_a_table(window: Window, table: tuple[dmbp.Result, Path]) -> None:
    result, path = table
    window.open(path)
    check_sums(window, result, 2)
    check_sites(window, result, 2)
    check_python(window, result)
    order = result.attribution[2].abs().argsort(descending=True).tolist()
    shown = window.page.locator("#map-view .feature:not(.head) .name").all_inner_texts()
    assert shown == [HEADERS[place] for place in order]
    drive(window)
    check_copies(window)
    assert window.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert window.faults == []


def test_several_inputs_and_a_file_without_network(window: Window, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 30), torch.randn(1, 5)
    result = dmbp.explain(Both(), x, 1, iterations=6, snapshots=(0, 3), progress=False)
    window.open(result.to_html(tmp_path / "two.html"))
    for place, name in enumerate(("signal", "table")):
        window.page.locator("#choose-input").select_option(str(place))
        wanted = result.attribution[name].sum().item()
        near(window.number("#map-sum"), wanted, 1)
        near(window.js("total(shownMap().values)"), wanted, 1)
    check_sites(window, result, 0)
    check_python(window, result)
    drive(window)
    check_copies(window)
    window.open(dmbp.load(result.save(tmp_path / "two.npz")).to_html(tmp_path / "loaded.html"))
    assert "not its network" in window.page.locator("#strip").inner_text()
    drive(window)
    assert window.faults == []


def test_the_first_paint_waits_for_nothing(browser: Any, digits: tuple[dmbp.Result, Path], tmp_path: Path) -> None:
    """Within a second of an empty page of that size."""
    empty = tmp_path / "empty.html"
    filler = "x" * digits[1].stat().st_size
    empty.write_text(f"<!doctype html><title>-</title><p>words</p><script type='text/plain'>{filler}</script>")
    times = []
    for path in (empty, digits[1]):
        page = browser.new_page()
        page.goto(path.as_uri())
        page.wait_for_function(f"{PAINT} > 0")
        times.append(page.evaluate(PAINT))
        page.close()
    assert times[1] < times[0] + 1000, times
