"""`dmbp evaluate`: networks × methods × metrics over a data set, and the paper's tables of what they come to."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from dmbp.cli.question import device_of
from dmbp.datasets import Choice, load_data
from dmbp.errors import DmbpError
from dmbp.evaluation.blurred_maps import Blurred
from dmbp.evaluation.measures import Judged, metrics_of
from dmbp.evaluation.methods import parse
from dmbp.evaluation.outcome import told, write_differences, write_sheets, write_tables
from dmbp.evaluation.plan import Plan, Subject
from dmbp.evaluation.processes import Ranks, joined, own_device
from dmbp.evaluation.published import column
from dmbp.evaluation.rendering import as_json, as_text
from dmbp.evaluation.run import evaluate, found_so_far
from dmbp.evaluation.tables import tables
from dmbp.files import check_writable
from dmbp.models import check_spec, load_model


def run(options: argparse.Namespace) -> None:
    """`dmbp evaluate`: what is not in the folder yet is computed, and all of it is put into tables."""
    check_writable(options.out)
    with joined() as ranks:
        try:
            _run(options, ranks)
        except KeyboardInterrupt:
            print(
                "dmbp: interrupted; finished results are kept, and the same command goes on from there", file=sys.stderr
            )
            raise SystemExit(130) from None


def _run(options: argparse.Namespace, ranks: Ranks) -> None:
    methods = _methods(options)
    metrics = metrics_of(options.metrics, options.step)
    titles = [column(method.name) for method in methods]
    reference = _reference(options.reference, methods)
    settings = {"seed": options.seed, "split": options.split, "difficult": options.difficult}
    plan = Plan(_subjects(options), methods, metrics, settings, options.sheet, options.batch)
    evaluation = found_so_far(plan, options.out) if options.tables else evaluate(plan, options.out, ranks)
    if evaluation is None:  # rank 0 tells of all
        return
    made = tables(evaluation.study, reference)
    paths = write_tables(made, options.out) + write_differences(made, options.out)
    paths += write_sheets(plan, titles, options.out)
    print(as_json(made) if options.json else as_text(made), end="")
    report = sys.stderr if options.json else sys.stdout
    print("", *told(plan, evaluation), f"written: {', '.join(map(str, paths))}", sep="\n", file=report)


def _methods(options: argparse.Namespace) -> tuple[Judged, ...]:
    """Those that are asked for, and each of them blurred to each width."""
    methods: list[Judged] = []
    for text in options.methods:
        sharp = parse(text)
        if not options.tables:
            sharp.check_installed()
        methods += [sharp, *(Blurred(sharp, sigma) for sigma in options.blur)]
    return tuple(methods)


def _reference(asked: str | None, methods: Sequence[Judged]) -> str | None:
    """The title of the method that differences are to, which is asked for as METHOD or as tables call it."""
    if not asked:
        return None
    titles = {words: column(method.name) for method in methods for words in (method.name, column(method.name))}
    found = titles.get(asked) or titles.get(parse(asked).name)
    if found is None:
        raise DmbpError(f"--reference {asked}: it must be one of the methods that are evaluated")
    return found


def _subjects(options: argparse.Namespace) -> tuple[Subject, ...]:
    """Each network on its device, with its pictures. All that can go wrong before the work starts goes wrong here."""
    specs, weights = options.model, [None if file == "-" else file for file in options.weights]
    if len(weights) not in (0, len(specs)):
        raise DmbpError(
            f"--weights: expected one for each of {len(specs)} models, or - for a model's own, got {len(weights)}"
        )
    for spec in specs:
        check_spec(spec)
    device = device_of(own_device(options.device))
    choice = Choice(options.count, options.per_class, options.seed)
    subjects = []
    for spec, file in zip(specs, weights or [None] * len(specs), strict=True):
        with redirect_stdout(sys.stderr):  # what a user's own code prints is no part of the answer
            model = load_model(spec, file)
            model.network.to(device)
        pictures = load_data(options.data, model.labels, choice, split=options.split, difficult=options.difficult)
        subjects.append(Subject(model, pictures))
    return tuple(subjects)
