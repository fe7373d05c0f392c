"""Tables as text, Markdown, LaTeX, CSV and JSON: one table value, five ways to write it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from dmbp.evaluation.bootstrap import Mean
from dmbp.evaluation.tables import Row, Table

WIDTH = 120  # characters of a line of text; more columns go below
FEW = 10  # pictures: an interval of fewer is not to be believed
HEAD = ("data/network", "metric")


def as_text(tables: Sequence[Table]) -> str:
    """For a terminal: the best of a row in brackets, and the columns in as many blocks as the width asks for."""
    return "\n\n".join(_text(table) for table in tables) + "\n"


def _text(table: Table) -> str:
    body = [
        _named(row, "†") + tuple(_marked(table, row, k, TEXT) for k in range(len(table.columns))) for row in table.rows
    ]
    grid = [(*HEAD, *table.columns), *body]
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
    rows = [("DB/Model", "Metric", *table.columns), ("---", "---", *["---:"] * len(table.columns))]
    for row in table.rows:
        rows.append(
            _named(row, " (paper)") + tuple(_marked(table, row, k, MARKDOWN) for k in range(len(table.columns)))
        )
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in rows]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([f"### {table.title}", "", *lines, "", *notes, ""])


def as_latex(tables: Sequence[Table]) -> str:
    """For a paper: one `tabular` a table, with the rules of booktabs."""
    return "\n".join(_latex(table) for table in tables)


def _latex(table: Table) -> str:
    lines = [" & ".join(["DB/Model", "Metric", *map(_escaped, table.columns)]) + r" \\", r"\midrule"]
    for row in table.rows:
        head = [_escaped(part) for part in _named(row, "†")]
        cells = [_marked(table, row, k, LATEX) for k in range(len(table.columns))]
        lines.append(" & ".join([*head, *cells]) + r" \\")
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
    writer.writerow(["table", "data/network", "metric", "source", "method", "value", "low", "high", "pictures"])
    for table in tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                if cell is not None:
                    bounds = ["", "", ""] if row.printed else [cell.low, cell.high, cell.count]
                    source = "paper" if row.printed else "measured"
                    writer.writerow([table.name, row.place, row.measure, source, column, cell.value, *bounds])
    return stream.getvalue()


def as_json(tables: Sequence[Table]) -> str:
    """For a program: the tables as they are, in full precision."""
    return json.dumps([_object(table) for table in tables], indent=1, ensure_ascii=False) + "\n"


def _object(table: Table) -> dict[str, Any]:
    rows = [
        {
            "data/network": row.place, "metric": row.measure, "source": "paper" if row.printed else "measured",
            "numbers": {column: _number(cell) for column, cell in zip(table.columns, row.cells, strict=True) if cell},
        }
        for row in table.rows
    ]  # fmt: skip
    return {"name": table.name, "title": table.title, "rows": rows, "notes": list(table.notes)}


def _number(cell: Mean) -> dict[str, float]:
    held = {"value": cell.value, "low": cell.low, "high": cell.high, "pictures": cell.count}
    return {name: number for name, number in held.items() if cell.count or name == "value"}


RENDERERS: dict[str, Callable[[Sequence[Table]], str]] = {
    "txt": as_text, "md": as_markdown, "tex": as_latex, "csv": as_csv, "json": as_json,
}  # fmt: skip

# How the best of a row and the second best are written, and half of an interval behind a number.
TEXT, MARKDOWN, LATEX = (
    ("[{}]", "{}", " ±{}"),
    ("**[{}]**", "**{}**", " ±{}"),
    (r"\textbf{{[{}]}}", r"\textbf{{{}}}", r"\,{{\tiny $\pm${}}}"),
)


def _marked(table: Table, row: Row, column: int, style: tuple[str, str, str]) -> str:
    cell = row.cells[column]
    if cell is None:
        return ""
    best, second, spread = style
    digits = 2 if row.printed else 3
    rounded = round(cell.value, digits) + 0.0  # which is no −0
    number = f"{rounded:+.{digits}f}" if table.signed else f"{rounded:.{digits}f}"
    if column in row.marks:
        number = (best, second)[row.marks.index(column)].format(number)
    if math.isfinite(cell.spread):
        number += spread.format(f"{cell.spread:.3f}")
    excluded = table.signed and cell.count >= FEW and (cell.low > 0 or cell.high < 0)
    return number + ("*" if excluded else "")


def _named(row: Row, printed: str) -> tuple[str, str]:
    return (row.place + (printed if row.printed else ""), row.measure)


def _escaped(text: str) -> str:
    return re.sub(r"([_&%#$])", r"\\\1", text).replace("†", r"$^\dagger$").replace("⁺", "$^+$").replace("⁻", "$^-$")
