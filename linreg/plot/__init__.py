"""Pictures. Every number in them comes from a function beside them; the Axes are returned for further drawing."""

from linreg.plot.graph_picture import draw_graph
from linreg.plot.ledger_picture import Step, steps, waterfall
from linreg.plot.matrix_picture import draw_matrix
from linreg.plot.spectrum_picture import draw_spectrum
from linreg.plot.walls_picture import draw_region, draw_walls

__all__ = [
    "Step",
    "draw_graph",
    "draw_matrix",
    "draw_region",
    "draw_spectrum",
    "draw_walls",
    "steps",
    "waterfall",
]
