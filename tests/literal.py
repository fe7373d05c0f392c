"""Literal twins of linreg: the paper's equations and the operators' definitions in loops and dense matrices.

Slow, short and obvious. Nothing here imports linreg. Index: l layer, from 1 in the paper and from 0 here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Expansion:
    """y = c · x + Σ_l terms_l · 1: `jacobians` are H_l, the matrices from x to the output of each hidden layer."""

    weight: Tensor
    terms: tuple[Tensor, ...]
    jacobians: tuple[Tensor, ...]

    def at(self, x: Tensor) -> Tensor:
        return self.weight @ x + sum(term.sum() for term in self.terms)


def layers(model: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    """(W_l, b_l) of a chain of linear layers and ReLUs; b_l = 0 where there is none."""
    linears = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert len(linears) + sum(isinstance(layer, nn.ReLU) for layer in model) == len(model)
    return [
        (m.weight.detach(), torch.zeros_like(m.weight[:, 0]) if m.bias is None else m.bias.detach()) for m in linears
    ]


def gates_left(model: nn.Sequential, x: Tensor, target: int) -> Expansion:
    """Eqs. 3 and 4, with biases: Ŵ_l = diag(H(W_l h_{l−1} + b_l)) W_l, h_l after the ReLU, w H_L = w Ŵ_L … Ŵ_1."""
    *hidden, (w, b) = layers(model)
    h, gated, gates = x, [], []
    for weight, bias in hidden:
        gates.append(torch.diag((weight @ h + bias > 0).to(x)))
        gated.append(gates[-1] @ weight)
        h = torch.relu(weight @ h + bias)
    jacobians = [_chain(gated[: l + 1]) for l in range(len(gated))]
    left, terms = w[target], [b[target].reshape(1)]
    for matrix, gate, (_, bias) in reversed(list(zip(gated, gates, hidden, strict=True))):
        terms.append((left @ gate) * bias)
        left = left @ matrix
    return Expansion(left, tuple(reversed(terms)), tuple(jacobians))


def gates_right(model: nn.Sequential, x: Tensor, target: int) -> Expansion:
    """Eqs. 13 and 18 (Appendix A): Ŵ_l = W_l diag(H(h_{l−1} + b_{l−1})), W_1 bare, h_l before bias and ReLU.

    y = ŵ [Ŵ_L … W_1] x + Σ_l ŵ [Ŵ_L … Ŵ_{l+1}] b_l, with ŵ = w diag(H(h_L + b_L)); the output layer's own bias, which
    the paper has not, comes last. The jacobians are those of h_l + b_l.
    """
    *hidden, (w, b) = layers(model)
    weights = [weight for weight, _ in hidden] + [w[target][None]]
    biases = [bias for _, bias in hidden]
    h, hatted = weights[0] @ x, [weights[0]]
    for weight, bias in zip(weights[1:], biases, strict=True):
        hatted.append(weight @ torch.diag((h + bias > 0).to(x)))
        h = weight @ torch.relu(h + bias)
    jacobians = [_chain(hatted[: l + 1]) for l in range(len(hidden))]
    terms = [(_chain(hatted[l + 1 :])[0]) * bias for l, bias in enumerate(biases)]
    return Expansion(_chain(hatted)[0], (*terms, b[target].reshape(1)), tuple(jacobians))


def _chain(matrices: list[Tensor]) -> Tensor:
    """M_n … M_1 of (M_1, …, M_n)."""
    result = matrices[0]
    for matrix in matrices[1:]:
        result = matrix @ result
    return result


# ---- operators ----


def convolution(
    weight: Tensor, shape: tuple[int, ...], stride: int, padding: int, dilation: int, groups: int
) -> tuple[Tensor, tuple[int, ...]]:
    """The matrix of z = W ∗ x, x of `shape` (channels, *positions), zeros around it; and the shape of z."""
    channels, sizes, window = weight.shape[0], shape[1:], weight.shape[2:]
    places = tuple(
        (size + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for size, k in zip(sizes, window, strict=True)
    )
    matrix = weight.new_zeros(channels, *places, *shape)
    for out, place in product(range(channels), _grid(places)):
        for inner, offset in product(range(weight.shape[1]), _grid(window)):
            at = tuple(stride * p + dilation * k - padding for p, k in zip(place, offset, strict=True))
            if all(0 <= a < size for a, size in zip(at, sizes, strict=True)):
                source = out // (channels // groups) * weight.shape[1] + inner
                matrix[(out, *place, source, *at)] += weight[(out, inner, *offset)]
    return matrix.reshape(-1, prod(shape)), (channels, *places)


def max_pool(x: Tensor, window: int, stride: int, padding: int) -> Tensor:
    """The 0/1 matrix of max pooling at x (channels, *positions): of equal values in a window the first is taken."""
    channels, *sizes = x.shape
    places = [(size + 2 * padding - window) // stride + 1 for size in sizes]
    matrix = x.new_zeros(channels, *places, *x.shape)
    for channel, place in product(range(channels), _grid(places)):
        corners = [stride * p - padding for p in place]
        ranges = [range(max(c, 0), min(c + window, size)) for c, size in zip(corners, sizes, strict=True)]
        best = max(product(*ranges), key=lambda at: x[(channel, *at)].item())  # `max` keeps the first of equals
        matrix[(channel, *place, channel, *best)] = 1
    return matrix.reshape(-1, x.numel())


def gate(kind: str, z: float, low: float = 0.0, high: float = 0.0, alpha: float = 0.0) -> tuple[float, float]:
    """(slope, offset) of an elementwise gate at one number: at a kink the closed side wins, but for "at least"."""
    if kind == "relu":
        return (1.0, 0.0) if z > 0 else (0.0, 0.0)
    if kind == "leaky":
        return (1.0, 0.0) if z > 0 else (alpha, 0.0)
    if kind == "abs":
        return (1.0, 0.0) if z > 0 else (-1.0, 0.0)
    if kind == "at least":
        return (1.0, 0.0) if z >= low else (0.0, 0.0)
    if kind == "threshold":
        return (1.0, 0.0) if z > low else (0.0, high)
    if kind == "hardshrink":
        return (1.0, 0.0) if z > alpha or z < -alpha else (0.0, 0.0)
    if kind == "softshrink":
        return (1.0, -alpha) if z > alpha else (1.0, alpha) if z < -alpha else (0.0, 0.0)
    if kind == "hardsigmoid":
        return (0.0, 0.0) if z <= -3 else (0.0, 1.0) if z >= 3 else (1 / 6, 0.5)
    assert kind == "clamp"
    return (0.0, low) if z <= low else (0.0, high) if z >= high else (1.0, 0.0)


def picked(x: Tensor, axes: tuple[int, ...], order: Callable[[list[float]], list[int]]) -> Tensor:
    """The 0/1 matrix of what picks elements of x along `axes`: `order` says which, of a row in C order, by places.

    Rows of the matrix: the other axes in C order, then the elements picked.
    """
    others = [axis for axis in range(x.dim()) if axis not in axes]
    rows = []
    for outer in _grid([x.shape[axis] for axis in others]):
        members = []
        for inner in _grid([x.shape[axis] for axis in axes]):
            at = dict(zip([*others, *axes], [*outer, *inner], strict=True))
            members.append(tuple(at[axis] for axis in range(x.dim())))
        for place in order([x[at].item() for at in members]):
            row = torch.zeros_like(x)
            row[members[place]] = 1
            rows.append(row.flatten())
    return torch.stack(rows)


def _grid(sizes: tuple[int, ...] | list[int] | torch.Size) -> Iterator[tuple[int, ...]]:
    return product(*map(range, sizes))
