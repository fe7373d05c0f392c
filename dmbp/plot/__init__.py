"""Pictures of explanations and of masks, in the colours of `linreg.plot.style`."""

from dmbp.plot.alone_picture import draw_alone
from dmbp.plot.along_picture import draw_along
from dmbp.plot.comparison_picture import draw_comparison
from dmbp.plot.explanation_picture import draw_explanation, draw_map, pixel_map
from dmbp.plot.overlay import draw_overlay
from linreg.plot.style import BLUE, DIVERGING, RED
from linreg.plot.style import NUISANCE as GREY

__all__ = [
    "BLUE",
    "DIVERGING",
    "GREY",
    "RED",
    "draw_alone",
    "draw_along",
    "draw_comparison",
    "draw_explanation",
    "draw_map",
    "draw_overlay",
    "pixel_map",
]
