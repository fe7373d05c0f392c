"""The explorer: one HTML file that opens from disk, in which people look into an explanation.

`Result.to_html` writes it. Python gathers names, numbers and arrays (`gathered`, with `views`, `strip`, `site_channels`
and `packing`); `page` joins them with what lies in `web/`: the frame, one style sheet, and plain functions of
JavaScript. The page asks nothing of a network.
"""

from dmbp.explorer.page import write_page

__all__ = ["write_page"]
