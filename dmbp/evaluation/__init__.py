"""Attribution maps judged, the paper's Section 4: metrics for the maps of anybody, and every rival as a value.

`methods` has the rivals; each is a frozen dataclass of its options, and `method(network, x, target)` gives a map.
"""

from dmbp.evaluation import methods
from dmbp.evaluation.curves import Curve, complementary_insertion, deletion, insertion
from dmbp.evaluation.halves import Localization, localization
from dmbp.evaluation.randomization import Randomization, layer_randomization

__all__ = [
    "Curve",
    "Localization",
    "Randomization",
    "complementary_insertion",
    "deletion",
    "insertion",
    "layer_randomization",
    "localization",
    "methods",
]
