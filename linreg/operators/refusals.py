"""Which operators are refused, and why: one entry for each family."""

from __future__ import annotations

from linreg.operators.reasons import (
    ATTENTION,
    BATCH_STATISTICS,
    COMPLEX,
    CONTROL,
    CURVED,
    CUSTOM,
    DATA_INDEX,
    DATA_SIZE,
    FUSED,
    NORM,
    PRODUCT,
    RECURRENT,
    SMOOTH,
    SOFTMAX,
    SPARSE,
    SPREAD,
    STEP,
    UNKNOWN,
    Reason,
)
from linreg.operators.smooth import UNITS

FAMILIES: dict[Reason, tuple[str, ...]] = {
    SMOOTH: tuple(UNITS),
    CURVED: (
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "pow", "square", "reciprocal", "sin",
        "cos", "tan", "asin", "acos", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "logit", "hypot",
        "logsumexp", "logaddexp", "xlogy", "sinc",
    ),
    SOFTMAX: ("softmax", "_softmax", "log_softmax", "_log_softmax"),
    ATTENTION: ("scaled_dot_product_attention", "cosine_similarity"),
    NORM: ("layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "rms_norm", "_fused_rms_norm"),
    BATCH_STATISTICS: ("_native_batch_norm_legit", "_native_batch_norm_legit_functional"),
    SPREAD: (
        "var", "std", "var_mean", "std_mean", "norm", "linalg_vector_norm", "linalg_norm", "cdist", "_cdist_forward",
    ),
    PRODUCT: ("bilinear", "glu", "prod", "cumprod", "outer", "dot", "addbmm", "linalg_cross"),
    RECURRENT: ("lstm", "gru", "rnn_tanh", "lstm_cell", "gru_cell", "rnn_tanh_cell"),
    FUSED: ("rnn_relu",),
    STEP: (
        "round", "floor", "ceil", "trunc", "frac", "fmod", "remainder", "floor_divide", "heaviside",
        "bucketize", "searchsorted", "fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine",
        "quantize_per_tensor", "quantize_per_channel",
    ),
    DATA_INDEX: ("argsort", "argmax", "argmin", "embedding", "median", "one_hot", "mode"),
    DATA_SIZE: ("nonzero", "masked_select", "unique", "_unique2", "unique_dim", "unique_consecutive", "histc"),
    CONTROL: ("item", "_local_scalar_dense", "cond", "while_loop", "map_impl", "scan"),
    COMPLEX: ("complex", "view_as_complex", "polar", "fft_fft", "fft_rfft", "fft_fft2", "fft_rfft2", "fft_fftn",
              "fft_rfftn", "fft_ifft", "stft"),
    SPARSE: ("to_sparse", "_to_sparse", "sparse_mm", "_sparse_mm"),
}  # fmt: skip
REASONS = {name: reason for reason, names in FAMILIES.items() for name in names}

ALONE = ("glu", "prod", "cumprod")  # they multiply the parts of their one argument


def reason(name: str, data: int) -> Reason:
    """The reason for an operator that has no rule, called with so many values that depend on the input."""
    found = REASONS.get(name, CUSTOM if "." in name else UNKNOWN)
    return UNKNOWN if found is PRODUCT and data < 2 and name not in ALONE else found
