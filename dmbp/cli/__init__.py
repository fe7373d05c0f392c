"""The command line: `dmbp explain`, `dmbp inspect` and `dmbp bench`."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dmbp.bench import PARTS as MEASURES
from dmbp.bench import Settings, bench
from dmbp.bench.growth import draw_growth
from dmbp.bench.subject import read_subject
from dmbp.datasets import sample_pairs
from dmbp.errors import DmbpError
from dmbp.explanation import explain
from dmbp.images import read_image
from dmbp.learning.objective import LOSSES
from dmbp.masks import SITES
from dmbp.models.digit_networks import NETWORKS
from dmbp.models.load import Model, check_spec, load_model
from dmbp.result import Result
from dmbp.split import UNMASKED
from linreg import LinregError, OperatorGraph, trace
from linreg.text import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAIR = "digit-pair"
DPI = 200  # two pixels for each of a picture of 224×224
PARTS = {"positive": "y⁺", "negative": "y⁻", "nuisance": "y~", "unmasked": "  u, in {}: what no mask touches"}
HOLDS_UNMASKED = {"nuisance": "y~", "both": "y⁺ and in y⁻"}


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
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for terminals that have no ⁺
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        print(end="", flush=True)  # now: at exit it would be too late to say what went wrong
    except LinregError as error:
        print(f"dmbp: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("dmbp: interrupted before the end", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # `| head` has read enough
        _discard_stdout()
        raise SystemExit(141) from None
    except OSError as error:
        _discard_stdout()
        print(f"dmbp: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _discard_stdout() -> None:
    """What could not be printed would fail once more when Python flushes at exit."""
    with suppress(OSError):  # of a standard output that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dmbp", description="Split a network's score exactly: y = y⁺ + y⁻ + y~.")
    commands = parser.add_subparsers(required=True, metavar="explain | inspect | bench")
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
    command = commands.add_parser("bench", help=BENCH, description=BENCH)
    command.set_defaults(run=run_bench)
    command.add_argument("--model", default="digit-pairs", help=BENCH_MODEL)
    command.add_argument("--weights", metavar="FILE", help="weights to read instead: .safetensors, .npz, .pt, .pth")
    command.add_argument("--batch", type=_positive, nargs="+", default=[1, 4], metavar="N", help="default: 1 4")
    command.add_argument("--iterations", type=_positive, default=5, help="timed at a stretch (default: 5)")
    command.add_argument("--rounds", type=_positive, default=5, help="of which medians are taken (default: 5)")
    command.add_argument("--threads", type=_positive, help="of the CPU (default: torch's own choice)")
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    command.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")
    parts = f"any of {', '.join(MEASURES)} (default: all)"
    command.add_argument("--only", choices=tuple(MEASURES), nargs="+", default=[], metavar="PART", help=parts)
    command.add_argument("--out", type=Path, default=Path("dmbp-out"), metavar="DIR", help="default: dmbp-out")
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


EXPLAIN = "explain an image: prints the split, writes a figure (.png) and all arrays (.npz)"
INSPECT = "print a network's operators at an image, the ledger of a score, and its certificate"
IMAGE = "image file, skimage:NAME (a photo of scikit-image), or digit-pair:0 to digit-pair:7 (shipped; default: 0)"
MODEL = (
    "digit-pairs, digit-pairs-vgg, efficientnet-lite0, torchvision:NAME or path.py:factory "
    "(default: digit-pairs for a digit pair, efficientnet-lite0 for any other image)"
)

BENCH = "measure what an iteration costs here, beside plain PyTorch, the literal algorithm and other methods"
BENCH_MODEL = (
    "digit-pairs (default), digit-pairs-vgg, efficientnet-lite0, path.py:factory, "
    "or torchvision:NAME, with random weights unless --weights gives some"
)


def run_explain(options: argparse.Namespace) -> None:
    """`dmbp explain`: one figure and one file of arrays for each target."""
    _check_writable(options.out)
    question = _question(options)
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
        rest = ", ".join(_named(question.model.label(t), t) for t in question.targets[len(reports) :])
        left = f"; not begun: {rest}" if rest else ""
        print(f"dmbp: interrupted after {_iterations(result)}; kept what was reached{left}", file=sys.stderr)
        raise SystemExit(130)


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
        print(json.dumps(summary, indent=2))


def run_bench(options: argparse.Namespace) -> None:
    """`dmbp bench`: the measurements of a network, and a picture of how they grow."""
    _check_writable(options.out)
    settings = Settings(tuple(options.batch), options.iterations, options.rounds, tuple(options.only))
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads or threads)
    try:
        with redirect_stdout(sys.stderr):
            device, dtype = _device(options.device), getattr(torch, options.dtype)
            measured, note = read_subject(options.model, options.weights, device, dtype)
            report = bench(measured, settings, note)
    finally:
        torch.set_num_threads(threads)
    if report.growth:
        _make(options.out)
        stem = _slug(re.sub(r"\.py\b", "", re.split(r"[/\\]", measured.name)[-1]))
        figure = draw_growth(report.growth, f"how the cost of DMBP grows: {report.title}")
        report.figure = str(_save(figure, options.out / f"growth-{stem}.png"))
    print(json.dumps(report.as_dict(), indent=2) if options.json else report.text())
    if report.interrupted:
        print("dmbp: interrupted; kept what was measured so far", file=sys.stderr)
        raise SystemExit(130)


def _question(options: argparse.Namespace) -> Question:
    """Everything that can go wrong before the work starts goes wrong here."""
    device = _device(options.device)
    check_spec(options.model or "digit-pairs")
    knows_digits = options.model in (None, *NETWORKS)
    if options.image is None and not knows_digits:
        raise DmbpError(f"--model {options.model} needs an IMAGE to explain")
    image = options.image or f"{PAIR}:0"
    pair = re.fullmatch(f"{PAIR}:(.*)", image)
    pixels, digits = _digit_pair(pair[1]) if pair else (read_image(image), ())
    with redirect_stdout(sys.stderr):  # what a user's own code prints is no part of the answer
        model = load_model(options.model or ("digit-pairs" if pair else "efficientnet-lite0"), options.weights)
        network = model.network.to(device)
        x = model.preprocess.tensor(pixels).to(next(network.parameters(), torch.empty(0, device=device)))
        top = int(model.scores(x).argmax())
        asked = tuple(dict.fromkeys(model.index(target) for target in options.target or ()))
    with _quietly():
        graph = trace(network, x)
    return Question(model, graph, x, asked or (digits if knows_digits else ()) or (top,), image)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch.export prints and logs on its way to an error, which then says all that is needed."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


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
        torch.zeros(1, device=device).item()  # "meta" has no numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = re.split(r"\n|\. ", str(error).strip())[0]
        raise DmbpError(
            f"--device {name}: this machine or this build of torch has no such device ({reason})"
        ) from error
    return device


def _report(question: Question, target: int, result: Result, folder: Path) -> dict[str, Any]:
    """Write figure and arrays of one target; the object that --json prints."""
    model, split = question.model, result.split
    label = model.label(target)
    stem = _stem(question, target)
    title = f"{_named(label, target)}, {model.name}"
    figure = result.plot(picture=model.preprocess.picture(question.x), title=title)
    _make(folder)
    arrays = result.save(folder / f"{stem}.npz")
    picture = _save(figure, folder / f"{stem}.png")
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
        f"{_named(report['label'], target)}, {report['model']} at {question.name}: "
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


def _named(label: str, target: int) -> str:
    """A class with its id, where the name does not tell it already."""
    return label if str(target) in label.split() else f"{label} ({target})"


def _iterations(result: Result) -> str:
    return f"{result.iterations} iteration{'s' if result.iterations != 1 else ''}"


def _stem(question: Question, target: int) -> str:
    """The files' name: picture and network without folders and endings, the first of the class's names, its id."""
    files = [re.split(r"[/\\]", name)[-1] for name in (question.name, question.model.name)]
    label = _slug(question.model.label(target).partition(",")[0])
    number = "" if label.split("-")[-1] == str(target) else str(target)
    parts = [*(_slug(re.sub(r"\.(py\b|\w{3,4}$)", "", file)) for file in files), label, number]
    return "-".join(part for part in parts if part)


def _slug(text: str) -> str:
    """A part of a file name, without odd characters and not too long."""
    return re.sub(r"[^\w+-]+", "-", text).strip("-")[:60]


def _check_writable(folder: Path) -> None:
    """Fail now rather than after minutes of work; make nothing yet."""
    try:
        with tempfile.TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists())):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> DmbpError:
    return DmbpError(f"--out {folder}: cannot write there: {error.strerror or error}")


def _save(figure: Figure, path: Path) -> Path:
    """Write the figure, whole or not at all, and return its path."""
    partial = path.with_name(f"{path.stem}.partial.png")
    try:
        figure.savefig(partial, dpi=DPI)
        return partial.replace(path)
    except OSError as error:
        raise DmbpError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, not {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text!r}")
    return int(text)
