"""Whether a progress bar is shown."""

from __future__ import annotations

import sys


def hidden(progress: bool = True) -> bool | None:
    """What tqdm's `disable` wants: None shows a bar on terminals; a process without standard error has none."""
    return None if progress and sys.stderr is not None else True
