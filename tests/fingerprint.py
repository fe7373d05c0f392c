"""All of a model that somebody else's code could touch, before and after."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """All of a model's state that tracing could touch; tensors as copies."""
    state: dict[str, Any] = {f"state {k}": v.clone() for k, v in model.state_dict().items()}
    for path, module in model.named_modules():
        state[f"mode {path}"] = module.training
        state[f"own mode {path}"] = "training" in vars(module)
        state[f"attributes {path}"] = sorted(vars(module))
        state[f"forward {path}"] = module.forward
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            state[f"{hooks} {path}"] = list(getattr(module, hooks).items())
    for name, parameter in model.named_parameters():
        state[f"object {name}"] = id(parameter)
        state[f"pointer {name}"] = parameter.data_ptr()
        state[f"version {name}"] = parameter._version
        state[f"requires_grad {name}"] = parameter.requires_grad
        state[f"grad {name}"] = None if parameter.grad is None else parameter.grad.clone()
    for name, buffer in model.named_buffers():
        state[f"object {name}"] = id(buffer)
        state[f"version {name}"] = buffer._version
    return state


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if isinstance(value, Tensor) else value == after[key]
        assert same, f"{key}: {value} became {after[key]}"
