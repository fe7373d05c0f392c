"""Operators: one module for each family, each next to the rules that build it; `sparse`, `stencil`: their matrices."""

from linreg.operators import arithmetic, gates, linear, pooling, structure
from linreg.operators.base import Affine, Constant, Diagonal, LinearFunction, Operator
from linreg.operators.gates import Gate
from linreg.operators.linear import Convolution, Linear, MatMul, SameConvolution, Scale
from linreg.operators.pooling import Average, Selection
from linreg.operators.structure import Move, Reshape
from linreg.operators.table import BATCH, RULES, Call, Data, Known, rule, rule_for

__all__ = [
    "BATCH",
    "RULES",
    "Affine",
    "Average",
    "Call",
    "Constant",
    "Convolution",
    "Data",
    "Diagonal",
    "Gate",
    "Known",
    "Linear",
    "LinearFunction",
    "MatMul",
    "Move",
    "Operator",
    "Reshape",
    "SameConvolution",
    "Scale",
    "Selection",
    "arithmetic",
    "gates",
    "linear",
    "pooling",
    "rule",
    "rule_for",
    "structure",
]
