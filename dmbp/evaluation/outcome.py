"""What an evaluation leaves in its folder beside the results: tables in five kinds, a picture of differences, maps."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dmbp.datasets import Unreadable
from dmbp.evaluation.plan import Plan
from dmbp.evaluation.record import Key
from dmbp.evaluation.rendering import RENDERERS
from dmbp.evaluation.run import Evaluation
from dmbp.evaluation.tables import Table
from dmbp.evaluation.work import map_file
from dmbp.files import save_figure, slug, whole
from linreg.text import counted

SHOWN = 5  # names of pictures in a message


def write_tables(tables: Sequence[Table], out: Path) -> list[Path]:
    """OUT/tables.txt, .md, .tex, .csv and .json; each appears whole or not at all."""
    paths = [out / f"tables.{ending}" for ending in RENDERERS]
    for path, render in zip(paths, RENDERERS.values(), strict=True):
        with whole(path) as partial:
            partial.write_text(render(tables), encoding="utf-8")
    return paths


def write_differences(tables: Sequence[Table], out: Path) -> list[Path]:
    """OUT/differences.png, where several methods were evaluated."""
    from dmbp.plot.differences_picture import draw_differences

    signed = [table for table in tables if table.signed]
    return [save_figure(draw_differences(table), out / "differences.png") for table in signed]


def write_sheets(plan: Plan, titles: Sequence[str], out: Path) -> list[Path]:
    """OUT/sheet-NETWORK.png: the kept pictures, a row for each of their classes, and the maps of all methods."""
    from dmbp.plot.rivals_picture import Line, draw_rivals

    paths = []
    for subject in plan.subjects:
        model = subject.model
        lines: list[Line] = []
        for item in subject.pictures.items[: plan.keep]:
            try:
                picture = model.preprocess.picture(item.picture.tensor(model.preprocess))
            except Unreadable:
                continue
            kept = [_kept(map_file(out, Key(model.name, method.name, item.name))) for method in plan.methods]
            for row, target in enumerate(item.targets):
                title = "\n".join(textwrap.wrap(model.label(target).partition(",")[0], 18))
                lines.append(Line(picture, title, [None if maps is None else maps[row] for maps in kept]))
        if lines:
            figure = draw_rivals(lines, titles, f"{model.name}, {subject.pictures.family}")
            paths.append(save_figure(figure, out / f"sheet-{slug(Path(model.name).name)}.png"))
    return paths


def _kept(path: Path) -> np.ndarray | None:
    return np.load(path, allow_pickle=False) if path.exists() else None


def told(plan: Plan, evaluation: Evaluation) -> list[str]:
    """What was left out and why, and where the time went: one line each."""
    results, lines = evaluation.study.results, []
    for subject in plan.subjects:
        name = subject.model.name
        names = {item.name for item in subject.pictures.items}
        unread = {each.name: each.reason for each in subject.pictures.skipped}
        unread |= {
            picture: why for (model, picture), why in results.unread.items() if model == name and picture in names
        }
        lines += _some(f"{name}: skipped", unread)
        for method in plan.methods:
            failed = {
                key.picture: why
                for key, why in results.failed.items()
                if (key.model, key.method) == (name, method.name) and key.picture in names
            }
            lines += _some(f"{name}: {method.name} failed on", failed)
        lines += [f"{name}: {metric} is not computed yet" for metric in evaluation.study.missing(name)]
        for metric in evaluation.study.without_numbers(name):
            lines.append(f"{name}: {metric} has no number here: it needs {plan.metrics[metric].needs}")
    if not evaluation.computed:
        return lines
    work = f"{counted(evaluation.computed, 'map')} in {evaluation.whole_seconds:.1f} s"
    methods, scores = evaluation.methods_seconds, evaluation.scores_seconds
    lines.append(f"made and judged {work}: methods {methods:.1f} s, scores {scores:.1f} s ({evaluation.at_work:.0%})")
    return lines


def _some(what: str, reasons: Mapping[str, str]) -> list[str]:
    """The first of them, and how many more there are."""
    lines = [f"{what} {picture}: {why}" for picture, why in list(reasons.items())[:SHOWN]]
    more = len(reasons) - SHOWN
    return lines + ([f"{what} {more} more"] if more > 0 else [])
