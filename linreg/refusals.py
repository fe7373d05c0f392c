"""Why an operator is refused, and what can be done: one entry for each family."""

from __future__ import annotations

SMOOTH = "it is smooth, not piecewise linear: no linear region holds it exactly; use a piecewise-linear unit instead"
ATTENTION = "it normalises by its own data, which is not piecewise linear: explain the network up to its input instead"
NORM = "it divides by statistics of its own data, which is not piecewise linear: use batch norm with running statistics"
PRODUCT = "it multiplies data by data, which is not piecewise linear"
STEP = "it is a step or a comparison: its slope is 0 and its jumps are no affine function"
DATA_INDEX = "it chooses elements by the values of its data"

ALONE = ("topk", "sort", "argmax", "nonzero")  # these look at the values of their one argument

REASONS = {
    **dict.fromkeys(
        ("sigmoid", "tanh", "silu", "gelu", "softplus", "elu", "selu", "celu", "mish", "exp", "log",
         "sqrt", "pow", "sin", "cos", "log_sigmoid", "erf", "rsqrt", "reciprocal", "logit", "log1p", "square"),
        SMOOTH,
    ),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax", "scaled_dot_product_attention"), ATTENTION),
    **dict.fromkeys(
        ("layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "instance_norm", "rms_norm",
         "local_response_norm", "var", "std", "norm", "linalg_vector_norm", "var_mean"),
        NORM,
    ),
    **dict.fromkeys(("baddbmm", "bilinear"), PRODUCT),
    "hardswish": "it is piecewise quadratic, not piecewise linear: use a piecewise-linear unit instead",
    "einsum": "the table of rules does not know it: write a product with fixed weights as `x @ W`",
    **dict.fromkeys(("sign", "round", "floor", "ceil", "gt", "lt", "ge", "le", "eq", "ne", "heaviside"), STEP),
    **dict.fromkeys(("index", "gather", "topk", "sort", "argmax", "nonzero", "masked_select", "where"), DATA_INDEX),
}  # fmt: skip


UNKNOWN = "the table of rules does not know it: rewrite it with supported operators, or add a rule for it"


def way_out(name: str, data: int) -> str:
    """The reason for an ATen operator that has no rule, called with so many values that depend on the input."""
    reason = REASONS.get(name, UNKNOWN)
    return UNKNOWN if reason in (DATA_INDEX, PRODUCT) and data < 2 and name not in ALONE else reason
