"""The whole method in one call: Algorithm 1 from the model to the attribution map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dmbp.errors import DmbpError
from dmbp.files import whole
from dmbp.learning.learn import Callback, learn_masks
from dmbp.masks import Masks, Sites
from dmbp.split import PARTS, Split, decompose
from linreg import OperatorGraph, trace
from linreg.target import Target, cotangent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Result:
    """An explanation: the exact split of the score, the masks that make it, and the maps.

    `masks` and `initial` (those of B.1) map sites to σ (N, *shape). `history` holds "positive", "negative" and
    "nuisance", each (iterations + 1, N): the split at the start, and after each update. `iterations` counts the
    updates, and `updates` (N,) those of each image; `seconds` is the time they took; `interrupted` tells whether Ctrl-C
    ended them early. `snapshots` holds the attribution as it was after so many updates.
    """

    split: Split
    masks: dict[str, Tensor]
    initial: dict[str, Tensor]
    history: dict[str, Tensor]
    loss: str
    iterations: int
    updates: Tensor
    interrupted: bool
    seconds: float
    snapshots: dict[int, Tensor]

    def __repr__(self) -> str:
        return (
            f"Result(loss={self.loss!r}, iterations={self.iterations}, interrupted={self.interrupted}, {self.split!r})"
        )

    @property
    def input(self) -> Tensor:
        """x, (N, *input shape)."""
        return self.split.lin.input

    @property
    def positive(self) -> Tensor:
        """∇⁺ ⊙ x, shaped like x."""
        return self.split.attribution("positive")

    @property
    def negative(self) -> Tensor:
        """∇⁻ ⊙ x, shaped like x."""
        return self.split.attribution("negative")

    @property
    def attribution(self) -> Tensor:
        """a(x) = ∇⁺ ⊙ x + ∇⁻ ⊙ x, shaped like x (Eq. 7); with loss "none" it is c ⊙ x (Eq. 5).

        To draw or rank pixels, sum over the channels, and never take the absolute value first.
        """
        if self.loss == "none":  # nothing was set aside as nuisance: what no mask touches belongs to the map
            return self.split.lin.ledger(self.split.target).input
        return _attribution(self.split)

    def plot(self, image: int = 0, **options: Any) -> Figure:
        """The figure of one image of the batch; `dmbp.plot.draw_explanation` says what it shows and takes."""
        from dmbp.plot.explanation_picture import draw_explanation

        return draw_explanation(self, image, **options)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was computed, as NumPy arrays: x, maps, mappings, scores, ledgers' totals, masks, options."""
        split = self.split
        found: dict[str, Any] = {"input": self.input, "attribution": self.attribution, "y": split.y}
        for part in PARTS:
            ledger = split.ledger(part)
            found |= {part: getattr(split, part), f"{part}_attribution": ledger.input}
            found |= {f"{part}_mapping": ledger.weight, f"{part}_input_share": ledger.input_share}
            found[f"{part}_ledger"] = torch.stack([split.y, *(term.total for term in ledger.terms)])[1:]
        found |= {f"history_{part}": values for part, values in self.history.items()}
        found |= {f"snapshot/{count}": value for count, value in self.snapshots.items()} | {"updates": self.updates}
        found |= {f"mask/{site}": mask for site, mask in self.masks.items()}
        found |= {f"initial_mask/{site}": mask for site, mask in self.initial.items()}
        arrays = {name: value.detach().cpu().numpy() for name, value in found.items()}
        arrays |= {"target": cotangent(split.target, split.lin.output).numpy(force=True)}
        arrays |= {"loss": np.array(self.loss), "unmasked_goes_to": np.array(split.counting)}
        return arrays | {"ledger_terms": np.array([term.name for term in split.ledger("positive").terms])}

    def save(self, path: str | Path) -> Path:
        """Write `arrays()` to a compressed .npz file, whole or not at all, and return its path."""
        path = Path(path)
        path = path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")
        arrays = self.arrays()
        with whole(path) as partial:
            np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
        return path


@torch.inference_mode(False)
def explain(
    model: nn.Module | OperatorGraph,
    x: Tensor,
    target: Target = None,
    *,
    iterations: int = 200,
    loss: str = "all",
    sites: Sites = "gates",
    unmasked: str = "nuisance",
    lr: float = 0.01,
    tolerance: float | None = None,
    snapshots: Sequence[int] = (),
    start: Masks | None = None,
    precision: str = "full",
    compiled: bool | None = None,
    progress: bool = True,
    callback: Callback | None = None,
) -> Result:
    """Disentangled Masked Backpropagation of a batch x (N, …) of independent images (Algorithm 1).

    `model` is any piecewise-linear module, left as it is, or a graph traced from one; `target` the class of all
    images, one class for each, or weights of the outputs (see `linreg.target.cotangent`). `loss` is Eq. 10 ("all"), one
    of its ablations ("+-", "+") or Eq. 5 without masks ("none"); `sites` and `unmasked` are told in `find_sites` and
    `decompose`; `lr` (the learning rate), `tolerance`, `precision`, `compiled`, `progress` and `callback` in
    `learn_masks`; `snapshots` names numbers of updates after which the map is kept. `start` gives masks to go on from
    instead of B.1's (the optimiser's own state starts afresh). Ctrl-C ends the learning and keeps what was reached.

    Raises LinregError, before the learning starts: DmbpError, which is one, for its own arguments, others for a model
    that is not piecewise linear, an x that does not fit it, and a target that does not fit the output.
    """
    wanted = _snapshots(snapshots, iterations)
    x = x.clone() if isinstance(x, Tensor) and x.is_inference() else x
    graph = model if isinstance(model, OperatorGraph) else trace(model, x)
    lin = graph.linearize(x)
    kept: dict[int, Tensor] = {}

    def watch(iteration: int, scores: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> None:
        if iteration in wanted:
            masks = {site: theta.sigmoid() for site, theta in logits.items()}
            kept[iteration] = _attribution(decompose(lin, masks, target, unmasked))
        if callback is not None:
            callback(iteration, scores, logits)

    learned = learn_masks(
        lin, target, iterations=iterations, loss=loss, sites=sites, unmasked=unmasked, lr=lr, tolerance=tolerance,
        start=start, precision=precision, compiled=compiled, progress=progress,
        callback=watch if wanted or callback is not None else None,
    )  # fmt: skip
    split = decompose(lin, learned.masks, target, unmasked)
    if learned.iterations in wanted:
        kept[learned.iterations] = _attribution(split)
    last = {"positive": split.positive, "negative": split.negative, "nuisance": split.nuisance}
    history = {part: torch.cat([steps, last[part][None]]) for part, steps in learned.history.items()}
    return Result(
        split, learned.masks, learned.initial, history, loss, learned.iterations, learned.updates, learned.interrupted,
        learned.seconds, kept,
    )  # fmt: skip


def _attribution(split: Split) -> Tensor:
    return split.attribution("positive") + split.attribution("negative")


def _snapshots(snapshots: Sequence[int], iterations: int) -> frozenset[int]:
    """The numbers of updates after which to keep a map; raises DmbpError for one that is never reached."""
    for count in snapshots:
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= iterations:
            raise DmbpError(f"snapshots must be numbers of updates, 0 to {iterations}, not {count!r}")
    return frozenset(snapshots)
