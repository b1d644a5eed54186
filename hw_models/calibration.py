"""Fit a device profile from a table of measurements. Needs scipy; pricing does not.

A profile's YAML states facts and a `plan`: for each executed precision the prior of its
coefficients, or what they are transferred from. `calibrate` keeps these and rewrites what is
fitted: coefficients, traffic, fixed time, energy, intervals, and the residuals they leave.
Intervals come from the errors on networks left out of the fit, one at a time.

Only rows of role `calibrate` are ever fitted. A plan with `report_validate` has the error on the
rows of role `validate` noted in the residuals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hw_models.cost import Vector
from hw_models.device import DeviceProfile, profile_from_dict
from hw_models.energy_fit import fit_energy
from hw_models.errors import InputError
from hw_models.latency_fit import LatencyFit
from hw_models.points import LATENCY, Fleet, Point

FITTED = ("coefficients", "traffic", "fixed_us", "energy", "intervals", "residuals")
"""Keys of a profile that calibration writes; all others are facts or plan."""
_DIGITS = 4
_DECIMALS = 5
"""Of a network's log error, which may be next to 0: further ones differ between processors."""
_UNEXPLAINED = 0.5
"""Log error beyond which a left-out network counts as not explained: listed, not in intervals."""
_UNCALIBRATED_WIDTH = 0.35
"""Interval of a precision that is only transferred: about -30 % to +40 %."""


def calibrate(content: Mapping[str, Any], points: Sequence[Point]) -> dict[str, Any]:
    """Fit what a profile's plan leaves to the data.

    Args:
        content: The profile's YAML; its fitted keys are ignored.
        points: Measured rows of any role.

    Returns:
        The profile's YAML with its fitted keys replaced.

    Raises:
        InputError: The profile has no plan, or there is no latency to fit.
    """
    if "plan" not in content:
        raise InputError(
            f"Profile {content.get('name')!r} has no plan to fit.",
            "Start from a profile in hw_models/devices that has one.",
        )
    facts = {key: value for key, value in content.items() if key not in FITTED}
    left_out_networks = set(facts["plan"].get("exclude", ()))
    rows = [
        point
        for point in points
        if point.role == "calibrate" and point.network not in left_out_networks
    ]
    timed = [point for point in rows if point.metric == LATENCY]
    if not timed:
        raise InputError("The table has no latency of role `calibrate` to fit.")
    fit = LatencyFit.planned(facts, timed)
    solution = fit.solve()
    errors, left_out = fit.errors(solution), fit.left_out_errors(solution)
    fitted, fixed = fit.profile(solution)
    of_intervals = np.asarray(
        [p.origin == facts["plan"].get("interval_origin", p.origin) for p in timed]
    )
    intervals = _intervals(fitted["coefficients"], timed, left_out, fit.weights * of_intervals)
    draft = profile_from_dict(
        fit.draft(fitted) | {"intervals": intervals}, str(facts.get("name", "plan"))
    )
    energy, energy_errors = fit_energy(facts, draft, rows)
    residuals: dict[str, Any] = {
        "fixed_us_by_origin": fixed,
        "latency": _summary(timed, errors, left_out),
        "networks": _by_network(timed, errors),
        "energy": {"rows": len(energy_errors)}
        | ({"mape_percent": _mape(energy_errors)} if len(energy_errors) else {}),
    }
    if facts["plan"].get("report_validate"):
        residuals["held_out"] = _held_out(draft, fixed, points)
    result = facts | fitted | {
        "energy": asdict(energy), "intervals": intervals, "residuals": residuals
    }  # fmt: skip
    return {key: _rounded(value) if key in FITTED else value for key, value in result.items()}


def _held_out(
    profile: DeviceProfile, fixed_us: Mapping[str, float], points: Sequence[Point]
) -> dict[str, Any]:
    """Return the error on networks that were never fitted, by precision."""
    held = [point for point in points if point.role == "validate" and point.metric == LATENCY]
    if not held:
        return {}
    fleet = Fleet(held)
    errors = np.log(fleet.latency_ms(profile, fixed_us) / fleet.measured)
    summary = {}
    for precision in sorted({point.precision for point in held}):
        chosen = errors[np.asarray([point.precision == precision for point in held])]
        worst = float(100 * np.abs(np.expm1(chosen)).max())
        summary[precision] = {
            "rows": len(chosen), "mape_percent": _mape(chosen), "worst_percent": worst
        }  # fmt: skip
    return summary | {"networks": _by_network(held, errors)}


def profile_text(content: Mapping[str, Any]) -> str:
    """Return a profile's YAML as text."""
    return yaml.safe_dump(dict(content), sort_keys=False, width=100, allow_unicode=True)


def write_profile(content: Mapping[str, Any], path: Path) -> None:
    """Write a profile's YAML."""
    path.write_text(profile_text(content), encoding="utf-8")


def _intervals(
    coefficients: Mapping[int, Any], points: Sequence[Point], errors: Vector, weights: Vector
) -> dict[int, dict[str, Any]]:
    bits = np.asarray([point.bits for point in points])
    macs = np.asarray([point.workload.macs / 1e9 for point in points])
    usual = (np.abs(errors) < _UNEXPLAINED) & (weights > 0)
    result = {}
    for precision in coefficients:
        chosen = (bits == precision) & usual
        if chosen.any():
            width = _quantile(np.abs(errors[chosen]), weights[chosen], 0.9)
            lowest, highest = float(macs[chosen].min()), float(macs[chosen].max())
        else:
            width, lowest, highest = _UNCALIBRATED_WIDTH, float(macs.min()), float(macs.max())
        result[precision] = {
            "log_width": width,
            "calibrated": bool(chosen.any()),
            "gmacs": [lowest, highest],
        }
    return result


def _quantile(values: Vector, weights: Vector, share: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(reached, share)])


def _mape(errors: Vector) -> float:
    return float(100 * np.mean(np.abs(np.expm1(errors))))


def _summary(points: Sequence[Point], errors: Vector, left_out: Vector) -> dict[str, Any]:
    summary = {}
    for precision in sorted({point.precision for point in points}):
        chosen = np.asarray([point.precision == precision for point in points])
        far = {
            point.network
            for point, error in zip(points, left_out, strict=True)
            if point.precision == precision and abs(error) >= _UNEXPLAINED
        }
        summary[precision] = {
            "rows": int(chosen.sum()),
            "networks": len({p.network for p in points if p.precision == precision}),
            "mape_percent": _mape(errors[chosen]),
            "left_out_mape_percent": _mape(left_out[chosen]),
            "unexplained": sorted(far),
        }
    return summary


def _by_network(points: Sequence[Point], errors: Vector) -> dict[str, float]:
    """Return the mean of log(predicted / measured) of each network."""
    names = [f"{p.origin} {p.network} {p.precision}" for p in points]
    return {
        name: round(float(np.mean(errors[np.asarray([n == name for n in names])])), _DECIMALS)
        for name in sorted(set(names))
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    return value
