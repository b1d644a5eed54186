"""Pattern-sparse weights as bytes: what a runtime that stores patterns has to store.

ONNX has no place for patterns: exported files hold the zeros like any other weight. This is the
form whose size `hw_models.cost` counts, up to a few bytes a layer for the list of its patterns:

* entries of kernels: for each nine weights the number of its pattern in as few bits as all numbers
  need, then the kept weights;
* any other pattern: one bit for each weight that says whether it is kept, then the kept weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spaces.sparsity.entries import NINE, Entries, in_nines
from spaces.sparsity.pattern import Pattern

Precision = Literal["float16", "float32"]


@dataclass(frozen=True, slots=True)
class Packed:
    """The weight of one layer.

    Args:
        shape: [O, I, kh, kw].
        precision: Of the values.
        pattern: Its pattern, with those its kernels choose from.
        indices: Which weights are kept.
        values: The kept weights.
    """

    shape: tuple[int, ...]
    precision: Precision
    pattern: Pattern
    indices: bytes
    values: bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of indices, values and the list of the kernels' patterns, nine bits each."""
        listed = -(-len(_masks(self.pattern)) * NINE // 8)
        return len(self.indices) + len(self.values) + listed


def pack(weight: Tensor, pattern: Pattern, precision: Precision = "float16") -> Packed:
    """Pack a weight.

    Args:
        weight: [O, I, kh, kw], 0 wherever its pattern removes.
        pattern: Its pattern.
        precision: What values are stored in.
    """
    flat = weight.detach().flatten().numpy()
    if isinstance(pattern, Entries):
        nines_K9, masks_P9 = in_nines(weight.detach()), pattern.masks()
        # The kernel's pattern has all of its energy; of several that do, the first.
        energy_KP = nines_K9.double() ** 2 @ masks_P9.T.double()
        numbers_K = energy_KP.argmax(1)
        bits = _bits(len(masks_P9))
        indices = np.unpackbits(numbers_K.numpy().astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]
        values = nines_K9[masks_P9[numbers_K]].numpy()
    else:
        indices, values = flat != 0, flat[flat != 0]
    return Packed(
        tuple(weight.shape),
        precision,
        pattern,
        np.packbits(indices).tobytes(),
        values.astype(precision).tobytes(),
    )


def unpack(packed: Packed) -> Tensor:
    """Return the weight that was packed, float32, rounded to the precision of its values."""
    count = int(np.prod(packed.shape))
    flat = np.zeros(count, dtype=np.float32)
    flat[_kept(packed, count)] = np.frombuffer(packed.values, packed.precision)
    return torch.from_numpy(flat).view(packed.shape)


def _kept(packed: Packed, count: int) -> NDArray[np.bool_]:
    """Return whether each weight is kept [count]."""
    bits = np.unpackbits(np.frombuffer(packed.indices, np.uint8))
    if not isinstance(packed.pattern, Entries):
        return bits[:count].astype(np.bool_)
    masks_P9 = np.array(_masks(packed.pattern))
    width, kernels = _bits(len(masks_P9)), count // NINE
    numbers_K = bits[: kernels * width].reshape(kernels, width) @ (1 << np.arange(width)[::-1])
    kept = np.zeros(count, dtype=np.bool_)
    kept[: kernels * NINE] = masks_P9[numbers_K].ravel()
    return kept


def _masks(pattern: Pattern) -> list[list[bool]]:
    return pattern.masks().tolist() if isinstance(pattern, Entries) else []


def _bits(patterns: int) -> int:
    return max(1, (patterns - 1).bit_length())
