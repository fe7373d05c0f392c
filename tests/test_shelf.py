"""A run's folder: what is written is read again, resumed, or refused where it was made from something else."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from many import TARGETS, assert_same, explained, files, given
from nets import NETS
from torch import Tensor, nn

import dmbp
import linreg
from dmbp import DmbpError
from dmbp.runs.batches import Explained
from dmbp.runs.shelf import digest


def test_what_is_written_is_what_is_read(tmp_path: Path, sizes: list[int]) -> None:
    weights = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    options: dict[str, Any] = {"targets": [0, weights, 2, 1, weights], "out": tmp_path / "a" / "b", "batch_size": 2}
    first = explained("conv_bn", **options)
    assert files(tmp_path / "a" / "b") == [f"{n:06d}.npz" for n in range(5)]
    assert sizes == [2, 2, 1]
    again = explained("conv_bn", **options | {"batch_size": 5, "compiled": False})
    assert sizes == [2, 2, 1], "nothing is computed twice"
    assert_same(again, first, rtol=0, atol=0)


@pytest.mark.parametrize("where", ["between batches", "while learning"])
def test_an_interrupted_run_goes_on(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    expected = explained("conv_bn", batch_size=2)
    sizes.clear()
    step, steps = dmbp.learning.descent.Descent.backward, []  # type: ignore[attr-defined]

    def interrupted(*given: Any) -> None:
        steps.append(1)
        if len(steps) == 7:  # of four for each batch
            raise KeyboardInterrupt
        step(*given)

    found: list[Explained] = []
    with monkeypatch.context() as patch:
        patch.setattr(dmbp.learning.descent.Descent, "backward", interrupted)  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            _, x, graph = given("conv_bn")
            for value in dmbp.explain_all(graph, x, TARGETS, iterations=4, batch_size=2, out=tmp_path, progress=False):
                found.append(value)
                if where == "between batches" and len(found) == 1:
                    raise KeyboardInterrupt
    assert len(found) == (1 if where == "between batches" else 2)
    assert files(tmp_path) == ["000000.npz", "000001.npz"], "the whole batch is kept, and nothing half done"
    sizes.clear()
    assert_same(explained("conv_bn", batch_size=2, out=tmp_path), expected)
    assert sizes == [2, 1]


def test_only_what_is_missing_is_computed(tmp_path: Path, sizes: list[int]) -> None:
    expected = explained("conv_bn", out=tmp_path, batch_size=5)
    for n in (1, 3):
        (tmp_path / f"{n:06d}.npz").unlink()
    sizes.clear()
    assert_same(explained("conv_bn", out=tmp_path, batch_size=4), expected)
    assert sizes == [2]


def test_without_a_batch_size_a_finished_run_computes_nothing(tmp_path: Path, sizes: list[int]) -> None:
    expected = explained("conv_bn", out=tmp_path)
    sizes.clear()
    assert_same(explained("conv_bn", out=tmp_path), expected)
    assert sizes == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"iterations": 5}, r"000000.npz was made from another iterations \(4, not 5\): give another folder with"),
        ({"loss": "+", "lr": 0.02}, r"another loss \('all', not '\+'\), lr \(0.01, not 0.02\)"),
        ({"sites": "blocks"}, r"another sites \('gates', not 'blocks'\)"),
        ({"unmasked": "both"}, "another unmasked"),
        ({"tolerance": 0.1}, "another tolerance"),
        ({"precision": "bf16"}, "another precision"),
    ],
)
def test_a_folder_of_other_options_is_refused(
    changed: dict[str, Any], message: str, tmp_path: Path, sizes: list[int]
) -> None:
    explained("conv_bn", out=tmp_path, batch_size=5)
    (tmp_path / "000003.npz").unlink()
    sizes.clear()
    with pytest.raises(DmbpError, match=message):
        explained("conv_bn", out=tmp_path, batch_size=5, **changed)
    assert sizes == [] and len(files(tmp_path)) == 4


def test_a_folder_of_another_network_image_or_target_is_refused(tmp_path: Path, sizes: list[int]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x = torch.randn(3, 4, dtype=torch.float64)

    def run(x: Tensor = x, targets: Any = 0) -> list[Explained]:
        return list(dmbp.explain_all(model, x, targets, iterations=2, out=tmp_path, batch_size=2))

    run()
    sizes.clear()
    with pytest.raises(DmbpError, match=r"000002.npz was made from another image: give"):
        run(torch.cat([x[:2], x[2:] + 1e-15]))
    with pytest.raises(DmbpError, match=r"000001.npz was made from another target: give"):
        run(targets=[0, 1, 0])
    with torch.no_grad():
        model[2].bias[1] += 1e-15
    with pytest.raises(DmbpError, match=r"000000.npz was made from another network: give"):
        run()
    assert sizes == []


@pytest.mark.parametrize("kind", ["empty", "text", "cut short", "foreign", "pickle", "not described"])
def test_a_broken_file_is_named_before_any_work(kind: str, tmp_path: Path, sizes: list[int]) -> None:
    explained("conv_bn", out=tmp_path, batch_size=5)
    path = tmp_path / "000004.npz"
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello"}.get(kind, whole[: len(whole) // 2]))
    if kind == "foreign":
        np.savez(path, attribution=np.zeros(3))
    if kind == "pickle":
        np.savez(path, made=np.array([{}], dtype=object))
    if kind == "not described":
        np.savez(path, made=np.array("[]"))
    (tmp_path / "000000.npz").unlink()
    sizes.clear()
    with pytest.raises(DmbpError, match=r"000004.npz is broken, or no file of explain_all: delete it, or give another"):
        explained("conv_bn", out=tmp_path, batch_size=2)
    assert sizes == []


def test_other_files_and_leftovers_do_not_matter(tmp_path: Path) -> None:
    others = {"1b5e.partial.npz", "notes.npz", "notes.txt"}
    for name in others:
        (tmp_path / name).write_text("hello")
    assert len(explained("conv_bn", out=tmp_path)) == 5
    assert set(files(tmp_path)) == others | {f"{index:06d}.npz" for index in range(5)}


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    savez = np.savez

    def full(path: Path, **arrays: Any) -> None:
        savez(path, **arrays)
        path.write_bytes(path.read_bytes()[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DmbpError, match=r"cannot write .*000000.npz: No space left on device"):
        explained("conv_bn", out=tmp_path)
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_refused_at_the_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _, x, graph = given("conv_bn")
    with pytest.raises(DmbpError, match=r"cannot write to .*file: File exists"):
        dmbp.explain_all(graph, x, 0, out=tmp_path / "file")


def test_networks_have_digests_of_their_own() -> None:
    assert len({digest(given(name)[2]) for name in NETS}) == len(NETS)


@pytest.mark.parametrize("name", ["residual_inner", "selections", "constants"])
def test_a_digest_is_of_all_weights_and_of_nothing_else(name: str) -> None:
    model, x, graph = given(name)
    assert digest(linreg.trace(model, x[:1])) == digest(graph)
    changed = NETS[name]()[0]
    with torch.no_grad():
        parameter = next(changed.parameters())
        parameter.view(-1)[0] += 1e-12
    assert digest(linreg.trace(changed, x)) != digest(graph)


@pytest.mark.parametrize("name", ["gates", "wiring", "selections"])
def test_a_digest_is_of_no_label(name: str) -> None:
    graph = given(name)[2]

    def relabelled(node: linreg.Node) -> linreg.Node:
        constants = tuple(replace(constant, kind="constant") for constant in getattr(node.operator, "constants", ()))
        own = {field.name for field in fields(node.operator)}  # type: ignore[arg-type]
        new = {"kind": "unit", "constants": constants}
        return replace(node, operator=replace(node.operator, **{key: new[key] for key in own & new.keys()}))

    other = replace(graph, nodes=tuple(map(relabelled, graph.nodes)))
    assert any(a.operator.kind != b.operator.kind for a, b in zip(graph.nodes, other.nodes, strict=True))
    assert digest(other) == digest(graph)


def test_digests_of_tensors_are_of_their_numbers_shape_and_dtype() -> None:
    x = torch.arange(6.0)
    assert digest(x) == digest(x.clone()) == digest(torch.arange(12.0)[:6]) == digest(torch.arange(6.0))
    assert digest(x.view(2, 3).T) == digest(x.view(2, 3).T.contiguous())
    others = [x.view(2, 3), x.double(), x.int(), x + 1e-6, x.bfloat16(), torch.tensor(0.0), torch.empty(0)]
    assert len({digest(other) for other in (x, *others)}) == 8
