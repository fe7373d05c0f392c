"""What is asked on the command line: a network, a picture, and which of its scores."""

from __future__ import annotations

import argparse
import io
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmbp.datasets import sample_pairs
from dmbp.errors import DmbpError
from dmbp.images import read_image
from dmbp.models import Model, check_spec, load_model
from dmbp.models.digit_networks import NETWORKS
from linreg import OperatorGraph, trace

PAIR = "digit-pair"


@dataclass(frozen=True, eq=False)
class Question:
    """What is to be explained: one input of a traced network, and which of its scores."""

    model: Model
    graph: OperatorGraph
    x: Tensor
    targets: tuple[int, ...]
    name: str


def ask(options: argparse.Namespace) -> Question:
    """Everything that can go wrong before the work starts goes wrong here."""
    device = device_of(options.device)
    check_spec("digit-pairs" if options.model is None else options.model)
    knows_digits = options.model in (None, *NETWORKS)
    if options.image is None and not knows_digits:
        raise DmbpError(f"--model {options.model} needs an IMAGE to explain")
    if options.image is not None and not options.image.strip():
        raise DmbpError("the name of the IMAGE is empty: name a file, or leave it out for the first digit pair")
    image = f"{PAIR}:0" if options.image is None else options.image
    pixels, digits = _picture(image)
    with redirect_stdout(sys.stderr):  # what a user's own code prints is no part of the answer
        model = load_model(options.model or ("digit-pairs" if digits else "efficientnet-lite0"), options.weights)
        network = model.network.to(device)
        x = model.preprocess.tensor(pixels).to(next(network.parameters(), torch.empty(0, device=device)))
        top = int(model.scores(x).argmax())
        asked = tuple(dict.fromkeys(model.index(target) for target in options.target or ()))
    with quietly():
        graph = trace(network, x)
    return Question(model, graph, x, asked or (digits if knows_digits else ()) or (top,), image)


def another(question: Question, image: str) -> Tensor:
    """A second picture, as the question's network takes it. Raises DmbpError where there is none of that name."""
    return question.model.preprocess.tensor(_picture(image)[0]).to(question.x)


@contextmanager
def quietly() -> Iterator[None]:
    """Without what torch.export prints and logs on its way to an error, which then says all that is needed."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def _picture(image: str) -> tuple[Any, tuple[int, ...]]:
    """A picture as (H, W, 3), and its digits where it is a shipped pair."""
    pair = re.fullmatch(f"{PAIR}:(.*)", image)
    return _digit_pair(pair[1]) if pair else (read_image(image), ())


def _digit_pair(number: str) -> tuple[Any, tuple[int, ...]]:
    """One of the shipped pictures as (H, W, 3), and its two digits."""
    pairs = sample_pairs()
    if number not in map(str, range(len(pairs.images))):
        raise DmbpError(f"there is no {PAIR}:{number}; expected {PAIR}:0 to {PAIR}:{len(pairs.images) - 1}")
    picture = pairs.images[int(number), 0]
    return picture[..., None].expand(-1, -1, 3).numpy(), tuple(pairs.labels[int(number)].tolist())


def device_of(name: str) -> torch.device:
    """The device of that name. Raises DmbpError where there is none."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" has no numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = re.split(r"\n|\. ", str(error).strip())[0]
        raise DmbpError(
            f"--device {name}: this machine or this build of torch has no such device ({reason})"
        ) from error
    return device


def named(label: str, target: int) -> str:
    """A class with its id, where the name does not tell it already."""
    return label if str(target) in label.split() else f"{label} ({target})"
