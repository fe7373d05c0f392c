"""Whether to believe an explanation: what its maps show, how far y⁺ has grown, whether it has settled, and rounding.

The limits between the words come from the figures of the site's page on results, section "What foretells": networks
whose maps point at what the class is seen by stay within them, and those whose maps fail do not. They were found on
image classifiers, asked for a class that they see; of anything else the words are a first guess, the numbers as true.

Index letters: k constants, of which those in `Shares.rest` have no place on the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import copysign, inf, isclose, isnan, nan
from typing import TYPE_CHECKING, Any, Literal

import torch

from dmbp.account import Shares, check_image
from dmbp.standing import Labels, Standing, percent, standing
from linreg.text import counted, number, wrapped

if TYPE_CHECKING:
    from dmbp.evaluation.trial import Trial
    from dmbp.result import Result

Level = Literal["good", "doubtful", "do not trust", "not judged"]
GOOD: Level = "good"
DOUBTFUL: Level = "doubtful"
NO_TRUST: Level = "do not trust"
NOT_JUDGED: Level = "not judged"
RANKS = (GOOD, DOUBTFUL, NO_TRUST)

# Up to the first of two a map is good, beyond the second not to be trusted (tutorials/site/results.md, What foretells).
HIDDEN = (0.8, 0.85)  # part of |y⁺| + |y⁻| that a map does not show: up to 0.61 where it works, from 0.88 where not
GROWTH = (15.0, 60.0)  # y⁺ / |y| at the end: up to 15 where maps work, above 60 on EfficientNet-Lite0 alone
START = 2.0  # y⁺ / |y| before anything is learned, doubtful above: up to 1.7 elsewhere, 4 to 6 on EfficientNet-Lite0
SETTLED = (0.95, 0.8)  # ρ over 20 updates, told and not judged by: unsettled maps were no worse
REST = 0.5  # |y~| / |y| from which it is told. Not judged by: it said nothing that the growth does not say
ERROR = (0.01, 0.1)  # how much of |y| the parts miss it by
TURNED = 1e-3  # part of the gates that rounding may have turned


@dataclass(frozen=True)
class Shown:
    """What one kind of map shows: its parts of y⁺ and y⁻, and what of |y⁺| + |y⁻| it hides."""

    level: Level
    words: str
    positive: float
    negative: float
    hidden: float


@dataclass(frozen=True)
class Growth:
    """y⁺ / |y| before the first update, nan where masks were given to start from, and at the end; `rest`: y~ / |y|."""

    level: Level
    words: str
    start: float
    end: float
    rest: float


@dataclass(frozen=True)
class Settled:
    """Rank correlation of the complete map with that of 20 updates before, nan where it is not known."""

    words: str
    correlation: float


@dataclass(frozen=True)
class Rounding:
    """What arithmetic has done: `error` is the larger of |y − c·x − Σ ledger| and |y⁺ + y⁻ + y~ − y|, `relative` to y.

    `bound` is what rounding can make the first at the very most; `doubtful` of `gates` units it may have turned, None
    where a file does not say.
    """

    level: Level
    words: str
    error: float
    relative: float
    bound: float
    doubtful: int | None
    gates: int | None


@dataclass(frozen=True)
class Verdict:
    """Whether to believe one explanation, in words and numbers; `print` gives its lines, `record` plain values.

    `level` is "good", "doubtful", "do not trust", or "not judged" where nothing was learned. `trusted` names the maps,
    of "paper" and "complete", that have this level.

    >>> import dmbp, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> dmbp.explain(model, torch.ones(1, 2)).verdict()
    Verdict(good: the paper's map shows 86 % of y⁺ and 86 % of y⁻)
    """

    level: Level
    trusted: tuple[str, ...]
    words: str
    paper: Shown
    complete: Shown
    growth: Growth
    settled: Settled
    rounding: Rounding
    standing: Standing | None
    tried: Trial | None = None

    def __repr__(self) -> str:
        return f"Verdict({self.level}: {self.words})"

    def __str__(self) -> str:
        return "\n".join(map(wrapped, self.lines()))

    def lines(self) -> tuple[str, ...]:
        """The verdict in a line, what it rests on in another, where the class stands, and what was tried."""
        parts = (self.growth, self.settled, self.rounding)
        rests = "; ".join(part.words for part in parts if part.words not in self.words)
        more = (part.words for part in (self.standing, self.tried) if part is not None)
        return f"verdict: {self.level}: {self.words}", rests, *more

    def record(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return asdict(self)


def judge(
    result: Result,
    image: int = 0,
    *,
    labels: Labels = None,
    probability: str = "softmax",
    check: bool = False,
) -> Verdict:
    """The verdict on one image of a result, computed or read from a file.

    `labels` names classes, by their number or a function of it. `probability` makes probabilities of scores: "softmax",
    "sigmoid", or "none" to tell scores alone. `check` puts the maps to the test (`dmbp.evaluation.trial`), which takes
    longer than the explanation did: a good map that fails it is doubtful.

    Raises DmbpError where the batch has no such image, for another word, and for a check without a network.
    """
    check_image(result.account, image)
    paper = _shown(result, image, "the paper's map", _pixels)
    complete = _shown(result, image, "the complete map", _placed)
    growth, rounding = _growth(result, image), _rounding(result, image)
    levels = {"paper": _worst(paper.level, growth.level), "complete": _worst(complete.level, growth.level)}
    tried = _tried(result, image, probability) if check else None
    for name in tried.failed if tried else ():
        levels[name] = _worst(levels[name], DOUBTFUL)
    best = min(levels.values(), key=RANKS.index)
    level = _worst(best, rounding.level)
    trusted = tuple(name for name, found in levels.items() if found == best)
    words = _words(level, trusted, paper, complete, growth, rounding)
    if tried and best == DOUBTFUL != growth.level:
        words = f"no map passed the check (below); {words}"
    if result.loss == "none":
        level, trusted = NOT_JUDGED, ()
        words = "nothing was learned: this is c ⊙ x, what masks are to do better than"
    return Verdict(
        level, trusted, words, paper, complete, growth, _settled(result, image), rounding,
        standing(result.account, image, labels, probability), tried,
    )  # fmt: skip


def _tried(result: Result, image: int, probability: str) -> Trial:
    from dmbp.evaluation.trial import trial  # which this module is there without

    return trial(result, image, probability)


def _worst(*levels: Level) -> Level:
    return max(levels, key=RANKS.index)


def _level(value: float, limits: tuple[float, float]) -> Level:
    """By two limits, of which the first is still good; what is not known counts as good."""
    good, last = limits
    return NO_TRUST if value > last else DOUBTFUL if value > good else GOOD


def _pixels(shares: Shares, total: float, image: int) -> float:
    return shares.input_share[image].item()


def _placed(shares: Shares, total: float, image: int) -> float:
    return total - sum(rest[image].item() for rest in shares.rest.values())


def _shown(result: Result, image: int, name: str, shown: Callable[[Shares, float, int], float]) -> Shown:
    """How much of y⁺ and y⁻ one kind of map shows."""
    totals = [result.scores[part][image].item() for part in ("positive", "negative")]
    parts = [
        shown(result.shares[part], total, image) for part, total in zip(("positive", "negative"), totals, strict=True)
    ]
    scale = sum(map(abs, totals))
    missing = sum(abs(total - part) for total, part in zip(totals, parts, strict=True))
    hidden = missing / scale if scale else 0.0
    shares = [part / total if total else nan for part, total in zip(parts, totals, strict=True)]
    return Shown(_level(hidden, HIDDEN), f"{name} shows {_told(*shares)}", shares[0], shares[1], hidden)


def _told(positive: float, negative: float) -> str:
    """ "98 % of y⁺ and 97 % of y⁻"; a part that is 0 is not told."""
    parts = [f"{percent(share)} of {of}" for share, of in ((positive, "y⁺"), (negative, "y⁻")) if not isnan(share)]
    if parts == ["100 % of y⁺", "100 % of y⁻"]:
        return "all of y⁺ and y⁻"
    return " and ".join(parts) or "nothing, as y⁺ and y⁻ are 0"


def _growth(result: Result, image: int) -> Growth:
    y = abs(result.scores["y"][image].item())
    positive = result.scores["positive"][image].item()
    first = result.history["positive"][0, image].item() if _from_b1(result, image) else nan
    start, end = (value / y if y else (inf if value > 0 else 0.0) for value in (first, positive))
    level = _worst(DOUBTFUL if start > START else GOOD, _level(end, GROWTH))
    words = f"y⁺ is {_times(end)}"
    if not isnan(start):
        words += f" ({_times(start)} before anything was learned)"
    nuisance = result.scores["nuisance"][image].item()
    rest = nuisance / y if y else (copysign(inf, nuisance) if nuisance else 0.0)
    if abs(rest) > REST and result.loss != "none":
        words += f", and y~, which no map shows, is {_times(rest)}"
    return Growth(level, words, start, end, rest)


def _from_b1(result: Result, image: int) -> bool:
    """Whether learning began at the logits −2, 0 and 2 of B.1, and not at masks that somebody gave."""
    if not len(result.history["positive"]):
        return False
    known = torch.tensor([-2.0, 0.0, 2.0]).sigmoid()
    return all(
        bool(torch.isclose(sigma[image].cpu().float().unsqueeze(-1), known, atol=1e-5).any(-1).all())
        for sigma in result.initial.values()
    )


def _settled(result: Result, image: int) -> Settled:
    correlation = result.settled[image].item()
    if result.loss == "none":
        return Settled("nothing was learned", correlation)
    if isnan(correlation):
        return Settled("whether the map has settled is not known", correlation)
    good, poor = SETTLED
    words = "has settled" if correlation >= good else "has nearly settled" if correlation >= poor else "has not settled"
    return Settled(f"the map {words} (rank correlation {correlation:.3f} over the last 20 iterations)", correlation)


def _rounding(result: Result, image: int) -> Rounding:
    checks = result.checks
    error = max(checks.completeness_error[image].item(), checks.split_error[image].item())
    bound = checks.completeness_bound[image].item()
    y = abs(result.scores["y"][image].item())
    relative = error / y if y else (inf if error else 0.0)
    doubtful = None if checks.doubtful is None else int(checks.doubtful[image])
    level = _level(relative, ERROR)
    if checks.completeness_error[image].item() > bound:
        level = NO_TRUST
    elif doubtful and checks.gates and doubtful > TURNED * checks.gates:
        level = _worst(level, DOUBTFUL)
    words = _rounding_words(level, relative, doubtful, checks.gates)
    return Rounding(level, words, error, relative, bound, doubtful, checks.gates)


def _rounding_words(level: Level, relative: float, doubtful: int | None, gates: int | None) -> str:
    said = "fine" if level == GOOD else "too large, repeat with model.double() and x.double()"
    moved = f"the parts add up to y but for {percent(relative) if relative >= 1e-5 else 'less than 0.001 %'}"
    if doubtful is None or gates is None:
        return f"rounding: {said} ({moved}; the file does not say how many gates are in doubt)"
    turned = (
        f"; it may have turned {f'{doubtful:,}' if doubtful else 'none'} of {counted(gates, 'gate')}" if gates else ""
    )
    return f"rounding: {said} ({moved}{turned})"


def _words(
    level: Level, trusted: tuple[str, ...], paper: Shown, complete: Shown, growth: Growth, rounding: Rounding
) -> str:
    """The line after the level: what to look at and what not, and why."""
    if level == NO_TRUST and rounding.level == NO_TRUST:
        return "rounding, or a term that is missing, has spoiled the numbers: repeat with model.double() and x.double()"
    same = isclose(paper.hidden, complete.hidden, abs_tol=1e-5)  # of features, whose biases have no place
    said = paper.words if same else f"{paper.words}; {complete.words}"
    hidden = "" if paper.level == GOOD else f"; {paper.words}"
    if growth.level == NO_TRUST:
        return f"what is for and against the class all but cancels, and signs mean little: {growth.words}{hidden}"
    if growth.level == DOUBTFUL:
        less = "; fewer iterations may do better (agreement=0.99)" if growth.end > GROWTH[0] else ""
        return f"much of what is for and against the class cancels: {growth.words}{less}{hidden}"
    if trusted == ("complete",):
        return f"look at the complete map alone; {paper.words}"
    return said


def _times(growth: float) -> str:
    return f"{number(growth, figures=2)} times |y|"
