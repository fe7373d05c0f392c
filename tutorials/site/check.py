"""Open every page of the built site in a real browser, from disk, and say what is wrong: `make check-site`.

Wrong are: an error on the console or in a script, a request that is neither file: nor data:, a link without its file
or anchor, a picture that does not load or has no size, a formula that is not drawn or is drawn as an error, TeX left in
the text, a tutorial without figures, a page that is wider than the window.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag

from playwright.sync_api import Browser, Error, Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
HINT = (
    "No browser found. Install Chromium (Debian and Ubuntu: apt-get install chromium; macOS: brew install chromium), "
    "or say where one is: CHROME=/path/to/chrome make check-site"
)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Of a page that has come to rest: its anchors, links, pictures without a size, and formulas that went wrong.
LOOK = r"""
() => {
  const shown = (element) => element.closest("details:not([open])") === null;
  const all = (selector) => [...document.querySelectorAll(selector)];
  const text = (element) => element.textContent.trim().replace(/\s+/g, " ").slice(0, 60);
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT, (node) =>
    node.parentElement.closest("pre, code, script, style, mjx-container, title, .literal")
      ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT);
  const raw = [];
  while (walk.nextNode()) {
    if (/\$\$|\\[()\[\]]|\\(begin|end|frac|mathcal|mathrm|sum|hat)\b/.test(walk.currentNode.data)) {
      raw.push(text(walk.currentNode));
    }
  }
  return {
    anchors: all("[id], a[name]").flatMap((element) => [element.id, element.getAttribute("name")]).filter(Boolean),
    links: all("a[href], link[href]").map((element) => element.href),
    pictures: all("img").filter((img) => !img.complete || !img.naturalWidth || (shown(img) && !img.clientWidth))
      .map((img) => img.src),
    formulas: all(".math").filter((math) => !math.querySelector("mjx-container svg")).map(text),
    unsized: all("mjx-container").filter((box) => shown(box) && box.getBoundingClientRect().width < 1).map(text),
    errors: all("mjx-merror, [data-mml-node=merror], .katex-error").map(text),
    cut: all("div.highlight pre").filter((code) => shown(code) && code.scrollWidth > code.clientWidth + 1).map(text),
    figures: all(".cell_output img").length,
    count: all("mjx-container").length,
    raw,
  };
}
"""


def find_browser() -> str:
    """The browser named by CHROME, or one on the PATH. Where there is none, ends with what to install."""
    found = os.environ.get("CHROME") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None or not Path(found).exists():
        sys.exit(f"CHROME={found} does not exist" if found else HINT)
    return found


class Site:
    """The pages of a folder, and what the browser saw of each: anchors and links by file."""

    def __init__(self, folder: Path, browser: Browser, colours: str, width: int) -> None:
        self.folder = folder.resolve()
        context = browser.new_context(color_scheme=colours, viewport={"width": width, "height": 900}, offline=True)
        self.page = context.new_page()
        self.faults: list[str] = []
        self.anchors: dict[Path, set[str]] = {}
        self.links: dict[Path, list[str]] = {}
        self.formulas = 0
        self.page.on("console", lambda m: self.fault(f"console: {m.text}") if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.fault(f"script: {error}"))
        self.page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else self.fault(f"asks {r.url}"))
        self.page.on("requestfailed", lambda r: self.fault(f"could not load {r.url}"))

    def fault(self, what: str) -> None:
        self.faults.append(f"{self.where}: {what}")

    def open(self, path: Path) -> None:
        """Look at one page."""
        self.where = path.relative_to(self.folder)
        self.page.goto(path.as_uri(), wait_until="load")
        if 'http-equiv="refresh"' in path.read_text(encoding="utf-8"):
            self.page.wait_for_url(lambda url: url != path.as_uri())  # it only leads on
        settle(self.page)
        seen = self.page.evaluate(LOOK)
        self.anchors[path] = {*seen["anchors"], "", "top"}
        self.links[path] = seen["links"]
        self.formulas += seen["count"]
        for kind, words in {
            "pictures": "picture does not show",
            "formulas": "formula is not drawn",
            "unsized": "formula has no size",
            "errors": "formula is an error",
            "raw": "TeX is left in the text",
            "cut": "code is wider than its box",
        }.items():
            for what in seen[kind]:
                self.fault(f"{words}: {what}")
        if re.match(r"\d\d_", path.name) and not seen["figures"]:
            self.fault("a tutorial without figures")
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide > 0:
            self.fault(f"page is {wide} pixels wider than the window of {self.page.viewport_size['width']}")

    def broken_links(self) -> Iterator[str]:
        """Links to files or anchors that do not exist, or to a folder of this disk outside of the site."""
        for source, links in self.links.items():
            for link in sorted(set(links)):
                address, anchor = urldefrag(link)
                if not address.startswith("file:"):
                    continue
                target = Path(unquote(address.removeprefix("file://").partition("?")[0]))
                where = source.relative_to(self.folder)
                if not target.is_file() or not target.is_relative_to(self.folder):
                    yield f"{where}: link to no file of the site: {link}"
                elif target in self.anchors and unquote(anchor) not in self.anchors[target]:
                    yield f"{where}: link to no anchor: {link}"


def settle(page: Page) -> None:
    """Wait until the formulas are drawn and the pictures are there."""
    page.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => null) : null")
    page.evaluate("Promise.all([...document.images].map((img) => img.decode().catch(() => null))).then(() => null)")


def check(folder: Path, colours: str, width: int) -> tuple[str, list[str]]:
    """What was looked at, and all that is wrong."""
    pages = sorted(folder.resolve().rglob("*.html"))
    if not pages:
        return "", [f"there is no site in {folder}: make site"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=QUIET)
        site = Site(folder, browser, colours, width)
        for path in pages:
            try:
                site.open(path)
            except Error as error:
                site.fault(str(error).partition("\n")[0])
        browser.close()
    links = sum(map(len, site.links.values()))
    return f"{len(pages)} pages, {links} links, {site.formulas} formulas", [*site.faults, *site.broken_links()]


def main() -> None:
    parser = argparse.ArgumentParser(description="Check the built site in a browser, from disk.")
    parser.add_argument("site", type=Path, nargs="?", default=Path("build/site"))
    folder = parser.parse_args().site
    faults: dict[str, None] = {}
    for colours, width in (("light", 1400), ("dark", 400)):
        seen, wrong = check(folder, colours, width)
        print(f"{colours}, {width} pixels wide: {seen}", flush=True)
        faults |= dict.fromkeys(wrong)
    print(*faults, f"{len(faults)} faults" if faults else "Nothing is wrong.", sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
