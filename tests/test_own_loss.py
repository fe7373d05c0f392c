"""A function as loss: the built-in ones' masks by another way, all options, Ctrl-C, and what cannot be learned from."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import pytest
import torch
from nets import NETS
from torch import Tensor

import dmbp
import linreg
from dmbp import DmbpError
from dmbp.learning.objective import LOSSES, Loss, loss_name
from dmbp.learning.passes import MaskedNetwork

TARGET = [0, 2, 1]
CASES = [
    ("chain_with_biases", "gates"),
    ("conv_bn", "gates"),
    ("residual_outer", "blocks"),
    ("residual_inner", "gates"),
    ("mobile", "blocks"),
    ("pools", "gates"),
    ("gates", "gates"),
    ("shortcut", "blocks"),
    ("wiring", "gates"),
]


@cache
def region(name: str) -> linreg.Linearization:
    model, x = NETS[name]()
    return linreg.trace(model, x).linearize(x)


def own(name: str) -> Loss:
    """A built-in loss by another name, which sends it through the Function."""
    return lambda *scores: LOSSES[name](*scores)


def explained(name: str, loss: str | Loss, **options: Any) -> dmbp.Result:
    lin = region(name)
    return dmbp.explain(lin.graph, lin.input, TARGET, loss=loss, **({"iterations": 20, "progress": False} | options))


def assert_same(ours: dmbp.Result, expected: dmbp.Result) -> None:
    assert (ours.iterations, ours.interrupted) == (expected.iterations, expected.interrupted)
    assert torch.equal(ours.updates, expected.updates)
    for found, wanted in (
        (ours.masks, expected.masks), (ours.initial, expected.initial), (ours.history, expected.history),
        (ours.snapshots, expected.snapshots), ({"map": ours.attribution}, {"map": expected.attribution}),
    ):  # fmt: skip
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():  # type: ignore[attr-defined]
            torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-10, msg=lambda text, key=key: key + text)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("name", "sites"), CASES)
def test_a_built_in_loss_as_a_function_gives_the_same_masks(name: str, sites: str, loss: str) -> None:
    assert_same(explained(name, own(loss), sites=sites), explained(name, loss, sites=sites))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "options",
    [
        {"unmasked": "both"},
        {"lr": 0.05},
        {"tolerance": 0.1, "iterations": 120},
        {"snapshots": (0, 7, 20)},
        {"sites": ["2.relu"]},
        {"iterations": 0},
    ],
)
def test_options_serve_a_function_as_they_serve_a_built_in_loss(loss: str, options: dict[str, Any]) -> None:
    ours = explained("residual_inner" if "sites" not in options else "residual_outer", own(loss), **options)
    expected = explained("residual_inner" if "sites" not in options else "residual_outer", loss, **options)
    assert_same(ours, expected)
    if "tolerance" in options and loss == "all":
        assert ours.iterations < 120 and len(set(ours.updates.tolist())) > 1


def test_start_and_precision_serve_a_function_too() -> None:
    first = explained("residual_outer", "all", iterations=5)
    assert_same(*(explained("residual_outer", loss, start=first.masks) for loss in (own("all"), "all")))
    assert_same(*(explained("conv_bn", loss, precision="bf16") for loss in (own("all"), "all")))


def test_whole_tensors_serve_a_function_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU, uncompiled, on a CPU."""
    monkeypatch.setattr("dmbp.learning.passes.compiled", lambda kernel: kernel)
    assert_same(explained("mobile", own("all"), compiled=True), explained("mobile", "all"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_kernels_serve_a_function_too() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # the compiler's own
        assert_same(explained("mobile", own("all"), compiled=True), explained("mobile", "all"))
        assert_same(explained("mobile", own("+-"), compiled=True), explained("mobile", "+-"))


def test_the_callback_sees_what_it_sees_of_a_built_in_loss() -> None:
    seen: dict[str, list[Tensor]] = {"own": [], "all": []}
    for name, loss in (("own", own("all")), ("all", "all")):

        def watch(iteration: int, split: Mapping[str, Tensor], logits: Mapping[str, Tensor], name: str = name) -> None:
            assert torch.is_grad_enabled() and set(split) == {"y", "positive", "negative", "nuisance"}
            values = [*split.values(), *(theta.sigmoid() for theta in logits.values())]
            assert not any(value.requires_grad for value in values)
            seen[name] += values

        explained("mobile", loss, iterations=5, callback=watch)
    torch.testing.assert_close(seen["own"], seen["all"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("where", ["the callback", "the loss", "the sweep back"])
def test_ctrl_c_keeps_what_was_reached(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def third(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    loss, callback, sweep = own("all"), None, MaskedNetwork.backward
    if where == "the callback":
        callback = third
    elif where == "the loss":
        loss = lambda *scores: third() or LOSSES["all"](*scores)  # type: ignore[func-returns-value]  # noqa: E731
    else:
        monkeypatch.setattr(MaskedNetwork, "backward", lambda *given: third() or sweep(*given))  # type: ignore[func-returns-value]
    ours = explained("conv_bn", loss, callback=callback)
    assert ours.interrupted and ours.iterations == 3
    monkeypatch.undo()
    whole = explained("conv_bn", "all", iterations=3)
    for site, mask in whole.masks.items():
        torch.testing.assert_close(ours.masks[site], mask, rtol=1e-10, atol=1e-10)


def test_a_loss_is_called_once_an_iteration_with_the_scores_alone() -> None:
    lin, calls = region("conv_bn"), list[tuple[Tensor, Tensor]]()

    def loss(y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        assert torch.equal(y, lin.score(TARGET)) and not y.requires_grad and torch.is_grad_enabled()
        assert positive.is_leaf and positive.requires_grad and negative.is_leaf and negative.requires_grad
        calls.append((positive.detach(), negative.detach()))
        return positive - negative

    result = explained("conv_bn", loss, iterations=5)
    assert len(calls) == 5
    assert torch.equal(torch.stack([plus for plus, _ in calls]), result.history["positive"][:5])
    assert torch.equal(torch.stack([minus for _, minus in calls]), result.history["negative"][:5])


def near(positive: float | Tensor, negative: float | Tensor) -> Loss:
    """Scores of one's own choice."""
    return lambda y, plus, minus: (plus - positive) ** 2 + (minus - negative) ** 2


def test_an_objective_of_ones_own_is_reached() -> None:
    """One that no built-in loss has: the scores that some masks, drawn at random, are known to have."""
    scores = dmbp.masked_scores(region("mobile"), target=TARGET)
    generator = torch.Generator().manual_seed(0)
    drawn = {site: torch.randn(t.shape, generator=generator, dtype=t.dtype) for site, t in scores.logits().items()}
    aim = [value.detach() for value in scores(drawn)]
    history = explained("mobile", near(*aim), iterations=300).history
    losses = (history["positive"] - aim[0]) ** 2 + (history["negative"] - aim[1]) ** 2
    assert (losses[0] > 0.05).all() and (losses[-1] < 1e-3 * losses[0]).all()


def test_images_are_independent_of_each_other() -> None:
    lin = region("residual_inner")
    together = explained("residual_inner", near(1.0, -0.5))
    for n, target in enumerate(TARGET):
        x = lin.input[n : n + 1]
        alone = dmbp.explain(lin.graph, x, target, loss=near(1.0, -0.5), iterations=20, progress=False)
        for site, mask in alone.masks.items():
            torch.testing.assert_close(together.masks[site][n], mask[0], rtol=0, atol=1e-8)


def test_under_inference_mode_a_loss_may_keep_what_it_is_given() -> None:
    lin = region("conv_bn")
    loss: Loss = lambda y, positive, negative: y * (negative - positive)  # noqa: E731
    expected = dmbp.explain(lin.graph, lin.input, TARGET, loss=loss, iterations=5, progress=False)
    with torch.inference_mode():
        x = lin.input.clone()
        result = dmbp.explain(lin.graph, x, TARGET, loss=loss, iterations=5, progress=False)
        learned = dmbp.learn_masks(lin.graph.linearize(x), TARGET, loss=loss, iterations=5, progress=False)
    for site, mask in expected.masks.items():
        torch.testing.assert_close(result.masks[site], mask, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(learned.masks[site], mask, rtol=1e-12, atol=1e-12)


WRONG: dict[str, tuple[Loss, str]] = {
    "a sum": (
        lambda y, p, n: (n - p).sum(),
        r"must return a tensor of shape \(3,\), one number for each image, not \(\): leave out the sum or mean",
    ),
    "a column": (lambda y, p, n: (n - p)[:, None], r"must return a tensor of shape \(3,\), .*, not \(3, 1\)"),
    "no tensor": (lambda y, p, n: 1.0, "must return a tensor .*, not float"),  # type: ignore[arg-type, return-value]
    "nothing": (lambda y, p, n: None, "must return a tensor .*, not NoneType"),  # type: ignore[arg-type, return-value]
    "detached": (lambda y, p, n: n.detach() - p.detach(), r"has no derivative by y⁺ or y⁻: .* without detach\(\)"),
    "of y alone": (lambda y, p, n: 2 * y, "has no derivative by y⁺ or y⁻"),
    "whole numbers": (lambda y, p, n: (p > n).long(), "has no derivative by y⁺ or y⁻"),
    "complex": (lambda y, p, n: p + 1j * n, "autograd cannot differentiate the loss .*: grad can be"),
    "NaN": (lambda y, p, n: (-p.abs() - 1).log(), "is nan for image 0, where y = .*, y⁺ = .* and y⁻ = .*, after 0 upd"),
    "infinite": (lambda y, p, n: p / 0, "is -?inf for image 0, where y = "),
    "an infinite slope": (lambda y, p, n: (p - p.detach()).abs().sqrt(), "the derivative of the loss .* is nan for"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_loss_that_cannot_be_learned_from_is_refused_before_the_first_update(what: str) -> None:
    loss, message = WRONG[what]
    with pytest.raises(DmbpError, match=rf"the loss test_own_loss\.<lambda>,? .*{message}|{message}") as caught:
        explained("chain_with_biases", loss, callback=no_second)
    assert "test_own_loss.<lambda>" in str(caught.value)


def no_second(iteration: int, *_: Any) -> None:
    assert iteration == 0


def test_a_loss_that_breaks_later_says_when_and_for_which_image() -> None:
    lin = region("conv_bn")
    plus = explained("conv_bn", "+", iterations=10).history["positive"][:, 1]
    limit = (plus[4] + plus[5]) / 2  # which the second image passes after five updates
    images = torch.tensor([1e9, limit, 1e9]).double()
    with pytest.raises(DmbpError, match=r"is nan for image 1, where y = .*, after 5 updates"):
        dmbp.explain(
            lin.graph, lin.input, TARGET, iterations=10, progress=False,
            loss=lambda y, p, n: -p * torch.where(p.detach() < images, 1, torch.nan),
        )  # fmt: skip


@pytest.mark.parametrize("loss", [lambda: 0, lambda y, p: p, lambda y, p, n, m: p, lambda *, y, p, n: p])
def test_a_loss_of_other_arguments_is_refused_at_once(loss: Any) -> None:
    with pytest.raises(DmbpError, match=r"the loss test_own_loss.<lambda> must take three tensors, f\(y, y⁺, y⁻\): "):
        dmbp.Options(loss=loss)


def test_what_a_loss_raises_is_left_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        explained("conv_bn", lambda y, p, n: p * (1 // 0))


class Hinge:
    """A loss with a state of its own."""

    def __call__(self, y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return (1 - positive).relu() + negative


def test_the_name_of_a_loss_is_recorded() -> None:
    hinge, inner = Hinge(), own("all")
    names = {
        "all": "all",
        loss_name(near(0, 0)): "test_own_loss.near.<locals>.<lambda>",
        loss_name(inner): "test_own_loss.own.<locals>.<lambda>",
        loss_name(hinge): "test_own_loss.Hinge",
        loss_name(partial(partial(Hinge.__call__, hinge))): "test_own_loss.Hinge.__call__",
        loss_name(LOSSES["all"]): "dmbp.learning.objective.loss_all",
    }
    assert all(found == wanted for found, wanted in names.items())
    result = explained("conv_bn", hinge, iterations=2)
    assert result.loss == "test_own_loss.Hinge" and result.options is not None and result.options.loss is hinge
    assert str(result.arrays()["loss"]) == "test_own_loss.Hinge"
    assert torch.equal(result.attribution, result.positive + result.negative)
