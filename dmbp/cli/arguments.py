"""What can be said on the command line, and what each word is for."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmbp import __version__
from dmbp.bench import PARTS as MEASURES
from dmbp.cli.explain_words import comparison_words, learning_words, looking_words, rather_words
from dmbp.cli.input_words import WEIGHTS, input_words, network_words, target_words

EXPLAIN = "explain an input: prints the split, writes a figure (.png) and all arrays (.npz)"
COMPARE = "maps of one picture by several methods and for several classes, side by side, with their insertion areas"
INSPECT = "print a network's operators at an input, the ledger of a score, its certificate, and where its region ends"
EVALUATE = "judge maps: networks × methods × metrics over a data set, kept as they come; gives the paper's tables"
BENCH = "measure what an iteration costs here, beside plain PyTorch, the literal algorithm and other methods"

BENCH_MODEL = (
    "digit-pairs (default), digit-pairs-vgg, efficientnet-lite0, path.py:factory, "
    "or torchvision:NAME, with random weights unless --weights gives some"
)

REGIONS = "say how far the linear function at the input reaches: the nearest walls of its region, and whose they are"
TO = "with --regions: count the linear pieces on the straight line from INPUT to this one"
WALLS = "with --regions: write the nearest walls as a figure (.png) and as arrays (.npz) here"

MODELS = "digit-pairs, digit-pairs-vgg, efficientnet-lite0, torchvision:NAME, voc:NAME, path.py:factory; repeatable"
MORE_WEIGHTS = "weights to read instead: once for each model, in order; - for a model's own"
DATA = "digit-pairs, foolbox, imagenet:FOLDER, voc:FOLDER, folder:PATH, or photo-pairs:DATA, two pictures side by side"
METHODS = ("nd", "dmbp:loss=+", "dmbp:loss=+-", "dmbp", "random")
ASKED_METHODS = (
    f"names with options, such as ig:steps=100 (default: {' '.join(METHODS)}: the paper's Table 1, and chance)"
)
BLUR = "judge each method's maps blurred by so many pixels too: insertion rewards smoothness of any map"
ASKED_METRICS = (
    "any of insertion, cim, deletion, localization, randomization, cascade, with options such as "
    "cascade:order=bottom-up (default: insertion cim)"
)
BATCH = "pictures that go through a method together: faster on small networks; rounding differs (default: 1)"
STEP = "pixels that change at each step of a curve (default: the number of all / 224, rounded up)"
REFERENCE = "the method that all others are compared with (default: dmbp if it is one of them, else the first)"
FOLDER = "where results go as they come; the same command goes on with what it finds there"


def parser() -> argparse.ArgumentParser:
    """The parser; `command` of what it gives names the module of this package that runs."""
    whole = argparse.ArgumentParser(prog="dmbp", description="Split a network's score exactly: y = y⁺ + y⁻ + y~.")
    whole.add_argument("--version", action="version", version=f"dmbp {__version__}")
    commands = whole.add_subparsers(required=True, dest="command", metavar=" | ".join(COMMANDS))
    for name, (about, add) in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        add(command)
        command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
        command.add_argument("--json", action="store_true", help="print JSON instead of text")
    return whole


def _inspect(command: argparse.ArgumentParser) -> None:
    input_words(command)
    network_words(command)
    target_words(command)
    command.add_argument("--regions", action="store_true", help=REGIONS)
    command.add_argument("--to", metavar="INPUT", help=TO)
    command.add_argument("--out", type=Path, metavar="DIR", help=WALLS)


def _explain(command: argparse.ArgumentParser) -> None:
    input_words(command, several=True)
    network_words(command)
    target_words(command)
    rather_words(command)
    learning_words(command, type_=_count)
    looking_words(command)
    _out(command)


def _compare(command: argparse.ArgumentParser) -> None:
    input_words(command)
    network_words(command)
    comparison_words(command, _positive)
    _out(command)


def _bench(command: argparse.ArgumentParser) -> None:
    _weights(command)
    command.add_argument("--model", default="digit-pairs", help=BENCH_MODEL)
    command.add_argument("--batch", type=_positive, nargs="+", default=[1, 4], metavar="N", help="default: 1 4")
    command.add_argument("--iterations", type=_positive, default=5, help="timed at a stretch (default: 5)")
    command.add_argument("--rounds", type=_positive, default=5, help="of which medians are taken (default: 5)")
    command.add_argument("--threads", type=_positive, help="of the CPU (default: torch's own choice)")
    command.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")
    parts = f"any of {', '.join(MEASURES)} (default: all)"
    command.add_argument("--only", choices=tuple(MEASURES), nargs="+", default=[], metavar="PART", help=parts)
    _out(command)


def _evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", action="append", required=True, metavar="MODEL", help=MODELS)
    command.add_argument("--weights", action="append", default=[], metavar="FILE", help=MORE_WEIGHTS)
    command.add_argument("--data", required=True, help=DATA)
    command.add_argument("--count", type=_positive, help="so many pictures, drawn with the seed (default: all)")
    command.add_argument("--per-class", type=_positive, help="so many pictures of each class (the paper: 5)")
    command.add_argument("--seed", type=_count, default=0, help="of the choice of pictures (default: 0)")
    command.add_argument("--split", help="of VOC (default: val) or of digit pairs (default: test)")
    command.add_argument("--difficult", action="store_true", help="VOC: count objects marked difficult too")
    command.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD", help=ASKED_METHODS)
    command.add_argument("--blur", nargs="+", type=float, default=[], metavar="SIGMA", help=BLUR)
    command.add_argument("--metrics", nargs="+", default=["insertion", "cim"], metavar="METRIC", help=ASKED_METRICS)
    command.add_argument("--step", type=_positive, help=STEP)
    command.add_argument("--batch", type=_positive, default=1, help=BATCH)
    command.add_argument("--reference", metavar="METHOD", help=REFERENCE)
    command.add_argument("--sheet", type=_count, default=3, metavar="N", help="draw the first N pictures (default: 3)")
    command.add_argument("--tables", action="store_true", help="compute nothing: tables of what is there so far")
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=FOLDER)


def _weights(command: argparse.ArgumentParser) -> None:
    command.add_argument("--weights", metavar="FILE", help=WEIGHTS)


def _out(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=Path, default=Path("dmbp-out"), metavar="DIR", help="default: dmbp-out")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, not {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text!r}")
    return int(text)


COMMANDS = {
    "explain": (EXPLAIN, _explain),
    "compare": (COMPARE, _compare),
    "inspect": (INSPECT, _inspect),
    "evaluate": (EVALUATE, _evaluate),
    "bench": (BENCH, _bench),
}
