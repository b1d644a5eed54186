"""Whether a written file is what was promised: loaded by its runtime, run on images, counted.

Letters: C classes, A anchors, K detections.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.dataset import Dataset
from evaluators.dense import as_input
from evaluators.detection import Accuracy, detect, score_detections
from hw_models.errors import CorruptRunError
from spaces.formats.interface import Compressed, Format, Run

TOLERANCE = 0.01  # of mAP50-95, either way, where a file computes what was simulated
ROUNDING_TOLERANCE = 0.02  # that a format may lose which rounds more than the search did
MEAN_TOLERANCE = 1e-3  # of class scores, over all places, where a file computes what was simulated
CHECKED_IMAGES = 8  # on which outputs are compared number by number
ADVICE = "A fault of the export: please report it with the recipe, or take another format."
BOXES = 4  # rows of an output before its class scores


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found about a file.

    Attributes:
        format: Name of its format.
        runtime: What ran it here.
        bytes: What a device has to store.
        map50_95: On all validation images.
        map50: The same at IoU .50.
        min_score: Least score of its detections, where suppression is inside.
        largest_difference: Of a class score from the simulated network's, on some images; None
            where the file returns detections.
        mean_difference: The same, its mean over all places and classes.
        box_difference_px: Mean difference of box centres and sizes.
        integer_convolutions: How many its runtime computes in integers.
    """

    format: str
    runtime: str
    bytes: int
    map50_95: float
    map50: float
    min_score: float | None
    largest_difference: float | None
    mean_difference: float | None
    box_difference_px: float | None
    integer_convolutions: int


def verify(
    form: Format,
    path: Path,
    model: Compressed,
    validation: Dataset,
    promised_map50_95: float,
    min_score: float | None = None,
) -> Verified:
    """Check a file that a format wrote.

    Args:
        form: The format.
        path: Its main file.
        model: What was written.
        validation: Images and truth.
        promised_map50_95: Of the simulated network on these images.
        min_score: As it was given to `Format.write`.

    Raises:
        CorruptRunError: The file is not what was promised.
        InputError: The file cannot be loaded.
    """
    run = form.load(path)
    if min_score is not None:  # what detections below it would add is not promised
        promised_map50_95 = _simulated_map(model, validation, min_score)
    accuracy = _accuracy(run, validation, model.imgsz)
    differences = None if min_score is not None else _differences(run, model, validation)
    verified = Verified(
        format=form.name,
        runtime=form.runtime,
        bytes=form.size_bytes(path),
        map50_95=accuracy.map50_95,
        map50=accuracy.map50,
        min_score=min_score,
        largest_difference=differences and differences[0],
        mean_difference=differences and differences[1],
        box_difference_px=differences and differences[2],
        integer_convolutions=form.integer_convolutions(path),
    )
    faults = [*_faults(form, model, verified, promised_map50_95)]
    if faults:
        raise CorruptRunError(
            f"The exported file is not what was promised: {'; '.join(faults)}.",
            ADVICE,
        )
    return verified


def _faults(
    form: Format, model: Compressed, verified: Verified, promised_map50_95: float
) -> Iterator[str]:
    gap = verified.map50_95 - promised_map50_95
    tolerance = TOLERANCE if form.is_exact else ROUNDING_TOLERANCE
    if (abs(gap) if form.is_exact else -gap) > tolerance:
        yield (
            f"expected mAP50-95 {promised_map50_95:.4f} within {tolerance}, got"
            f" {verified.map50_95:.4f}"
        )
    expected, found = form.promised_integer_convolutions(model), verified.integer_convolutions
    # Formats that round more may do so in front of other convolutions, too.
    if found != expected if form.is_exact else found < expected:
        yield f"expected {expected} convolutions in integers, got {found}"
    mean = verified.mean_difference
    if form.is_exact and mean is not None and mean > MEAN_TOLERANCE:
        yield (
            f"expected class scores within {MEAN_TOLERANCE} of the simulated ones on average, got"
            f" {mean:.2g}"
        )


def _images(data: Dataset, imgsz: int, count: int | None = None) -> Iterator[Tensor]:
    """Yield images [1, 3, S, S] in 0..1."""
    for index in range(min(count or len(data), len(data))):
        yield as_input(data.squares(imgsz, slice(index, index + 1))).contiguous()


def _accuracy(run: Run, data: Dataset, imgsz: int) -> Accuracy:
    found = list[Tensor]()
    for image in _images(data, imgsz):
        output = torch.from_numpy(np.array(run(image.numpy())))
        bad = int((~output.isfinite()).sum())
        if bad:
            raise CorruptRunError(
                f"The exported file is not what was promised: {bad} of {output.numel()} output"
                f" values are NaN or infinite on image {data.image_ids[len(found)]}.",
                ADVICE,
            )
        found += detect(output) if output.ndim == 3 else [output]
    return score_detections(found, data, imgsz)


@torch.inference_mode()
def _differences(run: Run, model: Compressed, data: Dataset) -> tuple[float, float, float]:
    """Return largest and mean difference of scores, and the mean difference of boxes in pixels."""
    net = model.simulated()
    pairs = [
        (net(image).numpy(), run(image.numpy()))
        for image in _images(data, model.imgsz, CHECKED_IMAGES)
    ]
    gaps = np.stack([np.abs(found - expected) for expected, found in pairs])[:, 0]
    scores = gaps[:, BOXES:]
    return float(scores.max()), float(scores.mean()), float(gaps[:, :BOXES].mean())


@torch.inference_mode()
def _simulated_map(model: Compressed, data: Dataset, min_score: float) -> float:
    net: nn.Module = model.simulated()
    found = [detect(net(image))[0] for image in _images(data, model.imgsz)]
    kept = [rows[rows[:, 4] > min_score] for rows in found]
    return score_detections(kept, data, model.imgsz).map50_95
