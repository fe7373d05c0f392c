"""Another door to `dmbp.models.digit_networks`: the two small networks that ship here."""

from dmbp.models.digit_networks import NETWORKS, DigitPairsResNet, DigitPairsVGG, pretrained

__all__ = ["NETWORKS", "DigitPairsResNet", "DigitPairsVGG", "pretrained"]
