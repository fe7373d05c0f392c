"""What `--json` prints: JSON as its standard has it, which knows no NaN and no infinity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any


def as_json(value: Any) -> str:
    """The text of a value; a number that is not finite is null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if isfinite(value) else None
        case Mapping():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
        case _:
            return value
