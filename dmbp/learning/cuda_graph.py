"""An iteration on CUDA as two recorded graphs of kernels, replayed without a word from Python in between."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dmbp.learning.descent import Descent, Scores

WARM_UP = 3  # runs in which kernels are compiled and libraries choose their algorithms


class Captured:
    """A `Descent` whose forward and backward were recorded once, on its own logits, squares and rests."""

    def __init__(self, descent: Descent) -> None:
        state = [*descent.logits.values(), *descent.squares.values()]
        before = [value.clone() for value in state]
        try:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    descent.backward(*descent.forward())
            torch.cuda.current_stream().wait_stream(aside)
            torch.cuda.empty_cache()  # what the warm-up took: a graph has a pool of its own
            self.there, self.back = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.there):
                self.scores, self.kept = descent.forward()
            with torch.cuda.graph(self.back, pool=self.there.pool()):
                descent.backward(self.scores, dict(self.kept))
        finally:
            for value, old in zip(state, before, strict=True):
                value.copy_(old)

    def forward(self) -> tuple[Scores, dict[str, Tensor]]:
        self.there.replay()
        return {name: value.clone() for name, value in self.scores.items()}, self.kept

    def backward(self, scores: Scores, kept: dict[str, Tensor]) -> None:
        self.back.replay()


def captured(descent: Descent) -> Descent | Captured:
    """The recorded iteration; the descent itself on other devices, and, with a warning, where recording fails."""
    if descent.y.device.type != "cuda" or not descent.network.whole:
        return descent
    try:
        return Captured(descent)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"iterations run without a CUDA graph, and slower: recording one fails ({reason})", stacklevel=2)
        return descent
