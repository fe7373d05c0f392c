"""The pictures that the command line writes, each in the formats that are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dmbp.cli.aim import Aim
from dmbp.errors import DmbpError
from dmbp.files import save_figure
from dmbp.result import Result
from dmbp.verdict import Verdict

if TYPE_CHECKING:  # matplotlib is slow to import
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Wanted:
    """Which map is written alone, "paper" or "complete" or none, which is laid over the picture, and the formats."""

    map: str | None
    overlay: str | None
    formats: tuple[str, ...]


def formats_of(text: str) -> tuple[str, ...]:
    """Formats parted by commas. Raises DmbpError for another one, and for none."""
    names = tuple(dict.fromkeys(name.strip().lower().lstrip(".") for name in text.split(",") if name.strip()))
    for name in names or (text,):
        if name not in FORMATS:
            raise DmbpError(f"--format {text}: pictures are written as {', '.join(FORMATS)}, and not as {name!r}")
    return names


def write_pictures(aim: Aim, result: Result, verdict: Verdict, wanted: Wanted, stem: Path) -> dict[str, Any]:
    """Write STEM.png and the like; the paths, "figure" of the first format and "figures" of all, by kind of picture."""
    from dmbp.plot import draw_map, draw_overlay

    question = aim.question
    title = f"{aim.name}, {question.model.name}"
    below = verdict.lines()
    figure = result.plot(picture=question.picture, names=question.labels, title=title, below=below)
    drawn = {"figure": (figure, stem.name)}
    if wanted.map is not None:
        drawn["map"] = draw_map(_map(result, wanted.map)), f"{stem.name}-{wanted.map}"
    if wanted.overlay is not None:
        over = _map(result, wanted.overlay)
        drawn["overlay"] = draw_overlay(over, _ground(aim, result)), f"{stem.name}-{wanted.overlay}-overlay"
    found: dict[str, Any] = {}
    for kind, (picture, name) in drawn.items():
        paths = written(picture, stem.with_name(name), wanted.formats)
        found |= {kind: paths[0], f"{kind}s": paths}
    return found


def written(figure: Figure, stem: Path, formats: tuple[str, ...]) -> list[str]:
    """Write a figure as STEM.png and so on, and return the paths."""
    return [str(save_figure(figure, stem.with_name(f"{stem.name}.{ending}"))) for ending in formats]


def _map(result: Result, kind: str) -> Tensor:
    """One map (H, W) of the first image. Raises DmbpError where the input is no picture."""
    from dmbp.plot import pixel_map

    if result.account.layout.several or result.input.dim() != 4:
        raise DmbpError(f"--map and --overlay are for one picture; the input has shape {tuple(result.input.shape[1:])}")
    values: Tensor = result.complete if kind == "complete" else pixel_map(result.attribution)
    return values[0]


def _ground(aim: Aim, result: Result) -> Any:
    from dmbp.plot.scales import scaled

    return scaled(result.input[0]) if aim.question.picture is None else aim.question.picture
