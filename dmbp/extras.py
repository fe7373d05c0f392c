"""Optional packages: imported when they are needed, or an error that says what to install."""

import importlib
from typing import Any

import torch

from dmbp.errors import DmbpError


def install(extra: str) -> str:
    """How an extra is installed: the packages are on no index, so it is from the folder of the repository."""
    return f'in the folder of the repository, pip install ".[{extra}]"'


def needs(module: str, how: str) -> Any:
    """The optional `module`, or an error that says `how` to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DmbpError(f"{module} is not installed: {how}") from error
    except RuntimeError as error:  # torchvision's, where its kernels were built for another torch
        raise DmbpError(f"{module} needs its build for torch {torch.__version__}: {error}") from error
