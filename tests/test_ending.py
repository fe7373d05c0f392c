"""`output=`: a network explained up to one of its modules, a namedtuple by position; what a final softmax says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dmbp
import linreg
from linreg import LinregError

pytestmark = pytest.mark.xdist_group("ending")


class Pair(NamedTuple):
    scores: Tensor
    features: Tensor


class Net(nn.Module):
    """A body, a head that is called twice, and some last word."""

    def __init__(self, last: Callable[[Tensor], Any], twice: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6))
        self.head, self.last, self.twice = nn.Linear(6, 6), last, twice

    def forward(self, x: Tensor) -> Any:
        scores = self.head(self.body(x).relu())
        return self.last(self.head(scores.relu()) if self.twice else scores)


class Recurrent(nn.Module):
    """A module within that gives several values."""

    def __init__(self) -> None:
        super().__init__()
        self.two = Net(lambda z: Pair(z, z.relu()))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(x).scores.log_softmax(1)


def logits(model: nn.Module, path: str, x: Tensor, call: int = 0) -> Tensor:
    """What a module gives while the model runs, by a hook of our own."""
    seen: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(lambda module, inputs, value: seen.append(value))
    model(x)
    handle.remove()
    return seen[call]


LAST: dict[str, Callable[[Tensor], Any]] = {
    "softmax": nn.Softmax(1), "log_softmax": lambda z: F.log_softmax(z, 1), "sigmoid": torch.sigmoid,
    "log_sigmoid": F.logsigmoid, "flattened softmax": lambda z: z.softmax(1).flatten(1),
}  # fmt: skip


@pytest.mark.parametrize("last", LAST)
def test_the_refusal_says_how_and_that_works(last: str) -> None:
    """The call that it names gives the graph of the logits: their values, weights by autograd, and names as ever."""
    torch.manual_seed(1)
    model, x = Net(LAST[last]).double(), torch.randn(3, 5, dtype=torch.float64)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = model(x)
    with pytest.raises(LinregError, match=r"what comes into it, end the graph there: linreg.trace\(…, output='head'\)"):
        linreg.trace(model, x)
    graph = linreg.trace(model, x, output="head")
    assert graph.output == "head" and "body.0" in graph and graph.batch is None
    leaf = x.clone().requires_grad_()
    expected = logits(model, "head", leaf)
    (gradient,) = torch.autograd.grad(expected[:, 2].sum(), leaf)
    lin = graph.linearize(x)
    torch.testing.assert_close(lin.output, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lin.weight(2), gradient, rtol=1e-12, atol=1e-12)
    # Left as it was: it gives what it gave, has its own forward and no hook.
    assert torch.equal(model(x), before) and "forward" not in model.__dict__
    assert not model.head._forward_hooks
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert dmbp.explain(graph, x, 2, iterations=2, progress=False).attribution.shape == x.shape


def test_other_modules_and_later_calls() -> None:
    torch.manual_seed(2)
    model, x = Net(nn.Softmax(1), twice=True), torch.randn(2, 5)
    for name, path, call in [("head", "head", 0), ("head@1", "head", 1), ("body", "body", 0), ("body.1", "body.1", 0)]:
        graph = linreg.trace(model, x, output=name)
        torch.testing.assert_close(graph(x), logits(model, path, x, call).detach())
    nested = Recurrent()
    assert torch.equal(linreg.trace(nested, x, output="two.scores")(x), linreg.trace(nested.two, x, output="scores")(x))
    torch.testing.assert_close(linreg.trace(nested, x, output="two.features")(x), nested.two(x).features.detach())
    smooth = linreg.trace(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2), nn.Softmax(1)), x, output="2",
                          nonlinear="pwl")  # fmt: skip
    assert smooth.output == "2" and "1" in smooth.approximation.interpolants


def test_what_the_model_returns_comes_first() -> None:
    class Named(Net):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"head": self.body(x), "probabilities": self.head(self.body(x)).softmax(1)}

    model, x = Named(nn.Identity()), torch.randn(2, 5)
    torch.testing.assert_close(linreg.trace(model, x, output="head")(x), model(x)["head"].detach())


def test_a_namedtuple_by_position_and_by_name() -> None:
    model, x = Net(lambda z: Pair(z, z.relu().sum(1, keepdim=True))), torch.randn(2, 5)
    for position, name in enumerate(Pair._fields):
        expected = model(x)[position].detach()
        for output in (position, name):
            torch.testing.assert_close(linreg.trace(model, x, output=output)(x), expected)
    with pytest.raises(LinregError, match=r"no output 2: choose one of 'scores', 'features'; or a module of the model"):
        linreg.trace(model, x, output=2)


def test_what_cannot_be_named() -> None:
    model, x = Net(nn.Softmax(1)), torch.randn(2, 5)
    for name, told in (("tail", "tail"), ("body.9", "9"), ("head@x", "head@x")):
        with pytest.raises(
            LinregError, match=f"no output '{told}': it returns one tensor, without a name; or a module"
        ):
            linreg.trace(model, x, output=name)
    with pytest.raises(LinregError, match="the module 'head' is called 1 times by the model's forward"):
        linreg.trace(model, x, output="head@3")
    with pytest.raises(LinregError, match="the model returns 2 outputs: choose one"):
        linreg.trace(Recurrent(), x, output="two")


def test_a_softmax_within_a_network_is_not_told_so() -> None:
    """Nor one whose scores no module gives: there is none to name."""

    class Inside(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).softmax(1))

    class Added(Net):
        def forward(self, x: Tensor) -> Tensor:
            return (self.body(x) + self.head(self.body(x))).softmax(1)

    for kind in (Inside, Added):
        with pytest.raises(LinregError) as refused:
            linreg.trace(kind(nn.Identity()), torch.randn(2, 5))
        assert "end the graph there" not in str(refused.value)


class Unowned(nn.Module):
    """A score that no module makes, and a softmax of it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 7), nn.Linear(7, 4)

    def scores(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(x))) + 2 * x[:, :4]

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).clamp(-1, 1).softmax(1)


def test_a_node_that_no_module_owns() -> None:
    """By the name that the graph prints: the graph gives what the model's own code gives there, at any batch size."""
    torch.manual_seed(3)
    model, x = Unowned().double(), torch.randn(4, 5).double()
    ends: dict[str, Callable[[Tensor], Tensor]] = {
        "add": model.scores, "clamp": lambda x: model.scores(x).clamp(-1, 1), "relu": lambda x: model.body(x).relu(),
    }  # fmt: skip
    for name, function in ends.items():
        graph = linreg.trace(model, x[:2], output=name)
        assert graph.output == name and graph.nodes[-1].name == name
        torch.testing.assert_close(graph(x), function(x), rtol=1e-12, atol=1e-12)
        lin = graph.linearize(x)
        wanted = torch.autograd.functional.jacobian(lambda x, f=function: f(x)[:, 1].sum(), x)
        torch.testing.assert_close(lin.weight(1), wanted, rtol=1e-12, atol=1e-12)
    with pytest.raises(LinregError, match=r"no output 'ad': .* or a node that no module owns, such as 'add'"):
        linreg.trace(model, x, output="ad")
