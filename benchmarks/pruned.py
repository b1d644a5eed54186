"""What the benchmark of pruning prunes: YOLOv5n at one input size, and what is measured on it once.

Axis letters: N candidates, G channel groups, S steps of the network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluators.batchnorm import match_moments, measure_moments
from evaluators.dataset import Dataset, load_dataset
from evaluators.dense import BATCH, as_input, for_inference
from evaluators.detection import Accuracy, detect
from evaluators.distortion import Reference, agreement, reference
from evaluators.influence import measure_outputs
from evaluators.reconstruct import DenseOutputs, reconstruct
from evaluators.refit import Inputs, measure_inputs, refit
from evaluators.training.validate import Validation
from hw_models.workload import ConvShape
from spaces.candidate import Candidate
from spaces.compress import Ranking, compress, kept_channels
from spaces.groups import Network, analyse
from spaces.model import Detector, load_detector
from spaces.saliency import rank

WEIGHTS = "yolov5n_v6.1_official.pt"
RANK_IMAGES = 64  # the first of the training images
QUICK_IMAGES = 64  # batch norms and the parallel refit
FIT_IMAGES = 128  # the sequential refit
JUDGE_IMAGES = 50  # the other training images: nothing was ranked or fitted on them

Kept = NDArray[np.bool_]


@dataclass(eq=False)
class Bench:
    """The model at one input size; everything else is measured when it is first asked for."""

    detector: Detector
    network: Network
    imgsz: int
    train: Dataset
    validation: Dataset

    @cached_property
    def _train_squares(self) -> Tensor:
        return self.train.squares(self.imgsz)

    def pictures(self, first: int, count: int) -> Tensor:
        """Return some training images as inputs."""
        return as_input(self._train_squares[first : first + count])

    @cache  # noqa: B019 - there is one bench in a process
    def ranking(self, criterion: str) -> Ranking:
        """Rank the channels of all groups."""
        return rank(self.detector, self.network, criterion, self.pictures(0, RANK_IMAGES))

    @cached_property
    def inputs(self) -> dict[str, Inputs]:
        """What the dense convolutions read."""
        return measure_inputs(self.detector.net, self.network, self.pictures(0, QUICK_IMAGES))

    @cached_property
    def outputs(self) -> DenseOutputs:
        """What the dense convolutions write, most of it where detections come from."""
        pictures = self.pictures(0, FIT_IMAGES)
        return measure_outputs(self.detector.net, self.network, pictures)

    @cached_property
    def judges(self) -> list[tuple[Tensor, Reference]]:
        """Training images to judge by, and what the dense model says about them."""
        net = for_inference(copy.deepcopy(self.detector.net))
        judged = []
        with torch.inference_mode():
            for batch in torch.split(self.pictures(FIT_IMAGES, JUDGE_IMAGES), BATCH):
                output = net(batch)
                judged.append((batch, reference(output, detect(output))))
        return judged

    @torch.inference_mode()
    def agreement(self, net: nn.Module) -> float:
        """Return the share of the dense detections on training images that a network finds."""
        net = for_inference(copy.deepcopy(net))
        shares = [agreement(detect(net(batch)), dense) for batch, dense in self.judges]
        return float(np.average(shares, weights=[len(batch) for batch, _ in self.judges]))

    def accuracy(self, net: nn.Module) -> Accuracy:
        """Score a network on the validation images."""
        return self._scored.measure(for_inference(copy.deepcopy(net)))

    @cached_property
    def _scored(self) -> Validation:
        return Validation(self.validation, self.imgsz)

    @cached_property
    def dense_accuracy(self) -> Accuracy:
        """That of the dense model at this size."""
        return self.accuracy(self.detector.net)

    def pruned(self, candidate: Candidate, ranking: Ranking, restoration: str) -> nn.Module:
        """Return the sliced network with its accuracy restored."""
        net = compress(self.detector, self.network, candidate, ranking).net
        RESTORATIONS[restoration](self, net, kept_channels(self.network, candidate, ranking))
        return net

    def macs(self, counts_NG: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the multiply-accumulates of candidates [N], given their channels [N, G].

        No convolution of this model is depthwise.
        """
        reads, writes = (widths(counts_NG) for widths in self.network.widths())
        each_S = [
            step.kernel[0] * step.kernel[1] * step.out_h * step.out_w
            if isinstance(step, ConvShape)
            else 0
            for step in self.network.steps_at(self.imgsz)
        ]
        return np.asarray(reads * writes @ np.array(each_S, dtype=np.float64))

    def candidate(self, counts_G: NDArray[np.int64]) -> Candidate:
        """Return the candidate that keeps so many channels of each group [G]."""
        names = (group.name for group in self.network.groups)
        return Candidate(self.imgsz, tuple(zip(names, counts_G.tolist(), strict=True)))


def _by_batchnorm(bench: Bench, net: nn.Module, kept: Kept) -> None:
    pictures = bench.pictures(0, QUICK_IMAGES)
    moments = measure_moments(bench.detector.net, pictures)
    norms = bench.network.norms.items()
    match_moments(
        net,
        pictures,
        {name: moments[name].of(torch.from_numpy(kept[channels])) for name, channels in norms},
    )


def _by_refit(bench: Bench, net: nn.Module, kept: Kept) -> None:
    refit(net, bench.detector.net, bench.network, kept, bench.inputs)


def _by_reconstruction(bench: Bench, net: nn.Module, kept: Kept) -> None:
    reconstruct(net, bench.outputs, bench.network, kept, {})


RESTORATIONS: Mapping[str, Callable[[Bench, nn.Module, Kept], None]] = {
    "none": lambda _bench, _net, _kept: None,
    "BN": _by_batchnorm,
    "refit": _by_refit,
    "sequential": _by_reconstruction,
}


def load(shared: Path, images: int, imgsz: int) -> Bench:
    """Load the model and the images; `images` of the validation images, 0 for all."""
    detector = load_detector(shared / "weights" / WEIGHTS)
    data = str(shared / "coco" / "coco.yaml")
    train, validation = load_dataset(data, "train"), load_dataset(data, "val")
    return Bench(
        detector=detector,
        network=analyse(detector, imgsz),
        imgsz=imgsz,
        train=train.subset(FIT_IMAGES + JUDGE_IMAGES),
        validation=validation.subset(images) if images else validation,
    )
