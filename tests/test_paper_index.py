"""The index of the paper has a row for each of its parts, and what a row names exists."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

import pytest

from tutorials import FOLDER, TUTORIALS, sections

INDEX = FOLDER / "paper.md"
EXPERIMENTS = ["Section 4.1", "Section 4.2", "Section 4.3", "Table 1", "Table 2", "Table 3"]
FIGURES = [*(f"Figure {n}" for n in range(1, 7)), "Figures 7 to 13"]
PARTS = [*(f"({n})" for n in range(1, 21)), "Algorithm 1", "Appendix B.1", *FIGURES, *EXPERIMENTS]
LINK = re.compile(r"\[(\d+), ([^\]]+)\]\(([^)#]+)#([^)]+)\)")
CODE = re.compile(r"`([^`]+)`")


def faults(text: str) -> list[str]:
    """What is wrong with the index, in words."""
    rows = [
        [cell.strip() for cell in line.rstrip()[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    body = rows[2:]  # behind the header and the rule below it
    parts = [row[0] for row in body]
    found = [f"{part} has no row" for part in PARTS if part not in parts]
    found += [f"{part} has a row too many" for part in parts if parts.count(part) > (part in PARTS)]
    if any(len(row) != 4 for row in rows):
        return [*found, "a row has no four cells: part, section, function, test"]
    for part, links, functions, tests in body:
        named = {"section": links_of(links), "function": CODE.findall(functions), "test": CODE.findall(tests)}
        found += [f"{part} names no {what}" for what, names in named.items() if not names]
        wrong = [why for link in named["section"] if (why := wrong_link(part, *link))]
        wrong += [f"there is no {name}" for name in named["function"] if not is_public(name)]
        wrong += [f"there is no {name}" for name in named["test"] if not is_test(name)]
        found += [f"{part}: {why}" for why in wrong]
    return found


def links_of(cell: str) -> list[tuple[str, ...]]:
    return [match.groups() for match in LINK.finditer(cell)]


def wrong_link(part: str, number: str, heading: str, file: str, anchor: str) -> str | None:
    """Why a link leads nowhere, or to a section that is not about this part; None where it is right."""
    path = FOLDER / file
    if path not in TUTORIALS.values():
        return f"there is no {file}"
    if int(number) != int(file[:2]) or anchor != slug(heading):
        return f"the link to '{heading}' should be [{int(file[:2])}, {heading}]({file}#{slug(heading)})"
    if heading not in headings(file):
        return f"{file} has no section '{heading}'"
    about, _, _ = heading.partition(":")
    return None if re.search(rf"{re.escape(part)}(?!\d)", about) else f"'{heading}' is named after another part"


@cache
def headings(file: str) -> list[str]:
    return [section.heading for section in sections((FOLDER / file).read_text())]


def slug(heading: str) -> str:
    """The anchor of a heading, as the site and GitHub make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@cache
def is_public(name: str) -> bool:
    """Whether it is a documented function, class, method or property of linreg or dmbp."""
    first, *rest = name.split(".")
    if first not in ("linreg", "dmbp") or not rest or any(part.startswith("_") for part in rest):
        return False
    found: Any = import_module(first)
    for depth, part in enumerate(rest, 2):
        if not hasattr(found, part):
            try:
                import_module(".".join([first, *rest][:depth]))
            except ImportError:
                return False
        found = getattr(found, part)
    return not inspect.ismodule(found) and bool(inspect.getdoc(found))


@cache
def is_test(name: str) -> bool:
    """Whether such a test is written down, found by reading."""
    file, _, function = name.partition("::")
    path = FOLDER.parent / file
    if not path.is_file() or path.parent.name != "tests":
        return False
    body = ast.parse(path.read_text()).body
    return function.startswith("test_") and any(isinstance(n, ast.FunctionDef) and n.name == function for n in body)


def test_every_part_of_the_paper_has_its_place() -> None:
    assert faults(INDEX.read_text()) == []


def test_what_is_not_reproduced_is_said_with_the_reason() -> None:
    _, _, said = INDEX.read_text().partition("**Not reproduced**: ")
    paragraph, _, _ = said.partition("\n\n")
    for word in ("Figures 1 to 13", "Tables 1 to 3", "ImageNet", "VOC2012", "ResNet-50", "VGG-16"):
        assert word in paragraph


@pytest.mark.parametrize(("part", "said"), [("(11)", "Eq. 11"), ("(20)", "Eq. 20"), ("Appendix B.1", "B.1")])
def test_the_number_stands_at_the_lines_that_compute_it(part: str, said: str) -> None:
    """In a comment of a function that the index names."""
    named = CODE.findall(row(part).split("|")[3])
    sources = [inspect.getsource(inspect.unwrap(resolve_name(name))) for name in named]
    assert any(said in line.partition("#")[2] for source in sources for line in source.splitlines())


def test_each_line_of_algorithm_1_stands_at_the_code() -> None:
    """Of those that compute something: line 12 only ends the loop."""
    folder = FOLDER.parent / "dmbp"
    files = [folder / "learning" / "learn.py", folder / "learning" / "descent.py", folder / "explanation.py"]
    comments = [line.partition("#")[2] for file in files for line in file.read_text().splitlines()]
    found = set[int]()
    for first, joint, last in re.findall(r"[Ll]ines? (\d+)(?: (to|and) (\d+))?", " ".join(comments)):
        found |= set(range(int(first), int(last) + 1)) if joint == "to" else {int(n) for n in (first, last) if n}
    assert found == {*range(1, 14)} - {12}


def row(part: str) -> str:
    return next(line for line in INDEX.read_text().splitlines(keepends=True) if line.startswith(f"| {part} |"))


def put(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


SPOILED: dict[str, tuple[Callable[[str], str], str]] = {
    "an equation": (put(row("(20)"), ""), "(20) has no row"),
    "a figure": (put(row("Figure 6"), ""), "Figure 6 has no row"),
    "many figures": (put(row("Figures 7 to 13"), ""), "Figures 7 to 13 has no row"),
    "a table": (put(row("Table 3"), ""), "Table 3 has no row"),
    "the algorithm": (put(row("Algorithm 1"), ""), "Algorithm 1 has no row"),
    "a row twice": (put(row("(3)"), 2 * row("(3)")), "(3) has a row too many"),
    "a row of nothing": (put(row("(20)"), row("(20)").replace("(20)", "(21)", 1)), "(21) has a row too many"),
    "a cell": (put(row("(3)"), row("(3)").rpartition(" | ")[0] + "\n"), "four cells"),
    "a tutorial": (put("01_linear_here.py", "01_linear_there.py"), "no 01_linear_there.py"),
    "a number": (put("[1, Eq. (4)", "[2, Eq. (4)"), "should be"),
    "an anchor": (put("#eq-3-", "#eq-4-"), "should be"),
    "a heading": (
        lambda text: re.sub(r"Eq\. \(3\): .+?\]\((.+?)#.+?\)", r"Eq. (3): x](\1#eq-3-x)", text),
        "no section",
    ),
    "another's heading": (put(row("(4)"), row("(3)").replace("(3)", "(4)", 1)), "another part"),
    "all headings": (put(row("(4)"), re.sub(r"\[.+?\]\(.+?\)", "", row("(4)"))), "(4) names no section"),
    "a function": (put("`dmbp.decompose`", "`dmbp.decomposed`"), "no dmbp.decomposed"),
    "a method": (put("`linreg.Linearization.weight`", "`linreg.Linearization.w`"), "no linreg.Linearization.w"),
    "a private function": (put("`dmbp.decompose`", "`dmbp.Split._aside`"), "no dmbp.Split._aside"),
    "a module for a function": (put("`dmbp.decompose`", "`dmbp.masks`"), "no dmbp.masks"),
    "all functions": (put(row("(9)"), re.sub(r"`dmbp[^`]+`", "", row("(9)"))), "(9) names no function"),
    "a test": (put("::test_", "::test_no_"), "no tests/"),
    "a file of tests": (put("tests/test_", "tests/test_no_"), "no tests/test_no_"),
    "all tests": (put(row("(9)"), re.sub(r"`tests[^`]+`", "", row("(9)"))), "(9) names no test"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_missing_is_seen(name: str) -> None:
    spoil, message = SPOILED[name]
    text = INDEX.read_text()
    assert spoil(text) != text
    found = faults(spoil(text))
    assert any(message in fault for fault in found), found
