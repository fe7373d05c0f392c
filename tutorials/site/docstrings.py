"""Docstrings as pages: they are plain text with `code`, and each module begins with a table of what it holds.

A `name` of ours leads to its docstring, in other docstrings, tutorials and hand-written pages alike.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
import sys
from functools import reduce
from importlib import import_module
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

import dmbp
import linreg

for package in (dmbp, linreg):  # so that all of their modules can be named
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__"):
            import_module(found.name)

NAME = re.compile(r"[A-Za-z_][\w.]*")
Scope = dict[str, Any]
ROOTS: Scope = {"dmbp": dmbp, "linreg": linreg}
PUBLIC: Scope = {name: getattr(package, name) for package in ROOTS.values() for name in package.__all__}
for function in PUBLIC.values():
    if "__signature__" in vars(function):  # it shows the options; Sphinx would look for their defaults in the source
        del function.__wrapped__


def prepare(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = restructured("\n".join(lines), scope_of(obj)).split("\n")
    if what == "module":
        lines += ["", *contents(obj)]


def scope_of(obj: Any) -> Scope:
    """What names mean in a docstring: what the packages hand on, what its module knows, and what its class holds."""
    obj = behind(obj)
    module = obj if isinstance(obj, ModuleType) else sys.modules.get(getattr(obj, "__module__", ""))
    known = PUBLIC | (vars(module) if module else {})
    *classes, _ = getattr(obj, "__qualname__", "").split(".")
    owner = obj if inspect.isclass(obj) else known.get(classes[0]) if classes else None
    return known | (vars(owner) if inspect.isclass(owner) else {}) | ROOTS


def behind(obj: Any) -> Any:
    """The function of a property or a cached property; anything else as it is."""
    return getattr(obj, "fget", None) or getattr(obj, "func", None) or obj


def restructured(text: str, scope: Scope) -> str:
    """The docstring in reStructuredText: an indented paragraph is kept as it is, and so is an example with its >>>."""
    paragraphs = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(paragraph(p, scope) for p in paragraphs)


def paragraph(text: str, scope: Scope) -> str:
    if text.startswith("    "):
        return f"::\n\n{text}"
    return text if text.startswith(">>> ") else inline(text, scope)


def inline(text: str, scope: Scope) -> str:
    """A paragraph in which `a.name` links to what it names, other `code` is literal, and so is all else."""
    pieces = re.split(r"`([^`]+)`", text)
    words = [re.sub(r"([\\*|]|_\b|:\b)", r"\\\1", piece) for piece in pieces[::2]]
    result = words[0]
    for code, after in zip(pieces[1::2], words[1:], strict=True):
        before = "" if not result or result[-1].isspace() else r"\ "
        behind = "" if not after or after[0].isspace() else r"\ "
        result += f"{before}{marked(' '.join(code.split()), scope)}{behind}{after}"
    return result


def marked(code: str, scope: Scope) -> str:
    """A link to the function or class of ours that `code` names, or else a literal."""
    path = path_of(code, scope)
    return f":py:obj:`{code} <{path}>`" if path else f"``{code}``"


def path_of(code: str, scope: Scope) -> str | None:
    """Where a class or function of ours is defined, as "linreg.graph.Node" of "Node"."""
    first, *rest = code.removesuffix("()").split(".") if NAME.fullmatch(code.removesuffix("()")) else [""]
    try:
        found = behind(reduce(getattr, rest, scope[first]))
    except (AttributeError, KeyError):
        return None
    ours = str(getattr(found, "__module__", "")).split(".")[0] in ("dmbp", "linreg")
    return f"{found.__module__}.{found.__qualname__}" if ours and hasattr(found, "__qualname__") else None


def contents(module: ModuleType) -> list[str]:
    """A table of a module's public classes and functions, or of what `__all__` names: name, first paragraph."""
    rows = []
    names = getattr(module, "__all__", None)
    ordered = sorted(names, key=lambda name: inspect.isclass(getattr(module, name))) if names else vars(module)
    for name in ordered:  # functions first, where a package names what it hands on
        obj = getattr(module, name)
        if is_public(module, name, obj):
            first = inline(inspect.getdoc(obj).split("\n\n")[0], scope_of(obj))
            link = f":py:obj:`{name} <{obj.__module__}.{obj.__qualname__}>`"
            rows += [f"   * - {link}", f"     - {' '.join(first.split())}"]
    return [".. list-table::", "   :widths: 25 75", "   :class: summary", "", *rows] if rows else []


def is_public(module: ModuleType, name: str, obj: Any) -> bool:
    """Whether it stands on a page: a class or function with a docstring, of this module or named by its `__all__`."""
    kind = callable(obj) and (inspect.isclass(obj) or inspect.isroutine(inspect.unwrap(obj)))
    own = getattr(obj, "__module__", None) == module.__name__ and not name.startswith("_")
    return kind and bool(obj.__doc__) and (own or name in getattr(module, "__all__", ()))


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out what a module imports, before its signature is looked at."""
    return (what == "module" and not str(getattr(obj, "__module__", "")).startswith(("linreg", "dmbp"))) or None


def link_literals(app: Sphinx, doctree: nodes.document) -> None:
    """Make `linreg.trace` a link on hand-written pages and in tutorials too."""
    for literal in list(doctree.findall(nodes.literal)):
        path = path_of(literal.astext(), ROOTS)
        if path and not isinstance(literal.parent, nodes.reference | pending_xref):
            link = pending_xref("", refdomain="py", reftype="obj", reftarget=path, refdoc=app.env.docname)
            literal.replace_self(link)
            link += literal


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", prepare)
    app.connect("autodoc-skip-member", skip)
    app.connect("doctree-read", link_literals)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
