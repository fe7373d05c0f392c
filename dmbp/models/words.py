"""What messages about weights say of names and values."""

from __future__ import annotations

import torch


def first(names: list[str], count: int) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def kind_of(value: object) -> str:
    """What a value is, for a message."""
    shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else None
    return shape or f"a value of type {type(value).__name__}"
