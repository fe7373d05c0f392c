"""What is measured, and the clocks: a network with a batch of pictures, and what one run of it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from dmbp.datasets import sample_pairs
from dmbp.errors import DmbpError
from dmbp.learning.learn import Learned, learn_masks
from dmbp.learning.memory_format import pays
from dmbp.masks import find_sites
from dmbp.models.load import Model, check_spec, load_model, untrained
from dmbp.progress import hidden
from linreg import Linearization, OperatorGraph, trace

Network = Callable[[Tensor], Tensor]
K = TypeVar("K")
POOL = 8  # different pictures; larger batches repeat them


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to be measured, and pictures for it, (POOL, C, H, W), on one device and in one dtype."""

    name: str
    network: nn.Module
    pictures: Tensor
    graph: OperatorGraph

    def problem(self, images: int, size: tuple[int, int] | None = None) -> Problem:
        """A batch of so many images, resized where `size` (H, W) is given."""
        x = self.pictures[torch.arange(images) % POOL].contiguous()
        graph = self.graph
        if size is not None and size != x.shape[-2:]:
            x = nn.functional.interpolate(x, size, mode="nearest")
            graph = trace(self.network, x)
        elif graph.batch not in (None, images):
            graph = trace(self.network, x)
        lin = graph.linearize(x)
        given = lambda x: pytree.tree_leaves(self.network(x))[0]  # noqa: E731
        units = images * sum(prod(graph.shape(site)) for site in find_sites(graph))
        order = torch.channels_last if pays(lin.frozen, x, units) else None
        return Problem(given, graph.to_module().requires_grad_(False), lin, lin.output.argmax(1), order)


@dataclass(frozen=True, eq=False)
class Problem:
    """A batch, the network as it was given and with its batch norms folded, its linear region, the top classes.

    `order` is the memory format in which DMBP's iterations lay out pictures, None where that is the batch's own.
    """

    given: Network
    folded: nn.Module
    lin: Linearization
    target: Tensor
    order: torch.memory_format | None = None

    @property
    def x(self) -> Tensor:
        return self.lin.input

    @cached_property
    def laid_out(self) -> Problem:
        """The same with folded network and batch in `order`."""
        if self.order is None:
            return self
        lin = replace(self.lin, input=self.x.contiguous(memory_format=self.order))
        return replace(self, folded=deepcopy(self.folded).to(memory_format=self.order), lin=lin, order=None)  # type: ignore[call-overload]

    def floor(self, network: Network | None = None) -> None:
        """Two forwards, one of them recorded, and one backward to the input, of the folded network by default."""
        network = self.folded if network is None else network
        with torch.no_grad():
            network(self.x)
        x = self.x.clone().requires_grad_()
        # The counter of operations takes no leaf for a module's input.
        torch.autograd.grad(self.score(network(x.view_as(x))), x)

    def score(self, output: Tensor) -> Tensor:
        return output.gather(1, self.target[:, None]).sum()

    def clock(self, run: Callable[[], object], times: int = 1) -> Callable[[], float]:
        """What returns the mean seconds of a call of `run`, of so many in a row."""

        def measure() -> float:
            began = now(self.x.device)
            for _ in range(times):
                run()
            return (now(self.x.device) - began) / times

        return measure

    def learn(self, iterations: int, **options: Any) -> Learned:
        learned = learn_masks(self.lin, self.target, iterations=iterations, progress=False, **options)
        if learned.interrupted:
            raise KeyboardInterrupt
        return learned

    def iteration(self, iterations: int, **options: Any) -> float:
        """Seconds of one iteration in the midst of the learning, the mean of so many."""
        ticks: list[float] = []

        def tick(iteration: int, *_: object) -> None:
            if iteration in (1, iterations + 1):
                ticks.append(now(self.x.device))

        self.learn(iterations + 2, callback=tick, **options)
        return (ticks[1] - ticks[0]) / iterations


def read_subject(
    spec: str, weights: str | Path | None, device: torch.device, dtype: torch.dtype
) -> tuple[Subject, str]:
    """The model that `spec` names, as `load_model` reads it, and what is to be said of its weights.

    torchvision's networks are not downloaded: without `weights` theirs are drawn at random, with a fixed seed.
    """
    random = check_spec(spec)[0].startswith("torchvision:") and weights is None
    model = untrained(spec) if random else load_model(spec, weights)
    try:
        network = model.network.to(device, dtype).requires_grad_(False)
        pictures = _pictures(model).to(device, dtype)
    except TypeError as error:
        raise DmbpError(f"{device} has no {dtype}: {error}") from error
    model.scores(pictures[:1])
    note = "its weights and batch-norm statistics are random (seed 0), which times do not depend on" if random else ""
    return Subject(model.name, network, pictures, trace(network, pictures[:1])), note


def _pictures(model: Model) -> Tensor:
    """The digit pairs that ship here where they fit, else noise."""
    if model.preprocess.channels == 1 and model.preprocess.size == (64, 64):
        return sample_pairs().images[:POOL]
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(POOL, *model.preprocess.size, 3, generator=generator).numpy()
    return torch.cat([model.preprocess.tensor(picture) for picture in noise])


# ---- clocks ----


def now(device: torch.device) -> float:
    """The time at which all that was asked of the device is done."""
    torch.get_device_module(device).synchronize()
    return time.perf_counter()


def in_turn(rivals: Mapping[K, Callable[[], float]], rounds: int, what: str) -> dict[K, float]:
    """The median of what each returns, called in turn; a first round is for warming up."""
    taken: dict[K, list[float]] = {name: [] for name in rivals}
    for _ in tqdm(range(rounds + 1), desc=what, unit="round", disable=hidden(), leave=False):
        for name, measure in rivals.items():
            taken[name].append(measure())
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


def flops(function: Callable[[], object]) -> int:
    """Floating point operations of its convolutions and matrix products, a multiplication and an addition each."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()
