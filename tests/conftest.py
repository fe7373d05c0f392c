"""What the tests share."""

import torch
import vision  # noqa: F401  (makes torchvision importable)

# The nets are tiny: a second thread gains nothing, and costs fifty times as much where the cores are busy.
torch.set_num_threads(1)
