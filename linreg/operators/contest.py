"""Contests: which elements of the data compete for an element of a value, and by what rule one of them is chosen.

Indices: r contest, m candidate, k what is chosen of one contest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Contest:
    """Contests r among candidates: `choose` takes their values in rows (…, M) to the places (…, k) of what it picks.

    `candidates` (R, M) are elements of the data of one image, flat, −1 where a contest has fewer than M. `outputs`
    (R, k) are the elements of the value that are copies of what is chosen. `extreme` is 1 where the largest is chosen,
    −1 where it is the smallest, and 0 where the order of all decides. The data have so many `elements`.
    """

    candidates: Tensor
    outputs: Tensor
    choose: Callable[[Tensor], Tensor]
    extreme: int
    elements: int

    def to(self, device: torch.device) -> Contest:
        """The same on a device."""
        return replace(self, candidates=self.candidates.to(device), outputs=self.outputs.to(device))

    def repeated(self, parts: int) -> Contest:
        """The same for so many parts of an image."""
        part = torch.arange(parts).view(-1, 1, 1)
        candidates = torch.where(self.candidates < 0, -1, part * self.elements + self.candidates)
        outputs = part * self.outputs.numel() + self.outputs
        return replace(
            self, candidates=candidates.flatten(0, 1), outputs=outputs.flatten(0, 1), elements=parts * self.elements
        )

    def rows(self, flat: Tensor, image: Tensor, of: Tensor) -> Tensor:
        """Values of the candidates of contests `of` (n,), each in one `image` (n,) of (N, elements).

        They are (n, M), ∓∞ where there is none.
        """
        candidates = self.candidates[of]
        found = flat[image[:, None], candidates.clamp_min(0)]
        return found.masked_fill_(candidates < 0, -torch.inf if self.extreme >= 0 else torch.inf)


def listed(reads: csr_array) -> Tensor:
    """The columns of the nonzeros of each row, (rows, most of any row), −1 where a row has fewer."""
    counts = np.diff(reads.indptr)
    table = np.full((len(counts), max(1, int(counts.max(initial=0)))), -1)
    table[np.arange(table.shape[1]) < counts[:, None]] = reads.sorted_indices().indices
    return torch.from_numpy(table)
