"""What is known about the errors of a device profile, from the profile itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from hw_models.device import DEVICES, PowerMode, load_profile
from search.report.value import DeviceFit, FitRow


def device_fit(target: str, mode: PowerMode, power_mode: str | None) -> DeviceFit:
    """Return how well a profile is known to predict.

    Args:
        target: A shipped profile or the path of one.
        mode: The clocks in use.
        power_mode: Their name; None for the profile's default.
    """
    profile = load_profile(target)
    content = _with_notes(target)
    residuals: dict[str, Any] = content.get("residuals", {})
    held_out = residuals.get("held_out", {})
    rows = [
        FitRow(
            precision=precision,
            rows=int(numbers["rows"]),
            networks=numbers.get("networks"),
            fitted=numbers.get("mape_percent"),
            left_out=numbers.get("left_out_mape_percent"),
            held_out=held_out.get(precision, {}).get("mape_percent"),
        )
        for precision, numbers in residuals.get("latency", {}).items()
    ]
    return DeviceFit(
        name=profile.name,
        description=profile.description,
        power_mode=f"{power_mode or profile.default_power_mode} (compute {mode.gpu_mhz:.0f} MHz, "
        f"memory {mode.emc_mhz:.0f} MHz)",
        measured_at=profile.energy.measured_at,
        rows=tuple(rows),
        networks={
            name: float(f"{math.exp(value):.4g}")
            for name, value in residuals.get("networks", {}).items()
        },
        energy_error=residuals.get("energy", {}).get("mape_percent"),
        intervals={
            str(bits): float(f"{math.exp(interval.log_width):.4g}")
            for bits, interval in profile.intervals.items()
        },
        transferred=tuple(
            str(bits) for bits, interval in profile.intervals.items() if not interval.calibrated
        ),
        sources=tuple(content.get("sources", ())),
    )


def _with_notes(target: str) -> dict[str, Any]:
    """Read a profile's YAML with its notes; those of the one it is based on, if it has none."""
    path = Path(target) if target.endswith((".yaml", ".yml")) else DEVICES / f"{target}.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    base = content.get("based_on")
    return _with_notes(str(base)) | content if base else content
