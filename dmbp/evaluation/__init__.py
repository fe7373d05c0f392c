"""Attribution maps judged, the paper's Section 4: metrics for the maps of anybody, and every rival as a value.

`methods` has the rivals; each is a frozen dataclass of its options, and `method(network, x, target)` gives a map. A
comparison, of the classes on the left of pictures that show two:

>>> from dmbp.datasets import sample_pairs
>>> from dmbp.evaluation import complementary_insertion, insertion, localization, methods
>>> from dmbp.models import load_model
>>> network, pairs = load_model("digit-pairs").network, sample_pairs()
>>> x, left, right = pairs.images[:2], pairs.labels[:2, 0], pairs.labels[:2, 1:].tolist()
>>> nd, ours = (method(network, x, left) for method in (methods.ND(), methods.DMBP(iterations=100)))
>>> insertion(network, x, left, ours, step=64, probability="sigmoid").area.shape  # one number for each picture
torch.Size([2])
>>> complementary_insertion(network, x, left, ours, right, step=64, probability="sigmoid").scores.shape
torch.Size([2, 65])
>>> where = {name: localization(maps, "left") for name, maps in (("nd", nd), ("dmbp", ours))}
>>> sorted(where, key=lambda name: where[name].negative.mean())  # more of what is against it lies on the right
['nd', 'dmbp']

`dmbp.evaluation.curves` tells what these metrics are to the last digit, and what others call by the same name.
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
