"""Another door to `dmbp.plot.mask_pictures`: masks site by site, as figures."""

from dmbp.plot.mask_pictures import *  # noqa: F403
