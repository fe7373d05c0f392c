"""The bar that long work shows on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

Told = Callable[[float, str], None]
LAYOUT = "{percentage:3.0f}%|{bar}| {postfix} [{elapsed}<{remaining}]"


@contextmanager
def bar(progress: bool, total: float) -> Iterator[Told]:
    """A bar on terminals, for what takes longer than a second, unless `progress` is False.

    What comes is told how much of the `total` is done by now, and what stands beside the bar.
    """
    hidden = None if progress and sys.stderr is not None else True
    with tqdm(total=total, disable=hidden, delay=1, bar_format=LAYOUT) as shown:

        def told(done: float, words: str) -> None:
            shown.set_postfix_str(words, refresh=False)
            shown.update(done - shown.n)

        yield told
