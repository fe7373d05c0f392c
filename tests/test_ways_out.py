"""Refusals that lead on: what stands in the way, where, and what to do; nothing of other projects' matters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from approx import values
from nets import Lambda, seeded
from torch import Tensor, nn

import linreg
from linreg import LinregError


@dataclasses.dataclass
class Out:
    logits: Tensor


class Scores(dict[str, Tensor]):
    """As some libraries return them."""


def linear() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU()))


def embedded(x: Tensor) -> Tensor:
    return torch.cat([nn.functional.embedding(x[:, 0].abs().long(), torch.eye(9).double()), x[:, 1:]], 1).relu()


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "dataclass": (lambda: Lambda(lambda x: Out(x.relu())), r"not Out: return its scores: .*`model\(x\)\.logits`"),  # type: ignore[arg-type, return-value]
    "dict of its own": (lambda: Lambda(lambda x: Scores(a=x.relu())), r"return its scores: .*`model\(x\)\['a'\]`"),  # type: ignore[arg-type, return-value]
    "data": (lambda: Lambda(lambda x: x.data.relu()), r"(?s)by `\.data`.*write \.detach\(\).*  at .+py:\d+: "),
    "category": (lambda: Lambda(embedded), r"(?s)fix the categorical part: embed it outside.*  at .+py:\d+: "),
    "exported": (lambda: torch.export.export(linear(), (values(2, 4),)), r"ExportedProgram: give program\.module\(\)"),
    "meta": (lambda: nn.Linear(4, 3, device="meta", dtype=torch.float64), r"on meta: .*load them with load_state_dict"),
    "sparse": (lambda: Lambda(lambda x, a: x @ a, a=torch.eye(4).double().to_sparse()), r"'a' is stored as a sparse"),
    "a choice": (lambda: Lambda(lambda x: x if x.sum() > 0 else -x), "torch.where"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_leads_on(case: str) -> None:
    build, words = CASES[case]
    with pytest.raises(LinregError, match=words) as caught:
        linreg.trace(build(), values(2, 4))
    assert not any(word in str(caught.value).lower() for word in ("github", "file an issue", "numpy", "pytree"))


def test_an_example_without_values() -> None:
    with pytest.raises(LinregError, match="device meta, which holds no values"):
        linreg.trace(nn.Linear(4, 3, device="meta"), torch.zeros(2, 4, device="meta"))


def test_within_vmap() -> None:
    model = linear()
    graph = linreg.trace(model, values(2, 4))
    for function in (lambda z: graph(z[None]), lambda z: linreg.trace(model, z[None])(z[None])):
        with pytest.raises(LinregError, match=r"within torch\.vmap, .*outside of it, a batch at once"):
            torch.vmap(function)(values(2, 4))


def test_single_precision_that_is_too_coarse() -> None:
    """A batch norm that takes a large mean off again: folded in, it rounds otherwise; in double it is taken."""
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))).float()
    with torch.no_grad():
        model[0].bias += 3e6  # type: ignore[index, operator]
        model[1].running_mean += 3e6  # type: ignore[index, operator]
    with pytest.raises(LinregError, match=r"float32 is too coarse for this network: .*model\.double\(\)"):
        linreg.trace(model, values(3, 4).float())
    assert linreg.trace(model.double(), values(3, 4)).batch is None


class Tagged(torch.Tensor):
    """A tensor with metadata, as MONAI's MetaTensor, whose methods are not torch's."""

    def new_empty(self, size: Any, **options: Any) -> Tensor:
        raise TypeError("argument 'size' must be a tuple of ints")


def test_a_tensor_of_a_subclass_is_its_tensor() -> None:
    model, x = linear(), values(2, 4)
    graph = linreg.trace(model, x.as_subclass(Tagged))
    lin = graph.linearize(x[:1].as_subclass(Tagged))
    assert type(lin.output) is Tensor and torch.equal(lin.matrix(), linreg.trace(model, x).linearize(x[:1]).matrix())
    assert torch.equal(graph(nn.Parameter(x)), graph(x))


# ---- the graph's own module, taken further ----


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch._dynamo, as it is loaded
def test_a_module_is_exported_strictly_compiled_and_traced_again() -> None:
    model = Lambda(lambda x: torch.where(x.flip(1) > 0, x, 2 * x)[:, :3].relu().topk(2, 1).values.sum(1, keepdim=True))
    x = values(2, 4)
    network, plain = linreg.trace(model, x).to_module(), Lambda(lambda x: torch.where(x.flip(1) > 0, x, 2 * x))
    expected = network(x)
    assert torch.equal(torch.export.export(network, (x,), strict=True).module()(x), expected)
    assert torch.equal(torch.compile(network, fullgraph=True, backend="eager")(x), expected)
    again = linreg.trace(linreg.trace(plain, x).to_module(), x)
    assert again.batch is None and torch.equal(again(values(5, 4)), plain(values(5, 4)))
