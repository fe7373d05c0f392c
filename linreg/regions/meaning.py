"""What "linear region" means: the one option that tells its meanings apart, the same in this whole room."""

from __future__ import annotations

from typing import Literal, get_args

from linreg.errors import LinregError

By = Literal["pattern", "map"]


def check_by(by: str) -> None:
    """Raise LinregError unless `by` is "pattern" (all units keep their pieces) or "map" (the affine function stays)."""
    if by not in get_args(By):
        wanted = " or ".join(map(repr, get_args(By)))
        raise LinregError(f"by must be {wanted}, for what two inputs of one linear region have in common; not {by!r}")
