"""The command line in a folder: pictures, networks and weights, good ones and bad, and what a call of it prints."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dmbp import cli
from dmbp.networks import pretrained

Run = Callable[..., tuple[int, str, str]]

NETWORKS = """
import sys
import torch
from torch import nn
from dmbp.images import Preprocess
from dmbp.models import Model
from neighbour import LABELS

def body(*layers):
    torch.manual_seed(0)
    head = nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers, *head)

def model(network=None, labels=None):
    return Model("net", network or body(), Preprocess((10, 14), (0.5,) * 3, (0.25,) * 3), labels)

class With(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.body, self.gate, self.how = body(), nn.Conv2d(3, 4, 3), forward

    def forward(self, x):
        return self.how(self, x)

def named():
    return model(labels=LABELS)

def double():
    return model(body().double())

def loud():
    print("made")
    return model(With(lambda self, x: (print("run"), self.body(x))[1]))

def attention():
    def forward(self, x):
        keys = x.flatten(2)
        return (torch.softmax(keys.transpose(1, 2) @ keys, -1) @ keys.transpose(1, 2)).mean(1)
    return model(With(forward))

def gated():
    return model(With(lambda self, x: (self.body[0](x).relu() * self.gate(x).sigmoid()).mean((2, 3))))

def batch_norm():
    return model(body(nn.BatchNorm2d(4, track_running_stats=False)))

def data_dependent():
    return model(With(lambda self, x: self.body(x) if x.sum() > 0 else -self.body(x)))

def too_small():
    return model(With(lambda self, x: self.body(x[:, :, :2, :2])))

def unpooled():
    return model(body()[:2])

def nan():
    made = model()
    made.network[0].weight.data[0, 0, 0, 0] = torch.nan
    return made

def gateless():
    return model(nn.Sequential(nn.Flatten(), nn.Linear(420, 4)))

def raises():
    raise KeyError("no luck")

def leaves():
    sys.exit(0)
"""
LABELS = ("crane, bird", "crane, machine", "a/b\\c $\\frac$", "déjà vu?")


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("executed",)


def prepare(folder: Path) -> None:
    """`out` holds what an earlier run may have left."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    Image.fromarray(pixels[:1, :1]).save(folder / "dot.png")
    (folder / "text.png").write_text("no image")
    (folder / "net.py").write_text(NETWORKS)
    (folder / "neighbour.py").write_text(f"LABELS = {LABELS!r}")
    state = pretrained("digit-pairs").state_dict()
    first = next(iter(state))
    torch.save({**state, first: state[first][:1]}, folder / "shapes.pth")
    torch.save({**state, first: state[first] * torch.nan}, folder / "nan.pth")
    (folder / "evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({**state, "evil": Evil()}, folder / "evil.pt")
    (folder / "out").mkdir()
    for stem in ("photo-net-class-0", "digit-pair-0-digit-pairs-3"):
        (folder / f"out/{stem}.png").write_bytes(b"old figure")
        (folder / f"out/{stem}.npz").write_bytes(b"old arrays")


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command line."""
    status = 0
    try:
        cli.main(arguments)
    except SystemExit as leaving:
        status = int(leaving.code or 0)
    return status, *capsys.readouterr()


def explained(run: Run, *arguments: str, iterations: int = 1) -> Any:
    """What --json prints, which is all that may be on standard output."""
    status, out, err = run("explain", *arguments, "--iterations", str(iterations), "--out", "out", "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def files(folder: str = ".") -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".pyc"}
