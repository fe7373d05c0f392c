"""Tables of an evaluation: their numbers against plain ones, their intervals against what is known of means."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dmbp.errors import DmbpError
from dmbp.evaluation.bootstrap import Mean, means
from dmbp.evaluation.measures import metrics_of
from dmbp.evaluation.published import AVERAGE_2, PLACES, TABLE_1, TABLE_2, TABLE_3, column
from dmbp.evaluation.record import Key, Results
from dmbp.evaluation.rendering import RENDERERS
from dmbp.evaluation.tables import BETTER, Place, Row, Study, Table, tables
from dmbp.plot.differences_picture import draw_differences

# ---- intervals ----


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    """Of 400 numbers with known spread: 1.96 standard errors to each side, within what 4000 resamples tell."""
    values = np.random.default_rng(0).normal(3, 2, size=(400, 2))
    for found, given in zip(means(values), values.T, strict=True):
        error = given.std() / math.sqrt(400)
        assert found.value == pytest.approx(given.mean())
        assert (found.low, found.high) == pytest.approx(
            (given.mean() - 1.96 * error, given.mean() + 1.96 * error), abs=0.1 * error
        )
        assert found.count == 400 and found.spread == pytest.approx(1.96 * error, rel=0.1)


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    """In 400 samples of 40 numbers each: about 95 of a hundred times, a little less for so few numbers."""
    values = np.random.default_rng(1).exponential(size=(40, 400))
    held = np.mean([found.low <= 1 <= found.high for found in means(values)])
    assert 0.88 < held < 0.97


def test_columns_share_their_resamples_and_holes_are_left_out() -> None:
    values = np.random.default_rng(2).normal(size=(30, 1))
    first, second, shifted = means(np.hstack([values, values, values + 5]))
    assert first == second
    assert (shifted.low, shifted.high) == pytest.approx((first.low + 5, first.high + 5))
    holes = np.full((40, 2), np.nan)
    holes[:30, :1] = values
    found, empty = means(holes)
    assert (found.value, found.count) == (pytest.approx(first.value), 30)
    assert found.spread == pytest.approx(first.spread, rel=0.1)
    assert empty.count == 0 and math.isnan(empty.value)
    assert means(np.full((1, 1), 2.0)) == [Mean(2.0, 2.0, 2.0, 1)]


# ---- tables ----


def study(areas: dict[str, list[list[float]]], family: str = "some", model: str = "net") -> Study:
    """Of each method, the insertion areas of each picture's classes; cIM is one less insertion."""
    results = Results()
    for method, pictures in areas.items():
        for n, rows in enumerate(pictures):
            curves = [{"area": area, "lower": area - 0.1 * (method == "ig"), "upper": area} for area in rows]
            others = [{"area": 1 - area, "lower": 1 - area, "upper": 1 - area} for area in rows]
            results.values[Key(model, method, f"p{n}")] = {
                "insertion": curves, "cim": others if len(rows) > 1 else [None],
            }  # fmt: skip
    count = len(next(iter(areas.values())))
    place = Place(family, model, tuple(f"p{n}" for n in range(count)))
    return Study((place,), {name: column(name) for name in areas}, metrics_of(["insertion", "cim"], None), results)


AREAS = {
    "nd": [[0.2, 0.4], [0.1], [0.6, 0.2]] * 5,
    "dmbp": [[0.5, 0.5], [0.3], [0.7, 0.3]] * 5,
    "ig": [[0.1, 0.4], [0.2], [0.3, 0.1]] * 5,
    "dmbp:loss=+": [[0.4, 0.2], [0.5], [0.6, 0.3]] * 5,
}


def named(made: list[Table]) -> dict[str, Table]:
    return {table.name: table for table in made}


def test_numbers_are_means_over_pictures_of_means_over_classes() -> None:
    made = named(tables(study(AREAS)))
    assert list(made) == ["table-1", "table-2", "differences"]
    one = made["table-1"]
    assert one.columns == ("ND", "DMBP+", "DMBP") and one.rows[0].measure == "IM"
    cells = {title: cell.value for title, cell in zip(one.columns, one.rows[0].cells, strict=True) if cell}
    expected = {"ND": (0.3 + 0.1 + 0.4) / 3, "DMBP+": (0.3 + 0.5 + 0.45) / 3, "DMBP": (0.5 + 0.3 + 0.5) / 3}
    assert cells == pytest.approx(expected)
    assert (one.rows[0].best, one.rows[0].second) == ((2,), (1,))
    assert made["table-2"].columns == ("ND", "IG", "DMBP", "DMBP+")
    cim = made["table-2"].rows[1]
    assert cim.measure == "cIM" and cim.cells[0] is not None and cim.cells[0].count == 10
    assert cim.cells[0].value == pytest.approx(1 - (0.3 + 0.4) / 2)


def test_differences_are_paired_and_told_where_they_are_none() -> None:
    """ND and a copy that is better by 0.01 everywhere: the difference is sure, though both means vary a lot."""
    close = {"nd": AREAS["nd"], "ig": [[area + 0.01 for area in rows] for rows in AREAS["nd"]]}
    table = named(tables(study(close), "ND"))["differences"]
    assert table.columns == ("IG",) and table.rows[0].cells[0] is not None
    cell = table.rows[0].cells[0]
    assert (cell.value, cell.low, cell.high) == pytest.approx((0.01, 0.01, 0.01))
    text = RENDERERS["txt"]([table])
    assert "+0.010 ±0.000*" in text
    few = RENDERERS["txt"](tables(study({name: rows[:4] for name, rows in close.items()}), "ND")[-1:])
    assert "+0.010 ±0.000" in few and "±0.000*" not in few


def test_a_picture_shows_each_difference_with_its_interval() -> None:
    """Of enough pictures what is decided is filled; what has no number there has no line."""
    rng = np.random.default_rng(0)
    areas = {name: (rng.random((12, 1)) + shift).tolist() for name, shift in (("nd", -1), ("ig", 0), ("dmbp", 0))}
    table = named(tables(study(areas)))["differences"]
    one, other = (
        replace(table.rows[0], place="one"),
        replace(table.rows[0], place="other", cells=(None, table.rows[0].cells[1])),
    )
    figure = draw_differences(replace(table, rows=(one, other)))
    above, below = figure.subfigs
    for part, row, names in ((above, one, ["ND", "IG"]), (below, other, ["IG"])):
        [ax] = part.axes
        assert [label.get_text() for label in ax.get_yticklabels()] == names
        cells = [cell for cell in row.cells if cell]
        _, *drawn = ax.lines
        for cell, interval, point in zip(cells, drawn[::2], drawn[1::2], strict=True):
            assert list(interval.get_xdata()) == [cell.low, cell.high] and list(point.get_xdata()) == [cell.value]
            assert (point.get_markerfacecolor() == "white") == (cell.low < 0 < cell.high)
    assert above.axes[0].lines[2].get_markerfacecolor() != "white" == above.axes[0].lines[4].get_markerfacecolor()
    for wrong in (named(tables(study(areas)))["table-2"], replace(table, rows=())):
        with pytest.raises(DmbpError, match="a table of differences"):
            draw_differences(wrong)


def test_a_picture_has_room_for_names_titles_and_words() -> None:
    """Names stand at the first panel that there is; all words are inside the picture, and no panel is squeezed."""
    cell = Mean(0.01, -0.01, 0.03, 12)
    long = "guided-gradcam:layer=features.28,enlarge=nearest,times_input=False blur 2"
    place = "pictures/" + "a/long/path/" * 10
    for columns, rows in (
        (("ND",), (Row("one", "IM", (cell,)),)),
        ((long,), (Row(place, "cascading correlation order=bottom-up,seed=3", (cell,), better=0),)),
        (("ND", "IG"), (Row("one", "IM", (cell, cell)), Row("two", "deletion", (cell, cell), better=-1))),
    ):
        figure = draw_differences(Table("differences", "Differences to DMBP", columns, rows, (), signed=True))
        figure.canvas = FigureCanvasAgg(figure)
        figure.canvas.draw()
        shown = [ax for part in figure.subfigs for ax in part.axes if ax.get_visible()]
        for ax, row in zip(shown, rows, strict=True):
            assert [tick.label1.get_visible() for tick in ax.yaxis.get_major_ticks()] == [True] * len(columns)
            assert ax.get_title().endswith(f"12 pictures; {BETTER[row.better]}")
            assert ax.get_window_extent().width > 2.4 * figure.dpi
        names = [name for ax in shown for name in ax.get_yticklabels()]
        for text in (*figure.texts, *(text for part in figure.subfigs for text in part.texts), *names):
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width, text.get_text()


def test_the_papers_figures_stand_under_ours_of_the_same_network() -> None:
    made = named(tables(study(AREAS, "VOC2012", "voc:vgg16")))
    rows = made["table-1"].rows
    assert [(row.place, row.measure, row.printed) for row in rows[:4]] == [
        ("VOC/VGG16", "IM", False), ("VOC/VGG16†", "IM", True),
        ("VOC/VGG16", "cIM", False), ("VOC/VGG16†", "cIM", True),
    ]  # fmt: skip
    assert [cell.value for cell in rows[1].cells if cell] == [0.36, 0.62, 0.57]
    assert sum(row.printed for row in rows) == len(TABLE_1)
    text = RENDERERS["txt"]([made["table-1"]])
    assert "VOC/VGG16†" in text and "[0.62]" in text and "95 % bootstrap interval" in text


def test_the_average_is_that_of_the_rows_above_it() -> None:
    """The paper's own Avg is the mean of its six rows, as printed; ours of our rows, with the interval of that mean."""
    for method, printed in AVERAGE_2[0].figures.items():
        assert abs(np.mean([line.figures[method] for line in TABLE_2]) - printed) < 0.0051
    areas = dict(AREAS)
    areas["ig"] = [rows[:1] for rows in AREAS["ig"]]  # which has no cIM
    made = study(areas)
    *rows, ours, paper = named(tables(made))["table-2"].rows
    columns = named(tables(made))["table-2"].columns
    assert (ours.place, ours.measure, ours.printed) == ("Avg", "", False) and (paper.place, paper.printed) == (
        "Avg†",
        True,
    )
    assert [cell.value for cell in paper.cells if cell] == [0.23, 0.27, 0.42]
    own = [row for row in rows if not row.printed]
    for k, title in enumerate(columns):
        above, cell = [row.cells[k] for row in own], ours.cells[k]
        if title == "IG":
            assert cell is None and None in above
            continue
        assert cell is not None and cell.value == pytest.approx(np.mean([each.value for each in above if each]))
        assert cell.count == 10 and cell.low < cell.value < cell.high
    # cIM is one less IM: where each picture has both, their mean is a half whatever is drawn.
    both = study({name: [rows for rows in pictures if len(rows) > 1] for name, pictures in AREAS.items()})
    for cell in named(tables(both))["table-2"].rows[-2].cells:
        assert cell is not None and (cell.low, cell.value, cell.high) == pytest.approx((0.5, 0.5, 0.5))
    text = RENDERERS["txt"]([named(tables(made))["table-2"]])
    assert "Avg is the mean of our rows" in text
    single = study({"nd": [[0.2], [0.3]], "dmbp": [[0.3], [0.1]]})
    assert [row.place for row in named(tables(single))["table-2"].rows if row.place == "Avg"] == []


def test_what_ties_and_gaps_do_is_said() -> None:
    gaps = study(AREAS)
    del gaps.results.values[Key("net", "ig", "p3")]
    notes = " ".join(named(tables(gaps))["table-2"].notes)
    assert "some/net: 15 pictures." in notes
    assert "IG: only 14 of 15 pictures" in notes
    assert "IM by the order of equal pixels: IG 0." in notes


def test_of_one_picture_there_is_no_interval() -> None:
    one = tables(study({name: rows[:1] for name, rows in AREAS.items()}))
    for ending in ("txt", "md", "tex"):
        numbers = RENDERERS[ending](one).replace("± is half", "")
        assert "±" not in numbers and "pm" not in numbers and "0.300" in numbers


def test_latex_escapes_all_that_names_may_hold() -> None:
    row = Row("a~b/c^2", r"x\y {z} <&> 5 % #1 $", (None,))
    tex = RENDERERS["tex"]([Table("t", "T", ("DMBP:sites=relu|fc_1",), (row,), ())])
    assert r"DMBP:sites=relu\textbar{}fc\_1 \\" in tex
    assert r"a\textasciitilde{}b/c\textasciicircum{}2 &" in tex
    assert r"x\textbackslash{}y \{z\} \textless{}\&\textgreater{} 5 \% \#1 \$ &" in tex


@pytest.mark.parametrize("ending", RENDERERS)
def test_every_kind_of_text_holds_the_numbers(ending: str) -> None:
    made = tables(study(AREAS))
    text = RENDERERS[ending](made)
    value = named(made)["table-1"].rows[0].cells[2]
    assert value is not None
    if ending == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        wanted = {"table": "table-1", "metric": "IM", "column": "DMBP", "source": "measured"}
        [row] = [r for r in rows if wanted.items() <= r.items()]
        assert [float(row[key]) for key in ("value", "low", "high")] == [value.value, value.low, value.high]
        cells = [cell for table in made for row in table.rows for cell in row.cells if cell]
        assert sum(r["source"] == "paper" for r in rows) == sum(cell.printed for cell in cells) > 10
        assert len(rows) == len(cells)
    elif ending == "json":
        [row, *_] = json.loads(text)[0]["rows"]
        told = {"source": "measured", "value": value.value, "low": value.low, "high": value.high, "pictures": 15}
        assert (row["row"], row["metric"], row["numbers"]["DMBP"]) == ("some/net", "IM", told)
    else:
        best = {"txt": "[0.433]", "md": "**[0.433]** ±", "tex": r"\textbf{[0.433]}\,{\tiny $\pm$"}[ending]
        assert best in text
        assert text.count("DMBP+") >= 1 and len(text.splitlines()) > 10


def test_a_wide_table_is_told_in_blocks() -> None:
    many = {f"ig:steps={k}": AREAS["ig"] for k in range(1, 13)}
    text = RENDERERS["txt"](tables(study(many)))
    assert max(map(len, text.split("\n\n")[1].splitlines())) <= 120
    assert all(f"IG:steps={k}" in text for k in range(1, 13))


def test_the_papers_tables_are_whole() -> None:
    assert (len(TABLE_1), len(TABLE_2), len(TABLE_3)) == (6, 6, 4)
    assert {line.figures["DMBP"] for line in TABLE_3} == {0.02, -0.03, 0.0}
    averages = dict(zip(TABLE_2[0].figures, PRINTED, strict=True))
    for title, printed in averages.items():  # which the paper prints below its Table 2, and rounds
        assert np.mean([line.figures[title] for line in TABLE_2]) == pytest.approx(printed, abs=0.00501), title
    for line in TABLE_1 + TABLE_2 + TABLE_3:
        assert line.place in PLACES.values() and line.metric in ("IM", "cIM", "correlation")


PRINTED = (0.23, 0.27, 0.34, 0.22, 0.26, 0.28, 0.34, 0.27, 0.31, 0.32, 0.37, 0.42)


def test_table_3_has_a_row_for_each_method() -> None:
    results = Results()
    for method, values in {"guided-backprop": (0.9, 0.7), "dmbp": (0.1, -0.2)}.items():
        for n, value in enumerate(values):
            results.values[Key("voc:vgg16", method, f"p{n}")] = {"randomization": [{"mean": value, "layers": [value]}]}
    names = {name: column(name) for name in ("guided-backprop", "dmbp")}
    place = Place("VOC2012", "voc:vgg16", ("p0", "p1"))
    made = tables(Study((place,), names, metrics_of(["randomization"], None), results))
    table = named(made)["table-3"]
    assert table.columns == ("VOC/VGG16", "VOC/VGG16†", "VOC/RN50†", "ImNet/VGG16†", "ImNet/RN50†")
    assert [(row.place, row.measure) for row in table.rows] == [("GBp", "correlation"), ("DMBP", "correlation")]
    found = [[cell.value for cell in row.cells if cell] for row in table.rows]
    assert found == [pytest.approx([0.8, 0.99, 0.99, 0.99, 0.99]), pytest.approx([-0.05, 0.02, -0.03, 0.0, 0.0])]
    assert table.rows[1].best == (0, 1, 2, 3, 4) and table.rows[0].best == ()
    text = RENDERERS["txt"]([table])
    assert "[-0.050] ±" in text and "0.99" in text
    numbers = json.loads(RENDERERS["json"]([table]))[0]["rows"][0]["numbers"]
    told = {name: (number["source"], number["value"]) for name, number in numbers.items()}
    assert told == {
        "VOC/VGG16": ("measured", pytest.approx(0.8)), "VOC/VGG16†": ("paper", 0.99), "VOC/RN50": ("paper", 0.99),
        "ImNet/VGG16": ("paper", 0.99), "ImNet/RN50": ("paper", 0.99),
    }  # fmt: skip
