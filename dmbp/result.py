"""What an explanation is: the split, the masks that make it, and the maps; saved to a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dmbp.files import whole
from dmbp.learning.options import Options
from dmbp.split import PARTS, Split
from linreg.target import cotangent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Result:
    """An explanation: the exact split of the score, the masks that make it, and the maps.

    `masks` and `initial` (those of B.1) map sites to σ (N, *shape). `history` holds "positive", "negative" and
    "nuisance", each (iterations + 1, N): the split at the start, and after each update. `iterations` counts the
    updates, and `updates` (N,) those of each image; `seconds` is the time they took; `interrupted` tells whether Ctrl-C
    ended them early. `snapshots` holds the attribution as it was after so many updates. `options` are those it was
    made with, None where nobody knows them; `loss` is the name of theirs.
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
    options: Options | None = None

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
        return attribution(self.split)

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


def attribution(split: Split) -> Tensor:
    """a(x) = ∇⁺ ⊙ x + ∇⁻ ⊙ x, shaped like x (Eq. 7)."""
    return split.attribution("positive") + split.attribution("negative")
