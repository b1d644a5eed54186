"""For storage: the 16-bit weights of a layer share few values, and their numbers are Huffman-coded.

(Han et al., "Deep Compression", arXiv 1510.00149: k-means from equally spaced values, then
Huffman.) Weights of few bits stay as they are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from spaces.formats.interface import Compressed, Format, Run, refuse_suppression
from spaces.formats.packed import Packed
from spaces.formats.storage import Coded, run_stored, write_stored
from spaces.quantization.codebook import codebook

BITS = 6  # 64 values a layer
FEWEST_WEIGHTS = 16 * 2**BITS  # below, the list of values is too much of what is stored


class Shared(Format):
    """See the module."""

    name = "shared"
    file = "model.safetensors"
    runtime = "torch"
    is_exact = False

    def write(self, model: Compressed, folder: Path, min_score: float | None = None) -> Path:
        """See Format."""
        refuse_suppression(self.name, min_score)
        path = folder / self.file
        write_stored(model, path, _share)
        return path

    def load(self, path: Path) -> Run:
        """See Format."""
        return run_stored(path)

    def integer_convolutions(self, path: Path) -> int:
        """See Packed."""
        return Packed().integer_convolutions(path)

    def promised_integer_convolutions(self, model: Compressed) -> int:
        """See Packed."""
        return Packed().promised_integer_convolutions(model)


def _share(weight: Tensor) -> Coded | Tensor:
    if weight.numel() < FEWEST_WEIGHTS:
        return weight.half()
    values, numbers = torch.unique(codebook(weight, BITS), return_inverse=True)
    return Coded(numbers.to(torch.uint8), BITS, values.half(), None)
