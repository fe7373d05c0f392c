"""The zoo: piecewise-linear networks of every kind that people build, from torchvision and of our own.

`ZOO` lists them by name. `instance(name)` gives (model in eval mode, a batch of two inputs), in float64 with
seeded random weights; the same name gives the same numbers each time.
"""

# Each file enters its networks into ZOO; their order is that of the table that `make zoo` prints.
from zoo import published, shapes, ways  # noqa: F401
from zoo.entry import BATCH, NORMS, ZOO, Entry, instance, representatives, settle
from zoo.published import CURVED

__all__ = ["BATCH", "CURVED", "NORMS", "ZOO", "Entry", "instance", "representatives", "settle"]
