"""Peak memory of an explanation and of plain passes: on CUDA from its allocator, on Linux from the resident set.

The resident set never shrinks for certain, so each is measured in a process of its own,
`python -m dmbp.bench.resident`.
"""

from __future__ import annotations

import ctypes
import gc
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dmbp.errors import DmbpError
from dmbp.explanation import explain
from dmbp.learning.learn import learn_masks
from linreg import OperatorGraph

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
ITERATIONS = 3  # enough for all that is ever held at once


def forward_backward(graph: OperatorGraph, x: Tensor, target: Tensor) -> Callable[[], object]:
    """A forward and an input-backward of the network with its batch norms folded, in plain PyTorch."""
    network = graph.to_module().requires_grad_(False)

    def run() -> object:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(network(leaf).gather(1, target[:, None]).sum(), leaf)

    return run


def learning(graph: OperatorGraph, x: Tensor, target: Tensor) -> Callable[[], object]:
    """The iterations alone."""
    return lambda: learn_masks(graph.linearize(x), target, iterations=ITERATIONS, progress=False)


def explanation(graph: OperatorGraph, x: Tensor, target: Tensor) -> Callable[[], object]:
    """The iterations and what is made of them: every map, the complete ones too."""
    return lambda: explain(graph, x, target, iterations=ITERATIONS, progress=False).shares


SIDES = {"plain": forward_backward, "learning": learning, "dmbp": explanation}


def peaks(
    graph: OperatorGraph, x: Tensor, target: Tensor, sides: Sequence[str] = ("plain", "dmbp")
) -> dict[str, float] | None:
    """Peak MB (10⁶ bytes) that these of `SIDES` add to the loaded network; None where that cannot be measured."""
    if x.device.type == "cuda":
        return {side: _allocated(SIDES[side](graph, x, target), x.device) for side in sides}
    if x.device.type != "cpu" or not FORGET.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "problem.pickle"
        file.write_bytes(pickle.dumps((graph, x, target)))
        return {side: _in_child(file, side) for side in sides}


def _allocated(run: Callable[[], object], device: torch.device) -> float:
    run()  # libraries take their workspaces
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def _in_child(file: Path, side: str) -> float:
    command = [sys.executable, "-m", "dmbp.bench.resident", str(file), side, str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        raise DmbpError(f"memory was not measured: the process for it failed ({last})")
    return float(done.stdout.split()[-1])


def _resident(run: Callable[[], object]) -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system, and is not counted as there before
    FORGET.write_text("5")  # the peak so far
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1e6


def _status(key: str) -> int:
    """Bytes of the resident set: now ("VmRSS"), or at its peak ("VmHWM")."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    graph, x, target = pickle.loads(Path(sys.argv[1]).read_bytes())
    graph(x)  # libraries load what they need
    print(_resident(SIDES[sys.argv[2]](graph, x, target)))
