"""The inputs of an explanation as the page shows them: what kind each is, its picture, and its maps.

An input (C, H, W) is a picture, (C, T) a signal, (C, D, H, W) a volume, (F,) a row of features. A map has no channels:
∇ ⊙ x is summed over them.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from torch import Tensor

from dmbp.account import elementwise
from dmbp.errors import DmbpError
from dmbp.explorer.packing import EXACT, FIVE_DIGITS, Pack, block_sums, fitting_block
from dmbp.result import Result
from linreg.inputs import Input
from linreg.text import counted

KINDS = {0: "features", 1: "features", 2: "signal", 3: "picture", 4: "volume"}  # by the number of dimensions
MAPPED = ("positive", "negative", "nuisance", "y")
SIDE = 640  # pixels: a larger picture is drawn smaller
FOR_MAPS, FOR_SNAPSHOTS = 0.74, 0.06  # of the room of an input
AS_PNG = 250_000  # bytes: a larger picture becomes a JPEG, as it is only looked at


@dataclass(frozen=True)
class View:
    """One input, and how its values become a map on the page."""

    entry: Input

    @property
    def kind(self) -> str:
        """ "features", "signal", "picture", "volume"; "other" where there are more dimensions than a page can show."""
        return KINDS.get(len(self.entry.shape), "other")

    @property
    def axes(self) -> tuple[int, ...]:
        """The shape of a map: that of the input without its channels."""
        return (self.entry.shape[1:] if len(self.entry.shape) > 1 else self.entry.shape) or (1,)

    def own(self, values: Any) -> Tensor:
        """What belongs to this input, where values are by name."""
        found: Tensor = values[self.entry.name] if isinstance(values, Mapping) else values
        return found

    def plane(self, values: Tensor) -> np.ndarray:
        """Values of one image, shaped like the input, summed over channels, in float64."""
        array = values.numpy(force=True).astype(np.float64)
        return (array.sum(0) if array.ndim > 1 else array).reshape(self.axes)


def views(result: Result) -> tuple[View, ...]:
    """Those of all inputs that are explained."""
    return tuple(View(entry) for entry in result.account.layout.data)


def described(
    view: View,
    result: Result,
    image: int,
    pack: Pack,
    room: float,
    picture: np.ndarray | None,
    names: Sequence[str] | None,
) -> dict[str, Any]:
    """All of one input but what belongs to sites: its values, maps by part, values by channel, and snapshots.

    `room` is how many bytes may go to it. Sums of what is kept are those of the library whatever was left out.
    """
    entry, x = view.entry, view.own(result.account.layout.parted(result.input))[image]
    shown: dict[str, Any] = {
        "name": entry.name,
        "shape": list(entry.shape),
        "axes": list(view.axes),
        "kind": view.kind,
        "several": result.account.layout.several,
        "names": _names(names, view),
        "left_out": [],
    }
    limit = pack.size + room
    shown["picture"] = _drawn(view, x, picture, pack)
    block = fitting_block(2 * len(MAPPED), view.axes, FOR_MAPS * room)
    shown["block"] = block
    shown["maps"] = _maps(view, result, image, pack, block)
    shown["snapshots"] = _snapshots(view, result, image, pack, FOR_SNAPSHOTS * room)
    shown |= _by_channel(view, result, image, x, pack, limit, block)
    if block > 1:
        sums = f"sums over {_blocks(view, block)}: what they sum to is exact"
        shown["left_out"].append(f"The maps of {_what(view)} hold {sums}.")
    if shown["snapshots"] and (coarse := shown["snapshots"][0]["block"]) > block:
        shown["left_out"].append(f"Maps on the way hold sums over {_blocks(view, coarse)}.")
    return shown


def _names(names: Sequence[str] | None, view: View) -> list[str] | None:
    """Names of features, or of channels. Raises DmbpError for another number of them."""
    if names is None:
        return None
    wanted = view.entry.shape[0] if view.entry.shape else 1
    if len(names) != wanted:
        raise DmbpError(
            f"names= must have a name for each of the {wanted} features or channels of {_what(view)}, not {len(names)}"
        )
    return [str(name) for name in names]


def _maps(view: View, result: Result, image: int, pack: Pack, block: int) -> dict[str, Any]:
    """The paper's maps of each part and of y, and the complete ones where the input has places."""
    maps: dict[str, Any] = {"paper": {}, "complete": {}}
    for line in MAPPED:
        paper = view.plane(view.own(elementwise(result.account, line))[image])
        maps["paper"][line] = _kept(paper, pack, block)
        complete = view.own(result.shares[line].complete)[image].numpy(force=True).astype(np.float64)
        if complete.shape == view.axes and len(view.entry.shape) > 1:
            maps["complete"][line] = _kept(complete, pack, block)
    return maps


def _kept(plane: np.ndarray, pack: Pack, block: int) -> dict[str, Any]:
    """A map, and its sum in full precision."""
    return {"sum": float(plane.sum()), "values": pack.add(block_sums(plane, block, plane.ndim))}


def _snapshots(view: View, result: Result, image: int, pack: Pack, room: float) -> list[dict[str, Any]]:
    """Maps a(x) on the way, by the number of updates."""
    block = fitting_block(len(result.snapshots), view.axes, room)
    found = []
    for count, values in sorted(result.snapshots.items()):
        kept = _kept(view.plane(view.own(values)[image]), pack, block)
        found.append({"at": count, "block": block, **kept})
    return found


def _by_channel(
    view: View, result: Result, image: int, x: Tensor, pack: Pack, limit: float, block: int
) -> dict[str, Any]:
    """x, and ∇⁺ ⊙ x and ∇⁻ ⊙ x by channel, to five digits, as far as there is room."""
    size = x.numel() * FIVE_DIGITS
    channels = x.shape[0] if x.dim() > 1 else 1
    shown: dict[str, Any] = {"x": None, "channels": None}
    left_out: list[str] = []
    if block == 1 and pack.size + size < limit:
        shown["x"] = pack.add(x.numpy(force=True), EXACT if channels == 1 else FIVE_DIGITS)
    else:
        left_out.append(f"The values of {_what(view)} are left out.")
    if channels > 1 and block == 1 and pack.size + 2 * size < limit:
        parts = {line: view.own(elementwise(result.account, line))[image] for line in MAPPED[:2]}
        shown["channels"] = {line: pack.add(part.numpy(force=True), FIVE_DIGITS) for line, part in parts.items()}
    elif channels > 1:
        left_out.append("The maps are kept summed over channels, not by channel.")
    return shown | {"left_out": left_out}


def _drawn(view: View, x: Tensor, picture: np.ndarray | None, pack: Pack) -> str | None:
    """The picture as a data: address, in its own colours; None for what is no picture, or is drawn from x."""
    if view.kind != "picture" or view.entry.shape[0] not in (1, 3):
        return None
    from PIL import Image

    from dmbp.plot.scales import scaled

    values = scaled(x) if picture is None else np.asarray(picture)
    if values.ndim != 3 or values.shape[2] != 3:
        raise DmbpError(f"picture= must be (H, W, 3) in [0, 1], not of shape {values.shape}")
    drawn = Image.fromarray(np.round(255 * np.clip(values, 0, 1)).astype(np.uint8))
    if max(drawn.size) > SIDE:
        drawn.thumbnail((SIDE, SIDE))
    for kind in ("png", "jpeg"):
        file = BytesIO()
        drawn.save(file, kind, quality=88, optimize=True)
        if file.tell() <= AS_PNG:
            break
    pack.size += file.tell()
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"


def _blocks(view: View, block: int) -> str:
    sides = " × ".join([str(block)] * len(view.axes))
    return f"blocks of {sides}" if len(view.axes) > 1 else f"{counted(block, 'neighbour')}"


def _what(view: View) -> str:
    return f"'{view.entry.name}'"
