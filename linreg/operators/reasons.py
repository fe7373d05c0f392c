"""Why a call is refused, and what can be done instead: what the rules and the table of refusals say."""

from __future__ import annotations

from typing import NamedTuple

from linreg.errors import LinregError


class Reason(NamedTuple):
    """Why a call is refused, and what can be done instead."""

    why: str
    instead: str

    def __str__(self) -> str:
        return f"{self.why}; {self.instead}"


class AcrossImages(LinregError):
    """A call acts along the dimension of the images."""


CATEGORY = Reason(
    "it makes whole numbers of its data, such as the number of a category: that is a step",
    "fix the categorical part: embed it outside, and trace the rest with what the embedding gives as an input",
)
SMOOTH = Reason(
    "it is smooth, not piecewise linear: no linear region holds it exactly",
    'use a piecewise-linear unit instead, or interpolate it with trace(…, nonlinear="pwl"), dmbp.explain(…, pieces=64)',
)
SMOOTH_AMONG_OTHERS = Reason(
    SMOOTH.why, 'use a piecewise-linear unit instead; nonlinear="pwl" interpolates it, but not all that is refused too'
)
CURVED = Reason(
    "it is smooth, not piecewise linear, and has no interpolant: linreg interpolates only functions of one number that "
    "become straight lines at ±∞",
    "use a piecewise-linear unit instead",
)
ATTENTION = Reason(
    "it normalises by its own data, which is not piecewise linear", "explain the network up to its input instead"
)
SOFTMAX = Reason(ATTENTION.why, f"{ATTENTION.instead}; where it is the head, return that input, the logits")
NORM = Reason(
    "it divides by statistics of its own data, which is not piecewise linear",
    "use batch norm with running statistics instead",
)
SPREAD = Reason(
    "it is a norm by squares, or a variance, of its data, which is not piecewise linear",
    "use means, sums or maxima instead, or a norm of p = 1 or ∞",
)
PRODUCT = Reason(
    "it combines data with data, which is not piecewise linear",
    "keep all but one of them fixed (.detach() does not: its value still depends on the input)",
)
QUOTIENT = Reason("it divides by data, which is not piecewise linear", "divide by a fixed value instead")
BATCH_STATISTICS = Reason(
    "without running statistics it divides by those of the batch, which is not piecewise linear",
    "train it with track_running_stats=True, or replace it by a layer with fixed statistics",
)
RECURRENT = Reason(
    "it multiplies data by data, and its units are smooth",
    "write the recurrence as a loop over nn.Linear with piecewise-linear units",
)
FUSED = Reason(
    "it is a recurrence over packed sequences", "write it as a loop over nn.Linear with piecewise-linear units"
)
STEP = Reason(
    "it is a step or a comparison: its slope is 0 and its jumps are no affine function",
    "use a ramp instead (clamp, hardtanh), or a comparison that only chooses (torch.where)",
)
DATA_INDEX = Reason(
    "it chooses elements by the values of its data", "choose fixed ones, or the largest with a max pool"
)
DATA_SIZE = Reason(
    "the size of its result depends on the values of its data", "keep all elements, and set those not wanted to 0"
)
CONTROL = Reason(
    "it makes a choice or a Python number of the values of its data (`if x.sum() > 0`, `.item()`), and a graph holds "
    "one path only",
    "write the choice with operators (torch.where, clamp, maximum), drop an assert, or trace the part that has none",
)
RANDOM = Reason(
    "it draws random numbers: the network is another at each call",
    "draw them once into a buffer, or leave them out in eval mode",
)
COMPLEX = Reason(
    "its values are complex, and a graph is of one real dtype",
    "write the transform as products with fixed matrices of cosines and sines",
)
SPARSE = Reason("its values are stored as a sparse tensor", "keep the data dense")
CUSTOM = Reason("it is no operator of torch, so nothing is known of it", "write it with torch's own, or add a rule")
UNKNOWN = Reason("the table of rules does not know it", "rewrite it with supported operators, or add a rule for it")
