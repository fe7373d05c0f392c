"""Pictures of graphs, matrices, path spectra and ledgers. Every number in them comes from a function beside them."""

from linreg.plot.graph_picture import draw_graph, draw_matrix, draw_spectrum
from linreg.plot.ledger_picture import BLUE, GREY, RED, Step, steps, waterfall

__all__ = ["BLUE", "GREY", "RED", "Step", "draw_graph", "draw_matrix", "draw_spectrum", "steps", "waterfall"]
