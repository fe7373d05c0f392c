"""What explicit matrices cost: a convolution's CSR, a dense Jacobian, singular values without a matrix.

`make bench`, or `python tests/benchmarks/bench_matrices.py`. Each figure stands beside its plain rival, in one process.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import coo_array
from torch import Tensor, nn

from linreg import Linearization, trace
from linreg.operators import Convolution

COLUMNS = 64  # of the identity, from which the time for all of them is extrapolated
ROUNDS = 3


def seconds(function: Callable[[], object], rounds: int = 1) -> float:
    """The least of a few."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - began)
    return best


def peak(function: Callable[[], object]) -> int:
    """Bytes of numpy's arrays at their most."""
    tracemalloc.start()
    function()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def identity_columns(affine: Convolution, count: int) -> coo_array:
    """The columns of a sparse matrix by pushing columns of the identity, evenly spread, one batch."""
    size = int(np.prod(affine.shape))
    units = torch.zeros(count, size)
    units[torch.arange(count), torch.linspace(0, size - 1, count).long()] = 1
    return coo_array(affine.linear(units.view(count, *affine.shape)).flatten(1).numpy().T)


def convolution() -> list[str]:
    """ResNet-50's first layer: 7×7, stride 2, 224², 3 to 64 channels."""
    torch.manual_seed(0)
    weight, pair = torch.randn(64, 3, 7, 7), lambda value: [value] * 2
    affine = Convolution(weight, (3, 224, 224), pair(2), pair(3), pair(1), 1, False, pair(0))
    (matrix,) = affine.sparse()
    size, nonzeros = sum(a.nbytes for a in (matrix.data, matrix.indices, matrix.indptr)), matrix.nnz
    del matrix
    built = seconds(affine.sparse, ROUNDS)
    most = peak(affine.sparse)
    with torch.no_grad():
        columns = seconds(lambda: identity_columns(affine, COLUMNS), ROUNDS) * 3 * 224**2 / COLUMNS
    return [
        f"CSR of conv1 7×7 /2 at 224²: {nonzeros:,} nonzeros, {size / 1e6:.0f} MB of arrays, {built:.2f} s; at most "
        f"{most / 1e6:.0f} MB, {most / size:.2f}×",
        f"  by columns of the identity (extrapolated from {COLUMNS}): {columns:.0f} s, {columns / built:.0f}×",
    ]


def small_network(channels: int) -> tuple[nn.Module, Tensor]:
    """Four 3×3 convolutions with ReLUs at 32×32, all of one width."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs in (3, channels, channels, channels):
        layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers).double().requires_grad_(False), torch.randn(1, 3, 32, 32).double()


def jacobian(channels: int = 8) -> list[str]:
    """H of the last gate, 8,192 × 3,072, against `torch.func.jacrev` in the chunks that suit it best."""
    network, x = small_network(channels)
    lin = trace(network, x).linearize(x)

    def rival(chunk: int) -> Tensor:
        return torch.func.jacrev(lambda x: network(x[None])[0].flatten(), chunk_size=chunk)(x[0]).flatten(1)

    times = {chunk: seconds(lambda chunk=chunk: rival(chunk)) for chunk in (32, 128, 512)}  # type: ignore[misc]
    best = min(times, key=times.__getitem__)
    ours = seconds(lin.matrix, ROUNDS)
    expected = rival(best)
    error = float((lin.matrix() - expected).abs().max() / expected.abs().max())
    rows, columns = expected.shape
    return [
        f"dense H {rows:,} × {columns:,} of 4 layers at 32×32, float64: {ours:.2f} s; jacrev {times[best]:.2f} s "
        f"(chunks of {best}), {times[best] / ours:.1f}×; greatest relative difference {error:.0e}"
    ]


def resnet() -> Linearization:
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None).eval()
    x = torch.randn(1, 3, 224, 224)
    return trace(network, x).linearize(x)


def estimate(lin: Linearization, stop: str, k: int, width: int = 12, passes: int = 24) -> np.ndarray:
    """The k largest singular values by randomised block Krylov (Musco and Musco 2015), on torch's own maps.

    Rayleigh-Ritz of JᵀJ on span(B, JᵀJ B, (JᵀJ)² B, …), B random of `width` columns, fully orthogonalised.
    """

    def normal(v: Tensor) -> Tensor:
        """JᵀJ v, a column at a time."""
        columns = (lin.forward(c.view(lin.input.shape), stop=stop) for c in v.T)
        return torch.stack([lin.adjoint(c, stop).flatten() for c in columns], 1)

    block = torch.randn(lin.input.numel(), width, generator=torch.Generator().manual_seed(1))
    basis = block = torch.linalg.qr(block).Q
    for _ in range(passes - 1):
        block = normal(block)
        for _ in range(2):
            block = torch.linalg.qr(block - basis @ (basis.T @ block)).Q
        basis = torch.cat([basis, block], 1)
    ritz = torch.linalg.eigvalsh((basis.T @ normal(basis)).double())
    return ritz.flip(0)[:k].sqrt().numpy()


def singular(k: int = 10) -> list[str]:
    """H at layer1 of ResNet-50, 802,816 × 150,528, seeded random weights."""
    lin = resnet()
    stop = [node.name for node in lin.graph.nodes if node.module.startswith("layer1")][-1]
    began = time.perf_counter()
    values = lin.jacobian(stop).singular_values(k).numpy()
    ours = time.perf_counter() - began
    began = time.perf_counter()
    rival = estimate(lin, stop, k)
    theirs = time.perf_counter() - began
    rows, columns = lin.jacobian(stop).shape
    return [
        f"{k} largest singular values at '{stop}', {rows:,} × {columns:,}: {ours:.0f} s by svds; randomised "
        f"estimate {theirs:.0f} s; greatest relative difference {np.abs(values / rival - 1).max():.1e}",
        f"  {np.array2string(values, precision=4)}",
    ]


def report() -> str:
    lines = [f"{torch.get_num_threads()} threads, torch {torch.__version__}"]
    print("\n" + lines[0], flush=True)
    for part in (convolution, jacobian, singular):
        made = part()
        print("\n".join(made), flush=True)
        lines += made
    return "\n".join(lines)


def test_matrices() -> None:
    """The benchmark as `make bench` runs it: it measures and prints, and asserts nothing about speed."""
    report()


if __name__ == "__main__":
    report()
