"""Sparsity patterns by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from hw_models.errors import InputError
from hw_models.workload import ConvShape
from spaces.sparsity.block import Blocks
from spaces.sparsity.entries import Entries
from spaces.sparsity.kernel import Kernels
from spaces.sparsity.n_m import NofM
from spaces.sparsity.pattern import Dense, Pattern
from spaces.sparsity.unstructured import Unstructured

_SHARED: dict[str, Callable[[float], Pattern]] = {
    "unstructured": Unstructured,
    "block": Blocks,
    "kernel": Kernels,
}
_EXPECTED = (
    "expected 2ep, 3ep, N:M such as 2:4, or unstructured-K, block-K or kernel-K with K the fraction"
    " that is kept, such as unstructured-0.3"
)


def parse_patterns(names: Iterable[str]) -> tuple[Pattern, ...]:
    """Return the patterns of these names, the sparsest first; of equally sparse ones by name.

    Raises:
        InputError: One is no pattern.
    """
    return tuple(sorted(map(parse_pattern, names), key=lambda p: (p.keep_ratio, p.name)))


def pattern_for(layer: ConvShape, name: str) -> Pattern:
    """Return the pattern of a name, to be given to a layer.

    Raises:
        InputError: There is none of that name, or it does not fit the layer.
    """
    pattern = parse_pattern(name)
    rows, columns = layer.kernel
    if name != "dense" and not (layer.groups == 1 and pattern.fits(layer.kernel)):
        raise InputError(
            f"Pattern {name} does not fit layer {layer.name}, which has {rows}x{columns} kernels "
            f"in {layer.groups} group(s)."
        )
    return pattern


def parse_pattern(name: str) -> Pattern:
    """Return the pattern of a name.

    Raises:
        InputError: There is none of that name.
    """
    if name == "dense":
        return Dense()
    if match := re.fullmatch(r"([23])ep", name):
        return Entries(int(match[1]))
    if match := re.fullmatch(r"(\d{1,2}):(\d{1,2})", name):
        n, m = int(match[1]), int(match[2])
        if 0 < n < m:
            return NofM(n, m)
    if match := re.fullmatch(r"([a-z]+)-(0?\.\d+)", name):
        family, ratio = _SHARED.get(match[1]), float(match[2])
        if family is not None and 0 < ratio < 1:
            return family(ratio)
    raise InputError(f"Unknown sparsity pattern {name!r}; {_EXPECTED}.")
