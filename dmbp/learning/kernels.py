"""The arithmetic of a mask site, in one pass over memory each way.

σ = sigmoid(θ); s, t are slope and offset of the site's gate, None where it has none. With g the gradient that arrives
at a site and h = mask · (s z + t) the value that left it, and side 1 for the pass of σ, 0 for that of 1 − σ,

    mask = 1 − |σ − side|,    ∂/∂θ = g h (side − σ),    since σ' = σ (1 − σ).

Each kernel is elementwise, works in place on tensors of one shape, and knows nothing of networks. On a CPU it runs over
pieces that fit the processor's cache, on a GPU (or when asked) it is compiled into one loop by `torch.compile`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

PIECE = 2**15  # numbers for each thread: some ten arrays of them fit a second-level cache
ALPHA, EPSILON = 0.99, 1e-8  # of RMSprop, PyTorch's defaults
LATE = torch.tensor(1e9, dtype=torch.float32, device="cpu")  # a step of Adam, whatever the defaults


def enter(
    plus: Tensor, minus: Tensor, theta: Tensor, slope: Tensor | None, offset: Tensor | None, switch: bool
) -> None:
    """z⁺ ← σ (s z⁺ + t), z⁻ ← (1 − σ) (s z⁻ + t): both passes go through gate and mask (Eqs. 3, 8)."""
    sigma = theta.sigmoid()
    slope = None if slope is None else slope.to(theta.dtype)
    for z in (plus, minus):
        _gate(z, slope, switch)
        if offset is not None:
            z.add_(offset)
    plus.mul_(sigma)
    minus.addcmul_(minus, sigma, value=-1)


def leave(grad: Tensor, value: Tensor, theta: Tensor, slope: Tensor | None, side: Any, switch: bool) -> Tensor:
    """∂/∂θ = g h (side − σ); and g ← mask s g, which goes on to what the gate reads."""
    away = torch.sub(side, theta.sigmoid())  # ± (1 − mask)
    # Eq. 20: P = [g ⊙ mask] · (value before the mask) + what no mask of this site changes, and h = mask · (that value).
    gradient = torch.mul(grad, value).mul_(away)
    if isinstance(side, Tensor):
        grad.addcmul_(grad, away.abs_(), value=-1)
    else:
        grad.addcmul_(grad, away, value=1 - 2 * side)
    _gate(grad, None if slope is None else slope.to(grad.dtype), switch)
    return gradient


def descend(theta: Tensor, square: Tensor, gradient: Tensor, lr: float) -> None:
    """RMSprop: q ← α q + (1 − α) g², θ ← θ − lr g / (√q + ε). It may overwrite g."""
    if theta.device.type == "cpu" and not torch.compiler.is_compiling():
        # One loop: Adam without a first moment, so late that its bias corrections are 1.
        torch._fused_adam_(
            [theta], [gradient], [gradient], [square], [], [LATE], lr=lr, beta1=0.0, beta2=ALPHA, weight_decay=0.0,
            eps=EPSILON, amsgrad=False, maximize=False,
        )  # fmt: skip
        return
    square.mul_(ALPHA).addcmul_(gradient, gradient, value=1 - ALPHA)
    theta.addcdiv_(gradient, square.sqrt().add_(EPSILON), value=-lr)


def learn(
    grad: Tensor, value: Tensor, theta: Tensor, square: Tensor, slope: Tensor | None, side: Any, switch: bool, lr: float
) -> None:
    """`leave`, and the step of RMSprop at once: the gradient of a mask is never stored."""
    descend(theta, square, leave(grad, value, theta, slope, side, switch), lr)


def accumulate(
    grad: Tensor, value: Tensor, theta: Tensor, total: Tensor, slope: Tensor | None, side: Any, switch: bool
) -> None:
    """`leave`, with ∂/∂θ added to `total`: for two sweeps, one in each pass."""
    total.add_(leave(grad, value, theta, slope, side, switch))


def _gate(z: Tensor, slope: Tensor | None, switch: bool) -> None:
    """z ← s z; a switch, s ∈ {0, 1}, gives 0 where it is closed, even of what overflowed."""
    if slope is None:
        return
    if switch:
        torch.ops.aten.threshold_backward.grad_input(z, slope, 0, grad_input=z)
    else:
        z.mul_(slope)


def in_pieces(kernel: Callable[..., Any], tensors: tuple[Tensor | None, ...], *rest: Any) -> None:
    """Run an in-place kernel over flat tensors of one length (or None), piece by piece."""
    size = PIECE * torch.get_num_threads()
    for piece in zip(*(repeat(None) if t is None else t.split(size) for t in tensors), strict=False):
        kernel(*piece, *rest)


@cache
def compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel as one loop, for tensors of any size, made once in a process; the kernel itself where that fails.

    Where no compiler is at hand a warning says so: the numbers are the same, to rounding.
    """
    from torch._dynamo.exc import TorchDynamoException  # slow to import

    fast, broken = torch.compile(kernel, dynamic=True), list[Exception]()

    def run(*arguments: Any) -> Any:
        if not broken:
            try:
                return fast(*arguments)
            except TorchDynamoException as error:  # before anything was computed
                broken.append(error)
                reason = str(error).strip().partition("\n")[0]
                warnings.warn(f"the kernels run uncompiled, and slower: torch.compile fails ({reason})", stacklevel=2)
        return kernel(*arguments)

    return run
