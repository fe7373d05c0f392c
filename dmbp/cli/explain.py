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
from dmbp.cli.question import Question, ask
from dmbp.cli.where import Class
from dmbp.errors import DmbpError
from dmbp.explanation import explain
from dmbp.files import check_writable, save_figure, slug, writable
from dmbp.result import Result, write_arrays
from linreg import OperatorGraph
from linreg.text import counted

FILES = ("figure", "map", "arrays")  # words of a report that name files


def run(options: argparse.Namespace) -> None:
    """`dmbp explain`: one figure and one file of arrays for each target."""
    check_writable(options.out)
    question = ask(options)
    if options.map and not _pictures(question.graph):
        raise DmbpError(f"--map draws a picture's map, and the network takes none: {question.graph}")
    reports: list[dict[str, Any]] = []
    for target in question.targets:
        result = explain(
            question.graph, question.x, question.target(target), iterations=options.iterations, loss=options.loss,
            sites=options.sites, unmasked=options.unmasked,
        )  # fmt: skip
        reports.append(_report(question, target, result, options.out, options.map))
        if not options.json:
            print(_text(question, target, result, reports[-1]), flush=True)
        if result.interrupted:
            break
    if options.json:
        print(as_json(reports[0] if len(question.targets) == 1 else reports))
    if result.interrupted:
        rest = ", ".join(question.named(t) for t in question.targets[len(reports) :])
        left = f"; not begun: {rest}" if rest else ""
        print(f"dmbp: interrupted after {_iterations(result)}; kept what was reached{left}", file=sys.stderr)
        raise SystemExit(130)


def _report(question: Question, target: Class, result: Result, folder: Path, alone: str | None) -> dict[str, Any]:
    """Write figure and arrays of one target, and the map that is wanted alone; the object that --json prints."""
    model = question.model
    stem = _stem(question, target)
    title = f"{question.named(target)}, {model.name}"
    figure = result.plot(picture=question.picture, names=question.labels, title=title)
    arrays = save_apart(result, writable(folder), stem)
    stem = arrays.stem
    picture = save_figure(figure, folder / f"{stem}.png")
    maps = _maps(question, result, folder / stem, alone) if alone else {}
    checks = result.checks
    return {
        "model": model.name, "image": question.name, "target": target,
        "label": question.label(target), "where": question.where.words.strip(),
        **{name: score.item() for name, score in result.scores.items()},
        "completeness_error": checks.completeness_error.item(), "split_error": checks.split_error.item(),
        "iterations": result.iterations, "seconds": round(result.seconds, 3), "interrupted": result.interrupted,
        "shares": {part: _shares(result, part) for part in LINES},
        "figure": str(picture), "arrays": str(arrays), **maps,
    }  # fmt: skip


def _pictures(graph: OperatorGraph) -> list[str]:
    """The inputs that are pictures."""
    return [entry.name for entry in graph.inputs.data if len(entry.shape) == 3]


def _maps(question: Question, result: Result, stem: Path, alone: str) -> dict[str, str]:
    """Write the map of each picture alone; where they are."""
    from dmbp.plot import draw_map, pixel_map

    found: dict[str, str] = {}
    values = result.complete if alone == "complete" else result.attribution
    for name in _pictures(question.graph):
        own = values[name] if isinstance(values, Mapping) else values
        drawn = own if alone == "complete" else pixel_map(own)
        several = isinstance(values, Mapping)
        path = stem.with_name(f"{stem.name}{f'-{slug(name)}' * several}-{alone}.png")
        found[f"map of {name}" if several else "map"] = str(save_figure(draw_map(drawn[0]), path))
    return found


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
            asked = [name for name in arrays if name.partition("/")[0] in ("input", "fixed", "target")]
            same = all(np.array_equal(found[name], arrays[name]) for name in asked)
            same = same and np.allclose(found["y"], arrays["y"], rtol=1e-4, atol=0)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return  # no result that could be lost
    if not same:
        raise _OfAnother


def _shares(result: Result, part: str) -> dict[str, Any]:
    """What each map shows of a part: the paper's the pixels' share, the complete one that of the placed terms too."""
    shares = result.shares[part]
    maps = shares.complete.values() if isinstance(shares.complete, Mapping) else [shares.complete]
    pixels, complete = shares.input_share.item(), sum(each.sum().item() for each in maps)
    rest = {label: share.item() for label, share in shares.rest.items()}
    return {"pixels": pixels, "placed": complete - pixels, "rest": rest}


def _text(question: Question, target: Class, result: Result, report: dict[str, Any]) -> str:
    """What `dmbp explain` prints of one target."""
    name = question.named(target)
    made = f"{_iterations(result)} in {report['seconds']:.1f} s"
    files = "\n".join(f"{name}: {report[name]}" for name in report if name.split()[0] in FILES)
    return f"{name}, {report['model']} at {question.name}: {made}\n\n{result.summary()}\n{files}\n"


def _iterations(result: Result) -> str:
    return counted(result.iterations, "iteration")


def _stem(question: Question, target: Class) -> str:
    """The files' name: picture and network without folders and endings, the class's first name and id, and where."""
    files = [re.split(r"[/\\]", name)[-1] for name in (question.name, question.model.name)]
    label = slug(question.label(target).partition(",")[0])
    number = "" if target is None or label.split("-")[-1] == str(target) else str(target)
    place = slug(question.where.words)
    parts = [*(slug(re.sub(r"\.(py\b|\w{3,4}$)", "", file)) for file in files), label, number, place]
    return "-".join(part for part in parts if part)
