"""Learning the masks: Algorithm 1, lines 1 to 12."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Unpack

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dmbp.learning.cuda_graph import captured
from dmbp.learning.descent import Descent, OwnDescent, Scores, rest
from dmbp.learning.options import Options, OptionWords, takes_options
from dmbp.learning.precision import matrix_products
from dmbp.learning.scores import MaskedScores, check_finite, check_scores, check_start, start_logits
from dmbp.learning.settling import Settling
from dmbp.masks import Masks
from dmbp.progress import hidden
from linreg import Linearization
from linreg.surroundings import plain
from linreg.target import Target, cotangent, unit
from linreg.text import counted

Callback = Callable[[int, Mapping[str, Tensor], Mapping[str, Tensor]], None]
Steps = list[Scores]
Rule = Callable[[Descent | OwnDescent, Steps], bool]


@dataclass(frozen=True, eq=False)
class Learned:
    """What the optimisation reached: `masks` and the `initial` ones of B.1, {site: (N, *shape)}.

    `history` holds "positive", "negative" and "nuisance", each (iterations, N): the split before each update.
    `updates` counts the updates of each image's masks, (N,): `iterations`, or fewer where `tolerance` or `agreement`
    ended them.
    """

    masks: dict[str, Tensor]
    initial: dict[str, Tensor]
    history: dict[str, Tensor]
    iterations: int
    updates: Tensor
    interrupted: bool
    seconds: float

    def __repr__(self) -> str:
        after = "interrupted after " if self.interrupted else ""
        made = f"{after}{counted(self.iterations, 'iteration')} in {self.seconds:.1f} s"
        return f"Learned(masks of {counted(len(self.masks), 'site')}, {made}, {counted(len(self.updates), 'image')})"


@takes_options
@plain()
@torch.no_grad()
def learn_masks(
    lin: Linearization,
    target: Target = None,
    *,
    options: Options | None = None,
    start: Masks | None = None,
    progress: bool = True,
    callback: Callback | None = None,
    **words: Unpack[OptionWords],
) -> Learned:
    """Algorithm 1, lines 1 to 12: RMSprop (PyTorch's defaults) on logits θ, σ = sigmoid(θ), from B.1 or from `start`.

    The options, `iterations` to `compiled`, are told in `Options`; `options` gives them as one value, in which those
    given by a word of their own are changed. `target` is told in `linreg.target.cotangent`. The images of a batch are
    independent problems: their losses are summed. `progress` shows a bar, on terminals only.

    `callback` is called before each update with the iteration, the split {"y", "positive", "negative", "nuisance"},
    each (N,), and the logits {site: θ} themselves, laid out in memory as iterations use them (keep `theta.sigmoid()`,
    which is a copy). Ctrl-C ends the loop and keeps what was reached.

    Raises DmbpError, before the first update, for an option that is none, a dtype other than float32 and float64,
    masks to start from that do not fit, infinite values at a site, a score that overflows, and a loss of one's own that
    returns another shape, or has no derivative; later where its values are not finite. LinregError for a target that
    does not fit the output, or holds numbers that are not finite. Masks do not depend on the scale of its weights.

    >>> import dmbp, linreg, torch
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
    >>> x = torch.randn(5, 4).double()
    >>> lin = linreg.trace(network, x).linearize(x)
    >>> learned = dmbp.learn_masks(lin, 1, iterations=20, loss="+")
    >>> learned.masks["1"].shape, learned.history["positive"].shape
    (torch.Size([5, 8]), torch.Size([20, 5]))
    >>> def near_two(y, positive, negative):
    ...     return (positive - 2) ** 2 + (negative + 2) ** 2
    >>> masks = dmbp.learn_masks(lin, 1, loss=near_two).masks
    """
    options = Options.of(options, words)
    names = options.sites_in(lin)
    if start is not None:
        check_start(lin, names, start)
    weights = cotangent(target, lin.output)
    y = lin.score(weights)  # line 2
    check_scores({"y": y}, "before any mask")
    if options.loss == "none":  # Eq. 5: nothing is masked
        ones = {name: lin.input.new_ones(lin.input.shape[0], *lin.graph.shape(name)) for name in names}
        return Learned(ones, ones, _history([], y), 0, torch.zeros(len(y), dtype=torch.long), False, 0.0)
    began = time.perf_counter()
    logits = start_logits(lin, names, weights, start)  # line 1, B.1
    # B.1's logits are −2, 0 or 2: kept in a byte each until the end.
    first = {name: theta.clone() if start else theta.to(torch.int8) for name, theta in logits.items()}
    descent = _descent(lin, names, weights, logits, options)
    del logits
    steps, updates, interrupted = _descend(descent, options, _rules(lin, weights, options), progress, callback)
    history = _history(steps, y)
    check_scores(history, "while its masks are learned")
    masks = {name: theta.sigmoid_().contiguous() for name, theta in descent.logits.items()}
    initial = {name: theta.to(y.dtype).sigmoid_() for name, theta in first.items()}
    return Learned(masks, initial, history, len(steps), updates, interrupted, time.perf_counter() - began)


def _descent(
    lin: Linearization, sites: Sequence[str], weights: Tensor, logits: Mapping[str, Tensor], options: Options
) -> Descent | OwnDescent:
    """What makes an iteration: the fast one for a built-in loss, that through autograd for one's own.

    Either learns from the score divided by the scale of w, a power of two for each image. RMSprop divides gradients by
    their root mean square plus ε, and squares them: of small weights ε would hide them, of large ones g² overflows.
    """
    whole, low = options.whole_on(lin.graph.device), options.precision == "bf16"
    scale = unit(weights)
    scores = MaskedScores.of(lin, sites, weights / scale, options.unmasked, whole, low)
    if isinstance(options.loss, str):
        y = scores.y * scale.flatten()
        return Descent(scores.network, logits, y, scores.aside, options.loss, options.lr, scale.flatten())
    return OwnDescent(scores, logits, options.loss, options.lr, scale.flatten())


def _rules(lin: Linearization, weights: Tensor, options: Options) -> list[Rule]:
    """What lets the masks of images rest before their time."""
    rules: list[Rule] = []
    if options.tolerance is not None:
        rules.append(partial(rest, tolerance=options.tolerance))
    if options.agreement is not None:
        rules.append(Settling(lin, weights, options.unmasked, options.agreement))
    return rules


def _descend(
    descent: Descent | OwnDescent, options: Options, rules: Sequence[Rule], progress: bool, callback: Callback | None
) -> tuple[Steps, Tensor, bool]:
    """The split before each update, how many each image's masks had, and whether Ctrl-C ended them."""
    steps, updates, interrupted = Steps(), torch.zeros(len(descent.y), dtype=torch.long), False
    bar = tqdm(range(options.iterations), desc="learning masks", disable=hidden(progress), leave=False)
    try:
        with matrix_products(options.precision):
            recorded = captured(descent) if isinstance(descent, Descent) else descent
            for iteration in bar:  # line 3
                split, kept = recorded.forward()  # lines 4 to 8
                if not steps:
                    check_finite(kept)
                    check_scores(split, "at the masks to start from")
                if callback is not None:
                    with torch.enable_grad():
                        callback(iteration, {"y": descent.y, **split}, descent.logits)
                recorded.backward(split, kept)  # lines 9 to 11
                steps.append(split)
                updates += descent.active.long().cpu() if rules else 1
                ended = [rule(descent, steps) for rule in rules]
                if any(ended):
                    break
    except KeyboardInterrupt:
        interrupted = True
    finally:
        bar.close()
    return steps, updates, interrupted


def _history(steps: Steps, y: Tensor) -> dict[str, Tensor]:
    parts = ("positive", "negative", "nuisance")
    return {part: torch.stack([s[part] for s in steps]) if steps else y.new_empty(0, len(y)) for part in parts}
