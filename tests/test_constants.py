"""Every constant of a model is in the ledger, once, and moves the score by its share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from approx import EXACT
from nets import Traced, every_net, fused_or_not, traced
from torch import Tensor, nn

import linreg


def constants(model: nn.Module) -> set[str]:
    """The names of the model's own constants in the ledger: the biases, and one shift for each batch norm."""
    found = set()
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            found.add(f"{path}.shift")
        elif getattr(module, "bias", None) is not None:
            found.add(f"{path}.bias")
    return found


OTHERS = {
    "wiring": {"pad.pad": "pad"},
    "selections": {"rsub.constant": "constant"},
    "constants": {"sub.constant": "constant", "mean": "constant", "rsub.constant": "constant", "offset": "constant"},
}


@fused_or_not
def test_every_constant_of_the_model_is_in_the_ledger_once(name: str, fuse: bool) -> None:
    t = traced(name, fuse)
    lin = t.lin
    terms = [(term.name, term.kind) for term in lin.ledger(0).terms if term.kind != "offset"]
    names = [term for term, _ in terms]
    expected = constants(t.model)
    if name == "gates":  # one linear layer is read twice there
        expected |= {"a.bias", "b.bias"}
        assert sorted(names) == sorted([*expected, "a.bias", "b.bias"])
        return
    assert len(names) == len(set(names))
    others = {term: kind for term, kind in terms if term not in expected}
    assert set(names) >= expected
    assert sorted(others.values()) == sorted(OTHERS.get(name, {}).values())


@every_net
def test_a_constant_moves_the_score_by_its_share(name: str) -> None:
    """y(b + ε) − y(b) = ε · share / b within the region, for the first and last element of every parameter listed."""
    t = traced(name)
    ledger = t.lin.ledger(1)
    parameters = dict(t.model.named_parameters()) | dict(t.model.named_buffers())
    listed = {term.name.replace(".shift", ".bias") for term in ledger.terms}
    tried = 0
    for parameter in sorted(listed & set(parameters)):
        beta = parameters[parameter].detach()
        for index in {0, beta.numel() - 1}:
            shares = [
                shift_share(t.model, term, index)
                for term in ledger.terms
                if term.name.replace(".shift", ".bias") == parameter
            ]
            step = 1e-7
            moved = [score(t, parameter, index, sign * step) for sign in (1, -1)]
            slope = (moved[0] - moved[1]) / (2 * step)
            torch.testing.assert_close(sum(shares), slope, rtol=1e-6, atol=1e-7)
            tried += 1
    assert tried or not constants(t.model)


def shift_share(model: nn.Module, term: linreg.Term, index: int) -> Tensor:
    """share / β of one element of a term, where β is what the term holds: a bias, or the shift of a batch norm."""
    if term.kind == "shift":
        norm = model.get_submodule(term.name.removesuffix(".shift"))
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_var is not None
        beta = norm.bias - norm.weight * norm.running_mean / (norm.running_var + norm.eps).sqrt()  # type: ignore[operator]
    else:
        beta = (dict(model.named_parameters()) | dict(model.named_buffers()))[term.name]
    return term.values.flatten(1)[:, index] / beta.detach().flatten()[index]


def score(t: Traced, parameter: str, index: int, step: float) -> Tensor:
    state = {name: tensor.detach().clone() for name, tensor in t.model.state_dict().items()}
    state[parameter].view(-1)[index] += step
    with torch.no_grad():
        return torch.func.functional_call(t.model, state, (t.x,))[:, 1]


def test_batch_norm_and_convolution_keep_two_lines() -> None:
    """Fused into one operator, the convolution's bias and the shift of the batch norm stay apart."""
    fused = {term.name: term for term in traced("conv_bn").lin.ledger(0).terms}
    apart = {term.name: term for term in traced("conv_bn", fuse=False).lin.ledger(0).terms}
    assert fused.keys() == apart.keys() >= {"0.bias", "1.shift", "4.shift"}
    for name in fused:
        torch.testing.assert_close(fused[name].total, apart[name].total, **EXACT)


def test_ledgers_subtract_term_by_term() -> None:
    lin = traced("conv_bn").lin
    a, b = lin.ledger(0), lin.ledger(1)
    difference = a - b
    weights = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    expected = lin.ledger(weights)
    torch.testing.assert_close(difference.input, expected.input, **EXACT)
    for mine, theirs in zip(difference.terms, expected.terms, strict=True):
        assert (mine.node, mine.name, mine.kind) == (theirs.node, theirs.name, theirs.kind)
        torch.testing.assert_close(mine.values, theirs.values, **EXACT)
    with pytest.raises(ValueError, match="zip"):
        a - replace(b, terms=b.terms[:-1])


def test_ledger_sums_and_rows() -> None:
    ledger = traced("chain_with_biases").lin.ledger(0)
    torch.testing.assert_close(ledger.total, ledger.input_share + ledger.bias_share, **EXACT)
    rows = ledger.rows(image=1)
    assert [name for name, _, _ in rows] == ["c · x", "0.bias", "2.bias", "4.bias", "6.bias"]
    assert sum(share for _, _, share in rows) == pytest.approx(ledger.total[1].item(), rel=1e-12)
    table = ledger.summary(image=1)
    assert f"{ledger.total[1].item():+.6g}" in table and all(name in table for name, _, _ in rows)
    assert not traced("chain").lin.ledger(0).terms
