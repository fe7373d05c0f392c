"""Insertion, complementary insertion and deletion: the score of a class while pixels come or go in the map's order.

Insertion is that of RISE's reference (Petsiuk et al., 2018) with the paper's target, the ground-truth class (Section
4.1):

    start from the blurred picture (`dmbp.evaluation.blur`), and put in the pixels of the picture itself, all colours of
    a pixel at once, in descending order of the map summed over its colours, `step` pixels at a time;
    n = ⌈P / step⌉ steps make n + 1 scores s_i, those of the blurred and of the whole picture among them;
    s_i is the probability of the class, and the area is (Σ s_i − s_0/2 − s_n/2) / n.

Complementary insertion (cIM) puts in the lowest values first, and its score is the mean probability of the other
ground-truth classes: what speaks against one class should be what shows another. Deletion starts from the picture, and
pixels go to zero, the mean colour of the network's input space, in descending order.

Other people's numbers are others. RISE itself explains and scores the class of the highest probability, and leaves the
order of equal pixels to chance. torch-cam inserts in 20 intervals from zeros; Xplique in 10 steps from a baseline of 0,
and takes the network's output itself unless a probability is asked for. These steps and starts can be had here, by
`step` and `baseline`, and are then to be told beside the number.

Ties. Pixels of equal value are put in row by row (a stable sort). Where a step cuts through them, its score hangs on
that choice. `lower` and `upper` are proved bounds: whatever the order of equal pixels, the area lies between them, as a
score that hangs on it lies between 0 and 1. A map without ties has lower = area = upper; a constant map says nothing,
and its bounds tell so.

Index letters: N pictures, i scores, P positions of a picture (H·W).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, fsum

import torch
from torch import Tensor, nn

from dmbp.errors import DmbpError
from dmbp.evaluation.blur import blurred
from dmbp.evaluation.checks import Classes, check_count, check_network, class_indices, scores
from dmbp.evaluation.ways import Baseline, Way, complementary_way, deletion_way, insertion_way
from linreg.text import counted, number

STEPS = 224  # of a curve: a row of pixels at a time for pictures of 224×224, and as many steps for any other size
BATCH = 32  # pictures at a time
ROUNDING = 1e-6  # what a probability may be beyond 0 and 1

Probability = Callable[[Tensor], Tensor]
PROBABILITIES: dict[str, Probability] = {"softmax": lambda scores: scores.softmax(1), "sigmoid": torch.sigmoid}


@dataclass(frozen=True, eq=False)
class Curve:
    """The scores of N pictures after so many pixels, on the CPU.

    `counts` (n + 1,): how many pixels were put in or taken out, from 0 to P. `scores` (N, n + 1). `tied` (N, n + 1):
    where the score hangs on the order of pixels of equal value.
    """

    counts: Tensor
    scores: Tensor
    tied: Tensor

    def __repr__(self) -> str:
        steps = f"{counted(len(self.scores), 'picture')}, {counted(len(self.counts) - 1, 'step')}"
        mean = f"{number(self.area.mean().item())} from {number(self.lower.mean().item())}"
        return f"Curve({steps}: mean area {mean} to {number(self.upper.mean().item())} by order of ties)"

    @cached_property
    def area(self) -> Tensor:
        """(Σ s_i − s_0/2 − s_n/2) / n, (N,), in float64."""
        return area(self.scores)

    @cached_property
    def lower(self) -> Tensor:
        """What the area is at least, however pixels of equal value are ordered, (N,)."""
        return area(self.scores.where(~self.tied, 0))

    @cached_property
    def upper(self) -> Tensor:
        """What the area is at most, however pixels of equal value are ordered, (N,)."""
        return area(self.scores.where(~self.tied, 1))


def area(scores: Tensor) -> Tensor:
    """(Σ s_i − s_0/2 − s_n/2) / n of each row of (N, n + 1), in float64; the sum is rounded once."""
    rows = scores.double().tolist()
    return torch.tensor([fsum([s[0] / 2, *s[1:-1], s[-1] / 2]) / (len(s) - 1) for s in rows], dtype=torch.float64)


def insertion(
    network: nn.Module,
    x: Tensor,
    target: Classes,
    maps: Tensor,
    *,
    step: int | None = None,
    batch_size: int | None = None,
    probability: str | Probability = "softmax",
    baseline: Baseline = blurred,
) -> Curve:
    """The insertion metric (IM) of maps of x (N, C, *picture), of which this module's head tells all.

    `network` gives (N, classes). `target` is a class for all pictures or one for each; `maps` are shaped like x, or
    (N, 1, *picture) or (N, *picture), made by anybody. `step` is in pixels, ⌈P / 224⌉ if not given. `batch_size`
    pictures are scored at a time, 32 if not given. `probability` is "softmax", "sigmoid" for networks of several
    labels, or a function of the scores (B, classes) that gives probabilities. `baseline` is where to start from:
    pictures shaped like x, or a function of x that makes them. Each picture is judged by itself: a batch gives what its
    pictures give alone.

    Raises DmbpError for a network in training mode, and for pictures, classes or maps that do not fit, NaN among them.

    >>> import torch
    >>> from dmbp.datasets import sample_pairs
    >>> from dmbp.evaluation import insertion, methods
    >>> from dmbp.models import load_model
    >>> network, pairs = load_model("digit-pairs").network, sample_pairs()
    >>> x, left = pairs.images[:2], pairs.labels[:2, 0]
    >>> maps = methods.ND()(network, x, left)
    >>> insertion(network, x, left, maps, step=256, probability="sigmoid").area.shape
    torch.Size([2])
    """
    scoring = Scoring(network, step, batch_size, probability)
    way = insertion_way(x, maps, baseline)
    return scoring.curve(way, class_indices(target, len(x))[:, None].tolist())


def complementary_insertion(
    network: nn.Module,
    x: Tensor,
    target: Classes,
    maps: Tensor,
    others: Sequence[Sequence[int]],
    *,
    step: int | None = None,
    batch_size: int | None = None,
    probability: str | Probability = "softmax",
    baseline: Baseline = blurred,
) -> Curve:
    """The complementary insertion metric (cIM): lowest values first, scored by the classes that speak against.

    `others` names for each picture its ground-truth classes other than `target`, for which the map was made; the score
    is the mean of their probabilities. All else is as in `insertion`. Raises DmbpError too where a picture has no other
    class (cIM has no meaning there: leave it out), or where the target is among them.
    """
    scoring = Scoring(network, step, batch_size, probability)
    way = complementary_way(x, maps, baseline)
    return scoring.curve(way, _others(others, class_indices(target, len(x)).tolist()))


def deletion(
    network: nn.Module,
    x: Tensor,
    target: Classes,
    maps: Tensor,
    *,
    step: int | None = None,
    batch_size: int | None = None,
    probability: str | Probability = "softmax",
    baseline: Baseline = torch.zeros_like,
) -> Curve:
    """The deletion metric: from the picture to `baseline`, zeros by default, highest values first; lower is better.

    All else is as in `insertion`.
    """
    scoring = Scoring(network, step, batch_size, probability)
    way = deletion_way(x, maps, baseline)
    return scoring.curve(way, class_indices(target, len(x))[:, None].tolist())


@dataclass(frozen=True, eq=False)
class Scoring:
    """How pictures are scored, checked once: the options that all curves share."""

    network: nn.Module
    step: int | None
    batch_size: int | None
    probability: str | Probability

    def __post_init__(self) -> None:
        check_network(self.network)
        for name in ("step", "batch_size"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name)
        if not callable(self.probability) and self.probability not in PROBABILITIES:
            raise DmbpError(
                f"probability must be 'softmax', 'sigmoid' or a function of the scores, not {self.probability!r}"
            )

    @torch.no_grad()
    def curve(self, way: Way, classes: list[list[int]]) -> Curve:
        """Score each picture on its way, by its own classes."""
        counts = _counts(way.values.shape[1], self.step)
        parts = counts.to(way.start.device).chunk(ceil(len(counts) / (self.batch_size or BATCH)))
        rows = [
            torch.cat([self.scores(way.pictures(n, part), chosen) for part in parts])
            for n, chosen in enumerate(classes)
        ]
        scores = torch.stack(rows).cpu()
        if not bool(((scores >= -ROUNDING) & (scores <= 1 + ROUNDING)).all()):
            raise DmbpError("a score is no probability, 0 to 1: the network gives NaN, or `probability` something else")
        return Curve(counts, scores, way.tied(counts.to(way.start.device)).cpu())

    def scores(self, pictures: Tensor, classes: list[int]) -> Tensor:
        """The mean probability of the classes in each picture, (B,)."""
        output = scores(self.network, pictures, classes)
        probable = self.probability if callable(self.probability) else PROBABILITIES[self.probability]
        return probable(output)[:, classes].mean(1)


def _counts(positions: int, step: int | None) -> Tensor:
    """How many pixels have come after each step, from 0 to all."""
    step = step or ceil(positions / STEPS)
    return (torch.arange(ceil(positions / step) + 1) * step).clamp_max(positions)


def _others(others: Sequence[Sequence[int]], target: list[int]) -> list[list[int]]:
    if len(others) != len(target):
        raise DmbpError(f"others must name the other classes of each of {len(target)} pictures, not of {len(others)}")
    found = []
    for n, (classes, own) in enumerate(zip(others, target, strict=True)):
        if not len(classes):
            raise DmbpError(f"picture {n} has no other class, without which cIM has no meaning: leave it out")
        each = class_indices(classes, len(classes)).tolist()
        if own in each or len(set(each)) < len(each):
            raise DmbpError(
                f"picture {n}: the other classes must differ from class {own} and from each other, not {each}"
            )
        found.append(each)
    return found
