"""Algorithm 1 and Appendix B.1 to the letter, with plain autograd and hooks on a plain module, for one image.

Slow, short and obvious. Nothing here imports linreg or dmbp, and y⁺ and y⁻ come from gradients (Eqs. 11 and 14), never
from a masked forward pass: the mask gradients of line 10 are therefore double backward.

A site is named as in the graph: "2.relu" is the output of that module, "2.add" that of module "2", which ends in a sum.
The model must call each activation once. Indices: l site, b constant.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Masks = Mapping[str, Tensor]

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.PReLU)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Gate(nn.Module):
    """An activation on the linear region of z: slope ⊙ z + offset, the slope as autograd has it, both fixed."""

    def __init__(self, activation: nn.Module, z: Tensor) -> None:
        super().__init__()
        z = z.detach().requires_grad_()
        value = activation(z.clone())
        (self.slope,) = torch.autograd.grad(value.sum(), z)
        self.offset = nn.Parameter((value - self.slope * z).detach())

    def forward(self, z: Tensor) -> Tensor:
        return self.slope * z + self.offset


class Norm(nn.Module):
    """Batch norm in eval mode, (z − μ) / √(v + ε) · γ + β, as a ⊙ z + shift."""

    def __init__(self, norm: nn.Module, dimensions: int) -> None:
        super().__init__()
        gamma = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight.detach()
        beta = torch.zeros_like(gamma) if norm.bias is None else norm.bias.detach()
        self.factor = (gamma / (norm.running_var + norm.eps).sqrt()).view(-1, *[1] * (dimensions - 2))
        self.shift = nn.Parameter((beta - norm.running_mean * self.factor.flatten()).view_as(self.factor))

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * z + self.shift


def frozen(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy in eval mode with every gate fixed at x; of its parameters only the constants b require a gradient."""
    net = copy.deepcopy(model).eval()
    replaced = {name: m for name, m in net.named_modules() if isinstance(m, (*ACTIVATIONS, *NORMS))}
    inputs: dict[str, Tensor] = {}
    handles = []
    for name, module in replaced.items():

        def remember(module: nn.Module, args: tuple[Tensor], name: str = name) -> None:
            assert name not in inputs, f"{name} is called twice"
            inputs[name] = args[0].clone()

        handles.append(module.register_forward_pre_hook(remember))
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    for name, module in replaced.items():
        z = inputs[name]
        net.set_submodule(name, Norm(module, z.dim()) if isinstance(module, NORMS) else Gate(module, z))
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.split(".")[-1] in ("bias", "shift", "offset"))
    return net


def module_of(net: nn.Module, site: str) -> nn.Module:
    return net.get_submodule(site.removesuffix(".add"))


@contextmanager
def multiplied(net: nn.Module, masks: Masks) -> Iterator[None]:
    """Inside, whatever gradient arrives at the output of a site goes on as Σ_l ⊙ ∇_{h_l} F. Values stay as they are."""

    handles = []
    for site, mask in masks.items():

        def on_forward(module: nn.Module, args: tuple[Tensor], output: Tensor, mask: Tensor = mask) -> None:
            output.register_hook(lambda gradient: mask * gradient)

        handles.append(module_of(net, site).register_forward_hook(on_forward))
    yield
    for handle in handles:
        handle.remove()


@dataclass(frozen=True)
class Pass:
    """A backward pass with Σ: ∇ₓF, ∇_b F ⊙ b of every constant, and y(σ) = ∇ₓF · x + Σ_b ∇_b F · b (Eq. 14)."""

    gradient: Tensor
    terms: dict[str, Tensor]
    score: Tensor


def backward_pass(net: nn.Module, x: Tensor, w: Tensor, masks: Masks) -> Pass:
    """Lines 4 and 5, or 6 and 7, of Algorithm 1; `net` is frozen at x, and w · output is the score."""
    x = x.detach().requires_grad_()
    constants = {name: b for name, b in net.named_parameters() if b.requires_grad}
    with multiplied(net, masks):
        y = (w * net(x)).sum()
        gradient, *others = torch.autograd.grad(y, [x, *constants.values()], create_graph=True)
    terms = {name: g * b.detach() for (name, b), g in zip(constants.items(), others, strict=True)}
    return Pass(gradient, terms, (gradient * x.detach()).sum() + sum(term.sum() for term in terms.values()))


def initial_logits(net: nn.Module, x: Tensor, w: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
    """B.1, one whole backward pass for each site, from the last to the first: θ, with Σ = sigmoid(θ).

    ∇_{h_l} F⁺ and ∇_{h_l} F⁻ are taken with the masks of the later sites, which are set, and without that of l.
    """
    theta: dict[str, Tensor] = {}
    for site in reversed(sites):
        found = []
        for sign in (1, -1):  # 1 − sigmoid(θ) = sigmoid(−θ)
            kept: list[Tensor] = []
            keep = module_of(net, site).register_forward_hook(lambda m, args, output, kept=kept: kept.append(output))
            with multiplied(net, {later: torch.sigmoid(sign * value) for later, value in theta.items()}):
                y = (w * net(x)).sum()
                found += torch.autograd.grad(y, kept)
            keep.remove()
        plus, minus = found
        theta[site] = torch.zeros_like(plus)
        theta[site][(plus > 0) & (minus > 0)] = 2.0
        theta[site][(plus < 0) & (minus < 0)] = -2.0
    return {site: theta[site] for site in sites}


@dataclass(frozen=True)
class Learned:
    """θ of B.1, (y⁺, y⁻, y~) before each update, σ after the last one, and the map of line 13 with that σ."""

    start: dict[str, Tensor]
    history: list[tuple[float, float, float]]
    masks: dict[str, Tensor]
    attribution: Tensor


def algorithm_1(
    model: nn.Module, x: Tensor, w: Tensor, sites: Sequence[str], *, loss: str, unmasked: str, iterations: int
) -> Learned:
    """Algorithm 1 for one image x (1, …). With `unmasked` "nuisance", P(0) is taken off both scores and both maps."""
    net = frozen(model, x)
    start = initial_logits(net, x, w, sites)
    y = (w * model(x)).sum().detach()
    untouched = backward_pass(net, x, w, {site: torch.zeros(()) for site in sites})
    share = 1 if unmasked == "nuisance" else 0

    def sides(sigma: Masks) -> tuple[Pass, Pass]:
        return backward_pass(net, x, w, sigma), backward_pass(net, x, w, {l: 1 - mask for l, mask in sigma.items()})

    theta = {site: value.clone().requires_grad_() for site, value in start.items()}
    optimizer = torch.optim.RMSprop(theta.values(), lr=0.01)
    history = []
    for _ in range(iterations):
        plus, minus = sides({site: torch.sigmoid(value) for site, value in theta.items()})
        positive = plus.score - share * untouched.score.detach()
        negative = minus.score - share * untouched.score.detach()
        nuisance = y - positive - negative
        if loss == "all":
            value = negative - positive + nuisance.abs()
        elif loss == "+-":
            value = negative - positive
        else:
            value = -positive
        for parameter, gradient in zip(theta.values(), torch.autograd.grad(value, theta.values()), strict=True):
            parameter.grad = gradient
        optimizer.step()
        history.append((positive.item(), negative.item(), nuisance.item()))

    masks = {site: torch.sigmoid(value.detach()) for site, value in theta.items()}
    plus, minus = sides(masks)
    mapping = (plus.gradient - share * untouched.gradient) + (minus.gradient - share * untouched.gradient)
    return Learned(start, history, masks, (mapping * x).detach())
