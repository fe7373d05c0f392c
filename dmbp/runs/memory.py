"""How much memory a computation takes, how much a device has left, and what a process keeps."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's own numbers of what mallopt sets


def keep_freed() -> bool:
    """Let this process keep the memory that tensors give back, and take it again for new ones. Whether it could.

    The C library of Linux takes large blocks from the system and gives each back at once, and the system fills every
    page of the next one with zeros. For pictures in batches that can be half of the time of a forward pass and more: 29
    pictures of 224 × 224 take 0.60 of the time once memory is kept on SqueezeNet, 0.32 on EfficientNet-Lite0. It is a
    setting of the whole process, so that the command line makes it, and no import does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library: macOS, Windows, musl
        return False
    return bool(mallopt(MMAP_THRESHOLD, 2**30) and mallopt(TRIM_THRESHOLD, 2**31 - 1))


def footprint(compute: Callable[[], Any]) -> int:
    """The most bytes that tensors made by `compute` hold at one time, its result's included.

    Counted from PyTorch's own calls, on any device; what its libraries set aside within one call is not seen.
    """
    meter = _Meter()
    with meter:
        compute()
    return meter.peak


class _Meter(TorchDispatchMode):
    """Counts each storage once, from the call that makes it until the last tensor on it is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages((args, kwargs)):  # made before, outside
            self._watch(storage, 0)
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            self._watch(storage, storage.nbytes())
        return result

    def _watch(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_iter(values) if isinstance(value, Tensor)]


def available(device: torch.device) -> int | None:
    """Bytes that new tensors can take on a device without pressing anything out; None where nobody can tell."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    if device.type != "cpu":
        return None
    try:  # Linux counts what it can give up, such as cached files
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out: CUDA's has a class of its own, the CPU's only its words."""
    words = ("not enough memory", "can't allocate memory", "out of memory")
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))
