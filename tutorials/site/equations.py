"""Search by number: who looks for "Eq. (10)" or "Figure 2" is led to the section that derives it, before all else.

Sphinx searches words, and drops numbers. What the index of the paper links to is put above its results.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

SCRIPT = "equations.js"
ROW = re.compile(r"^\| ([^|]+?) \| \[(\d+), ([^\]]+)\]\((\w+)\.py#([^)]+)\)", re.MULTILINE)

# Runs on the page of results. `SECTIONS` is from "(10)" or "figure 2" to the title and address of its section.
CODE = """
document.addEventListener("DOMContentLoaded", () => {
  const asked = (new URLSearchParams(location.search).get("q") || "").toLowerCase();
  const equation = asked.match(/^(?:eqs?\\.?|equation)?\\s*\\(?(\\d+)\\)?$/);
  const found = SECTIONS[equation ? `(${equation[1]})` : asked.trim()];
  const results = document.getElementById("search-results");
  if (!found || !results) return;
  const link = document.createElement("a");
  link.href = found.address;
  link.textContent = found.title;
  const line = document.createElement("p");
  line.className = "section-of-the-paper";
  line.append("The section that shows it: ", link);
  results.before(line);
});
"""


def sections(index: str) -> dict[str, dict[str, str]]:
    """From each part of the paper to the first section that its row links to."""
    return {
        part.lower(): {"title": f"Lesson {number}, {heading}", "address": f"{page}.html#{anchor}"}
        for part, number, heading, page, anchor in ROW.findall(index)
    }


def load_on_search(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    if page == "search":
        app.add_js_file(SCRIPT)


def write_script(app: Sphinx, exception: Exception | None) -> None:
    if exception is None:
        found = sections((Path(app.srcdir) / "paper.md").read_text(encoding="utf-8"))
        text = f"const SECTIONS = {json.dumps(found, ensure_ascii=False, indent=1)};\n{CODE}"
        (Path(app.outdir) / "_static" / SCRIPT).write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", load_on_search)
    app.connect("build-finished", write_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
