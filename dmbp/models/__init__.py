"""Networks with what people need to use them: preprocessing, names of classes, weights read without running code."""

from dmbp.models.load import Model, Probability, check_spec, imagenet_classes, load_model, untrained
from dmbp.models.weights import read_weights

__all__ = ["Model", "Probability", "check_spec", "imagenet_classes", "load_model", "read_weights", "untrained"]
