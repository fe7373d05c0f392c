"""The examples in docstrings run, as people would copy them, and the names that people meet first each end with one."""

from __future__ import annotations

import ast
import doctest
import inspect
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch

ROOT = Path(__file__).parents[1]
FIRST_MET = (
    "linreg:trace", "linreg:measure", "linreg:OperatorGraph", "linreg:OperatorGraph.linearize", "linreg:Linearization",
    "linreg:Linearization.weight", "linreg:Linearization.ledger", "linreg:Linearization.certificate",
    "linreg:Linearization.matrix", "linreg:Linearization.jacobian", "linreg.jacobian:Jacobian", "linreg:Ledger",
    "linreg.regions:Pattern", "linreg.regions:Inequalities", "linreg.regions:walls", "linreg.regions:polytope",
    "linreg.regions:across", "dmbp.walls:jump", "linreg.regions:Segment", "linreg.regions:Plane", "dmbp.along:along",
    "linreg:Certificate", "dmbp:explain", "dmbp:Options", "dmbp:explain_all", "dmbp:Result", "dmbp:load",
    "dmbp:decompose", "dmbp:Split", "dmbp:find_sites", "dmbp:masked", "dmbp:initial_logits", "dmbp:learn_masks",
    "dmbp:masked_scores", "dmbp.models:load_model", "dmbp.datasets:sample_pairs", "dmbp.evaluation:insertion",
    "dmbp.evaluation:localization", "dmbp.evaluation.methods:parse", "dmbp.verdict:Verdict", "dmbp:compare",
    "dmbp.explorer:write_page",
)  # fmt: skip


def examples() -> Iterator[doctest.DocTest]:
    """Those of every docstring in the source: doctest's own finder misses functions behind decorators."""
    parser = doctest.DocTestParser()
    for path in sorted(path for package in ("linreg", "dmbp") for path in (ROOT / package).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for name, line, text in docstrings(ast.parse(path.read_text(encoding="utf-8")), module):
            if ">>>" in text:
                yield parser.get_doctest(text, {"__name__": "__main__"}, name, str(path), line)


def docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, int, str]]:
    """(dotted name, line, text) of a module, and of all classes and functions in it."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        if text := ast.get_docstring(node):
            yield name, node.body[0].lineno, text
        for inner in node.body:
            yield from docstrings(inner, f"{name}.{getattr(inner, 'name', '')}")


def told(example: doctest.DocTest) -> str:
    """What doctest has to say against an example; nothing where it holds."""
    lines: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=lines.append)
    return "".join(lines)


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_an_example_gives_what_it_says(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert told(example) == ""


@pytest.mark.parametrize("name", FIRST_MET)
def test_the_names_met_first_end_with_an_example(name: str) -> None:
    *_, last = (inspect.getdoc(resolve_name(name)) or "").split("\n\n")
    assert last.startswith(">>> "), f"the docstring of {name} ends with: {last}"
    assert [line for line in last.splitlines() if not line.startswith((">>>", "..."))], "it shows nothing"


def test_an_example_that_is_wrong_is_told() -> None:
    """So that the tests above can fail: a wrong value, an exception, a warning."""
    for wrong in (">>> 1 + 1\n3", ">>> 1 / 0", ">>> import warnings; warnings.warn('no')"):
        parsed = doctest.DocTestParser().get_doctest(wrong, {}, "wrong", None, 0)
        assert "Failed example" in told(parsed)


def test_examples_are_found_behind_decorators() -> None:
    """Of methods, of functions under `torch.no_grad()`, of dataclasses."""
    names = {example.name for example in examples()}
    methods = {"linreg.linearization.Linearization.ledger", "linreg.graph.OperatorGraph.linearize"}
    assert methods | {"dmbp.masks.initial_logits", "dmbp.result.Result"} <= names
