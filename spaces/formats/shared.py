"""For storage: the 16-bit weights of a layer share few values, and their numbers are Huffman-coded.

(Han et al., "Deep Compression", arXiv 1510.00149: k-means from equally spaced values, then
Huffman.) Batch norms are folded here and nothing is trained afterwards; so the weights of an output
channel are shared in units of its largest, and a layer gets the fewest values that keep the error
small. Weights of few bits stay as they are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from spaces.formats.interface import Compressed, Format, Run, refuse_suppression
from spaces.formats.packed import Packed
from spaces.formats.storage import Coded, run_stored, write_stored
from spaces.quantization.codebook import codebook

BITS = range(5, 9)  # of a number: 32 to 256 values a layer
MOST_ERROR = 5e-4  # energy of the error over that of the weights, mean over output channels
LEAST = 1e-20  # for channels without weights
FEWEST_WEIGHTS = 1024  # below, the list of values is too much of what is stored


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
    largest_O = weight.abs().flatten(1).amax(1).clamp_min(LEAST)
    in_units = weight / largest_O.view(-1, *[1] * (weight.ndim - 1))
    for bits in BITS:
        shared = codebook(in_units, bits)
        if _relative_error(shared, in_units) <= MOST_ERROR:
            break
    values, numbers = torch.unique(shared, return_inverse=True)
    return Coded(numbers.to(torch.uint8), bits, largest_O, values.half())


def _relative_error(shared: Tensor, weight: Tensor) -> float:
    error_O, energy_O = ((x**2).flatten(1).sum(1) for x in (shared - weight, weight))
    return float((error_O / energy_O.clamp_min(LEAST)).mean())
