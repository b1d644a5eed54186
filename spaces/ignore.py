"""Which layers a user wants left alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import nn

from hw_models.errors import InputError


def ignored_layers(net: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Return the names of the convolutions that patterns select; see `analyse`.

    Raises:
        InputError: A pattern selects no convolution, or is not a valid regular expression.
    """
    selected = set[str]()
    for pattern in patterns:
        convs = {
            f"{name}.{inner}".strip(".")
            for name, module in _matching(net, pattern)
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


def _matching(net: nn.Module, pattern: str) -> Iterator[tuple[str, nn.Module]]:
    kind, _, rest = pattern.partition(":")
    try:
        regex = re.compile(rest) if kind == "re" else None
    except re.error as error:
        raise InputError(f"--ignore {pattern}: not a regular expression: {error}.") from error
    for name, module in net.named_modules():
        if regex is not None:
            matches = bool(regex.search(name))
        elif kind == "type":
            matches = type(module).__name__ == rest
        else:
            matches = name == pattern and name != ""
        if matches:
            yield name, module
