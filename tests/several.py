"""Networks of several inputs, each with what is held fixed, and the same networks as ones of a single row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import torch
from torch import Tensor, nn

Values = dict[str, Tensor]


def encoder(channels: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(),
    )  # fmt: skip


class Siamese(nn.Module):
    """The same encoder on two pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = encoder(), nn.Conv2d(4, 2, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.relu(self.encoder(left) - self.encoder(right))).sum((2, 3))


class Fusion(nn.Module):
    """A picture and a table, late."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.table = encoder(), nn.Sequential(nn.Linear(5, 4), nn.ReLU6())
        self.head = nn.Sequential(nn.Linear(8, 6), nn.LeakyReLU(), nn.Linear(6, 3))

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.head(torch.cat([self.image(image).mean((2, 3)), self.table(table)], 1))


class Input(nn.Module):
    """An argument that bears the name of the graph's own input, behind a star another."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, input: Tensor, *rest: Tensor) -> Tensor:
        return torch.relu(self.layer(input)) - torch.relu(self.layer(rest[0])) * 2


class Masked(nn.Module):
    """A fixed mask of each image: values left out, a mean over the rest, a maximum over the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        mean = (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        largest = h.masked_fill(~mask[..., None], -inf).amax(1)
        return self.second(torch.cat([mean, largest], 1))


class Sequence(nn.Module):
    """Fixed lengths: a mask made of them, the last step that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.head = nn.Linear(3, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        h = torch.relu(self.step(x))
        mask = torch.arange(x.shape[1], device=x.device)[None] < lengths[:, None]
        total = torch.where(mask[..., None], h, 0.0).sum(1) / lengths[:, None]
        last = h[torch.arange(x.shape[0], device=x.device), lengths - 1]
        return self.head(torch.cat([total, last], 1))


class Masking(Sequence):
    """The same function for one image, without an index along the batch, which no network of one input may have."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        h = torch.relu(self.step(x))
        places = torch.arange(x.shape[1], device=x.device)[None, :, None]
        total = (h * (places < lengths)).sum(1) / lengths
        return self.head(torch.cat([total, (h * (places == lengths - 1)).sum(1)], 1))


class Conditional(nn.Module):
    """A class index scales and shifts features by an embedding and a smooth network, and adds to the score."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.film = nn.Embedding(4, 3), nn.Sequential(nn.Linear(3, 6), nn.GELU(), nn.Linear(6, 8))
        self.features, self.head, self.offset = nn.Linear(5, 4), nn.Linear(4, 2), nn.Embedding(4, 2)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        scale, shift = self.film(self.embedding(label)).chunk(2, 1)
        return self.head(torch.relu(self.features(x) * scale + shift)) + self.offset(label)


class Gated(nn.Module):
    """A comparison of data with a fixed threshold, and of data with data where a fixed mask asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, threshold: Tensor, on: Tensor) -> Tensor:
        z = self.layer(x) + torch.relu(x).sum(1, keepdim=True)
        chosen = torch.where((z > threshold) & on, z, 0.5 * z)
        return chosen + torch.where(on | (z > 0), 0.1, z)


class Neighbours(nn.Module):
    """A dense graph network: its adjacency and a condition of all nodes are fixed, two kinds of features are data."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.other = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, *, nodes: Tensor, adjacency: Tensor, extra: Tensor, bias: Tensor) -> Tensor:
        h = torch.relu(adjacency @ self.first(nodes) + self.other(extra)[:, None] + bias)
        return self.second((adjacency @ h).mean(1))


@dataclass(frozen=True)
class Case:
    """A network, so many images of its inputs, and the names of what is fixed; `shared` is one for all images.

    `twin` is a module of the same weights and function, for one image, where the network of one row needs another.
    """

    module: Callable[[], nn.Module]
    inputs: Callable[[int, torch.Generator], Values]
    fixed: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    keywords: bool = True
    twin: Callable[[], nn.Module] | None = None

    def model(self, seed: int) -> nn.Module:
        """In float64, with random weights and statistics."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.module().double().eval()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2)
        return model

    def alike(self, model: nn.Module) -> nn.Module:
        """The same function with the same weights, where a network of one input must be written in other words."""
        if self.twin is None:
            return model
        twin = self.twin().double()
        twin.load_state_dict(model.state_dict())
        return twin.eval()

    def values(self, images: int, seed: int) -> Values:
        return self.inputs(images, torch.Generator().manual_seed(seed))

    def given(self, values: Values) -> Any:
        """As the network is given them."""
        return values if self.keywords else tuple(values.values())

    def data(self, values: Values) -> Values:
        return {name: value for name, value in values.items() if name not in self.fixed}

    def one(self, values: Values, image: int) -> Values:
        return {k: v if k in self.shared else v[image : image + 1] for k, v in values.items()}

    def output(self, model: nn.Module, values: Values) -> Tensor:
        return model(**values) if self.keywords else model(*values.values())


class Rowed(nn.Module):
    """One image's network as one of a single input, the row of all data; what is fixed it holds itself."""

    def __init__(self, case: Case, model: nn.Module, values: Values) -> None:
        super().__init__()
        self.case, self.model, self.shapes = case, model, {k: tuple(v.shape[1:]) for k, v in values.items()}
        self.names = list(values)
        for name in case.fixed:
            self.register_buffer(name, values[name])

    def forward(self, row: Tensor) -> Tensor:
        sizes = [prod(self.shapes[name]) for name in self._data]
        parts = dict(zip(self._data, row.split(sizes, 1), strict=True))
        values = {
            name: getattr(self, name) if name in self.case.fixed else parts[name].reshape(-1, *self.shapes[name])
            for name in self.names
        }
        return self.case.output(self.model, values)

    @property
    def _data(self) -> list[str]:
        return [name for name in self.names if name not in self.case.fixed]


def row(values: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten(1) for value in values.values()], 1)


def _normal(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=g)


def _chance(g: torch.Generator, *shape: int) -> Tensor:
    """Random booleans, the first of each row true."""
    found = torch.rand(*shape, generator=g) > 0.4
    found[..., 0] = True
    return found


def _integers(g: torch.Generator, low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high, shape, generator=g)


CASES = {
    "two images": Case(
        Siamese, lambda n, g: {"left": _normal(g, n, 1, 8, 8), "right": _normal(g, n, 1, 8, 8)}, keywords=False
    ),
    "image and table": Case(Fusion, lambda n, g: {"image": _normal(g, n, 1, 8, 8), "table": _normal(g, n, 5)}),
    "an input called input": Case(
        Input, lambda n, g: {"input": _normal(g, n, 4), "rest_0": _normal(g, n, 4)}, keywords=False
    ),
    "mask": Case(
        Masked, lambda n, g: {"x": _normal(g, n, 5, 3), "mask": _chance(g, n, 5)}, fixed=("mask",), keywords=False
    ),
    "lengths": Case(
        Sequence, lambda n, g: {"x": _normal(g, n, 5, 3), "lengths": _integers(g, 1, 6, n)}, fixed=("lengths",),
        twin=Masking,
    ),
    "class": Case(
        Conditional, lambda n, g: {"x": _normal(g, n, 5), "label": _integers(g, 0, 4, n)}, fixed=("label",)
    ),
    "thresholds": Case(
        Gated,
        lambda n, g: {"x": _normal(g, n, 4), "threshold": _normal(g, n, 3), "on": _chance(g, 3)},
        fixed=("threshold", "on"), shared=("on",),
    ),
    "graph": Case(
        Neighbours,
        lambda n, g: {
            "nodes": _normal(g, n, 6, 3), "adjacency": _normal(g, n, 6, 6), "extra": _normal(g, n, 2),
            "bias": _normal(g, 4),
        },
        fixed=("adjacency", "bias"), shared=("bias",),
    ),
}  # fmt: skip
