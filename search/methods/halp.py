"""HALP: channels by Taylor importance and a knapsack over what each layer's channels cost.

Source: Shen et al., "Structural Pruning via Latency-Saliency Knapsack" (HALP), arXiv 2110.10811:
channels in groups of the size a device works in, ordered by importance, so that a group is removed
only after all less important ones (the precedence is in the levels here); a knapsack maximises what
is kept; latencies follow from the current widths, so it is solved in steps. Nothing is quantised.
"""

from __future__ import annotations

import numpy as np

from evaluators.dense import as_input
from hw_models.errors import InputError
from search.explorer import Explorer, Floats
from search.methods.additive import solve_separable
from spaces.saliency.ranking import score

IMAGES = 32
IMPORTANCE = "taylor-weight"


def halp(explorer: Explorer) -> None:
    """Score the knapsack's solution for each budget at each input size.

    Raises:
        InputError: No group's channels vary.
    """
    columns = explorer.family("keep")
    if not columns:
        raise InputError(
            "--method halp removes channels, but none vary here.",
            "Give a pruning criterion with --prune, or another --method.",
        )
    explorer.score(explorer.dense_NV, "dense")
    losses = importance_losses(explorer)
    others = [v for v in range(len(losses)) if v not in columns]
    for budgets_D, terms in explorer.targets():
        solution = solve_separable(explorer, losses, budgets_D, terms.start_V, others)
        if solution is not None:
            explorer.score(solution[None], "halp")


def importance_losses(explorer: Explorer) -> list[Floats]:
    """Return for each variable its levels' losses: the importance of the channels removed."""
    problem = explorer.problem
    images = as_input(problem.calibration.subset(IMAGES).squares(problem.sizes[-1]))
    scores = score(problem.detector, problem.space.network, IMPORTANCE, images)
    losses = [np.zeros(upper + 1) for upper in explorer.upper_V]
    for v in explorer.family("keep"):
        importance_C = np.sort(scores[explorer.variables[v].name.split(":")[1]].numpy())
        lost_C = np.r_[0.0, np.cumsum(importance_C)]
        losses[v] = lost_C[[len(importance_C) - kept for kept in explorer.variables[v].options]]
    return losses
