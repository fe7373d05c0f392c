"""Numbers as people give them: Python's, NumPy's, or tensors of one; a truth value is no number."""

from __future__ import annotations

from numbers import Real
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor


def whole_number(value: Any) -> int | None:
    """The integer that a value is, of whatever integer type; None where it is none."""
    if _is_truth(value):
        return None
    try:
        return index(value)
    except TypeError:
        return None


def real_number(value: Any) -> float | None:
    """The real number that a value is; None where it is none."""
    return float(value) if isinstance(value, Real) and not _is_truth(value) else None


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) or (isinstance(value, Tensor) and value.dtype == torch.bool)
