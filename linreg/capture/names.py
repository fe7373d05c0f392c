"""How the nodes of a graph are called: after the modules of the user's model that make the calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, count

from torch import Tensor, fx

from linreg.capture.place import place_of_call
from linreg.capture.program import whole
from linreg.graph import INPUT
from linreg.operators.table import operator_name

RENAMED = {"_native_batch_norm_legit_no_training": "batch_norm"}


def name_calls(calls: Sequence[fx.Node], taken: Iterable[str] = ()) -> dict[fx.Node, str]:
    """A name for each call that gives a tensor: the path of the layer of torch.nn that makes it, else `path.operator`.

    A layer that makes several calls (a padded convolution) gives its name to the last. Where a name is taken it becomes
    `name@1`, `name@2`, …: a module may be called again, or bear the input's name, or one that is `taken` already.
    """
    calls = [call for call in calls if isinstance(call.meta.get("val"), Tensor)]
    last = {run_of_module(call): call for call in calls}
    names: dict[fx.Node, str] = {}
    taken = {INPUT, *taken}
    for call in calls:
        place = place_of_call(call)
        named_by_layer = place.is_layer and place.module and last[run_of_module(call)] is call
        name = _free(place.module if named_by_layer else path_of_operator(call), taken)
        taken.add(name)
        names[call] = name
    return names


def path_of_operator(call: fx.Node) -> str:
    """`path.operator`: the path of the module that makes a call, and what is called."""
    name = operator_name(whole(call).target)
    return f"{place_of_call(call).module}.{RENAMED.get(name, name)}".removeprefix(".")


def run_of_module(call: fx.Node) -> str:
    """What all calls have in common that the innermost module makes in one run of its forward."""
    return next(reversed(call.meta.get("nn_module_stack") or {}), "")


def _free(name: str, taken: set[str]) -> str:
    repeated = (f"{name}@{k}" for k in count(1))
    return next(each for each in chain([name], repeated) if each not in taken)
