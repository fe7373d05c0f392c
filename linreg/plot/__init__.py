"""Pictures. Every number in them comes from a function beside them; the Axes are returned for further drawing."""

from linreg.plot.graph_picture import draw_graph
from linreg.plot.ledger_picture import Step, steps, waterfall
from linreg.plot.line_picture import draw_rule_errors, draw_rules, draw_segment
from linreg.plot.matrix_picture import draw_matrix
from linreg.plot.plane_picture import draw_plane
from linreg.plot.spectrum_picture import draw_spectrum
from linreg.plot.walls_picture import draw_region, draw_walls

__all__ = [
    "Step",
    "draw_graph",
    "draw_matrix",
    "draw_plane",
    "draw_region",
    "draw_rule_errors",
    "draw_rules",
    "draw_segment",
    "draw_spectrum",
    "draw_walls",
    "steps",
    "waterfall",
]
