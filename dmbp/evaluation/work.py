"""The work of one process of an evaluation: maps are made and judged, batch after batch, and every result is kept.

Index letters: R rows, each a picture with one of its classes.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dmbp.datasets import Item, Unreadable
from dmbp.errors import DmbpError
from dmbp.evaluation.blurred_maps import Blurred
from dmbp.evaluation.measures import Found, Judged, Rows
from dmbp.evaluation.methods import DMBP
from dmbp.evaluation.plan import Plan, Subject
from dmbp.evaluation.record import Key, Writer
from dmbp.files import slug, whole
from dmbp.models import Model
from dmbp.runs.memory import is_out_of_memory
from linreg import LinregError

TOLD = 5  # failures of a method, as they come; the end tells how many there were


@dataclass(frozen=True, eq=False)
class Job:
    """Some pictures of one network, which go through the methods together.

    `lacking`: by method, the metrics that each picture lacks; `kept`: the pictures whose maps are kept.
    """

    subject: Subject
    items: tuple[Item, ...]
    lacking: list[tuple[Judged, dict[str, list[str]]]]
    kept: frozenset[str]

    @property
    def maps(self) -> int:
        """How many maps are to be made, one for each picture and method."""
        return sum(len(metrics) for _, metrics in self.lacking)


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
class Shown:
    """A picture that was read: the network's input (1, C, H, W), and the digest of what it was read from."""

    item: Item
    digest: str
    x: Tensor


@dataclass(eq=False)
class Worker:
    """Does one job after another, and writes what it finds."""

    plan: Plan
    writer: Writer
    clock: Clock
    bar: Any
    out: Path
    computed: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def run(self, job: Job) -> None:
        """All methods and metrics that the pictures of the job lack."""
        shown = [found for item in job.items if (found := self._read(job, item))]
        made = Made(tuple(method for method, _ in job.lacking))
        for method, lacking in job.lacking:
            self.bar.set_description(f"{job.subject.model.name}, {method.name}"[:40], refresh=False)
            if shown:
                self._judge(job, shown, method, lacking, made)
            self.bar.update(len(lacking))

    def _read(self, job: Job, item: Item) -> Shown | None:
        try:
            return Shown(item, item.picture.digest(), item.picture.tensor(job.subject.model.preprocess))
        except Unreadable as error:
            self._append(job, item, "skipped", reason=str(error))
            tqdm.write(f"dmbp: skipped {item.name}: {error}", file=sys.stderr)
            return None

    def _judge(
        self, job: Job, shown: Sequence[Shown], method: Judged, lacking: dict[str, list[str]], made: Made
    ) -> None:
        """One method, for pictures that go together. All of them are judged, and what one lacks of it is written."""
        before = dict(self.clock.parts)
        wanted = [name for name in self.plan.metrics if any(name in metrics for metrics in lacking.values())]
        try:
            rows = rows_of(job.subject.model, shown)
            with self.clock.counts("methods"):
                maps = made.of(method, rows)
            with self.clock.counts("scores"):
                found = {name: self.plan.metrics[name].found(rows, maps, method) for name in wanted}
        except Exception as error:  # of anybody's method: one map that fails must not end hours of work
            if len(shown) > 1 and not is_out_of_memory(error):
                for one in shown:  # which of them it is, and what the others have
                    if one.item.name in lacking:
                        self._judge(job, [one], method, lacking, Made((method,)))
            else:
                self._failed(job, shown[0].item, method, error)
            return
        spent = {part: round((self.clock.parts[part] - before[part]) / len(shown), 6) for part in before}
        for one, own in zip(shown, _shares(shown), strict=True):
            if metrics := lacking.get(one.item.name):
                if one.item.name in job.kept:
                    keep_map(self.out, Key(job.subject.model.name, method.name, one.item.name), maps[own])
                self._write(job, one, method, {name: found[name][own] for name in metrics}, spent)

    def _write(
        self, job: Job, one: Shown, method: Judged, found: dict[str, list[Found | None]], spent: dict[str, float]
    ) -> None:
        targets = list(one.item.targets)
        self._append(
            job, one.item, "result", method=method.name, digest=one.digest, targets=targets, metrics=found,
            seconds=spent,
        )  # fmt: skip
        self.computed += 1

    def _failed(self, job: Job, item: Item, method: Judged, error: Exception) -> None:
        if is_out_of_memory(error):
            raise DmbpError(
                f"{method.name} on {item.name}: the memory is too small ({error}); all finished results are kept: go "
                "on with a smaller batch in another folder, or on another device"
            ) from error
        reason = str(error) if isinstance(error, LinregError) else f"{type(error).__name__}: {error}"
        self._append(job, item, "failed", method=method.name, reason=reason)
        self.failures[method.name] += 1
        if self.failures[method.name] <= TOLD:
            tqdm.write(f"dmbp: failed: {method.name} on {item.name}: {reason}", file=sys.stderr)

    def _append(self, job: Job, item: Item, kind: str, **held: Any) -> None:
        self.writer.append({"kind": kind, "model": job.subject.model.name, "picture": item.name, **held})


def rows_of(model: Model, shown: Sequence[Shown]) -> Rows:
    """Each picture once for each of its classes, on the network's device."""
    like = next(model.network.parameters(), torch.empty(0))
    size = (model.preprocess.size[0], model.preprocess.size[1])
    targets, others, own, rows = [], [], [], []
    for one in shown:
        classes = list(one.item.targets)
        targets += classes
        others += [tuple(other for other in classes if other != target) for target in classes]
        own += [one.item.own_half(k, size) for k in range(len(classes))]
        rows += [one.x] * len(classes)
    return Rows(model.network, model.probability, torch.cat(rows).to(like), targets, others, own)


def _shares(shown: Sequence[Shown]) -> list[slice]:
    """Which rows are of each picture."""
    ends = np.cumsum([len(one.item.targets) for one in shown]).tolist()
    return [slice(end - len(one.item.targets), end) for one, end in zip(shown, ends, strict=True)]


@dataclass(eq=False)
class Made:
    """What was made of the pictures of a job, so that no work is done twice.

    `methods` are those that are asked for, one after the other. `maps` by method: one that is blurred to several widths
    is made once, and all of DMBP that come from one learning, maps after fewer iterations too, are made with the first.
    """

    methods: tuple[Judged, ...] = ()
    maps: dict[str, Tensor] = field(default_factory=dict)

    def of(self, method: Judged, rows: Rows) -> Tensor:
        """The maps of a method."""
        if isinstance(method, Blurred):
            return method.blur(self.of(method.base, rows))
        if method.name not in self.maps:
            if isinstance(method, DMBP):
                self._disentangle(method, rows)
            else:
                self.maps[method.name] = method(rows.network, rows.x, rows.targets)
        return self.maps[method.name]

    def _disentangle(self, method: DMBP, rows: Rows) -> None:
        """The maps of this method, and of all that learn as it does."""
        sharp = [other.base if isinstance(other, Blurred) else other for other in self.methods]
        alike = [other for other in sharp if isinstance(other, DMBP) and other.learns_as(method)]
        given = rows.network, rows.x, torch.tensor(rows.targets, device=rows.x.device)
        try:
            learning = method.learned(*given, {other.iterations for other in alike})
        except LinregError:
            if len(alike) < 2:
                raise
            learning, alike = method.learned(*given), []  # what fails in another learning is no matter of this one
        self.maps[method.name] = method.map_of(learning.after(method.iterations)).detach()
        for other in alike:
            if other.name not in self.maps:
                with suppress(LinregError):  # it is told when its turn comes
                    self.maps[other.name] = other.map_of(learning.after(other.iterations)).detach()


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
