"""The one error of dmbp, which the command line prints as one line."""

from linreg.errors import LinregError


class DmbpError(LinregError):
    """A model, image, target or argument that dmbp cannot take."""
