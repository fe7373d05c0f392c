"""The one error of linreg: what was expected, what came, where, and the way out."""


class LinregError(ValueError):
    """A network, input or argument that linreg cannot take."""
