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
from linreg.text import table

PARTS = {"positive": "y⁺", "negative": "y⁻", "nuisance": "y~", "unmasked": "  u, in {}: what no mask touches"}
HOLDS_UNMASKED = {"nuisance": "y~", "both": "y⁺ and in y⁻"}


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
    model, split = question.model, result.split
    label = model.label(target)
    stem = _stem(question, target)
    title = f"{named(label, target)}, {model.name}"
    figure = result.plot(picture=model.preprocess.picture(question.x), title=title)
    writable(folder)
    arrays = result.save(folder / f"{stem}.npz")
    picture = save_figure(figure, folder / f"{stem}.png")
    certificate = split.lin.certificate(target)
    scores = {name: getattr(split, name).item() for name in ("y", "positive", "negative", "nuisance", "unmasked")}
    return {
        "model": model.name, "image": question.name, "target": target, "label": label, **scores,
        "completeness_error": certificate.completeness_error.item(), "split_error": split.error.item(),
        "iterations": result.iterations, "seconds": round(result.seconds, 3), "interrupted": result.interrupted,
        "figure": str(picture), "arrays": str(arrays),
    }  # fmt: skip


def _text(question: Question, target: int, result: Result, report: dict[str, Any]) -> str:
    """What `dmbp explain` prints of one target."""
    split = result.split
    whole = split.lin.ledger(target)
    parts = {part: name.format(HOLDS_UNMASKED[split.counting]) for part, name in PARTS.items()}
    ledgers = {"y": whole} | {name: split.ledger(part) for part, name in parts.items()}
    values = {"y": split.y} | {name: getattr(split, part) for part, name in parts.items()}
    digits = 2 if max(value.abs().item() for value in values.values()) >= 1000 else 4  # the same, so that they add up
    rows = [
        (name, *(f"{v.item():+.{digits}f}" for v in (values[name], ledger.input_share, ledger.bias_share)))
        for name, ledger in ledgers.items()
    ]
    lines = [
        f"{named(report['label'], target)}, {report['model']} at {question.name}: "
        f"{_iterations(result)} in {report['seconds']:.1f} s",
        "",
        table(rows, ("", "score", "from the input", "from bias terms"), right=(1, 2, 3)),
        "",
        f"certificate: {split.lin.certificate(target).summary()}",
        f"split: y⁺ + y⁻ + y~ = y to {report['split_error']:.1e}, with y~ from its own recurrence; "
        f"{report['split_error'] / (split.positive.abs() + split.negative.abs() + split.y.abs()).item():.1e} "
        "of |y⁺| + |y⁻| + |y|",
        f"figure: {report['figure']}",
        f"arrays: {report['arrays']}",
        "",
    ]
    return "\n".join(lines)


def _iterations(result: Result) -> str:
    return f"{result.iterations} iteration{'s' if result.iterations != 1 else ''}"


def _stem(question: Question, target: int) -> str:
    """The files' name: picture and network without folders and endings, the first of the class's names, its id."""
    files = [re.split(r"[/\\]", name)[-1] for name in (question.name, question.model.name)]
    label = slug(question.model.label(target).partition(",")[0])
    number = "" if label.split("-")[-1] == str(target) else str(target)
    parts = [*(slug(re.sub(r"\.(py\b|\w{3,4}$)", "", file)) for file in files), label, number]
    return "-".join(part for part in parts if part)
