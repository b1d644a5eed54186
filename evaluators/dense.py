"""What is measured once on the dense model for each input size, and kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import TypeVar

import torch
from torch import Tensor, nn

from evaluators.batchnorm import Moments, fold_batchnorm, measure_moments
from evaluators.database import Database
from evaluators.dataset import Dataset
from evaluators.detection import detect
from evaluators.device import CPU, computing_on, moved
from evaluators.distortion import Reference, reference
from evaluators.influence import measure_outputs
from evaluators.prefix import FIRST, Maps, dense_maps
from evaluators.reconstruct import DenseOutputs
from evaluators.refit import Inputs, measure_inputs
from hw_models.workload import ConvShape
from spaces.groups import Network
from spaces.model import Detector
from spaces.quantization.calibrate import calibrate_activations
from spaces.quantization.calibrators import mse_clip
from spaces.quantization.grid import ActivationScales

T = TypeVar("T")

QUICK_IMAGES = 32  # of the calibration images: enough for moments and covariances
LARGEST_MAPS = 4_000_000_000  # bytes of all convolutions' outputs; three times what is kept
BATCH = 8  # images in one forward pass; fixed, since sums depend on it in the last digits


@dataclass(eq=False)
class DenseAtSize:
    """The dense model at one input size; everything is computed when it is first asked for.

    Attributes:
        detector: The dense model; it is not changed.
        network: What `spaces.groups.analyse` found in it.
        imgsz: The input size S in pixels.
        calibration: Images to estimate on.
        validation: Images in the order in which rungs take them.
        proxy_images: So many of them are references.
        kept_images: So many of them stay decoded.
        database: Where what takes a pass over images is looked up first, and kept.
        device: Where the detector lies and all that is measured.
    """

    detector: Detector
    network: Network
    imgsz: int
    calibration: Dataset
    validation: Dataset
    proxy_images: int
    kept_images: int
    database: Database
    device: torch.device = CPU
    _decoded: dict[int, Tensor] = field(default_factory=dict)

    def batches(self, images: int) -> Iterator[Tensor]:
        """Yield the first validation images as inputs [B, 3, S, S] in 0..1."""
        images = min(images, len(self.validation))
        for start in range(0, images, BATCH):
            part = slice(start, min(start + BATCH, images))
            if part.stop > self.kept_images:
                yield as_input(self.validation.squares(self.imgsz, part).to(self.device))
                continue
            if start not in self._decoded:
                whole = slice(start, start + BATCH)
                self._decoded[start] = self.validation.squares(self.imgsz, whole).to(self.device)
            yield as_input(self._decoded[start][: part.stop - start])

    @cached_property
    def _calibration_squares(self) -> Tensor:
        return self.calibration.squares(self.imgsz).to(self.device)

    @property
    def calibration_images(self) -> Tensor:
        """All calibration images as inputs [N, 3, S, S] in 0..1."""
        return as_input(self._calibration_squares)

    @property
    def quick_images(self) -> Tensor:
        """The first `QUICK_IMAGES` of them."""
        return as_input(self._calibration_squares[:QUICK_IMAGES])

    @cached_property
    def moments(self) -> dict[str, Moments]:
        """What enters each batch norm on the quick images."""
        return self._recall(
            ["moments", QUICK_IMAGES],
            lambda: measure_moments(self.detector.net, self.quick_images),
        )

    @cached_property
    def inputs(self) -> dict[str, Inputs]:
        """What enters each convolution on the quick images."""
        pruned = [group.name for group in self.network.groups]
        return self._recall(
            ["inputs", QUICK_IMAGES, *pruned],
            lambda: measure_inputs(self.detector.net, self.network, self.quick_images),
        )

    @cached_property
    def outputs(self) -> DenseOutputs:
        """What convolutions write on all calibration images."""
        images = self.calibration_images
        positions, outputs = self._recall(
            ["outputs"],
            lambda: attrgetter("positions", "outputs")(
                measure_outputs(self.detector.net, self.network, images)
            ),
        )
        return DenseOutputs(images, positions, outputs)

    @cached_property
    def scales(self) -> ActivationScales:
        """Activation scales from the calibration images."""
        return self._recall(
            ["scales"],
            lambda: calibrate_activations(self.detector, self.calibration_images, mse_clip),
        )

    @cached_property
    def references(self) -> list[Reference]:
        """What the dense model says about the first `proxy_images` images, on the CPU, by batch."""
        return self.database.recall(
            [*self._key, "references", self.validation.digest, self.proxy_images],
            self._measure_references,
        )

    @cached_property
    def maps(self) -> list[Maps]:
        """What the dense model's layers write on these images.

        Nothing where that is too much, or on a GPU, whose memory is dearer than its time.
        """
        values = sum(
            step.out_channels * step.out_h * step.out_w
            for step in self.network.steps_at(self.imgsz)
            if isinstance(step, ConvShape)
        )
        if self.device != CPU or 4 * values * self.proxy_images > LARGEST_MAPS:
            return []
        return self._recall(
            ["maps", self.validation.digest, self.proxy_images, FIRST], self._measure_maps
        )

    def _measure_maps(self) -> list[Maps]:
        net = for_inference(copy.deepcopy(self.detector.net))
        return [dense_maps(net, batch) for batch in self.batches(self.proxy_images)]

    def _measure_references(self) -> list[Reference]:
        net = for_inference(copy.deepcopy(self.detector.net))
        with torch.inference_mode(), computing_on(self.device):
            outputs = [net(batch).cpu() for batch in self.batches(self.proxy_images)]
        return [reference(output, detect(output)) for output in outputs]

    def _recall(self, what: list[str | int], measure: Callable[[], T]) -> T:
        """Return what the database knows of this model, these images and this input size."""

        def measure_there() -> T:
            with computing_on(self.device):
                return moved(measure(), CPU)

        return moved(self.database.recall([*self._key, *what], measure_there), self.device)

    @cached_property
    def _key(self) -> tuple[str | int, ...]:
        key = (self.detector.digest, self.calibration.digest, self.imgsz)
        return key if self.device == CPU else (*key, self.device.type)


def as_input(squares: Tensor) -> Tensor:
    """Turn uint8 images [B, 3, S, S] into what a network reads; channels last stay so."""
    return squares.float() / 255


def for_inference(net: nn.Module) -> nn.Module:
    """Make a network in eval mode faster, in place: norms folded, channels last in memory."""
    return fold_batchnorm(net).to(memory_format=torch.channels_last)
