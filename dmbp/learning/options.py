"""The options of an explanation as one value: documented, checked and recorded once, whoever takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import Any, TypedDict, TypeVar

import torch

from dmbp.errors import DmbpError
from dmbp.learning.objective import LOSSES, Loss, check_arguments, loss_name
from dmbp.learning.precision import PRECISIONS, check_precision
from dmbp.masks import Sites, check_rule, find_sites
from dmbp.split import UNMASKED
from linreg import Linearization
from linreg.numerals import real_number, whole_number

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Options:
    """What masks are learned, and how; `explain`, `explain_all` and `learn_masks` take these by name, or as one value.

    - `iterations`: the number of updates (Algorithm 1, line 3).
    - `loss`: what the masks minimise: "all" (Eq. 10); its ablations "+-" and "+" (Table 1); "none", which learns
      nothing and gives masks of ones (Eq. 5); or a function of your own, f(y, y⁺, y⁻) → (N,), the loss of each image,
      from three tensors (N,). f must be differentiable by autograd in y⁺ and y⁻, finite, and treat each image by
      itself; it is called once an iteration. It runs through `masked_scores`, which takes some 1.1 times the time of a
      built-in loss, and about one number more for each masked unit.
    - `sites`: where the masks sit: "gates" that have weights behind them, "blocks", or names of nodes (`find_sites`).
    - `unmasked`: where what no mask touches is counted: "nuisance" (once, in y~) or "both" (see `decompose`).
    - `lr`: RMSprop's learning rate, the same at all sites: an update moves a logit by lr times its gradient over the
      running root mean square of that.
    - `tolerance`: if given, the masks of an image rest once the mean loss of its last 10 iterations is less than
      tolerance · max(|loss|, |y|) below that of the 10 before.
    - `agreement`: if given, a rank correlation below 1: the masks of an image rest once its complete map agrees with
      that of 20 iterations before, by Spearman's ρ ≥ `agreement`. On deep networks y⁺ and y⁻ grow without end while the
      map has come to rest; this looks at the map, and takes the time of some three iterations every 20.
    - `precision`: "bf16" takes the products of layers in bfloat16, "tf32" in CUDA's TF32, while learning; the split is
      computed in full in any case.
    - `compiled`: makes one loop of each site's arithmetic by `torch.compile`, which on a CPU takes some ten seconds and
      a C++ compiler, and pays for many images; None compiles on CUDA only.

    Raises DmbpError for a value that is none of these; what a network refuses is said when one is at hand.

    >>> import dmbp
    >>> fast = dmbp.Options(iterations=50, loss="+")
    >>> fast.iterations, fast.loss, fast.sites
    (50, '+', 'gates')
    >>> dmbp.Options(iterations=-1)
    Traceback (most recent call last):
    dmbp.errors.DmbpError: iterations must be a whole number of at least 0, not -1
    """

    iterations: int = 200
    loss: str | Loss = "all"
    sites: Sites = "gates"
    unmasked: str = "nuisance"
    lr: float = 0.01
    tolerance: float | None = None
    agreement: float | None = None
    precision: str = "full"
    compiled: bool | None = None

    def __post_init__(self) -> None:
        self._check_iterations()
        self._check_loss()
        self._check_sites()
        if self.unmasked not in UNMASKED:
            raise DmbpError(f"unmasked must be one of {_listed(UNMASKED)}, not {self.unmasked!r}")
        self._check_positive("lr", "the learning rate must be a positive number")
        if self.tolerance is not None:
            self._check_positive("tolerance", "the tolerance must be a positive number or None")
        if self.agreement is not None:
            self._check_positive("agreement", "the agreement must be a number between 0 and 1, or None")
            if self.agreement >= 1:
                raise DmbpError(f"the agreement must be a number between 0 and 1, or None, not {self.agreement!r}")
        if self.precision not in PRECISIONS:
            raise DmbpError(f"precision must be one of {_listed(PRECISIONS)}, not {self.precision!r}")
        if self.compiled not in (None, True, False):
            raise DmbpError(f"compiled must be True, False or None, not {self.compiled!r}")

    def _check_iterations(self) -> None:
        """Of whatever integer type, it becomes an int, which files can record; so do the other numbers."""
        count = whole_number(self.iterations)
        if count is None or count < 0:
            raise DmbpError(f"iterations must be a whole number of at least 0, not {self.iterations!r}")
        object.__setattr__(self, "iterations", count)

    def _check_positive(self, name: str, wanted: str) -> None:
        given = getattr(self, name)
        number = real_number(given)
        if number is None or not 0 < number < float("inf"):
            raise DmbpError(f"{wanted}, not {given!r}")
        object.__setattr__(self, name, number)

    def _check_loss(self) -> None:
        if callable(self.loss):
            check_arguments(self.loss)
        elif not isinstance(self.loss, str) or self.loss not in (*LOSSES, "none"):
            raise DmbpError(
                f"loss must be one of {_listed((*LOSSES, 'none'))}, not {self.loss!r}; or a function f(y, y⁺, y⁻) of "
                "your own"
            )

    def _check_sites(self) -> None:
        """Names become a tuple, so that the value is one for good."""
        if isinstance(self.sites, str) or not isinstance(self.sites, Iterable):
            check_rule(self.sites)
        else:
            object.__setattr__(self, "sites", tuple(self.sites))

    @classmethod
    def of(cls, options: Options | None, words: OptionWords) -> Options:
        """`options`, or the defaults, with what was given by a word of its own in its place."""
        if options is not None and not isinstance(options, Options):
            raise DmbpError(f"options must be a dmbp.Options, not {type(options).__name__}")
        return replace(options or cls(), **words)

    def sites_in(self, lin: Linearization) -> tuple[str, ...]:
        """The sites in this network. Raises DmbpError where the options do not fit it: its dtype, device or gates."""
        if not isinstance(lin, Linearization):
            raise DmbpError(f"expected a Linearization, graph.linearize(x), not {type(lin).__name__}")
        if lin.graph.dtype not in (torch.float32, torch.float64):
            raise DmbpError(f"learning masks needs float32 or float64, not {lin.graph.dtype}: model.float(), x.float()")
        check_precision(self.precision, lin.graph.device)
        gateless = isinstance(self.sites, str) and not any(node.is_gate for node in lin.graph.nodes)
        if self.loss == "none" and gateless:  # "none" masks nothing
            return (lin.graph.output,)
        return find_sites(lin.graph, self.sites)

    def whole_on(self, device: torch.device) -> bool:
        """Whether kernels run on whole tensors, compiled, on this device."""
        return device.type == "cuda" if self.compiled is None else self.compiled

    def record(self) -> dict[str, Any]:
        """What decides the result, as plain values: all but `compiled`; a function by its qualified name."""
        held = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "compiled"}
        return held | {"loss": loss_name(self.loss)}


class OptionWords(TypedDict, total=False):
    """The fields of `Options` as keywords, for type checkers and editors; a test holds the two alike."""

    iterations: int
    loss: str | Loss
    sites: Sites
    unmasked: str
    lr: float
    tolerance: float | None
    agreement: float | None
    precision: str
    compiled: bool | None


def takes_options(function: F) -> F:
    """The function with the fields of `Options` in its signature, in the place of its **words; it refuses other words.

    So that help, completion and the reference show each option with its default, which stands in `Options` alone.
    """
    taken = signature(function)
    own = [parameter for parameter in taken.parameters.values() if parameter.kind is not Parameter.VAR_KEYWORD]
    words = [parameter for parameter in own if parameter.kind is Parameter.KEYWORD_ONLY]
    options = [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(Options)
    ]
    shown = [*own[: len(own) - len(words)], *options, *words]
    known = {parameter.name for parameter in shown}

    @wraps(function)
    def checked(*arguments: Any, **given: Any) -> Any:
        for word in given:
            if word not in known:
                near = get_close_matches(word, known, 1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                listed = ", ".join(parameter.name for parameter in (*options, *words))
                raise DmbpError(f"{function.__name__} has no option {word!r}{hint}: it takes {listed}")
        return function(*arguments, **given)

    checked.__signature__ = taken.replace(parameters=shown)  # type: ignore[attr-defined]
    return checked  # type: ignore[return-value]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
