"""What the tests share."""

from __future__ import annotations

import gc
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
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


@pytest.hookimpl(wrapper=True)  # before that of pytest-xdist, which reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """What runs together where `--dist loadgroup` shares the tests among workers, and in which order.

    Files run as a whole, for they share what is traced, and slow tests each by itself, unless they say otherwise. The
    slow ones come first, and then the groups of most tests, so that no long one is left for the end.
    """
    if getattr(config.option, "loadgroup", False):
        in_groups(items)
    yield


def in_groups(items: list[pytest.Item]) -> None:
    groups = {item: group_of(item) for item in items}
    sizes = Counter(groups.values())
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, -sizes[groups[item]], groups[item]))
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(groups[item]))


def group_of(item: pytest.Item) -> str:
    told = item.get_closest_marker("xdist_group")
    if told:
        return str(told.args[0])
    return item.name.rstrip("]") if item.get_closest_marker("slow") else item.path.stem


def pytest_collection_finish() -> None:
    """The collector of garbage need not look, each time, at all that importing and collecting has made."""
    gc.collect()
    gc.freeze()


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
