"""The tutorials: read, as cells and sections of the percent format, and run, as the scripts that they are."""

from __future__ import annotations

import random
import re
import runpy
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

matplotlib.use("Agg")

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
TUTORIALS = {path.stem: path for path in sorted(FOLDER.glob("[0-9][0-9]_*.py"))}
EXERCISES = "Exercises"


@dataclass(frozen=True)
class Cell:
    """A cell: its Markdown, or its code; `marker` is what stands behind `# %%`."""

    marker: str
    text: str

    @property
    def is_markdown(self) -> bool:
        return "[markdown]" in self.marker


@dataclass(frozen=True)
class Section:
    """What stands under one `## ` heading: all of its Markdown, and all of its code."""

    heading: str
    markdown: str
    code: str


def cells(text: str) -> list[Cell]:
    """The cells of a script; Markdown without its comment signs."""
    found = []
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        marker, _, body = part.partition("\n")
        markdown = re.sub(r"^# ?", "", body, flags=re.MULTILINE)
        found.append(Cell(marker.strip(), markdown if "[markdown]" in marker else body))
    return found


def sections(text: str) -> list[Section]:
    """The sections of a script, in order; what comes before the first heading belongs to none."""
    parts: list[tuple[str, list[str], list[str]]] = [("", [], [])]
    for cell in cells(text):
        if not cell.is_markdown:
            parts[-1][2].append(cell.text)
            continue
        before, *under = re.split(r"^## (.+)\n", cell.text, flags=re.MULTILINE)
        parts[-1][1].append(before)
        parts += [(heading.strip(), [body], []) for heading, body in zip(under[::2], under[1::2], strict=True)]
    return [Section(heading, "".join(words), "".join(code)) for heading, words, code in parts[1:]]


def run(path: Path, folder: Path) -> list[Figure]:
    """Run a tutorial as a script, in an empty folder, without a network; gives the figures that it made."""
    with undisturbed(), pytest.MonkeyPatch.context() as patch:
        made: list[Figure] = []
        right = Figure.__init__

        def recorded(self: Figure, *arguments: object, **options: object) -> None:
            right(self, *arguments, **options)
            made.append(self)

        patch.setattr(Figure, "__init__", recorded)
        patch.setattr(socket.socket, "connect", no_network)
        patch.chdir(folder)
        runpy.run_path(str(path), run_name="__main__")
    return made


@contextmanager
def undisturbed() -> Iterator[None]:
    """What scripts may change for everybody is as it was: random numbers, defaults of torch, settings of matplotlib."""
    states, threads, dtype = (
        (random.getstate(), np.random.get_state()),
        torch.get_num_threads(),
        torch.get_default_dtype(),
    )
    try:
        with torch.random.fork_rng(devices=[]), matplotlib.rc_context():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        plt.close("all")


def no_network(self: socket.socket, address: object) -> NoReturn:
    raise AssertionError(f"a tutorial asks the network for {address}")
