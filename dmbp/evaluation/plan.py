"""What is to be evaluated, as one value, and all that its numbers hang on."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from dmbp.datasets import Pictures
from dmbp.errors import DmbpError
from dmbp.evaluation.measures import Judged, Metric
from dmbp.models import Model
from dmbp.runs.shelf import digest

PACKAGES = ("linreg-dmbp", "torch", "numpy", "captum", "pillow")  # which the numbers may hang on


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, on its device, and the pictures that it is evaluated on, with its classes."""

    model: Model
    pictures: Pictures


@dataclass(frozen=True, eq=False)
class Plan:
    """What is evaluated: methods and metrics by the names that the results keep them under, `settings` beside them.

    `batch` pictures go through a method together: always the same ones, in the order of the data. The maps of the first
    `keep` pictures of each network are kept too, for a sheet of pictures.
    """

    subjects: tuple[Subject, ...]
    methods: tuple[Judged, ...]
    metrics: Mapping[str, Metric]
    settings: Mapping[str, Any] = field(default_factory=dict)
    keep: int = 0
    batch: int = 1

    def __post_init__(self) -> None:
        if not (self.subjects and self.methods and self.metrics):
            raise DmbpError("an evaluation needs at least one network, one method and one metric")
        for names in ([subject.model.name for subject in self.subjects], [method.name for method in self.methods]):
            if len(set(names)) < len(names):
                raise DmbpError(f"two of a name cannot be told apart in the results: {', '.join(names)}")
        for subject in self.subjects:
            subject.pictures.check_targets(subject.model.classes())

    def made(self) -> dict[str, Any]:
        """What decides the numbers: the header of a results file."""
        return {
            "models": {subject.model.name: fingerprint(subject.model) for subject in self.subjects},
            "methods": {method.name: _options(method) for method in self.methods},
            "metrics": {name: repr(metric) for name, metric in self.metrics.items()},
            "data": self.subjects[0].pictures.family,
            "settings": {**self.settings, "batch": self.batch},
            "device": " and ".join(sorted({_device_name(subject.model) for subject in self.subjects})),
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        }


def _options(method: Any) -> str:
    """Those that maps hang on, of a dataclass; of anything else its repr."""
    if not is_dataclass(method) or isinstance(method, type):
        return repr(method)
    told = [f"{each.name}={_options(getattr(method, each.name))}" for each in fields(method) if each.compare]
    return f"{type(method).__name__}({', '.join(told)})"


def fingerprint(model: Model) -> str:
    """The same for the same network and preprocessing, and no other: a digest of structure and weights, and words."""
    state = {name: digest(value) for name, value in sorted(model.network.state_dict().items())}
    held = hashlib.sha256(f"{model.network!r} {state}".encode()).hexdigest()[:16]
    return f"{held}, {model.preprocess}, {model.probability}"


def _device_name(model: Model) -> str:
    like = next(model.network.parameters(), torch.empty(0))
    name = torch.cuda.get_device_name(like.device) if like.is_cuda else str(like.device)
    return f"{name}, {like.dtype}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
