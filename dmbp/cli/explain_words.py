"""How `dmbp explain` learns, and what it draws: the words of its command line for these."""

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
