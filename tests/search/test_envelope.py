from __future__ import annotations

import numpy as np
import pytest

from evaluators.demo import demo_detector
from hw_models.cost import CostModel
from hw_models.device import load_profile
from search.envelope import _undominated, on_envelope
from spaces.groups import Network, analyse
from spaces.space import SearchSpace, bit_options, keep_levels

PAIRS = [(16, 16), (16, 8), (8, 16), (8, 8)]


@pytest.fixture(scope="module")
def network() -> Network:
    return analyse(demo_detector(), 320)


@pytest.mark.parametrize(
    ("options", "costs", "left"),
    [
        ((32, 24, 16, 8), [[4.0, 4], [4, 4], [3, 3], [1, 1]], (32, 16, 8)),
        ((32, 24, 16, 8), [[4.0, 4], [5, 3], [5, 4], [3, 3]], (32, 24, 8)),
        ((32,), [[1.0, 1]], (32,)),
        (((16, 8), (8, 16)), [[1.0, 1], [1, 1]], ((16, 8), (8, 16))),  # neither is denser
    ],
)
def test_what_a_denser_level_undercuts_goes(
    options: tuple[object, ...], costs: list[list[float]], left: tuple[object, ...]
) -> None:
    assert _undominated(options, np.array(costs)) == left


@pytest.mark.parametrize("target", ["jetson-tx2", "jetson-xavier-nx", "jetson-orin-nx"])
def test_shipped_profiles_pay_for_every_channel(network: Network, target: str) -> None:
    profile = load_profile(target)
    space = SearchSpace(network, [320, 256], keep_levels(network, profile.granule))
    assert on_envelope(CostModel(profile), space).variables == space.variables


def test_bits_that_gain_nothing_go(network: Network) -> None:
    space = SearchSpace(
        network,
        [320],
        bits=bit_options(network, PAIRS),
        patterns={"model.3.conv": ("dense", "2ep")},
    )
    found = on_envelope(CostModel(load_profile("jetson-xavier-nx")), space).variables
    options = {variable.name: variable.options for variable in found}
    assert options["pattern:model.3.conv"] == ("dense", "2ep")
    # cv1 and cv2 read one tensor: rounding it for one of them, at 16-bit weights, gains nothing.
    for layer in ("model.2.cv1.conv", "model.2.cv2.conv"):
        assert options[f"bits:{layer}"] == ((16, 16), (8, 16), (8, 8))
    assert len(options) == len(network.layers) - len(network.ignored) + 1
