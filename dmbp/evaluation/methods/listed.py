"""All methods by name, and methods from text."""

from __future__ import annotations

from difflib import get_close_matches
from types import NoneType
from typing import Any, get_args, get_type_hints

from dmbp.errors import DmbpError
from dmbp.evaluation.methods.chance import RandomMap
from dmbp.evaluation.methods.deep_lift import DeepLift
from dmbp.evaluation.methods.disentangled import DMBP
from dmbp.evaluation.methods.fullgrad import FullGrad
from dmbp.evaluation.methods.gradients import ND, BlurIG, Gradient, IntegratedGradients, SmoothGrad
from dmbp.evaluation.methods.guided import GradCAM, GuidedBackprop, GuidedGradCAM
from dmbp.evaluation.methods.lpr import LPR
from dmbp.evaluation.methods.method import Method
from dmbp.evaluation.methods.rise import RISE

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
    label, _, rest = text.strip().partition(":")
    kind = METHODS.get(label)
    if kind is None:
        raise DmbpError(f"there is no method {label!r}{_near(label, METHODS)}; there are {', '.join(METHODS)}")
    hints = {each.name: get_type_hints(kind)[each.name] for each in kind.options()}
    given: dict[str, Any] = {}
    for part in rest.split(",") if rest.strip() else []:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in hints:
            listed = ", ".join(hints) or "none"
            raise DmbpError(f"{label} has no option {name!r}{_near(name, hints)}; its options are: {listed}")
        if not equals or name in given:
            raise DmbpError(f"{label}: expected {name}=VALUE, once, in {text!r}")
        given[name] = _value(label, name, hints[name], value)
    return kind(**given)


WORDS = {"yes": True, "true": True, "no": False, "false": False}


def _value(label: str, name: str, hint: Any, text: str) -> Any:
    """The text as what the option takes, by the types that its annotation names."""
    kinds = get_args(hint) or (hint,)
    if NoneType in kinds and text.lower() == "none":
        return None
    if bool in kinds:
        if text.lower() in WORDS:
            return WORDS[text.lower()]
        raise DmbpError(f"{label}: {name} must be yes or no, not {text!r}")
    for number in (int, float):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                raise DmbpError(f"{label}: {name} must be a number, not {text!r}") from None
    return tuple(text.split("|")) if "|" in text else text


def _near(word: str, words: Any) -> str:
    near = get_close_matches(word, words, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
