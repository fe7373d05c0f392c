"""What is asked on the command line: a network, an input, and which of its scores."""

from __future__ import annotations

import argparse
import io
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmbp.cli.sources import PAIR, Several, Source, read_given
from dmbp.cli.where import Class, Where, where
from dmbp.errors import DmbpError
from dmbp.models import Model, check_spec, load_model
from dmbp.models.digit_networks import NETWORKS
from linreg import LinregError, OperatorGraph, trace
from linreg.capture.outputs import names_of
from linreg.target import Target
from linreg.text import counted


@dataclass(frozen=True, eq=False)
class Question:
    """What is to be explained: one input of a traced network, and which of its scores.

    `x` are several inputs by name where the network takes several. `targets` are classes, None where there is one score
    and no classes, `where` says where in the output. `picture` (H, W, 3) is what x was made of, and `labels` are names
    of features or channels.
    """

    model: Model
    graph: OperatorGraph
    x: Any
    targets: tuple[Class, ...]
    name: str
    where: Where
    picture: np.ndarray | None
    labels: tuple[str, ...] | None

    def target(self, index: Class) -> Target:
        """The target of a class, as `explain` takes it."""
        return self.where.target(index)

    def label(self, index: Class) -> str:
        """The name of a class."""
        return "the score" if index is None else self.model.label(index)

    def named(self, index: Class) -> str:
        """The name of a class with its id, and where its score is taken."""
        return ("the score" if index is None else named(self.model.label(index), index)) + self.where.words


def ask(
    options: argparse.Namespace,
    known: dict[str, Question] | None = None,
    locate: Callable[[argparse.Namespace, Tensor], Where] = where,
) -> Question:
    """Everything that can go wrong before the work starts goes wrong here.

    `known` has earlier questions by the network's name: one of the same network is loaded and traced once. `locate`
    says where in the output the score is, or raises DmbpError.
    """
    device = device_of(options.device)
    check_spec("digit-pairs" if options.model is None else options.model)
    knows_digits = options.model in (None, *NETWORKS)
    if options.image is None and not knows_digits:
        raise DmbpError(f"--model {options.model} needs an INPUT to explain")
    if options.image is not None and not options.image.strip():
        raise DmbpError("the name of the INPUT is empty: name a file, or leave it out for the first digit pair")
    name = _in_full(options.image)
    source = read_given(name, options.row, options.fixed, _scale(options))
    spec = options.model or ("digit-pairs" if name.startswith(PAIR) else "efficientnet-lite0")
    before = (known or {}).get(spec)
    with redirect_stdout(sys.stderr):  # what a user's own code prints is no part of the answer
        model = before.model if before else _told(load_model(spec, options.weights), options)
        network = model.network.to(device)
        like = next(network.parameters(), torch.empty(0, device=device))
        x = source.given(model, like)
    with quietly():
        alike = before is not None and isinstance(x, Tensor) and before.graph.input_shape == tuple(x.shape[1:])
        same = before.graph if before is not None and alike else None
        graph = same or trace(network, x, fixed=_fixed(source), output=_output(options, model, x))
    output = graph(x)
    place = locate(options, output)
    classes = tuple(dict.fromkeys(model.index(target, output.shape[1]) for target in options.target or ()))
    if model.labels and output.dim() > 1 and len(model.labels) != output.shape[1]:
        raise DmbpError(f"{model.name} has {len(model.labels)} labels, and {output.shape[1]} scores")
    labels = _labels(options.names or source.names, x)
    digits = source.classes if knows_digits else ()
    top: Class = None if output.dim() == 1 else int(place.scores(output).argmax())
    question = Question(
        model, graph, x, classes or digits or (top,), name, place, source.picture(model, x), labels,
    )  # fmt: skip
    if known is not None:
        known[spec] = question
    return question


def _in_full(name: str | None) -> str:
    """The name of an input; the first of the shipped pairs where none is given, or no number of a pair."""
    return f"{PAIR}:0" if name is None or name == PAIR else name


def _scale(options: argparse.Namespace) -> tuple[list[float], list[float]] | None:
    """--mean and --std, which belong together."""
    mean, std = options.mean, options.std
    if (mean is None) != (std is None) or (mean is not None and len(mean) != len(std)):
        raise DmbpError("--mean and --std belong together: a number for each channel, in both")
    if std is not None and min(std) <= 0:
        raise DmbpError(f"--std must be above 0, not {min(std)}")
    return None if mean is None else (mean, std)


def _told(model: Model, options: argparse.Namespace) -> Model:
    """The model with what is said of its preprocessing and labels."""
    preprocess = model.preprocess
    if options.mean is not None:
        preprocess = replace(preprocess, mean=tuple(options.mean), std=tuple(options.std))
    if options.size is not None:
        preprocess = replace(preprocess, size=options.size, crop=1.0)
    return replace(model, preprocess=preprocess, labels=options.labels or model.labels)


def _labels(names: tuple[str, ...] | None, x: Any) -> tuple[str, ...] | None:
    """The names of features or channels, as many as there are."""
    first = next(iter(x.values())) if isinstance(x, Mapping) else x
    if names is not None and (first.dim() < 2 or len(names) != first.shape[1]):
        given = counted(len(names), "name")
        raise DmbpError(f"{given} of features or channels for an input of shape {tuple(first.shape)}")
    return names


def _fixed(source: Source) -> tuple[str, ...] | None:
    return (source.fixed or None) if isinstance(source, Several) else None


def _output(options: argparse.Namespace, model: Model, x: Any) -> str | None:
    """--output. Raises DmbpError where there are several outputs and none is named."""
    if options.output is not None:
        return str(options.output)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), torch.no_grad():
        made = model.network(**x) if isinstance(x, Mapping) else model.network(x)
    names = names_of(made)
    if len(names) > 1:
        raise DmbpError(f"{model.name} gives several outputs: choose one by --output, {', '.join(names)}")
    return None


def another(question: Question, name: str, options: argparse.Namespace) -> Tensor:
    """A second input, as the question's network takes it. Raises DmbpError where there is none of that name."""
    name = _in_full(name)
    x = read_given(name, options.row, (), _scale(options)).given(question.model, question.x)
    if not isinstance(x, Tensor) or x.shape != question.x.shape:
        raise DmbpError(f"{name} is no input of the same shape as {question.name}")
    return x


@contextmanager
def said_as_options() -> Iterator[None]:
    """What a refusal says of an argument of `linreg.trace`, said of the option of the command line."""
    try:
        yield
    except LinregError as error:
        said = re.sub(r"linreg\.trace\(…, output='([^']+)'\)", r"--output \1", str(error))
        raise DmbpError(said) from error


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
