"""From a candidate to its score. One evaluator lives in each actor and is asked again and again.

The ladder, cheap to dear; each rung looks at the first images of one order of the validation set:

| rung | images | what is measured |
| --- | --- | --- |
| `proxy` | `PROXY_IMAGES` | distortion and agreement, against the dense model's outputs |
| `subset` | `SUBSET_IMAGES` | the same, and mAP |
| `full` | all | the same, and mAP |

A compressed network loses accuracy that needs no training to come back. The cheap rungs restore it
quickly, all layers at once from dense statistics; the full rung, like an exported file, takes
seconds to reconstruct one layer after the other (`evaluators.reconstruct`).

A network whose detections vanish is known by its first batch: the subset rung stops there, and the
score names the first broken layer (`evaluators.collapse`).

Distortion and agreement always are those of the first `PROXY_IMAGES` or fewer. What is kept between
calls depends only on the parts an evaluator was made of: a candidate's score is the same whatever
was evaluated before, and in whichever actor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluators.batchnorm import match_moments
from evaluators.collapse import Collapse, find_collapse
from evaluators.database import Database
from evaluators.dataset import Dataset
from evaluators.dense import DenseAtSize, for_inference
from evaluators.details import details_of
from evaluators.detection import detect, score_detections
from evaluators.device import CPU, computing_on, default_device
from evaluators.distortion import agreement, distortion
from evaluators.patterns import apply_patterns
from evaluators.prefix import FIRST, first_change, run_from
from evaluators.reconstruct import reconstruct
from evaluators.refit import refit
from evaluators.score import Failed, FailureKind, Score
from hw_models.workload import ConvShape
from spaces.candidate import Candidate
from spaces.compress import Ranking, compress, kept_channels
from spaces.formats.interface import Compressed
from spaces.groups import Network
from spaces.model import Detector
from spaces.quantization.grid import is_quantized
from spaces.quantization.simulate import quantize
from spaces.sliced import copied

PROXY_IMAGES = 16
SUBSET_IMAGES = 32
EXPLODED_SHARE = 0.5  # of anchors that see something: a detector that cries at every place
EXPLODED_SCORE = 0.25
VANISHED = 0.02  # agreement on the first batch below which a collapse is looked for
COLLAPSE_IMAGES = 4

LayerBits = Mapping[str, tuple[int, int]]
"""(weight_bits, act_bits) by layer."""
Forward = Callable[[Tensor], Tensor]
"""Images [B, 3, S, S] in 0..1 -> outputs [B, 4 + C, A]."""


class Evaluator:
    """Scores candidates.

    Args:
        detector: The dense model.
        network: What `spaces.groups.analyse` found in it.
        ranking: Order of importance of each group's channels.
        calibration: Images to estimate activation scales, covariances and batch norms on; their
            labels are not used.
        validation: Images and truth to measure accuracy on.
        restoration: How sliced networks get accuracy back on the cheap rungs, a key of
            `RESTORATIONS`. On YOLOv5n the refit keeps twice the mAP that batch-norm re-estimation
            keeps, and both together less.
        device: Where networks are made and run; None = CUDA where there is one. Detections are
            found and scored on the CPU.
    """

    def __init__(
        self,
        detector: Detector,
        network: Network,
        ranking: Ranking,
        calibration: Dataset,
        validation: Dataset,
        restoration: str = "refit",
        device: torch.device | None = None,
    ) -> None:
        assert restoration in RESTORATIONS, restoration
        self._device = device or default_device()
        self._detector = detector
        if self._device != CPU:
            self._detector = replace(detector, net=copied(detector.net).to(self._device))
        self.network = network
        self.ranking = ranking
        self._calibration = calibration
        self._restoration = restoration
        self._rungs = {
            rung: validation.subset(images)
            for rung, images in (
                ("proxy", PROXY_IMAGES),
                ("subset", SUBSET_IMAGES),
                ("full", len(validation)),
            )
        }
        self._dense: dict[int, DenseAtSize] = {}
        self._database = Database()

    def evaluate(self, candidate: Candidate, rung: str) -> Score | Failed:
        """Compress the dense model as a candidate says and score the result.

        Args:
            candidate: What to keep, at which input size.
            rung: "proxy", "subset" or "full".

        Returns:
            The score; or why there is none, where the compressed model does not work.

        Raises:
            InputError: If the candidate does not fit the model.
        """
        start = time.perf_counter()
        try:
            net = for_inference(self._build(candidate, rung).net)
            forward = self._there(self._shortened(net, candidate) if rung == "proxy" else net)
            diagnose = partial(self._collapse, net, candidate)
            score = self._score(forward, candidate.imgsz, rung, diagnose)
        except _Unusable as unusable:
            return unusable.failed
        return replace(score, seconds=time.perf_counter() - start)

    def evaluate_forward(self, forward: Forward, imgsz: int) -> Score | Failed:
        """Score anything that detects on the CPU, on all validation images."""
        start = time.perf_counter()
        try:
            score = self._score(lambda images: forward(images.cpu()), imgsz, "full")
        except _Unusable as unusable:
            return unusable.failed
        return replace(score, seconds=time.perf_counter() - start)

    def build(self, candidate: Candidate, rung: str = "full") -> Detector:
        """Return the compressed model that is scored, on the CPU: sliced, restored and quantised.

        Raises:
            InputError: If the candidate does not fit the model.
        """
        built = self._build(candidate, rung)
        return built if self._device == CPU else replace(built, net=built.net.cpu())

    def _build(self, candidate: Candidate, rung: str) -> Detector:
        detector = compress(self._detector, self.network, candidate, self.ranking)
        kept = kept_channels(self.network, candidate, self.ranking)
        network = self.network.of(candidate)
        dense, bits = self._at(candidate.imgsz), _bits(candidate)
        scales = dense.scales if _needs_scales(bits) else None
        with _running_a_model(), computing_on(self._device):
            if rung == "full" and (_has_low_bits(bits) or not kept.all() or candidate.patterns):
                reconstruct(
                    detector.net, dense.outputs, network, kept, bits, scales,
                    dict(candidate.patterns),
                )  # fmt: skip
            else:
                self._restore_quickly(
                    dense, detector.net, network, kept, bits, dict(candidate.patterns)
                )
                quantize(detector.net, bits, scales)
        return detector

    def _restore_quickly(
        self,
        dense: DenseAtSize,
        net: nn.Module,
        network: Network,
        kept: NDArray[np.bool_],
        bits: LayerBits,
        patterns: Mapping[str, str],
    ) -> None:
        """Make up for removed channels, weights removed and weights rounded; do the latter two."""
        if not kept.all():
            RESTORATIONS[self._restoration](dense, net, network, kept)
        if patterns:
            apply_patterns(net, network, kept, patterns, dense.inputs)
        if _has_low_bits(bits) or network is not self.network:  # blocks were dropped
            quantize(net, {name: (weight_bits, 16) for name, (weight_bits, _) in bits.items()})
            _by_batchnorm(dense, net, network, kept)

    def kept(self, candidate: Candidate) -> dict[str, Tensor]:
        """Return which output channels of the dense model each convolution keeps, as indices.

        Raises:
            InputError: If the candidate does not fit the model.
        """
        kept = kept_channels(self.network, candidate, self.ranking)
        network = self.network.of(candidate)
        return {
            step.name: torch.from_numpy(np.flatnonzero(kept[writes]))
            for step, writes in zip(network.steps, network.writes, strict=True)
            if isinstance(step, ConvShape)
        }

    def compressed(self, candidate: Candidate) -> Compressed:
        """Return the compressed model with what is needed to write it in any format.

        Raises:
            InputError: If the candidate does not fit the model.
        """
        bits, dense = _bits(candidate), self._at(candidate.imgsz)
        scales = dense.scales if _needs_scales(bits) else None
        images = dense.quick_images.cpu()
        return Compressed(self.build(candidate), candidate.imgsz, bits, scales, images)

    def _at(self, imgsz: int) -> DenseAtSize:
        if imgsz not in self._dense:
            self._dense[imgsz] = DenseAtSize(
                self._detector,
                self.network,
                imgsz,
                self._calibration,
                self._rungs["full"],
                PROXY_IMAGES,
                SUBSET_IMAGES,
                self._database,
                self._device,
            )
        return self._dense[imgsz]

    def _there(self, forward: Forward) -> Forward:
        """Return what runs on the device and answers on the CPU."""

        def run(images: Tensor) -> Tensor:
            with computing_on(self._device):
                return forward(images).cpu()

        return run

    def _shortened(self, net: nn.Module, candidate: Candidate) -> Forward:
        """Return what runs a candidate's network on the proxy images, from its first change on."""
        start = first_change(self.network, candidate)
        if start < FIRST or not (maps := self._at(candidate.imgsz).maps):
            return net
        batches = iter(maps)
        return lambda _: run_from(net, start, next(batches))

    def _score(
        self,
        forward: Forward,
        imgsz: int,
        rung: str,
        diagnose: Callable[[], Collapse | None] = lambda: None,
    ) -> Score:
        """Score what a network sees; on the subset rung, stop where it has collapsed."""
        dense, data = self._at(imgsz), self._rungs[rung]
        references = iter(dense.references)
        detections: list[Tensor] = []
        distances: list[tuple[int, float, float]] = []
        collapse = None
        for output in _outputs(forward, dense.batches(len(data))):
            found = detect(output)
            detections += found
            if (expected := next(references, None)) is not None:
                distances.append(
                    (len(found), distortion(output, expected), agreement(found, expected))
                )
            if rung == "subset" and len(distances) == 1 and distances[0][2] < VANISHED:
                collapse = diagnose()
                if collapse is not None:
                    data = data.subset(len(detections))
                    break
        accuracy = None
        if rung != "proxy":
            accuracy = score_detections(detections, data, imgsz, by_area=rung == "full")
        images = sum(count for count, _, _ in distances)
        return Score(
            map50_95=None if accuracy is None else accuracy.map50_95,
            map50=None if accuracy is None else accuracy.map50,
            distortion=sum(count * d for count, d, _ in distances) / images,
            agreement=sum(count * a for count, _, a in distances) / images,
            images=len(data),
            rung=rung,
            resampled=() if accuracy is None else tuple(round(x, 4) for x in accuracy.resampled),
            broken_layer=None if collapse is None else collapse.layer,
            details=(
                details_of(accuracy, detections, data, imgsz)
                if accuracy is not None and rung == "full"
                else None
            ),
        )

    def _collapse(self, net: nn.Module, candidate: Candidate) -> Collapse | None:
        images = next(self._at(candidate.imgsz).batches(COLLAPSE_IMAGES))
        kept = kept_channels(self.network, candidate, self.ranking)
        with _running_a_model(), computing_on(self._device):
            return find_collapse(net, self._detector.net, self.network.of(candidate), kept, images)


def _by_refit(
    dense: DenseAtSize, net: nn.Module, network: Network, kept: NDArray[np.bool_]
) -> None:
    refit(net, dense.detector.net, network, kept, dense.inputs)


def _by_batchnorm(
    dense: DenseAtSize, net: nn.Module, network: Network, kept: NDArray[np.bool_]
) -> None:
    moments = {
        name: dense.moments[name].of(torch.from_numpy(kept[channels]))
        for name, channels in network.norms.items()
    }
    match_moments(net, dense.quick_images, moments)


def _by_nothing(
    dense: DenseAtSize, net: nn.Module, network: Network, kept: NDArray[np.bool_]
) -> None:
    pass


Restoration = Callable[[DenseAtSize, nn.Module, Network, NDArray[np.bool_]], None]
"""Changes a sliced network in place, given what is left of the dense one and which channels are."""

RESTORATIONS: Mapping[str, Restoration] = {
    "refit": _by_refit,
    "batch-norm": _by_batchnorm,
    "none": _by_nothing,
}
"""How a sliced network gets accuracy back at once."""


class _Unusable(Exception):
    """A model does not work, through no fault of this program."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(kind, message)
        self.failed = Failed(kind, message)


@contextmanager
def _running_a_model() -> Iterator[None]:
    """Translate what a model's forward pass raises; elsewhere such errors are bugs."""
    try:
        yield
    except torch.OutOfMemoryError:  # a GPU is shared: another process may have it
        raise
    except (RuntimeError, MemoryError) as error:
        message = f"{type(error).__name__}: {error}"
        raise _Unusable("exception", message[:500]) from error


@torch.inference_mode()
def _outputs(forward: Forward, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the outputs [B, 4 + C, A] of each batch.

    Raises:
        _Unusable: If they are not finite or see something everywhere.
    """
    for batch in batches:
        with _running_a_model():
            output = forward(batch)
        if not output.isfinite().all():
            bad = int((~output.isfinite()).sum())
            raise _Unusable(
                "non-finite", f"{bad} of {output.numel()} output values are NaN or infinite"
            )
        seen = float((output[:, 4:].amax(1) > EXPLODED_SCORE).float().mean())
        if seen > EXPLODED_SHARE:
            raise _Unusable(
                "exploded",
                f"{seen:.0%} of all places have a score above {EXPLODED_SCORE}, expected at most"
                f" {EXPLODED_SHARE:.0%}",
            )
        yield output


def _bits(candidate: Candidate) -> LayerBits:
    return {layer: (weight, act) for layer, weight, act in candidate.bits}


def _has_low_bits(bits: LayerBits) -> bool:
    """Tell whether rounding alone loses too much: 8 bits keep nearly all accuracy."""
    return any(width < 8 for pair in bits.values() for width in pair)


def _needs_scales(bits: LayerBits) -> bool:
    return any(is_quantized(act) for _, act in bits.values())
