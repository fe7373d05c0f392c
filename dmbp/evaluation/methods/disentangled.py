"""DMBP itself, as one method among the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from dmbp.evaluation.captured import captured
from dmbp.evaluation.methods.method import Method
from dmbp.evaluation.worded import option
from dmbp.explanation import explain
from dmbp.learning.objective import Loss
from dmbp.learning.options import Options
from dmbp.masks import Masks, Sites
from dmbp.result import Result
from dmbp.split import decompose

PAPER = "the paper, Section 4"
MAPS = ("paper", "complete")
DEFAULTS = Options()


@dataclass(frozen=True, eq=False)
class Learning:
    """One learning, and the masks that it had after each number of updates in `counts`: `kept`, but for the `last`."""

    counts: frozenset[int]
    last: Result
    kept: Mapping[int, Masks]

    def after(self, count: int) -> Result:
        """The explanation that a learning of so many updates gives: no update hangs on those that come later.

        Where masks came to rest before, or nothing is learned, that is the last one.
        """
        if count not in self.kept:
            return self.last
        last, masks = self.last, self.kept[count]
        split = decompose(last.split.lin, masks, last.split.target, last.split.counting)
        return replace(
            last, account=split, masks=dict(masks), iterations=count, updates=last.updates.clamp_max(count),
            history={part: values[: count + 1] for part, values in last.history.items()},
            options=replace(last.options, iterations=count), late={},
        )  # fmt: skip


@dataclass(frozen=True)
class DMBP(Method):
    """a(x) = ∇⁺ ⊙ x + ∇⁻ ⊙ x after learning (Algorithm 1), or the complete map, with bias terms at their places.

    The options but `map` are those of `dmbp.Options`. With loss "none" nothing is learned, and the maps are those of
    the score itself: c ⊙ x (Eq. 5), or that and all its biases. `map="complete"` is (N, 1, *picture).
    """

    label: ClassVar[str] = "dmbp"
    title: ClassVar[str] = "Disentangled Masked Backpropagation (DMBP)"
    source: ClassVar[str] = "the paper, Algorithm 1"
    times_x: ClassVar[str] = "yes; map=complete: and biases by their gradients"
    colours: ClassVar[str] = "own values; map=complete: none"
    sign: ClassVar[str] = "signed"

    iterations: int = option(DEFAULTS.iterations, "updates of the masks", PAPER)
    loss: str | Loss = option(  # noqa: RUF009  (it makes a field)
        DEFAULTS.loss, "all (Eq. 10), +-, + (Table 1), or none (Eq. 5)", "the paper, Eq. 10"
    )
    sites: Sites = option(  # noqa: RUF009
        DEFAULTS.sites, "where masks sit: gates, blocks, or names of nodes", "the paper, Eq. 16"
    )
    map: str = option("paper", "paper: ∇⁺ ⊙ x + ∇⁻ ⊙ x; complete: with bias terms at their places", "the paper, Eq. 7")
    unmasked: str = option(DEFAULTS.unmasked, "where what no mask touches is counted: nuisance or both", "dmbp")
    lr: float = option(DEFAULTS.lr, "RMSprop's learning rate", PAPER)
    tolerance: float | None = option(DEFAULTS.tolerance, "when an image's masks may rest", "dmbp")
    agreement: float | None = option(DEFAULTS.agreement, "when an image's masks may rest, by its map", "dmbp")
    precision: str = option(DEFAULTS.precision, "of products while learning: full, tf32 or bf16", "dmbp")
    compiled: bool | None = option(DEFAULTS.compiled, "whether torch.compile is used", "dmbp", decides=False)

    def __post_init__(self) -> None:
        self._check_word("map", MAPS)
        object.__setattr__(self, "sites", self.learning.sites)  # names as a tuple, so that the value is one for good

    @property
    def learning(self) -> Options:
        """The options of the learning; raises DmbpError where one makes no sense."""
        names = [each.name for each in self.options() if each.name != "map"]
        return Options(**{name: getattr(self, name) for name in names})

    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return self.map_of(self.learned(network, x, target).after(self.iterations))

    def learns_as(self, other: DMBP) -> bool:
        """Whether both learn the same masks, one perhaps for longer; their maps may be others."""
        return replace(self.learning, iterations=0) == replace(other.learning, iterations=0)

    def learned(self, network: nn.Module, x: Tensor, target: Tensor, counts: Iterable[int] = ()) -> Learning:
        """What is learned in `iterations` updates, and in each number of `counts`: once, as long as the longest."""
        wanted = {*counts, self.iterations}
        options = replace(self.learning, iterations=max(wanted))
        kept: dict[int, Masks] = {}

        def keep(iteration: int, _: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> None:
            if iteration in wanted:
                kept[iteration] = {site: theta.sigmoid().contiguous() for site, theta in logits.items()}

        callback = keep if len(wanted) > 1 else None
        graph = captured(network, x).graph
        last = explain(graph, x, target, options=options, progress=False, callback=callback)
        if last.interrupted:
            raise KeyboardInterrupt
        return Learning(frozenset(wanted), last, kept)

    def map_of(self, result: Result) -> Tensor:
        """The map that is asked for, of an explanation."""
        return result.attribution if self.map == "paper" else result.complete.unsqueeze(1)
