"""Where a target stands among the classes: its score and probability, and those of the best others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dmbp.errors import DmbpError
from linreg.text import number

if TYPE_CHECKING:
    from dmbp.account import Account

OTHERS = 3  # classes that are told beside the target's
PROBABILITIES: dict[str, Callable[[Tensor], Tensor] | None] = {
    "softmax": lambda scores: scores.softmax(0),
    "sigmoid": torch.sigmoid,
    "none": None,
}
Labels = Sequence[str] | Callable[[int], str] | None


@dataclass(frozen=True)
class Candidate:
    """A class with its score, its place among all (1 is the highest), and its probability if one is asked for."""

    index: int
    label: str
    score: float
    place: int
    probability: float | None

    def __str__(self) -> str:
        """ "espresso (967) 0.93"; a score stands where no probability does."""
        value = f"score {number(self.score)}" if self.probability is None else probable(self.probability)
        return f"{self.name} {value}"

    @property
    def name(self) -> str:
        """The first of the label's names, with the number unless that tells it."""
        first = self.label.partition(",")[0]
        return first if str(self.index) in first.split() else f"{first} ({self.index})"


@dataclass(frozen=True)
class Standing:
    """The classes of the target, one or the two of a difference, and the best others; `kind` of probability."""

    words: str
    kind: str
    targets: tuple[Candidate, ...]
    others: tuple[Candidate, ...]


def standing(account: Account, image: int, labels: Labels, probability: str) -> Standing | None:
    """The standing of one image's target; None where it is no class, nor one class rather than another.

    Raises DmbpError for a probability that is none of "softmax", "sigmoid" and "none".
    """
    if probability not in PROBABILITIES:
        raise DmbpError(f"probability must be one of {', '.join(map(repr, PROBABILITIES))}, not {probability!r}")
    output = account.output
    if output is None or output.dim() != 2 or output.shape[1] < 2:
        return None
    scores, weights = output[image].double(), account.weights[image]
    asked = chosen(weights)
    if not asked:
        return None
    probable = PROBABILITIES[probability]
    chances = None if probable is None else probable(scores).tolist()
    order = scores.argsort(descending=True, stable=True).tolist()

    def candidate(index: int) -> Candidate:
        chance = None if chances is None else chances[index]
        return Candidate(index, label_of(labels, index), scores[index].item(), order.index(index) + 1, chance)

    targets = tuple(map(candidate, asked))
    others = tuple(candidate(index) for index in order if index not in asked)[:OTHERS]
    return Standing(_words(targets, others, probability), probability, targets, others)


def label_of(labels: Labels, index: int) -> str:
    """The name of a class, "class 3" where there is none."""
    if labels is None:
        return f"class {index}"
    return labels(index) if callable(labels) else labels[index]


def percent(share: float) -> str:
    """A share in percent with two figures, or all before the point: "98 %", "0.31 %", "6.1e-06 %"."""
    value = 100 * share
    if value == 0:
        return "0 %"
    digits = max(0, 1 - floor(log10(abs(value)))) if abs(value) < 1e300 else 0
    text = f"{value:.{digits}f}" if digits <= 4 else f"{value:.1e}"
    return f"{text.replace('-', '−', 1) if digits <= 4 else text} %"


def probable(chance: float) -> str:
    """A probability for people: what is nearly 1 is not told as 1."""
    if chance > 0.999:
        return "over 0.999"
    return f"{chance:.3f}" if chance >= 0.001 else "under 0.001"


def chosen(weights: Tensor) -> tuple[int, ...]:
    """The class that weights choose, or the two whose difference they are, the wanted one first; else none."""
    found = weights.nonzero().flatten().tolist()
    values = [weights[index].item() for index in found]
    if values == [1.0]:
        return (found[0],)
    if sorted(values) == [-1.0, 1.0]:
        return (found[values.index(1.0)], found[values.index(-1.0)])
    return ()


def _words(targets: tuple[Candidate, ...], others: tuple[Candidate, ...], kind: str) -> str:
    told = "scores" if kind == "none" else f"{kind} probability"
    first = " against ".join(f"{each}{_place(each)}" for each in targets)
    rest = f"; others: {', '.join(map(str, others))}" if others else ""
    return f"{told}: {first}{rest}"


def _place(candidate: Candidate) -> str:
    return "" if candidate.place == 1 else f" (number {candidate.place} of all)"
