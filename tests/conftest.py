"""What the tests share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import vision  # noqa: F401  (makes torchvision importable)
from torch import Tensor

import dmbp
import linreg
from dmbp.runs import batches

# The nets are tiny: a second thread gains nothing, and costs fifty times as much where the cores are busy.
torch.set_num_threads(1)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of `explain` gets."""
    calls: list[int] = []

    def explain(graph: linreg.OperatorGraph, x: Tensor, *rest: Any, **options: Any) -> dmbp.Result:
        calls.append(len(x))
        return dmbp.explain(graph, x, *rest, **options)

    monkeypatch.setattr(batches, "explain", explain)
    return calls
