from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hw_models.device import DEVICES, load_profile, shipped_profiles
from hw_models.errors import InputError


@pytest.mark.parametrize("name", shipped_profiles())
def test_shipped_profiles_load_and_say_who_they_are(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.default_power_mode in profile.power_modes


@pytest.mark.parametrize(
    ("name", "weight_bits", "act_bits", "pattern", "expected"),
    [
        ("jetson-tx2", 16, 16, "dense", "executed"),
        ("jetson-tx2", 8, 8, "dense", "stored only"),
        ("jetson-xavier-nx", 8, 8, "dense", "executed"),
        ("jetson-agx-xavier", 8, 8, "dense", "executed"),
        ("jetson-xavier-nx", 4, 8, "dense", "stored only"),
        ("jetson-xavier-nx", 8, 16, "dense", "stored only"),
        ("jetson-xavier-nx", 16, 16, "3ep", "stored only"),
        ("jetson-xavier-nx", 16, 16, "unstructured", "stored only"),
        ("jetson-xavier-nx", 16, 16, "2:4", "illegal"),
        ("jetson-tx2-pattern", 16, 16, "3ep", "executed"),
        ("jetson-orin-nx", 16, 16, "2:4", "executed"),
        ("jetson-tx2", 1, 8, "dense", "illegal"),
        ("jetson-tx2", 64, 64, "dense", "illegal"),
    ],
)
def test_what_is_executed(
    name: str, weight_bits: int, act_bits: int, pattern: str, expected: str
) -> None:
    assert load_profile(name).execution(weight_bits, act_bits, pattern) == expected


def test_pattern_gains_name_their_source() -> None:
    profile = load_profile("jetson-tx2-pattern")
    assert profile.pattern_gains["2ep"].speedup == 2.15
    assert "R-TOSS" in profile.pattern_gains["2ep"].source


def test_power_modes_by_nvpmodel_name_and_by_clocks() -> None:
    nx = load_profile("jetson-xavier-nx")
    assert nx.mode("MODE_15W_2CORE") is nx.mode("15W")
    assert nx.mode("mode_10w_desktop") is nx.mode("10W_DESKTOP")
    assert nx.mode(None) is nx.mode(nx.default_power_mode)
    assert load_profile("jetson-tx2").mode("MAXP_CORE_ARM").gpu_mhz == 1120
    clocks = nx.mode("803.25@1331.2")
    assert (clocks.gpu_mhz, clocks.emc_mhz) == (803.25, 1331.2)
    for wrong in ("MAXQ", "0@0", "15", ""):
        with pytest.raises(InputError, match="no power mode") as error:
            nx.mode(wrong)
        assert "15W" in error.value.hint


def test_an_unknown_pattern_is_an_error() -> None:
    with pytest.raises(InputError, match="Unknown sparsity pattern"):
        load_profile("jetson-tx2").execution(16, 16, "4ep")


def test_an_unknown_device_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="No device profile 'jetson-tx9'") as error:
        load_profile("jetson-tx9")
    assert "jetson-tx2" in error.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surplus": 1}, "unknown keys surplus"),
        ({"coefficients": {}}, "coefficients must be given"),
        ({"coefficients": {16: {"launch_us": 1.0}}}, "not a device profile"),
        ({"power_modes": {}}, "power_modes lacks"),
        ({"patterns": {"dense": "executed"}}, "patterns must name"),
        ({"traffic": {}}, "traffic must name"),
        ({"plugins": ["relu"]}, "plugins may name"),
        ({"energy": 3}, "not a device profile"),
    ],
)
def test_a_broken_profile_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = yaml.safe_load((DEVICES / "jetson-tx2.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content | change))
    with pytest.raises(InputError, match=message):
        load_profile(path)


@pytest.mark.parametrize("text", ["[1, 2", "- 1\n", "based_on: nothing\n"])
def test_files_that_are_no_profile(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"mine\.yaml"):
        load_profile(path)
