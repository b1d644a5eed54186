"""Small whole numbers as bytes: in as many bits as they need, or Huffman-coded.

Huffman's code is that of deflate, without its search for repetitions: weights hardly repeat.
"""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.uint8]
Coding = Literal["plain", "huffman"]

RAW_DEFLATE = -15  # window bits: no header, no checksum
MEMORY = 9


def encode(numbers: Numbers, bits: int) -> tuple[bytes, Coding]:
    """Return the shorter of both codes.

    Args:
        numbers: [N], each below 2^bits.
        bits: 1 to 8.
    """
    plain = np.packbits(np.unpackbits(numbers[:, None], axis=1)[:, 8 - bits :]).tobytes()
    coder = zlib.compressobj(9, zlib.DEFLATED, RAW_DEFLATE, MEMORY, zlib.Z_HUFFMAN_ONLY)
    huffman = coder.compress(numbers.tobytes()) + coder.flush()
    return (huffman, "huffman") if len(huffman) < len(plain) else (plain, "plain")


def decode(data: bytes, coding: str, bits: int, count: int) -> Numbers:
    """Return the numbers [count] that `encode` was given.

    Raises:
        ValueError: The data is something else.
    """
    if coding == "plain" and 1 <= bits <= 8:
        each = np.unpackbits(np.frombuffer(data, np.uint8))[: count * bits]
        if len(each) < count * bits:
            raise ValueError(f"expected {count} numbers of {bits} bits, got {len(data)} bytes")
        padded = np.zeros((count, 8), np.uint8)
        padded[:, 8 - bits :] = each.reshape(count, bits)
        return np.packbits(padded, axis=1).ravel()
    if coding != "huffman":
        raise ValueError(f"unknown coding {coding!r} of {bits} bits")
    try:
        decoder = zlib.decompressobj(RAW_DEFLATE)
        content = decoder.decompress(data, count + 1)  # no more, whatever a file claims
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(content) != count:
        raise ValueError(f"expected {count} numbers, got {len(content)} or more")
    return np.frombuffer(content, np.uint8)
