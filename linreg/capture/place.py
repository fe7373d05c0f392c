"""Where in a model something happens: the module's path and class, and the line of the user's own code."""

from __future__ import annotations

import linecache
import os
import re
import sysconfig
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import fx, nn

FOREIGN = tuple(str(Path(file).parent) + os.sep for file in (torch.__file__, np.__file__, __file__))
STANDARD = sysconfig.get_path("stdlib") + os.sep  # with a folder of packages inside, in some installations
GENERATED = "<eval_with_key>"  # a file that torch.fx made up


@dataclass(frozen=True)
class Place:
    """The path of a module ("" for the model itself), its class, and "file:line: code"; "" where one is not known."""

    module: str = ""
    kind: str = ""
    source: str = ""

    @property
    def is_layer(self) -> bool:
        """Whether the module is a layer of torch.nn, and not one of the user's or a container."""
        return self.kind.startswith("torch.nn.modules.") and "container" not in self.kind

    @property
    def lines(self) -> tuple[str, ...]:
        """What an error says of it."""
        inside = f"module '{self.module}'" if self.module else "the model's own forward"
        return (f"  in {inside} ({self.kind})",) * bool(self.kind) + (f"  at {self.source}",) * bool(self.source)


def place_of_call(call: fx.Node) -> Place:
    """The innermost module that makes a call of an exported program, and the innermost line of the user's own code."""
    stack = list((call.meta.get("nn_module_stack") or {}).values())
    frames = re.findall(r'File "([^"]+)", line (\d+), in \S+\n\s*(.+)', call.meta.get("stack_trace") or "")
    frames = [frame for frame in frames if not frame[0].startswith(GENERATED)]
    own = [frame for frame in frames if _is_own(frame[0])] or frames
    module, kind = stack[-1] if stack else ("", "")
    return Place(module, kind, "{}:{}: {}".format(*own[-1]) if own else "")


def place_of_error(error: BaseException, model: nn.Module) -> Place:
    """The same of what went wrong in the model's forward: the innermost of its modules at work, and the user's line."""
    paths = {id(module): path for path, module in model.named_modules()}
    place = Place()
    for frame, line in traceback.walk_tb(error.__traceback__):
        file, owner = frame.f_code.co_filename, frame.f_locals.get("self")
        if id(owner) in paths:
            kind = f"{type(owner).__module__}.{type(owner).__qualname__}"
            place = replace(place, module=paths[id(owner)], kind=kind)
        if place.kind and _is_own(file):
            place = replace(place, source=f"{file}:{line}: {linecache.getline(file, line).strip()}")
    earlier = error.__cause__ or error.__context__
    return place_of_error(earlier, model) if earlier is not None and not place.kind else place


def _is_own(file: str) -> bool:
    """Whether a file is of the user's, or of the packages that the model comes from."""
    standard = file.startswith(STANDARD) and "-packages" not in file
    return not (standard or file.startswith((*FOREIGN, GENERATED)))
