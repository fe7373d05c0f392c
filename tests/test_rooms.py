"""The house: arrows run one way, no room has two doors of one name, and what is slow to load is loaded when needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

import dmbp

ROOT = Path(__file__).parents[1]
FILES = sorted(path for package in ("linreg", "dmbp") for path in (ROOT / package).rglob("*.py"))
TWICE = {"__init__", "__main__", "errors"}  # each package has its own
SLOW = ("matplotlib", "networkx", "sympy", "torch.fx.experimental.symbolic_shapes", "torch._dynamo", "captum")
HELP = "import dmbp.cli, contextlib\nwith contextlib.suppress(SystemExit): dmbp.cli.main(['--help'])"
USED = """
import linreg, torch
graph = linreg.trace(torch.nn.Linear(2, 1), torch.ones(2, 2))
graph.to_networkx(), graph.draw()
"""


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path) for path in FILES}


def imported(tree: ast.Module) -> Iterator[str]:
    """What a file imports as it is loaded: not in functions, and not for annotations alone."""
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        if isinstance(statement, ast.ImportFrom) and statement.module:
            for alias in statement.names:
                inner = f"{statement.module}.{alias.name}"
                yield inner if inner in MODULES else statement.module


def arrows() -> nx.DiGraph:
    """From each file to those that it imports; a package stands for what its `__init__` imports."""
    graph = nx.DiGraph()
    for path in FILES:
        graph.add_edges_from((module(path), name) for name in imported(ast.parse(path.read_text())) if name in MODULES)
    return graph


def test_no_files_import_each_other() -> None:
    graph = arrows()
    assert len(graph) > 60 and ("dmbp.split", "dmbp.masks") in graph.edges
    assert list(nx.simple_cycles(graph)) == []


def test_linreg_never_imports_dmbp() -> None:
    """Nor anything else than torch, and what the numbers and pictures are made with; in functions neither."""
    allowed = {"linreg", "torch", "numpy", "scipy", "networkx", "matplotlib", "tqdm"} | sys.stdlib_module_names
    for path in (ROOT / "linreg").rglob("*.py"):
        for statement in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            if isinstance(statement, ast.ImportFrom):
                names = [statement.module or "linreg"]
            assert {name.partition(".")[0] for name in names} <= allowed, (path.name, names)


def test_each_file_has_a_name_of_its_own() -> None:
    names = Counter(path.stem for path in FILES)
    assert {name for name, count in names.items() if count > 1} - TWICE == set()


@pytest.mark.parametrize("package", ["linreg", "dmbp"])
def test_no_function_shadows_a_module(package: str) -> None:
    """`from package import name` is the file of that name, or there is no such file."""
    for path in (ROOT / package).rglob("__init__.py"):
        owner = module(path)
        tree = ast.parse(path.read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        defined |= {a.asname or a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names
                    if f"{node.module}.{a.name}" not in MODULES}  # fmt: skip
        assert not {name for name in defined if f"{owner}.{name}" in MODULES}, owner


@pytest.mark.parametrize("path", FILES, ids=module)
def test_what_is_read_at_once_is_short(path: Path) -> None:
    text = path.read_text()
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert len(text.splitlines()) <= 400
    assert [f.name for f in functions if f.end_lineno and f.end_lineno - f.lineno >= 60] == []


@pytest.mark.parametrize("code", ["import linreg", "import dmbp", HELP], ids=["linreg", "dmbp", "dmbp --help"])
def test_nothing_slow_is_loaded_before_it_is_needed(code: str) -> None:
    assert loaded(code) == []


def test_it_is_loaded_when_it_is_needed() -> None:
    """So that the test above can fail."""
    assert loaded(USED)[:4] == list(SLOW[:4])


def loaded(code: str) -> list[str]:
    """Which of SLOW are in memory after `code`."""
    listed = f"{code}\nimport sys\nprint('loaded:', *(name for name in {SLOW} if name in sys.modules))"
    process = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True)
    return process.stdout.splitlines()[-1].split()[1:]


def test_the_names_of_the_package_are_those_that_type_checkers_see() -> None:
    """What is loaded on demand: each name has a home, where it is made and whence editors are told that it comes."""
    (block,) = [each for each in ast.parse((ROOT / "dmbp/__init__.py").read_text()).body if isinstance(each, ast.If)]
    told = {alias.name: each.module for each in block.body if isinstance(each, ast.ImportFrom) for alias in each.names}
    assert told == dmbp.HOMES and {*dmbp.__all__, "__version__"} == {*dmbp.HOMES}
    assert all(getattr(dmbp, name) is getattr(sys.modules[home], name) for name, home in dmbp.HOMES.items())
    assert not hasattr(dmbp, "explanations") and {*dmbp.__all__} <= {*dir(dmbp)}
