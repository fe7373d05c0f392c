"""What the tests share."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import vision  # noqa: F401  (makes torchvision importable)
from command import Run, called, prepare
from torch import Tensor

import dmbp
import linreg
from dmbp.runs import batches

# The nets are tiny: a second thread gains nothing, and costs fifty times as much where the cores are busy.
torch.set_num_threads(1)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of `explain` gets."""
    calls: list[int] = []

    def explain(graph: linreg.OperatorGraph, x: Tensor, *rest: Any, **options: Any) -> dmbp.Result:
        calls.append(len(x))
        return dmbp.explain(graph, x, *rest, **options)

    monkeypatch.setattr(batches, "explain", explain)
    return calls


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder)
    return folder


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of pictures, networks and weights, good ones and bad."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    return tmp_path


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in that folder."""
    return partial(called, capsys)
