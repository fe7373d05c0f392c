"""Values of options from text, and text from them: "ig:steps=100", "cascade:order=bottom-up"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from types import NoneType
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

from dmbp.errors import DmbpError
from dmbp.evaluation.checks import check_count


def option(default: Any, about: str, source: str, *, decides: bool = True) -> Any:
    """A field: what it is and where its default comes from; `decides` says whether numbers hang on it."""
    return field(default=default, compare=decides, metadata={"about": about, "source": source})


@dataclass(frozen=True)
class Worded:
    """A frozen dataclass of options that is known by its `label`."""

    label: ClassVar[str]

    @property
    def name(self) -> str:
        """The label, and the options that are not the default: what `read` makes the same value of."""
        told = [f"{each.name}={_text(getattr(self, each.name))}" for each in self.options() if self._differs(each)]
        return f"{self.label}:{','.join(told)}" if told else self.label

    @classmethod
    def options(cls) -> tuple[Field[Any], ...]:
        return fields(cls)

    def _differs(self, each: Field[Any]) -> bool:
        return bool(each.compare) and getattr(self, each.name) != each.default

    def _check_word(self, name: str, words: Iterable[str]) -> None:
        words = tuple(words)
        if getattr(self, name) not in words:
            listed = ", ".join(map(repr, words))
            raise DmbpError(f"{self.label}: {name} must be one of {listed}, not {getattr(self, name)!r}")

    def _check_numbers(self, *names: str, least: int = 1) -> None:
        for name in names:
            check_count(getattr(self, name), f"{self.label}: {name}", least)

    def _check_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise DmbpError(f"{self.label}: {name} must be a positive number, not {value!r}")


Kind = TypeVar("Kind", bound=Worded)


def read(text: str, kinds: Mapping[str, type[Kind]], what: str) -> Kind:
    """The value of one of these kinds that a text means, a label and options; `what` calls them in messages.

    Raises DmbpError for an unknown label or option, and for a value that the option cannot take.
    """
    label, _, rest = text.strip().partition(":")
    kind = kinds.get(label)
    if kind is None:
        raise DmbpError(f"there is no {what} {label!r}{_near(label, kinds)}; there are {', '.join(kinds)}")
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
NUMBERS: dict[type[int] | type[float], str] = {int: "a whole number", float: "a number"}


def _value(label: str, name: str, hint: Any, text: str) -> Any:
    """The text as what the option takes, by the types that its annotation names."""
    kinds = get_args(hint) or (hint,)
    if NoneType in kinds and text.lower() == "none":
        return None
    if bool in kinds:
        if text.lower() in WORDS:
            return WORDS[text.lower()]
        raise DmbpError(f"{label}: {name} must be yes or no, not {text!r}")
    for number, words in NUMBERS.items():
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                words += " or none" if NoneType in kinds else ""
                raise DmbpError(f"{label}: {name} must be {words}, not {text!r}") from None
    return tuple(text.split("|")) if "|" in text else text


def _near(word: str, words: Iterable[str]) -> str:
    near = get_close_matches(word, list(words), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _text(value: object) -> str:
    return "|".join(map(str, value)) if isinstance(value, tuple) else str(getattr(value, "__name__", value))
