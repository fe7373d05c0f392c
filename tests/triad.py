"""What every operator must pass at one input, whatever network it stands in; each check raises AssertionError.

The module is the oracle, through its own value, `torch.func.jacrev` and `torch.func.vjp`; `x` (N, …) is the input that
`lin` was made at.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import linreg

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_value(module: nn.Module, x: Tensor, lin: linreg.Linearization) -> None:
    with torch.no_grad():
        expected = module(x.clone())
    torch.testing.assert_close(lin.output, expected, **EXACT)
    torch.testing.assert_close(lin.graph(x), expected, **EXACT)


def check_dot_test(module: nn.Module, x: Tensor, lin: linreg.Linearization) -> None:
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩ for every node, over all of its data inputs."""
    for seed, node in enumerate(lin.graph.nodes):
        affine = lin.frozen[node.name]
        xs = [values(len(x), *lin.graph.shape(name), seed=10 + k) for k, name in enumerate(node.inputs)]
        y = values(len(x), *node.shape, seed=20 + seed)
        there = affine.linear(*xs)
        back = affine.adjoint(y)
        assert there.shape == y.shape and [b.shape for b in back] == [x.shape for x in xs], str(node)
        left, right = (there * y).sum(), sum((x * b).sum() for x, b in zip(xs, back, strict=True))
        assert abs(left - right) <= 1e-12 * (there * y).abs().sum(), f"{node}: ⟨Ax, y⟩ = {left}, ⟨x, Aᵀy⟩ = {right}"


def check_jacobian(module: nn.Module, x: Tensor, lin: linreg.Linearization) -> None:
    """At the first image: column j of the matrix is what the linear part makes of the j-th unit vector."""
    image, size = x[0], x[0].numel()
    units = torch.eye(size, dtype=x.dtype).view(size, *image.shape)
    if lin.graph.batch is None:
        matrix = lin.graph.linearize(image.expand_as(units)).forward(units).movedim(0, -1)
    else:  # all the images at once, only the first not zero
        others = torch.zeros_like(x[1:])
        matrix = torch.stack([lin.forward(torch.cat([unit[None], others]))[0] for unit in units], -1)
    jacobian = torch.func.jacrev(lambda first: module(torch.cat([first[None], x[1:]]))[0])(image)
    torch.testing.assert_close(matrix, jacobian.reshape(matrix.shape), **EXACT)


def check_adjoint(module: nn.Module, x: Tensor, lin: linreg.Linearization) -> None:
    g = values(*lin.output.shape, seed=3)
    _, pull = torch.func.vjp(lambda x: module(x.clone()), x)
    torch.testing.assert_close(lin.adjoint(g), pull(g)[0], **EXACT)


def check_completeness(module: nn.Module, x: Tensor, lin: linreg.Linearization) -> None:
    """What the linear part leaves of the value is in the constants, one by one."""
    g = values(*lin.output.shape[1:], seed=4)
    certificate = lin.certificate(g)
    with torch.no_grad():
        y = (module(x.clone()) * g).flatten(1).sum(1)
    error = (y - certificate.total).abs()
    assert (error <= 1e-12 * certificate.magnitude).all(), f"the ledger leaves {error} of {certificate.magnitude}"


def check_matrices(module: nn.Module, x: Tensor, lin: linreg.Linearization) -> None:
    """Every node's own sparse matrices, at each image, make of random inputs what its linear part makes of them."""
    for node in lin.graph.nodes:
        affine = lin.frozen[node.name]
        xs = [values(len(x), *lin.graph.shape(name), seed=30 + k) for k, name in enumerate(node.inputs)]
        there = affine.linear(*xs).reshape(len(x), -1)
        for image in range(len(x)):
            blocks = zip(affine.sparse(image), xs, strict=True)
            product = sum(block @ value[image].flatten().numpy() for block, value in blocks)
            torch.testing.assert_close(
                torch.from_numpy(product), there[image], **EXACT, msg=lambda m, n=node: f"{n}: {m}"
            )


Check = Callable[[nn.Module, Tensor, linreg.Linearization], None]
TRIAD: dict[str, Check] = {
    "value": check_value,
    "dot-test": check_dot_test,
    "jacobian": check_jacobian,
    "adjoint": check_adjoint,
    "completeness": check_completeness,
    "matrices": check_matrices,
}
