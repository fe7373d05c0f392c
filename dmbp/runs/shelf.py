"""A folder of explanations, one file for each image: what an interrupted run has done, for the next one to go on from.

Each file says what it was made from: the options, and digests of network, image and target.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmbp.errors import DmbpError
from dmbp.files import whole
from linreg import OperatorGraph, __version__
from linreg.operators import Constant, Operator

VERSIONS = {"dmbp": __version__, "torch": torch.__version__}  # what else decides the last digits, or more
UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Shelf:
    """`folder`, and what all of its files were made from, {option: value} and, of one network, its digest."""

    folder: Path
    made: Mapping[str, Any]

    def of(self, graph: OperatorGraph) -> Shelf:
        """That of one network. Raises DmbpError where a file is broken, or of another network or of other options."""
        shelf = replace(self, made={"network": digest(graph), **VERSIONS, **self.made})
        for path in sorted(self.folder.iterdir()):
            if re.fullmatch(r"\d{6,}\.npz", path.name):
                shelf._check(path, shelf.made)
        return shelf

    def path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.npz"

    def find(self, index: int, **made: str) -> dict[str, np.ndarray] | None:
        """The arrays kept of an image, None where there are none.

        Raises DmbpError where they are not of `made`, or no longer of this network and these options: another run may
        have written them meanwhile.
        """
        path = self.path(index)
        if not path.exists():
            return None
        with _reading(path) as arrays:
            found = {name: arrays[name] for name in arrays.files}
            record = _record(found)
        _compare(path, record, {**self.made, **made})
        return found

    def keep(self, index: int, arrays: Mapping[str, Any], **made: str) -> None:
        """Write a file, whole or not at all. Raises DmbpError where another run wrote another one meanwhile."""
        record = {**self.made, **made}
        with whole(self.path(index), lambda path: self._check(path, record)) as partial:
            np.savez(partial, made=np.array(json.dumps(record)), **arrays)

    def _check(self, path: Path, made: Mapping[str, Any]) -> None:
        with _reading(path) as arrays:
            record = _record(arrays)
        _compare(path, record, made)


def _record(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the file of these arrays says that it was made from. Raises TypeError where it says nothing."""
    record = json.loads(str(arrays["made"]))
    if not isinstance(record, dict):
        raise TypeError
    return record


def _compare(path: Path, found: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    """Raise DmbpError unless a file's record has all of `made`."""
    if not found.keys() >= made.keys():
        raise DmbpError(f"{path} was written by another version of dmbp: {WAY_OUT}")
    differing = [name for name in made if found[name] != made[name]]
    if differing:
        shown = [n if n in DIGESTS else f"{n} ({found[n]!r}, not {made[n]!r})" for n in differing]
        raise DmbpError(f"{path} was made from another {', '.join(shown)}: {WAY_OUT}")


WAY_OUT = "give another folder with `out`, or delete the file"


DIGESTS = ("network", "image", "target")


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The file's arrays. Raises DmbpError, here or within, for a file that is not what it should be."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            yield arrays
    except UNREADABLE as error:
        raise DmbpError(
            f"{path} is broken, or no file of explain_all: delete it, or give another folder with `out`"
        ) from error


class _Pickler(pickle.Pickler):
    """Pickles a tensor as its numbers, and equal objects alike, whether they are one and the same or not.

    What an operator or a constant is called for people, its `kind`, is left out.
    """

    def __init__(self, stream: BytesIO) -> None:
        super().__init__(stream, protocol=5)
        self.fast = True

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        numbers: Any = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return str(value.dtype), tuple(value.shape), hashlib.sha256(numbers).hexdigest()

    def reducer_override(self, value: Any) -> Any:
        if not (isinstance(value, Operator | Constant) and is_dataclass(value)):
            return NotImplemented
        return type(value), tuple(getattr(value, field.name) for field in fields(value) if field.name != "kind")


def digest(value: Any) -> str:
    """One for each function and each tensor, on any device: names, operators, weights; no labels, no user's source."""
    held: Any = value
    if isinstance(value, OperatorGraph):
        calls = value.conditions.calls  # of these operators a graph holds those of its example
        held = [(n.name, n.inputs, calls.get(n.name, n.operator)) for n in value.nodes], value.output, value.input_shape
        if value.signature is not None:
            held = *held, value.signature.entries, value.conditions.steps
    stream = BytesIO()
    _Pickler(stream).dump(held)
    return hashlib.sha256(stream.getvalue()).hexdigest()
