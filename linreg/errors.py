"""The one error of linreg: what was expected, what came, where, and the way out."""


class LinregError(ValueError):
    """A network, input or argument that linreg cannot take; it says what is wrong, where, and what can be done.

    Of a call in a network it names, on a line each:

    - the node by the path of its module, the operator, the shapes of its data, why it is refused, and the way out;
    - the module that makes the call, and its class;
    - the file, line and code of the user's own that led to it.

    The same places are named where torch.export cannot capture a model, or the model fails on its example; the
    exporter's or the model's own exception is then the `__cause__`. What is taken and what is refused is listed by
    `python -m linreg.operators`.
    """
