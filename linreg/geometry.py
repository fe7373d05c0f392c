"""Where a unit looks: the place of each node's positions on the input, found from the graph alone.

Along each axis of the picture (a dimension of the input after the channels), a node's position q has

- a receptive field, the pixels first[q] … last[q]: from the first to the last that is read by any unit at q, of all
  channels, whatever gates and selections choose;
- a centre c(q), in pixels, pixel i having its own at i. A window that slides over x has the middle of the window for
  its centre, padding included: so c(q) = offset + stride · q holds up to the borders, and a picture that is shifted by
  the stride shifts its centres. What makes a picture larger is the transpose of such a window: its units lie evenly
  among those that they read. From layer to layer c = c_x ∘ u, with u(q) the operator's own centre in positions of x.

Where branches meet, they must agree, to within less than a step. Where all positions come together (a global pool, a
flattening, a fully connected layer) no place is left, and the node and the reason are told.

Indices: a axis, k data input of a node, p position of an input, q of the node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from linreg.errors import LinregError
from linreg.graph import INPUT, Node, OperatorGraph
from linreg.operators import Constant
from linreg.operators.reach import IN_ONE, TOGETHER, Follows, Placed, Reach, extended, whole
from linreg.operators.sparse import Array
from linreg.text import table

ROUNDING = 1e-6  # pixels: centres this near are the same


@dataclass(frozen=True, eq=False)
class Loss:
    """The name of the node at which a place is lost, its operator and the user's line, and why.

    `refused`: not because positions come together, as in a global pool, but because branches disagree, or an operator
    does not tell where it looks.
    """

    node: str
    kind: str
    source: str
    why: str
    refused: bool

    def __str__(self) -> str:
        return f"node '{self.node}' ({self.kind}): {self.why}"


@dataclass(frozen=True, eq=False)
class Axis:
    """The positions of a node along one axis of the picture: dimension `number` of the input, of `size` pixels.

    `dim` is the dimension of the node's value that they lie along, counted as in PyTorch with the batch first; with
    None, all of its units are at one position. `centres`, `first` and `last` (positions,) are in pixels; first > last
    where a unit reads nothing but padding. `stride` is the step of the centres, negative where the picture is mirrored;
    where the steps differ, about their mean.

    Without a place `centres` is None, and `loss` says why. Where branches agree only to within a step, the centres are
    those of the branch that looks at least, and `slack` is how far the others are from them at most, in pixels.
    """

    number: int
    size: int
    dim: int | None
    centres: Array | None
    first: Array
    last: Array
    stride: float = 1.0
    slack: float = 0.0
    loss: Loss | None = None

    @property
    def placed(self) -> bool:
        return self.centres is not None

    @property
    def offset(self) -> float | None:
        """The centre of position 0."""
        return None if self.centres is None else float(self.centres[0])

    @property
    def regular(self) -> bool:
        """Whether c(q) = offset + stride · q for all q."""
        return self.centres is not None and bool(np.allclose(np.diff(self.centres), self.stride, rtol=0, atol=ROUNDING))

    @property
    def extent(self) -> int:
        """The pixels of the largest receptive field."""
        return int(np.maximum(self.last - self.first + 1, 0).max())

    def through(self, node: Node, reach: Reach, dim: int | None) -> Axis:
        """The positions q of an operator that looks at these positions p: the hull of their fields, and c ∘ u."""
        starts, counts = reach.reads.indptr[:-1], np.diff(reach.reads.indptr)
        read, p = counts > 0, reach.reads.indices
        first, last = np.full(len(counts), self.size), np.full(len(counts), -1)
        if read.any():
            first[read] = np.minimum.reduceat(self.first[p], starts[read])
            last[read] = np.maximum.reduceat(self.last[p], starts[read])
        moved = replace(self, dim=dim, first=first, last=last, stride=self.stride * reach.stride)
        positions, size = reach.reads.shape
        if reach.centres is None or (positions == 1 < size == len(p)):
            kept = self.loss is not None and not self.loss.refused
            return replace(moved, centres=None, loss=self.loss if kept else _loss(node, reach.why or TOGETHER))
        if self.centres is None:
            return moved
        return replace(moved, centres=extended(reach.centres, np.arange(size), self.centres, self.stride))


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the units of one node look: an `Axis` for each axis of the picture. `shape` is that of its value."""

    node: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]

    @property
    def placed(self) -> bool:
        """Whether each position has a place on the picture, along all of its axes."""
        return bool(self.axes) and all(axis.placed for axis in self.axes)

    @property
    def loss(self) -> Loss | None:
        """What took its place along the first axis that has none; a refusal before others."""
        losses = [axis.loss for axis in self.axes if axis.loss]
        return next((loss for loss in losses if loss.refused), losses[0] if losses else None)

    @property
    def why(self) -> str:
        """Why it has no place, in words; "" where it has."""
        if not self.axes:
            return "the input has no axes of a picture, only features"
        numbers = [str(axis.number) for axis in self.axes if axis.loss and str(axis.loss) == str(self.loss)]
        return f"{self.loss} (dimension{'s' * (len(numbers) > 1)} {', '.join(numbers)} of the input)" if numbers else ""

    def located(self, constant: Constant, grad: Tensor) -> Tensor | None:
        """A constant's share of the score by position on the picture, (N, *positions); None without a place.

        `grad` is the score's gradient at the node's value, (N, *shape). What the node holds at one position (channels,
        features) is summed up.
        """
        if not self.placed:
            return None
        share = constant.located(grad, [axis.dim for axis in self.axes if axis.dim is not None])
        return share.reshape(len(grad), *(1 if axis.dim is None else grad.shape[axis.dim] for axis in self.axes))

    @property
    def stride(self) -> tuple[float, ...]:
        """The step between positions along each axis, in pixels."""
        return tuple(axis.stride for axis in self.axes)

    @property
    def offset(self) -> tuple[float | None, ...]:
        """The centre of position 0 along each axis, in pixels."""
        return tuple(axis.offset for axis in self.axes)

    @property
    def extent(self) -> tuple[int, ...]:
        """The largest receptive field along each axis, in pixels."""
        return tuple(axis.extent for axis in self.axes)

    def require(self) -> Geometry:
        """Itself. Raises LinregError where branches disagree or an operator does not tell; not for want of a place."""
        if self.loss is None or not self.loss.refused:
            return self
        place = f", at {self.loss.source}" if self.loss.source else ""
        way = "linreg.geometry.geometries(graph) goes on without a place"
        raise LinregError(f"no place on the picture for '{self.node}', from {self.loss}{place}; {way}")

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.shape))
        if not self.placed:
            return f"Geometry('{self.node}', ({shape}): no place, {self.why})"
        stride, offset, field, _ = _cells(self)
        return f"Geometry('{self.node}', ({shape}): stride {stride}, first centre {offset}, field {field})"


def geometries(
    graph: OperatorGraph, axes: Sequence[int] | None = None, input: str | None = None
) -> dict[str, Geometry]:
    """Where the units of "input" and of every node look, by name; what has no place says why, and nothing is refused.

    `axes` are the dimensions of the input along which the picture lies, with the batch first: (2, 3) for (N, C, H, W).
    By default all after the channels, which are dimension 1. Of several inputs `input` says which is the picture.
    Raises LinregError where the input has no such dimension, or there is no such input.
    """
    root = _root(graph, input)
    shape = graph.shape(root)
    numbers = tuple(range(2, len(shape) + 1)) if axes is None else tuple(axes)
    if any(number not in range(1, len(shape) + 1) for number in numbers) or len(set(numbers)) < len(numbers):
        sizes = ", ".join(map(str, shape))
        raise LinregError(f"axes must be different dimensions of the input (N, {sizes}), from 1 on, not {numbers}")
    found = {root: Geometry(root, shape, tuple(_own(number, shape[number - 1]) for number in numbers))}
    seeing = graph.after(root)
    for node in (node for node in graph.nodes if node.name != root):
        if node.name in seeing:
            found[node.name] = _look(node, [found[name] for name in node.inputs], seeing)
        else:
            nowhere = (_nowhere(node, axis) for axis in found[root].axes)
            found[node.name] = Geometry(node.name, node.shape, tuple(nowhere))
    return found


def _root(graph: OperatorGraph, input: str | None) -> str:
    """The node that is the picture: "input", or one of several inputs."""
    names = graph.inputs.nodes
    if len(names) == 1 and input in (None, INPUT, *names):
        return INPUT
    if input not in names:
        listed = ", ".join(map(repr, names))
        raise LinregError(f"the network has several inputs, {listed}: say by input= which is the picture")
    return names[input]


def summary(graph: OperatorGraph, axes: Sequence[int] | None = None) -> str:
    """A table of all nodes: the stride and the first centre of their positions, and their largest receptive field."""
    rows = [(name, "×".join(map(str, g.shape)), *_cells(g)) for name, g in geometries(graph, axes).items()]
    return table(rows, ("node", "shape", "stride", "first centre", "field", "remark"))


def _own(number: int, size: int) -> Axis:
    pixels = np.arange(size)
    return Axis(number, size, number, pixels.astype(float), pixels, pixels)


def _loss(node: Node, why: str, refused: bool = False) -> Loss:
    return Loss(node.name, node.operator.kind, node.source, why, refused)


def _look(node: Node, inputs: list[Geometry], seeing: Container[str]) -> Geometry:
    """A node's geometry from those of its inputs, of which those not in `seeing` see nothing of the picture."""
    if 0 in node.shape or all(0 in x.shape for x in inputs):
        return Geometry(node.name, node.shape, tuple(_nowhere(node, axis) for axis in inputs[0].axes))
    operands = [Placed(x.shape, frozenset(a.dim - 1 for a in x.axes if a.dim is not None)) for x in inputs]
    refusal, follows = "", tuple[Follows | None, ...]({} for _ in inputs)
    try:
        follows = node.operator.reach(operands, node.shape)
    except LinregError as error:
        refusal = str(error)
    # What holds no element makes no claim, nor what sees nothing.
    claims = (x.node in seeing and 0 not in x.shape for x in inputs)
    follows = tuple(to if claim else None for to, claim in zip(follows, claims, strict=True))
    axes = []
    for own in zip(*(x.axes for x in inputs), strict=True):
        read = [(name, axis, to) for name, axis, to in zip(node.inputs, own, follows, strict=True) if to is not None]
        branches = [(name, _follow(axis, to, node)) for name, axis, to in read]
        joined = _join(node, branches) if branches else _nowhere(node, own[0])
        if refusal and any(axis.dim is not None for axis in own):
            joined = replace(joined, centres=None, loss=_loss(node, refusal, refused=True))
        axes.append(joined)
    return Geometry(node.name, node.shape, _apart(node, axes))


def _apart(node: Node, axes: list[Axis]) -> tuple[Axis, ...]:
    """The axes, those without a place that have come to lie in one dimension, as along a diagonal of the picture."""
    lying = Counter[int | None](axis.dim for axis in axes if axis.placed and axis.dim is not None)
    return tuple(
        replace(axis, centres=None, loss=_loss(node, IN_ONE)) if axis.placed and lying[axis.dim] > 1 else axis
        for axis in axes
    )


def _nowhere(node: Node, axis: Axis) -> Axis:
    """An axis of what holds no element, or reads none."""
    none, loss = (np.array([axis.size]), np.array([-1])), axis.loss or _loss(node, "it reads nothing of the input")
    return Axis(axis.number, axis.size, None, None, *none, loss=loss)


def _follow(axis: Axis, follows: Follows, node: Node) -> Axis:
    """An axis of one input as the node's own positions see it."""
    if axis.dim is None:
        return axis
    e, reach = follows.get(axis.dim - 1) or (None, whole(len(axis.first)))
    return axis.through(node, reach, None if e is None else e + 1)


def _join(node: Node, branches: list[tuple[str, Axis]]) -> Axis:
    """One axis from those of all branches, by the names of the inputs that they come from.

    A branch without a place makes no claim, nor does one that has one position for all where others have several. So
    what is pooled over the picture, and added to each position, leaves these where they are.
    """
    parts = [part for _, part in branches]
    dims = {part.dim for part in parts if part.dim is not None}
    fields = [(part.first, part.last) if len(dims) < 2 else (part.first.min(), part.last.max()) for part in parts]
    joined = replace(
        parts[0], dim=next(iter(dims)) if len(dims) == 1 else None, centres=None,
        first=np.atleast_1d(np.minimum.reduce(np.broadcast_arrays(*(first for first, _ in fields)))),
        last=np.atleast_1d(np.maximum.reduce(np.broadcast_arrays(*(last for _, last in fields)))),
    )  # fmt: skip
    losses = [part.loss for part in parts if part.loss]
    if any(loss.refused for loss in losses):
        return replace(joined, loss=next(loss for loss in losses if loss.refused))
    if losses and len(joined.first) == 1:  # one position tells nothing where a branch is of all
        return replace(joined, loss=losses[0])
    if len(dims) > 1:
        lie = " and ".join(f"that of '{name}' in dimension {part.dim}" for name, part in branches)
        return replace(joined, loss=_loss(node, f"its branches lie across each other, {lie}", refused=True))
    claims = [(name, part) for name, part in branches if part.placed and part.dim == joined.dim]
    return _agreed(node, joined, claims, losses[0] if losses else None)


def _agreed(node: Node, joined: Axis, claims: list[tuple[str, Axis]], unplaced: Loss | None) -> Axis:
    """The centres that branches agree on: to rounding, or so that no two positions change places.

    Positions that none of them reads (a border of zeros) go on at the stride.
    """
    parts = [part for _, part in claims]
    centres = np.array([part.centres for part in parts]).reshape(len(parts), len(joined.first))
    low, high = (bound.reduce(centres, initial=np.nan) for bound in (np.fmin, np.fmax))
    known = ~np.isnan(low)
    if not known.any() or (unplaced and not known.all()):
        return replace(joined, loss=unplaced or _loss(node, "it reads nothing of the input"))
    least = min(part.extent for part in parts)
    finest = [part.extent == least for part in parts]
    stride = float(np.mean([part.stride for part in parts if part.extent == least]))
    if not _distinct(low[known], high[known], stride):
        return replace(joined, loss=_loss(node, _disagreement(centres, [name for name, _ in claims]), refused=True))
    sums = np.fmin.reduce(centres[finest]) + np.fmax.reduce(centres[finest])  # halfway, where several look at as little
    chosen = np.where(np.isnan(sums), low + high, sums)[known] / 2
    apart = np.fmax.reduce(np.abs(centres[:, known] - chosen), axis=1, initial=0.0)
    slack = max(part.slack + own for part, own in zip(parts, apart, strict=True))
    everywhere = extended(np.arange(len(low)), np.flatnonzero(known), chosen, stride)
    return replace(joined, centres=everywhere, stride=stride, slack=float(slack) if slack > ROUNDING else 0.0)


def _distinct(low: Array, high: Array, stride: float) -> bool:
    """Whether the centres of each position are the same, or lie apart from those of the next."""
    if (high - low).max() <= ROUNDING:
        return True
    if len(low) == 1:
        return bool(high[0] - low[0] < abs(stride) - ROUNDING)
    return bool((low[1:] - high[:-1] > ROUNDING).all() or (low[:-1] - high[1:] > ROUNDING).all())


def _disagreement(centres: Array, names: list[str]) -> str:
    """Where the branches lie farthest apart."""
    q = int(np.argmax(np.nan_to_num(np.fmax.reduce(centres) - np.fmin.reduce(centres))))
    a, b = int(np.nanargmin(centres[:, q])), int(np.nanargmax(centres[:, q]))
    return (
        f"its branches look at different places: at position {q}, '{names[a]}' at pixel {centres[a, q]:g} and "
        f"'{names[b]}' at {centres[b, q]:g}"
    )


def _cells(geometry: Geometry) -> tuple[str, ...]:
    """Stride, first centre, field and remark, for people; "–" along an axis without a place."""
    axes = geometry.axes
    strides = (f"{axis.stride:g}" if axis.regular else f"≈{axis.stride:.3g}" if axis.placed else "–" for axis in axes)
    offsets = ("–" if axis.offset is None else f"{axis.offset:g}" for axis in axes)
    losses = {axis.loss.node: str(axis.loss) for axis in axes if axis.loss}
    remarks = [why if name == geometry.node else f"no place from '{name}' on" for name, why in losses.items()]
    slack = max((axis.slack for axis in axes if axis.placed), default=0.0)
    remarks += [f"branches within ±{slack:g}"] * (slack > 0)
    cells = (" × ".join(strides), f"({', '.join(offsets)})", " × ".join(str(axis.extent) for axis in axes))
    return *cells, "; ".join(remarks)
