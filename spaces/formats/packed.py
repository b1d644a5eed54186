"""For storage: every weight in the bits that the search gave it, Huffman-coded where that helps."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from spaces.formats.interface import Compressed, Format, Run, refuse_suppression
from spaces.formats.storage import run_stored, write_stored


class Packed(Format):
    """See the module; 16-bit weights are float16."""

    name = "packed"
    file = "model.safetensors"
    runtime = "torch"

    def write(self, model: Compressed, folder: Path, min_score: float | None = None) -> Path:
        """See Format."""
        refuse_suppression(self.name, min_score)
        path = folder / self.file
        write_stored(model, path, _half)
        return path

    def load(self, path: Path) -> Run:
        """See Format."""
        return run_stored(path)

    def integer_convolutions(self, path: Path) -> int:
        """Return 0: what is only stored is computed in float."""
        return 0

    def promised_integer_convolutions(self, model: Compressed) -> int:
        """Return 0."""
        return 0


def _half(weight: Tensor) -> Tensor:
    top = torch.finfo(torch.float16).max
    return weight.half() if float(weight.abs().max()) <= top else weight
