"""Where the linear function ends: the region of a linearization, its walls, and the regions beyond them.

"Linear region" is said of three things, and papers count different ones. Two inputs are in one region

- **by pattern**, if every unit is on the same piece for both: each gate open or closed, each maximum from the same
  input. These inputs are a polytope, {v: A v ≤ b}, with a wall wherever a unit is about to turn;
- **by map**, if the network is the same affine function around both. A unit that turns changes no map where all that
  reads it is closed, so that several patterns can share a map. Their union may be bent or have holes;
- **by map and connected**, if a path leads from one to the other on which the map stays the same: the same function
  may come back somewhere else, and is then another region.

`walls`, `segment` and `plane` take `by="pattern"` (the default) or `by="map"`; with "map", pieces that touch and have
equal maps are one piece, so that it is always the third that is counted, and never pieces far apart that happen to
agree. The map is that of the whole input, also where a line or a plane shows a part of it. In a plane a piece by map
may be bent: it is several convex polygons. All else is by pattern: a polytope and its neighbours are convex.
"""

from linreg.regions.crossing import Neighbour, across, neighbours
from linreg.regions.halfspaces import Inequalities, Label, inequalities
from linreg.regions.line import Density, Estimate, density, estimate, segment
from linreg.regions.meaning import By
from linreg.regions.nearest import Wall, Walls, changing, distances, exits, walls
from linreg.regions.pattern import Pattern, disagreements
from linreg.regions.planes import Plane, plane
from linreg.regions.programs import Ball, Polytope, polytope
from linreg.regions.rules import RuleErrors, rule_errors
from linreg.regions.segments import Segment

__all__ = [
    "Ball",
    "By",
    "Density",
    "Estimate",
    "Inequalities",
    "Label",
    "Neighbour",
    "Pattern",
    "Plane",
    "Polytope",
    "RuleErrors",
    "Segment",
    "Wall",
    "Walls",
    "across",
    "changing",
    "density",
    "disagreements",
    "distances",
    "estimate",
    "exits",
    "inequalities",
    "neighbours",
    "plane",
    "polytope",
    "rule_errors",
    "segment",
    "walls",
]
