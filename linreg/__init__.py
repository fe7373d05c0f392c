"""linreg: linear regions. Opens a piecewise-linear PyTorch network and shows the affine function inside."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from linreg.approximation import Approximation
from linreg.capture.trace import measure, trace
from linreg.certificate import Certificate
from linreg.errors import LinregError
from linreg.graph import Node, OperatorGraph
from linreg.jacobian import Jacobian
from linreg.ledger import Ledger, Term
from linreg.linearization import Linearization

try:
    __version__ = version("linreg-dmbp")
except PackageNotFoundError:  # used where it lies, without having been installed
    __version__ = "0+unknown"

__all__ = [
    "Approximation",
    "Certificate",
    "Jacobian",
    "Ledger",
    "Linearization",
    "LinregError",
    "Node",
    "OperatorGraph",
    "Term",
    "measure",
    "trace",
]


def __getattr__(name: str) -> ModuleType:
    """`linreg.regions`, loaded when it is first named: it needs scipy's statistics, which are slow to load."""
    if name == "regions":
        return import_module("linreg.regions")
    raise AttributeError(f"module 'linreg' has no attribute {name!r}")
