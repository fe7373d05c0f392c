"""The whole method in one call: Algorithm 1 from the model to the attribution map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from dmbp.errors import DmbpError
from dmbp.learning.learn import Callback, Learned, learn_masks
from dmbp.learning.objective import loss_name
from dmbp.learning.options import Options, OptionWords, takes_options
from dmbp.learning.settling import Late
from dmbp.masks import Masks
from dmbp.result import Result, attribution
from dmbp.split import Split, decompose
from linreg import OperatorGraph, trace
from linreg.capture.example import Fixed
from linreg.inputs import Given
from linreg.numerals import whole_number
from linreg.surroundings import plain
from linreg.target import Target, held


@takes_options
@plain()
def explain(
    model: nn.Module | OperatorGraph,
    x: Given,
    target: Target = None,
    *,
    fixed: Fixed = None,
    options: Options | None = None,
    snapshots: Sequence[int] = (),
    start: Masks | None = None,
    pieces: int | None = None,
    progress: bool = True,
    callback: Callback | None = None,
    **words: Unpack[OptionWords],
) -> Result:
    """Disentangled Masked Backpropagation of a batch x (N, …) of independent images (Algorithm 1).

    `model` is any piecewise-linear module, left as it is, or a graph traced from one; `target` the class of all
    images, one class for each, or weights of the outputs (see `linreg.target.cotangent`). The options, `iterations` to
    `compiled`, are told in `Options`; `options` gives them as one value, in which those given by a word of their own
    are changed. `snapshots` names numbers of updates after which the map is kept. `start` gives masks to go on from
    instead of B.1's (the optimiser's own state starts afresh). `pieces` takes smooth units of a module, each as an
    interpolant of so many pieces (see `linreg.trace`); without, they are refused. `progress` and `callback` are told in
    `learn_masks`. Several inputs are given in order or by name, those in `fixed` held fixed (see `linreg.trace`): the
    maps are then by name, and sum to the same scores together.
    Ctrl-C ends the learning and keeps what was reached.

    Raises LinregError, before the learning starts: DmbpError, which is one, for its own arguments, others for a model
    that is not piecewise linear, an x that does not fit it, and a target that does not fit the output.

    >>> import dmbp, torch
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> result = dmbp.explain(network, torch.randn(2, 4), 1, iterations=50, loss="+")
    >>> result.attribution.shape, result.options.iterations
    (torch.Size([2, 4]), 50)
    """
    options = Options.of(options, words)
    wanted = _snapshots(snapshots, options.iterations)
    graph = graph_at(model, x, fixed, pieces)
    lin, target = graph.linearize(x), held(target)
    kept: dict[int, Any] = {}
    late = Late(options.iterations)

    def watch(iteration: int, scores: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> None:
        if iteration in wanted:
            masks = {site: theta.sigmoid() for site, theta in logits.items()}
            kept[iteration] = attribution(decompose(lin, masks, target, options.unmasked))
        late.look(iteration, logits)
        if callback is not None:
            callback(iteration, scores, logits)

    learned = learn_masks(
        lin, target, options=options, start=start, progress=progress, callback=watch,
    )  # fmt: skip
    split = decompose(lin, learned.masks, target, options.unmasked)  # line 13 follows from it: `Result.attribution`
    if learned.iterations in wanted:
        kept[learned.iterations] = attribution(split)
    return _result(split, learned, kept, options, late.masks(learned.iterations))


def _result(
    split: Split, learned: Learned, snapshots: dict[int, Any], options: Options, late: dict[str, Tensor]
) -> Result:
    last = {"positive": split.positive, "negative": split.negative, "nuisance": split.nuisance}
    history = {part: torch.cat([steps, last[part][None]]) for part, steps in learned.history.items()}
    return Result(
        split, learned.masks, learned.initial, history, loss_name(options.loss), learned.iterations, learned.updates,
        learned.interrupted, learned.seconds, snapshots, options, late,
    )  # fmt: skip


def graph_at(model: nn.Module | OperatorGraph, x: Given, fixed: Fixed, pieces: int | None) -> OperatorGraph:
    """The graph, traced on x unless it is one. Raises DmbpError where one that was traced is told how to trace it."""
    if not isinstance(model, OperatorGraph):
        words: dict[str, Any] = {} if pieces is None else {"nonlinear": "pwl", "pieces": pieces}
        return trace(model, x, fixed=fixed, **words)
    if fixed is not None:
        raise DmbpError(
            "a graph knows its fixed inputs: give fixed= where it is traced, linreg.trace(model, x, fixed=…)"
        )
    if pieces is not None:
        raise DmbpError('pieces are for a module that is yet to be traced: linreg.trace(…, nonlinear="pwl", pieces=…)')
    return model


def _snapshots(snapshots: Sequence[int], iterations: int) -> frozenset[int]:
    """The numbers of updates after which to keep a map; raises DmbpError for one that is never reached."""
    found = set[int]()
    for given in snapshots:
        count = whole_number(given)
        if count is None or not 0 <= count <= iterations:
            raise DmbpError(f"snapshots must be numbers of updates, 0 to {iterations}, not {given!r}")
        found.add(count)
    return frozenset(found)
