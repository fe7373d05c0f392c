"""The ledger: every term that adds up to a score.

Indices: n image, k constant (one term), c channel. Terms stand in the order of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.inputs import INPUT, Inputs
from linreg.target import check_image, sum_per_image
from linreg.text import counted, html_table, numbers, signed, table

if TYPE_CHECKING:  # a ledger knows where its terms lie, and makes a map of them
    from linreg.geometry import Geometry

Row = tuple[str, str, float]
HEADER = ("term", "kind", "share of y")
LARGEST = 12  # rows in a notebook
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Term:
    """g_k ⊙ β_k of one constant at one node: `values` (N, *shape of the constant), in units of the score.

    `kind` is that of the constant. `at_output` says that no gate follows, as with the output's bias: its share is the
    same at every input. `spread` computes g ⊙ β before its sum over the positions that share β. `places` is the share
    of each position that has a place on the picture, (N, *positions), channels summed; None where there is no place.
    A constant of each image, a gate's offset, has a share as large as the node: `own` is None, `whole` its sum, (N,),
    and `values` are computed when they are asked for. Of a network of several inputs `views` has what `places` has for
    each of them on which there is a place, by name. `layout` tells which dimension of the node holds its channels, or
    None where the graph does not tell (`linreg.channels`).
    """

    node: str
    name: str
    kind: str
    own: Tensor | None
    at_output: bool = False
    spread: Callable[[], Tensor] | None = None
    places: Tensor | None = None
    whole: Tensor | None = None
    views: Mapping[str, Tensor] = field(default_factory=dict)
    layout: Callable[[], int | None] | None = None

    def __repr__(self) -> str:
        return f"Term({self.name!r}, {self.kind} at {self.node!r}: {numbers(self.total.tolist())})"

    @property
    def total(self) -> Tensor:
        """The constant's share of y, (N,)."""
        return sum_per_image(self.values) if self.whole is None else self.whole

    @property
    def values(self) -> Tensor:
        """g ⊙ β, summed over the positions that share β: (N, *shape of the constant)."""
        return self.elements if self.own is None else self.own

    @property
    def channel_dim(self) -> int:
        """The dimension of the channels: the only one along which the constant varies, or what the graph tells.

        A constant that varies along several, such as a gate's offset, has its channels where the layers around its node
        have them. Raises LinregError where these do not tell.
        """
        if self.own is not None and len(self._varying) == 1:
            return self._varying[0]
        dim = 1 if self.values.dim() <= 2 and len(self._varying) == 1 else self.layout and self.layout()
        if dim is None:
            shape = ", ".join(map(str, ("N", *self.values.shape[1:])))
            raise LinregError(
                f"which dimension of '{self.node}' ({shape}) holds channels is not known: no layer around it tells; "
                f"ledger[{self.name!r}].along(dim) sums over all others"
            )
        return dim

    @property
    def channels(self) -> Tensor:
        """The share of each channel, (N, C); C = 1 where one number serves them all. Raises as `channel_dim`."""
        if not self._varying:
            return self.values.reshape(len(self.values), 1)
        return _along(self.values, self.channel_dim)

    def along(self, dim: int) -> Tensor:
        """The share of each position along one dimension of the node, counted with the batch first: (N, size).

        Raises LinregError where the node has no such dimension.
        """
        if dim not in range(1, self.elements.dim()):
            raise LinregError(
                f"'{self.node}' has the dimensions 1 to {self.elements.dim() - 1} beside the batch, not {dim}"
            )
        return _along(self.elements, dim)

    @cached_property
    def elements(self) -> Tensor:
        """g ⊙ β at each element of the node, (N, *shape of the node): what `values` sums over positions.

        Computed when asked for, by one sweep back to the node. Raises LinregError for a term without its graph.
        """
        if self.spread is None:
            raise LinregError(f"the term '{self.name}' was made without a graph: it has no elements")
        return self.spread()

    @property
    def positions(self) -> Tensor:
        """The share of each position, (N, *positions): `elements` summed over the channels. Raises as `channel_dim`."""
        return self.elements.sum(self.channel_dim) if self.elements.dim() > 1 else self.elements

    @property
    def _varying(self) -> list[int]:
        return [dim for dim in range(1, self.values.dim()) if self.values.shape[dim] > 1]


def _along(value: Tensor, dim: int) -> Tensor:
    """Σ over all dimensions but the batch and one, (N, size)."""
    return value.movedim(dim, 1).flatten(2).sum(-1) if value.dim() > 2 else value


@dataclass(frozen=True, eq=False)
class Ledger:
    """y = c·x + Σ_k terms_k: `weight` c and `x`, both (N, *input_shape), and one term for each constant (Eq. 13).

    Of a network of several inputs both are rows of them all, and `by_input` tells of each; `inputs` has their names.

    >>> import torch, linreg
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
    >>> lin.ledger()
    Ledger(2 terms: bias;
           total = 13.50; c · x = 3.000; constants = 10.50)
    >>> lin.ledger()["0.bias"].channels  # of the two hidden units only the first is open
    tensor([[0.5000, 0.0000]])
    """

    weight: Tensor
    x: Tensor
    terms: tuple[Term, ...]
    geometries: Mapping[str, Geometry] = field(default_factory=dict)
    inputs: Inputs | None = None
    views: Mapping[str, Mapping[str, Geometry]] = field(default_factory=dict)

    def __repr__(self) -> str:
        wholes = {"total": self.total, "c · x": self.input_share, "constants": self.bias_share}
        parts = "; ".join(f"{name} = {numbers(whole.tolist())}" for name, whole in wholes.items())
        kinds = ", ".join(self.by_kind()) or "no constants"
        return f"Ledger({counted(len(self.terms), 'term')}: {kinds};\n       {parts})"

    def _repr_html_(self) -> str:
        """The first image: its totals, and the largest rows."""
        rows = self.rows(sort=True)
        small = sum(value for *_, value in rows[LARGEST:])
        rest = [(f"… {counted(len(rows) - LARGEST, 'other term')}", "", small)] if len(rows) > LARGEST else []
        below = f"Image 0 of {len(self.x)}: summary(image) tells all." if len(self.x) > 1 else ""
        return html_table(_cells([*rows[:LARGEST], *rest, *self._totals(0)]), HEADER, right=(2,), below=below)

    @property
    def input(self) -> Tensor:
        """c ⊙ x: the input's elementwise shares of y (Eq. 5)."""
        return self.weight * self.x

    @property
    def input_share(self) -> Tensor:
        """c·x, (N,)."""
        return sum_per_image(self.input)

    @property
    def bias_share(self) -> Tensor:
        """Σ_k g_k·β_k, (N,)."""
        return sum((term.total for term in self.terms), self.input_share * 0)

    @property
    def output_share(self) -> Tensor:
        """What the constants after the last gate give, (N,): a part of `bias_share`."""
        return sum((term.total for term in self.terms if term.at_output), self.input_share * 0)

    @property
    def total(self) -> Tensor:
        """What the ledger sums to, (N,): y, to rounding."""
        return self.input_share + self.bias_share

    @cached_property
    def magnitude(self) -> Tensor:
        """Σ|terms|, (N,): the scale of the rounding errors in `total`."""
        inputs = sum_per_image(self.input.abs())
        return sum((sum_per_image(term.values.abs()) for term in self.terms), inputs)

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each term: that of its constant, with its node where a constant is read at several."""
        names = [term.name for term in self.terms]
        return tuple(t.name if names.count(t.name) == 1 else f"{t.name} at {t.node}" for t in self.terms)

    def __getitem__(self, label: str) -> Term:
        """The term of that label. Raises LinregError, with the near ones, where there is none."""
        found = dict(zip(self.labels, self.terms, strict=True))
        if label not in found:
            near = get_close_matches(label, found, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(map(repr, near))}?" if near else "`labels` lists them"
            raise LinregError(f"the ledger has no term '{label}'; {hint}")
        return found[label]

    def __sub__(self, other: Ledger) -> Ledger:
        """Term by term, of two ledgers of one graph: those of y⁺ are those of P(σ) less those of u."""
        terms = tuple(_difference(a, b) for a, b in zip(self.terms, other.terms, strict=True))
        return replace(self, weight=self.weight - other.weight, terms=terms)

    def complete(self) -> Any:  # CompleteMap, or CompleteMaps
        """Every term at its place on the picture: a map that sums to y, but for what has no place (Eq. 14).

        See `linreg.complete`; several inputs have a map each. Nothing is computed but the spreading: the shares by
        position are part of the ledger.
        """
        from linreg.complete import complete_map, complete_maps

        return complete_maps(self) if self.inputs is not None and self.inputs.several else complete_map(self)

    @property
    def sources(self) -> int:
        """How many rows are of inputs, before those of constants."""
        return len(self.inputs.data) if self.inputs is not None else 1

    def by_input(self) -> dict[str, Tensor]:
        """c ⊙ x of each input by its name, (N, *shape): `input`, taken apart where they are several (Eq. 5)."""
        return {INPUT: self.input} if self.inputs is None else self.inputs.by_name(self.input)

    def by_node(self) -> dict[str, Tensor]:
        """The share of each node's constants together, (N,)."""
        return self._grouped(term.node for term in self.terms)

    def by_module(self, depth: int = 1) -> dict[str, Tensor]:
        """The same for the modules of the first `depth` levels ("layer1.0" has depth 2), (N,)."""
        return self._grouped(module(term.node, depth) for term in self.terms)

    def by_kind(self) -> dict[str, Tensor]:
        """The share of all biases, batch norm shifts, gate offsets, pads and other constants that there are, (N,)."""
        return self._grouped(term.kind for term in self.terms)

    def by_channel(self) -> dict[str, Tensor]:
        """The shares of each term's channels, (N, C), by its label. Raises LinregError where one's are not known."""
        return {label: term.channels for label, term in zip(self.labels, self.terms, strict=True)}

    def rows(self, image: int = 0, sort: bool = False) -> list[Row]:
        """(term, kind, share of y) of one image, from the input through every constant in the order of the graph.

        With `sort`, by falling absolute share. Raises LinregError where the batch has no such image.
        """
        check_image(image, len(self.x))
        shares = [(label, t.kind, t.total[image].item()) for label, t in zip(self.labels, self.terms, strict=True)]
        several = self.inputs is not None and self.inputs.several
        own = {f"c · {name}": sum_per_image(share) for name, share in self.by_input().items()}
        inputs = own if several else {"c · x": self.input_share}
        rows = [*((name, "input", share[image].item()) for name, share in inputs.items()), *shares]
        return sorted(rows, key=lambda row: -abs(row[2])) if sort else rows

    def summary(self, image: int = 0, sort: bool = False) -> str:
        """The ledger of one image as a table, with the totals of each kind, of the output's bias, and of all."""
        return table(_cells([*self.rows(image, sort), *self._totals(image)]), HEADER, right=(2,))

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Arrays, for `numpy.savez` too: names, nodes and kinds of the K terms, `share` (N, K), and what is not a term.

        `weight` and `x` are shaped like the input; `input_share`, `bias_share`, `output_share`, `total` are (N,).
        """
        wholes = ("weight", "x", "input_share", "bias_share", "output_share", "total")
        arrays = {name: getattr(self, name).numpy(force=True) for name in wholes}
        share = torch.stack([self.total, *(term.total for term in self.terms)], 1)[:, 1:]
        texts = {"term": self.labels, "node": [t.node for t in self.terms], "kind": [t.kind for t in self.terms]}
        return arrays | {"share": share.numpy(force=True)} | {name: np.array(t, str) for name, t in texts.items()}

    def to_dict(self, image: int = 0) -> dict[str, Any]:
        """One image's ledger in lists, numbers and names, ready for `json.dumps`: its totals, by kind and by term.

        The first term is c · x, as in `rows`, or one for each input, so that the shares of `terms` sum to `total`.
        Raises LinregError where the batch has no such image.
        """
        wholes = ("input_share", "bias_share", "output_share", "total")
        sources = [INPUT] if self.inputs is None else self.inputs.nodes.values()
        nodes = [*((name, False) for name in sources), *((term.node, term.at_output) for term in self.terms)]
        terms = [
            {"term": label, "node": node, "kind": kind, "at_output": at_output, "share": value}
            for (label, kind, value), (node, at_output) in zip(self.rows(image), nodes, strict=True)
        ]
        kinds = {kind: total[image].item() for kind, total in self.by_kind().items()}
        return {name: getattr(self, name)[image].item() for name in wholes} | {"by_kind": kinds, "terms": terms}

    def _totals(self, image: int) -> list[Row]:
        totals = {f"all of {kind}": total for kind, total in self.by_kind().items()}
        totals |= {"after the last gate": self.output_share, "total": self.total}
        return [(name, "", total[image].item()) for name, total in totals.items()]

    def _grouped(self, keys: Iterable[Key]) -> dict[Key, Tensor]:
        groups: dict[Key, Tensor] = {}
        for key, term in zip(keys, self.terms, strict=True):
            groups[key] = groups[key] + term.total if key in groups else term.total
        return groups


def _cells(rows: Iterable[Row]) -> list[tuple[str, str, str]]:
    return [(name, kind, signed(value)) for name, kind, value in rows]


def _elements_apart(a: Term, b: Term) -> Tensor:
    return a.elements - b.elements


def _difference(a: Term, b: Term) -> Term:
    places = None if a.places is None or b.places is None else a.places - b.places
    own = None if a.own is None or b.own is None else a.own - b.own
    whole = a.total - b.total if own is None else None
    views = {name: share - b.views[name] for name, share in a.views.items()}
    return replace(a, own=own, spread=partial(_elements_apart, a, b), places=places, whole=whole, views=views)


def module(node: str, depth: int) -> str:
    """The first `depth` levels of a node's path: "layer1.0" of "layer1.0.conv1" at 2."""
    return ".".join(node.split(".")[:depth])
