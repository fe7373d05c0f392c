"""What can be said on the command line, and what each word is for."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmbp import __version__
from dmbp.bench import PARTS as MEASURES
from dmbp.learning.objective import LOSSES
from dmbp.masks import SITES
from dmbp.models.checkpoints import READERS
from dmbp.split import UNMASKED

EXPLAIN = "explain an image: prints the split, writes a figure (.png) and all arrays (.npz)"
INSPECT = "print a network's operators at an image, the ledger of a score, and its certificate"
BENCH = "measure what an iteration costs here, beside plain PyTorch, the literal algorithm and other methods"

IMAGE = "image file, skimage:NAME (a photo of scikit-image), or digit-pair:0 to digit-pair:7 (shipped; default: 0)"
MODEL = (
    "digit-pairs, digit-pairs-vgg, efficientnet-lite0, torchvision:NAME or path.py:factory "
    "(default: digit-pairs for a digit pair, efficientnet-lite0 for any other image)"
)
BENCH_MODEL = (
    "digit-pairs (default), digit-pairs-vgg, efficientnet-lite0, path.py:factory, "
    "or torchvision:NAME, with random weights unless --weights gives some"
)
MAP = "write this map alone too, without a frame: the paper's ∇ ⊙ x, or the one with the bias terms at their places"
WEIGHTS = f"weights to read instead, of a network or as a trainer wrote them: {', '.join(READERS)}"


LOSS = (
    "what the masks minimise: all: y⁻ − y⁺ + |y~|, so that y⁺ and y⁻ take up the score (Eq. 10, default); +-: y⁻ − y⁺; "
    "+: −y⁺; none: nothing is learned, and the map is c ⊙ x (Eq. 5)"
)
WHERE = (
    "what is masked: gates: the output of each ReLU or other gate (Eq. 16, default); blocks: each residual block as a "
    "whole, its shortcut included"
)
REST = (
    "where the score that no mask touches, such as the last layer's bias, is counted: nuisance: once, in y~ (default); "
    "both: in y⁺ and in y⁻ alike (Algorithm 1 to the letter)"
)


def parser() -> argparse.ArgumentParser:
    """The parser; `command` of what it gives names the module of this package that runs."""
    whole = argparse.ArgumentParser(prog="dmbp", description="Split a network's score exactly: y = y⁺ + y⁻ + y~.")
    whole.add_argument("--version", action="version", version=f"dmbp {__version__}")
    commands = whole.add_subparsers(required=True, dest="command", metavar="explain | inspect | bench")
    for name, about, add in (("explain", EXPLAIN, _explain), ("inspect", INSPECT, _inspect), ("bench", BENCH, _bench)):
        command = commands.add_parser(name, help=about, description=about)
        add(command)
        command.add_argument("--weights", metavar="FILE", help=WEIGHTS)
        command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
        command.add_argument("--json", action="store_true", help="print JSON instead of text")
    return whole


def _inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", nargs="?", metavar="IMAGE", help=IMAGE)
    command.add_argument("--model", help=MODEL)
    command.add_argument("--target", action="append", metavar="ID|NAME", help="class to explain; may be repeated")


def _explain(command: argparse.ArgumentParser) -> None:
    _inspect(command)
    command.add_argument("--iterations", type=_count, default=200, help="default: 200")
    command.add_argument("--loss", choices=(*LOSSES, "none"), default="all", help=LOSS)
    command.add_argument("--sites", choices=tuple(SITES), default="gates", help=WHERE)
    command.add_argument("--unmasked", choices=UNMASKED, default="nuisance", help=REST)
    command.add_argument("--map", choices=("paper", "complete"), help=MAP)
    _out(command)


def _bench(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default="digit-pairs", help=BENCH_MODEL)
    command.add_argument("--batch", type=_positive, nargs="+", default=[1, 4], metavar="N", help="default: 1 4")
    command.add_argument("--iterations", type=_positive, default=5, help="timed at a stretch (default: 5)")
    command.add_argument("--rounds", type=_positive, default=5, help="of which medians are taken (default: 5)")
    command.add_argument("--threads", type=_positive, help="of the CPU (default: torch's own choice)")
    command.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")
    parts = f"any of {', '.join(MEASURES)} (default: all)"
    command.add_argument("--only", choices=tuple(MEASURES), nargs="+", default=[], metavar="PART", help=parts)
    _out(command)


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
