"""`dmbp explain`: the split of a score, a figure of it, and all arrays."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from dmbp.account import LINES
from dmbp.cli.json_text import as_json
from dmbp.cli.question import Question, ask, named
from dmbp.explanation import explain
from dmbp.files import check_writable, save_figure, slug, writable
from dmbp.result import Result, write_arrays
from linreg.text import counted


def run(options: argparse.Namespace) -> None:
    """`dmbp explain`: one figure and one file of arrays for each target."""
    check_writable(options.out)
    question = ask(options)
    reports: list[dict[str, Any]] = []
    for target in question.targets:
        result = explain(
            question.graph, question.x, target, iterations=options.iterations, loss=options.loss,
            sites=options.sites, unmasked=options.unmasked, snapshots=_on_the_way(options),
        )  # fmt: skip
        reports.append(_report(question, target, result, options.out, options.map, options.html))
        if not options.json:
            print(_text(question, target, result, reports[-1]), flush=True)
        if result.interrupted:
            break
    if options.json:
        print(as_json(reports[0] if len(question.targets) == 1 else reports))
    if result.interrupted:
        rest = ", ".join(named(question.model.label(t), t) for t in question.targets[len(reports) :])
        left = f"; not begun: {rest}" if rest else ""
        print(f"dmbp: interrupted after {_iterations(result)}; kept what was reached{left}", file=sys.stderr)
        raise SystemExit(130)


def _on_the_way(options: argparse.Namespace) -> tuple[int, ...]:
    """The numbers of updates after which the explorer shows the map too; the first ones move it most."""
    shares = (0, 0.025, 0.1, 0.25, 0.5, 0.75, 1) if options.html else ()
    return tuple(sorted({round(share * options.iterations) for share in shares}))


def _report(
    question: Question, target: int, result: Result, folder: Path, alone: str | None, html: bool
) -> dict[str, Any]:
    """Write figure and arrays of one target, and the map that is wanted alone; the object that --json prints."""
    model = question.model
    label = model.label(target)
    stem = _stem(question, target)
    title = f"{named(label, target)}, {model.name}"
    figure = result.plot(picture=model.preprocess.picture(question.x), title=title)
    arrays = save_apart(result, writable(folder), stem)
    stem = arrays.stem
    picture = save_figure(figure, folder / f"{stem}.png")
    maps: dict[str, str] = {}
    if alone is not None:
        from dmbp.plot import draw_map, pixel_map

        values = result.complete if alone == "complete" else pixel_map(result.attribution)
        maps["map"] = str(save_figure(draw_map(values[0]), folder / f"{stem}-{alone}.png"))
    if html:
        drawn = model.preprocess.picture(question.x)
        asked = f"Why “{label}”?\n{model.name} at {Path(question.name).name}"
        verdict = result.verdict(labels=model.label, probability=model.probability)
        page = result.to_html(folder / f"{stem}.html", picture=drawn, title=asked, verdict=verdict)
        maps["page"] = str(page)
    checks = result.checks
    return {
        "model": model.name, "image": question.name, "target": target, "label": label,
        **{name: score.item() for name, score in result.scores.items()},
        "completeness_error": checks.completeness_error.item(), "split_error": checks.split_error.item(),
        "iterations": result.iterations, "seconds": round(result.seconds, 3), "interrupted": result.interrupted,
        "shares": {part: _shares(result, part) for part in LINES},
        "figure": str(picture), "arrays": str(arrays), **maps,
    }  # fmt: skip


def save_apart(result: Result, folder: Path, stem: str) -> Path:
    """Save a result as STEM.npz, in the place of one of the same question; beside another's, as STEM-2.npz, …

    Pictures of one name from two folders must not overwrite each other, whoever comes first.
    """
    arrays = result.arrays()
    for number in count(1):
        path = folder / (f"{stem}.npz" if number == 1 else f"{stem}-{number}.npz")
        with suppress(_OfAnother):
            return write_arrays(arrays, path, partial(_check_same, arrays))
    raise AssertionError


class _OfAnother(Exception):
    """There is a file of that name, of another picture, network or class."""


def _check_same(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Raise `_OfAnother` unless a file has these arrays' picture, target and score: the question is then the same."""
    try:
        with np.load(path, allow_pickle=False) as found:
            same = all(np.array_equal(found[name], arrays[name]) for name in ("input", "target"))
            same = same and np.allclose(found["y"], arrays["y"], rtol=1e-4, atol=0)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return  # no result that could be lost
    if not same:
        raise _OfAnother


def _shares(result: Result, part: str) -> dict[str, Any]:
    """What each map shows of a part: the paper's the pixels' share, the complete one that of the placed terms too."""
    shares = result.shares[part]
    pixels, complete = shares.input_share.item(), shares.complete.sum().item()
    rest = {label: share.item() for label, share in shares.rest.items()}
    return {"pixels": pixels, "placed": complete - pixels, "rest": rest}


def _text(question: Question, target: int, result: Result, report: dict[str, Any]) -> str:
    """What `dmbp explain` prints of one target."""
    name = named(report["label"], target)
    made = f"{_iterations(result)} in {report['seconds']:.1f} s"
    files = "\n".join(f"{name}: {report[name]}" for name in ("figure", "map", "page", "arrays") if name in report)
    return f"{name}, {report['model']} at {question.name}: {made}\n\n{result.summary()}\n{files}\n"


def _iterations(result: Result) -> str:
    return counted(result.iterations, "iteration")


def _stem(question: Question, target: int) -> str:
    """The files' name: picture and network without folders and endings, the first of the class's names, its id."""
    files = [re.split(r"[/\\]", name)[-1] for name in (question.name, question.model.name)]
    label = slug(question.model.label(target).partition(",")[0])
    number = "" if label.split("-")[-1] == str(target) else str(target)
    parts = [*(slug(re.sub(r"\.(py\b|\w{3,4}$)", "", file)) for file in files), label, number]
    return "-".join(part for part in parts if part)
