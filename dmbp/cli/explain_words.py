"""How `dmbp explain` learns, what it draws, and what `dmbp compare` compares: the words of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from dmbp.learning.objective import LOSSES
from dmbp.masks import SITES
from dmbp.split import UNMASKED

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
AGREEMENT = (
    "end the learning once the complete map agrees with that of 20 iterations before by this rank correlation, as 0.99"
)
RATHER = "explain why the target rather than this class: the difference of their scores"
MAP = "write this map alone too, without a frame: the paper's ∇ ⊙ x, or the one with the bias terms at their places"
OVERLAY = "write this map laid over the grey picture too, transparent where it is zero"
FORMAT = "of all pictures, parted by commas: png, svg, pdf (default: png)"
CHECK = (
    "put the maps to the test: their insertion areas beside those of c ⊙ x and of a random order, and the maps of the "
    "network with its last layer drawn anew; takes longer than the explanation"
)
COMPARED = (
    "names with options, parted by commas or spaces, as dmbp,ig:steps=100,gradcam (default: "
    "dmbp,dmbp:map=complete,nd,ig,gradcam)"
)
TARGETS = "classes, a row of maps each (default: the class of the highest score; of a digit pair both digits)"
STEP = "pixels that insertion takes at a time (default: the 56th part)"
COLUMNS = "maps beside each other, before the next row (default: 5, for a slide; 2 for a column of a page)"
OVER = "lay the maps over the grey picture"
HTML = "write the explorer too: one page that opens from disk, to look into maps, masks, sites and the ledger"
MAPS = ("paper", "complete")


def rather_words(command: argparse.ArgumentParser) -> None:
    command.add_argument("--rather-than", metavar="ID|NAME", help=RATHER)


def learning_words(command: argparse.ArgumentParser, type_: Callable[[str], int]) -> None:
    group = command.add_argument_group("the learning")
    group.add_argument("--iterations", type=type_, default=200, help="default: 200")
    group.add_argument("--loss", choices=(*LOSSES, "none"), default="all", help=LOSS)
    group.add_argument("--sites", choices=tuple(SITES), default="gates", help=WHERE)
    group.add_argument("--unmasked", choices=UNMASKED, default="nuisance", help=REST)
    group.add_argument("--agreement", type=float, metavar="RHO", help=AGREEMENT)


def looking_words(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("what is written")
    group.add_argument("--map", choices=MAPS, help=MAP)
    group.add_argument("--overlay", choices=MAPS, help=OVERLAY)
    group.add_argument("--format", default="png", metavar="png,svg,pdf", help=FORMAT)
    group.add_argument("--check", action="store_true", help=CHECK)
    group.add_argument("--html", action="store_true", help=HTML)


def comparison_words(command: argparse.ArgumentParser, type_: Callable[[str], int]) -> None:
    group = command.add_argument_group("what is compared")
    group.add_argument("--methods", nargs="+", default=[], metavar="METHOD", help=COMPARED)
    group.add_argument("--targets", nargs="+", dest="target", metavar="ID|NAME", help=TARGETS)
    group.add_argument("--step", type=type_, help=STEP)
    group.add_argument("--columns", type=type_, default=5, metavar="N", help=COLUMNS)
    group.add_argument("--over", action="store_true", help=OVER)
    group.add_argument("--format", default="png", metavar="png,svg,pdf", help=FORMAT)
    group.set_defaults(output=None, at=None, box=None, region=False)
