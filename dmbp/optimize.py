"""Another door to `dmbp.learning`: the objective, and what learns masks by it."""

from dmbp.learning.learn import Learned, learn_masks
from dmbp.learning.objective import LOSSES, Loss, loss_all, loss_both, loss_positive
from dmbp.learning.options import Options
from dmbp.learning.scores import MaskedScores, masked_scores

__all__ = [
    "LOSSES",
    "Learned",
    "Loss",
    "MaskedScores",
    "Options",
    "learn_masks",
    "loss_all",
    "loss_both",
    "loss_positive",
    "masked_scores",
]
