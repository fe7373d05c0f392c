"""What is left of a map when the network's weights are redrawn: the sanity check of the paper's Table 3.

A map that explains a network must change with its weights (Adebayo et al., 2018). The paper redraws the last layer from
a normal distribution and takes the rank correlation of the maps before and after; near zero is good. Maps without
information pass this too (Binder et al., 2023), so the cascades tell more: layer after layer is redrawn and stays so,
from the top, or from the bottom.

A layer is a module that the network calls and that holds a weight of two dimensions or more (convolutions, linear
layers), in the order of the calls; a weight that is computed from others, by weight norm or another parametrization, is
taken as the layer uses it. Its weight and bias are drawn anew from N(0, s²), with s² the mean square of the
tensor before, so that scores keep their size. The paper names no variance: ranks of maps that are linear in the last
layer do not depend on it. Batch norm is left as it is. Adebayo et al. and Quantus draw all that has parameters as their
framework starts it, which is another thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from dmbp.errors import DmbpError
from dmbp.evaluation.checks import Classes, check_network, check_pictures, pixel_values
from dmbp.rank_correlation import spearman
from linreg.text import number

Explains = Callable[[nn.Module, Tensor, Classes], Tensor]
ORDERS: dict[str, Callable[[list[str]], list[str]]] = {
    "last": lambda layers: layers[-1:],
    "top-down": lambda layers: layers[::-1],
    "bottom-up": lambda layers: layers,
}
CASCADES = ("top-down", "bottom-up")


@dataclass(frozen=True, eq=False)
class Randomization:
    """Rank correlations with the map of the network as it is, (L, N) in float64 on the CPU, after each of L layers.

    `layers` names them as they were redrawn: row l is with layers 0 to l redrawn. NaN where a map is constant, which
    has no ranks.
    """

    layers: tuple[str, ...]
    correlations: Tensor

    def __repr__(self) -> str:
        return f"Randomization({', '.join(f'{name}: {number(mean)}' for name, mean in self)})"

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """Each layer with the mean over all pictures."""
        return iter(list(zip(self.layers, self.correlations.nanmean(1).tolist(), strict=True)))


def layer_randomization(
    method: Explains, network: nn.Module, x: Tensor, target: Classes, *, order: str = "last", seed: int = 0
) -> Randomization:
    """Spearman's correlation of the maps of x (N, C, *picture) before and after layers are redrawn.

    `method` is one of `dmbp.evaluation.methods`, or any function of network, pictures and classes that gives maps;
    colours are summed, and no absolute value is taken. `order` is "last" (Table 3), "top-down" or "bottom-up". All is
    done on copies of the network; the same seed draws the same weights on each device.

    Raises DmbpError for another order, a network without such layers, and maps that do not fit, NaN among them.
    """
    check_network(network)
    check_pictures(x)
    if order not in ORDERS:
        raise DmbpError(f"order must be one of {', '.join(map(repr, ORDERS))}, not {order!r}")
    layers = ORDERS[order](weighted_layers(network, x[:1]))
    generator = torch.Generator().manual_seed(seed)
    before, rows = pixel_values(method(network, x, target), x), []
    for name in layers:
        network = with_own_weights(network)  # not in place: what a method keeps is of a network that does not change
        redraw(network.get_submodule(name), generator)
        rows.append(spearman(before, pixel_values(method(network, x, target), x)))
    return Randomization(tuple(layers), torch.stack(rows))


@torch.no_grad()
def redraw(layer: nn.Module, generator: torch.Generator) -> None:
    """Each parameter of the layer itself, its weight first, from N(0, mean square of what it was)."""
    for parameter in sorted(layer.parameters(recurse=False), key=lambda parameter: -parameter.dim()):
        size = parameter.detach().cpu().double().square().mean().sqrt()
        parameter.copy_(size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def weighted_layers(network: nn.Module, x: Tensor) -> list[str]:
    """The modules that hold a weight of two dimensions or more, in the order of their first calls at x.

    Raises DmbpError where there is none.
    """
    network = with_own_weights(network)
    called: dict[str, None] = {}
    for name, module in network.named_modules():
        if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)):
            module.register_forward_pre_hook(lambda _, __, name=name: called.setdefault(name))
    with torch.no_grad():
        network(x)
    if not called:
        raise DmbpError("the network calls no layer that holds a weight of its own: there is nothing to redraw")
    return list(called)


def with_own_weights(network: nn.Module) -> nn.Module:
    """A copy of the network in which each weight that is computed from other parameters is a parameter itself.

    So it is with weight norm, spectral norm and all that torch.nn.utils.parametrize makes; values stay as they are.
    """
    computed = (leaf for module in network.modules() for leaf in vars(module).values() if isinstance(leaf, Tensor))
    copied = deepcopy(network, {id(leaf): leaf.detach().clone() for leaf in computed if leaf.grad_fn is not None})
    for module in list(copied.modules()):
        if is_parametrized(module):
            _unparametrize(module)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
    return copied


def _unparametrize(module: nn.Module) -> None:
    """What torch's own remove_parametrizations does; that would change the class, which the copy shares."""
    lists = dict(module.get_submodule("parametrizations").named_children())
    tensors = {name: getattr(module, name).detach().clone() for name in lists}
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, tensor in tensors.items():
        if any(True for _ in lists[name].parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(tensor))
        else:
            module.register_buffer(name, tensor)
