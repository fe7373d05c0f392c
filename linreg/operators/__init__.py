"""Operators: one module for each family, each next to the rules that build it; `sparse`, `stencil`: their matrices."""

from linreg.operators import arithmetic, gates, indexing, linear, pooling, resample, scatter, selection, structure
from linreg.operators.base import Affine, Constant, Diagonal, LinearFunction, Operator, Role
from linreg.operators.gates import Gate
from linreg.operators.linear import BatchNorm, Convolution, Linear, SameConvolution, Scale
from linreg.operators.pointwise import Pointwise
from linreg.operators.pooling import Average
from linreg.operators.product import Contraction
from linreg.operators.resample import Measured, Separable
from linreg.operators.selection import Selection, Where
from linreg.operators.steps import Guided
from linreg.operators.structure import Move, Reshape
from linreg.operators.table import BATCH, RULES, Call, Data, Known, rule, rule_for

__all__ = [
    "BATCH",
    "RULES",
    "Affine",
    "Average",
    "BatchNorm",
    "Call",
    "Constant",
    "Contraction",
    "Convolution",
    "Data",
    "Diagonal",
    "Gate",
    "Guided",
    "Known",
    "Linear",
    "LinearFunction",
    "Measured",
    "Move",
    "Operator",
    "Pointwise",
    "Reshape",
    "Role",
    "SameConvolution",
    "Scale",
    "Selection",
    "Separable",
    "Where",
    "arithmetic",
    "gates",
    "indexing",
    "linear",
    "pooling",
    "product",
    "resample",
    "rule",
    "rule_for",
    "scatter",
    "selection",
    "structure",
]
