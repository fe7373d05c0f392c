"""Learning the masks: Algorithm 1, lines 1 to 12."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dmbp.errors import DmbpError
from dmbp.learning.cuda_graph import captured
from dmbp.learning.descent import Descent, Scores
from dmbp.learning.objective import LOSSES
from dmbp.learning.passes import MaskedNetwork
from dmbp.learning.precision import check_precision, matrix_products
from dmbp.masks import Masks, Sites, check_masks, find_sites, initial_logits, masked
from dmbp.split import UNMASKED
from linreg import Linearization
from linreg.target import Target, cotangent

Callback = Callable[[int, Mapping[str, Tensor], Mapping[str, Tensor]], None]


@dataclass(frozen=True, eq=False)
class Learned:
    """What the optimisation reached: `masks` and the `initial` ones of B.1, {site: (N, *shape)}.

    `history` holds "positive", "negative" and "nuisance", each (iterations, N): the split before each update.
    `updates` counts the updates of each image's masks, (N,): `iterations`, or fewer where `tolerance` ended them.
    """

    masks: dict[str, Tensor]
    initial: dict[str, Tensor]
    history: dict[str, Tensor]
    iterations: int
    updates: Tensor
    interrupted: bool
    seconds: float


@torch.inference_mode(False)
@torch.no_grad()
def learn_masks(
    lin: Linearization,
    target: Target = None,
    *,
    iterations: int = 200,
    loss: str = "all",
    sites: Sites = "gates",
    unmasked: str = "nuisance",
    lr: float = 0.01,
    tolerance: float | None = None,
    start: Masks | None = None,
    precision: str = "full",
    compiled: bool | None = None,
    progress: bool = True,
    callback: Callback | None = None,
) -> Learned:
    """Algorithm 1, lines 1 to 12: RMSprop (PyTorch's defaults) on logits θ, σ = sigmoid(θ), from B.1 or from `start`.

    `loss` is what the masks minimise: "all" (Eq. 10), its ablations "+-" and "+" (Table 1), or "none", which learns
    nothing and gives masks of ones (Eq. 5). `lr` is RMSprop's learning rate, the same at all sites: an update moves θ
    by lr times its gradient over the running root mean square of that. `target` is told in `linreg.target.cotangent`,
    `sites` in `find_sites`, `unmasked` in `decompose`. `progress` shows a bar, on terminals only.

    The images of a batch are independent problems: their losses are summed. With `tolerance` the masks of an image rest
    once the mean loss of its last 10 iterations is less than tolerance · max(|loss|, |y|) below that of the 10 before.
    `precision` "bf16" takes the products of layers in bfloat16, "tf32" in CUDA's TF32, while learning; the split is
    computed in full in any case. `compiled` makes one loop of each site's arithmetic by `torch.compile`, which on a
    CPU takes some ten seconds and a C++ compiler, and pays for many images; None compiles on CUDA only.

    `callback` is called before each update with the iteration, the split {"y", "positive", "negative", "nuisance"},
    each (N,), and the logits {site: θ} themselves, laid out in memory as iterations use them (keep `theta.sigmoid()`,
    which is a copy). Ctrl-C ends the loop and keeps what was reached.

    Raises DmbpError, before the first update, for an argument that is none of these, a dtype other than float32 and
    float64, and infinite values at a site; LinregError for a target that does not fit the output.
    """
    names = _check(lin, iterations, loss, sites, unmasked, lr, start)
    check_precision(precision, lin.graph.device)
    if tolerance is not None and not (isinstance(tolerance, int | float) and 0 < tolerance < float("inf")):
        raise DmbpError(f"the tolerance must be a positive number or None, not {tolerance!r}")
    seed, y = cotangent(target, lin.output), lin.score(target)
    if loss == "none":  # Eq. 5: nothing is masked
        ones = {name: lin.input.new_ones(lin.input.shape[0], *lin.graph.shape(name)) for name in names}
        return Learned(ones, ones, _history([], y), 0, torch.zeros(len(y), dtype=torch.long), False, 0.0)
    began = time.perf_counter()
    logits = start_logits(lin, names, target, start)
    # B.1's logits are −2, 0 or 2: kept in a byte each until the end.
    first = {name: theta.clone() if start else theta.to(torch.int8) for name, theta in logits.items()}
    aside = masked(lin, {n: y.new_zeros(()) for n in names}).score(target) if unmasked == "nuisance" else 0
    whole = lin.graph.device.type == "cuda" if compiled is None else compiled
    descent = Descent(MaskedNetwork.of(lin, names, seed, whole, precision == "bf16"), logits, y, aside, loss, lr)
    logits = descent.logits
    steps: list[Scores] = []
    updates = torch.zeros(len(y), dtype=torch.long)
    interrupted = False
    bar = tqdm(range(iterations), desc="learning masks", disable=None if progress else True, leave=False)
    try:
        with matrix_products(precision):
            recorded = captured(descent)
            for iteration in bar:
                split, kept = recorded.forward()
                if not steps:
                    _check_finite(kept)
                if callback is not None:
                    with torch.enable_grad():
                        callback(iteration, {"y": y, **split}, logits)
                recorded.backward(split, kept)
                steps.append(split)
                updates += descent.active.long().cpu() if tolerance is not None else 1
                if tolerance is not None and descent.rest(steps, tolerance):
                    break
    except KeyboardInterrupt:
        interrupted = True
    finally:
        bar.close()
    masks = {name: theta.sigmoid_().contiguous() for name, theta in logits.items()}
    initial = {name: theta.to(y.dtype).sigmoid_() for name, theta in first.items()}
    return Learned(masks, initial, _history(steps, y), len(steps), updates, interrupted, time.perf_counter() - began)


def start_logits(lin: Linearization, sites: tuple[str, ...], target: Target, start: Masks | None) -> dict[str, Tensor]:
    """θ of B.1, or of given masks: logit(σ), held within ±12 so that a mask of exactly 0 or 1 can still move."""
    if start is None:
        return initial_logits(lin, sites, target)
    return {site: start[site].detach().logit().clamp(-12, 12).contiguous() for site in sites}


def _check(
    lin: Linearization, iterations: int, loss: str, sites: Sites, unmasked: str, lr: float, start: Masks | None
) -> tuple[str, ...]:
    if not isinstance(lin, Linearization):
        raise DmbpError(f"expected a Linearization, graph.linearize(x), not {type(lin).__name__}")
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise DmbpError(f"iterations must be a whole number of at least 0, not {iterations!r}")
    if loss not in (*LOSSES, "none"):
        raise DmbpError(f"loss must be one of {', '.join(map(repr, (*LOSSES, 'none')))}, not {loss!r}")
    if unmasked not in UNMASKED:
        raise DmbpError(f"unmasked must be one of {', '.join(map(repr, UNMASKED))}, not {unmasked!r}")
    if lin.graph.dtype not in (torch.float32, torch.float64):
        raise DmbpError(f"learning masks needs float32 or float64, not {lin.graph.dtype}: model.float(), x.float()")
    if not isinstance(lr, int | float) or not 0 < lr < float("inf"):
        raise DmbpError(f"the learning rate must be a positive number, not {lr!r}")
    gateless = loss == "none" and isinstance(sites, str) and not any(node.is_gate for node in lin.graph.nodes)
    names = (lin.graph.output,) if gateless else find_sites(lin.graph, sites)  # "none" masks nothing
    if start is not None:
        check_masks(lin, start)
        if set(start) != set(names):
            raise DmbpError("the masks to start from must be those of the sites: " + ", ".join(names))
    return names


def _check_finite(values: Mapping[str, Tensor]) -> None:
    """Raise DmbpError where the value of a site is infinite: no mask but 0 changes it, and its gradient is NaN."""
    for site, value in values.items():
        if not value.isfinite().all():
            raise DmbpError(
                f"site '{site}' holds infinite values, which no mask scales: put a large finite number in their place, "
                "or leave it out of `sites`"
            )


def _history(steps: list[dict[str, Tensor]], y: Tensor) -> dict[str, Tensor]:
    parts = ("positive", "negative", "nuisance")
    return {part: torch.stack([s[part] for s in steps]) if steps else y.new_empty(0, len(y)) for part in parts}
