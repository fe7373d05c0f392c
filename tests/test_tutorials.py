"""The tutorials run, and each section of them has what a section needs."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import tutorials
from tutorials import EXERCISES, TUTORIALS, Section, cells, sections

PLAIN = {"Symbols", "Summary"}  # sections that derive nothing
SLOW = {"05_learning", "06_masks", "07_pictures", "09_what_to_believe", "10_measuring"}  # above some ten seconds

HEADING = re.compile(r"(Eqs?\. \(\d+\)|Algorithm 1|Appendix B\.1|(Figure|Table|Section) \d)[^:]*: \S")
# What draws: pyplot, and the library's own pictures.
FIGURE = re.compile(r"\b(plt\.(subplots|figure|subplot_mosaic)|draw_\w+|\w+_sheet|waterfall|drift_lines|\w+\.plot)\(")
FOREIGN = {path.stem for path in Path(__file__).parent.iterdir()} | {"tests", "pytest"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in TUTORIALS]
)
def test_tutorial_runs(name: str, tmp_path: Path) -> None:
    """All of its assertions hold, nothing warns, and every figure can be drawn."""
    figures = tutorials.run(TUTORIALS[name], tmp_path)
    *body, _ = sections(TUTORIALS[name].read_text())
    assert len(figures) >= len(derivations(body))
    for figure in figures:
        figure.canvas.draw()


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_has_what_it_needs(name: str) -> None:
    assert problems(TUTORIALS[name].read_text(), int(name[:2])) == []


def test_they_are_found_and_numbered() -> None:
    numbers = [int(name[:2]) for name in TUTORIALS]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 8


def problems(text: str, number: int) -> list[str]:
    """What is wrong with the form of a tutorial, in words."""
    found, all_cells, (*body, last) = [], cells(text), sections(text)
    code = ast.parse("".join(cell.text for cell in all_cells if not cell.is_markdown))
    if not (all_cells[0].is_markdown and all_cells[0].text.startswith(f"# {number}. ")):
        found.append("its first cell has no title with its number")
    if not body:
        found.append("it has no sections")
    for section in derivations(body):
        found += [f"'{section.heading}' {what}" for what in lacks(section.heading, section.markdown, section.code)]
    if len({section.heading for section in body}) < len(body):
        found.append("two headings are the same: no link could tell them apart")
    questions = re.findall(r"^(\d)\. ", last.markdown, re.MULTILINE)
    if last.heading != EXERCISES:
        found.append("it does not end with exercises")
    elif len(questions) < 3 or questions != [str(n) for n in range(1, len(questions) + 1)]:
        found.append(f"it has these exercises: {', '.join(questions)}")
    answers = all_cells[1 + max(place for place, cell in enumerate(all_cells) if cell.is_markdown) :]
    if not asserts(last.code) or any("hide-cell" not in cell.marker for cell in answers):
        found.append("it does not end with hidden cells of answers that assert")
    elif any(not re.search(rf"#.*\b{question}\.", last.code) for question in questions):
        found.append("an exercise has no answer")
    return found + [f"it uses {name}" for name in strangers(code)]


def derivations(body: list[Section]) -> list[Section]:
    return [section for section in body if section.heading not in PLAIN]


def lacks(heading: str, markdown: str, code: str) -> list[str]:
    """What a section lacks."""
    wanted = {
        "is not named after a part of the paper": HEADING.match(heading),
        "has no equation": re.search(r"\$\$.+?\$\$", markdown, re.DOTALL) and markdown.count("$$") % 2 == 0,
        "asserts nothing": asserts(code),
        "has no figure": FIGURE.search(code),
    }
    return [what for what, there in wanted.items() if not there]


def asserts(code: str) -> bool:
    """Whether it has an assertion about something that was computed."""
    tests = [node.test for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Assert)]
    return any(isinstance(node, ast.Name | ast.Call) for test in tests for node in ast.walk(test))


def strangers(code: ast.Module) -> list[str]:
    """Private names of linreg and dmbp, and modules of the tests, that the code uses."""
    imported = [alias.name for node in ast.walk(code) if isinstance(node, ast.Import) for alias in node.names]
    for node in ast.walk(code):
        if isinstance(node, ast.ImportFrom):
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
    attributes = [node.attr for node in ast.walk(code) if isinstance(node, ast.Attribute)]
    names = [*attributes, *(part for name in imported for part in name.split("."))]
    return [name for name in names if name in private()] + [
        name for name in imported if name.partition(".")[0] in FOREIGN
    ]


@cache
def private() -> set[str]:
    """The private names in the source of linreg and dmbp."""
    sources = [path for package in ("linreg", "dmbp") for path in (tutorials.FOLDER.parent / package).rglob("*.py")]
    return {name for path in sources for name in re.findall(r"\b_[a-z]\w*", path.read_text())}


SPOILED: dict[str, tuple[Callable[[str], str], str]] = {
    "no title": (lambda text: text.replace("# # ", "# ", 1), "title"),
    "no equation": (lambda text: text.replace("$$", "$"), "no equation"),
    "an open equation": (lambda text: text.replace("$$", "$", 1), "no equation"),
    "no assertion": (lambda text: re.sub(r"^assert .+$", "pass", text, flags=re.MULTILINE), "asserts nothing"),
    "an assertion of nothing": (
        lambda text: re.sub(r"^assert .+$", "assert 1 == 1", text, flags=re.M),
        "asserts nothing",
    ),
    "no figure": (lambda text: text.replace("plt.subplots(", "plt.show("), "no figure"),
    "a heading of its own": (lambda text: text.replace("# ## Eq. (3): ", "# ## "), "named after"),
    "a heading twice": (lambda text: re.sub(r"^# ## Eq.+$", "# ## Eq. (1): x", text, flags=re.M), "same"),
    "no exercises": (lambda text: text.replace("# ## Exercises", "# ## Eq. (1): the end"), "end with exercises"),
    "a number left out": (lambda text: re.sub(r"^# 3\. .+\n", "", text, count=1, flags=re.M), "exercises: 1, 2, 4"),
    "answers for all to see": (lambda text: text.replace("hide-cell", "cell", 1), "hidden cell"),
    "an answer missing": (lambda text: "# ".join(text.rsplit("# 3. ", 1)), "no answer"),
    "a private name": (lambda text: text + "graph._by_name\n", "_by_name"),
    "a private import": (lambda text: text + "from linreg.linearization import _spread\n", "_spread"),
    "a module of the tests": (lambda text: text + "import literal\n", "literal"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_tutorial_is_seen(name: str) -> None:
    spoil, message = SPOILED[name]
    text = TUTORIALS["01_linear_here"].read_text()
    assert spoil(text) != text
    assert any(message in problem for problem in problems(spoil(text), 1))
