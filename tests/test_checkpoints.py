"""Files of weights as trainers write them, compared before they are read; each oracle is the network that was saved."""

from __future__ import annotations

import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from safetensors.torch import save_file
from torch import Tensor, nn

from dmbp import DmbpError
from dmbp.models import read_weights
from dmbp.models.weights import load_weights

State = dict[str, Tensor]


class Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.body, self.norm, self.head = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


class Lightning(nn.Module):
    """One whose own names begin with a trainer's prefix."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.model = Net(seed)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def equal(network: nn.Module, state: State) -> bool:
    return all(torch.equal(network.state_dict()[name], value) for name, value in state.items())


WRAPPERS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"lr": 0.1}},
    "model": lambda state: {"model": state, "step": 7},
    "model.state_dict": lambda state: {"model": {"state_dict": state, "version": 2}},
}
PREFIXES = ["", "module.", "model.", "_orig_mod.", "net.", "_orig_mod.module.", "module.model.net."]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pth.tar", ".bin"])
@pytest.mark.parametrize("under", WRAPPERS)
def test_as_trainers_write_them(suffix: str, under: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for old in (False, True):
        for prefix in PREFIXES if suffix in (".ckpt", ".pt") else PREFIXES[:2]:
            state = Net(1).state_dict()
            path = tmp_path / f"w{suffix}"
            torch.save(WRAPPERS[under](prefixed(state, prefix)), path, _use_new_zipfile_serialization=not old)
            assert equal(load_weights(Net(2), path), state)
            said = capsys.readouterr().err.splitlines()
            assert len(said) == (under != "plain") + bool(prefix)
            assert all(line.startswith(f"{path}: ") for line in said)
            assert not prefix or f"the prefix {prefix!r} of all its names was taken off" in said[-1]
            assert under == "plain" or f"under {under!r} was read" in said[0]


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_a_prefix_that_is_the_networks_own_stays(prefix: str, tmp_path: Path) -> None:
    state = Lightning(1).state_dict()
    torch.save(prefixed(state, prefix), tmp_path / "w.pt")
    assert equal(load_weights(Lightning(2), tmp_path / "w.pt"), state)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_prefixes_in_other_files(suffix: str, tmp_path: Path) -> None:
    state = Net(1).state_dict()
    path = tmp_path / f"w{suffix}"
    named = prefixed(state, "module.")
    if suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in named.items()})
    else:
        save_file(named, path)
    assert equal(load_weights(Net(2), path), state)


def test_a_prefix_of_some_names_only_is_told_as_a_misfit(tmp_path: Path) -> None:
    state = Net(1).state_dict()
    torch.save(prefixed(state, "module.") | {"criterion.weight": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(DmbpError, match=r"not in the network: module.body.weight"):
        load_weights(Net(2), tmp_path / "w.pt")


def huge(path: Path, shape: tuple[int, ...], count: int) -> None:
    """An .npz of names and of one array that inflates to gigabytes of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, value in Net(1).state_dict().items():
            if name == "body.weight":
                continue
            with archive.open(f"{name}.npy", "w") as entry:
                npy.write_array(entry, value.numpy())
        with archive.open("body.weight.npy", "w", force_zip64=True) as entry:
            npy.write_array_header_1_0(entry, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for _ in range(count):
                entry.write(bytes(2**22))


def test_names_and_shapes_are_compared_before_anything_is_read(tmp_path: Path) -> None:
    """A file of 256 MB of zeros, in 1 MB: refused within a few MB."""
    huge(tmp_path / "w.npz", (64, 2**20), 64)
    assert (tmp_path / "w.npz").stat().st_size < 2**21
    network = Net(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    tracemalloc.start()
    with pytest.raises(DmbpError, match=r"wrong shape: body.weight has shape \(64, 1048576\), expected \(3, 4\)"):
        load_weights(network, tmp_path / "w.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23 and equal(network, before)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_files_that_are_cut_short(suffix: str, tmp_path: Path) -> None:
    """At every tenth of their length; of a file of plain tensors nobody says that it could execute code."""
    state, path = Net(1).state_dict(), tmp_path / f"w{suffix}"
    if suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    else:
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    content = path.read_bytes()
    for tenth in range(10):
        path.write_bytes(content[: len(content) * tenth // 10])
        with pytest.raises(DmbpError, match=r"no file of plain tensors, or broken, or cut short \(") as refused:
            load_weights(Net(2), path)
        assert "execute" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool])
def test_whole_numbers_are_no_weights_of_a_network_of_others(dtype: torch.dtype, tmp_path: Path) -> None:
    state = Net(1).state_dict()
    torch.save(state | {"head.weight": (100 * state["head.weight"]).to(dtype)}, tmp_path / "w.pt")
    network = Net(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(DmbpError, match=rf"head.weight is of {dtype}, and the network's of torch.float32: a quantized"):
        load_weights(network, tmp_path / "w.pt")
    assert equal(network, before)
    torch.save({name: value.half() if value.is_floating_point() else value for name, value in state.items()},
               tmp_path / "w.pt")  # fmt: skip
    assert load_weights(network, tmp_path / "w.pt").state_dict()["head.weight"].dtype == torch.float32


class Hyperparameters:
    """What a trainer pickles beside its weights."""


def test_what_would_run_code_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": Net(1).state_dict(), "hparams": Hyperparameters()}, tmp_path / "w.ckpt")
    with pytest.raises(DmbpError, match=r"could execute code \(it names .*Hyperparameters\); save plain tensors"):
        load_weights(Net(2), tmp_path / "w.ckpt")


def test_without_a_standard_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": Net(1).state_dict()}, tmp_path / "w.pt")
    monkeypatch.setattr(sys, "stderr", None)
    assert equal(load_weights(Net(2), tmp_path / "w.pt"), Net(1).state_dict())


def test_a_dict_of_other_things(tmp_path: Path) -> None:
    """A tensor called "model" is no wrapper, and what is read alone is what is there."""
    state: dict[str, Any] = {"model": torch.ones(2), "other": torch.zeros(1)}
    torch.save(state, tmp_path / "w.bin")
    assert {name: value.tolist() for name, value in read_weights(tmp_path / "w.bin").items()} == {
        "model": [1, 1], "other": [0],
    }  # fmt: skip
