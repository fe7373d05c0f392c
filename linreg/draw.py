"""Another door to `linreg.plot`: its pictures of graphs, matrices and path spectra."""

from linreg.plot.graph_picture import draw_graph, draw_matrix, draw_spectrum

__all__ = ["draw_graph", "draw_matrix", "draw_spectrum"]
