"""All methods by name, and methods from text."""

from __future__ import annotations

from dmbp.evaluation.methods.chance import RandomMap
from dmbp.evaluation.methods.deep_lift import DeepLift
from dmbp.evaluation.methods.disentangled import DMBP
from dmbp.evaluation.methods.fullgrad import FullGrad
from dmbp.evaluation.methods.gradients import ND, BlurIG, Gradient, IntegratedGradients, SmoothGrad
from dmbp.evaluation.methods.guided import GradCAM, GuidedBackprop, GuidedGradCAM
from dmbp.evaluation.methods.lpr import LPR
from dmbp.evaluation.methods.method import Method
from dmbp.evaluation.methods.rise import RISE
from dmbp.evaluation.worded import read

METHODS: dict[str, type[Method]] = {
    kind.label: kind
    for kind in (
        ND, Gradient, IntegratedGradients, SmoothGrad, BlurIG, DeepLift, GuidedBackprop, GuidedGradCAM, GradCAM, RISE,
        FullGrad, LPR, RandomMap, DMBP,
    )
}  # fmt: skip


def parse(text: str) -> Method:
    """A method from its name and options: "nd", "ig:steps=100", "dmbp:loss=+-,sites=0|2"; `name` gives such text.

    Raises DmbpError for an unknown method or option, and for a value that the option cannot take.

    >>> from dmbp.evaluation import methods
    >>> methods.parse("smoothgrad:samples=10,times_input=no").name
    'smoothgrad:samples=10,times_input=False'
    """
    return read(text, METHODS, "method")
