"""Weights: read from a file without running code, put into a network whole or not at all, and written."""

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dmbp.errors import DmbpError
from dmbp.extras import needs
from dmbp.files import whole


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors in a .safetensors, .npz, .pt, .pth or .pth.tar file, by name, on the CPU. No pickled code is run.

    Raises `DmbpError` for another kind of file, for anything but plain tensors, and for NaN or infinity.
    """
    path = Path(path)
    ending = next((ending for ending in _READERS if path.name.endswith(ending)), None)
    if ending is None:
        raise DmbpError(f"{path}: expected a file of weights that ends in one of {', '.join(_READERS)}")
    if not path.is_file():
        raise DmbpError(f"{path}: there is no such file of weights")
    try:
        weights = _READERS[ending](path)
    except DmbpError:
        raise
    except Exception as error:  # broken files make the readers raise nearly anything
        raise DmbpError(_refusal(path, error)) from error
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor):
            raise DmbpError(f"{path}: expected only tensors, by name; {name!r} is {kind_of(value)}")
        if not value.isfinite().all():
            raise DmbpError(f"{path}: the tensor {name!r} holds NaN or infinity")
    return weights


def _refusal(path: Path, error: Exception) -> str:
    code = re.search(r"GLOBAL (\S+)", str(error))
    reason = f"it names {code[1]}" if code else f"{type(error).__name__}: {str(error).partition('. ')[0]}"
    return (
        f"{path}: refused: it is no file of plain tensors, and unpickling it could execute code ({reason}); "
        "save plain tensors: torch.save(network.state_dict(), path)"
    )


def _read_safetensors(path: Path) -> dict[str, Any]:
    return needs("safetensors.torch", "safetensors").load_file(path)


def _read_npz(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def _read_torch(path: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other pickle protocols, which then load or not
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise DmbpError(f"{path}: expected tensors by name, got {kind_of(content)}")
    return dict(content.get("state_dict", content))  # training scripts often wrap it


_READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".pth.tar": _read_torch,  # no archive, in spite of its name
}


def load_weights(network: nn.Module, path: Path) -> nn.Module:
    """`network`, filled with the weights in a file. Raises `DmbpError` as `read_weights` and `fill`, which it is."""
    return fill(network, read_weights(path), path)


def fill(network: nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> nn.Module:
    """`network`, its every parameter and buffer replaced by the one of its name.

    Raises `DmbpError`, and replaces nothing, where one is missing, left over or of another shape; `path` is where they
    come from.
    """
    state = network.state_dict()
    # counters that evaluation never reads, and that old files lack
    missing = [key for key in state if key not in weights and not key.endswith("num_batches_tracked")]
    unknown = [key for key in weights if key not in state]
    shapes = [
        f"{key} has shape {tuple(weights[key].shape)}, expected {tuple(state[key].shape)}"
        for key in state
        if key in weights and weights[key].shape != state[key].shape
    ]
    wrong = {"missing": missing, "not in the network": unknown, "wrong shape": shapes}
    faults = [f"{fault}: {first(names, 3)}" for fault, names in wrong.items() if names]
    if faults:
        raise DmbpError(f"{path}: these weights do not fit the network; {'; '.join(faults)}")
    network.load_state_dict({**state, **weights})
    return network


def save_weights(network: nn.Module, path: Path) -> None:
    """Write every parameter and buffer to the .npz file `path`, which appears whole or not at all."""
    arrays: dict[str, Any] = {key: value.numpy(force=True) for key, value in network.state_dict().items()}
    with whole(path) as partial:
        np.savez_compressed(partial, allow_pickle=False, **arrays)


def first(names: list[str], count: int) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def kind_of(value: object) -> str:
    """What a value is, for a message."""
    shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else None
    return shape or f"a value of type {type(value).__name__}"
