"""Options as one value: documented, checked and recorded once, taken one by one or whole; a function in a folder."""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from nets import NETS
from torch import Tensor, nn

import dmbp
import linreg
from dmbp import DmbpError, Options
from dmbp.learning import options as options_module
from dmbp.learning.objective import LOSSES, Loss
from dmbp.runs.loss_code import loss_record

TARGET = [0, 2, 1]
TAKERS = (dmbp.explain, dmbp.explain_all, dmbp.learn_masks)
OTHERS: dict[str, Any] = {  # of each option, a value that is not its default
    "iterations": 3, "loss": "+", "sites": "blocks", "unmasked": "both", "lr": 0.05, "tolerance": 0.5,
    "agreement": 0.9, "precision": "bf16", "compiled": False,
}  # fmt: skip


@cache
def graph(name: str = "conv_bn") -> linreg.OperatorGraph:
    model, x = NETS[name]()
    return linreg.trace(model, x)


@cache
def images(name: str = "conv_bn") -> Tensor:
    return NETS[name]()[1]


def explained(**given: Any) -> dmbp.Result:
    return dmbp.explain(graph(), images(), TARGET, progress=False, **given)


def assert_same(a: dmbp.Result, b: dmbp.Result) -> None:
    first, second = a.arrays(), b.arrays()
    assert first.keys() == second.keys()
    assert all((value == second[name]).all() for name, value in first.items() if name != "seconds")


# ---- one value ----


def test_keywords_for_type_checkers_are_the_fields() -> None:
    known = get_type_hints(options_module.Options)
    assert get_type_hints(options_module.OptionWords) == {field.name: known[field.name] for field in fields(Options)}
    assert not options_module.OptionWords.__required_keys__


@pytest.mark.parametrize("function", TAKERS)
def test_signatures_and_help_show_each_option_with_its_default(function: Callable[..., Any]) -> None:
    shown = inspect.signature(function).parameters
    for field in fields(Options):
        parameter = shown[field.name]
        assert (parameter.kind, parameter.default) == (inspect.Parameter.KEYWORD_ONLY, field.default)
        assert parameter.annotation == field.type
    assert not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in shown.values())
    assert inspect.signature(inspect.unwrap(function)).parameters.keys() - {"words"} <= shown.keys()
    assert "`Options`" in (function.__doc__ or "") and function.__module__ and function.__name__ in dmbp.__all__


def test_each_option_is_documented() -> None:
    named = [line.strip().split("`")[1] for line in inspect.cleandoc(Options.__doc__).splitlines() if "- `" in line]
    assert named == [field.name for field in fields(Options)] == list(OTHERS)


def test_it_is_a_value() -> None:
    one = Options(iterations=3, sites=["a", "b"])
    assert one == Options(sites=("a", "b"), iterations=3) != Options(iterations=3)
    assert len({one, Options(iterations=3, sites=["a", "b"]), Options()}) == 2
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(FrozenInstanceError):
        one.iterations = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        Options(3)  # type: ignore[misc]


@pytest.mark.parametrize("name", OTHERS)
def test_by_keyword_or_as_one_value_it_is_the_same(name: str) -> None:
    given = {"iterations": 2} | {name: OTHERS[name]}
    by_name, whole = explained(**given), explained(options=Options(**given))
    changed = explained(options=Options(iterations=7), **given)
    for result in (by_name, whole, changed):
        assert result.options == Options(**given)
        assert_same(result, by_name)
    lin = graph().linearize(images())
    learned = [
        dmbp.learn_masks(lin, TARGET, progress=False, **kwargs) for kwargs in (given, {"options": Options(**given)})
    ]
    assert all(torch.equal(learned[0].masks[site], mask) for site, mask in learned[1].masks.items())
    both = [
        list(dmbp.explain_all(graph(), images(), TARGET, progress=False, **kwargs))  # type: ignore[arg-type]
        for kwargs in (given, {"options": Options(**given)})
    ]
    for one, other, attribution in zip(*both, by_name.attribution, strict=True):
        assert torch.equal(one.attribution, other.attribution)
        torch.testing.assert_close(one.attribution, attribution, rtol=1e-10, atol=1e-13)


def test_keywords_change_the_value_for_one_call_only() -> None:
    held = Options(iterations=4, loss="+")
    result = explained(options=held, loss="+-")
    assert result.options == replace(held, loss="+-") and held.loss == "+"
    assert (result.loss, result.iterations) == ("+-", 4)


@pytest.mark.parametrize("function", TAKERS)
def test_a_wrong_keyword_is_refused_with_the_right_ones(function: Callable[..., Any]) -> None:
    with pytest.raises(DmbpError) as caught:
        function(graph(), images(), TARGET, iteration=3)
    text = str(caught.value)
    assert text.startswith(f"{function.__name__} has no option 'iteration' (did you mean 'iterations'?): it takes ")
    listed = text.partition("it takes ")[2].split(", ")
    keyword_only = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert listed == keyword_only and {*OTHERS, "options", "progress"} <= set(listed)
    with pytest.raises(DmbpError, match="has no option 'zzz': it takes iterations, "):
        function(graph(), images(), TARGET, zzz=3)


@pytest.mark.parametrize("function", TAKERS)
def test_what_is_no_value_of_options_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(DmbpError, match=r"options must be a dmbp\.Options, not dict"):
        function(graph().linearize(images()), images(), options={"iterations": 3})


WRONG: list[tuple[str, Any, str]] = [
    ("iterations", -1, "iterations must be a whole number of at least 0, not -1"),
    ("iterations", True, "iterations must be a whole number of at least 0, not True"),
    ("iterations", 2.0, "iterations must be a whole number"),
    ("loss", "best", r"loss must be one of 'all', '\+-', '\+', 'none', not 'best'; or a function f\(y, y⁺, y⁻\)"),
    ("loss", ["all"], r"loss must be one of .* not \['all'\]"),
    ("loss", None, "loss must be one of .* not None"),
    ("sites", "layers", "sites must be one of 'gates', 'blocks' or names of nodes, not 'layers'"),
    ("sites", 3, "sites must be one of 'gates', 'blocks' or names of nodes, not 3"),
    ("unmasked", "twice", "unmasked must be one of 'nuisance', 'both', not 'twice'"),
    ("lr", 0, "the learning rate must be a positive number, not 0"),
    ("lr", "fast", "the learning rate must be a positive number, not 'fast'"),
    ("tolerance", -0.1, "the tolerance must be a positive number or None, not -0.1"),
    ("tolerance", float("nan"), "the tolerance must be a positive number or None, not nan"),
    ("agreement", 1, "the agreement must be a number between 0 and 1, or None, not 1"),
    ("agreement", 0.0, "the agreement must be a number between 0 and 1, or None, not 0.0"),
    ("precision", "half", "precision must be one of 'full', 'tf32', 'bf16', not 'half'"),
    ("compiled", "yes", "compiled must be True, False or None, not 'yes'"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_a_wrong_value_is_refused_at_once(name: str, value: Any, message: str) -> None:
    """Before a network is looked at: here there is none."""
    for make in (Options, *(partial(function, None, None) for function in TAKERS)):
        with pytest.raises(DmbpError, match=message):
            make(**{name: value})


def test_what_a_network_refuses_is_said_when_there_is_one() -> None:
    lin = graph().linearize(images())
    assert Options(sites=["1.relu"]).sites == ("1.relu",)
    with pytest.raises(linreg.LinregError, match="no node 'nowhere'"):
        Options(sites=["nowhere"]).sites_in(lin)
    with pytest.raises(DmbpError, match="'tf32' is an arithmetic of CUDA devices, and the network is on cpu"):
        Options(precision="tf32").sites_in(lin)
    assert Options().sites_in(lin) == dmbp.find_sites(graph())
    assert Options(sites=reversed(dmbp.find_sites(graph()))).sites_in(lin) == dmbp.find_sites(graph())


def test_the_record_is_plain_and_holds_what_decides_the_result() -> None:
    record = Options(**OTHERS).record()
    assert json.loads(json.dumps(record)) == record == {k: v for k, v in OTHERS.items() if k != "compiled"}
    assert Options(loss=LOSSES["all"]).record()["loss"] == "dmbp.learning.objective.loss_all"


# ---- a function as loss, in a folder ----


def made(folder: Path, loss: str | Loss, **given: Any) -> list[dmbp.Explained]:
    options: dict[str, Any] = {"iterations": 4, "batch_size": 3, "progress": False} | given
    return list(dmbp.explain_all(graph(), images(), TARGET, loss=loss, out=folder, **options))


def near(value: Any) -> Loss:
    return lambda y, positive, negative: (positive - value) ** 2 + negative.abs()


def test_a_function_gives_what_it_gives_one_image_at_a_time_and_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(tmp_path, near(0.5))
    for n, value in enumerate(first):
        x, target = images()[n : n + 1], TARGET[n]
        alone = dmbp.explain(graph(), x, target, loss=near(0.5), iterations=4, progress=False)
        torch.testing.assert_close(value.attribution, alone.attribution[0], rtol=1e-9, atol=1e-12)
    monkeypatch.setattr("dmbp.runs.batches.explain", None)  # nothing is computed twice
    for value, again in zip(first, made(tmp_path, near(0.5)), strict=True):
        assert torch.equal(value.attribution, again.attribution)


def test_another_function_of_the_same_name_is_refused(tmp_path: Path) -> None:
    made(tmp_path, near(0.5))
    name = "test_options.near.<locals>.<lambda>"
    with pytest.raises(DmbpError, match=rf"another loss \('{name}, code \w{{16}}', not '{name}, code \w{{16}}'\)"):
        made(tmp_path, near(0.6))
    with pytest.raises(DmbpError, match=r"another loss \('test_options.near.*', not 'all'\)"):
        made(tmp_path, "all")


def compiled(source: str, **names: Any) -> Loss:
    """The function f of a source, as if it had been written in a file."""
    scope: dict[str, Any] = {"torch": torch, "np": np, "F": nn.functional, "__name__": "written"} | names
    exec(source, scope)
    return scope["f"]


SOURCE = """
def f(y, positive, negative):
    def inner(value):
        return torch.where(value > 0.5, value, 2.0)
    return F.relu(positive) - inner(negative)
"""
SAME = {
    "again": SOURCE,
    "with comments": SOURCE.replace("return F", "# why\n    return F"),
    "further down": "\n\n" + SOURCE,
}
CHANGED = {
    "a sign": SOURCE.replace("- inner", "+ inner"),
    "a number": SOURCE.replace("2.0", "2.5"),
    "a number within": SOURCE.replace("0.5", "0.6"),
    "a function": SOURCE.replace("F.relu", "F.elu"),
    "an argument": SOURCE.replace("negative):", "negative, z=0):"),
    "the order": SOURCE.replace("(y, positive, negative)", "(positive, y, negative)"),
}


@pytest.mark.parametrize("how", SAME)
def test_the_same_code_is_the_same_loss(how: str) -> None:
    assert loss_record(compiled(SAME[how])) == loss_record(compiled(SOURCE))


@pytest.mark.parametrize("how", CHANGED)
def test_changed_code_is_another_loss(how: str) -> None:
    assert CHANGED[how] != SOURCE
    assert loss_record(compiled(CHANGED[how])) != loss_record(compiled(SOURCE))


HELPERS: dict[str, tuple[Any, Any]] = {
    "a number": (2.0, 2),
    "a sign of zero": (0.0, -0.0),
    "a tensor": (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])),
    "an array": (np.arange(3.0), np.arange(3.0) + 1e-9),
    "a number of NumPy": (np.float64(1.0), np.float64(2.0)),
    "a list": ([1, 2], [1, 3]),
    "a dictionary": ({"a": 1}, {"a": 2}),
    "a set": ({1, 2}, {1, 3}),
    "a function": (lambda value: value, lambda value: -value),
    "a function of torch": (torch.relu, torch.sigmoid),
    "a type": (torch.float32, torch.float64),
    "a partial": (partial(torch.clamp, min=0), partial(torch.clamp, min=1)),
    "a module": (torch, np),
}


@pytest.mark.parametrize("kind", HELPERS)
@pytest.mark.parametrize("where", ["globals", "closure", "defaults", "partial"])
def test_what_a_function_names_belongs_to_it(kind: str, where: str) -> None:
    def use(helper: Any) -> Loss:
        if where == "globals":
            return compiled("def f(y, p, n): return helper", helper=helper)
        if where == "closure":
            return lambda y, p, n: helper
        if where == "defaults":
            return lambda y, p, n, more=helper: p
        return partial(lambda more, y, p, n: p, helper)  # type: ignore[return-value]

    one, other = HELPERS[kind]
    again = one.clone() if isinstance(one, Tensor) else one
    assert loss_record(use(one)) == loss_record(use(again)) != loss_record(use(other))


def test_a_function_that_calls_itself_is_told() -> None:
    source = "def f(y, p, n, k=3): return p if k == 0 else f(y, p, n, k - 1)"
    assert loss_record(compiled(source)) == loss_record(compiled(source))
    assert loss_record(compiled(source)) != loss_record(compiled(source.replace("k - 1", "k - 2")))


class Hinge(nn.Module):
    def forward(self, y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return (1 - positive).relu() + negative


def strange() -> ModuleType:
    return import_module("nets")


UNKNOWN: dict[str, tuple[Loss, str]] = {
    "an object": (Hinge(), "uses 'Hinge'"),
    "a method": (Hinge().forward, "uses 'forward' .method."),
    "a module of one's own": (compiled("def f(y, p, n): return own.loss(p)", own=strange()), "uses 'nets' .module."),
    "an import": (compiled("def f(y, p, n):\n    import nets\n    return nets.loss(p)"), "uses 'nets' .module."),
    "an import within": (compiled("def f(y, p, n):\n    def g():\n        import nets\n    return p"), "uses 'nets'"),
    "a class of one's own": (compiled("def f(y, p, n): return Hinge()(y, p, n)", Hinge=Hinge), "uses 'Hinge' .type."),
    "a generator": (compiled("def f(y, p, n): return p * next(it)", it=iter([1.0])), "uses 'list_iterator'"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_a_loss_that_cannot_be_told_is_refused_with_a_folder_only(what: str, tmp_path: Path) -> None:
    loss, message = UNKNOWN[what]
    with pytest.raises(DmbpError, match=rf"the loss .* {message}.* cannot be compared .* or leave out `out`"):
        dmbp.explain_all(graph(), images(), TARGET, loss=loss, out=tmp_path / "out")  # at the call
    assert not (tmp_path / "out").exists()
    if what == "an object":
        values = list(dmbp.explain_all(graph(), images(), TARGET, loss=loss, iterations=2, progress=False))
        assert len(values) == 3


def test_built_in_losses_keep_their_names() -> None:
    assert [loss_record(name) for name in (*LOSSES, "none")] == [*LOSSES, "none"]
    assert len({loss_record(loss) for loss in LOSSES.values()}) == len(LOSSES)
