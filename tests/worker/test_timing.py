import math

import numpy as np
import pytest
from paretrim_worker.timing import MAX_SAMPLES, Plan, quantile, time_calls


class FakeClock:
    """Goes on by the seconds that a call takes."""

    def __init__(self, call_s):
        self.now = 0.0
        self.calls = 0
        self._call_s = call_s

    def __call__(self):
        return self.now

    def call(self):
        self.calls += 1
        self.now += self._call_s


def timed(plan, call_s=0.001):
    clock = FakeClock(call_s)
    told = []
    timing = time_calls(clock.call, plan, lambda *step: told.append(step), clock)
    return timing, clock, told


def test_takes_as_many_samples_as_asked():
    timing, clock, _ = timed(Plan(warm_up=3, number=1, repeat=5, min_time_s=0))
    assert timing.samples_ms == pytest.approx([1.0] * 5)
    assert clock.calls == 3 + 5


def test_goes_on_until_the_minimum_time_is_spent():
    timing, _, _ = timed(Plan(warm_up=0, number=1, repeat=5, min_time_s=0.1))
    assert len(timing.samples_ms) in (100, 101)  # sums of 0.001 round


def test_a_sample_is_the_mean_of_its_calls():
    timing, clock, _ = timed(Plan(warm_up=0, number=4, repeat=3, min_time_s=0))
    assert clock.calls == 12
    assert timing.samples_ms == pytest.approx([1.0] * 3)


def test_stops_at_the_largest_number_of_samples():
    timing, _, _ = timed(Plan(0, 1, 1, min_time_s=1e9), call_s=1e-6)
    assert len(timing.samples_ms) == MAX_SAMPLES


def test_tells_progress_seldom():
    _, _, told = timed(Plan(0, 1, 20, 0), call_s=0.125)
    assert told == [(4, 20), (8, 20), (12, 20), (16, 20), (20, 20)]


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_quantiles_are_numpys(fraction, count):
    values = list(np.random.RandomState(count).rand(count))
    assert math.isclose(quantile(values, fraction), np.quantile(values, fraction))


def test_a_quantile_needs_values():
    with pytest.raises(ValueError, match="at least one value"):
        quantile([], 0.5)
