"""Files of weights, opened: names and shapes from their headers first, the numbers when asked for; no code is run."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from numpy.lib import format as npy

from dmbp.errors import DmbpError
from dmbp.extras import needs
from dmbp.models.words import kind_of

WRAPPED = ("state_dict", "model_state_dict", "model")  # where trainers put the weights, beside other things
SAFETENSORS = 'pip install "safetensors"'
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Content:
    """What a file holds: the `shapes` of its tensors by name, and what it holds them `under`, "" for nothing.

    `take` reads the numbers.
    """

    path: Path
    shapes: Shapes
    under: str
    take: Callable[[Path], Mapping[str, Any]]

    def read(self) -> dict[str, Any]:
        """The tensors by name. Raises DmbpError where the file is broken."""
        return dict(_tried(self.path, self.take))


def opened(path: Path) -> Content:
    """The file of weights at `path`. Raises DmbpError where there is none, or none of a known kind."""
    reader = next((reader for end, reader in READERS.items() if path.name.endswith(end)), None)
    if reader is None:
        raise DmbpError(f"{path}: expected a file of weights that ends in one of {', '.join(READERS)}")
    if not path.is_file():
        raise DmbpError(f"{path}: there is no such file of weights")
    return _tried(path, reader)


def _safetensors(path: Path) -> Content:
    loader = needs("safetensors.torch", SAFETENSORS)
    with needs("safetensors", SAFETENSORS).safe_open(path, "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return Content(path, shapes, "", loader.load_file)


def _npz(path: Path) -> Content:
    """Only headers are read: what follows may inflate to any size."""
    shapes: Shapes = {}
    with ZipFile(path) as file:
        for entry in file.namelist():
            with file.open(entry) as stream:
                version = npy.read_magic(stream)
                header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = header(stream)
            if dtype.hasobject:
                raise ValueError("it holds Python objects, which allow_pickle=False does not read")
            shapes[entry.removesuffix(".npy")] = shape
    return Content(path, shapes, "", _npz_arrays)


def _npz_arrays(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def _torch(path: Path) -> Content:
    """The shapes are those on the device "meta", for which no numbers are read."""
    held, under = _unwrapped(_loaded(path, "meta"))
    if not isinstance(held, Mapping):
        raise DmbpError(f"{path}: expected tensors by name, got {kind_of(held)}")
    for name, value in held.items():
        if not isinstance(value, torch.Tensor):
            raise DmbpError(f"{path}: expected only tensors, by name; {name!r} is {kind_of(value)}")
    shapes = {str(name): tuple(value.shape) for name, value in held.items()}
    return Content(path, shapes, under, lambda path: _unwrapped(_loaded(path, "cpu"))[0])


def _loaded(path: Path, device: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other pickle protocols, which then load or not
        return torch.load(path, map_location=device, weights_only=True)


def _unwrapped(held: Any) -> tuple[Any, str]:
    """What is in the innermost of WRAPPED, and the path to it."""
    under = list[str]()
    while isinstance(held, Mapping):
        name = next((name for name in WRAPPED if isinstance(held.get(name), Mapping)), None)
        if name is None:
            break
        held = held[name]
        under.append(name)
    return held, ".".join(under)


READERS: dict[str, Callable[[Path], Content]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".pt": _torch,
    ".pth": _torch,
    ".ckpt": _torch,
    ".pth.tar": _torch,
    ".bin": _torch,
}


def _tried(path: Path, step: Callable[[Path], Any]) -> Any:
    """`step(path)`; broken files make the readers raise nearly anything."""
    try:
        return step(path)
    except DmbpError:
        raise
    except Exception as error:
        raise DmbpError(_refusal(path, error)) from error


def _refusal(path: Path, error: Exception) -> str:
    code = re.search(r"GLOBAL (\S+)", str(error))
    reason = f"it names {code[1]}" if code else f"{type(error).__name__}: {str(error).partition('. ')[0]}"
    with path.open("rb") as file:
        is_pickle = file.read(1) == b"\x80"
    if code is None and not is_pickle and "allow_pickle" not in str(error):
        return f"{path}: it is no file of plain tensors, or broken, or cut short ({reason})"
    return (
        f"{path}: refused: it is no file of plain tensors, and unpickling it could execute code ({reason}); "
        "save plain tensors: torch.save(network.state_dict(), path)"
    )
