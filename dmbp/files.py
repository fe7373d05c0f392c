"""Writing files: whether a folder can be written to, and a file that appears whole or not at all."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EISDIR
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from dmbp.errors import DmbpError

if TYPE_CHECKING:  # matplotlib is slow to import
    from matplotlib.figure import Figure

DPI = 200  # two pixels for each of a picture of 224×224


@contextmanager
def whole(path: Path, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A path beside `path` to write to; at the end it takes the place of `path`, and where writing fails it is gone.

    Its name is new each time, so that two writers of one file do not meet: the later one's stays. Where one must not
    take another's place unseen, `check` looks at the file that is there already, if there is one by then, and raises
    to keep it. Raises DmbpError, with the system's reason, where the file cannot be written.
    """
    partial = path.with_name(f"{uuid4().hex}.partial{path.suffix}")
    try:
        yield partial
        _to_disk(partial)
        if check is None or not _first(partial, path, check):
            partial.replace(path)
    except OSError as error:
        raise DmbpError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _to_disk(path: Path) -> None:
    """Wait until a file's bytes are on the disk: else a machine that stops could keep its new name without them."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _first(partial: Path, path: Path, check: Callable[[Path], None]) -> bool:
    """Give a file its name where none has it; else False, if `check` lets that one be replaced.

    A link cannot take a name that is taken, so that of two writers at once only one is first.
    """
    try:
        os.link(partial, path)
        return True
    except FileExistsError:
        check(path)
    except OSError:  # a file system without links
        if path.exists():
            check(path)
    return False


def check_writable(folder: Path) -> None:
    """Raise DmbpError unless the folder, or the nearest one above it that exists, can be written to; makes nothing.

    For work that takes minutes: better now than at its end.
    """
    try:
        _write_something(next(path for path in (folder, *folder.parents) if path.exists()))
    except OSError as error:
        raise _unwritable(folder, error) from error


def check_file(path: Path) -> None:
    """Raise DmbpError unless a file of that path can be written; makes nothing."""
    try:
        if path.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        _write_something(path.parent)
    except OSError as error:
        raise DmbpError(f"cannot write {path}: {error.strerror or error}") from error


def writable(folder: Path) -> Path:
    """The folder, made where there is none. Raises DmbpError where nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_something(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, whole or not at all, and return its path."""
    from linreg.plot.style import own_settings

    with whole(path) as partial, own_settings():
        figure.savefig(partial, dpi=DPI)
    return path


def save_figure_apart(figure: Figure, folder: Path, stem: str, of: str) -> Path:
    """Write a figure as STEM.png, in the place of one of the same thing; beside another's, as STEM-2.png, …

    `of` says what it is of; its digest stands in the file.
    """
    from linreg.plot.style import own_settings

    own = sha256(of.encode()).hexdigest()
    for number in count(1):
        path = folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
        with suppress(OfAnother), whole(path, lambda found: _check_of(own, found)) as unfinished, own_settings():
            figure.savefig(unfinished, dpi=DPI, metadata={"Source": own})
            return path
    raise AssertionError


class OfAnother(Exception):
    """There is a file of that name, of something else."""


def _check_of(own: str, path: Path) -> None:
    """Raise OfAnother where a file is a picture of something else, or of what is not known."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            same = image.info.get("Source") == own
    except OSError:
        return  # no picture that could be lost
    if not same:
        raise OfAnother


def say(line: str) -> None:
    """A line on standard error, where there is one: services have none."""
    if sys.stderr is not None:
        print(line, file=sys.stderr)


def slug(text: str) -> str:
    """A part of a file name: the text without odd characters, and not too long."""
    return re.sub(r"[^\w+-]+", "-", text).strip("-")[:60]


def _write_something(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):
        pass


def _unwritable(folder: Path, error: OSError) -> DmbpError:
    return DmbpError(f"cannot write to {folder}: {error.strerror or error}")
