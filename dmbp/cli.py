"""The command line: `dmbp explain` and `dmbp inspect`."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmbp.datasets import sample_pairs
from dmbp.decompose import UNMASKED
from dmbp.errors import DmbpError
from dmbp.explain import Result, explain
from dmbp.images import read_image
from dmbp.masks import SITES
from dmbp.models import Model, load_model
from dmbp.networks import NETWORKS
from dmbp.optimize import LOSSES
from linreg import LinregError, OperatorGraph, trace
from linreg.summary import table

PAIR = "digit-pair"
PARTS = {"positive": "y⁺", "negative": "y⁻", "nuisance": "y~", "unmasked": "  u, in y~: what no mask touches"}


@dataclass(frozen=True, eq=False)
class Question:
    """What is to be explained: one input of a traced network, and which of its scores."""

    model: Model
    graph: OperatorGraph
    x: Tensor
    targets: tuple[int, ...]
    name: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Whatever cannot be done is one message on standard error and exit status 2."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except LinregError as error:
        print(f"dmbp: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("dmbp: interrupted; nothing was written", file=sys.stderr)
        raise SystemExit(130) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dmbp", description="Split a network's score exactly: y = y⁺ + y⁻ + y~.")
    commands = parser.add_subparsers(required=True, metavar="explain | inspect")
    for name, run, about in (("explain", run_explain, EXPLAIN), ("inspect", run_inspect, INSPECT)):
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(run=run)
        command.add_argument("image", nargs="?", metavar="IMAGE", help=IMAGE)
        command.add_argument("--model", help=MODEL)
        command.add_argument("--weights", metavar="FILE", help="weights to read instead: .safetensors, .npz, .pt, .pth")
        command.add_argument("--target", action="append", metavar="ID|NAME", help="class to explain; may be repeated")
        command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
        command.add_argument("--json", action="store_true", help="print JSON instead of text")
        if run is run_explain:
            command.add_argument("--iterations", type=_count, default=200, help="default: 200")
            command.add_argument("--loss", choices=(*LOSSES, "none"), default="all", help="default: all (Eq. 10)")
            command.add_argument("--sites", choices=tuple(SITES), default="gates", help="default: gates (Eq. 16)")
            command.add_argument("--unmasked", choices=UNMASKED, default="nuisance", help="default: nuisance")
            command.add_argument("--out", type=Path, default=Path("dmbp-out"), metavar="DIR", help="default: dmbp-out")
    return parser


EXPLAIN = "explain an image: prints the split, writes a figure (.png) and all arrays (.npz)"
INSPECT = "print a network's operators at an image, the ledger of a score, and its certificate"
IMAGE = "image file, skimage:NAME (a photo of scikit-image), or digit-pair:0 to digit-pair:7 (shipped; default: 0)"
MODEL = (
    "digit-pairs, digit-pairs-vgg, efficientnet-lite0, torchvision:NAME or path.py:factory "
    "(default: digit-pairs for a digit pair, efficientnet-lite0 for any other image)"
)


def run_explain(options: argparse.Namespace) -> None:
    """`dmbp explain`: one figure and one file of arrays for each target."""
    _check_writable(options.out)
    question = _question(options)
    reports = []
    for target in question.targets:
        result = explain(
            question.graph, question.x, target, iterations=options.iterations, loss=options.loss,
            sites=options.sites, unmasked=options.unmasked,
        )  # fmt: skip
        reports.append(_report(question, target, result, options.out))
        if not options.json:
            print(_text(question, target, result, reports[-1]), flush=True)
        if result.interrupted:
            print(f"dmbp: interrupted after {result.iterations} iterations; kept what was reached", file=sys.stderr)
            break
    if options.json:
        print(json.dumps(reports[0] if len(question.targets) == 1 else reports, ensure_ascii=False, indent=2))


def run_inspect(options: argparse.Namespace) -> None:
    """`dmbp inspect`: the graph's summary, the ledger of each target and its certificate."""
    question = _question(options)
    lin = question.graph.linearize(question.x)
    summary: dict[str, Any] = {"model": question.model.name, "nodes": [], "targets": []}
    for name, kind, shape, inputs in question.graph.rows():
        node = {"node": name, "operator": kind, "shape": shape, "inputs": inputs, "open": lin.open_fraction(name)}
        summary["nodes"].append(node)
    if not options.json:
        print(f"{question.model.name} at {question.name}\n\n{lin.summary()}")
    for target in question.targets:
        ledger, certificate = lin.ledger(target), lin.certificate(target)
        label = question.model.label(target)
        if not options.json:
            print(f"\nledger of {_named(label, target)}\n\n{ledger.summary()}\n\ncertificate: {certificate.summary()}")
        terms = [{"term": term, "kind": kind, "share": share} for term, kind, share in ledger.rows()]
        summary["targets"].append(
            {
                "target": target, "label": label, "y": certificate.score.item(), "ledger": terms,
                "completeness_error": certificate.completeness_error.item(),
            }
        )  # fmt: skip
    if options.json:
        print(json.dumps(summary, ensure_ascii=False, indent=2))


def _question(options: argparse.Namespace) -> Question:
    """Everything that can go wrong before the work starts goes wrong here."""
    device = _device(options.device)
    knows_digits = options.model in (None, *NETWORKS)
    if options.image is None and not knows_digits:
        raise DmbpError(f"--model {options.model} needs an IMAGE to explain")
    image = options.image or f"{PAIR}:0"
    pair = re.fullmatch(f"{PAIR}:(.*)", image)
    model = load_model(options.model or ("digit-pairs" if pair else "efficientnet-lite0"), options.weights)
    pixels, digits = _digit_pair(pair[1]) if pair else (read_image(image), ())
    x = model.preprocess.tensor(pixels).to(device)
    graph = trace(model.network.to(device), x)
    scores = graph(x)
    if scores.dim() != 2:
        raise DmbpError(f"{model.name}: expected scores of shape (N, classes), got {tuple(scores.shape)}")
    asked = tuple(model.index(target) for target in options.target or ())
    return Question(model, graph, x, asked or (digits if knows_digits else ()) or (int(scores.argmax()),), image)


def _digit_pair(number: str) -> tuple[Any, tuple[int, ...]]:
    """One of the shipped pictures as (H, W, 3), and its two digits."""
    pairs = sample_pairs()
    if number not in map(str, range(len(pairs.images))):
        raise DmbpError(f"there is no {PAIR}:{number}; expected {PAIR}:0 to {PAIR}:{len(pairs.images) - 1}")
    picture = pairs.images[int(number), 0]
    return picture[..., None].expand(-1, -1, 3).numpy(), tuple(pairs.labels[int(number)].tolist())


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DmbpError(
            f"--device {name}: this machine or this build of torch has no such device ({reason})"
        ) from error
    return device


def _report(question: Question, target: int, result: Result, folder: Path) -> dict[str, Any]:
    """Write figure and arrays of one target; the object that --json prints."""
    model, split = question.model, result.split
    label = model.label(target)
    stem = "-".join(_slug(part) for part in (question.name, model.name, label))
    title = f"{_named(label, target)}, {model.name}"
    figure = result.plot(picture=model.preprocess.picture(question.x), title=title)
    arrays = result.save(folder / f"{stem}.npz")
    picture, partial = folder / f"{stem}.png", folder / f"{stem}.partial.png"
    figure.savefig(partial, dpi=110)
    partial.replace(picture)
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
    ledgers = {"y": whole} | {name: split.ledger(part) for part, name in PARTS.items()}
    values = {"y": split.y} | {name: getattr(split, part) for part, name in PARTS.items()}
    rows = [
        (name, *(f"{v.item():+.5g}" for v in (values[name], ledger.input_share, ledger.bias_share)))
        for name, ledger in ledgers.items()
    ]
    lines = [
        f"{_named(report['label'], target)}, {report['model']} at {question.name}: "
        f"{report['iterations']} iterations in {report['seconds']:.1f} s",
        "",
        table(rows, ("", "score", "from the input", "from bias terms"), right=(1, 2, 3)),
        "",
        f"certificate: {split.lin.certificate(target).summary()}",
        f"split: y⁺ + y⁻ + y~ = y to {report['split_error']:.1e}",
        f"figure: {report['figure']}",
        f"arrays: {report['arrays']}",
        "",
    ]
    return "\n".join(lines)


def _named(label: str, target: int) -> str:
    """A class with its id, where the name does not tell it already."""
    return label if str(target) in label.split() else f"{label} ({target})"


def _slug(text: str) -> str:
    """A part of a file name: the first of a label's names, a path without folders and ending, no odd characters."""
    name = re.split(r"[/\\]", text.partition(",")[0])[-1]
    return re.sub(r"[^\w+-]+", "-", re.sub(r"\.(py\b|\w{3,4}$)", "", name)).strip("-")


def _check_writable(folder: Path) -> None:
    """Fail now rather than after minutes of work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DmbpError(f"--out {folder}: cannot write there: {error.strerror or error}") from error


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, not {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
