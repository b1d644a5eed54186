"""Fit the energy coefficients of a profile to measured energies. Needs scipy.

    E = idle x (time + host time) + host x host time x (host clock)^3
        + (busy x time + pJ/MAC x MACs + pJ/byte x bytes) x (GPU clock)^exponent

with the measured times of the compute units and of the host that feeds them, so that errors of the
latency model stay out of it. Where the host's time was measured it is fitted too: per batch, per
image and per input value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hw_models.cost import HOST_EXPONENT, CostModel, Vector
from hw_models.device import DeviceProfile, EnergyCoefficients, load_profile
from hw_models.points import ENERGY, HOST_LATENCY, LATENCY, Point

_SCALE = 0.1
_SPREAD = 0.7
"""Standard deviation of the prior of the logarithm of each energy coefficient."""


NOT_MEASURED = EnergyCoefficients("not measured", {}, *(math.nan,) * 6)
"""Energy of a board without any figure: predictions are NaN, never a guess."""


@dataclass(frozen=True, slots=True)
class _Run:
    """One measured run: everything known about it."""

    point: Point
    time_ms: float
    host_ms: float
    energy_mj: float


def fit_energy(
    content: Mapping[str, Any], profile: DeviceProfile, points: Sequence[Point]
) -> tuple[EnergyCoefficients, Vector]:
    """Fit the energy coefficients as the profile's plan says.

    Args:
        content: The profile's YAML: facts and plan.
        profile: The profile with its latency fitted; its energy numbers do not matter.
        points: Rows to fit.

    Returns:
        The coefficients, and log(predicted / measured) of every measured energy.
    """
    plan = content["plan"].get("energy")
    if plan is None:
        return NOT_MEASURED, np.zeros(0)
    runs = _runs(points)
    if "donor" in plan:
        prior = replace(load_profile(plan["donor"]).energy, measured_at=plan["measured_at"])
    else:
        prior = EnergyCoefficients(
            plan["measured_at"], {int(b): v for b, v in plan["pj_per_mac"].items()},
            plan["pj_per_byte"], plan["busy_w"], plan["clock_exponent"],
            *_host(profile, runs), host_w=plan.get("host_w", 0.0),
        )  # fmt: skip
    if not runs:
        return prior, np.zeros(0)
    return _fit(profile, prior, runs)


def errors_at_measured_times(profile: DeviceProfile, points: Sequence[Point]) -> Vector:
    """Return predicted / measured - 1 of each energy, given the measured times of the run.

    Args:
        profile: The device.
        points: Measured rows, times and energies.
    """
    rows = _Rows.of(profile, _runs(points))
    return np.asarray(rows.energy_mj(profile.energy) / rows.measured_mj - 1)


def _runs(points: Sequence[Point]) -> list[_Run]:
    figures: dict[tuple[object, ...], list[dict[str, Point]]] = {}
    for point in points:
        key = (point.origin, point.network, point.input_h, point.input_w, point.batch,
               point.power_mode, point.precision)  # fmt: skip
        same = figures.setdefault(key, [{}])
        if point.metric in same[-1]:  # measured once more
            same.append({})
        same[-1][point.metric] = point
    return [
        _Run(
            found[LATENCY],
            found[LATENCY].value,
            found.get(HOST_LATENCY, found[LATENCY]).value - found[LATENCY].value,
            found[ENERGY].value * found[ENERGY].batch,
        )
        for same in figures.values()
        for found in same
        if ENERGY in found and LATENCY in found
    ]


def _host(profile: DeviceProfile, runs: Sequence[_Run]) -> tuple[float, float, float]:
    """Fit the host's time by non-negative least squares on relative errors."""
    from scipy.optimize import nnls

    timed = [run for run in runs if run.host_ms > 0]
    if not timed:
        return 0.0, 0.0, 0.0
    reference = profile.mode(profile.reference_mode)
    rows, targets = [], []
    for run in timed:
        mode = profile.mode(run.point.power_mode)
        cpu, memory = reference.cpu_mhz / mode.cpu_mhz, reference.emc_mhz / mode.emc_mhz
        values = run.point.batch * math.prod(run.point.workload.input_shape)
        rows.append([cpu * 1e-3, cpu * run.point.batch * 1e-3, memory * values * 1e-6])
        targets.append(run.host_ms)
    matrix, target = np.asarray(rows), np.asarray(targets)
    solution, _ = nnls(matrix / target[:, None], np.ones(len(target)))
    host_us, per_image, per_value = (float(value) for value in solution)
    return host_us, per_image, per_value


def _fit(
    profile: DeviceProfile, prior: EnergyCoefficients, runs: Sequence[_Run]
) -> tuple[EnergyCoefficients, Vector]:
    from scipy.optimize import least_squares

    rows = _Rows.of(profile, runs)
    used = sorted(set(rows.bits.tolist()))
    free = [prior.busy_w, prior.pj_per_byte, *(prior.pj_per_mac[b] for b in used)]
    free += [prior.host_w] if rows.host_ms.any() else []
    start = np.append(np.log(free), prior.clock_exponent)

    def unpack(x: Vector) -> EnergyCoefficients:
        busy, per_byte, *rest = (float(value) for value in np.exp(x[:-1]))
        per_mac = dict(zip(used, rest, strict=False))
        # Precisions without a measurement keep their prior ratio to those that have one.
        shift = math.exp(np.mean([math.log(v / prior.pj_per_mac[b]) for b, v in per_mac.items()]))
        return replace(
            prior,
            busy_w=busy,
            pj_per_byte=per_byte,
            pj_per_mac={b: value * shift for b, value in prior.pj_per_mac.items()} | per_mac,
            host_w=rest[-1] if rows.host_ms.any() else prior.host_w,
            clock_exponent=float(x[-1]),
        )

    def errors(x: Vector) -> Vector:
        return np.asarray(np.log(rows.energy_mj(unpack(x)) / rows.measured_mj))

    names = [run.point.network for run in runs]
    count = np.asarray([names.count(name) for name in names])
    weight = count**-0.25 / np.mean(count**-0.25)  # as in the fit of latency

    def residuals(x: Vector) -> Vector:
        return np.concatenate([errors(x) * weight / _SCALE, (x - start) / _SPREAD])

    solution = np.asarray(least_squares(residuals, start, loss="soft_l1").x)
    return unpack(solution), errors(solution)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Runs as columns; clocks are relative to the reference mode's."""

    measured_mj: Vector
    time_ms: Vector
    host_ms: Vector
    idle_w: Vector
    gpu: Vector
    cpu: Vector
    bits: Vector
    giga_macs: Vector
    giga_bytes: Vector

    @classmethod
    def of(cls, profile: DeviceProfile, runs: Sequence[_Run]) -> _Rows:
        modes = [profile.mode(run.point.power_mode) for run in runs]
        reference = profile.mode(profile.reference_mode)
        return cls(
            np.asarray([run.energy_mj for run in runs]),
            np.asarray([run.time_ms for run in runs]),
            np.asarray([run.host_ms for run in runs]),
            np.asarray([mode.idle_w for mode in modes]),
            np.asarray([mode.gpu_mhz for mode in modes]) / reference.gpu_mhz,
            np.asarray([mode.cpu_mhz for mode in modes]) / reference.cpu_mhz,
            np.asarray([profile.executed_bits(run.point.bits) for run in runs]),
            *_moved(profile, runs),
        )

    def energy_mj(self, energy: EnergyCoefficients) -> Vector:
        """Return the energy of each run."""
        per_mac = np.asarray([energy.pj_per_mac[int(bits)] for bits in self.bits])
        dynamic = (
            energy.busy_w * self.time_ms
            + per_mac * self.giga_macs
            + energy.pj_per_byte * self.giga_bytes
        )
        return np.asarray(
            self.idle_w * (self.time_ms + self.host_ms)
            + energy.host_w * self.host_ms * self.cpu**HOST_EXPONENT
            + dynamic * self.gpu**energy.clock_exponent
        )


def _moved(profile: DeviceProfile, runs: Sequence[_Run]) -> tuple[Vector, Vector]:
    """Return 10^9 MACs and bytes moved of every run, read off a model where a byte costs 1 J."""
    none = replace(
        profile.energy, pj_per_mac={b: 0.0 for b in profile.coefficients}, pj_per_byte=1e12,
        busy_w=0.0, clock_exponent=0.0,
    )  # fmt: skip
    modes = {name: replace(mode, idle_w=0.0) for name, mode in profile.power_modes.items()}
    model = CostModel(replace(profile, energy=none, power_modes=modes))
    costs = [model.predict(run.point.workload) for run in runs]
    return (
        np.asarray([cost.macs / 1e9 for cost in costs]),
        np.asarray([cost.energy_mj / 1e3 / 1e9 for cost in costs]),
    )
