"""The tutorials' assertions can fail: the library is broken in some way, and the tutorial that is named must see it.

The check that `trace` makes against the model would see what is wrong with a value before the tutorial does; here it
says nothing, so that the page stands on its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import dmbp
import tutorials
from dmbp import analysis
from dmbp.evaluation.methods import fullgrad, guided
from dmbp.learning.autograd import MaskedPasses
from dmbp.masks import Masked
from linreg import complete, paths
from linreg.operators import Convolution, Diagonal, Linear
from linreg.operators.arithmetic import Sum
from linreg.operators.gates import LeakyReLU
from linreg.operators.pooling import MaxPool
from linreg.regions import nearest
from tutorials import TUTORIALS

Patch = Callable[[pytest.MonkeyPatch], None]
# Modules that hold what is patched.
TRACE, SMOOTH, OBJECTIVE, CURVES = map(
    import_module,
    ("linreg.capture.attempts", "linreg.operators.smooth", "dmbp.learning.objective", "dmbp.evaluation.curves"),
)


@dataclass(frozen=True)
class Mutation:
    """What breaks the library, and the tutorial that is first to see it."""

    tutorial: str
    patch: Patch


def method(owner: type, **wrong: Callable[..., Any]) -> Patch:
    """Methods of a class with others in their place."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for name, function in wrong.items():
            monkeypatch.setattr(owner, name, function)

    return patch


def changed(owner: type, name: str, change: Callable[[Any], Any]) -> Patch:
    """A method that gives something else than it should."""
    right = getattr(owner, name)
    return method(owner, **{name: lambda self, *arguments: change(right(self, *arguments))})


def everywhere(function: Callable[..., Any], wrong: Callable[..., Any]) -> Patch:
    """A function with another in its place, in all modules that imported it."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in ("linreg", "dmbp"):
                for own, value in list(vars(module).items()):
                    if value is function:
                        monkeypatch.setattr(module, own, wrong)

    return patch


def climbing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of the masks with the wrong sign, whatever they minimise."""
    for name, loss in OBJECTIVE.LOSSES.items():
        monkeypatch.setitem(OBJECTIVE.LOSSES, name, lambda *scores, loss=loss: -loss(*scores))


def before_the_offset(self: Masked, *inputs: Tensor) -> Tensor:
    return sum((constant.value for constant in self.affine.constants), self.mask * self.affine.linear(*inputs))


def identity_lost(self: Sum, grad: Tensor) -> tuple[Tensor, ...]:
    first, *others = RIGHT_SUM(self, grad)
    return first, *(0 * other for other in others)


def open_at_the_kink(self: LeakyReLU, z: Tensor) -> Diagonal:
    right = RIGHT_LEAKY(self, z)
    return Diagonal(right.slope.where(z != 0, 1.0))


def next_one(pooled: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    value, index = pooled
    return value, (index + 1) % (index.max() + 1)


def signs_exchanged(*arguments: Any) -> Mapping[str, Tensor]:
    return {site: -theta for site, theta in INITIAL(*arguments).items()}


def half_the_gradient(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    """Which RMSprop does not mind, nor therefore the masks."""
    return tuple(grad if grad is None else grad / 2 for grad in BACKWARD(ctx, *cotangents))


def sides_exchanged(*arguments: Any) -> dict[str, tuple[Tensor, ...]]:
    return {site: (minus, plus, none) for site, (plus, minus, none) in PURE(*arguments).items()}


def first_term_only(*arguments: Any) -> Iterator[Tensor]:
    yield next(TERMS(*arguments))


def a_pixel_further(axis: Any) -> Any:
    """Each hat still sums to one, so that no sum can tell."""
    return np.roll(HATS(axis), 1, axis=0)


RIGHT_SUM, RIGHT_LEAKY, INITIAL = Sum.adjoint, LeakyReLU.freeze, dmbp.initial_logits
INTERPOLATE, ADJOINT, SCALED = SMOOTH.interpolate, Convolution.adjoint, Convolution.scaled
BACKWARD, AREA = MaskedPasses.backward, CURVES.area
PURE, TERMS, HATS = analysis._pure_states, fullgrad.terms, complete.hats

MUTATIONS = {
    # the linear region
    "a gate turned in the sweep back": Mutation(
        "01_linear_here", method(Diagonal, adjoint=lambda self, grad: (grad * (1 - self.slope),))
    ),
    "the identity beside a residual branch lost in the sweep back": Mutation(
        "01_linear_here", method(Sum, adjoint=identity_lost)
    ),
    "LeakyReLU open at its kink": Mutation("08_beyond_relu", method(LeakyReLU, freeze=open_at_the_kink)),
    "max pooling takes the element beside the largest": Mutation("08_beyond_relu", changed(MaxPool, "pool", next_one)),
    "a kernel turned over in the sweep back": Mutation(
        "03_convolutions",
        method(Convolution, adjoint=lambda self, grad: ADJOINT(replace(self, weight=self.weight.flip(-1)), grad)),
    ),
    # the ledger
    "a bias dropped": Mutation(
        "02_ledger",
        method(
            Linear,
            __call__=lambda self, x: self.linear(x),
            behind=lambda self, grad: (replace(self, constants=()), grad),
        ),
    ),
    "gates' offsets forgotten": Mutation(
        "08_beyond_relu", method(Diagonal, behind=lambda self, grad: (replace(self, offset=None), grad))
    ),
    "batch norm folded without its factor": Mutation(
        "03_convolutions",
        method(Convolution, scaled=lambda self, factor, shift: SCALED(self, factor / factor, shift)),
    ),
    # the split
    "the negative pass with the masks of the positive one": Mutation(
        "04_split", method(dmbp.Split, negative=dmbp.Split.positive)
    ),
    "masked before the offset": Mutation("08_beyond_relu", method(Masked, __call__=before_the_offset)),
    "a mask left out of the sweep back": Mutation(
        "04_split", method(Masked, adjoint=lambda self, grad: self.affine.adjoint(grad))
    ),
    "what no mask touches counted twice": Mutation(
        "04_split", method(dmbp.Split, _aside=property(lambda self: 0 * self.unmasked))
    ),
    # learning
    "B.1 with its signs exchanged": Mutation("05_learning", everywhere(INITIAL, signs_exchanged)),
    "the objective climbed": Mutation("05_learning", climbing),
    "half of the gradient in the autograd Function": Mutation(
        "05_learning", method(MaskedPasses, backward=staticmethod(half_the_gradient))
    ),
    # reading the masks
    "a path that does not count its gates": Mutation("06_masks", everywhere(paths._raised, lambda grads, by: grads)),
    "what has met one side taken for what has met the other": Mutation("06_masks", everywhere(PURE, sides_exchanged)),
    # other maps
    "FullGrad without the biases": Mutation("07_pictures", everywhere(TERMS, first_term_only)),
    "guided backprop that lets pass what is negative": Mutation(
        "07_pictures",
        everywhere(guided.guided, lambda lin, target: lin.weight(target)),
    ),
    "the places of the complete map a pixel too far": Mutation("09_what_to_believe", everywhere(HATS, a_pixel_further)),
    # regions
    "a wall's distance by the norm itself, not by its dual": Mutation(
        "11_regions", everywhere(nearest._dual, lambda rows, norm: rows.flatten(1).norm(norm, dim=1))
    ),
    # judging
    "the ends of a curve counted whole": Mutation(
        "10_measuring", everywhere(AREA, lambda scores: scores.double().mean(1))
    ),
    # curves
    "the error of an interpolant understated": Mutation(
        "08_beyond_relu",
        everywhere(INTERPOLATE, lambda *given: (*INTERPOLATE(*given)[:3], 0.9 * INTERPOLATE(*given)[3])),
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_seen(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an assertion on the page: not by the library, and not by an error of another kind."""
    mutation = MUTATIONS[name]
    path = TUTORIALS[mutation.tutorial]
    for function in (TRACE.compare, TRACE.compare_batch):
        everywhere(function, lambda *arguments: None)(monkeypatch)
    mutation.patch(monkeypatch)
    with pytest.raises(AssertionError) as failure:
        tutorials.run(path, tmp_path)
    assert failure.traceback[-1].path == path, failure.traceback[-1]


def test_there_are_ten_and_more() -> None:
    assert len(MUTATIONS) >= 10 and {mutation.tutorial for mutation in MUTATIONS.values()} <= set(TUTORIALS)
