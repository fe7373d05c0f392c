"""Optional packages: imported when they are needed, or an error that says what to install."""

import importlib
from typing import Any

import torch

from dmbp.errors import DmbpError


def needs(module: str, install: str) -> Any:
    """The optional `module`, or an error that says what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DmbpError(f'{module} is not installed: pip install "{install}"') from error
    except RuntimeError as error:  # torchvision's, where its kernels were built for another torch
        raise DmbpError(f"{module} needs its build for torch {torch.__version__}: {error}") from error
