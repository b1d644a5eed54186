"""What the settings resolve to, on the demo model and the shipped profiles."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest

from evaluators.device import CPU
from hw_models.device import load_profile
from hw_models.errors import InfeasibleError, InputError
from search.problem import Problem, cheapest, prepare, useful_bits, useful_patterns
from search.run import read_settings
from search.settings import resolve_limits


def problem(**given: object) -> Problem:
    return prepare(read_settings({"latency": ("30ms",), **given}))


@pytest.fixture(scope="module")
def tx2() -> Problem:
    return problem(imgsz=(320, 256), size="4MB")


def bits(target: str, **given: object) -> list[tuple[int, int]]:
    return useful_bits(load_profile(target), read_settings({"latency": ("30ms",), **given}))


def test_bits_are_offered_where_an_asked_objective_gains() -> None:
    assert bits("jetson-xavier-nx") == [(16, 16), (8, 8)]
    assert bits("jetson-tx2") == [(16, 16)]  # INT8 is stored only there: no faster
    assert bits("jetson-tx2", size="4MB") == [(16, 16), (8, 16)]


def test_bits_can_be_asked_for_or_switched_off() -> None:
    assert bits("jetson-tx2", bits=(8, 16), act_bits=(16,)) == [(16, 16), (8, 16)]
    assert bits("jetson-xavier-nx", bits=(0,)) == [(16, 16)]
    with pytest.raises(InputError, match="1-bit"):
        bits("jetson-tx2", bits=(1,))


def patterns(target: str, *asked: str) -> list[str]:
    settings = read_settings({"latency": ("30ms",), "pattern": asked})
    return useful_patterns(load_profile(target), settings)


def test_patterns_are_offered_where_the_target_gains() -> None:
    assert patterns("jetson-tx2-pattern") == ["2ep", "3ep"]
    assert patterns("jetson-tx2-pattern", "none") == []
    assert patterns("jetson-tx2") == []
    assert patterns("jetson-orin-nx") == []  # 2:4 runs there, but nobody measured what it gains
    assert patterns("jetson-tx2", "3ep", "unstructured-0.3") == ["3ep", "unstructured-0.3"]
    with pytest.raises(InputError, match="jetson-xavier-nx cannot run it"):
        patterns("jetson-xavier-nx", "2:4")
    with pytest.raises(InputError, match="Unknown sparsity pattern 'stripes'"):
        patterns("jetson-tx2", "stripes")


def test_patterns_cost_what_the_runtime_makes_of_them() -> None:
    for target, gains in (("jetson-tx2-pattern", True), ("jetson-tx2", False)):
        solved = problem(target=target, pattern=("2ep",), prune="none", latency=("100%",))
        dense, sparse = (solved.cost(c) for c in (solved.dense(), solved.space.decode(
            np.asarray(solved.space.upper))))  # fmt: skip
        assert (sparse.latency_ms < 0.8 * dense.latency_ms) == gains
        assert (sparse.energy_mj < 0.8 * dense.energy_mj) == gains
        assert sparse.size_bytes < 0.4 * dense.size_bytes


def test_genomes_are_priced_as_their_candidates(tx2: Problem) -> None:
    upper_V = np.asarray(tx2.space.upper)
    genomes_NV = np.random.default_rng(0).integers(0, upper_V + 1, (20, len(upper_V)))
    costs = tx2.costs(genomes_NV)
    for row, genome in enumerate(genomes_NV):
        cost = tx2.cost(tx2.space.decode(genome))
        assert costs.latency_ms[row] == pytest.approx(cost.latency_ms, rel=1e-4)
        assert costs.size_bytes[row] == pytest.approx(cost.size_bytes, rel=1e-4)
        assert costs.energy_mj[row] == pytest.approx(cost.energy_mj, rel=1e-4)


def test_relative_budgets_refer_to_the_dense_model_at_the_largest_size() -> None:
    relative = problem(latency=("50%", "0.004s"), imgsz=(256, 320))
    dense_ms = relative.cost(relative.dense(320)).latency_ms
    assert relative.dense().imgsz == 320
    assert sorted(limit.latency_ms for limit in relative.limits) == pytest.approx(
        sorted([0.5 * dense_ms, 4.0])
    )


def test_large_networks_are_evaluated_on_gpus_and_small_ones_never(
    tx2: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not tx2.use_gpus
    assert isinstance(tx2.build, partial)
    assert tx2.build.keywords["device"] == CPU
    monkeypatch.setattr("search.problem.GPU_FROM_MACS", 1e6)
    large = problem()
    assert large.use_gpus
    assert isinstance(large.build, partial)
    assert large.build.keywords["device"] is None  # CUDA where there is one
    assert large.protocol == tx2.protocol


def test_the_protocol_tells_apart_what_would_score_differently(tx2: Problem) -> None:
    assert problem().protocol == tx2.protocol  # size and budgets change no score
    assert problem(prune="l2").protocol != tx2.protocol


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"latency": ("0.01ms",)}, "latency budget of 0.01 ms.*lowest reachable latency is"),
        ({"energy": "0.001mJ"}, "energy budget.*lowest reachable energy is"),
        ({"size": "1kB"}, "size budget.*lowest reachable size is"),
    ],
)
def test_an_unreachable_budget_names_the_lowest_value(given: dict[str, object], words: str) -> None:
    with pytest.raises(InfeasibleError, match=words):
        problem(**given)


def test_the_lowest_reachable_latency_is_reachable(tx2: Problem) -> None:
    lowest_ms = cheapest(tx2).latency_ms
    with pytest.raises(InfeasibleError) as caught:
        problem(latency=(f"{0.99 * lowest_ms}ms",), imgsz=(320, 256))
    named = re.search(r"latency is ([\d.]+) ms", str(caught.value))
    assert named is not None
    assert float(named[1]) == pytest.approx(lowest_ms, rel=1e-3)
    assert problem(latency=(f"{1.01 * lowest_ms}ms",), imgsz=(320, 256)).limits


def test_energy_is_not_promised_where_none_was_measured() -> None:
    with pytest.raises(InputError, match="no energy was ever measured"):
        problem(target="jetson-nano", energy="100mJ")


def test_limits_come_tightest_first(tx2: Problem) -> None:
    settings = read_settings({"latency": ("30ms", "10ms", "20ms")})
    limits = resolve_limits(settings, tx2.cost(tx2.dense()))
    assert [limit.text for limit in limits] == ["10ms", "20ms", "30ms"]


def test_an_untrained_model_has_the_classes_of_the_data_set() -> None:
    untrained = problem(weights="yolov5n.yaml", imgsz=(320,))
    assert untrained.detector.names == untrained.validation.names


def test_a_single_value_under_uniform_is_applied_everywhere() -> None:
    fixed = problem(method="uniform", prune="none", bits=(5,), act_bits=(8,), latency=("100%",))
    assert len(fixed.space.upper) == 0
    candidate = fixed.space.decode(np.zeros(0, dtype=np.int64))
    free = [layer for layer, _, _ in candidate.bits if layer not in fixed.space.network.ignored]
    assert {(w, a) for layer, w, a in candidate.bits if layer in free} == {(5, 8)}
    assert {(w, a) for _, w, a in fixed.dense().bits} == {(16, 16)}
    assert fixed.limits[0].latency_ms == pytest.approx(fixed.cost(fixed.dense()).latency_ms)


@pytest.mark.parametrize(
    ("given", "pairs"),
    [
        ({"bits": (6,)}, [(6, 16)]),
        ({"act_bits": (8,)}, [(16, 8)]),
        ({"bits": (6, 8), "act_bits": (8,)}, [(16, 16), (8, 8), (6, 8)]),
    ],
)
def test_uniform_varies_only_what_has_several_values(
    given: dict[str, object], pairs: list[tuple[int, int]]
) -> None:
    settings = read_settings({"latency": ("30ms",), "method": "uniform", **given})
    found = useful_bits(load_profile("jetson-xavier-nx"), settings)
    if len(pairs) == 1:
        assert found == pairs
    else:
        assert set(pairs) <= set(found)


def test_an_unreachable_budget_says_what_would_help(tx2: Problem) -> None:
    lowest_ms = cheapest(tx2).latency_ms
    with pytest.raises(InfeasibleError) as caught:
        problem(latency=(f"{0.9 * lowest_ms}ms",), imgsz=(320, 256))
    text = str(caught.value)
    nearest = re.search(r"--latency ([\d.]+)ms is the nearest", text)
    assert nearest is not None
    assert problem(latency=(f"{nearest[1]}ms",), imgsz=(320, 256)).limits
    smaller = re.search(r"--imgsz (\d+)\) would", text)
    assert smaller is not None
    assert problem(latency=(f"{0.9 * lowest_ms}ms",), imgsz=(int(smaller[1]),)).limits
    assert "--target" in text
    assert "do not depend on the layers" in text
