"""`dmbp inspect`: a network's operators at a picture, the ledger of a score, and its certificate."""

from __future__ import annotations

import argparse
from typing import Any

from dmbp.cli.json_text import as_json
from dmbp.cli.question import ask


def run(options: argparse.Namespace) -> None:
    """`dmbp inspect`: the graph's summary, the ledger of each target and its certificate."""
    question = ask(options)
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
    if options.json:
        print(as_json(summary))
