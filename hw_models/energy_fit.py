"""Fit the energy coefficients of a profile to measured energies. Needs scipy.

    E = idle x time + (busy x time + pJ/MAC x MACs + pJ/byte x weight bytes) x clock^exponent

with time the measured time, host included, so that errors of the latency model stay out of it.
Where the host's share was measured it is fitted too: per batch, per image and per input value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hw_models.cost import CostModel, Vector
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
    if "donor" in plan:
        given = load_profile(plan["donor"]).energy
        return replace(given, measured_at=plan["measured_at"]), np.zeros(0)
    runs = _runs(points)
    prior = EnergyCoefficients(
        plan["measured_at"], {int(b): v for b, v in plan["pj_per_mac"].items()},
        plan["pj_per_weight_byte"], plan["busy_w"], plan["clock_exponent"], *_host(profile, runs),
    )  # fmt: skip
    if not runs:
        return prior, np.zeros(0)
    return _fit(profile, prior, runs)


def _runs(points: Sequence[Point]) -> list[_Run]:
    figures: dict[tuple[object, ...], dict[str, Point]] = {}
    for point in points:
        key = (point.origin, point.network, point.input_h, point.input_w, point.batch,
               point.power_mode, point.precision)  # fmt: skip
        figures.setdefault(key, {})[point.metric] = point
    return [
        _Run(
            found[LATENCY],
            found[LATENCY].value,
            found.get(HOST_LATENCY, found[LATENCY]).value - found[LATENCY].value,
            found[ENERGY].value * found[ENERGY].batch,
        )
        for found in figures.values()
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

    measured = np.asarray([run.energy_mj for run in runs])
    used = sorted({profile.executed_bits(run.point.bits) for run in runs})
    bits = np.asarray([profile.executed_bits(run.point.bits) for run in runs])
    modes = [profile.mode(run.point.power_mode) for run in runs]
    clock = np.asarray([m.gpu_mhz for m in modes]) / profile.mode(profile.reference_mode).gpu_mhz
    idle = np.asarray([mode.idle_w for mode in modes])
    time_ms = np.asarray([run.time_ms + run.host_ms for run in runs])
    giga_macs, giga_bytes = _moved(profile, runs)
    mean = np.log([prior.busy_w, prior.pj_per_weight_byte, *(prior.pj_per_mac[b] for b in used)])

    def unpack(x: Vector) -> EnergyCoefficients:
        busy, per_byte, *per_mac = (float(value) for value in np.exp(x[:-1]))
        # Precisions without a measurement keep their prior ratio to those that have one.
        shift = math.exp(float(np.mean(x[2:-1] - mean[2:])))
        macs = {b: value * shift for b, value in prior.pj_per_mac.items()}
        macs |= dict(zip(used, per_mac, strict=True))
        return replace(
            prior,
            busy_w=busy,
            pj_per_weight_byte=per_byte,
            pj_per_mac=macs,
            clock_exponent=float(x[-1]),
        )

    def errors(x: Vector) -> Vector:
        fitted = unpack(x)
        per_mac = np.asarray([fitted.pj_per_mac[int(b)] for b in bits])
        dynamic = (
            fitted.busy_w * time_ms + per_mac * giga_macs + fitted.pj_per_weight_byte * giga_bytes
        )
        energy = idle * time_ms + dynamic * clock**fitted.clock_exponent
        return np.asarray(np.log(energy / measured))

    names = [run.point.network for run in runs]
    count = np.asarray([names.count(name) for name in names])
    weight = count**-0.25 / np.mean(count**-0.25)  # as in the fit of latency
    start = np.append(mean, prior.clock_exponent)

    def residuals(x: Vector) -> Vector:
        return np.concatenate([errors(x) * weight / _SCALE, (x - start) / _SPREAD])

    solution = np.asarray(least_squares(residuals, start, loss="soft_l1").x)
    return unpack(solution), errors(solution)


def _moved(profile: DeviceProfile, runs: Sequence[_Run]) -> tuple[Vector, Vector]:
    """Return 10^9 MACs and weight bytes of every run, read off a model where a byte costs 1 J."""
    none = replace(
        profile.energy, pj_per_mac={b: 0.0 for b in profile.coefficients}, pj_per_weight_byte=1e12,
        busy_w=0.0, clock_exponent=0.0,
    )  # fmt: skip
    modes = {name: replace(mode, idle_w=0.0) for name, mode in profile.power_modes.items()}
    model = CostModel(replace(profile, energy=none, power_modes=modes))
    costs = [model.predict(run.point.workload) for run in runs]
    return (
        np.asarray([cost.macs / 1e9 for cost in costs]),
        np.asarray([cost.energy_mj / 1e3 / 1e9 for cost in costs]),
    )
