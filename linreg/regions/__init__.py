"""Where the linear function ends: the region of a linearization, its walls, and the regions beyond them."""

from linreg.regions.pattern import disagreements

__all__ = ["disagreements"]
