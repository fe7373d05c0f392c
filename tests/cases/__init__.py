"""A case for each operator: `CASES` by name, each traced once in a process for all the tests that look at it.

A new operator is one entry in a table of this folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from nets import Lambda
from torch import Tensor, nn

import linreg
import linreg.capture.translate
from cases import arithmetic, gates, layers, selections, structure
from cases.case import Case
from linreg.operators import RULES

FAMILIES = (layers, gates, selections, arithmetic, structure)
CASES: dict[str, Case] = {name: case for family in FAMILIES for name, case in family.CASES.items()}
assert len(CASES) == sum(len(family.CASES) for family in FAMILIES), "two cases have one name"

# Names under which no exported program calls these operators here, each an alias of one that has a case.
ALIASES = {
    "batch_norm": "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm": "_native_batch_norm_legit_no_training",
    "native_batch_norm": "_native_batch_norm_legit_no_training",
    "chunk": "split",
    "unsafe_chunk": "unsafe_split",
    "narrow": "slice",
    "movedim": "permute",
    "swapaxes": "permute",
    "flatten": "unsqueeze",
    "unflatten": "unsqueeze",
    "reshape": "unsqueeze",
}


# Tests of cases run on one worker, where the cases have been traced.
together = pytest.mark.xdist_group("operators")


def every_case(test: Any) -> Any:
    """A test of each case."""
    return together(pytest.mark.parametrize("case", CASES)(test))


@dataclass(frozen=True)
class Traced:
    """A case's module, its input, its linearization there, and the names of the rules that took part."""

    module: nn.Module
    x: Tensor
    lin: linreg.Linearization
    rules: frozenset[str]


@cache
def traced(name: str) -> Traced:
    """The case traced and linearized at its input."""
    case = CASES[name]
    module, x = case.module(), case.input()
    with rules_noted() as used:
        graph = linreg.trace(module, x)
    return Traced(Lambda(case.twin) if case.twin else module, x, graph.linearize(x), frozenset(used))


@contextmanager
def rules_noted() -> Iterator[set[str]]:
    """The names under which rules are found for the calls of what is traced inside."""
    used, rule_for = set[str](), linreg.capture.translate.rule_for

    def spy(target: object) -> object:
        packet, _, overload = str(target).removeprefix("aten.").partition(".")
        used.add(packet if f"{packet}.{overload}" not in RULES else f"{packet}.{overload}")
        return rule_for(target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linreg.capture.translate, "rule_for", spy)
        yield used
