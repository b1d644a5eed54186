"""Where networks are computed: on CUDA where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")

CPU = torch.device("cpu")


def default_device() -> torch.device:
    """Return CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Have new tensors on a device; convolutions there are repeatable, and FP32 means FP32."""
    if device.type == "cpu":
        yield
        return
    with device, torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def moved(value: T, device: torch.device) -> T:
    """Return tensors, or containers and dataclasses of them, on a device.

    What is one object stays one object.
    """
    return cast("T", _moved(value, device, {}))


def _moved(value: Any, device: torch.device, known: dict[int, tuple[Any, Any]]) -> Any:
    if id(value) in known:
        return known[id(value)][1]
    new: Any
    if isinstance(value, Tensor):
        new = value.to(device)
    elif isinstance(value, dict):
        new = {key: _moved(part, device, known) for key, part in value.items()}
    elif isinstance(value, list | tuple):
        new = type(value)(_moved(part, device, known) for part in value)
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        new = replace(value, **_moved(parts, device, known))
    else:
        new = value
    known[id(value)] = value, new  # kept as well: the number of what is gone is given anew
    return new
