"""dmbp: Disentangled Masked Backpropagation (Ruiz, Agudo, Moreno-Noguer, ICCV 2021) on linreg's operator graphs.

Its names are loaded when they are first asked for: torch takes seconds, and the command line is to answer before that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors
    from dmbp.comparison import Comparison, compare
    from dmbp.errors import DmbpError
    from dmbp.explanation import explain
    from dmbp.masks import find_sites, initial_logits, masked
    from dmbp.optimize import Learned, MaskedScores, Options, learn_masks, masked_scores
    from dmbp.result import Result
    from dmbp.runs.batches import Explained, explain_all
    from dmbp.saved import load
    from dmbp.split import Split, decompose, recurrence
    from dmbp.verdict import Verdict
    from linreg import __version__ as __version__

__all__ = [
    "Comparison",
    "DmbpError",
    "Explained",
    "Learned",
    "MaskedScores",
    "Options",
    "Result",
    "Split",
    "Verdict",
    "compare",
    "decompose",
    "explain",
    "explain_all",
    "find_sites",
    "initial_logits",
    "learn_masks",
    "load",
    "masked",
    "masked_scores",
    "recurrence",
]

# Where each of them is made.
HOMES = {
    "Comparison": "dmbp.comparison",
    "DmbpError": "dmbp.errors",
    "Explained": "dmbp.runs.batches",
    "Learned": "dmbp.optimize",
    "MaskedScores": "dmbp.optimize",
    "Options": "dmbp.optimize",
    "Result": "dmbp.result",
    "Split": "dmbp.split",
    "Verdict": "dmbp.verdict",
    "__version__": "linreg",
    "compare": "dmbp.comparison",
    "decompose": "dmbp.split",
    "explain": "dmbp.explanation",
    "explain_all": "dmbp.runs.batches",
    "find_sites": "dmbp.masks",
    "initial_logits": "dmbp.masks",
    "learn_masks": "dmbp.optimize",
    "load": "dmbp.saved",
    "masked": "dmbp.masks",
    "masked_scores": "dmbp.optimize",
    "recurrence": "dmbp.split",
}


def __getattr__(name: str) -> Any:
    """A public name, or a module of the package, which `import dmbp` alone gives too."""
    if name in HOMES:
        value = globals()[name] = getattr(import_module(HOMES[name]), name)
        return value
    whole = f"{__name__}.{name}"
    try:
        return import_module(whole)
    except ModuleNotFoundError as error:
        if error.name != whole:
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
