from __future__ import annotations

import math

import numpy as np
import pytest

from evaluators.score import Failed, Score
from search.sensitivity import LOST, additive_loss, loss_table, plan_probes, probe_genomes
from spaces.axis import Variable

VARIABLES = (
    Variable("imgsz", (320, 256)),
    Variable("keep:a", (64, 48, 32, 24, 16, 8)),
    Variable("bits:b", ((16, 16), (8, 16), (8, 8))),
)


def test_channels_are_probed_at_three_levels_bits_at_all_sizes_never() -> None:
    assert [(p.variable, p.level) for p in plan_probes(VARIABLES)] == [
        (1, 1), (1, 3), (1, 5), (2, 1), (2, 2),
    ]  # fmt: skip


def test_probe_genomes_move_one_variable_each() -> None:
    start = np.array([1, 0, 0])
    genomes_NV = probe_genomes(plan_probes(VARIABLES), start)
    assert genomes_NV.tolist() == [[1, 1, 0], [1, 3, 0], [1, 5, 0], [1, 0, 1], [1, 0, 2]]


def test_losses_of_independent_changes_add_up() -> None:
    def score(agreement: float) -> Score:
        return Score(None, None, 0.1, agreement=agreement, images=4, rung="proxy")

    assert additive_loss(score(1.0)) == 0.0
    assert additive_loss(score(0.8)) == pytest.approx(-math.log(1 - 0.04))
    assert additive_loss(score(0.0)) == additive_loss(Failed("non-finite", "")) == LOST


def test_the_table_interpolates_channels_and_never_falls_there() -> None:
    probes = plan_probes(VARIABLES)
    size, keep, bits = loss_table(probes, [0.1, 0.3, 0.2, 0.5, 0.4], VARIABLES)
    np.testing.assert_allclose(size, [0, 0])
    np.testing.assert_allclose(keep, [0, 0.1, 0.2, 0.3, 0.3, 0.3])
    np.testing.assert_allclose(bits, [0, 0.5, 0.4])  # bits lie on no line
