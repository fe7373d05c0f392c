"""torchvision, importable where torch has no CUDA: `from vision import torchvision`, or import this first.

torchvision's wheels refuse a torch without CUDA, for want of two operators that no test calls.
"""

import torch

try:
    import torchvision
except RuntimeError:
    OPERATORS = torch.library.Library("torchvision", "DEF")  # its operators exist as long as it does
    OPERATORS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    OPERATORS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
