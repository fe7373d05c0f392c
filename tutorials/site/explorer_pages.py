"""The explorer's pages of the digit pair, made when the site is built: one for each of its two digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import dmbp
from dmbp.datasets import sample_pairs
from dmbp.models import load_model

SNAPSHOTS = (0, 5, 20, 50, 100, 150, 200)
UNRUN = 2  # iterations, where tutorials are not run either: the pages are there, to be linked to


def write(app: Sphinx, exception: Exception | None) -> None:
    """explorer/digit-pair-3.html and -9.html, which link to the lessons beside them."""
    if exception is not None or app.builder.format != "html":
        return
    iterations = UNRUN if app.config.nb_execution_mode == "off" else max(SNAPSHOTS)
    snapshots = tuple(count for count in SNAPSHOTS if count <= iterations)
    pairs = sample_pairs()
    network = load_model("digit-pairs").network
    folder = Path(app.outdir) / "explorer"
    folder.mkdir(exist_ok=True)
    for digit in pairs.labels[0].tolist():
        result = dmbp.explain(
            network, pairs.images[:1], digit, iterations=iterations, snapshots=snapshots, progress=False
        )
        title = f"Why “{digit}”?\nA picture with a 3 and a 9"
        result.to_html(folder / f"digit-pair-{digit}.html", title=title, lessons="..")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True}
