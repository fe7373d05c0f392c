"""How many images at once: what fits the memory, what is done where it runs out, and what a network fixes."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from many import TARGETS, assert_same, explained, files, given, run_out
from torch import Tensor, nn

import dmbp
import linreg
from dmbp import DmbpError
from dmbp.runs import batches
from dmbp.runs.batches import LEAST, MARGIN, MOST, SHARE, batch_size_within
from dmbp.runs.memory import available, footprint, is_out_of_memory

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

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


@pytest.mark.parametrize("name", ["chain_with_biases", "residual_inner", "mobile", "pools", "selections"])
def test_the_footprint_of_an_explanation_is_that_of_each_image(name: str) -> None:
    _, x, graph = given(name)
    gc.collect()
    one, four = (footprint(lambda n=n: dmbp.explain(graph, x[:n], 0, iterations=2, progress=False)) for n in (1, 4))
    held = sum(x.element_size() * math.prod(graph[site].shape) for site in dmbp.find_sites(graph))
    assert 5 * held <= one, "slopes, logits, squares, and the values of both passes"
    assert 3 * one < four < 5 * one, "one image alone needs a few copies less"


FAULTS = """
import resource, sys, torch
from dmbp.runs.memory import keep_freed

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages()
print(pages(), keep_freed(), pages(), pages())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems keep memory by rules of their own")
def test_memory_that_tensors_give_back_is_taken_again() -> None:
    before, kept, _, after = subprocess.check_output([sys.executable, "-c", FAULTS], text=True).split()
    if kept != "True":
        pytest.skip("a C library without mallopt")
    assert int(before) >= 8 * 2**26 / 2**21, "a page is at most 2 MiB"
    assert int(after) < int(before) / 8


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


@cache
def of_three() -> tuple[OfThree, Tensor, linreg.OperatorGraph, linreg.OperatorGraph]:
    """The network, five inputs, its graph, and that of the same network without its fixed batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = OfThree().double(), torch.randn(5, 4, dtype=torch.float64)
    free = nn.Sequential(model.first, nn.ReLU(), model.second)
    return model, x, linreg.trace(model, x[:3]), linreg.trace(free, x)


@pytest.mark.parametrize("images", [1, 3, 5])
@pytest.mark.parametrize("size", [None, 3])
def test_a_fixed_batch_is_filled_up_with_copies(images: int, size: int | None, sizes: list[int]) -> None:
    _, x, graph, free = of_three()
    assert graph.batch == 3 and free.batch is None
    x = x[:images]
    expected = list(dmbp.explain_all(free, x, TARGETS[:images], iterations=4, batch_size=1))
    sizes.clear()
    assert_same(list(dmbp.explain_all(graph, x, TARGETS[:images], iterations=4, batch_size=size)), expected)
    assert sizes == [3] * -(-images // 3)


def test_a_fixed_batch_is_traced_with_the_batch_size_and_takes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, graph, _ = of_three()
    assert len(list(dmbp.explain_all(model, x, 0, iterations=1, batch_size=3))) == 5
    with pytest.raises(DmbpError, match="takes batches of 3 images only: leave out batch_size=2"):
        next(dmbp.explain_all(graph, x, 0, batch_size=2))
    monkeypatch.setattr(batches, "explain", run_out(2, MemoryError))
    with pytest.raises(DmbpError, match="image 0: the memory of cpu is too small for it, a batch of 3: free some"):
        list(dmbp.explain_all(graph, x, 0))
