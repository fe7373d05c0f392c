"""Many images: the same as one at a time, in any batches, from anything that gives them; and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from many import TARGETS, assert_same, explained, files, given
from splits import recurred
from torch import Tensor, nn
from torch.utils.data import Dataset

import dmbp
from dmbp import DmbpError
from dmbp.runs import batches, several
from dmbp.runs.batches import Explained

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
    options = {"iterations": 8, "progress": False} | options
    results = [dmbp.explain(graph, x[n : n + 1], target, **options) for n, target in enumerate(TARGETS)]
    for size in (1, 2, None):
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


def test_images_come_from_anything_that_gives_tensors() -> None:
    model, x, graph = given("conv_bn")
    expected = explained("conv_bn", batch_size=2)
    forms: list[Callable[[], Any]] = [
        lambda: x, lambda: list(x), lambda: x.split(1), lambda: iter(x), lambda: (x[n : n + 1] for n in range(5)),
        lambda: Pictures(x), lambda: torch.utils.data.DataLoader(Pictures(x), batch_size=1),
        lambda: x.clone().requires_grad_(),
    ]  # fmt: skip
    for network, some in ((graph, forms), (model, forms[:5:2])):  # a model is traced each time
        for form in some:
            values = dmbp.explain_all(network, form(), TARGETS, iterations=4, batch_size=2)
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
    graph_at = several.graph_at
    monkeypatch.setattr(several, "graph_at", lambda *given: traced.append(len(given[1])) or graph_at(*given))
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
        (lambda x: x.numpy(), "image 4 must be a torch.Tensor, or a pair of one and its class, not ndarray"),
        (lambda x: {"x": x}, r"image 4 must be a torch.Tensor, or a pair of one and its class, not dict"),
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
