"""`dmbp explain`: the split of a score, a figure of it, and all arrays."""

from __future__ import annotations

import argparse
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
from dmbp.cli.aim import Aim, aims
from dmbp.cli.json_text import as_json
from dmbp.cli.question import said_as_options
from dmbp.cli.written import Wanted, formats_of, write_pictures
from dmbp.explanation import explain
from dmbp.files import check_writable, writable
from dmbp.learning.options import Options
from dmbp.result import Result, write_arrays
from dmbp.verdict import Verdict
from linreg.text import counted, wrapped


def run(options: argparse.Namespace) -> None:
    """`dmbp explain`: figures and one file of arrays for each input and target."""
    check_writable(options.out)
    wanted = Wanted(options.map, options.overlay, formats_of(options.format))
    learned = Options(
        iterations=options.iterations, loss=options.loss, sites=options.sites, unmasked=options.unmasked,
        agreement=options.agreement,
    )  # fmt: skip
    with said_as_options():
        asked = aims(options)
    wanted.check(asked)
    reports: list[dict[str, Any]] = []
    for aim in asked:
        result = explain(
            aim.question.graph, aim.question.x, aim.target, options=learned, snapshots=_on_the_way(options)
        )
        reports.append(_report(aim, result, options, wanted))
        if not options.json:
            print(_text(aim, result, reports[-1]), flush=True)
        if result.interrupted:
            break
    if options.json:
        print(as_json(reports[0] if len(asked) == 1 else reports))
    if result.interrupted:
        rest = ", ".join(aim.name for aim in asked[len(reports) :])
        left = f"; not begun: {rest}" if rest else ""
        print(f"dmbp: interrupted after {_iterations(result)}; kept what was reached{left}", file=sys.stderr)
        raise SystemExit(130)


def _on_the_way(options: argparse.Namespace) -> tuple[int, ...]:
    """The numbers of updates after which the explorer shows the map too; the first ones move it most."""
    shares = (0, 0.025, 0.1, 0.25, 0.5, 0.75, 1) if options.html else ()
    return tuple(sorted({round(share * options.iterations) for share in shares}))


def _page(aim: Aim, result: Result, verdict: Verdict, path: Path) -> str:
    """Write the explorer of one target."""
    question = aim.question
    asked = f"Why {aim.name}?\n{question.model.name} at {Path(question.name).name}"
    return str(result.to_html(path, picture=question.picture, title=asked, names=question.labels, verdict=verdict))


def _report(aim: Aim, result: Result, options: argparse.Namespace, wanted: Wanted) -> dict[str, Any]:
    """Write arrays and pictures of one target; the object that --json prints."""
    question, model, folder = aim.question, aim.question.model, options.out
    verdict = result.verdict(
        labels=model.label, probability=model.probability, check=options.check and not result.interrupted
    )
    arrays = save_apart(result.arrays(), writable(folder), aim.stem)
    files = write_pictures(aim, result, verdict, wanted, folder / arrays.stem)
    if options.html:
        files["page"] = [_page(aim, result, verdict, folder / f"{arrays.stem}.html")]
    checks = result.checks
    against = None if aim.against is None else {"target": aim.against, "label": question.label(aim.against)}
    return {
        "model": model.name, "image": question.name, "target": aim.index,
        "label": question.label(aim.index), "rather_than": against, "where": question.where.words.strip(),
        **{name: score.item() for name, score in result.scores.items()},
        "completeness_error": checks.completeness_error.item(), "bound": checks.completeness_bound.item(),
        "split_error": checks.split_error.item(), "doubt": verdict.rounding.doubtful,
        "iterations": result.iterations, "seconds": round(result.seconds, 3), "interrupted": result.interrupted,
        "shares": {part: _shares(result, part) for part in LINES},
        "verdict": verdict.record() | {"lines": verdict.lines()}, "files": files,
        **{kind: paths[0] for kind, paths in files.items()}, "arrays": str(arrays),
    }  # fmt: skip


def save_apart(arrays: Mapping[str, np.ndarray], folder: Path, stem: str) -> Path:
    """Save arrays as STEM.npz, in the place of one of the same question; beside another's, as STEM-2.npz, …

    Pictures of one name from two folders must not overwrite each other, whoever comes first.
    """
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


def _text(aim: Aim, result: Result, report: dict[str, Any]) -> str:
    """What `dmbp explain` prints of one target."""
    made = f"{_iterations(result)} in {report['seconds']:.1f} s"
    files = [f"{kind}: {path}" for kind, paths in report["files"].items() for path in paths]
    told = [*result.summary().splitlines(), "", *report["verdict"]["lines"]]
    lines = [*map(wrapped, told), *files, f"arrays: {report['arrays']}"]
    return f"{aim.name}, {report['model']} at {report['image']}: {made}\n\n" + "\n".join(lines) + "\n"


def _iterations(result: Result) -> str:
    return counted(result.iterations, "iteration")
