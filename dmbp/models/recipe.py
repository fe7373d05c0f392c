"""What to write where a network does not take the pictures that it is given: which ones it does, in five lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import product

import torch
from torch import nn

SIDES = (224, 28, 32, 64, 96, 128, 160, 192, 256, 299, 384, 512)  # that networks take, the usual one first
CHANNELS = (3, 1)

LINES = """
Say what it takes, at the end of {file}:

    from dmbp.images import Preprocess
    from dmbp.models import Model

    def explained():
        return Model("{name}", {call}, Preprocess(size=({side}, {side}), mean={values}, std={values}))

and explain --model {file}:explained, or give --size {side} --mean {words} --std {words}. {note}"""
MANY = "\nIt takes {channels} channels, and a picture has three: give an array ({channels}, H, W), .npy, in its place."
NOTE = "mean and std are those that it was trained with."
UNKNOWN = "The size is to be filled in; mean and std are those that it was trained with, one for each channel."
TABLES = (
    "\nIts first layer takes {features} features and no picture: give a table, .csv or .npy, in the place of the image."
)


def recipe(name: str, network: nn.Module) -> str:
    """Lines that work when they are pasted: a `Model` with a `Preprocess` that the network takes.

    `name` is the network's, or the PATH.py:FACTORY that makes it, whose names are then filled in. The size is one of
    those that are usual, tried with blank pictures; where none will do, it is said to be filled in.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if layers and isinstance(layers[0], nn.Linear) and not _has_flatten(network):
        return TABLES.format(features=layers[0].in_features)
    found = next(_taken(network), None)
    channels, side = found or (layers[0].in_channels if layers and isinstance(layers[0], nn.Conv2d) else 3, 64)
    if channels not in CHANNELS:
        return MANY.format(channels=channels)
    made = re.fullmatch(r"(.+\.py):(\w+)", name)
    file, call = (made[1], f"{made[2]}()") if made else ("your.py", "your_network()")
    values = f"({', '.join(['0.5'] * channels)}{',' * (channels == 1)})"
    words = " ".join(["0.5"] * channels)
    note = NOTE if found else UNKNOWN
    short = re.sub(r".*[/\\]|\.py:\w+$", "", name)
    return LINES.format(file=file, name=short, call=call, side=side, values=values, words=words, note=note)


def _has_flatten(network: nn.Module) -> bool:
    """Whether it may take a picture though it begins with a linear layer."""
    return any(isinstance(module, nn.Flatten) for module in network.modules())


def _taken(network: nn.Module) -> Iterator[tuple[int, int]]:
    """Channels and sides of pictures that the network takes, by trying."""
    like = next(network.parameters(), torch.empty(0))
    first = [module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)][:1]
    for channels, side in product(first or CHANNELS, SIDES):
        with suppress(Exception), torch.no_grad():
            network(like.new_zeros(1, channels, side, side))
            yield channels, side
