"""What every method promises: one signature, an untouched network, a batch as its pictures alone, names and text."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import weakref
from dataclasses import FrozenInstanceError, replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nets import seeded_net
from scipy.stats import kstest, spearmanr
from torch import Tensor, nn

from dmbp import DmbpError
from dmbp.evaluation import captured as kept
from dmbp.evaluation import insertion, methods
from dmbp.evaluation.captured import captured
from dmbp.evaluation.measures import METRICS
from dmbp.evaluation.option_table import COMMAND, page
from linreg import LinregError

PAGE = Path(__file__).parents[1] / "tutorials" / "site" / "methods.md"
FAST = {
    "ig": "steps=5", "smoothgrad": "samples=3", "blur-ig": "steps=4,max_sigma=2", "rise": "masks=20,cells=3",
    "lpr": "iterations=2", "dmbp": "iterations=3",
}  # fmt: skip
SPECS = [*(f"{label}:{FAST[label]}" if label in FAST else label for label in methods.METHODS),
         "dmbp:iterations=3,map=complete", "fullgrad:psi=signed", "gradcam:relu=no"]  # fmt: skip
COARSE = {"gradcam", "rise", "fullgrad", "random"}
every_method = pytest.mark.parametrize("spec", SPECS)


class Net(nn.Module):
    """A ReLU used twice, in place; batch norm; a gate that saturates."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.relu = nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(4 * self.relu(self.bn(self.first(x))))
        return self.head(self.relu(self.second(h)).mean((2, 3)))


@cache  # so that it is traced once for all
def net() -> tuple[nn.Module, Tensor]:
    return seeded_net(Net, 2, 6, 5, images=3, seed=2)


@every_method
def test_a_map_and_an_untouched_network(spec: str) -> None:
    """Of the promised shape, finite, the same each time, in any autograd mode; parameters, buffers, hooks as before."""
    model, x = net()
    model.first.weight.grad = torch.ones_like(model.first.weight)  # which is not to be added to
    before, given, method = copy.deepcopy(model.state_dict()), x.clone(), methods.parse(spec)
    found = method(model, x, torch.tensor([0, 2, 1]))
    coarse = method.label in COARSE or "complete" in spec
    assert found.shape == ((3, 1, 6, 5) if coarse else x.shape) and found.isfinite().all() and not found.requires_grad
    assert (found < 0).any() == (spec not in ("rise:masks=20,cells=3", "gradcam", "fullgrad"))
    with torch.no_grad():
        torch.testing.assert_close(method(model, x, [0, 2, 1]), found, rtol=0, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(method(model, x + 0, [0, 2, 1]), found, rtol=0, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.first.weight.grad, torch.ones_like(model.first.weight)) and torch.equal(x, given)
    assert not model.training and all(p.requires_grad for p in model.parameters())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    assert not any(getattr(module, name) for module in model.modules() for name in hooks)


@every_method
def test_a_batch_gives_what_its_pictures_give_alone(spec: str) -> None:
    model, x = net()
    together = methods.parse(spec)(model, x, [0, 2, 1])
    for n, k in enumerate([0, 2, 1]):
        alone = methods.parse(spec)(model, x[n : n + 1], k)
        torch.testing.assert_close(alone, together[n : n + 1], rtol=1e-9, atol=1e-9 * float(together[n].abs().max()))


@every_method
def test_a_name_makes_the_same_method(spec: str) -> None:
    method = methods.parse(spec)
    assert methods.parse(method.name) == method
    assert methods.METHODS[method.label] is type(method) and type(method)().name == method.label
    assert type(method).__doc__ and all(getattr(method, name) for name in ("title", "source", "times_x", "sign"))


def test_names_tell_what_differs() -> None:
    assert methods.DMBP(loss="+-", sites=["0", "2"], iterations=20).name == "dmbp:iterations=20,loss=+-,sites=0|2"
    assert methods.IntegratedGradients(batch_size=3) == methods.IntegratedGradients()  # which no map hangs on
    assert methods.IntegratedGradients(batch_size=3).name == "ig"
    assert methods.parse(" dmbp: tolerance=0.01 , compiled=yes").name == "dmbp:tolerance=0.01"
    assert methods.parse("dmbp:tolerance=none") == methods.DMBP()
    assert methods.parse("dmbp:sites=relu|2").sites == ("relu", "2")
    with pytest.raises(FrozenInstanceError):
        methods.RISE().masks = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gradcm", "there is no method 'gradcm' .did you mean 'gradcam'.*; there are nd, gradient, ig"),
        ("", "there is no method ''"),
        ("ig:step=3", "ig has no option 'step' .did you mean 'steps'"),
        ("nd:steps=3", "nd has no option 'steps'; its options are: none"),
        ("ig:steps", "expected steps=VALUE, once"),
        ("ig:steps=1,steps=2", "expected steps=VALUE, once"),
        ("ig:steps=many", "ig: steps must be a whole number, not 'many'"),
        ("ig:steps=1.5", "ig: steps must be a whole number, not '1.5'"),
        ("smoothgrad:spread=wide", "smoothgrad: spread must be a number, not 'wide'"),
        ("ig:steps=0", "ig: steps must be a whole number of at least 1, not 0"),
        ("ig:rule=simpson", "ig: rule must be one of 'gausslegendre', 'riemann', not 'simpson'"),
        ("smoothgrad:times_input=maybe", "times_input must be yes or no"),
        ("smoothgrad:spread=-1", "spread must be a positive number"),
        ("rise:probability=logit", "rise: probability must be one of 'softmax', 'sigmoid'"),
        ("guided-gradcam:enlarge=cubic", "enlarge must be one of"),
        ("fullgrad:psi=square", "psi must be one of 'absolute', 'signed'"),
        ("lpr:iterations=-1", "iterations must be a whole number of at least 0"),
        ("dmbp:loss=++", "loss must be one of"),
        ("dmbp:map=whole", "map must be one of 'paper', 'complete'"),
        ("dmbp:iterations=-3", "iterations must be a whole number of at least 0"),
    ],
)
def test_what_makes_no_method_is_refused(text: str, words: str) -> None:
    with pytest.raises(DmbpError, match=words):
        methods.parse(text)


def with_training_inside(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    model.bn.train()
    return model


@every_method
def test_what_no_method_takes_is_refused(spec: str) -> None:
    model, x = net()
    method = methods.parse(spec)
    for network, pictures, target, words in (
        (model, x, 3, "class"), (model, x, [0, 1], "one for each of 3 pictures"), (model, x * torch.nan, 0, "NaN"),
        (copy.deepcopy(model).train(), x, 0, "training mode"), (len, x, 0, "torch.nn.Module"),
        (model, x[0, 0], 0, "expected pictures"), (model, x.long(), 0, "floating point"),
        (model, x, -1, "counted from 0"),
        (with_training_inside(model), x, 0, "'bn' of the network is in training mode"),
    ):  # fmt: skip
        with pytest.raises(LinregError, match=words):
            method(network, pictures, target)


def test_a_network_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all methods and batches; again where a weight, the size or the dtype is another; and it is let go."""
    model, x = seeded_net(Net, 2, 6, 5, images=3, seed=2)
    traced, trace = [], kept.trace
    monkeypatch.setattr(kept, "trace", lambda *given: traced.append(given) or trace(*given))
    for spec in ("guided-backprop", "gradcam", "fullgrad", "dmbp:iterations=0"):
        methods.parse(spec)(model, x, 0)
        methods.parse(spec)(model, x[:1], 0)
    assert len(traced) == 1
    before = methods.GuidedBackprop()(model, x, 0)
    with torch.no_grad():
        model.head.weight.neg_()
    assert not torch.equal(methods.GuidedBackprop()(model, x, 0), before) and len(traced) == 2
    model.head.weight.data = -model.head.weight.data
    assert torch.equal(methods.GuidedBackprop()(model, x, 0), before) and len(traced) == 3
    model.bn.running_mean.data.add_(1)  # which no version counts
    assert not torch.equal(methods.GuidedBackprop()(model, x, 0), before) and len(traced) == 4
    methods.GuidedBackprop()(model, x[..., :4], 0)
    methods.GuidedBackprop()(model.float(), x.float(), 0)
    assert len(traced) == 6
    last, graph = weakref.ref(model), weakref.ref(captured(model, x.float()).graph)
    traced.clear()
    del model
    gc.collect()
    assert last() is None and graph() is None


def test_a_network_of_one_batch_size() -> None:
    class Fixed(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / len(x)

    model, x = seeded_net(Fixed, 2, 6, 5, images=3, seed=2)
    plain, _ = net()
    found = methods.GuidedBackprop()(model, x, 0)
    torch.testing.assert_close(3 * found, methods.GuidedBackprop()(plain, x, 0))
    assert methods.GuidedBackprop()(model, x[:2], 0).shape == (2, 2, 6, 5)


class Frames(Net):
    """Merges the frames of its one picture with the batch, and takes no other number of pictures."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            raise ValueError(f"one at a time, not {len(x)}")
        return super().forward(x.view(3, 2, *x.shape[2:])).mean(0, keepdim=True)


class Averaged(Net):
    """One row of scores, however many pictures there are; alone the same network as `Frames`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(-1, 2, *x.shape[2:])).mean(0, keepdim=True)


@pytest.mark.parametrize("spec", ["nd", "ig:steps=5", "smoothgrad:samples=3", "rise:masks=20,cells=3",
                                  "lpr:iterations=2", "random", "guided-backprop", "dmbp:iterations=3"])  # fmt: skip
def test_networks_that_take_one_picture_are_asked_one_by_one(spec: str) -> None:
    """Maps and curves of a batch are those of each picture alone; so where a network makes one row of a batch."""
    method = methods.parse(spec)
    model, x = seeded_net(Frames, 6, 6, 5, images=2, seed=2)
    merging, _ = seeded_net(Averaged, 6, 6, 5, images=2, seed=2)
    together = method(model, x, [0, 2])
    for n, k in enumerate([0, 2]):
        alone = method(model, x[n : n + 1], k)
        torch.testing.assert_close(alone, together[n : n + 1], rtol=1e-9, atol=1e-9 * float(together.abs().max()))
    if method.label not in ("lpr", "guided-backprop", "dmbp"):  # whose graph such a network cannot have
        torch.testing.assert_close(method(merging, x, [0, 2]), together, rtol=1e-9, atol=1e-12)
    curve = insertion(model, x, [0, 2], together, step=7)
    assert torch.equal(curve.scores[1], insertion(model, x[1:], 2, together[1:], step=7).scores[0])


def test_where_even_one_picture_fails_the_networks_own_words_are_told() -> None:
    model, x = seeded_net(Frames, 6, 6, 5, images=2, seed=2)
    with pytest.raises(
        DmbpError, match=r"the network fails on a picture of the shape \(5, 6, 5\): RuntimeError: shape"
    ):
        methods.ND()(model, x[:, :5], 0)
    with pytest.raises(DmbpError, match="there is no class 7"):
        methods.ND()(model, x, 7)
    for several in ((x, x), {"left": x, "right": x}):
        with pytest.raises(DmbpError, match=r"dmbp\.explain\(model, x\) takes several inputs"):
            methods.ND()(model, several, 0)  # type: ignore[arg-type]


def test_a_random_map_knows_the_picture_and_nothing_else() -> None:
    """Uniform on −1 to 1, by Kolmogorov and Smirnov; without a rank in common with another picture, class or seed."""
    x = torch.randn(2, 3, 60, 50, generator=torch.Generator().manual_seed(0))
    ones, twos = (nn.Sequential(nn.Flatten(), nn.Linear(9000, k)).eval() for k in (2, 2))
    maps = methods.RandomMap()(ones, x, [0, 1])
    assert torch.equal(maps, methods.RandomMap()(twos, x, [0, 1])) and maps.shape == (2, 1, 60, 50)
    flat = [maps[0], maps[1], methods.RandomMap()(ones, x, 1)[0], methods.RandomMap(seed=1)(ones, x, 0)[0]]
    values = [each.flatten().double().numpy() for each in flat]
    for k, one in enumerate(values):
        assert kstest(one, "uniform", (-1, 2)).pvalue > 1e-3
        for other in values[:k]:
            assert abs(spearmanr(one, other).statistic) < 4 / 3000**0.5
    double = methods.RandomMap()(ones.double(), x.double(), [0, 1])
    torch.testing.assert_close(double.float(), maps)


def test_networks_that_are_not_piecewise_linear() -> None:
    """What needs no graph takes them; what needs one says why not."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).eval()
    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert methods.IntegratedGradients()(model, x, 0).shape == x.shape
    for spec in ("guided-backprop", "gradcam", "deeplift", "fullgrad", "lpr", "dmbp"):
        with pytest.raises(LinregError, match="tanh"):
            methods.parse(spec)(model, x, 0)
    with pytest.raises(DmbpError, match="the network has none"):
        methods.LPR()(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval(), x, 0)


def test_an_interrupted_learning_is_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """`explain` keeps what Ctrl-C left; a table must not."""
    module = sys.modules["dmbp.evaluation.methods.disentangled"]
    explain = module.explain
    monkeypatch.setattr(module, "explain", lambda *given, **words: replace(explain(*given, **words), interrupted=True))
    model, x = net()
    with pytest.raises(KeyboardInterrupt):
        methods.DMBP(iterations=1)(model, x, 0)


def test_deep_lift_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    model, x = net()
    with pytest.raises(DmbpError, match=r'pip install "\.\[baselines\]"'):
        methods.DeepLift()(model, x, 0)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), f"refresh it: {COMMAND}"
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    kinds = [*methods.METHODS.values(), *METRICS.values()]
    assert len(rows) == len(kinds) + sum(len(kind.options()) for kind in kinds)
    assert {line.count("|") for line in rows} == {6, 7}


def test_nothing_slow_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, dmbp.evaluation; print([n for n in ('captum', 'scipy.stats', 'matplotlib') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
