"""All that the page shows of one image, as one value of names, numbers, lists and references to packed arrays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from dmbp.account import LINES, and_more
from dmbp.explorer.packing import Pack
from dmbp.explorer.site_channels import shown_of
from dmbp.explorer.strip import network
from dmbp.explorer.views import described, views
from dmbp.result import Result
from dmbp.split import Split
from dmbp.verdict import Verdict
from linreg import __version__
from linreg.target import sum_per_image

PAGE = 4_740_000  # characters of a page without its code: 5 MB less some air
OF_NODE, OF_CHANNEL = 260, 340  # characters of the numbers of one, about
LEAST = 400_000  # bytes of arrays, however many names there are
FOR_INPUTS = 0.7  # of the bytes of arrays; what is left of it, and the rest, is for the maps of channels


def gathered(
    result: Result,
    image: int,
    picture: np.ndarray | None,
    title: str,
    names: Sequence[str] | None,
    verdict: Verdict,
) -> tuple[dict[str, Any], Pack]:
    """The value, ready for JSON, and the arrays it refers to."""
    pack = Pack()
    value: dict[str, Any] = {"about": _about(result, image, title), **_numbers(result, image)}
    value["verdict"] = _told(verdict)
    value["ledger"] = _ledger(result, image)
    room = _room(result, len(json.dumps(value["ledger"], ensure_ascii=False)))
    value["history"] = {part: pack.add(steps[:, image].numpy(force=True)) for part, steps in result.history.items()}
    inputs = views(result)
    for view in inputs:
        here = picture if view is inputs[0] else None
        own = names if view is inputs[0] else None
        value.setdefault("inputs", []).append(
            described(view, result, image, pack, FOR_INPUTS * room / len(inputs), here, own)
        )
    value["network"] = network(result, image, pack, room - pack.size) if isinstance(result.account, Split) else None
    return plain(value), pack


def _room(result: Result, ledger: int) -> float:
    """How many bytes arrays and pictures may take: base64 makes four characters of three bytes."""
    text = ledger
    if isinstance(result.account, Split):
        sites = len(result.masks)
        channels = 2 * sites * (shown_of(sites) + 1)
        text += OF_NODE * len(result.split.lin.graph.nodes) + OF_CHANNEL * channels
    return max(LEAST, (PAGE - text) * 3 / 4)


def _about(result: Result, image: int, title: str) -> dict[str, Any]:
    """What was asked, and how the answer was made."""
    record = result.options.record()
    return {
        "title": title or "Why this score?",
        "image": image,
        "images": len(result.input),
        "loss": result.loss,
        "counting": result.counting,
        "iterations": result.iterations,
        "updates": int(result.updates[image]),
        "interrupted": result.interrupted,
        "seconds": result.seconds,
        "options": {name: str(option) for name, option in record.items()},
        "version": __version__,
        "more": and_more(result.account, 1).removeprefix("; "),
    }


def _numbers(result: Result, image: int) -> dict[str, Any]:
    """The split, where each part comes from, and how exactly it holds."""
    checks = result.checks
    return {
        "scores": {line: score[image].item() for line, score in result.scores.items()},
        "shares": {line: _shares(result, line, image) for line in LINES},
        "checks": {
            "completeness_error": checks.completeness_error[image].item(),
            "bound": checks.completeness_bound[image].item(),
            "split_error": checks.split_error[image].item(),
            "certificate": checks.certificate[image],
        },
    }


def _shares(result: Result, line: str, image: int) -> dict[str, Any]:
    """Of one part: what comes from the input, what from constants with a place, and what has none."""
    shares = result.shares[line]
    sums = {True: 0.0, False: 0.0}
    for label, share in zip(shares.labels, shares.terms[:, image].tolist(), strict=True):
        sums[label in shares.unplaced] += share
    return {"input": shares.input_share[image].item(), "placed": sums[False], "rest": sums[True]}


def _told(verdict: Verdict) -> dict[str, Any]:
    """What the explanation says of itself: its lines, and the values behind them."""
    return {"lines": list(verdict.lines()), **verdict.record()}


def _ledger(result: Result, image: int) -> list[dict[str, Any]]:
    """A row for each input and each constant: what it gives to y and to each part (Eqs. 13, 14)."""
    layout = result.account.layout
    rows = []
    own = {line: layout.by_name(result.shares[line].mapping * result.input) for line in LINES}
    for name in own["y"]:
        label = f"∇ · {name}" if layout.several else "∇ · x"
        shares = {line: sum_per_image(own[line][name])[image].item() for line in LINES}
        rows.append({"term": label, "kind": "input", "node": "input", "of": name, "placed": True, **shares})
    terms = result.split.ledger("y").terms if isinstance(result.account, Split) else ()
    whole = result.shares["y"]
    for place, label in enumerate(whole.labels):
        shares = {line: result.shares[line].terms[place, image].item() for line in LINES}
        kind, node = (terms[place].kind, terms[place].node) if terms else ("constant", "")
        rows.append({"term": label, "kind": kind, "node": node, "placed": label not in whole.unplaced, **shares})
    return rows


def plain(value: Any) -> Any:
    """A value for JSON, which knows no number that is not finite: null stands for it."""
    match value:
        case float():
            return value if isfinite(value) else None
        case dict():
            return {name: plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case _:
            return value
