"""Options of the learning: tolerance, snapshots, precision, compiled kernels; what an iteration waits for."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from approx import values
from nets import NETS, Lambda, traced
from scipy.stats import spearmanr
from splits import recurred
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import dmbp
import linreg
from dmbp import DmbpError
from dmbp.learning import kernels
from dmbp.learning.descent import WINDOW, Descent
from dmbp.learning.memory_format import pays
from dmbp.learning.objective import LOSSES
from dmbp.learning.passes import MaskedNetwork
from dmbp.masks import initial_logits
from linreg.operators import Convolution, Linear
from linreg.target import cotangent

TARGET = [0, 2, 1]
WEIGHT = torch.tensor([[1.0, -2.0], [0.5, 1.0], [-1.0, 3.0], [2.0, 1.0]], dtype=torch.float64)
NAMES = ("chain_with_biases", "conv_bn", "residual_inner", "mobile", "gates", "shortcut", "wiring")


def region(name: str) -> linreg.Linearization:
    return traced(name).lin


def learn(name: str, **options: Any) -> dmbp.Learned:
    return dmbp.learn_masks(region(name), TARGET, progress=False, **options)


def descent(name: str, whole: bool = False, loss: str = "all") -> Descent:
    lin = region(name)
    sites = dmbp.find_sites(lin.graph)
    network = MaskedNetwork.of(lin, sites, cotangent(TARGET, lin.output), whole)
    return Descent(network, initial_logits(lin, sites, TARGET), lin.score(TARGET), 0, loss, 0.01)


# ---- kernels ----


@pytest.mark.parametrize("side", [0.0, 1.0])
@pytest.mark.parametrize("gate", ["none", "switch", "leaky", "with offset"])
def test_kernels_are_their_formulas(gate: str, side: float) -> None:
    """Against autograd of mask · (s z + t), and PyTorch's RMSprop, over more numbers than one piece holds."""
    size = kernels.PIECE * torch.get_num_threads() + 7
    plus, minus, theta, grad, chance, offset = (values(size, seed=k) for k in range(6))
    slope = {"none": None, "leaky": torch.where(chance > 0, 1.0, -0.1).double()}.get(gate, (chance > 0).double())
    offset = offset if gate == "with offset" else None  # type: ignore[assignment]
    z = plus if side else minus
    s, t = (1 if slope is None else slope), (0 if offset is None else offset)
    leaf, leaf_z = theta.clone().requires_grad_(), z.clone().requires_grad_()
    sigma = leaf.sigmoid() if side else 1 - leaf.sigmoid()
    value = sigma * (s * leaf_z + t)
    expected, back = torch.autograd.grad(value, (leaf, leaf_z), grad)
    optimizer = torch.optim.RMSprop([leaf], lr=0.03)
    square = torch.zeros_like(theta)
    leaf.grad = expected
    optimizer.step()

    switch = gate in ("switch", "with offset")
    kernels.in_pieces(kernels.enter, (plus, minus, theta, slope, offset), switch)
    torch.testing.assert_close(plus if side else minus, value.detach(), rtol=1e-12, atol=1e-12)
    total = torch.zeros_like(theta)
    again = grad.clone()
    kernels.in_pieces(kernels.accumulate, (again, z, theta, total, slope), side, switch)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(again, back, rtol=1e-12, atol=1e-12)
    kernels.in_pieces(kernels.learn, (grad, z, theta, square, slope), side, switch, 0.03)
    torch.testing.assert_close(theta, leaf.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad, back, rtol=1e-12, atol=1e-12)


def test_the_optimiser_does_not_depend_on_default_devices() -> None:
    """Made elsewhere, its step would send RMSprop to the kernels of that device: to nothing, on "meta"."""
    code = "import torch; torch.set_default_device('meta'); from dmbp.learning import kernels; print(kernels.LATE)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "tensor(1.0000e+09)"


def test_a_closed_switch_stops_what_overflowed() -> None:
    plus, minus, theta = (torch.full((3,), v, dtype=torch.float64) for v in (torch.inf, -torch.inf, 0.0))
    kernels.enter(plus, minus, theta, torch.zeros(3).double(), None, True)
    assert (plus == 0).all() and (minus == 0).all()


# ---- the two ways to run them ----


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NAMES)
def test_whole_tensors_give_what_pieces_give(name: str, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU, uncompiled, on a CPU."""
    monkeypatch.setattr("dmbp.learning.passes.compiled", lambda kernel: kernel)
    pieces, whole = learn(name, iterations=6, loss=loss), learn(name, iterations=6, loss=loss, compiled=True)
    for site, mask in pieces.masks.items():
        torch.testing.assert_close(whole.masks[site], mask, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NAMES)
def test_channels_last_are_the_same_numbers_in_another_order(
    name: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, where it is not done: values, gradients, optimiser and masks."""
    first = learn(name, iterations=6, loss=loss)
    monkeypatch.setattr("dmbp.learning.passes.pays", lambda *arguments: True)
    last = learn(name, iterations=6, loss=loss)
    for site, mask in first.masks.items():
        assert last.masks[site].is_contiguous()
        torch.testing.assert_close(last.masks[site], mask, rtol=1e-12, atol=1e-12)


def test_channels_come_last_where_convolutions_are_oneDNNs() -> None:
    for name, convolves in {"mobile": True, "chain": False}.items():
        lin = region(name)
        x, copied = lin.input.float(), 0
        for affine in lin.frozen.values():
            if isinstance(affine, Convolution) and affine.weight.shape[1] != 1 and affine.weight.shape[2:] != (1, 1):
                copied += affine.weight.numel()
        assert pays(lin.frozen, x, 2 * copied) == (convolves and torch.backends.mkldnn.is_available())
        assert not pays(lin.frozen, x, 2 * copied - 1) or not copied
        assert not pays(lin.frozen, lin.input, 10**9) and not pays(lin.frozen, x.to("meta"), 10**9)


class NoWaiting(TorchDispatchMode):
    """Refuses what makes a CPU wait for a GPU's numbers."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket.__name__ not in self.WAITING, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NAMES)
def test_an_iteration_waits_for_no_number(name: str, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it can be recorded as a CUDA graph; in pieces, which look at each image's side, it does wait."""
    monkeypatch.setattr("dmbp.learning.passes.compiled", lambda kernel: kernel)
    whole, pieces = descent(name, True, loss), descent(name, False, loss)
    with torch.no_grad(), NoWaiting():
        whole.backward(*whole.forward())
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            pieces.backward(*pieces.forward())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_kernels_give_the_same_masks() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # the compiler's own
        for name in ("chain_with_biases", "mobile"):
            plain, fast = learn(name, iterations=20), learn(name, iterations=20, compiled=True)
            for site, mask in plain.masks.items():
                torch.testing.assert_close(fast.masks[site], mask, rtol=0, atol=1e-10)


def test_without_a_compiler_the_numbers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(kernel: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def fail(*arguments: Any) -> None:
            raise torch._dynamo.exc.TorchDynamoException("no compiler")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    kernels.compiled.cache_clear()
    plain = learn("mobile", iterations=5)
    with pytest.warns(UserWarning, match="run uncompiled, and slower: torch.compile fails .no compiler"):
        slow = learn("mobile", iterations=5, compiled=True)
    kernels.compiled.cache_clear()
    for site, mask in plain.masks.items():
        torch.testing.assert_close(slow.masks[site], mask, rtol=1e-12, atol=1e-12)


# ---- options ----


def test_tolerance_lets_each_image_rest_when_its_own_loss_does() -> None:
    """And gives it the masks that it has alone after so many updates."""
    lin = region("residual_inner")
    together = learn("residual_inner", iterations=300, tolerance=0.05)
    counts = together.updates.tolist()
    assert together.iterations == max(counts) < 300 and len(set(counts)) > 1
    assert all(count % WINDOW == 0 and count >= 2 * WINDOW for count in counts)
    for n, count in enumerate(counts):
        alone = dmbp.learn_masks(
            lin.graph.linearize(lin.input[n : n + 1]), TARGET[n], iterations=300, tolerance=0.05, progress=False
        )
        assert alone.iterations == count
        plain = dmbp.learn_masks(lin.graph.linearize(lin.input[n : n + 1]), TARGET[n], iterations=count, progress=False)
        y = lin.score(TARGET)[n]
        losses = LOSSES["all"](y, alone.history["positive"][:, 0], alone.history["negative"][:, 0])
        now, before = losses[-WINDOW:].mean(), losses[-2 * WINDOW : -WINDOW].mean()
        assert before - now < 0.05 * max(now.abs(), y.abs())
        for site, mask in together.masks.items():
            torch.testing.assert_close(mask[n], plain.masks[site][0], rtol=0, atol=1e-9)


def complete_map(lin: linreg.Linearization, masks: dict[str, Tensor], target: int) -> Tensor:
    split = dmbp.decompose(lin, masks, target)
    return (split.complete("positive") + split.complete("negative")).map.flatten()


@pytest.mark.parametrize("name", ["residual_inner", "conv_bn"])
def test_agreement_lets_each_image_rest_when_its_own_map_does(name: str) -> None:
    """Against runs of so many iterations, their maps, and SciPy's correlation of ranks."""
    lin, agreement = region(name), 0.97
    counts = learn(name, iterations=100, agreement=agreement).updates.tolist()
    assert set(counts) != {100}
    for n, count in enumerate(counts):
        alone = lin.graph.linearize(lin.input[n : n + 1])
        runs = [dmbp.learn_masks(alone, TARGET[n], iterations=i, progress=False).masks for i in range(20, 101, 20)]
        maps = [complete_map(alone, masks, TARGET[n]) for masks in runs]
        agreed = [spearmanr(a, b).statistic >= agreement for a, b in itertools.pairwise(maps)]
        assert count == (20 * (agreed.index(True) + 2) if True in agreed else 100)
        own = dmbp.learn_masks(alone, TARGET[n], iterations=100, agreement=agreement, progress=False)
        assert own.iterations == own.updates.item() == count
        for site, mask in runs[count // 20 - 1].items():
            torch.testing.assert_close(own.masks[site], mask, rtol=0, atol=1e-9)


def test_agreement_of_inputs_that_are_no_pictures() -> None:
    """Of features, and of several inputs in a row: ranks of ∇ ⊙ x, by SciPy."""
    torch.manual_seed(3)
    model, x = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)), torch.randn(1, 6)
    pair = {"a": x[:, :2].double(), "b": x[:, 2:].double()}
    for taken, given in ((model.double(), x.double()), (Joined(model), pair)):
        lin = linreg.trace(taken, given).linearize(given)
        runs = [dmbp.learn_masks(lin, 1, iterations=i, progress=False).masks for i in (20, 40, 60)]
        splits = [dmbp.decompose(lin, masks, 1) for masks in runs]
        maps = [split.ledger("positive").input + split.ledger("negative").input for split in splits]
        agreed = [spearmanr(*(m.flatten() for m in two)).statistic >= 0.9 for two in itertools.pairwise(maps)]
        count = 20 * (agreed.index(True) + 2) if True in agreed else 60
        assert dmbp.learn_masks(lin, 1, iterations=60, agreement=0.9, progress=False).updates.tolist() == [count]


class Joined(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.model(torch.cat([a, b], 1))


def test_snapshots_are_the_maps_of_shorter_runs() -> None:
    t = traced("conv_bn")
    graph, x = t.graph, t.x
    result = dmbp.explain(graph, x, TARGET, iterations=12, snapshots=(0, 5, 12), progress=False)
    assert sorted(result.snapshots) == [0, 5, 12]
    torch.testing.assert_close(result.snapshots[12], result.attribution, rtol=0, atol=0)
    for count in (0, 5):
        short = dmbp.explain(graph, x, TARGET, iterations=count, progress=False)
        torch.testing.assert_close(result.snapshots[count], short.attribution, rtol=1e-12, atol=1e-12)
    assert "snapshot/5" in result.arrays()


def test_bfloat16_learns_nearly_the_same_masks_and_splits_exactly() -> None:
    """Only the products of layers are rounded: the first step goes the same way almost everywhere."""
    model, x = NETS["residual_inner"]()
    graph = linreg.trace(model.float(), x.float())
    full, low = (
        dmbp.explain(graph, x.float(), TARGET, iterations=5, precision=precision, progress=False)
        for precision in ("full", "bf16")
    )
    assert low.split.y.equal(full.split.y) and low.split.y.dtype == torch.float32
    parts = recurred(graph.linearize(x.float()), low.masks, TARGET)
    size = low.split.lin.ledger(TARGET).magnitude
    for found, expected in [(low.split.nuisance, parts.nuisance), (parts.total, low.split.y)]:
        assert ((found - expected).abs() <= 1e-5 * size).all()
    theirs = torch.cat([mask.flatten() for mask in low.masks.values()])
    ours = torch.cat([mask.flatten() for mask in full.masks.values()])
    assert ((theirs - ours).abs() < 0.02).double().mean() > 0.97
    assert not theirs.equal(ours)


def test_bfloat16_rounds_the_layers_and_nothing_else() -> None:
    lin = region("mobile")
    network = MaskedNetwork.of(lin, dmbp.find_sites(lin.graph), cotangent(TARGET, lin.output), low=True)
    for node in network.nodes:
        layer = isinstance(lin.frozen[node.name], Convolution | Linear)
        assert (network.affines[node.name].kind == "lowered") == layer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0}, "tolerance must be a positive number or None, not 0"),
        ({"tolerance": "small"}, "tolerance must be a positive number"),
        ({"precision": "half"}, "precision must be one of 'full', 'tf32', 'bf16', not 'half'"),
        ({"precision": "tf32"}, "arithmetic of CUDA devices, and the network is on cpu"),
        ({"snapshots": (3, 11)}, "snapshots must be numbers of updates, 0 to 10, not 11"),
        ({"snapshots": (2.5,)}, "not 2.5"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    t = traced("chain")
    with pytest.raises(DmbpError, match=message):
        dmbp.explain(t.graph, t.x, TARGET, iterations=10, progress=False, **options)


@pytest.mark.parametrize("sites", ["gates", ["masked_fill", "amax"]])
def test_infinite_sites_are_refused(sites: str | list[str]) -> None:
    model = Lambda(lambda x: x.masked_fill(x < 0, -torch.inf).amax(1, keepdim=True))
    x = torch.tensor([[1.0, -1.0]])
    lin = linreg.trace(model, x).linearize(x)
    with pytest.raises(DmbpError, match="site 'masked_fill' holds infinite values"):
        dmbp.learn_masks(lin, sites=sites, progress=False)
    assert dmbp.learn_masks(lin, sites=["amax"], iterations=3, progress=False).masks["amax"].isfinite().all()


# ---- memory that others read ----


def test_the_layout_of_the_input_does_not_matter() -> None:
    """Gates keep the strides of what they read: (1, N) here."""
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = linreg.trace(Lambda(lambda x: F.leaky_relu(F.leaky_relu(x) - 0.1) @ WEIGHT), x)
    plain, turned = (
        dmbp.learn_masks(graph.linearize(each), [0, 1, 1], iterations=5, progress=False)
        for each in (x, x.t().contiguous().t())
    )
    for site, mask in plain.masks.items():
        assert mask.equal(turned.masks[site])


def test_no_iteration_writes_to_what_it_was_given() -> None:
    """Sites work in place: the region, its operators and the values before the sites stay as they were."""
    for name in NETS:
        lin = region(name)
        held = [lin.input, lin.output]
        for affine in lin.frozen.values():
            held += [v for v in vars(affine).values() if isinstance(v, Tensor)]
            held += [constant.value for constant in affine.constants]
        before = [value.clone() for value in held]
        for sites in ("gates", "blocks", [node.name for node in lin.graph.nodes]):
            dmbp.learn_masks(lin, TARGET, iterations=2, sites=sites, progress=False)
        assert all(old.equal(value) for old, value in zip(before, held, strict=True)), name


@pytest.mark.parametrize("name", NETS)
def test_every_node_can_be_a_site(name: str) -> None:
    """Masks on all nodes at once, views and sums included: values and gradients as plain autograd has them."""
    lin = region(name)
    sites = [node.name for node in lin.graph.nodes]
    logits = initial_logits(lin, sites, TARGET)
    generator = torch.Generator().manual_seed(0)
    logits = {site: torch.randn(theta.shape, generator=generator, dtype=theta.dtype) for site, theta in logits.items()}
    leaves = {site: theta.clone().requires_grad_() for site, theta in logits.items()}

    def step(node: linreg.Node, inputs: tuple[Tensor, ...]) -> Tensor:
        return lin.frozen[node.name](*inputs) * leaves[node.name].sigmoid()

    seed = cotangent(TARGET, lin.output)
    plus = (lin.graph.evaluate({"input": lin.input}, step) * seed).flatten(1).sum(1)
    expected = torch.autograd.grad(  # a value that only decides a choice has no gradient
        plus.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    network = MaskedNetwork.of(lin, sites, seed)
    run = Descent(network, {k: v.clone() for k, v in logits.items()}, lin.score(TARGET), 0, "+", 0.01)
    with torch.no_grad():
        scores, kept = run.forward()
        torch.testing.assert_close(scores["positive"], plus.detach(), rtol=1e-12, atol=1e-12)
        run.backward(scores, kept)
    for site, gradient in zip(sites, expected, strict=True):
        square = 0.01 * gradient**2
        wanted = logits[site] + 0.01 * gradient / (square.sqrt() + 1e-8)
        torch.testing.assert_close(run.squares[site], square, rtol=1e-8, atol=1e-20)
        torch.testing.assert_close(run.logits[site], wanted, rtol=1e-6, atol=1e-6)
