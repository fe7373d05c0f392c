"""Arrays as text: float32 in planes of bytes, deflated, all in one base64 string.

A float32 has four bytes; the k-th bytes of all numbers stand together, lowest first, which deflates better than numbers
one by one. With fewer planes the lowest bytes are left out: 3 keep sixteen bits after the point, some five digits.
"""

from __future__ import annotations

import zlib
from base64 import b64encode
from typing import Any

import numpy as np

EXACT, FIVE_DIGITS = 4, 3  # planes

Reference = dict[str, Any]


class Pack:
    """Arrays that go into one file, each told by where it begins and ends.

    `size` counts the bytes so far, of all that goes into the file: pictures, which stand elsewhere in it, are added.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0
        self.size = 0

    def add(self, values: Any, planes: int = EXACT) -> Reference:
        """Keep an array, and give what finds it again: {"at", "bytes", "shape", "planes"}."""
        array = np.asarray(values)
        part = packed(array, planes)
        reference = {"at": self._at, "bytes": len(part), "shape": list(array.shape), "planes": planes}
        self._parts.append(part)
        self._at += len(part)
        self.size += len(part)
        return reference

    def text(self) -> str:
        """All of them in base64."""
        return b64encode(b"".join(self._parts)).decode()


def packed(array: np.ndarray, planes: int = EXACT) -> bytes:
    """The deflated planes of an array, rounded to float32 and, where planes are left out, to what they hold."""
    dropped = 4 - planes
    bits = np.ascontiguousarray(array, "<f4").reshape(-1).view("<u4")
    if dropped:
        bits = bits + np.uint32(1 << (8 * dropped - 1))  # to the nearest
    by_plane = bits.view(np.uint8).reshape(-1, 4).T[dropped:]
    return zlib.compress(by_plane.tobytes(), 9)


def block_sums(values: np.ndarray, block: int, axes: int) -> np.ndarray:
    """Sums over blocks of `block` elements along each of the last `axes` dimensions: the total stays what it was.

    The last block of a dimension may hold fewer.
    """
    sums = values
    for axis in range(values.ndim - axes, values.ndim):
        starts = np.arange(0, max(sums.shape[axis], 1), block)
        sums = np.add.reduceat(sums, starts, axis) if sums.shape[axis] else sums
    return sums


def fitting_block(count: int, shape: tuple[int, ...], room: float) -> int:
    """The smallest block with which so many float32 arrays of a shape take at most `room` bytes."""
    block = 1
    while count * 4 * np.prod([-(-size // block) for size in shape], dtype=float) > room and block < max(shape):
        block += 1
    return block
