"""Results read from files: what `Result.save` wrote, without the network that it was computed with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from numpy.lib.format import read_array
from torch import Tensor

from dmbp.account import LINES, Checks, Shares
from dmbp.errors import DmbpError
from dmbp.learning.objective import LOSSES, RecordedLoss
from dmbp.learning.options import Options
from dmbp.result import ERRORS, FORMAT, Result, npz
from linreg.inputs import INPUT, Input, Inputs

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Record:
    """What a file tells of a split: an `Account` without a network; `Split` says what its parts are."""

    input: Tensor
    weights: Tensor
    counting: str
    scores: Mapping[str, Tensor]
    shares: Mapping[str, Shares]
    checks: Checks
    layout: Inputs
    fixed: Mapping[str, Tensor]
    output: Tensor | None

    @classmethod
    def of(cls, arrays: Arrays) -> Record:
        """From `Result.arrays`."""
        held = {name: torch.from_numpy(value) for name, value in arrays.items() if value.dtype.kind != "U"}
        labels, unplaced = (tuple(arrays[name].tolist()) for name in ("ledger_terms", "unplaced_terms"))
        layout = _layout(arrays)

        def shares(line: str) -> Shares:
            mapping, complete = (_map(f"{line}_{name}", held, layout) for name in ("mapping", "complete"))
            input_share, terms = (held[f"{line}_{name}"] for name in ("input_share", "ledger"))
            mapping = layout.row(mapping) if layout.several else mapping
            return Shares(mapping, labels, input_share, terms, complete, unplaced)

        errors = {name: held[name] for name in ERRORS}
        gates = int(arrays["gates"]) if "gates" in arrays else None
        x = _map("input", held, layout)
        return cls(
            layout=layout,
            fixed=_under("fixed/", arrays),
            input=layout.row(x) if layout.several else x,
            weights=held["target"],
            counting=str(arrays["unmasked_goes_to"]),
            scores={line: held[line] for line in LINES},
            shares={line: shares(line) for line in LINES},
            checks=Checks(
                certificate=tuple(arrays["certificate"].tolist()), doubtful=held.get("doubtful"), gates=gates, **errors
            ),
            output=held.get("output"),
        )


def _layout(arrays: Arrays) -> Inputs:
    """The data inputs of the network."""
    names = tuple(arrays["inputs"].tolist()) if "inputs" in arrays else (INPUT,)
    values = {name: arrays["input" if len(names) == 1 else f"input/{name}"] for name in names}
    dtypes = {name: torch.from_numpy(value[:0]).dtype for name, value in values.items()}
    return Inputs(tuple(Input(name, value.shape[1:], dtypes[name]) for name, value in values.items()))


def _map(name: str, held: Mapping[str, Tensor], layout: Inputs) -> Any:
    """A map, or those of several inputs by name."""
    return {of: held[f"{name}/{of}"] for of in layout} if layout.several else held[name]


def load(path: str | Path) -> Result:
    """The result that `Result.save` wrote to `path`, on the CPU: every array, number and word the same.

    It prints, draws and saves as the original did, on any machine; only `split` is not there, as the file holds no
    network. No pickled code is run. Raises DmbpError for a file that is not there, is broken, is no saved result, or
    was written by a newer version of dmbp.

    >>> import dmbp, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> result = dmbp.explain(model, torch.ones(1, 2), iterations=5)
    >>> loaded = dmbp.load(result.save("why.npz"))
    >>> torch.equal(loaded.attribution, result.attribution), loaded.summary() == result.summary()
    (True, True)
    """
    path = npz(path)
    if not path.is_file():
        raise DmbpError(f"there is no file {path}")
    arrays = _read(path)
    try:
        return _result(arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise DmbpError(f"{path} is broken: it lacks what a saved result holds, or holds something else") from error


def _read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file of format `FORMAT`; each is read whole, so that zip's own checksums are compared."""
    try:
        with ZipFile(path) as file:
            texts = {name.removesuffix(".npy"): file.read(name) for name in file.namelist()}
        arrays = {name: read_array(BytesIO(text), allow_pickle=False) for name, text in texts.items()}
    except Exception as error:  # broken files make the readers raise nearly anything
        raise DmbpError(f"{path} is broken, or no .npz file of plain arrays ({type(error).__name__})") from error
    if "dmbp_result" not in arrays:
        raise DmbpError(f"{path} is no saved result: dmbp.load reads what Result.save wrote, numpy.load other arrays")
    if (found := int(arrays["dmbp_result"])) > FORMAT:
        raise DmbpError(f"{path} was written by a newer dmbp (format {found}, this one reads {FORMAT}): update it")
    return arrays


def _result(arrays: Arrays) -> Result:
    return Result(
        account=Record.of(arrays),
        masks=_under("mask/", arrays),
        initial=_under("initial_mask/", arrays),
        history=_under("history_", arrays),
        loss=str(arrays["loss"]),
        iterations=int(arrays["iterations"]),
        updates=torch.from_numpy(arrays["updates"]),
        interrupted=bool(arrays["interrupted"]),
        seconds=float(arrays["seconds"]),
        snapshots=_snapshots(_under("snapshot/", arrays)),
        options=_options(json.loads(str(arrays["options"]))),
        late=torch.from_numpy(arrays["settled"]) if "settled" in arrays else {},
    )


def _snapshots(held: Mapping[str, Tensor]) -> dict[int, Any]:
    """By the number of updates; "20/image" is that of one of several inputs."""
    found: dict[int, Any] = {}
    for name, value in held.items():
        count, _, of = name.partition("/")
        if of:
            found.setdefault(int(count), {})[of] = value
        else:
            found[int(count)] = value
    return found


def _options(record: dict[str, Any]) -> Options:
    known = record["loss"] in (*LOSSES, "none")
    return Options(**record | {"loss": record["loss"] if known else RecordedLoss(record["loss"])})


def _under(prefix: str, arrays: Arrays) -> dict[str, Tensor]:
    """What is named with a prefix, by the rest of its name."""
    found = {name: value for name, value in arrays.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): torch.from_numpy(value) for name, value in found.items()}
