"""Which layers a user wants left alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import nn

from hw_models.errors import InputError


def ignored_layers(net: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Return the names of the convolutions that patterns select; see `analyse`.

    Raises:
        InputError: A pattern selects no convolution, or is not a valid regular expression.
    """
    selected = set[str]()
    for pattern in patterns:
        selects = _selector(pattern)
        convs = {
            f"{name}.{inner}".strip(".")
            for name, module in net.named_modules()
            if selects(name, module)
            for inner, layer in module.named_modules()
            if isinstance(layer, nn.Conv2d)
        }
        if not convs:
            raise InputError(
                f"--ignore {pattern} matches no convolution of the model.",
                "Give a module's name such as model.0, re:REGEX or type:CLASS.",
            )
        selected |= convs
    return selected


def _selector(pattern: str) -> Callable[[str, nn.Module], bool]:
    """Return whether a pattern selects a module, given its name and itself."""
    kind, _, rest = pattern.partition(":")
    if kind == "type":
        return lambda _, module: type(module).__name__ == rest
    if kind != "re":
        return lambda name, _: name == pattern != ""
    try:
        regex = re.compile(rest)
    except re.error as error:
        raise InputError(
            f"--ignore {pattern}: expected a regular expression behind re:, got {error}."
        ) from error
    return lambda name, _: regex.search(name) is not None
