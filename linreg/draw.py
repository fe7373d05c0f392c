"""Another door to `linreg.plot`: its pictures of graphs, matrices and path spectra."""

from linreg.plot import draw_graph, draw_matrix, draw_spectrum

__all__ = ["draw_graph", "draw_matrix", "draw_spectrum"]
