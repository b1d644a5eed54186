"""What is written, and what a format must do.

Letters: A anchors (candidate boxes), C classes, K detections.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from hw_models.errors import InputError
from spaces.model import Detector
from spaces.quantization.grid import ActivationScales, is_quantized
from spaces.quantization.simulate import quantize

Images = npt.NDArray[np.float32]
Run = Callable[[Images], npt.NDArray[np.float32]]
"""An image [1, 3, S, S] in 0..1 -> [1, 4 + C, A] as `Detector.net`; from a file with suppression
inside -> [K, 6]: x1 y1 x2 y2 in input pixels, score, class."""


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """A compressed detector, ready to be written.

    Attributes:
        detector: Sliced, with few-bit weights on their grids; batch norms are not folded.
        imgsz: Rows and columns S of its input in pixels.
        bits: (weight_bits, act_bits) by convolution; 16-bit where not named.
        scales: Activation scales; needed where an activation has a grid.
        images: [N, 3, S, S] in 0..1, to choose the ranges of activations on.
    """

    detector: Detector
    imgsz: int
    bits: Mapping[str, tuple[int, int]]
    scales: ActivationScales | None
    images: Tensor

    def simulated(self) -> nn.Module:
        """Return a network that computes as if its layers had their bits."""
        net = copy.deepcopy(self.detector.net)
        quantize(net, self.bits, self.scales)
        return net

    @property
    def integer_layers(self) -> frozenset[str]:
        """Convolutions with weights and inputs on integer grids."""
        return frozenset(
            name for name, pair in self.bits.items() if all(is_quantized(bits) for bits in pair)
        )


class Format(ABC):
    """One way to write a detector. Formats have no state.

    Attributes:
        name: On the command line.
        file: The main file, in a folder of its own.
        runtime: What runs it.
        is_exact: Whether a file computes what is simulated, up to the last digits; other formats
            round more than the search did.
    """

    name: ClassVar[str]
    file: ClassVar[str]
    runtime: ClassVar[str]
    is_exact: ClassVar[bool] = True

    @abstractmethod
    def write(self, model: Compressed, folder: Path, min_score: float | None = None) -> Path:
        """Write a detector.

        Args:
            model: What to write.
            folder: An existing folder; files that are there already are overwritten.
            min_score: Least score of what the file detects, with non-maximum suppression inside;
                None for raw outputs.

        Returns:
            The main file.

        Raises:
            InputError: The format cannot hold this model, or has no suppression.
        """

    @abstractmethod
    def load(self, path: Path) -> Run:
        """Load a written file with its runtime.

        Raises:
            InputError: The file is not one of this format.
        """

    @abstractmethod
    def integer_convolutions(self, path: Path) -> int:
        """Count the convolutions that the file's runtime computes in integers."""

    def promised_integer_convolutions(self, model: Compressed) -> int:
        """Return what `integer_convolutions` must be; at least, in a format that is not exact."""
        return len(model.integer_layers)

    def size_bytes(self, path: Path) -> int:
        """Return what a device has to store."""
        return path.stat().st_size


def refuse_suppression(name: str, min_score: float | None) -> None:
    """Refuse suppression in a format for storage.

    Raises:
        InputError: It is asked for.
    """
    if min_score is not None:
        raise InputError(
            f"--format {name} stores weights and has no graph for non-maximum suppression.",
            "Leave --nms out, or choose a format of ONNX or OpenVINO.",
        )
