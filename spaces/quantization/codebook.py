"""Codebooks: the weights of a layer share 2^b values, wherever k-means puts them.

Deep Compression (Han et al., arXiv 1510.00149, section 3): start with equally spaced values between
the smallest and the largest weight, then alternate between taking the nearest and taking the mean.
What is stored are b-bit indices and 2^b values; what is computed with are floats: a codebook saves
memory, not arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 30
VALUE_BITS = 16


def codebook(weight: Tensor, bits: int) -> Tensor:
    """Return a weight of any shape with at most 2^bits different values."""
    flat = weight.detach().flatten()
    values = torch.linspace(float(flat.min()), float(flat.max()), 2**bits)
    for _ in range(ITERATIONS):
        nearest = _nearest(flat, values)
        count = torch.zeros_like(values).index_add_(0, nearest, torch.ones_like(flat))
        total = torch.zeros_like(values).index_add_(0, nearest, flat)
        values = torch.where(count > 0, total / count.clamp_min(1), values).sort().values
    return values[_nearest(flat, values)].view_as(weight)


def codebook_size_bytes(weights: int, bits: int) -> float:
    """Return what a layer of so many weights takes, its codebook included."""
    return (weights * bits + 2**bits * VALUE_BITS) / 8


def _nearest(flat: Tensor, values: Tensor) -> Tensor:
    borders = (values[1:] + values[:-1]) / 2
    return torch.bucketize(flat, borders)
