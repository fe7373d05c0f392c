"""What an entry of the zoo is, and the network that it stands for, with random weights that keep it alive."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import vision  # noqa: F401  (makes torchvision importable)
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

BATCH = 2


@dataclass(frozen=True)
class Entry:
    """One network: its family, how it is built, the shape of one input, and which output is explained.

    `absent` names the modules that the graph must not hold (auxiliary heads). `quick` says that it is traced
    in the tests too, `large` that it takes seconds, `pretrained` that it has its own weights.
    """

    family: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    output: str | int | None = None
    absent: tuple[str, ...] = ()
    quick: bool = False
    large: bool = False
    pretrained: bool = False


ZOO: dict[str, Entry] = {}


def representatives() -> list[str]:
    """One or two of each family: those of the tests, or the first."""
    quick = {entry.family for entry in ZOO.values() if entry.quick}
    first = {entry.family: name for name, entry in reversed(ZOO.items())}
    return [
        name
        for name, entry in ZOO.items()
        if entry.quick or (entry.family not in quick and first[entry.family] == name)
    ]


def instance(name: str, entry: Entry | None = None) -> tuple[nn.Module, Tensor]:
    """The network of that name, or of another entry, and a batch of inputs."""
    entry = entry or ZOO[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        model = entry.build().double().eval()
        x = torch.randn(BATCH, *entry.shape, dtype=torch.float64)
        if not entry.pretrained:
            settle(model, torch.randn(6, *entry.shape, dtype=torch.float64))
    return model, x


NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | FrozenBatchNorm2d


@torch.no_grad()
def settle(model: nn.Module, x: Tensor) -> None:
    """Random weights and biases of the size that keeps activations alive, and batch norms as of a trained network.

    Each batch norm gets, in the order of the forward, a random gain and shift, and statistics near those of what
    reaches it: its scale stays of order one through any number of layers, and no two channels are alike.
    """

    def normalise(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        dims = [d for d in range(inputs[0].dim()) if d != 1]
        mean, spread = inputs[0].mean(dims), inputs[0].var(dims)
        spread = spread + 0.1 * spread.mean()
        module.running_mean.copy_(mean + 0.3 * spread.sqrt() * torch.randn_like(mean))
        module.running_var.copy_(spread * torch.empty_like(mean).uniform_(0.5, 2))
        if module.weight is not None:
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)

    handles = []
    for module in model.modules():
        if isinstance(module, NORMS):
            handles.append(module.register_forward_pre_hook(normalise))
            continue
        own = dict(module.named_parameters(recurse=False))
        if isinstance(own.get("weight"), Tensor) and own["weight"].dim() > 1:
            nn.init.kaiming_uniform_(own["weight"], nonlinearity="relu")
        if isinstance(own.get("bias"), Tensor):
            own["bias"].normal_(0, 0.3)
    model(x)
    for handle in handles:
        handle.remove()


def register(family: str, *shape: int, quick: bool = True, **settings: object) -> Callable[..., object]:
    """Register a builder under its name."""

    def keep(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        ZOO[build.__name__] = Entry(family, build, shape, quick=quick, **settings)
        return build

    return keep
