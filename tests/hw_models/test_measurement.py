from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest

from hw_models.measurement import (
    Conditions,
    DeviceCallError,
    Measurement,
    MeasureProtocol,
    Retry,
    precision_of,
)

PROTOCOL = MeasureProtocol(repeat=3)
GOOD = Measurement(
    latency_ms=2.0,
    samples=(1.0, 2.0, 4.0),
    energy_mj=12.5,
    device="board",
    power_mode="MAXN",
    protocol=PROTOCOL,
    model_digest="0" * 64,
)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"samples": (1.0, 2.0)}, "at least 3 samples"),
        ({"samples": (1.0, 2.0, math.nan)}, "positive finite"),
        ({"samples": (1.0, 2.0, math.inf)}, "positive finite"),
        ({"samples": (-1.0, 2.0, 4.0)}, "positive finite"),
        ({"samples": (0.0, 2.0, 4.0)}, "positive finite"),
        ({"latency_ms": 2.5}, "median"),
        ({"latency_ms": math.nan}, "median"),
        ({"energy_mj": 0.0}, "positive energy"),
        ({"energy_mj": math.nan}, "positive energy"),
        ({"device": ""}, "names"),
        ({"power_mode": ""}, "names"),
    ],
)
def test_nothing_else_counts_as_measured(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(GOOD, **changes)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_conditions_are_finite(value: float) -> None:
    for conditions in ({"clocks_mhz": {"cpu0": value}}, {"temperatures_c": {"GPU": value}}):
        with pytest.raises(ValueError, match="finite"):
            Conditions(**conditions)


def test_energy_may_be_absent() -> None:
    assert replace(GOOD, energy_mj=None).energy_mj is None


def test_spread_and_quantiles() -> None:
    assert GOOD.spread_ms == 1.0  # deviations 1, 0, 2
    for fraction in (0.0, 0.5, 0.9, 0.99, 1.0):
        assert GOOD.quantile_ms(fraction) == pytest.approx(np.quantile(GOOD.samples, fraction))


def test_samples_do_not_fill_the_log() -> None:
    assert "4.0" not in repr(GOOD)


def test_a_protocols_digest_is_its_own() -> None:
    assert PROTOCOL.digest == MeasureProtocol(repeat=3).digest
    others = [MeasureProtocol(repeat=4), MeasureProtocol("int8", repeat=3)]
    assert len({PROTOCOL.digest, *(other.digest for other in others)}) == 3


@pytest.mark.parametrize(
    "wrong", [{"precision": "int4"}, {"number": 0}, {"repeat": 0}, {"warm_up": -1}]
)
def test_protocols_that_are_none(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        MeasureProtocol(**wrong)  # type: ignore[arg-type]


def test_the_precision_that_a_file_asks_for() -> None:
    from onnx import helper

    def model(*operators: str) -> bytes:
        nodes = [helper.make_node(operator, ["x"], ["y"]) for operator in operators]
        data: bytes = helper.make_model(helper.make_graph(nodes, "g", [], [])).SerializeToString()
        return data

    assert precision_of(model("QuantizeLinear", "DequantizeLinear")) == "int8"
    assert precision_of(model("DequantizeLinear", "Conv")) == "fp32"  # stored weights only


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DeviceCallError("broken", "mend it", Retry.UPLOAD)))  # noqa: S301
    assert (error.message, error.hint, error.retry) == ("broken", "mend it", Retry.UPLOAD)
