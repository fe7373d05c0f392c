"""The page of operators says what the rules do, and is up to date."""

from __future__ import annotations

from pathlib import Path

import pytest
from nets import NETS

import linreg
from linreg.operators import RULES, Operator
from linreg.operators.catalogue import COMMAND, catalogue, makes
from linreg.operators.refusals import REASONS
from linreg.operators.smooth import UNITS
from linreg.operators.table import Built, Call, Rule

PAGE = Path(__file__).parents[1] / "tutorials" / "operators.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == catalogue(), f"refresh it: {COMMAND}"


def test_the_page_names_everything_once() -> None:
    rows = [line for line in catalogue().splitlines() if line.startswith("| `")]
    firsts = [name.strip("` ") for row in rows for name in row.split("|")[1].split(",")]
    expected = [*RULES, *UNITS, *REASONS]
    assert sorted(firsts) == sorted(expected)
    columns = {row.replace("\\|", "").count("|") for row in rows}
    assert columns == {4, 5}, "a docstring's | must not end a cell"


def test_the_page_defines_each_operator_once() -> None:
    lines = [line.split("`")[1] for line in catalogue().splitlines() if line.startswith("- `")]
    named = {kind.__name__ for rule in RULES.values() for kind in makes(rule)}
    assert sorted(lines) == sorted(named | {"Choice", "Pointwise", "Interpolant"})


@pytest.mark.parametrize("name", RULES)
def test_a_rule_has_an_operator_and_words(name: str) -> None:
    kinds = makes(RULES[name])
    assert kinds and all(kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(") for kind in kinds)


def test_rules_build_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[Rule, type[Operator]]] = []

    def recorded(rule: Rule) -> Rule:
        def record(call: Call) -> Built:
            result = rule(call)
            built.append((rule, type(result[0])))
            return result

        return record

    for name, rule in list(RULES.items()):
        monkeypatch.setitem(RULES, name, recorded(rule))
    for net in ("gates", "wiring", "mobile", "pools", "constants"):
        linreg.trace(*NETS[net]())
    assert len({rule for rule, _ in built}) > 15
    assert all(kind in makes(rule) for rule, kind in built)
