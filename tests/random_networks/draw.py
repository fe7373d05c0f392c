"""The strategy of hypothesis that draws descriptions."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from hypothesis import strategies as st

from random_networks.description import Network, Step, build, shape_of
from random_networks.layers import linear_options
from random_networks.table import AGAIN, JOIN, KINDS, Draw, Kind, Shape

LARGE = 60  # elements of one image, from which on nothing makes a value larger
SELDOM = frozenset(
    {AGAIN, "relu, written over", "sum, written over", "pixel shuffle", "squeeze", "squeeze, copied", "squeeze several"}
)
WRITABLE = frozenset({"linear", "convolution", "batch norm", "add", "sum"})
SHAPES = [(6,), (2, 5), (4, 7), (2, 4, 4), (3, 5, 4), (4, 3, 5), (1, 6, 5), (8, 3, 2), (2, 3, 2, 4)]


@st.composite
def networks(draw: Draw, wanted: frozenset[str] = frozenset(), most: int = 12) -> Network:
    """Networks of four to `most` steps, and one or two more that bring all that is left unread into the output.

    The kinds in `wanted` are preferred, and those in SELDOM, which hardly any value suits.
    """
    if any(KINDS[name].writes for name in wanted & KINDS.keys()):
        wanted |= WRITABLE
    begin = draw(st.sampled_from(sorted(wanted & KINDS.keys()) or list(KINDS)))
    shapes = [draw(st.sampled_from([shape for shape in SHAPES if KINDS[begin].suits(shape)] or SHAPES))]
    steps: list[Step] = []
    _append(draw, shapes, steps, 0, frozenset({begin}))
    for _ in range(draw(st.integers(3, most - 1))):
        first = max(0, len(steps) - draw(st.sampled_from([0, 0, 0, 0, 1, 2, 3])))
        _append(draw, shapes, steps, first, wanted)
    read = {i for step in steps for i in step.reads}
    unread = tuple(i for i in range(len(shapes)) if i not in read)
    if len(unread) > 1:
        steps.append(Step(JOIN, unread))
    if draw(st.booleans()):
        last = (sum(prod(shapes[i]) for i in unread),) if len(unread) > 1 else shapes[-1]
        steps.append(Step("linear", (len(steps),), linear_options(draw, last)))
    return Network(shapes[0], draw(st.integers(1, 3)), draw(st.integers(0, 99)), tuple(steps))


def _append(draw: Draw, shapes: list[Shape], steps: list[Step], first: int, wanted: frozenset[str]) -> None:
    """Add one step that reads value `first`."""
    shape = shapes[first]
    names = [*_suitable(shapes, steps, first)]
    preferred = [name for name in names if name.rstrip("0123456789") in wanted | SELDOM]
    name = draw(st.sampled_from(preferred if preferred and draw(st.integers(0, 5)) < 5 else names))
    if name.startswith(AGAIN):
        step = Step(AGAIN, (first,), {"step": int(name.removeprefix(AGAIN))})
        source = steps[step.options["step"]]
        layer = build(source, shape)
    else:
        kind, reads = KINDS[name], (first,)
        if kind.beside:
            reads += (draw(st.sampled_from([i for i, other in enumerate(shapes) if kind.beside(shape, other)][::-1])),)
        step = Step(name, reads, kind.options(draw, shape))
        layer = build(step, shape)
    steps.append(step)
    shapes.append(shape_of(layer, [shapes[i] for i in step.reads]))


def _suitable(shapes: list[Shape], steps: list[Step], first: int) -> Iterator[str]:
    """The kinds that can read this value, and "again", with its number, for each module that has read such a one.

    A kind that suits few values is named as often as makes up for it.
    """
    shape = shapes[first]
    large = prod(shape) > LARGE
    read = any(first in step.reads for step in steps)
    used = {step.kind for step in steps}
    writable = first > 0 and steps[first - 1].kind in WRITABLE and not read
    for name, kind in KINDS.items():
        if name not in used and kind.suits(shape) and not (kind.writes and not writable) and not (kind.grows and large):
            yield from [name] * (len(SHAPES) // max(1, sum(map(kind.suits, SHAPES))) * (2 if kind.writes else 1))
    for i, step in enumerate(steps):
        if step.kind in ("linear", "convolution", "batch norm", "prelu") and shapes[step.reads[0]] == shape:
            yield f"{AGAIN}{i}"


KINDS[JOIN] = Kind(
    lambda shape: lambda *values: torch.cat([value.flatten(1) for value in values], 1),
    lambda draw, shape: {},
    lambda shape: False,
)
