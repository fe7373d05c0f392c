"""The page itself: HTML, style, scripts and numbers joined into one file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmbp.account import check_image
from dmbp.explorer.gathered import gathered
from dmbp.explorer.packing import Pack
from dmbp.files import check_file, whole

if TYPE_CHECKING:
    from dmbp.result import Result
    from dmbp.verdict import Verdict

SCRIPTS = (
    "arrays", "numbers", "colours", "scene", "picture", "lines", "bars", "maps", "curves", "strip", "site", "ledger",
    "trust", "start",
)  # fmt: skip


def write_page(
    result: Result,
    path: str | Path,
    image: int = 0,
    *,
    picture: np.ndarray | None = None,
    title: str = "",
    names: Sequence[str] | None = None,
    verdict: Verdict | None = None,
    lessons: str | None = None,
) -> Path:
    """Write the explorer of one image of a result to `path`, whole or not at all, and return the path.

    `picture` (H, W, 3) in [0, 1] is drawn in the place of x; `names` are those of the features of a table, or of the
    channels of a signal; both belong to the first input. The first line of `title` is the heading, the rest stands
    below it. `verdict` is `result.verdict(image)` unless one that tells more is at hand (class names, what was tried).
    `lessons` is the address of the built tutorials, absolute or from the page: with it, each panel links to its lesson,
    else it names it. Raises DmbpError where the batch has no such image, for a picture or names that do not fit, and
    where the file cannot be written.

    >>> import dmbp, torch
    >>> network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> result = dmbp.explain(network, torch.randn(1, 3), 1, iterations=20)
    >>> result.to_html("why.html", names=["age", "weight", "height"], title="Why class 1?").name
    'why.html'
    """
    check_image(result.account, image)
    path = Path(path)
    check_file(path)  # before the work, which can take a minute
    value, pack = gathered(result, image, picture, title, names, verdict or result.verdict(image))
    text = _filled(_parts(value, pack), lessons)
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _parts(value: dict[str, Any], pack: Pack) -> dict[str, str]:
    """What the frame has places for."""
    heading, _, below = value["about"]["title"].partition("\n")
    return {
        "TITLE": escape(heading),
        "BELOW": escape(below),
        "STYLE": _part("style.css") + _part("panels.css"),
        "SCRIPT": "\n".join(_part(f"{name}.js") for name in SCRIPTS),
        "DATA": _in_script(value),
        "ARRAYS": pack.text(),
    }


def _filled(parts: dict[str, str], lessons: str | None) -> str:
    """The frame with its parts in their places, and its links to lessons."""
    frame = re.sub(r'data-lesson="([^"]+)"', lambda found: _lesson(found[1], lessons), _part("page.html"))
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda found: parts[found[1]], frame)


def _lesson(where: str, lessons: str | None) -> str:
    """The attribute of a link: to a section of the built tutorials, or, where these are not at hand, its script."""
    if lessons is None:
        return f'title="tutorials/{where.partition(".html")[0]}.py"'
    return f'href="{escape(lessons.rstrip("/"))}/{where}"'


def _in_script(value: Any) -> str:
    """JSON that ends no script element."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")


@cache
def _part(name: str) -> str:
    return files("dmbp").joinpath("explorer", "web", name).read_text(encoding="utf-8")
