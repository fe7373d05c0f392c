"""Several processes that share one evaluation, as `torchrun` starts them: each has its rank, and they meet twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from dmbp.errors import DmbpError

PATIENCE = timedelta(days=30)  # those who are done wait for the slowest


@dataclass(frozen=True)
class Ranks:
    """This process among `world` ones. One by itself is rank 0 of 1, and waits for nobody."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """What rank 0 has for `value`, in all processes: what it finds decides, so that all divide the same work."""
        if self.world == 1:
            return value
        held = [value]
        self._together(lambda: dist.broadcast_object_list(held, src=0))
        return held[0]

    def all(self, value: Any) -> list[Any]:
        """The values of all processes, by rank, in all of them. Nobody gets on before all have come here."""
        if self.world == 1:
            return [value]
        held = [None] * self.world
        self._together(lambda: dist.all_gather_object(held, value))
        return held

    def _together(self, step: Any) -> None:
        try:
            step()
        except RuntimeError as error:
            raise DmbpError(
                f"rank {self.rank}: another process of this evaluation has ended before; what is finished is kept, and "
                "the same command goes on from there, with any number of processes"
            ) from error


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that `torchrun`'s variables tell of, joined as long as the block lasts; without them, one alone.

    They exchange short messages only, over gloo on the CPU, whatever device each computes on.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    if not dist.is_available():
        raise DmbpError("this build of torch has no torch.distributed: start one process only")
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def own_device(name: str) -> str:
    """The device of this process: of "cuda" the one of its place on the machine, else the one that is named."""
    local = os.environ.get("LOCAL_RANK")
    if name != "cuda" or local is None:
        return name
    return f"cuda:{int(local) % max(1, torch.cuda.device_count())}"
