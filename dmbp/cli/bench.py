"""`dmbp bench`: what an iteration costs on this machine."""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch

from dmbp.bench import Settings, bench
from dmbp.bench.growth_picture import draw_growth
from dmbp.bench.subject import read_subject
from dmbp.cli.json_text import as_json
from dmbp.cli.question import device_of
from dmbp.files import check_writable, save_figure_apart, slug, writable


def run(options: argparse.Namespace) -> None:
    """`dmbp bench`: the measurements of a network, and a picture of how they grow."""
    check_writable(options.out)
    settings = Settings(tuple(options.batch), options.iterations, options.rounds, tuple(options.only))
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads or threads)
    try:
        with redirect_stdout(sys.stderr):
            device, dtype = device_of(options.device), getattr(torch, options.dtype)
            measured, note = read_subject(options.model, options.weights, device, dtype)
            report = bench(measured, settings, note)
    finally:
        torch.set_num_threads(threads)
    if report.growth:
        writable(options.out)
        stem = slug(re.sub(r"\.py\b", "", re.split(r"[/\\]", measured.name)[-1]))
        figure = draw_growth(report.growth, f"how the cost of DMBP grows: {report.title}")
        report.figure = str(save_figure_apart(figure, options.out, f"growth-{stem}", of=_subject(options)))
    print(as_json(report.as_dict()) if options.json else report.text())
    if report.interrupted:
        print("dmbp: interrupted; kept what was measured so far", file=sys.stderr)
        raise SystemExit(130)


def _subject(options: argparse.Namespace) -> str:
    """What is measured, and with which weights: two files of one name in two folders are two."""
    file = re.fullmatch(r"(.+\.py):\w+", options.model)
    place = Path(file[1]).resolve() if file else ""
    weights = Path(options.weights).resolve() if options.weights else ""
    return f"{options.model} {place} {weights}"
