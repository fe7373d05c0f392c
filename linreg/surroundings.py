"""What a user has switched on around a call, and what must not change its results.

All of it are settings of the thread at hand, so that no other thread sees them change for a moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

CASTING = ("cpu", "cuda", "mps", "xpu")  # devices that autocast knows
CPU = torch.device("cpu")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, each operation is of its operands' own dtype: autocast is off. Also a decorator: `@undisturbed()`."""
    casting = [device for device in CASTING if torch.is_autocast_enabled(device)]
    if not casting:  # the usual case, in every sweep: nothing to enter or leave
        yield
        return
    with ExitStack() as stack:
        for device in casting:
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def plain() -> Iterator[None]:
    """The same; and no inference mode, whose tensors autograd cannot use later, nor a default device of the user's.

    Also a decorator: `@plain()`.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(undisturbed())
        if torch.get_default_device() != CPU:
            stack.enter_context(CPU)
        yield
