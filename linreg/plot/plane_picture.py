"""Pictures of a plane through a network: its pieces, coloured by class or by any numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import CenteredNorm, ListedColormap
from matplotlib.figure import Figure

from linreg.errors import LinregError
from linreg.plot.style import DIVERGING, INK, despine, own_settings
from linreg.regions.planes import Plane

# Pale and distinct: Okabe and Ito's, lightened, so that edges and boundaries are seen on them.
CLASSES = ["#a8cbe8", "#f3c9a5", "#a9d9c5", "#ecc3d9", "#f3eaa2", "#c3e2f5", "#e8b3ad", "#cfcfcf", "#d5c3e6", "#c9d3a4"]


@own_settings()
def draw_plane(plane: Plane, colour: Any = "class", ax: Axes | None = None, edges: bool | None = None) -> Axes:
    """The pieces of a plane over u and v. Returns the axes.

    `colour` is "class", the largest output, to the decision boundary; "piece", a colour for each that only tells
    neighbours apart; or numbers, one for each piece (K,): y, a share, what one likes. `edges` says whether the pieces
    are outlined: up to 5,000 of them, unless it is given; edges within a piece are not drawn. The decision boundary is
    black; it is left out where `colour` is "piece". Raises LinregError for numbers that are not as many as pieces.
    """
    if ax is None:
        ax = Figure(figsize=(5.6, 5.2), layout="constrained").add_subplot()
    by_class = isinstance(colour, str) and colour == "class"
    shown = plane.by_class() if by_class else plane
    rings = [shown.polygon(f).numpy() for f in range(len(shown.polygons))]
    filled = PolyCollection(rings, edgecolors="face", linewidths=0.1)
    if isinstance(colour, str) and colour in ("class", "piece"):
        numbers = shown.classes().cpu() if by_class else plane.piece * 7
        filled.set(array=numbers.numpy() % len(CLASSES), cmap=ListedColormap(CLASSES), clim=(-0.5, len(CLASSES) - 0.5))
        ax.add_collection(filled)
    else:
        values = _numbers(colour, len(plane))
        signed = bool((values < 0).any() and (values > 0).any())
        norm = CenteredNorm() if signed else None
        filled.set(array=values[plane.piece], cmap=DIVERGING if signed else "viridis", norm=norm)
        ax.add_collection(filled)
        ax.figure.colorbar(filled, ax=ax, shrink=0.8)
    if not (isinstance(colour, str) and colour == "piece"):
        lines, _ = plane.boundaries()
        ax.add_collection(LineCollection(list(lines.numpy()), colors="black", linewidths=1.6))
    if len(plane) <= 5000 if edges is None else edges:
        ax.add_collection(LineCollection(list(plane.borders().numpy()), colors=INK, linewidths=0.25))
    low, high = plane.polygons.places.amin(0).tolist(), plane.polygons.places.amax(0).tolist()
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])
    ax.set_aspect("equal")
    ax.set_xlabel("u")
    ax.set_ylabel("v")
    ax.set_title(f"{len(plane):,} pieces", fontsize=10)
    despine(ax)
    return ax


def _numbers(colour: Any, count: int) -> np.ndarray:
    try:
        values = torch.as_tensor(colour).detach().double().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise LinregError(f'colour is "class", "piece" or {count} numbers, not {colour!r}') from None
    if values.shape != (count,):
        raise LinregError(f"colour needs a number for each of {count} pieces, (K,), not {tuple(values.shape)}")
    return values.numpy()
