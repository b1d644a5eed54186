"""The command line. `paretrim search` is the search itself; what it prints goes to standard output.

Errors that a user can cause end with one paragraph and the exit code of their kind, never with a
traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from hw_models.cli import add_commands
from hw_models.cli_options import ServerName, TlsCa, TlsCert, TlsKey, TokenFile
from hw_models.devices_cli import devices
from hw_models.errors import InputError, ParetrimError
from search.apply_cli import apply
from search.cli_parts import TrustCheckpoint, console, file_or_name, needing
from search.design_cli import study
from search.export_cli import export
from search.look_cli import export_optuna, report, watch
from search.recover_cli import recover

app = typer.Typer(
    name="paretrim",
    help="Search compressed YOLOv5 detectors that meet a latency budget on a small device.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
add_commands(app)
app.command()(devices)
app.command()(recover)
app.command()(export)
app.command()(apply)
app.command()(report)
app.command()(watch)
app.command()(export_optuna)
app.command()(study)

INTERRUPTED = 130


@app.callback()
def _paretrim() -> None:
    """Search compressed YOLOv5 detectors that meet a latency budget on a small device."""


@app.command()
def search(
    weights: Annotated[
        str | None,
        typer.Option(help="'demo', a YOLOv5u or classic YOLOv5 .pt, or a model YAML [demo]"),
    ] = None,
    data: Annotated[str | None, typer.Option(help="'demo', or an ultralytics data YAML")] = None,
    imgsz: Annotated[
        str | None, typer.Option(help="input size(s): 416,512,640 [the model's]")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="device profile, by name or YAML file [jetson-tx2]")
    ] = None,
    power_mode: Annotated[str | None, typer.Option(help="a power mode of the target")] = None,
    latency: Annotated[
        str | None, typer.Option(help="budget(s): 30ms, 0.03s, 75% of dense, 20ms,30ms [required]")
    ] = None,
    energy: Annotated[str | None, typer.Option(help="budget: 200mJ or 60% of dense")] = None,
    size: Annotated[str | None, typer.Option(help="budget: 5MB or 60% of dense")] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="largest loss of mAP50-95 against dense, such as 0.02")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="paretrim, nsga2, milp, dp, spdy, eagleeye, netadapt, hawq, halp, error-limit, "
            "random, uniform [paretrim]"
        ),
    ] = None,
    prune: Annotated[
        str | None, typer.Option(help="pruning criterion, or none: no pruning")
    ] = None,
    depth: Annotated[
        bool | None, typer.Option("--depth", help="whole residual blocks may be dropped, too")
    ] = None,
    bits: Annotated[
        str | None, typer.Option(help="weight bits: 8,16, or none [what the target gains from]")
    ] = None,
    act_bits: Annotated[str | None, typer.Option(help="activation bits: 8,16")] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="sparsity patterns: 2ep,3ep, 2:4, or none [what the target gains from]"),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="layers left alone: name, re:..., type:...; repeatable")
    ] = None,
    evals: Annotated[int | None, typer.Option(help="candidates to score with mAP [400]")] = None,
    time_budget: Annotated[str | None, typer.Option(help="stop searching after 8h, 30m")] = None,
    actors: Annotated[
        int | None, typer.Option(help="evaluation actors; 0: in this process [all CPUs or GPUs]")
    ] = None,
    measure_on: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT of a device worker: picks are measured there; repeatable"),
    ] = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    server_name: ServerName = "",
    reuse: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="folder of another run: what it evaluated is not repeated; repeatable",
        ),
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(help="also report to tensorboard, mlflow, wandb (with commas between)"),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(help="keep a copy of the run at a URL: s3://bucket/runs, file:///mnt/runs"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="seed of all random choices [0]")] = None,
    project: Annotated[Path, typer.Option(help="where runs are kept")] = Path("runs/search"),
    name: Annotated[str, typer.Option(help="name of the run")] = "exp",
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="use the folder if it is there")
    ] = False,
    resume: Annotated[
        str | None, typer.Option(help="go on with the run in this folder, or at a --mirror URL")
    ] = None,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Search the Pareto front of compressed variants of a detector within a budget."""
    given: dict[str, Any] = {
        "weights": file_or_name(weights),
        "data": file_or_name(data),
        "imgsz": _integers("--imgsz", imgsz),
        "target": file_or_name(target),
        "power_mode": power_mode,
        "latency": latency and tuple(latency.split(",")),
        "energy": energy,
        "size": size,
        "max_drop": max_drop,
        "method": method,
        "prune": prune,
        "depth": depth,
        "bits": (0,) if bits == "none" else _integers("--bits", bits),
        "act_bits": _integers("--act-bits", act_bits),
        "pattern": pattern and tuple(pattern.split(",")),
        "ignore": tuple(ignore) if ignore else None,
        "evals": evals,
        "time_budget_s": time_budget,
        "actors": actors,
        "measure_on": tuple(measure_on) if measure_on else None,
        **{
            name: path and str(path.resolve())
            for name, path in (
                ("tls_ca", tls_ca),
                ("tls_cert", tls_cert),
                ("tls_key", tls_key),
                ("token_file", token_file),
            )
        },
        "server_name": server_name or None,
        "reuse": tuple(str(run.resolve()) for run in reuse) if reuse else None,
        "track": track and tuple(track.split(",")),
        "mirror": mirror,
        "seed": seed,
        "trust_checkpoint": trust_checkpoint or None,
    }
    with needing():
        from search.run import new_search, resume_search

    given = {key: value for key, value in given.items() if value is not None}
    if resume is not None:
        resume_search(resume, project, given, console())
    else:
        new_search(given, project, name, exist_ok, console())


def _integers(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{option} {text}: expected whole numbers with commas between, such as 8,16."
        ) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Exit codes: 0 done; 2 bad input; 3 no candidate can meet the budget; 4 device trouble;
    130 interrupted.
    """
    os.environ.setdefault("YOLO_OFFLINE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are for the actors
    try:
        code = app(args=arguments, standalone_mode=False)
    except ParetrimError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except TyperException as error:
        print(f"error: {error.format_message()} See --help.", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    sys.exit(code)
