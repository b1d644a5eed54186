"""The loop from outside: explore with a method, verify what came of it, name the points.

A run is a function of its settings and its results: every evaluation goes through
`Session.results`, which looks into the journal first. So resuming is nothing but running again, and
with the same seed it makes the same decisions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from evaluators.score import Failed, Score
from hw_models.errors import InputError
from search.explorer import Explorer, Stop
from search.explorer import Session as Session
from search.front import Point, pareto
from search.methods import METHODS
from search.problem import Problem, accuracy
from search.promotion import promote
from search.proxies import FEWEST, describe, proxies_of, smoothed

log = logging.getLogger(__name__)

STRIDE = 32  # pixels of the input for one cell of the smallest map


def explore(problem: Problem, session: Session, points: dict[str, Point]) -> None:
    """Search with the method of the settings until it ends, or evaluations or time are spent.

    Args:
        problem: What is searched.
        session: Carries out the evaluations.
        points: Every point scored on the way is added here by digest, so that an interrupted search
            leaves what it has.
    """
    explorer = Explorer(problem, session, points)
    try:
        METHODS[problem.settings.method](explorer)
    except Stop as reason:
        log.info("%s after %d candidates", reason, len(explorer.scored))
    if session.collapses:
        layers = ", ".join(f"{name} {count}" for name, count in session.collapses.most_common(5))
        log.info(
            "%d candidates saw nothing any more; the first broken layers: %s",
            session.collapses.total(),
            layers,
        )
    if points:
        log_proxies(problem, list(points.values()))


def log_proxies(problem: Problem, points: Sequence[Point]) -> None:
    """Log how well the proxies rank: all points, and those with the same kinds of changes."""
    dense_N = np.maximum(_dense_accuracy(problem, points), 1e-9)
    kept_N = np.array([accuracy(point.score) for point in points]) / dense_N
    kinds = [kinds_of(problem, point) for point in points]
    groups = {"all": [*range(len(points))]}
    for kind in sorted(set(kinds)):
        rows = [row for row, other in enumerate(kinds) if other == kind]
        if FEWEST <= len(rows) < len(points):
            groups[kind] = rows
    for name, rows in groups.items():
        scores = [points[row].score for row in rows]
        log.info("proxies (%s): %s", name, describe(proxies_of(scores), kept_N[rows]))


def kinds_of(problem: Problem, point: Point) -> str:
    """Say what was changed beside the input size: bits, channels, patterns, or nothing."""
    candidate, dense = point.candidate, problem.dense(point.candidate.imgsz)
    changed = {
        "bits": set(candidate.bits) != set(dense.bits),
        "channels": set(candidate.kept) != set(dense.kept),
        "patterns": bool(candidate.patterns),
    }
    return " + ".join(name for name, is_changed in changed.items() if is_changed) or "nothing"


def verify(problem: Problem, session: Session, points: Sequence[Point]) -> list[Point]:
    """Score what may be on the front on all validation images and return what is.

    The subset's mAP is noisy, and the best of many noisy values is too good to be true. So points
    are compared by mAP and its prediction from the proxies together, those within the noise of the
    front go along, and so does the least compressed model at each input size, whose subset score
    may have been unlucky. The result comes back fastest first, named p01, p02, ...
    """
    contenders = contenders_of(problem, points)
    log.info("verifying %d points on all %d images", len(contenders), len(problem.validation))
    results = session.results([p.candidate for p in contenders], "full", "verifying the front")
    verified = [
        replace(point, score=result, cost=problem.cost(point.candidate))
        for point, result in zip(contenders, results, strict=True)
        if isinstance(result, Score)
    ]
    if len(verified) >= FEWEST:
        log.info("%s", outcome_of(problem, points, verified))
    return name_points(problem, verified)


def outcome_of(problem: Problem, points: Sequence[Point], verified: Sequence[Point]) -> str:
    """Say how far what was expected of points held on all images.

    What was chosen for its score on few images has had luck there: it comes out lower.
    """
    smooth_N, noise = smooth_accuracy(problem, points)
    row_of = {point.candidate: row for row, point in enumerate(points)}
    expected_N = smooth_N[[row_of[point.candidate] for point in verified]]
    found_N = np.array([accuracy(point.score) for point in verified])
    return (
        f"{len(verified)} points on all images: mAP50-95 is {np.mean(found_N - expected_N):+.3f} "
        f"from what was expected, give or take {np.std(found_N - expected_N):.3f} (noise expected "
        f"{noise:.3f}); Spearman {spearmanr(expected_N, found_N)[0]:.3f}"
    )


def contenders_of(problem: Problem, points: Sequence[Point]) -> list[Point]:
    """Return the points that may be on the front or a budget's pick, allowing for noise."""
    if not points:
        return []
    smooth_N, noise = smooth_accuracy(problem, points)
    dense = {problem.dense(imgsz) for imgsz in problem.sizes}
    rows = promote(
        smooth_N,
        noise,
        np.array([problem.objectives(p.cost, p.score)[1:] for p in points]),
        np.array([[limit.affordable(p.cost) for limit in problem.limits] for p in points]),
        np.array([point.candidate in dense for point in points]),
    )
    return [points[row] for row in rows]


def smooth_accuracy(
    problem: Problem, points: Sequence[Point]
) -> tuple[npt.NDArray[np.float64], float]:
    """Return for each point [N] what its subset mAP and its proxies speak for, and the noise."""
    return smoothed([point.score for point in points], _dense_accuracy(problem, points))


def _dense_accuracy(problem: Problem, points: Sequence[Point]) -> npt.NDArray[np.float64]:
    """Return for each point [N] the best subset mAP at its input size: the dense model's, mostly.

    Where the dense model was not scored, the best point stands for it.
    """
    best: dict[int, float] = {}
    dense = {problem.dense(imgsz) for imgsz in problem.sizes}
    for point in sorted(points, key=lambda p: (p.candidate in dense, accuracy(p.score))):
        best[point.candidate.imgsz] = accuracy(point.score)
    return np.array([best[point.candidate.imgsz] for point in points])


def name_points(problem: Problem, points: Sequence[Point]) -> list[Point]:
    """Return the non-dominated points, fastest first, named p01, p02, ..."""
    front = pareto(points, lambda point: problem.objectives(point.cost, point.score))
    front.sort(key=lambda point: point.cost.latency_ms)
    return [replace(point, id=f"p{number:02d}") for number, point in enumerate(front, start=1)]


def score_dense(problem: Problem, session: Session) -> list[Point]:
    """Score the uncompressed model on all images, the largest input size first.

    Beside the sizes of the space, three quarters and half of the largest one are scored: scaling
    the input is the cheapest way to a faster model, so it is the curve that a compressed point must
    beat.
    """
    largest = problem.sizes[0]
    scaled = {max(STRIDE, round(largest * share / STRIDE) * STRIDE) for share in (0.5, 0.75)}
    sizes = sorted({*problem.sizes, *scaled}, reverse=True)
    candidates = [problem.dense(imgsz) for imgsz in sizes]
    results = session.results(candidates, "full", "scoring the dense model")
    points = []
    for candidate, result in zip(candidates, results, strict=True):
        if isinstance(result, Failed):
            raise InputError(
                f"{problem.settings.weights} does not work at {candidate.imgsz} px even "
                f"uncompressed: {result.message}.",
                "Check the weights, or give other --imgsz.",
            )
        points.append(Point("dense", "dense", candidate, problem.cost(candidate), result))
    return points
