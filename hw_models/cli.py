"""The commands that need nothing but this package: `predict` and `calibrate`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn

from hw_models.cli_options import ServerName, TlsCa, TlsCert, TlsKey, TokenFile
from hw_models.cost import Cost, CostModel
from hw_models.device import DEVICES, DeviceProfile, load_profile, read_profile_yaml
from hw_models.errors import InputError

if TYPE_CHECKING:
    from hw_models.client import Credentials
    from hw_models.points import Point

PRECISIONS = {"fp32": 32, "fp16": 16, "int8": 8}
_SHOWN = ("latency_ms", "low_ms", "high_ms", "energy_mj", "size_bytes", "macs")


def add_commands(app: typer.Typer) -> None:
    """Mount `predict` and `calibrate` on a command line."""
    app.command()(predict)
    app.command()(calibrate)


def predict(
    model: Annotated[Path, typer.Argument(help="an ONNX file")],
    target: Annotated[str, typer.Option(help="device profile: name or YAML file")] = "jetson-tx2",
    power_mode: Annotated[str | None, typer.Option(help="a mode of the device")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16 or int8, for layers the file does not quantise")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="images at once")] = 1,
    imgsz: Annotated[
        str | None, typer.Option(help="input size of a model with dynamic axes: 640 or 480,640")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="also one line a layer")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="machine readable")] = False,
) -> None:
    """Predict latency, its 90 % interval and energy of an ONNX model on a device."""
    from hw_models.onnx_reader import read_onnx

    profile = load_profile(target)
    bits = _bits(precision, profile)
    model_of_cost = CostModel(profile, power_mode)
    network = read_onnx(model, batch=batch, imgsz=_imgsz(imgsz), bits=bits)
    cost = model_of_cost.predict(network.workload)
    warnings = [*network.warnings, *_stored_only(profile, bits, network.quantized)]
    result = {name: _number(getattr(cost, name)) for name in _SHOWN} | {
        "target": profile.name,
        "power_mode": (power_mode or profile.default_power_mode).upper(),
        "precision": precision or f"fp{bits}",
        "batch": network.workload.batch,
        "energy_measured_at": profile.energy.measured_at,
        "host_energy_mj": _number(model_of_cost.host_energy_mj(network.workload)),
        "prediction": True,
        "extrapolated": list(cost.extrapolated),
        "warnings": warnings,
    }
    if layers:
        result["layers"] = [
            {name: _number(value) for name, value in asdict(layer).items()}
            for layer in cost.per_layer
        ]
    typer.echo(json.dumps(result, indent=2) if as_json else _text(result, cost, layers))


def _number(value: Any) -> Any:
    """Return None for NaN, which JSON does not know: the board's energy was never measured."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _bits(precision: str | None, profile: DeviceProfile) -> int:
    if precision is None:
        return profile.baseline_bits
    if precision.lower() not in PRECISIONS:
        raise InputError(
            f"--precision {precision}: expected one of {', '.join(PRECISIONS)}.",
            "Bits of single layers are read from a quantised ONNX file (QDQ).",
        )
    return PRECISIONS[precision.lower()]


def _imgsz(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) > 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"--imgsz {text}: expected a size such as 640, or rows,columns.")
    return int(parts[0]), int(parts[-1])


def _stored_only(profile: DeviceProfile, bits: int, quantized: bool) -> list[str]:
    """Warn where a precision saves memory but no time."""
    asked = 8 if quantized else bits
    executed = profile.executed_bits(asked)
    if asked == executed:
        return []
    return [
        f"{profile.name} stores {asked}-bit layers but executes them in {executed} bits:"
        " they gain size, not time."
    ]


def _text(result: Mapping[str, Any], cost: Cost, layers: bool) -> str:
    lines = [
        f"{result['target']} {result['power_mode']}, {result['precision']},"
        f" batch {result['batch']} (prediction)",
        f"latency  {cost.latency_ms:.4g} ms, 90 % interval {cost.low_ms:.4g} to"
        f" {cost.high_ms:.4g} ms",
        _energy_text(result),
        f"weights  {cost.size_bytes / 1e6:.4g} MB,  {cost.macs / 1e9:.4g} GMAC",
    ]
    lines += [f"extrapolated: {reason}" for reason in cost.extrapolated]
    lines += [f"warning: {warning}" for warning in result["warnings"]]
    if layers:
        width = max((len(layer.name) for layer in cost.per_layer), default=0)
        lines += [
            f"{layer.latency_ms:9.4f} ms {layer.energy_mj:9.4f} mJ  {layer.kind:10}"
            f" {layer.name:{width}}"
            for layer in cost.per_layer
        ]
    return "\n".join(lines)


def _energy_text(result: Mapping[str, Any]) -> str:
    energy_mj, host_mj = result["energy_mj"], result["host_energy_mj"]
    if energy_mj is None:
        return "energy   not measured on this device"
    host = f", and {host_mj:.4g} mJ for feeding it as it was measured" if host_mj else ""
    return f"energy   {energy_mj:.4g} mJ at {result['energy_measured_at']}{host}"


def calibrate(
    output: Annotated[Path, typer.Option(help="profile to write (YAML)")],
    table: Annotated[
        Path | None, typer.Option("--from", help="table of measurements (CSV)")
    ] = None,
    measure_on: Annotated[
        str | None, typer.Option(help="HOST:PORT of a worker on a CPU: measure there, minutes")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="with --from: profile that states facts and plan [the one named like the table]"
        ),
    ] = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    server_name: ServerName = "",
) -> None:
    """Fit a device profile to a table of measurements, or to a live device.

    Only rows of role `calibrate` are fitted. What is measured on a live device is written as a
    table beside the profile.
    """
    from importlib.util import find_spec

    if (table is None) == (measure_on is None):
        raise InputError("calibrate: expected either --from TABLE or --measure-on HOST:PORT.")
    if find_spec("scipy") is None:
        raise InputError(
            "Fitting a profile needs scipy, which is not installed.",
            "pip install 'paretrim[search]'",
        )
    if not output.resolve().parent.is_dir():
        raise InputError(f"--output {output}: expected a path in a folder that is there.")
    if table is not None:
        fitted = _from_table(table, profile)
    else:
        assert measure_on is not None
        from hw_models.client import Credentials

        credentials = Credentials(tls_ca, tls_cert, tls_key, token_file, server_name)
        fitted = _from_device(measure_on, credentials, output.with_suffix(".csv"))
    _write(fitted, output)


def _from_table(table: Path, profile: str | None) -> dict[str, Any]:
    """Fit the rows of a table."""
    from hw_models import calibration
    from hw_models.points import read_points

    beside = table.with_suffix(".yaml")
    name = profile or (str(beside) if beside.is_file() else table.stem)
    path = Path(name) if name.endswith((".yaml", ".yml")) else DEVICES / f"{name}.yaml"
    if not path.is_file():
        raise InputError(
            f"No profile {name!r} to take facts and plan from.", "Name one with --profile."
        )
    points = read_points(table)
    return calibration.calibrate(read_profile_yaml(path), points)


def _from_device(address: str, credentials: Credentials, table: Path) -> dict[str, Any]:
    """Measure on a device, write the rows as a table, and fit them.

    If measuring fails, the rows that there are go into `NAME-part.csv`.
    """
    from hw_models import live

    with live.connected(address, credentials) as (pool, info):
        precisions = live.measurable(info)
        measured: dict[live.Run, Point] = {}
        with Progress(TextColumn("{task.description}"), BarColumn(),
                      transient=True, disable=not sys.stdout.isatty()) as bar:  # fmt: skip
            task = bar.add_task("measuring")

            def tell(done: int, total: int, what: str) -> None:
                bar.update(task, completed=done, total=total, description=what)
                if bar.disable and not done:  # a log
                    typer.echo(f"{what} and {total - 1} more")

            try:
                disturbed = live.run_design(pool, live.DESIGN, precisions, tell, measured)
                if disturbed:
                    typer.echo(
                        f"{disturbed} of {len(measured)} rows were never measured twice alike: the "
                        "device is disturbed, the profile less exact. Close other programs there."
                    )
            finally:
                runs = live.runs_of(live.DESIGN, precisions)
                points = [measured[run] for run in runs if run in measured]
                if len(points) < len(runs):
                    table = table.with_stem(f"{table.stem}-part")
                live.write_points(table, points, f"measured on {info.kind}")
                typer.echo(f"{len(points)} of {len(runs)} measurements: {table}")
    return live.fit_host(info, points, precisions)


def _write(fitted: dict[str, Any], output: Path) -> None:
    """Write a profile and say how good it is."""
    from hw_models import calibration

    calibration.write_profile(fitted, output)
    for precision, numbers in fitted["residuals"]["latency"].items():
        typer.echo(
            f"{fitted['name']} {precision}: {numbers['rows']} rows of {numbers['networks']}"
            f" networks, MAPE {numbers['mape_percent']:.1f} % fitted,"
            f" {numbers['left_out_mape_percent']:.1f} % left out"
        )
    for precision, numbers in fitted["residuals"].get("held_out", {}).items():
        if precision in PRECISIONS:
            typer.echo(
                f"{fitted['name']} {precision}: {numbers['rows']} whole networks never fitted,"
                f" MAPE {numbers['mape_percent']:.1f} %, worst {numbers['worst_percent']:.1f} %"
            )
    typer.echo(f"written: {output}")
