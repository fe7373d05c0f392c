"""One explanation put to the test: is its map better than chance and than c ⊙ x, and does it hang on the last layer?"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import ceil, isnan
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dmbp.errors import DmbpError
from dmbp.evaluation.curves import PROBABILITIES, Probability, insertion
from dmbp.evaluation.methods.chance import RandomMap
from dmbp.evaluation.randomization import redraw, weighted_layers
from dmbp.explanation import explain
from dmbp.rank_correlation import spearman
from dmbp.standing import chosen

if TYPE_CHECKING:
    from dmbp.result import Result

STEPS = 56  # of a curve: a fourth of the evaluation's, which take minutes on a large network
WORSE = 0.02  # of area: less than that is no difference on one picture
ALIKE = 0.9  # a map that agrees so well with that of a redrawn last layer does not hang on what it explains
NAMES = {"paper": "the paper's map", "complete": "the complete map", "nd": "c ⊙ x (ND)", "random": "a random order"}


@dataclass(frozen=True)
class Trial:
    """Insertion areas of the maps "paper" and "complete", of "nd", c ⊙ x, and of "random"; and rank correlations.

    `redrawn` are those of the two maps with the maps of the network whose last layer, `layer`, was drawn anew.
    `failed` names the maps that did worse than ND, or hang little on that layer.
    """

    words: str
    areas: Mapping[str, float]
    redrawn: Mapping[str, float]
    layer: str
    steps: int
    failed: tuple[str, ...]


def trial(result: Result, image: int = 0, probability: str = "softmax", seed: int = 0) -> Trial:
    """The trial of one image of a result: some 230 runs of the network, and one more explanation.

    Insertion takes the probability of the class; of a difference of two classes that of the one against the other.
    Raises DmbpError where the result was read from a file, and where its target is neither, or its input no picture.
    """
    lin, index = result.split.lin, slice(image, image + 1)
    classes = chosen(result.target[image]) if lin.output.dim() == 2 else ()
    if lin.graph.inputs.several or len(lin.graph.input_shape) < 2 or not classes:
        raise DmbpError("a check needs one input with positions, and a class as its target, or a difference of two")
    network, x = lin.graph.to_module().requires_grad_(False), lin.input[index]
    maps = {
        "paper": result.attribution[index].sum(1, keepdim=True),
        "complete": result.complete[index].unsqueeze(1),
        "nd": result.split.attribution("y")[index].sum(1, keepdim=True),
        "random": RandomMap(seed=seed).draw(x[0], classes[0])[None].to(x),
    }
    step = ceil(x[0, 0].numel() / STEPS)
    scored = _probability(classes, probability)
    areas = {
        name: insertion(network, x, classes[0], values, step=step, probability=scored).area.item()
        for name, values in maps.items()
    }
    layer, redrawn = _redrawn(network, result, index, maps, seed)
    failed = tuple(name for name in redrawn if areas[name] < areas["nd"] - WORSE or redrawn[name] > ALIKE)
    return Trial(_words(areas, redrawn), areas, redrawn, layer, len(range(0, x[0, 0].numel(), step)), failed)


def _probability(classes: tuple[int, ...], probability: str) -> str | Probability:
    """That of a class, or of one class against another."""
    if len(classes) == 1:
        return probability if probability in PROBABILITIES else "softmax"
    other = classes[1]

    def against(scores: Tensor) -> Tensor:
        return (scores - scores[:, [other]]).sigmoid()

    return against


def _redrawn(
    network: nn.Module, result: Result, index: slice, maps: Mapping[str, Tensor], seed: int
) -> tuple[str, dict[str, float]]:
    """The last layer with weights, and how the maps agree with those that are explained once it is drawn anew."""
    x = result.input[index]
    layer = weighted_layers(network, x)[-1]
    other = deepcopy(network)
    redraw(other.get_submodule(layer), torch.Generator().manual_seed(seed))
    again = explain(other, x, result.target[index], options=result.options, progress=False)
    if again.interrupted:
        raise KeyboardInterrupt
    theirs = {"paper": again.attribution.sum(1), "complete": again.complete}
    return layer, {name: spearman(maps[name].flatten(1), values.flatten(1)).item() for name, values in theirs.items()}


def _words(areas: Mapping[str, float], redrawn: Mapping[str, float]) -> str:
    order = sorted(areas, key=lambda name: -areas[name])
    told = ", ".join(f"{NAMES[name]} {areas[name]:.3f}" for name in order)
    alike = " and ".join(
        f"{NAMES[name]} is {'another' if isnan(rho) or rho <= ALIKE else 'nearly the same'} ({rho:.2f})"
        for name, rho in redrawn.items()
    )
    return f"insertion area, best first: {told}; with the last layer drawn anew {alike}"
