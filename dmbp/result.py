"""What an explanation is: the split, the masks that make it, and the maps; printed, drawn, and saved to a file."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dmbp.account import LINES, Account, Checks, Shares, and_more, as_html, as_sum, as_table, elementwise
from dmbp.errors import DmbpError
from dmbp.files import whole
from dmbp.learning.options import Options
from dmbp.learning.settling import map_rows
from dmbp.rank_correlation import spearman
from dmbp.split import Split, decompose
from dmbp.verdict import Verdict, judge
from linreg.inputs import INPUT
from linreg.text import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERRORS = ("completeness_error", "completeness_bound", "split_error")
FORMAT = 1  # of the files that `Result.save` writes; `dmbp.load` reads it and those before
SCREEN = 80  # dots per inch of the figure in a notebook


@dataclass(frozen=True, eq=False)
class Result:
    """An explanation: the exact split of the score, the masks that make it, and the maps.

    `account` tells y, its parts, and where they come from: the `Split` itself, or what a file recorded of one
    (`dmbp.load`), which prints and draws the same. `masks` and `initial` (those of B.1) map sites to σ (N, *shape).
    `history` holds "positive", "negative" and "nuisance", each (iterations + 1, N): the split at the start, and after
    each update. `iterations` counts the updates, and `updates` (N,) those of each image; `seconds` is the time they
    took; `interrupted` tells whether Ctrl-C ended them early. `snapshots` holds the attribution as it was after so many
    updates. `options` are those it was made with; `loss` is the name of theirs. `late` are the masks of 20 updates
    before the last, which `settled` is computed from, none where there were too few; or `settled` as a file has it.

    >>> import dmbp
    >>> from dmbp.datasets import sample_pairs
    >>> from dmbp.models import load_model
    >>> result = dmbp.explain(load_model("digit-pairs").network, sample_pairs().images[:1], 3, iterations=2)
    >>> result.attribution.shape, list(result.scores), len(result.masks)
    (torch.Size([1, 1, 64, 64]), ['y', 'positive', 'negative', 'nuisance', 'unmasked'], 11)
    >>> dmbp.load(result.save("three.npz")).summary() == result.summary()
    True
    """

    account: Account
    masks: dict[str, Tensor]
    initial: dict[str, Tensor]
    history: dict[str, Tensor]
    loss: str
    iterations: int
    updates: Tensor
    interrupted: bool
    seconds: float
    snapshots: dict[int, Any]
    options: Options
    late: dict[str, Tensor] | Tensor

    def __repr__(self) -> str:
        """How it was made, and the sum of the first image, in two lines."""
        images = len(self.input)
        shape = " and ".join("×".join(map(str, entry.shape)) for entry in self.account.layout.data)
        after = "interrupted after " if self.interrupted else ""
        made = f"{after}{counted(self.iterations, 'iteration')} in {self.seconds:.1f} s"
        first = as_sum(self.account, 0) + and_more(self.account, 1)
        return f"Result(loss {self.loss!r}, {made}, {counted(images, 'image')} of {shape};\n       {first})"

    def _repr_html_(self) -> str:
        picture = self._repr_png_()
        table = as_html(self.account)
        return table if picture is None else f'{table}\n<img src="data:image/png;base64,{b64encode(picture).decode()}">'

    def _repr_png_(self) -> bytes | None:
        return self._png

    def summary(self, image: int = 0) -> str:
        """The table that `dmbp explain` prints of one image; `Split.summary` says what is in it."""
        return as_table(self.account, image)

    @property
    def split(self) -> Split:
        """The split itself, with its network: its ledgers, matrices and what `dmbp.analysis` asks it for.

        Raises DmbpError where the result was read from a file, which holds no network.
        """
        if isinstance(self.account, Split):
            return self.account
        raise DmbpError(
            "this result was read from a file, which holds its numbers and not its network, so there is no split: "
            "result.scores, .shares, .masks and the maps are there, and with the network "
            "dmbp.decompose(graph.linearize(result.input), result.masks, result.target, result.counting) makes one"
        )

    @property
    def input(self) -> Tensor:
        """x, (N, *input shape); several inputs in a row."""
        return self.account.input

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the network was given, by name: its data, (N, *shape) each, and what was held fixed."""
        return {**self.account.layout.by_name(self.input), **self.account.fixed}

    @property
    def target(self) -> Tensor:
        """w of Eq. 1, (N, *output shape): y weighs the output by it."""
        return self.account.weights

    @property
    def counting(self) -> str:
        """Where u = P(0) is counted, "nuisance" or "both" (see `decompose`)."""
        return self.account.counting

    @property
    def scores(self) -> Mapping[str, Tensor]:
        """The split, {"y", "positive", "negative", "nuisance", "unmasked": (N,)}."""
        return self.account.scores

    @property
    def shares(self) -> Mapping[str, Shares]:
        """Where y and each of its parts come from: their mappings ∇, and what the input and each constant give."""
        return self.account.shares

    @property
    def checks(self) -> Checks:
        """How exactly all of it holds, from a certificate and a recurrence; computed when first asked for."""
        return self.account.checks

    @cached_property
    def settled(self) -> Tensor:
        """Spearman's ρ of the complete map with that of 20 updates before, (N,) float64: near 1 it has come to rest.

        NaN where that is not known: there were fewer than 10 updates, or a file of an older version says nothing.
        """
        if isinstance(self.late, Tensor):
            return self.late
        if not self.late:
            return torch.full((len(self.input),), torch.nan, dtype=torch.float64)
        before = decompose(self.split.lin, self.late, self.split.target, self.counting)
        return spearman(map_rows(before), map_rows(self.split))

    def verdict(self, image: int = 0, **options: Any) -> Verdict:
        """Whether the maps of one image are to be believed; `dmbp.verdict.judge` says how, and what it takes."""
        return judge(self, image, **options)

    @property
    def positive(self) -> Any:
        """∇⁺ ⊙ x, shaped like x; of several inputs {name: ∇⁺ ⊙ x}."""
        return elementwise(self.account, "positive")

    @property
    def negative(self) -> Any:
        """∇⁻ ⊙ x, shaped like x; of several inputs {name: ∇⁻ ⊙ x}."""
        return elementwise(self.account, "negative")

    @property
    def attribution(self) -> Any:
        """a(x) = ∇⁺ ⊙ x + ∇⁻ ⊙ x, shaped like x (Eq. 7); with loss "none" it is c ⊙ x (Eq. 5).

        Of several inputs {name: a}; they sum to the same y⁺ + y⁻ together, with the bias terms.
        To draw or rank pixels, sum over the channels, and never take the absolute value first.
        """
        if self.loss == "none":  # nothing was set aside as nuisance: what no mask touches belongs to the map
            return elementwise(self.account, "y")
        return attribution(self.account)

    @property
    def complete(self) -> Any:
        """The complete map, (N, *picture): with each term of y⁺ + y⁻ that has a place on the picture at its place.

        By Eq. 14 a part is y⁺ = ∇⁺·x + Σ_k g_k·β_k, and `attribution` shows ∇⁺ ⊙ x, what comes straight from pixels.
        The constants β_k, biases and what acts like them, have places too: β of a layer acts at each of its positions
        q, where it gives Σ_channels (g ⊙ β)[q], and each q lies over the pixels around its centre. So

            complete = Σ_channels (∇⁺ ⊙ x + ∇⁻ ⊙ x) + Σ_layers (shares of positions, spread over their pixels),

        and what it sums to, with `shares[part].rest` that has no place (a bias behind the last pool), is y⁺ + y⁻. With
        loss "none" it is that of y. `shares[part].complete` has the parts; `split.complete(part)` tells it by layer. Of
        several inputs {name: map}.
        """
        if self.loss == "none":
            return self.shares["y"].complete
        positive, negative = (self.shares[part].complete for part in ("positive", "negative"))
        if isinstance(positive, Mapping):
            return {name: positive[name] + negative[name] for name in positive}
        return positive + negative

    def plot(self, image: int = 0, **options: Any) -> Figure:
        """The figure of one image of the batch; `dmbp.plot.draw_explanation` says what it shows and takes."""
        from dmbp.plot.explanation_picture import draw_explanation

        return draw_explanation(self, image, **options)

    def to_html(self, path: str | Path, image: int = 0, **options: Any) -> Path:
        """Write the explorer of one image of the batch: one HTML file that opens from disk; returns its path.

        `dmbp.explorer.write_page` says what it takes. With snapshots (`explain(…, snapshots=(0, 20, 50, 100))`) the
        page shows the map on its way too. Raises DmbpError where the file cannot be written.
        """
        from dmbp.explorer import write_page

        return write_page(self, path, image, **options)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is known, as NumPy arrays: x, maps, mappings, scores, shares of all constants, masks, options.

        Of several inputs each has its own, "attribution/image"; what was held fixed is "fixed/lengths". They may share
        the result's memory: copy what you change.
        """
        found: dict[str, Any] = {name: getattr(self.checks, name) for name in ERRORS}
        for line in LINES:
            shares = self.shares[line]
            found |= {line: self.scores[line], f"{line}_input_share": shares.input_share}
            found[f"{line}_ledger"] = shares.terms
        found |= {f"history_{part}": values for part, values in self.history.items()}
        found |= self._maps() | {"target": self.target, "updates": self.updates}
        found |= {f"fixed/{name}": value for name, value in self.account.fixed.items()}
        found |= {f"mask/{site}": mask for site, mask in self.masks.items()}
        found |= {f"initial_mask/{site}": mask for site, mask in self.initial.items()}
        arrays = {name: value.numpy(force=True) for name, value in found.items()}
        texts = {"ledger_terms": self.shares["y"].labels, "certificate": self.checks.certificate}
        texts |= {"unplaced_terms": self.shares["y"].unplaced, "inputs": tuple(self.account.layout)}
        if texts["inputs"] == (INPUT,):
            del texts["inputs"]
        arrays |= self._for_the_verdict()
        arrays |= {name: np.array(text, str) for name, text in texts.items()}
        made = {"loss": self.loss, "unmasked_goes_to": self.counting, "iterations": self.iterations}
        made |= {"interrupted": self.interrupted, "seconds": self.seconds, "options": json.dumps(self.options.record())}
        return arrays | {name: np.array(value) for name, value in made.items()} | {"dmbp_result": np.array(FORMAT)}

    def _for_the_verdict(self) -> dict[str, np.ndarray]:
        """What `verdict` needs beyond the rest; of a file of an older version there may be none."""
        known = {"output": self.account.output, "doubtful": self.checks.doubtful}
        known["settled"] = None if self.settled.isnan().all() else self.settled
        found = {name: value.numpy(force=True) for name, value in known.items() if value is not None}
        return found if self.checks.gates is None else found | {"gates": np.array(self.checks.gates)}

    def _maps(self) -> dict[str, Tensor]:
        """x and all that is shaped like it, by name; of several inputs as "attribution/image"."""
        layout = self.account.layout
        maps = {"input": layout.parted(self.input), "attribution": self.attribution, "complete": self.complete}
        for line in LINES:
            shares = self.shares[line]
            maps |= {f"{line}_mapping": layout.parted(shares.mapping), f"{line}_complete": shares.complete}
            maps[f"{line}_attribution"] = elementwise(self.account, line)
        return by_input(maps | {f"snapshot/{count}": value for count, value in self.snapshots.items()})

    def save(self, path: str | Path) -> Path:
        """Write `arrays()` to a compressed .npz file, whole or not at all, and return its path; `dmbp.load` reads it.

        Raises DmbpError where the file cannot be written.
        """
        return write_arrays(self.arrays(), npz(path))

    @cached_property
    def _png(self) -> bytes | None:
        """The figure of the first image; None where no input can be drawn."""
        from linreg.plot.style import own_settings

        try:
            figure = self.plot()
        except DmbpError:
            return None
        file = BytesIO()
        with own_settings():
            figure.savefig(file, format="png", dpi=SCREEN)
        return file.getvalue()


def write_arrays(arrays: Mapping[str, np.ndarray], path: Path, check: Callable[[Path], None] | None = None) -> Path:
    """Write arrays to a compressed .npz file as `dmbp.files.whole` does, and return its path."""
    with whole(path, check) as partial:
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
    return path


def npz(path: str | Path) -> Path:
    """The path of a saved result: with .npz at its end, whether it was written or not."""
    path = Path(path)
    return path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")


def attribution(split: Account) -> Any:
    """a(x) = ∇⁺ ⊙ x + ∇⁻ ⊙ x, shaped like x (Eq. 7); of several inputs {name: a}."""
    return elementwise(split, "positive", "negative")


def by_input(maps: Mapping[str, Any]) -> dict[str, Tensor]:
    """Maps by their names; those of several inputs as "map/input"."""
    found: dict[str, Tensor] = {}
    for name, value in maps.items():
        found |= {f"{name}/{of}": part for of, part in value.items()} if isinstance(value, Mapping) else {name: value}
    return found
