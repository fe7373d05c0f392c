"""Plain text tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(rows: Iterable[Sequence[str]], header: Sequence[str], right: Iterable[int] = ()) -> str:
    """Rows of text under a header, columns aligned; the columns numbered in `right` are set to the right."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    on_right = set(right)

    def line(cells: Sequence[str]) -> str:
        set_cells = (
            c.rjust(w) if i in on_right else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(set_cells).rstrip()

    return "\n".join([line(lines[0]), "  ".join("─" * width for width in widths), *map(line, lines[1:])])
