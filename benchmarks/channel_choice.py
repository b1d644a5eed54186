"""How much of which channel group to remove, for the benchmark of pruning.

Axis letters: N candidates, G channel groups, L levels of a group.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from benchmarks.accuracy import as_text, retention
from benchmarks.pruned import JUDGE_IMAGES, RANK_IMAGES, Bench
from benchmarks.rows import Figures, kept_row
from spaces.compress import Ranking
from spaces.saliency import score

LEVELS = 8  # a group may lose eighths of its channels ...
MOST_REMOVED = 4  # ... up to so many
MEASURED_LEVELS = (1, 2, 4)  # of them are measured, the others lie between
TRIES = 80  # choices searched around the program's
MOVED = 0.2  # of the groups have their losses scaled in a try ...
SPREAD = 0.7  # ... by a factor with this standard deviation of its logarithm
ROUNDS = 6  # of the choice: MACs are bilinear in the channels, the program is linear


def choice(bench: Bench, cuts: Sequence[float], rows: Path) -> Iterator[str]:
    """Choose how much of which group to remove; yield a line for each cut and table of losses."""
    yield (
        f"choice, {bench.imgsz} px, dense mAP50-95 {bench.dense_accuracy.map50_95:.4f}; groups "
        "lose eighths of their channels; marked *: the best agreement on training images"
    )
    pictures = bench.pictures(0, RANK_IMAGES)
    scores = score(bench.detector, bench.network, "residual", pictures)
    ranking = {name: found.argsort(descending=True).numpy() for name, found in scores.items()}
    counts_GL = np.stack(
        [
            bench.network.sizes - np.rint(bench.network.sizes * removed / LEVELS).astype(np.int64)
            for removed in range(MOST_REMOVED + 1)
        ],
        axis=1,
    )
    start = time.perf_counter()
    tables = {
        "agreement": _disagreement(bench, ranking, counts_GL, rows),
        "residual": _residual_losses(bench, scores, counts_GL),
    }
    tables["both"] = _between(tables["agreement"], tables["residual"])
    yield f"losses of {counts_GL[:, 1:].size} single choices in {time.perf_counter() - start:.0f} s"
    for cut in cuts:
        solved = {name: _solve(bench, counts_GL, loss_GL, cut) for name, loss_GL in tables.items()}
        solved["searched"] = _searched(bench, ranking, counts_GL, tables["agreement"], cut)
        solved["uniform"] = _uniform_at(bench, cut)
        nets = {
            name: bench.pruned(bench.candidate(counts), ranking, "sequential")
            for name, counts in solved.items()
        }
        agreements = {name: bench.agreement(net) for name, net in nets.items()}
        best = max(agreements, key=agreements.__getitem__)
        dense_macs = bench.macs(bench.network.sizes[None])[0]
        for name, counts in solved.items():
            yield (
                f"-{cut:.0%} MACs {'*' if name == best else ' '} {name:10} "
                f"MACs -{1 - bench.macs(counts[None])[0] / dense_macs:.1%}, "
                f"{int((counts < bench.network.sizes).sum())} groups, agreement "
                f"{agreements[name]:.3f}, retention "
                f"{as_text(retention(bench.accuracy(nets[name]), bench.dense_accuracy))}"
            )


def _disagreement(
    bench: Bench, ranking: Ranking, counts_GL: NDArray[np.int64], rows: Path
) -> NDArray[np.float64]:
    """Measure -log(agreement) of each single choice [G, L] after the parallel refit.

    The logarithm adds up where shares multiply. More channels never cost more: what noise says
    otherwise is raised to the loss of the level before. Between measured levels it is linear.
    """
    loss_GL = np.zeros(counts_GL.shape)
    for group, counts_L in enumerate(counts_GL):
        name = bench.network.groups[group].name
        row = f"choice | {name} | {bench.imgsz} px | {JUDGE_IMAGES} judges"
        figures = kept_row(rows, row, partial(_group_losses, bench, ranking, group, counts_L))
        known_L = [0.0, *figures["losses"]]
        loss_GL[group] = np.interp(np.arange(len(counts_L)), [0, *MEASURED_LEVELS], known_L)
    return np.asarray(np.maximum.accumulate(loss_GL, axis=1))


def _group_losses(
    bench: Bench, ranking: Ranking, group: int, counts_L: NDArray[np.int64]
) -> Figures:
    losses = []
    for level in MEASURED_LEVELS:
        counts = bench.network.sizes.copy()
        counts[group] = counts_L[level]
        net = bench.pruned(bench.candidate(counts), ranking, "refit")
        losses.append(-float(np.log(max(bench.agreement(net), 1e-6))))
    return {"losses": losses}


def _residual_losses(
    bench: Bench, scores: Mapping[str, Tensor], counts_GL: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return what the criterion `residual` itself predicts for each single choice [G, L]."""
    loss_GL = np.zeros(counts_GL.shape)
    for group, level in np.ndindex(*counts_GL.shape):
        removed = int(bench.network.sizes[group] - counts_GL[group, level])
        if removed:
            cheapest_first = scores[bench.network.groups[group].name].sort().values
            loss_GL[group, level] = float(cheapest_first[removed - 1])
    return loss_GL


def _between(first_GL: NDArray[np.float64], second_GL: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of two tables of losses, each in units of its own mean."""
    return np.asarray(first_GL / first_GL.mean() + second_GL / second_GL.mean())


def _solve(
    bench: Bench, counts_GL: NDArray[np.int64], loss_GL: NDArray[np.float64], cut: float
) -> NDArray[np.int64]:
    """Choose a level of each group with the least sum of losses that cuts the MACs enough [G].

    A layer's MACs are the product of the channels it reads and writes. The program takes what each
    choice saves alone; where both ends of a layer shrink that counts some MACs twice. So it is
    solved again with the shortfall added to what it has to save.
    """
    groups, levels = counts_GL.shape
    dense = bench.network.sizes
    alone_NG = np.repeat(dense[None], groups * levels, axis=0)
    alone_NG[np.arange(groups * levels), np.repeat(np.arange(groups), levels)] = counts_GL.ravel()
    dense_macs = bench.macs(dense[None])[0]
    saving_N = dense_macs - bench.macs(alone_NG)
    one_each_GN = np.repeat(np.eye(groups), levels, axis=1)
    target, demand = cut * dense_macs, cut * dense_macs
    for _ in range(ROUNDS):
        solution = milp(
            loss_GL.ravel(),
            integrality=np.ones(groups * levels),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each_GN, 1, 1),
                LinearConstraint(saving_N[None], demand, np.inf),
            ],
        )
        assert solution.x is not None, "half of all channels are more than is asked for"
        chosen_G = solution.x.reshape(groups, levels).argmax(1)
        counts: NDArray[np.int64] = counts_GL[np.arange(groups), chosen_G]
        shortfall = target - (dense_macs - bench.macs(counts[None])[0])
        if shortfall <= 0:
            break
        demand += shortfall
    return counts


def _searched(
    bench: Bench,
    ranking: Ranking,
    counts_GL: NDArray[np.int64],
    loss_GL: NDArray[np.float64],
    cut: float,
) -> NDArray[np.int64]:
    """Search around the program's choice for one with more agreement on training images [G].

    The losses of some groups are scaled at random and the program solved again; the scales of the
    best choice so far are gone on from (SPDY, arXiv 2201.13096, section 3.3, on measured losses).
    """
    random = np.random.default_rng(0)
    scales_G = np.zeros(len(loss_GL))
    best, tried = (-1.0, scales_G, counts_GL[:, 0]), dict[tuple[int, ...], float]()
    for _ in range(TRIES):
        counts = _solve(bench, counts_GL, loss_GL * np.exp(scales_G[:, None]), cut)
        key = tuple(counts.tolist())
        if key not in tried:
            tried[key] = bench.agreement(bench.pruned(bench.candidate(counts), ranking, "refit"))
        best = max(best, (tried[key], scales_G, counts), key=lambda found: found[0])
        moved_G = random.random(len(loss_GL)) < MOVED
        scales_G = best[1] + moved_G * random.normal(0.0, SPREAD, len(loss_GL))
    return best[2]


def _uniform_at(bench: Bench, cut: float) -> NDArray[np.int64]:
    """Return the channels that the smallest uniform rate with enough MACs cut keeps [G]."""
    sizes = bench.network.sizes
    allowed = (1 - cut) * bench.macs(sizes[None])[0]
    candidates = (sizes - np.rint(rate * sizes).astype(np.int64) for rate in np.arange(0, 1, 0.005))
    return next(counts for counts in candidates if bench.macs(counts[None])[0] <= allowed)
