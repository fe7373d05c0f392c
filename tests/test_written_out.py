"""Norms of p = 1 and ∞, recurrences of ReLU, groups by fixed indices, what is asked of finite data: by autograd."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
import torch
import torch.nn.functional as F
from agrees import assert_agrees
from approx import values
from nets import Lambda, seeded
from torch import Tensor, nn

import linreg
from linreg import LinregError

GROUPS = torch.tensor([0, 2, 2, 1, 0, 1])
PLACES, MASK = values(3, 4, seed=9), torch.tensor([1.0, 0, 1, 1], dtype=torch.float64)


def index(x: Tensor) -> Tensor:
    return GROUPS.expand(x.shape[0], 6)


def start(x: Tensor, value: float = 0.0) -> Tensor:
    return torch.full((x.shape[0], 4), value, dtype=x.dtype)


def checked(x: Tensor) -> Tensor:
    if torch.isnan(x).any():
        raise ValueError
    return x.relu()


def cleaned(x: Tensor) -> Tensor:
    x = x.clone()
    x[torch.isnan(x)] = 0
    return x.relu()


CASES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "norm": (lambda x: torch.norm(x.relu() - 1, p=1, dim=1), (4,)),
    "norm, dimension kept": (lambda x: (x.flip(1) - 1).norm(1, dim=-1, keepdim=True), (4,)),
    "maximum norm": (lambda x: torch.linalg.vector_norm(x.flip(1) - 0.2, inf, dim=1), (4,)),
    "least": (lambda x: torch.linalg.vector_norm(x - 0.2, -inf, dim=(1, 2)), (4, 2)),
    "linalg.norm": (lambda x: torch.linalg.norm(x - 0.2, 1, dim=1), (4,)),
    "norm of a matrix": (lambda x: torch.linalg.matrix_norm(x - 0.2, 1), (4, 2)),
    "distances": (lambda x: torch.cdist(x, PLACES.expand(x.shape[0], 3, 4), p=1), (5, 4)),
    "distances to fixed places": (lambda x: torch.cdist(x, PLACES, p=1), (4,)),
    "maximum distances": (lambda x: torch.cdist(x, x.flip(1) + 1, p=inf), (5, 4)),
    "pairs": (lambda x: F.pairwise_distance(x, x.flip(1), p=1), (5,)),
    "loss": (lambda x: F.l1_loss(x, x.flip(1).relu(), reduction="none"), (5,)),
    "differences to data": (lambda x: x.relu().diff(dim=1, prepend=x[:, :1]), (4,)),
    "nan_to_num": (lambda x: torch.nan_to_num(x).relu(), (4,)),
    "where not a number": (lambda x: torch.where(x.isnan(), 0.0, x).relu(), (4,)),
    "filled": (lambda x: x.masked_fill(torch.isnan(x) | torch.isinf(x), 0).relu(), (4,)),
    "written": (cleaned, (4,)),
    "times finite": (lambda x: x.relu() * torch.isfinite(x), (4,)),
    "checked": (checked, (4,)),
    "nanmean": (lambda x: x.relu().nanmean(1), (4,)),
    "masked mean": (lambda x: (x.relu() * MASK).sum(1) / MASK.expand_as(x).sum(1).clamp(min=1), (4,)),
    "masked choice": (lambda x: x.relu()[:, MASK.bool()].mean(1), (4,)),
    "largest": (lambda x: start(x).scatter_reduce(1, index(x), x, "amax", include_self=False), (6,)),
    "largest or 0": (lambda x: start(x).scatter_reduce(1, index(x), x, "amax"), (6,)),
    "least or 0.1": (lambda x: start(x, 0.1).scatter_reduce(1, index(x), x, "amin"), (6,)),
    "mean": (lambda x: start(x).scatter_reduce(1, index(x), x.relu(), "mean", include_self=False), (6,)),
    "mean with 1": (lambda x: start(x, 1.0).scatter_reduce(1, index(x), x.relu(), "mean"), (6,)),
    "sum": (lambda x: start(x, 1.0).scatter_reduce(1, index(x), x.relu(), "sum"), (6,)),
    "constants parted": (lambda x: x.relu() + sum(start(x.repeat(1, 2), 1.0).chunk(2, 1)).sum(1, keepdim=True), (4,)),
    "constants unbound": (
        lambda x: x.relu() + torch.arange(8.0, dtype=x.dtype).view(2, 4).expand(x.shape[0], 2, 4).unbind(1)[1], (4,)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_piecewise_linear_after_all(case: str) -> None:
    function, shape = CASES[case]
    graph = assert_agrees(Lambda(function), values(2, *shape))
    assert graph.batch is None and graph.one_by_one == (case == "norm of a matrix")


def rnn(last: Callable[..., Tensor], **options: object) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.RNN(4, 5, nonlinearity="relu", **options), Lambda(last))  # type: ignore[arg-type]


RECURRENCES: dict[str, Callable[[], nn.Module]] = {
    "one layer": rnn(lambda out: out[0][:, -1], batch_first=True),
    "two layers, both ways": rnn(lambda out: out[0].mean(1), batch_first=True, num_layers=2, bidirectional=True),
    "its last state, without biases": rnn(lambda out: out[1][-1], batch_first=True, bias=False),
    "time first": lambda: nn.Sequential(Lambda(lambda x: x.transpose(0, 1)), rnn(lambda out: out[0][-1])()),
}


@pytest.mark.parametrize("case", RECURRENCES)
def test_a_recurrence_of_relu_is_taken(case: str) -> None:
    model = seeded(RECURRENCES[case])
    graph = assert_agrees(model, values(2, 3, 4))
    assert sum(node.is_gate for node in graph.nodes) == (12 if "two" in case else 3)


def test_a_cell_of_relu_is_taken() -> None:
    assert_agrees(seeded(lambda: nn.RNNCell(4, 5, nonlinearity="relu")), values(2, 4))


def test_squares_stay_refused() -> None:
    for function in (lambda x: x.norm(dim=1), lambda x: torch.cdist(x, PLACES), lambda x: F.pairwise_distance(x, -x)):
        with pytest.raises(LinregError, match=r"norm by squares|cannot take node"):
            linreg.trace(Lambda(function), values(2, 4))


# ---- a choice or a number that parameters and buffers decide ----


class Decides(nn.Module):
    """As onnx2torch's Reshape and ActNorm's flag."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shape", torch.tensor([-1, 8]))
        self.register_buffer("ready", torch.tensor(True))
        self.scale, self.l = nn.Parameter(torch.tensor(2.0)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if torch.any(self.shape == 0) or not self.ready:
            raise NotImplementedError
        h = self.l(torch.reshape(x, torch.Size(self.shape)))
        return h.relu() if self.scale > 1 else h


def test_what_fixed_tensors_decide_is_no_choice_by_data() -> None:
    assert_agrees(seeded(Decides), values(2, 8))


def test_a_choice_by_data_stays_refused_beside_one_that_is_fixed() -> None:
    model = seeded(Decides)
    mixed = Lambda(lambda x, inner: inner(x) if x.sum() > 0 else -inner(x), inner=model)
    with pytest.raises(LinregError, match="choice or a Python number of the values of its data"):
        linreg.trace(mixed, values(2, 8))
