"""Weights: read from a file without running code, put into a network whole or not at all, and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dmbp.errors import DmbpError
from dmbp.files import say, whole
from dmbp.models.checkpoints import Content, opened
from dmbp.models.words import first, kind_of

PREFIXES = ("module.", "model.", "_orig_mod.", "net.")  # what trainers and wrappers put before every name
UNREAD = "num_batches_tracked"  # counters that evaluation never reads, and that old files lack
Rename = Callable[[str], str]


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors in a file of weights, by name, on the CPU. No pickled code is run.

    It ends in .safetensors, .npz, .pt, .pth, .ckpt, .pth.tar or .bin. Where a trainer put the weights under
    "state_dict", "model_state_dict" or "model", these alone are read. Raises `DmbpError` for another kind of file, for
    anything but plain tensors, and for NaN or infinity.
    """
    return _checked(opened(Path(path)))


def load_weights(network: nn.Module, path: Path, rename: Rename = str) -> nn.Module:
    """`network`, filled with the weights in a file, under names changed by `rename`.

    Prefixes that all names share ("module.", "model.", "_orig_mod.", "net.") are taken off where the network's have
    none; each thing done is said in a line on standard error. Names and shapes are compared before any number is read.
    Raises `DmbpError` as `read_weights` and `fill`, and replaces nothing then.
    """
    content = opened(path)
    prefix = _prefix(content.shapes, network.state_dict(), rename)

    def named(name: str) -> str:
        return rename(name.removeprefix(prefix))

    _check_fit(network, {named(name): shape for name, shape in content.shapes.items()}, path)
    weights = {named(name): value for name, value in _checked(content).items()}
    filled = fill(network, weights, path)
    notes = [f"what it holds under {content.under!r} was read"] * bool(content.under)
    notes += [f"the prefix {prefix!r} of all its names was taken off"] * bool(prefix)
    for note in notes:
        say(f"{path}: {note}")
    return filled


def fill(network: nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> nn.Module:
    """`network`, its every parameter and buffer replaced by the one of its name.

    Raises `DmbpError`, and replaces nothing, where one is missing, left over, of another shape, or of whole numbers
    where the network's is of others; `path` is where they come from.
    """
    _check_fit(network, {name: tuple(value.shape) for name, value in weights.items()}, path)
    state = network.state_dict()
    for name, value in weights.items():
        if state[name].is_floating_point() and not value.is_floating_point():
            raise DmbpError(
                f"{path}: {name} is of {value.dtype}, and the network's of {state[name].dtype}: a quantized file must "
                "be turned into floating-point weights first"
            )
    network.load_state_dict({**state, **weights})
    return network


def _checked(content: Content) -> dict[str, torch.Tensor]:
    weights = content.read()
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor):
            raise DmbpError(f"{content.path}: expected only tensors, by name; {name!r} is {kind_of(value)}")
        if not value.isfinite().all():
            raise DmbpError(f"{content.path}: the tensor {name!r} holds NaN or infinity")
    return weights


def _check_fit(network: nn.Module, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raise DmbpError unless a file has all weights of the network, in their shapes, and no others."""
    state = network.state_dict()
    missing = [key for key in state if key not in shapes and not key.endswith(UNREAD)]
    unknown = [key for key in shapes if key not in state]
    unlike = [
        f"{key} has shape {shapes[key]}, expected {tuple(state[key].shape)}"
        for key in state
        if key in shapes and shapes[key] != tuple(state[key].shape)
    ]
    wrong = {"missing": missing, "not in the network": unknown, "wrong shape": unlike}
    faults = [f"{fault}: {first(names, 3)}" for fault, names in wrong.items() if names]
    if faults:
        raise DmbpError(f"{path}: these weights do not fit the network; {'; '.join(faults)}")


def _prefix(names: Iterable[str], state: Mapping[str, Any], rename: Rename) -> str:
    """The shortest start made of PREFIXES, shared by all names, without which most of them are the network's."""
    names, prefix, candidates = list(names), "", [""]
    while found := next((p for p in PREFIXES if names and all(n.startswith(prefix + p) for n in names)), None):
        prefix += found
        candidates.append(prefix)
    return max(candidates, key=lambda start: sum(rename(name.removeprefix(start)) in state for name in names))


def save_weights(network: nn.Module, path: Path) -> None:
    """Write every parameter and buffer to the .npz file `path`, which appears whole or not at all."""
    arrays: dict[str, Any] = {key: value.numpy(force=True) for key, value in network.state_dict().items()}
    with whole(path) as partial:
        np.savez_compressed(partial, allow_pickle=False, **arrays)
