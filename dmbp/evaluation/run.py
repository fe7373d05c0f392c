"""A whole evaluation: networks × pictures × methods × metrics, kept as it comes and resumed from what is kept.

The unit of work is a batch of pictures, always the same ones. Nothing that is computed hangs on what was computed
before, so that a run that was killed and started again ends with the numbers of one that was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dmbp.datasets import Item, Unreadable
from dmbp.errors import DmbpError
from dmbp.evaluation.measures import Judged
from dmbp.evaluation.plan import Plan, Subject
from dmbp.evaluation.processes import Ranks
from dmbp.evaluation.published import column
from dmbp.evaluation.record import Key, Results, Writer, read_results
from dmbp.evaluation.tables import Place, Study
from dmbp.evaluation.work import Clock, Job, Worker


def found_so_far(plan: Plan, out: Path) -> Evaluation:
    """What of the plan is in the folder `out`, while other processes may go on writing there. Computes nothing.

    Raises `DmbpError` where it was made differently.
    """
    results = read_results(out)
    results.check(plan.made())
    return Evaluation(_study(plan, results), 0, 0.0, 0.0, 0.0)


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
    check_alike(ranks.all(made))
    _check_pictures(plan, before, ranks)
    jobs = _jobs(plan, before)
    mine = jobs[ranks.rank :: ranks.world]
    with Writer(out, ranks.rank) as writer:
        writer.begin(made)
        total = sum(job.maps for job in mine)
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


def _jobs(plan: Plan, before: Results) -> list[Job]:
    """The batches that lack something, network by network, in the order of the data."""
    jobs: list[Job] = []
    for subject in plan.subjects:
        items = subject.pictures.items
        kept = frozenset(item.name for item in items[: plan.keep])
        for start in range(0, len(items), plan.batch):
            batch = items[start : start + plan.batch]
            lacking = [(method, _lacking(plan, before, subject, method, batch)) for method in plan.methods]
            if lacking := [(method, metrics) for method, metrics in lacking if metrics]:
                jobs.append(Job(subject, batch, lacking, kept))
    return jobs


def _lacking(
    plan: Plan, before: Results, subject: Subject, method: Judged, batch: Sequence[Item]
) -> dict[str, list[str]]:
    """Of each picture that lacks any, the metrics that it lacks."""
    found = {item.name: before.values.get(Key(subject.model.name, method.name, item.name), {}) for item in batch}
    missing = {picture: [name for name in plan.metrics if name not in there] for picture, there in found.items()}
    return {picture: metrics for picture, metrics in missing.items() if metrics}


def check_alike(made: list[dict[str, Any]]) -> None:
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


def _check_all_there(plan: Plan, jobs: Sequence[Job], after: Results) -> None:
    """Raise DmbpError where other processes' results are not in this folder."""
    for job in jobs:
        model = job.subject.model.name
        for method, lacking in job.lacking:
            for picture in lacking:
                key = Key(model, method.name, picture)
                if key not in after.values and key not in after.failed and (model, picture) not in after.skipped:
                    raise DmbpError(
                        f"the results of {picture} by {method.name} are not here: do all processes write to one folder?"
                    )


def _study(plan: Plan, results: Results) -> Study:
    """What the tables are made of: the pictures that could be read, in the order of the data."""
    places = []
    for subject in plan.subjects:
        name = subject.model.name
        names = (item.name for item in subject.pictures.items)
        pictures = tuple(picture for picture in names if (name, picture) not in results.unread)
        places.append(Place(subject.pictures.family, name, pictures))
    return Study(tuple(places), {method.name: column(method.name) for method in plan.methods}, plan.metrics, results)
