"""What `explain` and `inspect` are asked: words for a network of one's own, for its inputs, for where the score is."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from dmbp.models.checkpoints import READERS

IMAGE = (
    "image file; array of one input, .npy, or of several, .npz, one by the name of each argument; table with a header, "
    ".csv; skimage:NAME (a photo of scikit-image), or digit-pair:0 to digit-pair:7 (shipped; default: 0)"
)
FOLDERS = "; several, or a folder of pictures, one after another"
MODEL = (
    "digit-pairs, digit-pairs-vgg, efficientnet-lite0, torchvision:NAME, voc:NAME or path.py:factory "
    "(default: digit-pairs for a digit pair, efficientnet-lite0 for any other image)"
)
WEIGHTS = f"weights to read instead, of a network or as a trainer wrote them: {', '.join(READERS)}"
SIZE = "the picture's height and width in the network, one number for a square: all of the middle, resized"
MEAN = "of each channel, subtracted before the division by --std; of arrays too, which else are taken as they are"
LABELS = "the classes' names in order: a file with one a line, or names parted by commas"
NAMES = "names of the features of a table or of the channels, as --labels; a .csv has its own"
ROW = "which row of a .csv, or of arrays that hold many inputs, counted from 0"
FIXED = "an argument of an .npz that is held fixed and not explained: a mask, lengths, a condition; repeatable"
OUTPUT = "which output is explained, where there are several; or a module or node: the logits before a softmax"
AT = "the score at one place of the output, as a pixel of a segmentation: row,column"
BOX = "the mean score over a box of the output: rows,columns as 10:20,0:40, ends left out"
REGION = "the mean score over all places where the class has the largest score"


def network_words(command: argparse.ArgumentParser) -> None:
    """A network, and what of it a factory that returns a plain torch.nn.Module leaves open."""
    group = command.add_argument_group("the network")
    group.add_argument("--model", help=MODEL)
    group.add_argument("--weights", metavar="FILE", help=WEIGHTS)
    group.add_argument("--size", type=_size, metavar="N|H,W", help=SIZE)
    group.add_argument("--mean", type=float, nargs="+", metavar="X", help=MEAN)
    group.add_argument("--std", type=float, nargs="+", metavar="X", help="of each channel")
    group.add_argument("--labels", type=_names, metavar="FILE|A,B,…", help=LABELS)


def input_words(command: argparse.ArgumentParser, several: bool = False) -> None:
    group = command.add_argument_group("the input")
    group.add_argument("image", nargs="*" if several else "?", metavar="INPUT", help=IMAGE + FOLDERS * several)
    group.add_argument("--row", type=_row, metavar="N", help=ROW)
    group.add_argument("--names", type=_names, metavar="FILE|A,B,…", help=NAMES)
    group.add_argument("--fixed", action="append", default=[], metavar="NAME", help=FIXED)


def target_words(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the score")
    group.add_argument("--target", action="append", metavar="ID|NAME", help="class to explain; may be repeated")
    group.add_argument("--output", metavar="NAME", help=OUTPUT)
    where = group.add_mutually_exclusive_group()
    where.add_argument("--at", type=_place, metavar="ROW,COLUMN", help=AT)
    where.add_argument("--box", type=_ranges, metavar="ROWS,COLUMNS", help=BOX)
    where.add_argument("--region", action="store_true", help=REGION)


def _size(text: str) -> tuple[int, int]:
    numbers = _numbers(text, r"\d+", "a number of pixels, or height,width")
    if len(numbers) > 2 or 0 in numbers:
        raise argparse.ArgumentTypeError(f"expected a number of pixels, or height,width, not {text!r}")
    return numbers[0], numbers[-1]


def _place(text: str) -> tuple[int, ...]:
    return _numbers(text, r"\d+", "whole numbers parted by commas, as 40,52")


def _ranges(text: str) -> tuple[tuple[int, int], ...]:
    ends = _numbers(text.replace(":", ",") if re.fullmatch(r"\d+:\d+(,\d+:\d+)*", text) else "", r"\d+", _BOX)
    return tuple(zip(ends[::2], ends[1::2], strict=True))


_BOX = "a range for each axis, as 10:20,0:40"


def _numbers(text: str, each: str, wanted: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(re.fullmatch(each, part.strip()) for part in parts):
        raise argparse.ArgumentTypeError(f"expected {wanted}, not {text!r}")
    return tuple(map(int, parts))


def _row(text: str) -> int:
    return _numbers(text, r"\d+", "a whole number of at least 0")[0]


def _names(text: str) -> tuple[str, ...]:
    """The lines of a file, or what commas part."""
    path = Path(text)
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be read as names, one a line: {error}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"expected names, one a line of a file or parted by commas, not {text!r}")
    return names
