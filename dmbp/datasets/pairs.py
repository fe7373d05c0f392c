"""Pictures with two targets, each in its half: digit pairs, and pairs of photographs from any data set."""

from __future__ import annotations

import numpy as np

from dmbp.datasets.digits import Split, digit_pairs
from dmbp.datasets.items import Item, Pictures, Pixels, SideBySide
from dmbp.errors import DmbpError


def digit_items(count: int, split: Split, seed: int) -> Pictures:
    """Digit pairs as labelled pictures: `count` of them, drawn anew with `seed` (see `digit_pairs`)."""
    drawn = digit_pairs(count, split=split, seed=seed)
    digits = len(str(count - 1))
    items = tuple(
        Item(f"pair-{n:0{digits}d}", tuple(labels), Pixels(image[0, :, :, None].expand(-1, -1, 3).numpy()))
        for n, (image, labels) in enumerate(zip(drawn.images, drawn.labels.tolist(), strict=True))
    )
    return Pictures("digit-pairs", items)


def photo_pairs(pictures: Pictures, seed: int) -> Pictures:
    """Pairs of different classes, side by side in one input, with two targets; each picture is used once at most.

    The pictures are shuffled; each, in this order, is joined with the next one that is free and of another class. With
    them any classifier, of one class a picture too, can be asked for complementary evidence and for its place. Raises
    `DmbpError` where a picture has more than one class, or all are of one.
    """
    if several := next((item for item in pictures.items if len(item.targets) != 1), None):
        raise DmbpError(
            f"photo pairs are made of pictures with one class each; {several.name} has {len(several.targets)}"
        )
    order = np.random.default_rng(seed).permutation(len(pictures.items))
    free = [pictures.items[k] for k in order]
    items: list[Item] = []
    while free:
        left = free.pop(0)
        other = next((k for k, item in enumerate(free) if item.targets != left.targets), None)
        if other is None:
            break
        right = free.pop(other)
        name = f"{left.name} | {right.name}"
        items.append(Item(name, left.targets + right.targets, SideBySide(left.picture, right.picture)))
    if not items:
        raise DmbpError(f"{pictures.family}: there are no two pictures of different classes to make a pair of")
    return Pictures(f"pairs of {pictures.family}", tuple(items), pictures.skipped)
