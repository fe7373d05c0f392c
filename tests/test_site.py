"""The site without its figures: all pages are there, and their links lead somewhere, on a disk, without a network.

`make check-site` looks at the whole of it, with the tutorials run, in a browser.
"""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import dmbp
import linreg

pytest.importorskip("sphinx", reason="needs the extra: tutorials")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]  # which is built once

FOLDER = Path(__file__).parents[1] / "tutorials"
TUTORIALS = [path.stem for path in sorted(FOLDER.glob("[0-9][0-9]_*.py"))]
FRONT = "site/index.html"
LOADED = {"img": "src", "script": "src", "source": "src", "iframe": "src", "link": "href"}


@dataclass
class Page(HTMLParser):
    """What a page is made of: its anchors, where its links lead, what a browser loads for it, and its text."""

    path: Path
    anchors: Counter[str] = field(default_factory=Counter)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value}
        self.anchors.update(found[name] for name in ("id", "name") if name in found and tag != "meta")
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "meta" and found.get("http-equiv") == "refresh":
            self.links.append(found["content"].partition("url=")[2])
        if tag in LOADED and LOADED[tag] in found:
            self.loads.append(found[LOADED[tag]])

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @cached_property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def targets(self, links: list[str]) -> Iterator[tuple[str, Path, str]]:
        """Each link to a file of this disk, that file, and the anchor."""
        for link in links:
            address, anchor = urldefrag(link)
            if not address.startswith(("http:", "https:", "mailto:", "data:")):
                file = (self.path.parent / unquote(address.partition("?")[0])).resolve() if address else self.path
                yield link, file, unquote(anchor)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """Its pages by their paths within it; built without running the tutorials. A warning fails."""
    out = tmp_path_factory.mktemp("site").resolve() / "site"
    options = ["-q", "-W", "-D", "nb_execution_mode=off", "-c", FOLDER / "site"]
    made = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, FOLDER, out], capture_output=True, text=True, timeout=900
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return {path.relative_to(out).as_posix(): Page(path) for path in sorted(out.rglob("*.html"))}


def test_links_lead_to_a_file_of_the_site_and_an_anchor_in_it(site: dict[str, Page]) -> None:
    by_file = {page.path: page for page in site.values()}
    root = site["index.html"].path.parent
    broken = []
    for name, page in site.items():
        for link, file, anchor in page.targets(page.links):
            there = file.is_file() and file.is_relative_to(root)
            if not there or (anchor and file in by_file and anchor not in by_file[file].anchors):
                broken.append((name, link))
    assert not broken
    assert sum(len(page.links) for page in site.values()) > 1000


def test_all_that_a_page_loads_comes_with_it(site: dict[str, Page]) -> None:
    for name, page in site.items():
        loads = [link for link in page.loads if not link.startswith("data:")]
        found = list(page.targets(loads))
        assert len(found) == len(loads), f"{name} loads from a network: {loads}"
        assert not [link for link, file, _ in found if not file.is_file()], name
    assert any(link.endswith("digit-pair.png") for link in site[FRONT].loads)


def test_every_tutorial_has_a_page_in_order(site: dict[str, Page]) -> None:
    assert len(TUTORIALS) >= 8
    linked = [file.stem for _, file, _ in site[FRONT].targets(site[FRONT].links) if file.stem in TUTORIALS]
    assert list(dict.fromkeys(linked)) == TUTORIALS
    for name in TUTORIALS:
        page = site[f"{name}.html"]
        script = (FOLDER / f"{name}.py").read_text()
        assert page.text.count("Show answers") == script.count('tags=["hide-cell"]') > 0, name
        assert page.text.count("Show the code of this figure") == script.count('tags=["hide-input"]'), name
        assert "exercises" in page.anchors, name
        assert any("tex-svg" in source for source in page.loads), f"{name} shows no formula"


def test_a_search_for_a_number_of_the_paper_finds_its_section(site: dict[str, Page]) -> None:
    root = site["index.html"].path.parent
    text, _, _ = (root / "_static" / "equations.js").read_text(encoding="utf-8").partition(";\n")
    found = json.loads(text.removeprefix("const SECTIONS = "))
    assert {f"({n})" for n in range(1, 21)} | {"algorithm 1", "figure 1", "table 1"} <= found.keys()
    for part, section in found.items():
        page, _, anchor = section["address"].partition("#")
        assert anchor in site[page].anchors, part
    assert found["(10)"]["address"].startswith("05_learning.html#")
    assert any(
        link.endswith("equations.js")
        for link in (urldefrag(each)[0].partition("?")[0] for each in site["search.html"].loads)
    )


def test_the_front_page_leads_to_all_that_there_is(site: dict[str, Page]) -> None:
    linked = {file.stem for _, file, _ in site[FRONT].targets(site[FRONT].links)}
    pages = {path.stem for pattern in ("*.py", "*.md", "site/*.md") for path in FOLDER.glob(pattern)}
    assert pages <= linked
    [(_, file, _)] = site["index.html"].targets(site["index.html"].links[:1])
    assert file == site[FRONT].path


@pytest.mark.parametrize("package", [linreg, dmbp])
def test_every_public_module_has_a_place_in_the_reference(site: dict[str, Page], package) -> None:
    walked = [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    modules = [package.__name__, *(name for name in walked if not any(p.startswith("_") for p in name.split(".")))]
    places = Counter[str]()
    for name, page in site.items():
        if name.startswith("site/api/"):
            places.update(page.anchors)
    assert {name: places[f"module-{name}"] for name in modules} == dict.fromkeys(modules, 1), (
        "a new module belongs on one of the pages of tutorials/site/api"
    )
    objects = {f"{(thing := getattr(package, name)).__module__}.{thing.__qualname__}" for name in package.__all__}
    assert not {path for path in objects if places[path] != 1}
