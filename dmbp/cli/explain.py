"""`dmbp explain`: the split of a score, a figure of it, and all arrays."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from dmbp.cli.question import Question, ask, named
from dmbp.explanation import explain
from dmbp.files import check_writable, save_figure, slug, writable
from dmbp.result import Result
from linreg.text import counted


def run(options: argparse.Namespace) -> None:
    """`dmbp explain`: one figure and one file of arrays for each target."""
    check_writable(options.out)
    question = ask(options)
    reports: list[dict[str, Any]] = []
    for target in question.targets:
        result = explain(
            question.graph, question.x, target, iterations=options.iterations, loss=options.loss,
            sites=options.sites, unmasked=options.unmasked,
        )  # fmt: skip
        reports.append(_report(question, target, result, options.out))
        if not options.json:
            print(_text(question, target, result, reports[-1]), flush=True)
        if result.interrupted:
            break
    if options.json:
        print(json.dumps(reports[0] if len(question.targets) == 1 else reports, indent=2))
    if result.interrupted:
        rest = ", ".join(named(question.model.label(t), t) for t in question.targets[len(reports) :])
        left = f"; not begun: {rest}" if rest else ""
        print(f"dmbp: interrupted after {_iterations(result)}; kept what was reached{left}", file=sys.stderr)
        raise SystemExit(130)


def _report(question: Question, target: int, result: Result, folder: Path) -> dict[str, Any]:
    """Write figure and arrays of one target; the object that --json prints."""
    model = question.model
    label = model.label(target)
    stem = _stem(question, target)
    title = f"{named(label, target)}, {model.name}"
    figure = result.plot(picture=model.preprocess.picture(question.x), title=title)
    writable(folder)
    arrays = result.save(folder / f"{stem}.npz")
    picture = save_figure(figure, folder / f"{stem}.png")
    checks = result.checks
    return {
        "model": model.name, "image": question.name, "target": target, "label": label,
        **{name: score.item() for name, score in result.scores.items()},
        "completeness_error": checks.completeness_error.item(), "split_error": checks.split_error.item(),
        "iterations": result.iterations, "seconds": round(result.seconds, 3), "interrupted": result.interrupted,
        "figure": str(picture), "arrays": str(arrays),
    }  # fmt: skip


def _text(question: Question, target: int, result: Result, report: dict[str, Any]) -> str:
    """What `dmbp explain` prints of one target."""
    name = named(report["label"], target)
    made = f"{_iterations(result)} in {report['seconds']:.1f} s"
    files = f"figure: {report['figure']}\narrays: {report['arrays']}"
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
