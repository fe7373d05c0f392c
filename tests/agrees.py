"""One oracle for a network that is traced: plain autograd on the user's own model, image by image."""

from __future__ import annotations

import torch
from approx import EXACT, assert_within
from torch import Tensor, nn

import linreg


def assert_agrees(model: nn.Module, x: Tensor, **options: object) -> linreg.OperatorGraph:
    """Trace the model at x, and compare output, Jacobian, adjoint, ledger and matrix with autograd for every image."""
    graph = linreg.trace(model.eval(), x, **options)  # type: ignore[arg-type]
    batch = torch.cat([x, 0.5 - x]) if graph.batch is None else x
    lin = graph.linearize(batch)
    weights = torch.randn(lin.output.shape[1:], generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    c, ledger = lin.weight(weights), lin.ledger(weights)
    if graph.batch is None:
        for n in range(len(batch)):
            one = batch[n : n + 1].clone().requires_grad_()
            y = model(one).reshape(lin.output.shape[1:])
            (slope,) = torch.autograd.grad((y * weights).sum(), one)
            torch.testing.assert_close(lin.output[n], y.detach(), **EXACT)
            torch.testing.assert_close(c[n], slope[0], **EXACT)
    else:
        whole = batch.clone().requires_grad_()
        y = model(whole).reshape(lin.output.shape)
        (slope,) = torch.autograd.grad((y * weights).sum(), whole)
        torch.testing.assert_close(lin.output, y.detach(), **EXACT)
        torch.testing.assert_close(c, slope, **EXACT)
    terms = [term.values.abs().reshape(len(batch), -1).sum(1) for term in ledger.terms]
    assert_within(ledger.total, lin.score(weights), sum(terms, (c * batch).flatten(1).abs().sum(1)))
    _assert_transposes(lin, weights)
    network = graph.to_module()
    torch.testing.assert_close(network(batch), lin.output, **EXACT)
    return graph


def _assert_transposes(lin: linreg.Linearization, weights: Tensor) -> None:
    """⟨w, J v⟩ = ⟨Jᵀ w, v⟩; and of one image J as a matrix, and within the bound that is proved."""
    c = lin.weight(weights)
    v = torch.randn(c.shape, generator=torch.Generator().manual_seed(4), dtype=c.dtype)
    products = (lin.forward(v) * weights).reshape(len(v), -1).sum(1)
    assert_within(products, (c * v).flatten(1).sum(1), 1e2 * (1 + (c * v).flatten(1).abs().sum(1)))
    if lin.graph.batch is None:
        one = lin.graph.linearize(lin.input[:1])
        J = torch.as_tensor(one.matrix(format="csr").toarray())
        assert_within(weights.flatten() @ J, c[0].flatten(), 1e2 * (weights.flatten().abs() @ J.abs() + 1))
        certificate = one.certificate(weights)
        assert (certificate.completeness_error <= certificate.bound).all()
