"""What a split comes to, as people read it: in two lines, as a table, in a notebook.

The table has a line for y and for each part, with what of it comes from the input and what from constants, and tells
how exactly all of it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from dmbp.errors import DmbpError
from linreg import target
from linreg.errors import LinregError
from linreg.inputs import Inputs
from linreg.text import counted, decimals, html_table, number, table

PARTS = ("positive", "negative", "nuisance", "unmasked")
LINES = ("y", *PARTS)
SYMBOLS = {"y": "y", "positive": "y⁺", "negative": "y⁻", "nuisance": "y~"}
HOLDS_UNMASKED = {"nuisance": "y~", "both": "y⁺ and in y⁻"}  # by where u is counted
HEADER = ("", "score", "from the input", "from bias terms")


@dataclass(frozen=True, eq=False)
class Shares:
    """Where a score comes from: its `mapping` ∇ (N, *input shape), ∇·x (N,), and the shares of all constants (K, N).

    score = ∇·x + Σ_k terms_k, to rounding (Eqs. 13, 14); `labels` are the names of the K constants. `complete` is the
    complete map (N, *picture), all that has a place (see `linreg.complete`); `unplaced` says which constants have none.
    Of several inputs `mapping` is a row of those of all, and `complete` has their maps by name.
    """

    mapping: Tensor
    labels: tuple[str, ...]
    input_share: Tensor
    terms: Tensor
    complete: Any
    unplaced: tuple[str, ...]

    @property
    def bias_share(self) -> Tensor:
        """What all constants give, (N,)."""
        return sum(self.terms, self.input_share * 0)

    @property
    def rest(self) -> dict[str, Tensor]:
        """What has no place on the picture, by label, each (N,): `complete` lacks it."""
        found = dict(zip(self.labels, self.terms, strict=True))
        return {label: found[label] for label in self.unplaced}


@dataclass(frozen=True, eq=False)
class Checks:
    """How exactly the identities hold, of each image.

    `completeness_error` |y − c·x − Σ ledger| and what rounding alone can make it, `completeness_bound`; `split_error`
    |y⁺ + y⁻ + y~ − y|, with y~ from its own recurrence; all (N,). `certificate` has the words of `linreg.Certificate`.
    `doubtful` (N,) counts those of all `gates` that rounding may have turned; None in files of older versions.
    """

    completeness_error: Tensor
    completeness_bound: Tensor
    split_error: Tensor
    certificate: tuple[str, ...]
    doubtful: Tensor | None = None
    gates: int | None = None


class Account(Protocol):
    """What the table and the picture of a split are made of: a `Split` computes it, a `Record` was read from a file."""

    @property
    def input(self) -> Tensor:
        """x, (N, *input shape); several inputs in a row."""

    @property
    def layout(self) -> Inputs:
        """The inputs that x holds."""

    @property
    def fixed(self) -> Mapping[str, Tensor]:
        """What was held fixed, by name."""

    @property
    def weights(self) -> Tensor:
        """w of Eq. 1, (N, *output shape): y weighs the output by it."""

    @property
    def output(self) -> Tensor | None:
        """All scores of the network, (N, *output shape); None in files of older versions."""

    @property
    def counting(self) -> str:
        """Where u is counted: in y~, "nuisance", or in y⁺ and y⁻, "both"."""

    @property
    def scores(self) -> Mapping[str, Tensor]:
        """y and its parts, {name of LINES: (N,)}."""

    @property
    def shares(self) -> Mapping[str, Shares]:
        """Where each of them comes from."""

    @property
    def checks(self) -> Checks:
        """How exactly it all adds up."""


def elementwise(account: Account, *parts: str) -> Any:
    """∇ ⊙ x of one part, or of several together, shaped like the input (Eq. 7); of several inputs {name: ∇ ⊙ x}."""
    first, *others = (account.shares[part].mapping * account.input for part in parts)
    return account.layout.parted(sum(others, first))


def check_image(account: Account, image: int) -> None:
    """Raise DmbpError unless the batch has an image of that number."""
    try:
        target.check_image(image, len(account.scores["y"]))
    except LinregError as error:
        raise DmbpError(str(error)) from None


def as_table(account: Account, image: int = 0) -> str:
    """The table of one image, its certificate, and how exact the split is. Raises DmbpError for no image."""
    return f"{table(_rows(account, image), HEADER, right=(1, 2, 3))}\n\n{_exactness(account, image)}"


def as_html(account: Account) -> str:
    """The same of the first image, for a notebook."""
    images = len(account.scores["y"])
    rest = f"\nThis is image 0 of {images}: summary(image) tells of the others." if images > 1 else ""
    return html_table(_rows(account, 0), HEADER, right=(1, 2, 3), below=_exactness(account, 0) + rest)


def as_sum(account: Account, image: int) -> str:
    """One image's sum in a line: "y = 10.79: y⁺ = 14.03, y⁻ = −2.957, y~ = −0.2860, u = 0.001026 (in y~)"."""
    values = {name: number(score[image].item(), figures=4) for name, score in account.scores.items()}
    parts = ", ".join(f"{SYMBOLS[name]} = {values[name]}" for name in ("positive", "negative", "nuisance"))
    return f"y = {values['y']}: {parts}, u = {values['unmasked']} (in {HOLDS_UNMASKED[account.counting]})"


def and_more(account: Account, shown: int) -> str:
    """How many images there are beyond those that are shown."""
    more = len(account.scores["y"]) - shown
    return f"; {counted(more, 'more image')}" if more > 0 else ""


def _rows(account: Account, image: int) -> list[tuple[str, ...]]:
    check_image(account, image)
    names = SYMBOLS | {"unmasked": f"  u, in {HOLDS_UNMASKED[account.counting]}: what no mask touches"}
    scores = {line: account.scores[line][image].item() for line in LINES}
    places = decimals(scores.values())

    def row(line: str) -> tuple[str, ...]:
        shares = account.shares[line]
        values = (scores[line], shares.input_share[image].item(), shares.bias_share[image].item())
        return names[line], *(f"{value:+.{places}f}" for value in values)

    return [row(line) for line in LINES]


def _exactness(account: Account, image: int) -> str:
    error, certificate = account.checks.split_error[image].item(), account.checks.certificate[image]
    scale = sum(account.scores[name][image].abs().item() for name in ("positive", "negative", "y"))
    return (
        f"certificate: {certificate}\n"
        f"split: y⁺ + y⁻ + y~ = y to {error:.1e}, with y~ from its own recurrence; "
        f"{error / scale if scale else 0.0:.1e} of |y⁺| + |y⁻| + |y|"
    )
