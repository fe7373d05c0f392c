"""Five images of a net, explained together: what the tests of `explain_all` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nets import traced
from torch import Tensor, nn

import dmbp
import linreg
from dmbp.runs import batches
from dmbp.runs.batches import Explained

TARGETS = [0, 2, 1, 1, 0]


def given(name: str) -> tuple[nn.Module, Tensor, linreg.OperatorGraph]:
    """A network, five inputs, and its graph."""
    t = traced(name)
    return t.model, torch.cat([t.x, 0.5 * t.x[:2].flip(-1)]), t.graph


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


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run_out(most: int, error: Callable[[], Exception]) -> Callable[..., dmbp.Result]:
    """An `explain` that takes no more images at once than `most`."""

    def explain(graph: linreg.OperatorGraph, x: Tensor, *rest: Any, **options: Any) -> dmbp.Result:
        if len(x) > most:
            raise error()
        return dmbp.explain(graph, x, *rest, **options)

    return explain
