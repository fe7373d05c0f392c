"""Another door to `dmbp.learning`: the objective, and what learns masks by it."""

from dmbp.learning.learn import Learned, learn_masks
from dmbp.learning.objective import LOSSES, Loss, loss_all, loss_both, loss_positive

__all__ = ["LOSSES", "Learned", "Loss", "learn_masks", "loss_all", "loss_both", "loss_positive"]
