"""What the tests share."""

import torch


def _import_torchvision() -> torch.library.Library | None:
    """torchvision's wheels refuse a torch without CUDA, for want of two operators that no test calls."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401

        return library
    return None


_TORCHVISION_OPERATORS = _import_torchvision()  # they exist as long as this does

# The nets are tiny: a second thread gains nothing, and costs fifty times as much where the cores are busy.
torch.set_num_threads(1)
