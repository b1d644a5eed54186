"""Error-limited bit allocation: as few bits as a limit on the activation step allows.

Source: Infrared and Laser Engineering 51(4), 20220166: every layer starts at the most bits and
loses one while the step of its activations, clip / (2^(b-1) - 1), stays below a limit; the limit is
swept. Inputs that are concatenated or added share their step. Nothing is pruned.
"""

from __future__ import annotations

import numpy as np

from evaluators.dense import as_input
from hw_models.errors import InputError
from search.explorer import Explorer, Floats, Genomes
from search.seeding import distinct
from spaces.quantization.calibrate import calibrate_activations
from spaces.quantization.grid import ActivationScales, is_quantized

IMAGES = 32
LIMITS = 64  # limits tried, over the whole range in which anything changes


def error_limit(explorer: Explorer) -> None:
    """Score what each limit leads to, at each input size.

    Raises:
        InputError: No layer's bits vary.
    """
    if not explorer.family("bits"):
        raise InputError(
            "--method error-limit chooses bits, but no layer's bits vary here.",
            "Give for example --bits 4,6,8,16, or another --method.",
        )
    explorer.score(explorer.dense_NV, "dense")
    problem = explorer.problem
    images = as_input(problem.calibration.subset(IMAGES).squares(problem.sizes[0]))
    scales = calibrate_activations(problem.detector, images)
    steps = activation_steps(explorer, scales)
    finite = np.concatenate([column[column > 0] for column in steps])
    limits = np.geomspace(finite.min() * 0.99, finite.max() * 1.01, LIMITS)
    for start_V in explorer.dense_NV:
        genomes_NV = np.array([start_V + allocate(steps, limit) for limit in limits])
        explorer.score(distinct(genomes_NV), "error-limit")


def activation_steps(explorer: Explorer, scales: ActivationScales) -> list[Floats]:
    """Return for each variable the activation step of its levels; 0 where nothing is rounded."""
    steps = [np.zeros(1) for _ in explorer.upper_V]  # what is no width has one level here
    for v in explorer.family("bits"):
        steps[v] = np.zeros(explorer.upper_V[v] + 1)
        layer = explorer.variables[v].name.split(":")[1]
        for level, (weight_bits, act_bits) in enumerate(explorer.variables[v].options):
            bits = min(weight_bits, act_bits)
            if is_quantized(bits):
                steps[v][level] = scales.scale(layer, bits)
    return steps


def allocate(steps: list[Floats], limit: float) -> Genomes:
    """Return for each variable [V] the sparsest level whose step keeps the limit."""
    return np.array([np.flatnonzero(column <= limit)[-1] for column in steps], dtype=np.int64)
