"""From results to the paper's tables: means with intervals, and paired differences to one method.

Index letters: n pictures, k methods.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dmbp.evaluation.bootstrap import Mean, mean_of_means, means
from dmbp.evaluation.measures import Metric
from dmbp.evaluation.published import (
    AVERAGE,
    AVERAGE_2,
    CIM,
    CORRELATION,
    IM,
    PLACES,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    Published,
)  # fmt: skip
from dmbp.evaluation.record import Key, Results
from linreg.text import counted


@dataclass(frozen=True)
class Row:
    """One line of a table: what it is of, and a number for each column, None where there is none.

    `place` and `measure` are the words of the first two columns; `best` and `second` are the columns to be marked so;
    `better` is that of the metric.
    """

    place: str
    measure: str
    cells: tuple[Mean | None, ...]
    best: tuple[int, ...] = ()
    second: tuple[int, ...] = ()
    better: int = 1

    @property
    def printed(self) -> bool:
        """Whether all its figures are the paper's."""
        return all(cell is None or cell.printed for cell in self.cells)


@dataclass(frozen=True)
class Table:
    """A table as people read it, before it is text of any kind; `signed` where its numbers are differences."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    signed: bool = False
    head: tuple[str, str] = ("data/network", "metric")


@dataclass(frozen=True)
class Place:
    """One network on one data set: the pictures that were taken, by name."""

    family: str
    model: str
    pictures: tuple[str, ...]

    @property
    def title(self) -> str:
        return PLACES.get((self.family, self.model), f"{self.family}/{self.model}")


@dataclass(frozen=True)
class Study:
    """All that the tables are made of. `methods` maps the key of each method in the results to its column's title."""

    places: tuple[Place, ...]
    methods: Mapping[str, str]
    metrics: Mapping[str, Metric]
    results: Results

    def _kept(self, model: str, metric: str) -> list[dict[str, Any]]:
        """What is kept of a metric for a network: of each map and class a dict, where the metric has a meaning."""
        there = (found.get(metric, ()) for key, found in self.results.values.items() if key.model == model)
        return [row for rows in there for row in rows if row is not None]

    def missing(self, model: str) -> list[str]:
        """The metrics that were computed for no map of this network yet, though there are maps."""
        there = [found for key, found in self.results.values.items() if key.model == model]
        return [metric for metric in self.metrics if there and not any(metric in found for found in there)]

    def without_numbers(self, model: str) -> list[str]:
        """The metrics that were computed for this network and have no number for any picture."""
        return [
            name
            for name, metric in self.metrics.items()
            if any(name in found for key, found in self.results.values.items() if key.model == model)
            and not any(row[quantity] is not None for row in self._kept(model, name) for quantity in metric.quantities)
        ]

    def values(self, place: Place, metric: str, quantity: str) -> np.ndarray:
        """(n, k): of each picture the mean over its classes, NaN where there is no such number."""
        made = np.full((len(place.pictures), len(self.methods)), np.nan)
        for n, picture in enumerate(place.pictures):
            for k, method in enumerate(self.methods):
                rows = self.results.values.get(Key(place.model, method, picture), {}).get(metric, ())
                found = [row[quantity] for row in rows if row is not None and row[quantity] is not None]
                if found:
                    made[n, k] = np.mean(found)
        return made


def tables(study: Study, reference: str | None = None) -> list[Table]:
    """The paper's Tables 1, 2 and 3 with its own figures, all other metrics, and differences to the method `reference`.

    A table appears where there are methods and metrics for it. A number is the mean over pictures of the mean over the
    classes of a picture; its interval is that of `bootstrap`. Differences are paired by picture.
    """
    titles = list(study.methods.values())
    ablations = [title for title in TABLE_1[0].figures if title in titles]
    made = [
        _averaged(
            study, _table(study, "table-2", "Table 2: comparison of methods", _in_order(titles), CURVES, TABLE_2)
        ),
        _turned(_table(study, "table-3", TITLE_3, titles, REDRAWN, TABLE_3)),
        _table(study, "further", "Further metrics", titles, _further(study), ()),
    ]
    if len(ablations) > 1:
        made.insert(0, _table(study, "table-1", "Table 1: losses of DMBP", ablations, CURVES, TABLE_1))
    reference = reference or ("DMBP" if "DMBP" in titles else titles[0])
    if len(titles) > 1:
        made.append(_differences(study, reference))
    return [table for table in made if any(not row.printed for row in table.rows)]


CURVES, REDRAWN = (IM, CIM), (CORRELATION,)


def _in_order(titles: Sequence[str]) -> list[str]:
    """The paper's methods as in its Table 2, and then all others."""
    known = [title for title in TABLE_2[0].figures if title in titles]
    return known + [title for title in titles if title not in known]


def _further(study: Study) -> tuple[str, ...]:
    shown = {*CURVES, *REDRAWN}
    return tuple(dict.fromkeys(metric.title for metric in study.metrics.values() if metric.title not in shown))


def _table(
    study: Study, name: str, title: str, columns: Sequence[str], measures: Sequence[str], printed: Sequence[Published]
) -> Table:
    """Of some methods and metrics: our rows, each above the paper's of the same network, and the paper's others."""
    rows: list[Row] = []
    rest = [line for line in printed if line.metric in measures]
    for place in study.places:
        for metric, quantity, measure in _quantities(study, measures):
            cells = _cells(study, place, metric, quantity, columns)
            if not any(cells):
                continue
            rows.append(Row(place.title, measure, cells, *_ranked(cells, study.metrics[metric].better)))
            same = [line for line in rest if (line.place, line.metric) == (place.title, measure)]
            rows += [_printed(line, columns) for line in same]
            rest = [line for line in rest if line not in same]
    others = [_printed(line, columns) for line in rest]
    notes = (*_counts(study, measures), *_ties(study, measures), *([PRINTED] if printed else []))
    return Table(name, title, tuple(columns), (*rows, *(row for row in others if any(row.cells))), notes)


def _averaged(study: Study, table: Table) -> Table:
    """With the paper's last row, the mean of the rows above it: of ours where there are several, and of its own."""
    blocks = [
        study.values(place, metric, quantity)
        for place in study.places
        for metric, quantity, _ in _quantities(study, CURVES)
    ]
    blocks = [block for block in blocks if np.isfinite(block).any()]
    rows = list(table.rows)
    notes = table.notes
    if len(blocks) > 1:
        found = dict(zip(study.methods.values(), mean_of_means(blocks), strict=True))
        cells = tuple(found[column] if found[column].count else None for column in table.columns)
        if any(cells):
            rows.append(Row(AVERAGE, "", cells, *_ranked(cells, 1)))
            notes = (*notes, AVERAGED)
    own = [_printed(line, table.columns) for line in AVERAGE_2]
    rows += [replace(row, measure="") for row in own if any(row.cells)]
    return replace(table, rows=tuple(rows), notes=notes)


DAGGER = "†"
TITLE_3 = "Table 3: rank correlation with the maps of a network whose last layer is redrawn"
AVERAGED = "Avg is the mean of our rows, as the paper's is of its own; a method that lacks a number in one has none."
PRINTED = "† marks the figures that the paper prints, of its own networks and data; they have no interval."


def _quantities(study: Study, measures: Sequence[str]) -> list[tuple[str, str, str]]:
    """Each number of these metrics: the metric's key, the quantity, and how a row calls it, with its options."""
    return [
        (key, quantity, " ".join(part for part in (metric.title, words, key.partition(":")[2]) if part))
        for key, metric in study.metrics.items()
        if metric.title in measures
        for quantity, words in metric.quantities.items()
    ]


def _cells(study: Study, place: Place, metric: str, quantity: str, columns: Sequence[str]) -> tuple[Mean | None, ...]:
    found = dict(zip(study.methods.values(), means(study.values(place, metric, quantity)), strict=True))
    return tuple(found[column] if found[column].count else None for column in columns)


def _printed(line: Published, columns: Sequence[str]) -> Row:
    figures = [line.figures.get(column) for column in columns]
    cells = tuple(None if figure is None else Mean(figure, np.nan, np.nan, 0) for figure in figures)
    return Row(line.place + DAGGER, line.metric, cells, *_ranked(cells, 0 if line.metric == CORRELATION else 1))


def _turned(table: Table) -> Table:
    """With a row for each method, and a column for each network, as the paper's Table 3."""
    rows = []
    for k, title in enumerate(table.columns):
        cells = tuple(row.cells[k] for row in table.rows)
        best = tuple(place for place, row in enumerate(table.rows) if row.best == (k,))
        rows.append(Row(title, CORRELATION, cells, best))
    columns = tuple(row.place + row.measure.removeprefix(CORRELATION) for row in table.rows)
    return replace(table, columns=columns, rows=tuple(rows), head=("method", "metric"))


def _ranked(cells: Sequence[Mean | None], better: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The best column and the second best, where there are at least two."""

    def merit(column: int) -> float:
        cell = cells[column]
        assert cell is not None
        return better * cell.value if better else -abs(cell.value)

    filled = [column for column, cell in enumerate(cells) if cell is not None]
    first, second, *_ = [*sorted(filled, key=merit, reverse=True), None, None]
    if first is None or second is None:
        return (), ()
    return (first,), (second,)


def _differences(study: Study, reference: str) -> Table:
    """method − reference, of the pictures that both have, with the interval of this difference."""
    titles = list(study.methods.values())
    place_of = titles.index(reference)
    columns = [title for title in _in_order(titles) if title != reference]
    rows: list[Row] = []
    for place in study.places:
        for metric, quantity, measure in _quantities(study, [m.title for m in study.metrics.values()]):
            values = study.values(place, metric, quantity)
            found = dict(zip(titles, means(values - values[:, place_of : place_of + 1]), strict=True))
            cells = tuple(found[column] if found[column].count else None for column in columns)
            if any(cells):
                rows.append(Row(place.title, measure, cells, better=study.metrics[metric].better))
    notes = (
        f"A positive number is more than {reference} has.",
        *_unusual(rows),
        "The interval of a number marked * does not hold 0; with fewer than 10 pictures nothing is marked.",
    )
    title = f"Differences to {reference}, paired by picture"
    return Table("differences", title, tuple(columns), tuple(rows), notes, signed=True)


BETTER = {1: "more is better", -1: "less is better", 0: "near 0 is best"}  # by what a metric says of itself


def _unusual(rows: Sequence[Row]) -> Iterator[str]:
    """What is better, of the metrics of which that is not more."""
    for better in (-1, 0):
        if measures := dict.fromkeys(row.measure for row in rows if row.better == better):
            yield f"Of {' and '.join(measures)}, {BETTER[better]}."


def _counts(study: Study, measures: Sequence[str]) -> tuple[str, ...]:
    """How many pictures there are, and of which methods fewer were judged by these metrics."""
    notes = ["± is half of a 95 % bootstrap interval over pictures."]
    for place in study.places:
        total = len(place.pictures)
        notes.append(f"{place.title}: {counted(total, 'picture')}.")
        lacking = defaultdict[tuple[str, int], list[str]](list)
        for method, title in study.methods.items():
            for words, have in _judged(study, place, method, measures).items():
                if have < total:
                    lacking[words, have].append(title)
        for (words, have), titles in lacking.items():
            whose = ", ".join([*([words] if words else []), *titles])
            notes.append(f"{place.title}, {whose}: only {have} of {total} pictures; other maps failed or are missing.")
    return tuple(notes)


def _judged(study: Study, place: Place, method: str, measures: Sequence[str]) -> dict[str, int]:
    """How many pictures each metric judged a method on, by the metric's words; "" where all have the same number."""
    found = [study.results.values.get(Key(place.model, method, picture), {}) for picture in place.pictures]
    begun = dict.fromkeys(key for key, _, _ in _quantities(study, measures) if key not in study.missing(place.model))
    have = {key: sum(key in metrics for metrics in found) for key in begun}
    return have if len(set(have.values())) > 1 else {"": max(have.values(), default=0)}


def _ties(study: Study, measures: Sequence[str]) -> tuple[str, ...]:
    """Where the order of equal pixels decides: between which means."""
    notes = []
    for place in study.places:
        for metric, quantity, measure in _quantities(study, measures):
            if quantity != "area":
                continue
            bounds: list[str] = []
            lower, upper = (means_of(study.values(place, metric, bound)) for bound in ("lower", "upper"))
            for title, low, high in zip(study.methods.values(), lower, upper, strict=True):
                if high - low > WORTH_TELLING:
                    bounds.append(f"{title} {low:.3f} to {high:.3f}")
            if bounds:
                notes.append(f"{place.title}, {measure} by the order of equal pixels: {', '.join(bounds)}.")
    return tuple(notes)


WORTH_TELLING = 0.02


def means_of(values: np.ndarray) -> np.ndarray:
    """The mean of each column where it is defined, NaN where it is nowhere."""
    defined = np.isfinite(values)
    total = np.where(defined, values, 0.0).sum(0)
    return np.divide(total, defined.sum(0), out=np.full_like(total, np.nan), where=defined.any(0))
