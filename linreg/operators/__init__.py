"""Operators: one module for each family, each next to the rules that build it."""

from linreg.operators import arithmetic, gates, linear, pooling, structure
from linreg.operators.base import Affine, Constant, Diagonal, LinearFunction, Operator
from linreg.operators.gates import Gate
from linreg.operators.linear import Convolution, Linear, Scale
from linreg.operators.table import BATCH, RULES, Call, Data, Known, rule, rule_for

__all__ = [
    "BATCH",
    "RULES",
    "Affine",
    "Call",
    "Constant",
    "Convolution",
    "Data",
    "Diagonal",
    "Gate",
    "Known",
    "Linear",
    "LinearFunction",
    "Operator",
    "Scale",
    "arithmetic",
    "gates",
    "linear",
    "pooling",
    "rule",
    "rule_for",
    "structure",
]
