"""The network as a strip of operators, and what each site holds, for the page."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import Any

from dmbp.account import LINES
from dmbp.analysis import carries, leans, site_masks
from dmbp.explorer.packing import Pack, block_sums, fitting_block
from dmbp.explorer.site_channels import SIDES, Passing, passing, seen, shown_of, strongest
from dmbp.explorer.views import View, views
from dmbp.result import Result
from linreg.operators import Diagonal
from linreg.text import counted

SMALLEST = 8  # positions along an axis: a map coarser than this says little


def network(result: Result, image: int, pack: Pack, room: float) -> dict[str, Any]:
    """Nodes in the order of the graph, and of each site its strongest channels, with at most `room` bytes of maps."""
    split = result.split
    carried = carries(split, image)
    lean = {record.site: record for record in leans(site_masks(result, image))}
    sums = _constants(result, image)
    nodes = []
    for node in split.lin.graph.nodes:
        affine = split.lin.frozen[node.name]
        opened = affine.slope[image].ne(0).double().mean().item() if isinstance(affine, Diagonal) else None
        nodes.append({
            "name": node.name, "kind": node.operator.kind, "shape": list(node.shape), "inputs": list(node.inputs),
            "open": opened, "constants": sums.get(node.name), "site": node.name in split.masks,
        })  # fmt: skip
    sites: dict[str, dict[str, Any]] = {
        carry.site: {"carry": asdict(carry), "lean": asdict(lean[carry.site])} for carry in carried.sites
    }
    left_out = _channels(sites, result, image, pack, room)
    return {
        "nodes": nodes,
        "sites": sites,
        "remainder": dict(zip(("positive", "negative", "nuisance"), carried.remainder, strict=True)),
        "left_out": left_out,
    }


def _constants(result: Result, image: int) -> dict[str, dict[str, float]]:
    """What the constants of each node give to y and to its parts."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(LINES, 0.0))
    for place, term in enumerate(result.split.ledger("y").terms):
        for line in LINES:
            sums[term.node][line] += result.shares[line].terms[place, image].item()
    return dict(sums)


def _channels(sites: dict[str, dict[str, Any]], result: Result, image: int, pack: Pack, room: float) -> list[str]:
    """Add to each site what its strongest channels hold and see, and say what was left out."""
    count = shown_of(len(sites))
    inputs = views(result)
    maps = 2 * (count + 1) * len(sites)
    blocks = {view.entry.name: fitting_block(maps, view.axes, room / len(inputs)) for view in inputs}
    if any(max(view.axes) / blocks[view.entry.name] < min(SMALLEST, max(view.axes)) for view in inputs):
        blocks = {}
    for side in SIDES:
        for site, at in passing(result.split, side).items():
            sites[site][side] = _side(result, side, at, image, count, inputs, blocks, pack)
    return _left_out(inputs, blocks, count, len(sites))


def _side(
    result: Result, side: str, at: Passing, image: int, count: int,
    inputs: tuple[View, ...], blocks: dict[str, int], pack: Pack,
) -> dict[str, Any]:  # fmt: skip
    """One side of a site: its part, what of it comes from the input, its strongest channels, and their maps."""
    parts, means = at.channels(image), at.means(image)

    def looked(channel: int | None) -> dict[str, Any]:
        return _map(seen(result.split, side, at, image, channel), inputs, blocks, pack)

    shown = [
        {
            "channel": channel,
            "part": parts[channel].item(),
            **{name: mean[channel].item() for name, mean in means.items()},
            **looked(channel),
        }
        for channel in strongest(parts, side, count)
    ]
    return {"part": parts.sum().item(), "channels": len(parts), "shown": shown, "all": looked(None)}


def _map(values: Any, inputs: tuple[View, ...], blocks: dict[str, int], pack: Pack) -> dict[str, Any]:
    """The sum of a map over all inputs, and the map of each, where there is room for maps."""
    planes = {view.entry.name: view.plane(view.own(values)) for view in inputs}
    maps = {
        name: {"block": block, "values": pack.add(block_sums(planes[name], block, planes[name].ndim))}
        for name, block in blocks.items()
    }
    return {"pixels": float(sum(plane.sum() for plane in planes.values())), "maps": maps}


def _left_out(inputs: tuple[View, ...], blocks: dict[str, int], count: int, sites: int) -> list[str]:
    told = [f"Of each site the {counted(count, 'strongest channel')} for and against are shown; the others together."]
    if not blocks:
        return [*told, f"With {counted(sites, 'site')} of this size the maps of channels do not fit: only their sums."]
    coarse = {name: block for name, block in blocks.items() if block > 1}
    for view in inputs:
        if view.entry.name in coarse:
            sides = " × ".join([str(coarse[view.entry.name])] * len(view.axes))
            told.append(f"Maps of channels hold sums over blocks of {sides}: their sums are exact.")
    return told
