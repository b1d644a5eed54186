"""The timing protocol: warm up, then samples until there are enough and enough time is spent.

A sample is the mean time of `number` inferences that follow one another without a pause; the
median of the samples is the headline, p90 and p99 show the spread.
"""

import math
import time
from typing import Callable, List, NamedTuple, Sequence

MAX_SAMPLES = 20_000
"""Sampling stops here whatever the minimum time says: the reply stays small."""

PROGRESS_PERIOD_S = 0.5
"""Progress is told seldom: whoever listens runs on the same cores as the model."""


class Plan(NamedTuple):
    """How a model is timed.

    Attributes:
        warm_up: Inferences before the clock starts.
        number: Inferences a sample.
        repeat: Samples, at least.
        min_time_s: Sampling goes on until this much time is spent.
    """

    warm_up: int = 10
    number: int = 1
    repeat: int = 50
    min_time_s: float = 0.5


class Timing(NamedTuple):
    """What was timed.

    Attributes:
        samples_ms: [S] mean time of one inference in each sample.
        start_s: When the timed window began, on the system's monotonic clock.
        end_s: When it ended.
    """

    samples_ms: List[float]
    start_s: float
    end_s: float


Progress = Callable[[int, int], None]
"""Told (samples done, samples expected)."""


def time_calls(
    call: Callable[[], object],
    plan: Plan,
    progress: Progress,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time a function as the plan says."""
    for _ in range(plan.warm_up):
        call()
    samples_ms: List[float] = []
    window_start_s = time.monotonic()
    begin = told = now = clock()
    while len(samples_ms) < MAX_SAMPLES:
        if len(samples_ms) >= plan.repeat and now - begin >= plan.min_time_s:
            break
        start = clock()
        for _ in range(plan.number):
            call()
        now = clock()
        samples_ms.append((now - start) / plan.number * 1e3)
        if now - told >= PROGRESS_PERIOD_S:
            told = now
            progress(len(samples_ms), max(plan.repeat, len(samples_ms)))
    return Timing(samples_ms, window_start_s, time.monotonic())


def quantile(values: Sequence[float], fraction: float) -> float:
    """Linear quantile, numpy's default definition.

    Raises:
        ValueError: If there are no values.
    """
    if not values:
        raise ValueError("a quantile needs at least one value, got none")
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
