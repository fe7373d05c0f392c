"""The form of the lessons, so that they can be read aloud: short cells with one idea each, one statement a line.

Columns are counted without the comment sign of a Markdown cell, and tables of Markdown may be wider.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

import pytest

from tutorials import EXERCISES, FOLDER, TUTORIALS, Cell, cells, sections

LINES = 15
COLUMNS = 88
TOP = ("**You will see**", "**You need**", "**Time**")
HANDS = ("**Change a number and look.**", "**Do it to your own network.**")
FOLDED = {"hide-input", "hide-cell"}

# Pages that are still to be rewritten. A page leaves this list for good.
NOT_YET: set[str] = set()
LESSONS = {name: path for name, path in TUTORIALS.items() if name not in NOT_YET}

# What draws. Such a cell draws and does nothing else, and is folded.
DRAWS = re.compile(r"\b(plt\.(subplots|figure|subplot_mosaic)|draw_\w+|\w+_sheet|waterfall|drift_lines|\w+\.plot)\(")

# Of these the library's own, whose last line is the figure that a notebook shows.
GIVES_A_FIGURE = re.compile(r"(^|\.)(draw_curve|draw_explanation|\w+_sheet)$")


def problems(text: str) -> list[str]:
    """What is wrong with the form of a lesson, in words."""
    first, *others = cells(text)
    found = [f"its first cell does not say {said}" for said in TOP if said not in first.text]
    last = sections(text)[-1]
    found += [
        f"its exercises have no {said}" for said in HANDS if last.heading == EXERCISES and said not in last.markdown
    ]
    for cell in (first, *others):
        found += markdown_faults(cell) if cell.is_markdown else [f"{where(cell)}: {what}" for what in code_faults(cell)]
    return found


def where(cell: Cell) -> str:
    """The first line of a cell's code, by which it is found."""
    return next((line for line in cell.text.splitlines() if line.strip()), "an empty cell")


def markdown_faults(cell: Cell) -> list[str]:
    wide = [line for line in cell.text.splitlines() if len(line) > COLUMNS and not line.startswith("|")]
    return [f"a line of {len(line)} columns: {line}" for line in wide]


def code_faults(cell: Cell) -> Iterator[str]:
    """What is wrong with a cell of code."""
    lines = [line for line in cell.text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) > LINES:
        yield f"{len(lines)} lines of code"
    if any(len(line) > COLUMNS for line in cell.text.splitlines()):
        yield f"a line of {max(map(len, cell.text.splitlines()))} columns"
    tree = ast.parse(cell.text)
    yield from map(str, dict.fromkeys(squeezed(tree)))
    if DRAWS.search(cell.text) and not any(isinstance(node, ast.FunctionDef) for node in tree.body):
        if not any(tag in cell.marker for tag in FOLDED):
            yield "it draws and is not folded"
        if any(isinstance(node, ast.Assert) for node in tree.body):
            yield "it draws and asserts"
    if tree.body and shows(tree.body[-1]):
        yield "its last line leaves a stray output"


def squeezed(tree: ast.Module) -> Iterator[str]:
    """Statements that share a line, and expressions that hide one."""
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    first_lines = [node.lineno for node in statements]
    if len(set(first_lines)) < len(first_lines) or any(one.lineno <= last_line(other) for one, other in pairs(tree)):
        yield "two statements share a line"
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and unpacks_a_display(node):
            yield "several values are assigned on one line"
        if isinstance(node, ast.Assign) and len(node.targets) > 1:
            yield "one value is assigned to several names"
        if isinstance(node, ast.NamedExpr):
            yield "an assignment hides in an expression"
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call | ast.Constant):
            yield "an expression stands for a statement"


def unpacks_a_display(node: ast.Assign) -> bool:
    """Whether it is `a, b = 1, 2`; what a call gives may be unpacked."""
    targets = any(isinstance(target, ast.Tuple | ast.List) for target in node.targets)
    return targets and isinstance(node.value, ast.Tuple | ast.List)


def pairs(tree: ast.Module) -> Iterator[tuple[ast.stmt, ast.stmt]]:
    """Each statement behind the one before it in the same block."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield from zip(block[1:], block[:-1], strict=True)


def last_line(statement: ast.stmt) -> int:
    return statement.end_lineno or statement.lineno


def shows(statement: ast.stmt) -> bool:
    """Whether a notebook would print what the last statement of a cell gives."""
    if not isinstance(statement, ast.Expr):
        return False
    if isinstance(statement.value, ast.Constant):
        return False
    called = ast.unparse(statement.value.func) if isinstance(statement.value, ast.Call) else ""
    return called != "print" and not GIVES_A_FIGURE.search(called)


def definition(text: str, name: str) -> str | None:
    """The code of a function that a lesson defines."""
    tree = ast.parse("".join(cell.text for cell in cells(text) if not cell.is_markdown))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return ast.unparse(found[0]) if found else None


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_can_be_read_aloud(name: str) -> None:
    assert problems(LESSONS[name].read_text()) == []


def test_the_front_page_gives_the_minutes_that_the_lessons_give() -> None:
    front_page = (FOLDER / "site" / "index.md").read_text()
    listed = dict(re.findall(r"\(\.\./(\d\d_\w+)\.py\) \| (\d+) \|", front_page))
    times = {
        name: re.search(r"\*\*Time\*\*: (?:about )?(\d+) minutes", path.read_text()) for name, path in TUTORIALS.items()
    }
    assert listed == {name: time[1] for name, time in times.items() if time}


@pytest.mark.parametrize("name", ["mask_gradient", "masked_backward"])
def test_it_is_the_same_wherever_it_is_needed(name: str) -> None:
    texts = [path.read_text() for path in LESSONS.values()]
    found = [code for text in texts if (code := definition(text, name))]
    assert len(set(found)) <= 1


def test_what_is_still_to_be_rewritten_exists() -> None:
    assert set(TUTORIALS) >= NOT_YET


GOOD = """\
# %% [markdown]
# # 1. A lesson
#
# **You will see** something. **You need** nothing. **Time**: a minute.

# %%
total = 1 + 1

# %% tags=["hide-input"]
figure, ax = plt.subplots()
colorbar = figure.colorbar(ax)

# %% [markdown]
# ## Exercises
#
# 1. **Change a number and look.** Which?
# 2. **Do it to your own network.** What do you see?

# %% tags=["hide-cell"]
assert total == 2
"""


def code(more: str) -> Callable[[str], str]:
    return lambda text: text.replace("total = 1 + 1\n", more)


SPOILED: dict[str, tuple[Callable[[str], str], str]] = {
    "a long cell": (code("total = 2\n" * 16), "16 lines of code"),
    "a wide line": (code(f"total = {'1 + ' * 30}1\n"), "a line of 129 columns"),
    "wide words": (lambda text: text.replace("something", "something " * 9), "a line of"),
    "a semicolon": (code("total = 1; total = 2\n"), "share a line"),
    "a loop on one line": (code("for k in (1, 2): total = k\n"), "share a line"),
    "a list closed by another": (code("total = [\n1\n]; k = 2\n"), "share a line"),
    "two values at once": (code("total, other = 2, 3\n"), "several values"),
    "two names at once": (code("total = other = 2\n"), "several names"),
    "a walrus": (code("total = (other := 2)\n"), "hides in an expression"),
    "a loop in brackets": (code("total = 2\n[print(k) for k in (1, 2)]\n"), "stands for a statement"),
    "an or for an if": (code("total = 2\ntotal or print(total)\n"), "stands for a statement"),
    "an output that nobody asked for": (code("total = 2\nfigure.set(total=2)\n"), "stray output"),
    "an open drawing": (lambda text: text.replace(' tags=["hide-input"]', ""), "not folded"),
    "a drawing that asserts": (lambda text: text.replace("colorbar =", "assert ax\ncolorbar ="), "draws and asserts"),
    "no time": (lambda text: text.replace("**Time**", "Time"), "does not say **Time**"),
    "nothing to change": (lambda text: text.replace("Change", "Keep"), "have no **Change"),
}


def test_what_is_well_formed_has_no_problems() -> None:
    assert problems(GOOD) == []


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_not_is_seen(name: str) -> None:
    spoil, message = SPOILED[name]
    assert spoil(GOOD) != GOOD
    assert any(message in problem for problem in problems(spoil(GOOD)))
