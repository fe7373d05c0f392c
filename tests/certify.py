"""What must hold of a traced network, measured against the model itself and autograd on its own parameters."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d
from zoo import NORMS, ZOO, Entry, instance

import linreg
from linreg.capture.outputs import pick
from linreg.operators import Diagonal

LAYERS = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
TINY = 1e-300


@dataclass(frozen=True)
class Evidence:
    """A traced network, and how far it is from what it must be.

    - `output`: of the graph's output from the model's, in units of the largest;
    - `weight`: of c from autograd's gradient, in units of its largest element;
    - `completeness`: |y − c·x − Σ ledger| with the model's own y, in units of Σ|terms|;
    - `constants`: of the ledger's share from β ∂y/∂β by autograd, in units of its largest element, for each parameter
      and buffer β that it names; `shares` are these shares;
    - `missing`: constants that the score depends on and that no term names; `foreign`: terms of absent modules;
    - `changed`: what tracing left changed in the model.
    """

    entry: Entry
    model: nn.Module
    x: Tensor
    lin: linreg.Linearization
    target: Tensor
    seconds: float
    output: float
    weight: float
    completeness: float
    constants: dict[str, float]
    shares: dict[str, Tensor]
    missing: tuple[str, ...]
    foreign: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def gates(self) -> int:
        """How many elementwise gates the graph has."""
        return sum(node.is_gate for node in self.lin.graph.nodes)

    @property
    def open(self) -> float:
        """The share of units that stand on the steepest piece that their gate shows; of networks with such gates."""
        slopes = [a.slope for a in self.lin.frozen.values() if isinstance(a, Diagonal)]
        steep = sum(int((slope == slope.max()).sum()) for slope in slopes)
        return steep / max(1, sum(slope.numel() for slope in slopes))


def certify(name: str, entry: Entry | None = None) -> Evidence:
    """Trace a network of the zoo, or of another entry, and measure it; raises LinregError where it is refused."""
    entry = entry or ZOO[name]
    model, x = instance(name, entry)
    before = _state(model)
    began = time.perf_counter()
    graph = linreg.trace(model, x, output=entry.output)
    seconds = time.perf_counter() - began
    changed = _differences(before, _state(model))
    lin = graph.linearize(x)
    with torch.no_grad():
        expected = run(model, entry, x)
    target = brightest(expected)
    gradient, constants = derivatives(model, entry, x, target)
    ledger, y = lin.ledger(target), (expected * target).flatten(1).sum(1)

    named: dict[str, list[Tensor]] = defaultdict(list)
    for term in ledger.terms:
        named[_name(model, graph[term.node].module, term.name)].append(term.values.sum(0))
    used = {name for name, share in constants.items() if share.any()}
    shares = {name: _total(named[name], constants[name]) for name in sorted(used & named.keys())}
    return Evidence(
        entry, model, x, lin, target, seconds,
        output=_error(lin.output, expected),
        weight=_error(lin.weight(target), gradient),
        completeness=float(((y - ledger.total).abs() / ledger.magnitude).max()),
        constants={name: _error(share, constants[name].sum_to_size(share.shape)) for name, share in shares.items()},
        shares=shares,
        missing=tuple(name for name in sorted(used - named.keys()) if _is_constant(model, name)),
        foreign=tuple(t.name for t in ledger.terms if t.name.startswith(entry.absent)) if entry.absent else (),
        changed=changed,
    )  # fmt: skip


def brightest(output: Tensor) -> Tensor:
    """w: one at each image's largest output (a class, or one class of one pixel), else zero."""
    flat = output.flatten(1)
    return torch.zeros_like(flat).scatter_(1, flat.argmax(1, keepdim=True), 1).view_as(output)


def run(model: nn.Module, entry: Entry, x: Tensor, tensors: dict[str, Tensor] | None = None) -> Tensor:
    """The chosen output of the model, with `tensors` in the place of its own."""
    return pick(torch.func.functional_call(model, tensors or {}, (x.clone(),)), entry.output)[0]


def derivatives(model: nn.Module, entry: Entry, x: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """c = ∂y/∂x, and β ∂y/∂β of each parameter and buffer β that may be added, by autograd, summed over the batch.

    A batch norm adds b − a μ, a = γ / √(v + ε), where it adds b: that is one constant, named "….shift" as in the
    ledger, and its share is (b − a μ) ∂y/∂b. (Autograd has no derivative for μ.)
    """
    norms = {path: module for path, module in model.named_modules() if isinstance(module, NORMS)}
    fixed = {f"{path}.running_{what}" for path in norms for what in ("mean", "var")}
    fixed |= {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, LAYERS)}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    leaves = {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and name not in fixed
    }
    x = x.clone().requires_grad_()
    y = (run(model, entry, x, leaves) * target).sum()
    gradient, *found = torch.autograd.grad(y, [x, *leaves.values()], allow_unused=True)
    slopes = {name: torch.zeros_like(leaves[name]) if g is None else g for name, g in zip(leaves, found, strict=True)}
    shares = {name: leaves[name].detach() * slope for name, slope in slopes.items()}
    for path, norm in norms.items():
        if norm.weight is not None:
            factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
            shift = norm.bias - factor * norm.running_mean
            shares[f"{path}.shift"] = shift.detach() * slopes[f"{path}.bias"]
    return gradient, shares


@torch.no_grad()
def finite_share(evidence: Evidence, name: str, index: int) -> float:
    """Σ β Δy/Δβ over element `index` of the model's own tensors that make up a constant, by central differences."""
    path, _, own = name.rpartition(".")
    names = (f"{path}.bias", f"{path}.running_mean") if own == "shift" else (name,)
    tensors = {**dict(evidence.model.named_parameters()), **dict(evidence.model.named_buffers())}
    model, entry, x, target = evidence.model, evidence.entry, evidence.x, evidence.target
    return sum(_finite(lambda: float((run(model, entry, x) * target).sum()), tensors[each], index) for each in names)


def _finite(score: Callable[[], float], tensor: Tensor, index: int) -> float:
    """β Δy/Δβ of one element, which is put back; with smaller steps where a unit crosses its kink on the way.

    Such a crossing shows in the two halves of the central difference: without it they are the same to rounding.
    """
    kept, flat, middle = tensor.clone(), tensor.view(-1), score()
    for step in (1e-5, 1e-6, 1e-7, 1e-8):
        values = []
        for moved in (-step, step):
            tensor.copy_(kept)
            flat[index] += moved
            values.append(score())
        low, high = values
        if abs(high + low - 2 * middle) <= 1e-6 * abs(high - low) + 1e-14 * abs(middle):
            break
    tensor.copy_(kept)
    return (high - low) / (2 * step) * flat[index].item()


def _is_constant(model: nn.Module, name: str) -> bool:
    """Whether β is one that its layer adds: a layer's bias, a batch norm's shift."""
    path, _, own = name.rpartition(".")
    return own == "shift" or (own == "bias" and isinstance(model.get_submodule(path), LAYERS))


def _name(model: nn.Module, module: str, name: str) -> str:
    """A term's name as `derivatives` has it.

    A parameter with several names gets its first; what a frozen batch norm computes from four buffers, "….shift".
    """
    if module and isinstance(model.get_submodule(module), FrozenBatchNorm2d):
        return f"{module}.shift"
    every = dict(model.named_parameters(remove_duplicate=False))
    return next(first for first, tensor in every.items() if tensor is every[name]) if name in every else name


def _total(shares: list[Tensor], like: Tensor) -> Tensor:
    """The shares of one constant from all its readers; as one number where each reads a part of it."""
    if all(share.numel() == like.numel() for share in shares):
        return sum((share.reshape(like.shape) for share in shares), torch.zeros_like(like))
    return sum((share.sum() for share in shares), like.new_zeros(()))


def _error(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).abs().max() / expected.abs().max().clamp_min(TINY))


def _state(model: nn.Module) -> dict[str, object]:
    """All of a model that tracing could touch."""
    state: dict[str, object] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        state[name] = (id(tensor), tensor._version, tensor.requires_grad, tensor.grad, tensor.double().sum().item())
    for path, module in model.named_modules():
        hooks = [list(getattr(module, kind)) for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
        state[f"module {path}"] = (id(module), module.training, sorted(vars(module)), hooks)
    return state


def _differences(before: dict[str, object], after: dict[str, object]) -> tuple[str, ...]:
    return tuple(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
