"""Writing files: whether a folder can be written to, and a file that appears whole or not at all."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from dmbp.errors import DmbpError

if TYPE_CHECKING:  # matplotlib is slow to import
    from matplotlib.figure import Figure

DPI = 200  # two pixels for each of a picture of 224×224


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; at the end it takes the place of `path`, and where writing fails it is gone.

    Its name is new each time, so that two writers of one file do not meet: the later one's stays. Raises DmbpError,
    with the system's reason, where the file cannot be written.
    """
    partial = path.with_name(f"{uuid4().hex}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise DmbpError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def check_writable(folder: Path) -> None:
    """Raise DmbpError unless the folder, or the nearest one above it that exists, can be written to; makes nothing.

    For work that takes minutes: better now than at its end.
    """
    try:
        _write_something(next(path for path in (folder, *folder.parents) if path.exists()))
    except OSError as error:
        raise _unwritable(folder, error) from error


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


def slug(text: str) -> str:
    """A part of a file name: the text without odd characters, and not too long."""
    return re.sub(r"[^\w+-]+", "-", text).strip("-")[:60]


def _write_something(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):
        pass


def _unwritable(folder: Path, error: OSError) -> DmbpError:
    return DmbpError(f"cannot write to {folder}: {error.strerror or error}")
