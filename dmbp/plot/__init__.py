"""Pictures of explanations and of masks."""

from dmbp.plot.explanation_picture import BLUE, DIVERGING, GREY, RED, draw_explanation, pixel_map

__all__ = ["BLUE", "DIVERGING", "GREY", "RED", "draw_explanation", "pixel_map"]
