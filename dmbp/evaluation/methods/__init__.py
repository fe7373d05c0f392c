"""Every rival, and DMBP, as values with one signature: `method(network, x, target)` gives a map.

>>> import torch
>>> from dmbp.evaluation import methods
>>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
>>> x = torch.randn(5, 1, 3, 3)
>>> methods.IntegratedGradients(steps=20)(network.eval(), x, 1).shape
torch.Size([5, 1, 3, 3])
>>> methods.parse("ig:steps=20"), methods.DMBP(loss="+-", iterations=20).name
(IntegratedGradients(steps=20, rule='gausslegendre', baseline=0.0, batch_size=16), 'dmbp:iterations=20,loss=+-')
"""

from dmbp.evaluation.methods.chance import RandomMap
from dmbp.evaluation.methods.deep_lift import DeepLift
from dmbp.evaluation.methods.disentangled import DMBP
from dmbp.evaluation.methods.fullgrad import FullGrad
from dmbp.evaluation.methods.gradients import ND, BlurIG, Gradient, IntegratedGradients, SmoothGrad
from dmbp.evaluation.methods.guided import GradCAM, GuidedBackprop, GuidedGradCAM
from dmbp.evaluation.methods.listed import METHODS, parse
from dmbp.evaluation.methods.lpr import LPR
from dmbp.evaluation.methods.method import Method
from dmbp.evaluation.methods.rise import RISE

__all__ = [
    "DMBP",
    "LPR",
    "METHODS",
    "ND",
    "RISE",
    "BlurIG",
    "DeepLift",
    "FullGrad",
    "GradCAM",
    "Gradient",
    "GuidedBackprop",
    "GuidedGradCAM",
    "IntegratedGradients",
    "Method",
    "RandomMap",
    "SmoothGrad",
    "parse",
]
