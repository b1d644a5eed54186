"""STUDY.yaml: a matrix of models, devices, power modes, budgets, methods and seeds.

    models:
      demo: {imgsz: [320, 256, 160]}
      fixed-input: {imgsz: [320]}
    devices:
      jetson-tx2: [MAXN, MAXQ]
      jetson-xavier-nx:
    budgets: [75%, 60%, 50%]
    methods: [paretrim, milp]
    seeds: [0]
    fps: [30]
    options: {evals: 60}

A model is whatever options of the search make it: weights, data, imgsz, prune, bits, ...
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hw_models.device import load_profile
from hw_models.errors import InputError
from search.run import read_settings

PATHS = ("weights", "data", "target", "token_file", "tls_ca", "tls_cert", "tls_key")
VARIED = ("target", "power_mode", "latency", "method", "seed", "reuse")


class _File(BaseModel):
    """The file as written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: dict[str, dict[str, Any] | None] = Field(min_length=1)
    devices: dict[str, tuple[str, ...] | None] = Field(min_length=1)
    budgets: tuple[str, ...] = Field(min_length=1)
    methods: tuple[str, ...] = Field(default=("paretrim",), min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    fps: tuple[float, ...] = (30.0,)
    options: dict[str, Any] = {}

    @field_validator("devices", mode="before")
    @classmethod
    def _name_devices(cls, value: object) -> object:
        """A plain list of devices stands for their default modes."""
        return dict.fromkeys(value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class Job:
    """One search of a study: all its budgets are searched together.

    Attributes:
        name: Of its run folder.
        model: Its name in the study.
        device: Profile.
        power_mode: One of its modes.
        method: Search method.
        seed: Of the search.
        budgets: Latency budgets, as written.
        given: The options of the search.
    """

    name: str
    model: str
    device: str
    power_mode: str
    method: str
    seed: int
    budgets: tuple[str, ...]
    given: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """A study.

    Attributes:
        name: Of the file.
        jobs: In the order they are run; those of one model together, for they share evaluations.
        fps: Frame rates that are asked for.
    """

    name: str
    jobs: tuple[Job, ...]
    fps: tuple[float, ...]


def read_plan(path: Path) -> Plan:
    """Read a study and check every search in it before any is run.

    Raises:
        InputError: The file, or an option of one of the searches, is wrong.
    """
    try:
        file = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable YAML ({error}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{path}, {place}: {first['msg']}.",
            "A study has models, devices, budgets, and perhaps methods, seeds, fps and options; "
            "docs/design-study.md shows one.",
        ) from error
    modes = [(device, mode) for device, names in file.devices.items()
             for mode in _modes(device, names, path)]  # fmt: skip
    jobs = [
        _job(file, path, model, device, mode, method, seed)
        for model, (device, mode), method, seed in product(
            file.models, modes, file.methods, file.seeds
        )
    ]
    return Plan(path.stem, tuple(jobs), file.fps)


def _modes(device: str, names: tuple[str, ...] | None, path: Path) -> list[str]:
    profile = load_profile(_located(path, device))
    wanted = list(names or (profile.default_power_mode,))
    for name in wanted:
        profile.mode(name)
    return wanted


def _job(
    file: _File, path: Path, model: str, device: str, mode: str, method: str, seed: int
) -> Job:
    own = {**file.options, **(file.models[model] or {})}
    if taken := sorted(set(own) & set(VARIED)):
        raise InputError(
            f"{path}: {', '.join(taken)} stands among the options; expected in the matrix.",
            "Give devices, budgets, methods and seeds beside models.",
        )
    given = {
        **{key: _located(path, value) if key in PATHS else value for key, value in own.items()},
        "target": _located(path, device),
        "power_mode": mode,
        "latency": file.budgets,
        "method": method,
        "seed": seed,
    }
    try:
        read_settings(given)
    except InputError as error:
        raise InputError(f"{path}, model {model}: {error.message}", error.hint) from error
    stem = Path(device).stem
    name = "-".join([_slug(model), _slug(stem), _slug(mode), method, f"s{seed}"])
    return Job(name, model, stem, mode, method, seed, file.budgets, given)


def _located(path: Path, value: Any) -> Any:
    """Return a file's path from the study's folder; a plain name as it is."""
    beside = path.parent / str(value)
    return str(beside.resolve()) if isinstance(value, str) and beside.exists() else value


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", text)
