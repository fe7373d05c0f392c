"""`dmbp compare`: maps of one picture by several methods side by side, with their insertion areas."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from dmbp.cli.aim import Aim
from dmbp.cli.explain import save_apart
from dmbp.cli.json_text import as_json
from dmbp.cli.question import Question, ask
from dmbp.cli.where import Classes
from dmbp.cli.written import formats_of, written
from dmbp.comparison import METHODS, Comparison, compare
from dmbp.errors import DmbpError
from dmbp.files import check_writable, whole, writable
from linreg.text import wrapped

ONE_PICTURE = (
    "dmbp compare is for one picture and a network that gives scores of classes; dmbp.compare takes maps of your own, "
    "and dmbp explain other inputs and outputs"
)


def run(options: argparse.Namespace) -> None:
    """`dmbp compare`: a figure, the maps, and what there is to say of them."""
    from dmbp.evaluation.captured import keep
    from dmbp.evaluation.methods import parse

    check_writable(options.out)
    formats = formats_of(options.format)
    methods = [parse(text) for text in methods_of(options.methods)]
    question = ask(options, locate=_classes)
    _check(question)
    model, targets = question.model, [k for k in question.targets if k is not None]
    network = model.network.eval()
    keep(network, question.graph)
    found = compare(
        network, question.x, targets, methods, labels=model.label, probability=model.probability, step=options.step
    )
    stem = f"{Aim(question, targets[0]).stem}-comparison"
    arrays = save_apart(found.arrays(), writable(options.out), stem)
    figure = found.plot(
        picture=question.picture,
        title=f"{Path(question.name).name}, {model.name}",
        columns=options.columns,
        over=options.over,
    )
    report = {"model": model.name, "image": question.name, **found.record()}
    report |= {"figures": written(figure, arrays.with_suffix(""), formats), "arrays": str(arrays)}
    with whole(arrays.with_suffix(".json")) as path:
        path.write_text(as_json(report), encoding="utf-8")
    if options.json:
        print(as_json(report))
        return
    files = [*(f"figure: {path}" for path in report["figures"]), f"numbers: {arrays.with_suffix('.json')}"]
    print(f"{model.name} at {question.name}\n\n{found.summary()}\n")
    print("\n".join([*_verdicts(found), *files, f"maps: {arrays}"]))


def methods_of(texts: Sequence[str]) -> list[str]:
    """The methods' names: "dmbp,ig:steps=20,rule=riemann,nd" is three, as what begins with an option goes on."""
    found: list[str] = []
    for text in texts or METHODS:
        for piece in text.split(","):
            if re.match(r"\s*\w+\s*=", piece) and found:
                found[-1] += f",{piece}"
            elif piece.strip():
                found.append(piece.strip())
    return found


def _check(question: Question) -> None:
    """Raise DmbpError unless it is a picture that is asked about."""
    if not isinstance(question.x, Tensor) or question.x.dim() != 4:
        raise DmbpError(ONE_PICTURE)


def _classes(options: argparse.Namespace, output: Tensor) -> Classes:
    """Raise DmbpError unless it is classes that are asked about, (1, classes)."""
    if output.dim() != 2:
        raise DmbpError(ONE_PICTURE)
    return Classes()


def _verdicts(found: Comparison) -> list[str]:
    """DMBP's own verdicts, each once: maps of one explanation share theirs."""
    said = [
        f"verdict, {label}: {verdict.level}: {verdict.words}"
        for row in found.rows
        for label, verdict in zip(found.labels, row.verdicts, strict=False)
    ]
    return [wrapped(line) for line in dict.fromkeys(said)]
