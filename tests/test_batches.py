"""Many images: the same as one at a time, in any batches; resumed, refused and out of memory."""

from __future__ import annotations

import gc
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import NETS
from splits import recurred
from torch import Tensor, nn
from torch.utils.data import Dataset

import dmbp
import linreg
from dmbp import DmbpError
from dmbp.runs import batches
from dmbp.runs.batches import LEAST, MARGIN, MOST, SHARE, Explained, batch_size_within
from dmbp.runs.memory import available, footprint, is_out_of_memory
from dmbp.runs.shelf import digest

TARGETS = [0, 2, 1, 1, 0]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@cache
def given(name: str) -> tuple[nn.Module, Tensor, linreg.OperatorGraph]:
    """A network, five inputs, and its graph."""
    model, x = NETS[name]()
    return model, torch.cat([x, 0.5 * x[:2].flip(-1)]), linreg.trace(model, x)


def explained(name: str, images: Any = None, targets: Any = TARGETS, **options: Any) -> list[Explained]:
    _, x, graph = given(name)
    images = x if images is None else images
    return list(dmbp.explain_all(graph, images, targets, **({"iterations": 4, "progress": False} | options)))


def assert_same(a: list[Explained], b: list[Explained], rtol: float = 1e-10, atol: float = 1e-13) -> None:
    assert [value.index for value in a] == [value.index for value in b] == list(range(len(a)))
    for one, other in zip(a, b, strict=True):
        assert one.iterations == other.iterations and type(one.target) is type(other.target)
        for name in (*batches.SCORES, *batches.MAPS, "target"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=rtol, atol=atol, msg=name)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of `explain` gets."""
    calls: list[int] = []

    def explain(graph: linreg.OperatorGraph, x: Tensor, *rest: Any, **options: Any) -> dmbp.Result:
        calls.append(len(x))
        return dmbp.explain(graph, x, *rest, **options)

    monkeypatch.setattr(batches, "explain", explain)
    return calls


# ---- the same as one at a time ----


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("chain_with_biases", {}),
        ("residual_inner", {}),
        ("mobile", {"loss": "+-"}),
        ("pools", {"unmasked": "both"}),
        ("residual_outer", {"sites": "blocks", "lr": 0.05}),
        ("gates", {"tolerance": 0.2, "iterations": 60}),
        ("shortcut", {"loss": "none"}),
    ],
)
def test_any_batches_give_what_explain_gives_one_at_a_time(name: str, options: dict[str, Any]) -> None:
    _, x, graph = given(name)
    options = {"iterations": 20, "progress": False} | options
    results = [dmbp.explain(graph, x[n : n + 1], target, **options) for n, target in enumerate(TARGETS)]
    for size in (1, 2, 5, None):
        values = explained(name, batch_size=size, **options)
        assert [value.index for value in values] == [0, 1, 2, 3, 4] and [v.target for v in values] == TARGETS
        for value, result in zip(values, results, strict=True):
            for part in batches.SCORES:
                expected = getattr(result.split, part).item()
                assert getattr(value, part) == pytest.approx(expected, rel=1e-10, abs=1e-12)
            maps = (result.attribution, result.positive, result.negative, result.complete)
            for part, expected in zip(batches.MAPS, maps, strict=True):
                torch.testing.assert_close(getattr(value, part), expected[0], rtol=1e-10, atol=1e-12)
            assert value.iterations == result.iterations


def test_the_parts_of_a_score_add_up() -> None:
    """Those of the masks that are learned, by the recurrence, which takes none of them for what the others leave."""
    model, x, graph = given("mobile")
    lin = graph.linearize(x)
    masks = dmbp.learn_masks(lin, TARGETS, iterations=4, progress=False).masks
    parts, y = recurred(lin, masks, TARGETS), model(x)[range(5), TARGETS].detach()
    torch.testing.assert_close(parts.total, y, rtol=1e-12, atol=1e-12)
    for n, value in enumerate(explained("mobile")):
        assert value.y == pytest.approx(y[n].item(), rel=1e-12)
        for part in ("positive", "negative", "nuisance"):
            assert getattr(value, part) == pytest.approx(getattr(parts, part)[n].item(), rel=1e-10, abs=1e-12)
        total = value.positive_attribution + value.negative_attribution
        torch.testing.assert_close(value.attribution, total, rtol=1e-12, atol=1e-14)
        assert value.attribution.shape == x[n].shape and value.attribution.dtype == x.dtype
        assert repr(value).startswith(f"Explained(index={n}, target={TARGETS[n]}, y={value.y:.6g}, positive=")


class Pictures(Dataset[Tensor]):
    """A Dataset as PyTorch's guide writes it: no __iter__, and no IndexError at its end."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index % len(self.images)]


@pytest.mark.parametrize("traced", [True, False])
def test_images_come_from_anything_that_gives_tensors(traced: bool) -> None:
    model, x, graph = given("conv_bn")
    expected = explained("conv_bn", batch_size=2)
    forms: list[Callable[[], Any]] = [
        lambda: x, lambda: list(x), lambda: x.split(1), lambda: iter(x), lambda: (x[n : n + 1] for n in range(5)),
        lambda: Pictures(x), lambda: torch.utils.data.DataLoader(Pictures(x), batch_size=1),
        lambda: x.clone().requires_grad_(),
    ]  # fmt: skip
    for form in forms:
        values = dmbp.explain_all(graph if traced else model, form(), TARGETS, iterations=4, batch_size=2)
        assert_same(list(values), expected)


def test_one_channel_is_not_taken_for_a_batch_of_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).double()
    x = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    for images in (x, list(x), x.split(1)):
        values = list(dmbp.explain_all(model, images, 0, iterations=1))
        assert [value.attribution.shape for value in values] == [(1, 6, 6)] * 2


def test_no_images_give_nothing() -> None:
    assert explained("conv_bn", images=[]) == [] and explained("conv_bn", images=iter(()), targets=0) == []


def test_under_inference_mode() -> None:
    model, x, _ = given("conv_bn")
    with torch.inference_mode():
        values = list(dmbp.explain_all(model, x.clone(), TARGETS, iterations=4))
    assert_same(values, explained("conv_bn"))


def test_a_run_traces_once_and_reads_no_further_than_its_batch(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    model, x, _ = given("conv_bn")
    read, traced = [], []
    trace = linreg.trace
    monkeypatch.setattr(batches, "trace", lambda *given: traced.append(len(given[1])) or trace(*given))
    images = (read.append(n) or x[n] for n in range(5))  # type: ignore[func-returns-value]
    values = dmbp.explain_all(model, images, iter(TARGETS), iterations=2, batch_size=2)
    assert (read, traced) == ([], [])
    for n, upto in enumerate([2, 2, 4, 4, 5]):
        assert next(values).index == n and len(read) == upto
    assert next(values, None) is None
    assert (traced, sizes) == ([2], [2, 2, 1])


# ---- targets ----


def test_targets_of_all_kinds_at_once() -> None:
    _, x, graph = given("residual_inner")
    weights = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    targets = [2, weights, torch.tensor(1), np.int64(0), [0.5, 0.5, 0.0]]
    values = explained("residual_inner", targets=targets, batch_size=3)
    for n, target in enumerate(targets):
        alone = dmbp.explain(graph, x[n : n + 1], target, iterations=4, progress=False)  # type: ignore[arg-type]
        assert values[n].y == pytest.approx(alone.split.y.item(), rel=1e-12)
        torch.testing.assert_close(values[n].attribution, alone.attribution[0], rtol=1e-10, atol=1e-13)
    assert [value.target for value in values if isinstance(value.target, int)] == [2, 1, 0]
    assert torch.equal(torch.as_tensor(values[1].target), weights)


def test_one_target_serves_all() -> None:
    weights = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    for one, many in (
        (1, [1] * 5),
        (torch.tensor(1), torch.full((5,), 1)),
        (weights, weights.expand(5, 3)),
        (weights, [weights] * 5),
    ):
        assert_same(explained("conv_bn", targets=one), explained("conv_bn", targets=many))


def test_an_output_of_one_number_needs_no_target() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1), nn.Flatten(0)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    values = list(dmbp.explain_all(model, x, iterations=2))
    assert [value.y for value in values] == pytest.approx(model(x).tolist(), rel=1e-12)
    with pytest.raises(DmbpError, match=r"image 0: the output has shape \(3,\) for each image: say which score"):
        explained("conv_bn", targets=None)


# ---- a folder ----


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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


@pytest.mark.parametrize("name", ["chain", "residual_inner", "wiring", "selections", "constants"])
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


# ---- what cannot be explained ----


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_named_and_loses_nothing(value: float, tmp_path: Path, sizes: list[int]) -> None:
    _, x, graph = given("conv_bn")
    bad = x.clone()
    bad[3, 0, 0, 0] = value
    found: list[Explained] = []
    with pytest.raises(DmbpError, match="image 3 holds NaN or infinite values"):
        found.extend(dmbp.explain_all(graph, bad, TARGETS, iterations=4, batch_size=2, out=tmp_path))
    assert len(files(tmp_path)) == 2 and sizes == [2]
    assert_same(explained("conv_bn", out=tmp_path, batch_size=2), explained("conv_bn", batch_size=2))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda x: x[..., :-1], r"image 4 is \(3, 6, 5\) of torch.float64, and image 0 \(3, 6, 6\) of torch.float64"),
        (lambda x: x.float(), r"image 4 is \(3, 6, 6\) of torch.float32, and image 0 \(3, 6, 6\) of torch.float64"),
        (lambda x: x.numpy(), "image 4 must be a torch.Tensor, not ndarray"),
        (lambda x: (x, 3), r"image 4 must be a torch.Tensor, not tuple: of pairs give the first, \(x for x, label in"),
    ],
)
def test_an_image_unlike_the_first_is_named(bad: Callable[[Tensor], Any], message: str, sizes: list[int]) -> None:
    _, x, _ = given("conv_bn")
    with pytest.raises(DmbpError, match=message):
        explained("conv_bn", images=[*x[:4], bad(x[4])], batch_size=3)
    assert sizes == [3]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(5, 3, 6, 5).double(), {}, r"image 0: the input must have shape \(N, 3, 6, 6\), not \(1, 3, 6, 5"),
        (torch.zeros(5, 3, 6, 6), {}, "image 0: the input must be torch.float64 on cpu"),
        (torch.tensor(1.0), {}, "images must be a tensor .M, …. or an iterable of tensors, not one number"),
        (7, {}, "images must be a tensor .M, …. or an iterable of tensors, not int"),
        (None, {"targets": [0, 1]}, "there are 5 images, and 2 targets"),
        (None, {"targets": [0] * 6}, "there are 5 images, and 6 targets"),
        (None, {"targets": iter([0, 1]), "batch_size": 1}, "image 2 has no target: there are 2 targets only"),
        (None, {"targets": [0, 1, 7, 0, 0]}, r"image 2: class 7 does not exist: the output has 3 classes"),
        (None, {"targets": [0, "cat", 0, 0, 0]}, "image 1: target must be a class index"),
        (None, {"batch_size": 0}, "the batch size must be a whole number of at least 1, or None, not 0"),
        (None, {"batch_size": True}, "not True"),
        (None, {"loss": "best"}, "loss must be one of"),
        (None, {"iterations": -1}, "iterations must be a whole number"),
    ],
)
def test_what_cannot_be_done_is_said(images: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DmbpError, match=message):
        explained("conv_bn", images=images, **options)


def test_no_module_is_refused() -> None:
    with pytest.raises(DmbpError, match=r"expected a torch.nn.Module or a graph traced from one, not "):
        next(dmbp.explain_all(given, torch.zeros(2, 3), 0))  # type: ignore[arg-type]


# ---- memory ----


def test_footprint_is_the_most_that_is_held_at_one_time() -> None:
    outside = torch.zeros(1000)

    def compute() -> Tensor:
        a = outside.view(10, 100).T + 1  # 4000 bytes
        a.add_(1)  # in place
        b = torch.cat([a, a])[1:]  # 8000 more, held by a view: 12000
        del a
        c = b.sum()  # 4 more than 8000
        del b
        return outside[:500] + c  # 2000

    assert footprint(compute) == 12000
    assert footprint(lambda: outside.mul_(1).view(-1)) == 0
    assert footprint(lambda: [outside + n for n in range(3)]) == 12000
    assert footprint(lambda: [(outside + n).sum() for n in range(3)]) == 4000 + 3 * 4


@pytest.mark.parametrize("name", NETS)
def test_the_footprint_of_an_explanation_is_that_of_each_image(name: str) -> None:
    _, x, graph = given(name)
    gc.collect()
    one, four = (footprint(lambda n=n: dmbp.explain(graph, x[:n], 0, iterations=2, progress=False)) for n in (1, 4))
    held = sum(x.element_size() * math.prod(graph[site].shape) for site in dmbp.find_sites(graph))
    assert 5 * held <= one, "slopes, logits, squares, and the values of both passes"
    assert 3 * one < four < 5 * one, "one image alone needs a few copies less"


def test_batches_take_what_fits_and_no_more_than_gains() -> None:
    megabyte = 2**20
    assert batch_size_within(300 * megabyte, 10_000 * megabyte, CPU) == LEAST
    assert batch_size_within(300 * megabyte, 700 * megabyte, CPU) == 2
    assert batch_size_within(300 * megabyte, 100 * megabyte, CPU) == 1
    assert batch_size_within(16 * megabyte, 10_000 * megabyte, CPU) == 16
    assert batch_size_within(0, 10_000 * megabyte, CPU) == MOST
    assert batch_size_within(300 * megabyte, 30_000 * megabyte, CUDA) == 100
    assert batch_size_within(megabyte, 10_000 * megabyte, CUDA) == MOST


def test_the_batch_is_what_the_free_memory_allows(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    _, x, graph = given("conv_bn")
    expected = explained("conv_bn", batch_size=1)
    options = {"iterations": 1, "compiled": False, "progress": False}
    image = footprint(lambda: dmbp.explain(graph, x[:1], TARGETS[:1], **options))  # type: ignore[arg-type]
    for free, batch in ((int(3.7 * image * MARGIN / SHARE), [3, 2]), (10, [1] * 5), (None, [4, 1])):
        monkeypatch.setattr(batches, "available", lambda device, free=free: free)
        sizes.clear()
        assert_same(explained("conv_bn"), expected)
        assert sizes == [1, *batch], "one image first, to see what it takes"


def test_free_memory_is_known_of_a_cpu() -> None:
    free = available(CPU)
    assert free is not None and 2**20 < free < 2**50
    assert available(torch.device("meta")) is None


def run_out(most: int, error: Callable[[], Exception]) -> Callable[..., dmbp.Result]:
    def explain(graph: linreg.OperatorGraph, x: Tensor, *rest: Any, **options: Any) -> dmbp.Result:
        if len(x) > most:
            raise error()
        return dmbp.explain(graph, x, *rest, **options)

    return explain


def on_a_cpu() -> Exception:
    try:
        torch.empty(2**55)
    except RuntimeError as error:
        return error
    raise AssertionError


ERRORS: list[Callable[[], Exception]] = [lambda: torch.OutOfMemoryError("CUDA out of memory"), MemoryError, on_a_cpu]


@pytest.mark.parametrize("error", ERRORS)
def test_batches_are_halved_where_memory_runs_out(
    error: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sizes: list[int]
) -> None:
    expected = explained("conv_bn", batch_size=5)
    assert is_out_of_memory(error())
    sizes.clear()
    counted = batches.explain
    run = run_out(1, error)
    monkeypatch.setattr(batches, "explain", lambda *a, **k: [counted(*a, **k | {"iterations": 0}), run(*a, **k)][1])
    assert_same(explained("conv_bn", batch_size=5, out=tmp_path), expected)
    assert sizes == [5, 2, 1, 1, 1, 1, 1], "and what is done stays done"
    assert len(files(tmp_path)) == 5


@pytest.mark.parametrize("size", [None, 1, 2])
def test_one_image_that_does_not_fit_is_named(size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "explain", run_out(0, MemoryError))
    with pytest.raises(DmbpError, match="image 0: the memory of cpu is too small for it, alone: free some"):
        explained("conv_bn", batch_size=size)


def test_other_failures_are_not_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "explain", run_out(0, lambda: RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        explained("conv_bn", batch_size=2)


def test_what_failed_is_freed_before_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """The traceback of the error would hold the tensors of the batch that was too large."""
    alive: list[int] = []

    class Held:
        def __init__(self) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    def explain(graph: linreg.OperatorGraph, x: Tensor, *rest: Any, **options: Any) -> dmbp.Result:
        assert not alive
        held = Held()  # noqa: F841
        if len(x) > 1:
            raise torch.OutOfMemoryError
        return dmbp.explain(graph, x, *rest, **options)

    monkeypatch.setattr(batches, "explain", explain)
    assert len(explained("conv_bn", batch_size=4)) == 5


# ---- a network of one batch size ----


class OfThree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.reshape(3, 4)).relu())


@pytest.mark.parametrize("images", [1, 3, 5])
@pytest.mark.parametrize("size", [None, 3])
def test_a_fixed_batch_is_filled_up_with_copies(images: int, size: int | None, sizes: list[int]) -> None:
    torch.manual_seed(0)
    model, x = OfThree().double(), torch.randn(5, 4, dtype=torch.float64)[:images]
    free = nn.Sequential(model.first, nn.ReLU(), model.second)
    graph = linreg.trace(model, torch.randn(3, 4, dtype=torch.float64))
    assert graph.batch == 3
    expected = list(dmbp.explain_all(free, x, TARGETS[:images], iterations=4, batch_size=1))
    sizes.clear()
    assert_same(list(dmbp.explain_all(graph, x, TARGETS[:images], iterations=4, batch_size=size)), expected)
    assert sizes == [3] * -(-images // 3)


def test_a_fixed_batch_is_traced_with_the_batch_size_and_takes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = OfThree().double(), torch.randn(5, 4, dtype=torch.float64)
    assert len(list(dmbp.explain_all(model, x, 0, iterations=1, batch_size=3))) == 5
    graph = linreg.trace(model, x[:3])
    with pytest.raises(DmbpError, match="takes batches of 3 images only: leave out batch_size=2"):
        next(dmbp.explain_all(graph, x, 0, batch_size=2))
    monkeypatch.setattr(batches, "explain", run_out(2, MemoryError))
    with pytest.raises(DmbpError, match="image 0: the memory of cpu is too small for it, a batch of 3: free some"):
        list(dmbp.explain_all(graph, x, 0))


# ---- progress ----


def test_the_bar_counts_images_and_shows_the_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, bars = io.StringIO(), []

    class Bar(batches.tqdm):  # type: ignore[misc, name-defined]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options | {"disable": False, "file": stream, "mininterval": 0})
            bars.append(self)

    monkeypatch.setattr(batches, "tqdm", Bar)
    counts = [bars[0].n for _ in stream_of("conv_bn")]
    assert counts == [1, 2, 3, 4, 5] and bars[0].total == 5
    assert "2/5" in stream.getvalue() and "iteration 3 of 4" in stream.getvalue()
    values = stream_of("conv_bn")
    next(values)
    values.close()  # type: ignore[attr-defined]
    assert bars[1].disable, "closed"


def stream_of(name: str) -> Iterator[Explained]:
    _, x, graph = given(name)
    return dmbp.explain_all(graph, x, TARGETS, iterations=4, batch_size=2)


def test_without_progress_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    explained("conv_bn", progress=False)
    assert capfd.readouterr() == ("", "")
