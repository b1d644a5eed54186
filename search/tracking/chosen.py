"""Who is told how a run stands: those that always are, and those that `--track` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module, util

import ray

from hw_models.errors import InputError
from search.run_folder import RunFolder
from search.settings import Settings
from search.tracking.log_line import LogLine
from search.tracking.ray_metrics import RayMetrics
from search.tracking.state import Tracker

Make = Callable[[RunFolder, Settings], Tracker]

# Package that must be there, module and class.
CHOICES: Mapping[str, tuple[str, str, str]] = {
    "tensorboard": ("tensorboardX", "search.tracking.tensorboard", "TensorBoard"),
    "mlflow": ("mlflow", "search.tracking.mlflow", "MLflow"),
    "wandb": ("wandb", "search.tracking.wandb", "Wandb"),
}


def check_installed(settings: Settings) -> None:
    """Make sure that whatever is to track can.

    Raises:
        InputError: Its package is not installed.
    """
    for name in settings.track:
        package, *_ = CHOICES[name]
        if util.find_spec(package) is None:
            raise InputError(
                f"--track {name}: needs the package {package}, which is not installed.",
                f"pip install {package}",
            )


def trackers(run: RunFolder, settings: Settings) -> list[Tracker]:
    """Open all trackers of a run but its mirror."""
    found: list[Tracker] = [LogLine()]
    if ray.is_initialized():  # not with `--actors 0`
        found.append(RayMetrics(run.path.name))
    for name in settings.track:
        _, module, kind = CHOICES[name]
        make: Make = getattr(import_module(module), kind)
        found.append(make(run, settings))
    return found
