"""Random networks: a hypothesis strategy that draws a description, and the module that runs it.

A `Network` is a list of steps; each applies one kind of operator, of the table KINDS, to values that came before it
(value 0 is the input). The description is all there is: its repr, pasted into a test, is the same network again.
"""

# Each family enters its kinds into the table; their order is that in which networks are drawn.
from random_networks import layers, gates, pools, arithmetic, structure  # noqa: F401, I001
from random_networks.description import Network, Step
from random_networks.draw import networks
from random_networks.table import AGAIN, KINDS

__all__ = ["AGAIN", "KINDS", "Network", "Step", "networks"]
