"""`dmbp inspect`: a network's operators at an input, the ledger of a score, its certificate, and its region."""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor

from dmbp.cli.json_text import as_json
from dmbp.cli.question import Question, another, ask, said_as_options
from dmbp.errors import DmbpError
from dmbp.files import check_writable, slug


def run(options: argparse.Namespace) -> None:
    """`dmbp inspect`: the graph's summary, the ledger of each target and its certificate; the region if asked for."""
    if (options.to or options.out) and not options.regions:
        raise DmbpError("--to and --out say more of a region: give --regions too")
    if options.out is not None:
        check_writable(options.out)
    with said_as_options():
        question = ask(options)
    if options.regions and not isinstance(question.x, Tensor):
        raise DmbpError("--regions is for networks of one input: in Python, linreg.regions takes several in a row")
    to = another(question, options.to, options) if options.to else None
    lin = question.graph.linearize(question.x)
    summary: dict[str, Any] = {"model": question.model.name, "nodes": [], "targets": []}
    for name, kind, shape, inputs in question.graph.rows():
        node = {"node": name, "operator": kind, "shape": shape, "inputs": inputs, "open": lin.open_fraction(name)}
        summary["nodes"].append(node)
    if not options.json:
        print(f"{question.model.name} at {question.name}\n\n{lin.summary()}")
    for target in question.targets:
        weights, label = question.target(target), question.label(target)
        ledger, certificate = lin.ledger(weights), lin.certificate(weights)
        if not options.json:
            print(f"\nledger of {question.named(target)}\n\n{ledger.summary()}\n\ncertificate: {certificate.summary()}")
        summary["targets"].append(
            {
                "target": target, "label": label, "y": certificate.score.item(), "ledger": ledger.to_dict(),
                "completeness_error": certificate.completeness_error.item(),
            }
        )  # fmt: skip
    if options.regions:
        summary["regions"] = _regions(question, options, to)
    if options.json:
        print(as_json(summary))


def _regions(question: Question, options: argparse.Namespace, to: Tensor | None) -> dict[str, Any]:
    """What `--regions` adds: printed as text, or given for `--json`."""
    from dmbp.cli.region_report import region_report, save

    report = region_report(question, to, options.output)
    files: dict[str, str] = {}
    if options.out is not None:
        files = save(report, options.out, f"{slug(question.name)}-{slug(question.model.name)}")
    if not options.json:
        print("\n".join(["", report.words, *(f"{what}: {path}" for what, path in files.items())]))
    return report.told | files
