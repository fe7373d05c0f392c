"""Means with intervals: percentiles of the mean over pictures that are drawn again with replacement.

Index letters: n pictures, k columns (methods), B resamples. A value that is not defined is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000
CHUNK = 100  # resamples at a time: 50,000 pictures then take 40 MB
LEVEL = 95  # percent
FEW = 10  # pictures: an interval of fewer is not to be believed


@dataclass(frozen=True)
class Mean:
    """A mean over `count` pictures, and its interval of 95 %; all NaN where there is none.

    A figure of the paper, which tells no interval and no count, has the count 0.
    """

    value: float
    low: float
    high: float
    count: int

    @property
    def printed(self) -> bool:
        """Whether this is a figure of the paper."""
        return self.count == 0

    @property
    def spread(self) -> float:
        """Half the width of the interval; NaN for one picture, which tells nothing of others."""
        return np.nan if self.count == 1 else (self.high - self.low) / 2

    @property
    def decided(self) -> bool:
        """Whether the interval of a difference does not hold 0, and is of pictures enough to be believed."""
        return self.count >= FEW and (self.low > 0 or self.high < 0)


def means(values: np.ndarray, seed: int = 0) -> list[Mean]:
    """The mean of each column of `values` (n, k) over the rows where it is defined, with its interval.

    The same rows are drawn for all columns, so that columns of differences keep the pairing. The same values and seed
    give the same intervals.
    """
    return mean_of_means([values], seed)


def mean_of_means(blocks: Sequence[np.ndarray], seed: int = 0) -> list[Mean]:
    """The mean over blocks (n_i, k) of each column's mean over the rows where it is defined, with its interval.

    Each block's rows are drawn by themselves; blocks of as many rows share their draws, so that two metrics of the same
    pictures keep their pairing. `count` is that of the smallest block. All NaN where a block has no number.
    """
    defined = [np.isfinite(block) for block in blocks]
    filled = [np.where(known, block, 0.0) for known, block in zip(defined, blocks, strict=True)]
    counts = np.min([known.sum(0) for known in defined], axis=0)
    pairs = list(zip(filled, defined, strict=True))
    drawn = np.mean([_resampled(block, known.astype(np.float64), seed) for block, known in pairs], axis=0)
    edges = (50 - LEVEL / 2, 50 + LEVEL / 2)
    found: list[Mean] = []
    for k, count in enumerate(counts):
        if count == 0:
            found.append(Mean(np.nan, np.nan, np.nan, 0))
            continue
        low, high = np.nanpercentile(drawn[:, k], edges)
        value = np.mean([block[:, k].sum() / known[:, k].sum() for block, known in pairs])
        found.append(Mean(float(value), float(low), float(high), int(count)))
    return found


def _resampled(filled: np.ndarray, defined: np.ndarray, seed: int) -> np.ndarray:
    """The means of B resamples, (B, k); NaN where one draws none of the defined rows."""
    rng = np.random.default_rng(seed)
    rows = len(filled)
    parts: list[np.ndarray] = []
    for _ in range(RESAMPLES // CHUNK):
        drawn = rng.multinomial(rows, np.full(rows, 1 / rows), size=CHUNK).astype(np.float64)
        total = drawn @ defined
        parts.append(np.divide(drawn @ filled, total, out=np.full_like(total, np.nan), where=total > 0))
    return np.concatenate(parts)
