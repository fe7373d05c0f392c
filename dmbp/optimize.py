"""Learning the masks: the objective (Eq. 10), its ablations (Table 1), and gradient descent on logits (Algorithm 1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dmbp.decompose import UNMASKED
from dmbp.errors import DmbpError
from dmbp.functions import MaskedNetwork, Pair, passes
from dmbp.kernels import accumulate, descend, learn
from dmbp.masks import Masks, Sites, check_masks, find_sites, initial_logits, masked
from linreg import Linearization
from linreg.target import Target, cotangent

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Callback = Callable[[int, Mapping[str, Tensor], Mapping[str, Tensor]], None]


def loss_all(y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """y⁻ − y⁺ + |y~| (Eq. 10), which equals max(y − 2 y⁺, 2 y⁻ − y): one of the two passes has no gradient."""
    return negative - positive + (y - positive - negative).abs()


def loss_both(y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """y⁻ − y⁺ (DMBP⁺,⁻ of Table 1)."""
    return negative - positive


def loss_positive(y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """−y⁺ (DMBP⁺ of Table 1)."""
    return -positive


LOSSES: dict[str, Loss] = {"all": loss_all, "+-": loss_both, "+": loss_positive}


@dataclass(frozen=True, eq=False)
class Learned:
    """What the optimisation reached: `masks` and the `initial` ones of B.1, {site: (N, *shape)}.

    `history` holds "positive", "negative" and "nuisance", each (iterations, N): the split before each update.
    """

    masks: dict[str, Tensor]
    initial: dict[str, Tensor]
    history: dict[str, Tensor]
    iterations: int
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
    start: Masks | None = None,
    progress: bool = True,
    callback: Callback | None = None,
) -> Learned:
    """Algorithm 1, lines 1 to 12: RMSprop (PyTorch's defaults) on logits θ, σ = sigmoid(θ), from B.1 or from `start`.

    The images of a batch are independent problems: their losses are summed. `callback` is called before each update
    with the iteration, the split {"y", "positive", "negative", "nuisance"}, each (N,), and the logits {site: θ}
    themselves (keep `theta.sigmoid()`, which is a copy). Ctrl-C ends the loop and keeps what was reached.
    """
    names = _check(lin, iterations, loss, sites, unmasked, lr, start)
    seed, y = cotangent(target, lin.output), lin.score(target)
    if loss == "none":  # Eq. 5: nothing is masked
        ones = {name: lin.input.new_ones(lin.input.shape[0], *lin.graph.shape(name)) for name in names}
        return Learned(ones, ones, _history([], y), 0, False, 0.0)
    began = time.perf_counter()
    logits = start_logits(lin, names, target, start)
    # B.1's logits are −2, 0 or 2: kept in a byte each until the end.
    first = {name: theta.clone() if start else theta.to(torch.int8) for name, theta in logits.items()}
    network = MaskedNetwork.of(lin, names, seed)
    aside = masked(lin, {n: y.new_zeros(()) for n in names}).score(target) if unmasked == "nuisance" else 0
    squares = {name: torch.zeros_like(theta) for name, theta in logits.items()}
    steps: list[dict[str, Tensor]] = []
    interrupted = False
    bar = tqdm(range(iterations), desc="learning masks", disable=None if progress else True, leave=False)
    try:
        for iteration in bar:
            (plus, minus), kept = network.forward(logits)
            plus, minus = plus - aside, minus - aside
            split = {"positive": plus, "negative": minus, "nuisance": y - plus - minus}
            if callback is not None:
                with torch.enable_grad():
                    callback(iteration, {"y": y, **split}, logits)
            update(network, logits, squares, kept, passes(*slopes(LOSSES[loss], y, plus, minus)), lr)
            steps.append(split)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        bar.close()
    masks = {name: theta.sigmoid_() for name, theta in logits.items()}
    initial = {name: theta.to(y.dtype).sigmoid() for name, theta in first.items()}
    return Learned(masks, initial, _history(steps, y), len(steps), interrupted, time.perf_counter() - began)


@torch.enable_grad()
def slopes(loss: Loss, y: Tensor, positive: Tensor, negative: Tensor) -> Pair:
    """∂loss/∂y⁺ and ∂loss/∂y⁻ of each image, (N,)."""
    leaves = positive.detach().requires_grad_(), negative.detach().requires_grad_()
    plus, minus = torch.autograd.grad(loss(y, *leaves).sum(), leaves, allow_unused=True, materialize_grads=True)
    return plus, minus


def update(
    network: MaskedNetwork,
    logits: Mapping[str, Tensor],
    squares: Mapping[str, Tensor],
    kept: dict[str, Tensor],
    sweeps: list[Pair],
    lr: float,
) -> None:
    """One step of RMSprop on all logits, in place: at each site as soon as the sweep back has its gradient."""
    totals = {site: torch.zeros_like(theta) for site, theta in logits.items()} if len(sweeps) > 1 else {}

    def state(site: str) -> tuple[Tensor, ...]:
        held = (logits, totals) if totals else (logits, squares)
        return tuple(values[site].view(len(network.seed), -1) for values in held)

    for side, weights in sweeps:

        def visit(site: str, grad: Tensor, side: Tensor = side) -> None:
            if totals:
                network.at(site, accumulate, side, grad, kept[site], state(site))
            else:
                network.at(site, learn, side, grad, kept.pop(site), state(site), lr)

        network.backward(weights, visit)
    for site, total in totals.items():
        descend(logits[site], squares[site], total, lr)


def start_logits(lin: Linearization, sites: tuple[str, ...], target: Target, start: Masks | None) -> dict[str, Tensor]:
    """θ of B.1, or of given masks: logit(σ), held within ±12 so that a mask of exactly 0 or 1 can still move."""
    if start is None:
        return initial_logits(lin, sites, target)
    return {site: start[site].detach().logit().clamp(-12, 12) for site in sites}


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
    names = find_sites(lin.graph, sites)
    if start is not None:
        check_masks(lin, start)
        if set(start) != set(names):
            raise DmbpError("the masks to start from must be those of the sites: " + ", ".join(names))
    return names


def _history(steps: list[dict[str, Tensor]], y: Tensor) -> dict[str, Tensor]:
    parts = ("positive", "negative", "nuisance")
    return {part: torch.stack([s[part] for s in steps]) if steps else y.new_empty(0, len(y)) for part in parts}
