"""What a method of attribution is: a value of its options that makes maps, by one signature for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dmbp.errors import DmbpError
from dmbp.evaluation.checks import Classes, check_count, check_network, check_pictures, class_indices, scores

BATCH = 16  # pictures that go through the network together


def option(default: Any, about: str, source: str, *, decides: bool = True) -> Any:
    """A field of a method: what it is and where its default comes from; `decides` says whether maps hang on it."""
    return field(default=default, compare=decides, metadata={"about": about, "source": source})


@dataclass(frozen=True)
class Method(ABC):
    """A method with its options, which gives maps: `method(network, x, target)`.

    The network is any `nn.Module` in eval mode that gives (N, classes), and is left as it is; x is (N, C, *picture);
    `target` is a class for all pictures or one for each. The map is shaped like x, or (N, 1, *picture) where the method
    ranks positions and knows no colours. The score that is explained is the network's output for the class. Each
    picture is explained by itself: a batch gives what its pictures give alone, to rounding.

    A subclass says in words for the table of all methods what its map is: `source`, `times_x`, `colours`, `sign`.
    Raises DmbpError for what does not fit, LinregError where a method needs a piecewise-linear network and has none.
    """

    label: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    times_x: ClassVar[str]
    colours: ClassVar[str]
    sign: ClassVar[str]

    def __call__(self, network: nn.Module, x: Tensor, target: Classes) -> Tensor:
        check_network(network)
        check_pictures(x)
        with torch.inference_mode(False):  # autograd takes no tensors that were made in that mode
            x = x.clone() if x.is_inference() else x.detach()
            classes = class_indices(target, len(x)).to(x.device)
            return self.attribute(network, x, classes).detach()

    def check_installed(self) -> None:
        """Raise DmbpError where the method needs a package that is not installed; most need none."""
        return

    @abstractmethod
    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        """The map, for checked pictures and one class for each, (N,) on their device."""

    @property
    def name(self) -> str:
        """The label, and the options that are not the default: what `parse` makes the same method of."""
        told = [f"{each.name}={_text(getattr(self, each.name))}" for each in self.options() if self._differs(each)]
        return f"{self.label}:{','.join(told)}" if told else self.label

    @classmethod
    def options(cls) -> tuple[Field[Any], ...]:
        return fields(cls)

    def _differs(self, each: Field[Any]) -> bool:
        return bool(each.compare) and getattr(self, each.name) != each.default

    def _check_numbers(self, *names: str, least: int = 1) -> None:
        for name in names:
            check_count(getattr(self, name), f"{self.label}: {name}", least)

    def _check_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise DmbpError(f"{self.label}: {name} must be a positive number, not {value!r}")

    def _check_word(self, name: str, words: Iterable[str]) -> None:
        words = tuple(words)
        if getattr(self, name) not in words:
            listed = ", ".join(map(repr, words))
            raise DmbpError(f"{self.label}: {name} must be one of {listed}, not {getattr(self, name)!r}")


def gradient(network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """∇ of each picture's score at x, shaped like x: by autograd, on the network itself."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        output = scores(network, leaf, target.tolist())
        return torch.autograd.grad(output.gather(1, target[:, None]).sum(), leaf)[0]


def path_sum(network: nn.Module, points: Iterable[tuple[Tensor, Tensor]], target: int) -> Tensor:
    """Σ_i w_i ⊙ ∇f(p_i) of one class, (C, *picture): points p (B, C, *picture) and weights w that broadcast to them."""
    parts = [(w * gradient(network, p, torch.full((len(p),), target, device=p.device))).sum(0) for p, w in points]
    return torch.stack(parts).sum(0)


def _text(value: object) -> str:
    return "|".join(map(str, value)) if isinstance(value, tuple) else str(getattr(value, "__name__", value))
