"""What every operator must pass at one input, whatever network it stands in; each check raises AssertionError.

The module is the oracle, through its own value, `torch.func.jacrev` and `torch.func.vjp`; `x` (N, …) is the input that
`lin` was made at.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from approx import EXACT, values
from torch import Tensor, nn

import linreg


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


def check_promises(lin: linreg.Linearization) -> None:
    """What is said to be new memory may be overwritten, and what is said to be the same for all images is."""
    for node in lin.graph.nodes:
        affine, x = lin.frozen[node.name], lin.input
        xs = [values(len(x), *lin.graph.shape(name), seed=40 + k) for k, name in enumerate(node.inputs)]
        g = values(len(x), *node.shape, seed=50)
        if affine.new_value:
            check_new(lambda *inputs, affine=affine: (affine(*inputs),), xs)
        if affine.new_gradients:
            check_new(affine.adjoint, [g])
        if affine.shared and lin.graph.batch is None:
            check_shared(lambda *inputs, affine=affine: (affine.linear(*inputs),), xs)
            check_shared(affine.adjoint, [g])


def check_new(function: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor]) -> None:
    """One result after the other is overwritten, all the memory that it lies in: nothing else changes for that."""
    results, before = function(*inputs), [x.clone() for x in inputs]
    expected = [result.clone() for result in results]
    for k, result in enumerate(results):
        result.untyped_storage().fill_(0xFF)  # NaN
        for other, wanted in zip(results[k + 1 :], expected[k + 1 :], strict=True):
            assert other.equal(wanted)
    assert all(x.equal(old) for x, old in zip(inputs, before, strict=True))
    assert all(again.equal(wanted) for again, wanted in zip(function(*inputs), expected, strict=True))


def check_shared(function: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor]) -> None:
    """The images in another order, and twice as many of them."""
    results, turned = function(*inputs), function(*(x.flip(0) for x in inputs))
    for result, found in zip(results, turned, strict=True):
        torch.testing.assert_close(found, result.flip(0), **EXACT)
    for result, found in zip(results, function(*(torch.cat([x, x]) for x in inputs)), strict=True):
        torch.testing.assert_close(found, torch.cat([result, result]), **EXACT)


Check = Callable[[nn.Module, Tensor, linreg.Linearization], None]
TRIAD: dict[str, Check] = {
    "value": check_value,
    "dot-test": check_dot_test,
    "jacobian": check_jacobian,
    "adjoint": check_adjoint,
    "completeness": check_completeness,
    "matrices": check_matrices,
    "promises": lambda module, x, lin: check_promises(lin),
}
