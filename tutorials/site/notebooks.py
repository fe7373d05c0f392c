"""Tutorials as pages: a percent-format script becomes a notebook that runs as the tests do, and shows what matters."""

from __future__ import annotations

import re
import shutil
from fnmatch import fnmatch
from itertools import accumulate
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from docutils import nodes
from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_code_cell
from sphinx.application import Sphinx

KERNEL = {"name": "tutorial", "display_name": "tutorial", "language": "python"}  # see kernels/
STRICT = r"""
%matplotlib inline
import warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", module="ipykernel")  # its own affairs
warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)  # torch.export's
"""

LESSONS = "[0-9][0-9]_*.py"
DOWNLOADS = "notebooks"

# What a cell's last line gives where it was called for what it draws or sets.
REPR = re.compile(r"[\[(]*(<[^<>]+ at 0x[0-9a-f]+>|<(Axes|Figure|matplotlib|a list of )|Text\()")


def read(text: str) -> NotebookNode:
    """The notebook of a script: warnings are errors, and each figure is called after the section it is in."""
    notebook = jupytext.reads(text, fmt="py:percent")
    lines = [number for number, line in enumerate(text.splitlines()) if line.startswith("# %%")]
    first = next((i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"), 0)
    headings = accumulate(map(last_heading, notebook.cells), lambda before, own: own or before)
    for cell, heading in zip(notebook.cells, headings, strict=True):
        cell.metadata["mystnb"] = {"image": {"alt": f"Figure: {heading}"}, **prompts(cell)}
    notebook.cells.insert(first, new_code_cell(STRICT.strip(), metadata={"tags": ["remove-cell"]}))
    notebook.metadata.update(kernelspec=KERNEL, language_info={"name": "python", "pygments_lexer": "ipython3"})
    if len(lines) + 1 == len(notebook.cells):  # so that a message names the line of the script
        notebook.metadata["source_map"] = [*lines[: first + 1], *lines[first:]]
    return notebook


def prompts(cell: NotebookNode) -> dict[str, str]:
    """What to click on to see the code of a figure; that of answers is in conf.py."""
    if "hide-input" not in cell.metadata.get("tags", []):
        return {}
    return {"code_prompt_show": "Show the code of this figure", "code_prompt_hide": "Hide the code of this figure"}


def last_heading(cell: NotebookNode) -> str:
    """The last heading of a Markdown cell, or ""."""
    headings = re.findall(r"^#+ +(.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
    return headings[-1] if headings else ""


def drop_reprs(app: Sphinx, doctree: nodes.document) -> None:
    """Take `<matplotlib.colorbar.Colorbar at 0x7f…>` and its kind out of the page, and what is empty without it."""
    for text in list(doctree.findall(nodes.literal_block)):
        if "text_plain" in text["classes"] and REPR.match(text.astext()):
            parent = text.parent
            parent.remove(text)
            if not parent.children:
                parent.parent.remove(parent)


def notebook(app: Sphinx, script: Path) -> NotebookNode:
    """A lesson as it is for download: as it was run for the site, or as it is written where the site runs nothing."""
    executed = Path(app.outdir).parent / "jupyter_execute" / f"{script.stem}.ipynb"
    if app.config.nb_execution_mode == "off" or not executed.exists():
        return jupytext.read(script, fmt="py:percent")
    found = nbformat.read(executed, as_version=4)
    found.cells = [cell for cell in found.cells if "remove-cell" not in cell.metadata.get("tags", ())]
    found.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return found


def write_downloads(app: Sphinx, exception: Exception | None) -> None:
    """Put each lesson beside the pages, as a notebook and as a script."""
    if exception is not None:
        return
    folder = Path(app.outdir) / DOWNLOADS
    folder.mkdir(exist_ok=True)
    for script in sorted(Path(app.srcdir).glob(LESSONS)):
        nbformat.write(notebook(app, script), folder / f"{script.stem}.ipynb")
        shutil.copy(script, folder)


def link_downloads(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Under the title of a lesson: where its notebook and its script are."""
    if not fnmatch(f"{page}.py", LESSONS):
        return
    links = " · ".join(
        f'<a href="{DOWNLOADS}/{page}.{kind}" download>{words}</a>'
        for kind, words in (("ipynb", "Notebook with its outputs"), ("py", "Script"))
    )
    context["body"] = context["body"].replace("</h1>", f'</h1>\n<p class="downloads">{links}</p>', 1)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", drop_reprs)
    app.connect("html-page-context", link_downloads)
    app.connect("build-finished", write_downloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
