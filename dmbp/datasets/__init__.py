"""Labelled pictures: digit pairs, ImageNet and VOC as they are distributed, folders of one's own, and photo pairs."""

from dmbp.datasets.digits import CLASSES, DIGIT, SIDE, DigitPairs, Split, digit_pairs, sample_pairs
from dmbp.datasets.items import Choice, Item, Pictures, Skipped, Unreadable
from dmbp.datasets.reading import load_data

__all__ = [
    "CLASSES",
    "DIGIT",
    "SIDE",
    "Choice",
    "DigitPairs",
    "Item",
    "Pictures",
    "Skipped",
    "Split",
    "Unreadable",
    "digit_pairs",
    "load_data",
    "sample_pairs",
]
