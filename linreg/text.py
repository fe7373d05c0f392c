"""Text for people: numbers, and tables, plain and for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import floor, log10
from textwrap import fill

Row = Sequence[str]

SHOWN = 3  # numbers of a batch in one line
TERMINAL = 100  # characters in a line of prose


def number(value: float, signed: bool = False, figures: int = 3) -> str:
    """So many figures, or all before the point; `signed` puts a plus too. The minus is one."""
    if value == 0:
        return "0"
    sign = "+" if signed else ""
    whole = abs(value) >= 10**figures - 0.5
    text = f"{value:{sign},.0f}" if whole else f"{value:{sign}#.{figures}g}".rstrip(".")
    return text.replace("-", "−")


def numbers(values: Sequence[float], shown: int = SHOWN) -> str:
    """The first of some values with four figures, and how many more there are: one for each image, say."""
    first = ", ".join(number(value, figures=4) for value in values[:shown])
    return first + _more(len(values) - shown)


def counted(count: int, name: str) -> str:
    """ "1 image", "3 images"."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def wrapped(line: str, width: int = TERMINAL) -> str:
    """A line in lines of at most so many characters, broken between words; words alone may be longer."""
    if len(line) <= width:
        return line
    return fill(line, width, break_long_words=False, break_on_hyphens=False)


def signed(value: float) -> str:
    """A share of the score in a table: six figures and its sign, in ASCII."""
    return f"{value:+.6g}"


def decimals(values: Iterable[float]) -> int:
    """How many decimals a column gets, all its numbers alike, so that what is printed adds up as the numbers do."""
    largest = max(map(abs, values), default=0.0)
    if 0 < largest < 0.1:
        return 3 - floor(log10(largest))
    return 2 if largest >= 1000 else 4


def table(rows: Iterable[Row], header: Row, right: Iterable[int] = ()) -> str:
    """Rows of text under a header, columns aligned; the columns numbered in `right` are set to the right."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    on_right = set(right)

    def line(cells: Row) -> str:
        set_cells = (
            c.rjust(w) if i in on_right else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(set_cells).rstrip()

    return "\n".join([line(lines[0]), "  ".join("─" * width for width in widths), *map(line, lines[1:])])


def html_table(rows: Iterable[Row], header: Row, right: Iterable[int] = (), below: str = "") -> str:
    """The same table for a notebook, with lines of text `below` it."""
    on_right = set(right)

    def line(tag: str, cells: Row) -> str:
        sides = ("right" if i in on_right else "left" for i in range(len(cells)))
        set_cells = (f'<{tag} style="text-align: {s}">{escape(c)}</{tag}>' for s, c in zip(sides, cells, strict=True))
        return f"<tr>{''.join(set_cells)}</tr>"

    head, body = line("th", header), "\n".join(line("td", row) for row in rows)
    text = "".join(f"\n<p>{escape(paragraph)}</p>" for paragraph in below.splitlines())
    return f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>{text}"


def _more(count: int) -> str:
    return f" and {count:,} more" if count > 0 else ""
