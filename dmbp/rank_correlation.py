"""Rank correlation of maps: what does not depend on how large their numbers are."""

from __future__ import annotations

import torch
from torch import Tensor


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """The correlation of ranks of each row of two tensors (N, P), ties at their mean rank: (N,) float64, on the CPU.

    NaN where a row is constant.
    """
    first, second = (torch.stack([_ranks(row) for row in rows.cpu()]) for rows in (a, b))
    first, second = first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True)
    return (first * second).sum(1) / (first.square().sum(1) * second.square().sum(1)).sqrt()


def _ranks(values: Tensor) -> Tensor:
    """Counted from 1; equal values share the mean of their ranks."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0)
    return (last - (count - 1) / 2).double()[place]
