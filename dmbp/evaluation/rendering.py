"""Tables as text, Markdown, LaTeX, CSV and JSON: one table value, five ways to write it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from dmbp.evaluation.bootstrap import Mean
from dmbp.evaluation.tables import DAGGER, Row, Table

WIDTH = 120  # characters of a line of text; more columns go below


def as_text(tables: Sequence[Table]) -> str:
    """For a terminal: the best of a row in brackets, and the columns in as many blocks as the width asks for."""
    return "\n\n".join(_text(table) for table in tables) + "\n"


def _text(table: Table) -> str:
    grid = [(*table.head, *table.columns), *(_line(table, row, TEXT) for row in table.rows)]
    widths = [max(len(line[k]) for line in grid) for k in range(len(grid[0]))]
    blocks = "\n\n".join(_block(grid, widths, columns) for columns in _columns(widths))
    return "\n".join([table.title, "", blocks, "", *table.notes])


def _columns(widths: list[int]) -> list[list[int]]:
    """The columns of each block, after the two of the head."""
    blocks: list[list[int]] = [[]]
    room = WIDTH - sum(widths[:2]) - 2
    left = room
    for column in range(2, len(widths)):
        if widths[column] + 2 > left and blocks[-1]:
            blocks.append([])
            left = room
        blocks[-1].append(column)
        left -= widths[column] + 2
    return blocks


def _block(grid: list[tuple[str, ...]], widths: list[int], columns: list[int]) -> str:
    lines = []
    for line in grid:
        head = "  ".join(line[k].ljust(widths[k]) for k in (0, 1))
        lines.append("  ".join([head, *(line[k].rjust(widths[k]) for k in columns)]).rstrip())
    lines.insert(1, "─" * max(map(len, lines)))
    return "\n".join(lines)


def as_markdown(tables: Sequence[Table]) -> str:
    """For a page: the best of a row bold and in brackets, the second best bold, as in the paper."""
    return "\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    rows = [(*table.head, *table.columns), ("---", "---", *["---:"] * len(table.columns))]
    rows += [_line(table, row, MARKDOWN) for row in table.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in rows]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([f"### {table.title}", "", *lines, "", *notes, ""])


def as_latex(tables: Sequence[Table]) -> str:
    """For a paper: one `tabular` a table, with the rules of booktabs."""
    return "\n".join(_latex(table) for table in tables)


def _latex(table: Table) -> str:
    lines = [" & ".join([*table.head, *map(_escaped, table.columns)]) + r" \\", r"\midrule"]
    for row in table.rows:
        place, measure, *cells = _line(table, row, LATEX)
        lines.append(" & ".join([_escaped(place), _escaped(measure), *cells]) + r" \\")
    notes = [f"% {note}" for note in table.notes]
    columns = "ll" + "r" * len(table.columns)
    return "\n".join(
        [f"% {table.title}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}",
         *notes, ""]
    )  # fmt: skip


def as_csv(tables: Sequence[Table]) -> str:
    """For a spreadsheet: one line a number, of all tables, in full precision."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["table", "row", "metric", "column", "source", "value", "low", "high", "pictures"])
    for table in tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                if cell is not None:
                    bounds = ["", "", ""] if cell.printed else [cell.low, cell.high, cell.count]
                    head = [table.name, row.place.removesuffix(DAGGER), row.measure, column.removesuffix(DAGGER)]
                    writer.writerow([*head, _source(cell), cell.value, *bounds])
    return stream.getvalue()


def as_json(tables: Sequence[Table]) -> str:
    """For a program: the tables as they are, in full precision."""
    return json.dumps([_object(table) for table in tables], indent=1, ensure_ascii=False) + "\n"


def _object(table: Table) -> dict[str, Any]:
    rows = [
        {
            "row": row.place.removesuffix(DAGGER), "metric": row.measure,
            "numbers": {
                column: _number(cell) for column, cell in zip(_distinct(table.columns), row.cells, strict=True) if cell
            },
        }
        for row in table.rows
    ]  # fmt: skip
    return {"name": table.name, "title": table.title, "rows": rows, "notes": list(table.notes)}


def _distinct(columns: Sequence[str]) -> list[str]:
    """Without the dagger, which `source` stands for, but where a column of ours has the name that is left."""
    bare = [column.removesuffix(DAGGER) for column in columns]
    return [column if bare.count(name) > 1 else name for column, name in zip(columns, bare, strict=True)]


def _source(cell: Mean) -> str:
    return "paper" if cell.printed else "measured"


def _number(cell: Mean) -> dict[str, Any]:
    interval = {} if cell.printed else {"low": cell.low, "high": cell.high, "pictures": cell.count}
    return {"source": _source(cell), "value": cell.value, **interval}


RENDERERS: dict[str, Callable[[Sequence[Table]], str]] = {
    "txt": as_text, "md": as_markdown, "tex": as_latex, "csv": as_csv, "json": as_json,
}  # fmt: skip

# How the best of a row and the second best are written, and half of an interval behind a number.
TEXT, MARKDOWN, LATEX = (
    ("[{}]", "{}", " ±{}"),
    ("**[{}]**", "**{}**", " ±{}"),
    (r"\textbf{{[{}]}}", r"\textbf{{{}}}", r"\,{{\tiny $\pm${}}}"),
)


def _line(table: Table, row: Row, style: tuple[str, str, str]) -> tuple[str, ...]:
    """The cells of a row, its two words first."""
    return row.place, row.measure, *(_marked(table, row, k, style) for k in range(len(table.columns)))


def _marked(table: Table, row: Row, column: int, style: tuple[str, str, str]) -> str:
    cell = row.cells[column]
    if cell is None:
        return ""
    best, second, spread = style
    digits = 2 if cell.printed else 3
    rounded = round(cell.value, digits) + 0.0  # which is no −0
    number = f"{rounded:+.{digits}f}" if table.signed else f"{rounded:.{digits}f}"
    if column in row.best:
        number = best.format(number)
    elif column in row.second:
        number = second.format(number)
    if math.isfinite(cell.spread):
        number += spread.format(f"{cell.spread:.3f}")
    return number + ("*" if table.signed and cell.decided else "")


def _escaped(text: str) -> str:
    return text.translate(LETTERS)


LETTERS = str.maketrans({
    **{letter: f"\\{letter}" for letter in "_&%#${}"},
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "|": r"\textbar{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "†": r"$^\dagger$", "⁺": "$^+$", "⁻": "$^-$",
})  # fmt: skip
