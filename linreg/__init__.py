"""linreg: linear regions. Opens a piecewise-linear PyTorch network and shows the affine function inside."""

from linreg.certificate import Certificate
from linreg.errors import LinregError
from linreg.graph import Node, OperatorGraph
from linreg.ledger import Ledger, Term
from linreg.linearize import Linearization
from linreg.trace import trace

__all__ = ["Certificate", "Ledger", "Linearization", "LinregError", "Node", "OperatorGraph", "Term", "trace"]
