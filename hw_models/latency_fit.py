"""Fit the latency coefficients of a profile to measured networks. Needs scipy.

Robust least squares on log(predicted / measured) of whole networks, a network counting less than
in proportion to its rows, with a Gaussian prior on the logarithm of every free number: what the
data do not say stays where the plan put it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hw_models.cost import Vector
from hw_models.device import (
    DEVICES,
    RATES,
    Coefficients,
    EnergyCoefficients,
    load_profile,
    profile_from_dict,
    read_profile_yaml,
)
from hw_models.points import Fleet, Point

_SCALE = 0.1
"""Log error up to which a row is taken at its word; beyond it counts less and less."""
_SPREAD = {
    "launch_us": 0.5, "op_launch_us": 0.5, "depth_ns": 1.0, "dense_gmacs": 0.6,
    "winograd_gain": 0.4, "pointwise_gmacs": 0.6, "matrix_gmacs": 0.6, "depthwise_gmacs": 1.5,
    "tile_channels": 0.7, "bandwidth_gbs": 0.2, "rate": 0.3,
}  # fmt: skip
"""Standard deviation of the prior of the logarithm of each coefficient."""
_TRAFFIC_PRIOR = {"activation": (0.5, 0.3), "concat": (0.3, 0.5), "decode": (2.5, 0.5)}
"""Mean and log standard deviation of the traffic shares that are fitted."""
_FIXED_TRAFFIC = {
    "pool": 1.0, "resize": 1.0, "copy": 1.0, "add": 0.5, "softmax": 1.0, "unknown": 1.0,
}  # fmt: skip
"""An addition is done by the convolution before it: of its two passes only a read remains."""
COEFFICIENTS = tuple(item.name for item in fields(Coefficients))
_BORROWED = (
    "dense_gmacs", "winograd_gain", "pointwise_gmacs", "matrix_gmacs", "tile_channels",
    "channel_step", "pixel_step", "map_step",
)  # fmt: skip
"""What `rates_from` takes; depthwise kernels changed too much between TensorRT versions."""
_LAUNCHES = ("launch_us", "op_launch_us")
_FIXED_PRIOR_US = (250.0, 0.7)


@dataclass(frozen=True)
class LatencyFit:
    """The latency part of a plan: which numbers are free, and what the data make of them.

    Args:
        content: The profile's YAML: facts and plan.
        fleet: The rows to fit.
        free: (precision or group, coefficient) of each free number.
        prior: Logarithm of its prior mean.
        spread: Standard deviation of that logarithm.
        base: Coefficients by precision before fitting.
    """

    content: Mapping[str, Any]
    fleet: Fleet
    base: Mapping[int, Mapping[str, float]]
    free: tuple[tuple[str, str], ...]
    prior: Vector
    spread: Vector

    @classmethod
    def planned(cls, content: Mapping[str, Any], points: Sequence[Point]) -> LatencyFit:
        """Set up the fit that a profile's plan describes."""
        plan = content["plan"]["latency"]
        base = {bits: _base(content, how) for bits, how in plan.items()}
        measured = {point.bits for point in points}
        prior = {
            (str(bits), name): (
                mean,
                _SPREAD[name] * (1 if name in how.get("loose", ()) else how.get("tightness", 1)),
            )
            for bits, how in plan.items()
            if bits in measured
            for name, mean in sorted(base[bits].items())
            if name in _SPREAD and name not in how.get("pinned", ())
        }
        prior |= {("traffic", name): given for name, given in _traffic_prior(content).items()}
        origins = sorted({point.origin for point in points})
        prior |= {("fixed", origin): _FIXED_PRIOR_US for origin in origins}
        means, spreads = zip(*prior.values(), strict=True)
        return cls(content, Fleet(points), base, tuple(prior), np.log(means), np.asarray(spreads))

    @cached_property
    def weights(self) -> Vector:
        """Rows of a network at one precision share the weight of the square root of their count."""
        keys = [(point.origin, point.network, point.bits) for point in self.fleet.points]
        count = {key: keys.count(key) for key in set(keys)}
        weight = np.asarray([1 / math.sqrt(count[key]) for key in keys])
        return np.asarray(weight / np.sqrt(np.mean(weight**2)))

    def profile(self, x: Vector) -> tuple[dict[str, Any], dict[str, float]]:
        """Return the fitted part of the YAML and the fixed time by origin."""
        values = {key: math.exp(value) for key, value in zip(self.free, x, strict=True)}
        plan = self.content["plan"]["latency"]
        coefficients: dict[int, dict[str, float]] = {}
        for bits in sorted(self.base, key=lambda bits: "like" in plan[bits]):
            own = {name: values.get((str(bits), name), v) for name, v in self.base[bits].items()}
            numbers = coefficients.get(plan[bits].get("like"), {}) | own
            factor = numbers.pop("rate", 1.0)
            numbers |= {name: numbers[name] * factor for name in RATES}
            coefficients[bits] = {name: numbers[name] for name in COEFFICIENTS}
        shares = {name: value for (group, name), value in values.items() if group == "traffic"}
        fixed = {name: value for (group, name), value in values.items() if group == "fixed"}
        main = self.content["plan"]["fixed_origin"]
        return {
            "coefficients": {bits: coefficients[bits] for bits in sorted(coefficients)},
            "traffic": _FIXED_TRAFFIC | shares,
            "fixed_us": fixed.get(main, _FIXED_PRIOR_US[0]),
        }, fixed

    def errors(self, x: Vector) -> Vector:
        """Return log(predicted / measured) of every row."""
        fitted, fixed = self.profile(x)
        profile = profile_from_dict(self.draft(fitted), "plan")
        return np.asarray(np.log(self.fleet.latency_ms(profile, fixed) / self.fleet.measured))

    def draft(self, fitted: Mapping[str, Any]) -> dict[str, Any]:
        """Return the YAML of a profile that can predict latency; the rest is filled in."""
        bits = fitted["coefficients"]
        energy = {"measured_at": "", "pj_per_mac": dict.fromkeys(bits, 0.0)} | {
            item.name: 0.0 for item in fields(EnergyCoefficients)[2:]
        }
        interval = {"log_width": 0.0, "calibrated": False, "gmacs": [0.0, 0.0]}
        intervals = dict.fromkeys(bits, interval)
        return {**self.content, **fitted, "energy": energy, "intervals": intervals}

    def solve(
        self, keep: npt.NDArray[np.bool_] | None = None, start: Vector | None = None
    ) -> Vector:
        """Fit the free numbers to the rows in `keep`."""
        return np.asarray(self._least_squares(keep, start).x)

    def cost(self) -> float:
        """Return what the best fit leaves: half the sum of robust squares, priors included."""
        return float(self._least_squares(None, None).cost)

    def _least_squares(self, keep: npt.NDArray[np.bool_] | None, start: Vector | None) -> Any:
        from scipy.optimize import least_squares

        weight = np.sqrt(self.weights) * (1.0 if keep is None else keep)

        def residuals(x: Vector) -> Vector:
            return np.concatenate(
                [self.errors(x) * weight / _SCALE, (x - self.prior) / self.spread]
            )

        loss = self.content["plan"].get("loss", "soft_l1")
        first = self.prior if start is None else start
        return least_squares(residuals, first, loss=loss, xtol=1e-6, ftol=1e-6)

    def left_out_errors(self, x: Vector) -> Vector:
        """Return the errors of every network when it is left out of the fit.

        One at a time, or, where the plan says how many `folds`, so many groups of networks.
        """
        names = np.asarray([point.network for point in self.fleet.points])
        different = sorted(set(names))
        folds = self.content["plan"].get("folds", len(different))
        errors = np.zeros(len(names))
        for fold in range(folds):
            chosen = np.isin(names, different[fold::folds])
            errors[chosen] = self.errors(self.solve(~chosen, x))[chosen]
        return errors


def _traffic_prior(content: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    donor = content["plan"].get("donor")
    if donor is None:
        own = content["plan"].get("traffic", {})
        return _TRAFFIC_PRIOR | {name: (mean, deviation) for name, (mean, deviation) in own.items()}
    shares = load_profile(donor).traffic
    return {name: (shares[name], deviation / 2) for name, (_, deviation) in _TRAFFIC_PRIOR.items()}


def _base(content: Mapping[str, Any], how: Mapping[str, Any]) -> dict[str, float]:
    """Return the coefficients of one precision before fitting.

    A precision `like` another one states only what differs: coefficients of its own (`prior`), a
    factor on all rates (`rate`) with another board's launch times (`launch_from`), that factor as
    fitted on another board (`rate_of`), or another board's rates (`rates_from`).
    """
    if "donor" in how:
        return _transferred(content, how["donor"], how.get("donor_bits", 16))
    if "rate" in how:
        launches = _transferred(content, how["launch_from"], 16) if "launch_from" in how else {}
        return {"rate": how["rate"]} | {n: launches[n] for n in _LAUNCHES if n in launches}
    if "rate_of" in how:
        donor = load_profile(how["rate_of"]).coefficients
        return {"rate": donor[8].dense_gmacs / donor[16].dense_gmacs}
    if "rates_from" in how:
        numbers = _transferred(content, how["rates_from"], 32)
        return {name: numbers[name] for name in how.get("borrow", _BORROWED)}
    return dict(how["prior"])


def _transferred(content: Mapping[str, Any], donor: str, bits: int) -> dict[str, float]:
    """Scale another board's coefficients: rates by cores and clock, bandwidth by peak bandwidth."""
    source = read_profile_yaml(DEVICES / f"{donor}.yaml")
    numbers = dict(source["coefficients"][bits])
    clock = _reference(content)["gpu_mhz"] / _reference(source)["gpu_mhz"]
    cores = content["board"]["cuda_cores"] / source["board"]["cuda_cores"]
    memory = content["board"]["memory_gbs"] / source["board"]["memory_gbs"]
    for name in RATES:
        numbers[name] *= clock * cores
    for name in ("launch_us", "op_launch_us", "depth_ns"):
        numbers[name] /= clock
    numbers["bandwidth_gbs"] *= memory
    return numbers


def _reference(content: Mapping[str, Any]) -> Mapping[str, float]:
    mode: Mapping[str, float] = content["power_modes"][content["reference_mode"]]
    return mode
