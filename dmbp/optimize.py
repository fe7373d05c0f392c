"""Another door to `dmbp.learning`: the objective, and what learns masks by it."""

from dmbp.learning.learn import LOSSES, Learned, Loss, learn_masks, loss_all, loss_both, loss_positive

__all__ = ["LOSSES", "Learned", "Loss", "learn_masks", "loss_all", "loss_both", "loss_positive"]
