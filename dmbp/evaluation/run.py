"""A whole evaluation: networks × pictures × methods × metrics, kept as it comes and resumed from what is kept.

The unit of work is a picture with all its classes: the rows of one batch. Nothing that is computed hangs on what was
computed before, so that a run that was killed and started again ends with the numbers of one that was not.
"""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dmbp.datasets import Item, Pictures, Unreadable
from dmbp.errors import DmbpError
from dmbp.evaluation.blurred_maps import Blurred
from dmbp.evaluation.measures import Method, Metric, Rows
from dmbp.evaluation.published import column
from dmbp.evaluation.ranks import Ranks
from dmbp.evaluation.record import Key, Results, Writer, read_results
from dmbp.evaluation.tables import Place, Study
from dmbp.files import slug, whole
from dmbp.models import Model
from dmbp.runs.memory import is_out_of_memory
from dmbp.runs.shelf import digest
from linreg import LinregError

TOLD = 5  # failures of a method, as they come; the end tells how many there were
PACKAGES = ("linreg-dmbp", "torch", "numpy", "captum", "saliency", "pillow")  # which the numbers may hang on


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, on its device, and the pictures that it is evaluated on, with its classes."""

    model: Model
    pictures: Pictures


@dataclass(frozen=True, eq=False)
class Plan:
    """What is evaluated: methods and metrics by the names that the results keep them under, `settings` beside them.

    The maps of the first `keep` pictures of each network are kept too, for a sheet of pictures.
    """

    subjects: tuple[Subject, ...]
    methods: tuple[Method, ...]
    metrics: Mapping[str, Metric]
    settings: Mapping[str, Any] = field(default_factory=dict)
    keep: int = 0

    def __post_init__(self) -> None:
        if not (self.subjects and self.methods and self.metrics):
            raise DmbpError("an evaluation needs at least one network, one method and one metric")
        for names in ([subject.model.name for subject in self.subjects], [method.name for method in self.methods]):
            if len(set(names)) < len(names):
                raise DmbpError(f"two of a name cannot be told apart in the results: {', '.join(names)}")
        for subject in self.subjects:
            subject.pictures.check_targets(subject.model.classes())

    def made(self) -> dict[str, Any]:
        """What decides the numbers: the header of a results file."""
        return {
            "models": {subject.model.name: fingerprint(subject.model) for subject in self.subjects},
            "methods": {method.name: _options(method) for method in self.methods},
            "metrics": {name: repr(metric) for name, metric in self.metrics.items()},
            "data": self.subjects[0].pictures.family,
            "settings": dict(self.settings),
            "device": " and ".join(sorted({_device_name(subject.model) for subject in self.subjects})),
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        }


def _options(method: Any) -> str:
    """Those that maps hang on, of a dataclass; of anything else its repr."""
    if not is_dataclass(method) or isinstance(method, type):
        return repr(method)
    told = [f"{each.name}={_options(getattr(method, each.name))}" for each in fields(method) if each.compare]
    return f"{type(method).__name__}({', '.join(told)})"


def fingerprint(model: Model) -> str:
    """The same for the same network and preprocessing, and no other: a digest of structure and weights, and words."""
    state = {name: digest(value) for name, value in sorted(model.network.state_dict().items())}
    held = hashlib.sha256(f"{model.network!r} {state}".encode()).hexdigest()[:16]
    return f"{held}, {model.preprocess}, {model.probability}"


def _device_name(model: Model) -> str:
    like = next(model.network.parameters(), torch.empty(0))
    name = torch.cuda.get_device_name(like.device) if like.is_cuda else str(like.device)
    return f"{name}, {like.dtype}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


@dataclass(eq=False)
class Clock:
    """Where the time of a process goes, in seconds."""

    begun: float = field(default_factory=time.perf_counter)
    parts: dict[str, float] = field(default_factory=lambda: {"methods": 0.0, "scores": 0.0})

    @contextmanager
    def counts(self, part: str) -> Iterator[None]:
        began = _now()
        try:
            yield
        finally:
            self.parts[part] += _now() - began

    @property
    def whole(self) -> float:
        return time.perf_counter() - self.begun


def _now() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation has come to: what the tables are made of, and where the time of this start went, in s."""

    study: Study
    computed: int
    methods_seconds: float
    scores_seconds: float
    whole_seconds: float

    @property
    def at_work(self) -> float:
        """The share of the time that went to methods and scores."""
        return (self.methods_seconds + self.scores_seconds) / max(self.whole_seconds, 1e-9)


def evaluate(plan: Plan, out: Path, ranks: Ranks | None = None) -> Evaluation | None:
    """Do what of the plan is not in the folder `out` yet, and give back all of it; None in processes but the first.

    Each picture's results are on the disk before the next ones are begun.
    A picture that cannot be read is skipped, and a map that cannot be made, or judged, counts as failed; both are told,
    and tried again at the next start. Raises `DmbpError` where the folder holds what was made differently, or cannot be
    written to; what is finished is never lost.
    """
    ranks, clock = ranks or Ranks(), Clock()
    made = plan.made()
    before = ranks.share(read_results(out) if ranks.first else None)
    before.check(made)
    _check_alike(ranks.all(made))
    _check_pictures(plan, before, ranks)
    jobs = _jobs(plan, before)
    mine = jobs[ranks.rank :: ranks.world]
    with Writer(out, ranks.rank) as writer:
        writer.begin(made)
        total = sum(len(job.lacking) for job in mine)
        with tqdm(total=total, unit="map", disable=None if ranks.first else True, miniters=1) as bar:
            worker = Worker(plan, writer, clock, bar, out)
            for job in mine:
                worker.run(job)
    spent = ranks.all((worker.computed, clock.parts["methods"], clock.parts["scores"], clock.whole))
    if not ranks.first:
        return None
    after = read_results(out)
    _check_all_there(plan, jobs, after)
    totals = [sum(column) for column in zip(*spent, strict=True)]
    return Evaluation(_study(plan, after), int(totals[0]), *totals[1:])


@dataclass(frozen=True, eq=False)
class Job:
    """One picture of one network, and by method the metrics that it lacks; `kept`: whether its maps are."""

    subject: Subject
    item: Item
    lacking: list[tuple[Method, list[str]]]
    kept: bool


def _jobs(plan: Plan, before: Results) -> list[Job]:
    """The pictures that lack something, network by network, in the order of the data."""
    jobs: list[Job] = []
    for subject in plan.subjects:
        for place, item in enumerate(subject.pictures.items):
            lacking = [(method, _missing(plan, before, subject, method, item)) for method in plan.methods]
            if lacking := [(method, metrics) for method, metrics in lacking if metrics]:
                jobs.append(Job(subject, item, lacking, place < plan.keep))
    return jobs


def _missing(plan: Plan, before: Results, subject: Subject, method: Method, item: Item) -> list[str]:
    there = before.values.get(Key(subject.model.name, method.name, item.name), {})
    return [metric for metric in plan.metrics if metric not in there]


def _check_alike(made: list[dict[str, Any]]) -> None:
    """Raise DmbpError where processes of one evaluation would make different numbers."""
    for rank, other in enumerate(made):
        if other != made[0]:
            names = ", ".join(name for name in other if other[name] != made[0].get(name))
            raise DmbpError(
                f"rank {rank} differs from rank 0 in {names}: start all processes alike, on one kind of device"
            )


def _check_pictures(plan: Plan, before: Results, ranks: Ranks) -> None:
    """Raise DmbpError where a result that is there is of another picture; each process looks at its share of them."""
    for subject in plan.subjects:
        name = subject.model.name
        known = [item for item in subject.pictures.items if (name, item.name) in before.pictures]
        for item in known[ranks.rank :: ranks.world]:
            with suppress(Unreadable):  # what was found when it could be read stays true
                before.check_picture(name, item.name, item.picture.digest(), item.targets)


@dataclass(eq=False)
class Worker:
    """Does one picture after another, and writes what it finds."""

    plan: Plan
    writer: Writer
    clock: Clock
    bar: Any
    out: Path
    computed: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def run(self, job: Job) -> None:
        """All methods and metrics that the picture lacks."""
        try:
            picture, x = job.item.picture.digest(), job.item.picture.tensor(job.subject.model.preprocess)
        except Unreadable as error:
            self._append(job, "skipped", reason=str(error))
            tqdm.write(f"dmbp: skipped {job.item.name}: {error}", file=sys.stderr)
            self.bar.update(len(job.lacking))
            return
        rows, made = _rows(job, x), dict[str, Tensor]()
        for method, metrics in job.lacking:
            self.bar.set_description(f"{job.subject.model.name}, {method.name}"[:40], refresh=False)
            self._judge(job, rows, method, metrics, picture, made)
            self.bar.update()

    def _judge(
        self, job: Job, rows: Rows, method: Method, metrics: list[str], picture: str, made: dict[str, Tensor]
    ) -> None:
        before = dict(self.clock.parts)
        try:
            with self.clock.counts("methods"):
                maps = _maps(rows, method, made)
            with self.clock.counts("scores"):
                found = {name: self.plan.metrics[name].found(rows, maps, method) for name in metrics}
        except Exception as error:  # of anybody's method: one map that fails must not end hours of work
            self._failed(job, method, error)
            return
        if job.kept:
            keep_map(self.out, Key(job.subject.model.name, method.name, job.item.name), maps)
        self._append(
            job, "result", method=method.name, digest=picture, targets=rows.targets, metrics=found,
            seconds={part: round(self.clock.parts[part] - before[part], 6) for part in before},
        )  # fmt: skip
        self.computed += 1

    def _failed(self, job: Job, method: Method, error: Exception) -> None:
        if is_out_of_memory(error):
            raise DmbpError(
                f"{method.name} on {job.item.name}: the memory is too small ({error}); all finished results are kept"
            ) from error
        reason = str(error) if isinstance(error, LinregError) else f"{type(error).__name__}: {error}"
        self._append(job, "failed", method=method.name, reason=reason)
        self.failures[method.name] += 1
        if self.failures[method.name] <= TOLD:
            tqdm.write(f"dmbp: failed: {method.name} on {job.item.name}: {reason}", file=sys.stderr)

    def _append(self, job: Job, kind: str, **held: Any) -> None:
        self.writer.append({"kind": kind, "model": job.subject.model.name, "picture": job.item.name, **held})


def _maps(rows: Rows, method: Method, made: dict[str, Tensor]) -> Tensor:
    """The maps of a method. `made` keeps those of this picture: what is blurred to several widths is made once."""
    base = method.base if isinstance(method, Blurred) else method
    if base.name not in made:
        made[base.name] = base(rows.network, rows.x, rows.targets)
    return method.blur(made[base.name]) if isinstance(method, Blurred) else made[base.name]


def _rows(job: Job, x: Tensor) -> Rows:
    """The picture once for each of its classes."""
    model, item = job.subject.model, job.item
    like = next(model.network.parameters(), x)
    targets = list(item.targets)
    others = [tuple(other for other in targets if other != target) for target in targets]
    own = [item.own_half(k, (x.shape[-2], x.shape[-1])) for k in range(len(targets))]
    rows = x.to(like).expand(len(targets), *x.shape[1:]).contiguous()
    return Rows(model.network, model.probability, rows, targets, others, own)


def map_file(out: Path, key: Key) -> Path:
    """Where the map of a kept picture is."""
    mark = hashlib.sha256("\n".join(key).encode()).hexdigest()[:12]
    return out / "maps" / f"{slug(key.picture)}-{slug(key.method)}-{mark}.npy"


def keep_map(out: Path, key: Key, maps: Tensor) -> None:
    """Write the maps of a picture's classes, summed over colours: (R, H, W)."""
    path = map_file(out, key)
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise DmbpError(f"cannot write to {path.parent}: {error.strerror or error}") from error
    with whole(path) as partial:
        np.save(partial, maps.detach().sum(1).float().numpy(force=True), allow_pickle=False)


def _check_all_there(plan: Plan, jobs: Sequence[Job], after: Results) -> None:
    """Raise DmbpError where other processes' results are not in this folder."""
    for job in jobs:
        name, item = job.subject.model.name, job.item.name
        for method in plan.methods:
            key = Key(name, method.name, item)
            if key not in after.values and key not in after.failed and (name, item) not in after.skipped:
                raise DmbpError(
                    f"the results of {item} by {method.name} are not here: do all processes write to the same folder?"
                )


def _study(plan: Plan, results: Results) -> Study:
    """What the tables are made of: the pictures that could be read, in the order of the data."""
    places = []
    for subject in plan.subjects:
        name = subject.model.name
        names = (item.name for item in subject.pictures.items)
        pictures = tuple(picture for picture in names if (name, picture) not in results.skipped)
        places.append(Place(subject.pictures.family, name, pictures))
    return Study(tuple(places), {method.name: column(method.name) for method in plan.methods}, plan.metrics, results)
