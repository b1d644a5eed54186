"""HAWQ: bits by the trace of each layer's Hessian and an integer program.

Sources: Dong et al., HAWQ-V2, arXiv 1911.03852 (a layer loses the mean trace of its Hessian times
the squared change of its weights); Yao et al., HAWQ-V3, arXiv 2011.10680 (an integer program under
latency or size). The Hessian is that of the distance of detections (`random_projection`: no
labels), its trace by Hutchinson's method. A pair of widths counts as its narrower one. Nothing is
pruned.
"""

from __future__ import annotations

import numpy as np
import torch

from evaluators.dense import as_input
from hw_models.errors import InputError
from search.explorer import Explorer, Floats
from search.seeding import solve_within
from search.solvers.terms import restricted
from spaces.quantization.calibrators import weight_scales
from spaces.quantization.grid import integer_weights, is_quantized
from spaces.saliency.objectives import random_projection
from spaces.saliency.watching import weight_gradients

IMAGES = 32


def hawq(explorer: Explorer) -> None:
    """Score the program's solution for each budget at each input size.

    Raises:
        InputError: No layer's bits vary.
    """
    columns = explorer.family("bits")
    if not columns:
        raise InputError(
            "--method hawq chooses bits, but no layer's bits vary here.",
            "Give for example --bits 8,16 --act-bits 8,16, or another --method.",
        )
    explorer.score(explorer.dense_NV, "dense")
    losses = trace_losses(explorer)
    for budgets_D, terms in explorer.targets():
        solution = solve_within(explorer, restricted(terms, columns), losses, budgets_D)
        if solution is not None:
            explorer.score(solution[None], "hawq")


def trace_losses(explorer: Explorer) -> list[Floats]:
    """Return for each variable its levels' losses: trace / weights x squared change of weights."""
    problem = explorer.problem
    layers = {v: explorer.variables[v].name.split(":")[1] for v in explorer.family("bits")}
    images = as_input(problem.calibration.subset(IMAGES).squares(problem.sizes[-1]))
    traces = hessian_traces(problem.detector.net, list(layers.values()), images)
    losses = [np.zeros(upper + 1) for upper in explorer.upper_V]
    for v, layer in layers.items():
        weight = problem.detector.net.get_parameter(f"{layer}.weight").detach()
        for level, (weight_bits, act_bits) in enumerate(explorer.variables[v].options):
            bits = min(weight_bits, act_bits)
            if is_quantized(bits):
                scales = weight_scales(weight, bits)
                rounded = integer_weights(weight, scales, bits) * scales.view(-1, 1, 1, 1)
                change = float((rounded - weight).square().sum())
                losses[v][level] = traces[layer] / weight.numel() * change
    return losses


def hessian_traces(
    net: torch.nn.Module, layers: list[str], images: torch.Tensor
) -> dict[str, float]:
    """Estimate the trace of the Hessian by each layer's weights, averaged over images."""
    objective = random_projection(torch.Generator().manual_seed(0))
    traces = dict.fromkeys(layers, 0.0)
    for gradients in weight_gradients(net, layers, images, objective):
        for layer, gradient in gradients.items():
            traces[layer] += float(gradient.double().square().sum()) / len(images)
    return traces
