"""The weights that a training ended with, beside the recipe of the recovered point."""

from __future__ import annotations

from evaluators.dense import as_input
from evaluators.training.files import load_trained
from evaluators.training.trainer import Trained
from search.front import Point
from search.problem import CALIBRATION_IMAGES, Problem
from search.run_folder import RunFolder
from spaces.candidate import Candidate
from spaces.formats.interface import Compressed

WEIGHTS = "weights.safetensors"


def compressed(problem: Problem, trained: Trained, candidate: Candidate) -> Compressed:
    """Return a trained detector, ready to be written.

    Args:
        problem: Whose calibration images choose the ranges of activations.
        trained: The detector, and the bits of the layers that were trained with few.
        candidate: Says the bits of all others.
    """
    imgsz = candidate.imgsz
    images = as_input(problem.calibration.subset(CALIBRATION_IMAGES).squares(imgsz))
    bits = {layer: (weight, act) for layer, weight, act in candidate.bits} | trained.grids.bits
    return Compressed(trained.detector, imgsz, bits, trained.grids.scales, images)


def load_recovered(run: RunFolder, problem: Problem, point: Point) -> Compressed:
    """Return a recovered point, ready to be written.

    Raises:
        InputError: Its weights are gone or damaged.
    """
    trained = load_trained(run.model(point.id) / WEIGHTS)
    return compressed(problem, trained, point.candidate)
