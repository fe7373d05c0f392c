"""The pictures that the command line writes, each in the formats that are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from dmbp.cli.aim import Aim
from dmbp.errors import DmbpError
from dmbp.files import save_figure, slug
from dmbp.result import Result
from dmbp.verdict import Verdict
from linreg import OperatorGraph

if TYPE_CHECKING:  # matplotlib is slow to import
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Wanted:
    """Which map is written alone, "paper" or "complete" or none, which is laid over the picture, and the formats."""

    map: str | None
    overlay: str | None
    formats: tuple[str, ...]

    def check(self, aims: Sequence[Aim]) -> None:
        """Raise DmbpError where a map is wanted that no input has, or one over a picture where there is none."""
        for aim in aims:
            graph = aim.question.graph
            if self.overlay and not _pictures(graph):
                raise DmbpError(f"--overlay draws over a picture, and the network takes none: {graph}")
            if self.map and not mapped(graph, self.map):
                raise DmbpError(
                    f"--map {self.map}: no input of this network has such a map, features no places: {graph}"
                )


def formats_of(text: str) -> tuple[str, ...]:
    """Formats parted by commas. Raises DmbpError for another one, and for none."""
    names = tuple(dict.fromkeys(name.strip().lower().lstrip(".") for name in text.split(",") if name.strip()))
    for name in names or (text,):
        if name not in FORMATS:
            raise DmbpError(f"--format {text}: pictures are written as {', '.join(FORMATS)}, and not as {name!r}")
    return names


def write_pictures(aim: Aim, result: Result, verdict: Verdict, wanted: Wanted, stem: Path) -> dict[str, list[str]]:
    """Write STEM.png and the like: the figure, and maps alone or laid over; the paths by kind, a format after another.

    Of several inputs each has its maps, as "map of NAME".
    """
    from dmbp.plot import draw_alone, draw_overlay
    from dmbp.plot.scales import scaled

    question = aim.question
    figure = result.plot(
        picture=question.picture, names=question.labels, title=f"{aim.name}, {question.model.name}",
        below=verdict.lines(),
    )  # fmt: skip
    found = {"figure": written(figure, stem, wanted.formats)}
    names = _pictures(question.graph)
    several = result.account.layout.several
    for place, entry in enumerate(result.account.layout.data):
        name = entry.name
        of, own = (f" of {name}", f"{stem.name}-{slug(name)}") if several else ("", stem.name)
        if wanted.map is not None and name in mapped(question.graph, wanted.map):
            labels = question.labels if not place else None
            drawn = draw_alone(result, which=wanted.map, name=name, names=labels)
            found[f"map{of}"] = written(drawn, stem.with_name(f"{own}-{wanted.map}"), wanted.formats)
        if wanted.overlay is not None and name in names:
            picture = question.picture if name == names[0] else None
            ground = scaled(result.inputs[name][0]) if picture is None else picture
            drawn = draw_overlay(_map(result, name, wanted.overlay), ground)
            found[f"overlay{of}"] = written(drawn, stem.with_name(f"{own}-{wanted.overlay}-overlay"), wanted.formats)
    return found


def written(figure: Figure, stem: Path, formats: tuple[str, ...]) -> list[str]:
    """Write a figure as STEM.png and so on, and return the paths."""
    return [str(save_figure(figure, stem.with_name(f"{stem.name}.{ending}"))) for ending in formats]


def mapped(graph: OperatorGraph, which: str) -> list[str]:
    """The inputs that have a map that can be drawn alone."""
    from dmbp.plot.alone_picture import can_be_drawn

    return [entry.name for entry in graph.inputs.data if can_be_drawn(entry, which)]


def _pictures(graph: OperatorGraph) -> list[str]:
    """The inputs that are pictures."""
    return [entry.name for entry in graph.inputs.data if len(entry.shape) == 3]


def _map(result: Result, name: str, kind: str) -> Tensor:
    """The map (H, W) of one input of the first image."""
    values = result.complete if kind == "complete" else result.attribution
    own: Tensor = values[name] if isinstance(values, Mapping) else values
    return own[0] if kind == "complete" else own[0].sum(0)
