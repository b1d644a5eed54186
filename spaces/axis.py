"""Variables of one kind, and where they lie in a genome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from hw_models.errors import InputError
from spaces.shapes import Bits
from spaces.trace import IntArray

Option = TypeVar("Option", int, str, Bits)


@dataclass(frozen=True, slots=True)
class Variable:
    """Something that may vary.

    Args:
        name: `imgsz`, `keep:GROUP`, `bits:LAYER`, `pattern:LAYER` or `depth:BLOCK`.
        options: Its values, densest first.
    """

    name: str
    options: tuple[Any, ...]


class Axis(Generic[Option]):
    """Things of one kind, each with options; those with several are variables.

    Args:
        options: For each thing, its options, densest first.
        start: The genome's column of the first variable.
        code: What stands for an option in arrays, larger for denser ones; None: it does itself.

    Raises:
        InputError: Options are missing, repeated, or not from dense to sparse.
    """

    def __init__(
        self,
        options: dict[str, tuple[Option, ...]],
        start: int,
        code: Callable[[Option], int] | None = None,
    ) -> None:
        codes: dict[str, list[Any]] = {
            name: list(values) if code is None else [code(value) for value in values]
            for name, values in options.items()
        }
        for name, values in options.items():
            if not values or codes[name] != sorted(set(codes[name]), reverse=True):
                raise InputError(
                    f"Options of {name}: expected different values, densest first, got "
                    f"{list(values)}."
                )
        self.options: dict[str, tuple[Option, ...]] = options
        varying = [name for name, values in options.items() if len(values) > 1]
        self.columns = {name: start + number for number, name in enumerate(varying)}
        self.end = start + len(varying)
        # What does not vary reads the last column of a padded genome, which is 0.
        self._reads = np.array([self.columns.get(name, -1) for name in options], dtype=np.int64)
        longest = max(map(len, codes.values()), default=1)
        # Made once and shared, because a search holds thousands of candidates.
        self._named: list[list[tuple[Any, ...]]] = [
            [_named(name, value) for value in values] for name, values in options.items()
        ]
        padded = [values + values[-1:] * (longest - len(values)) for values in codes.values()]
        table = np.array(padded, dtype=np.int64)
        self._table = table if options else table.reshape(0, 1)

    def variables(self, prefix: str) -> Iterator[Variable]:
        """Yield what varies, its names prefixed, in the genome's order."""
        for name in self.columns:
            yield Variable(prefix + name, self.options[name])

    def values(self, levels: IntArray) -> IntArray:
        """Return the codes of the options of all things [N, things], for bits [N, things, 2].

        Args:
            levels: Genomes with a last column of zeros [N, V + 1].
        """
        values: IntArray = self._table[np.arange(len(self._reads)), levels[:, self._reads]]
        return values

    def chosen(self, levels: IntArray) -> tuple[tuple[Any, ...], ...]:
        """Return (name, option) of each thing, given one padded genome [V + 1].

        Bits come as (name, weight bits, activation bits).
        """
        pairs = zip(self._named, levels[self._reads].tolist(), strict=True)
        return tuple(named[level] for named, level in pairs)

    def write(self, values: Mapping[str, Option], genome: IntArray) -> None:
        """Set the levels of named things in a genome [V].

        Raises:
            InputError: A value is none of the thing's options.
        """
        for name, value in values.items():
            options = self.options[name]
            if value not in options:
                raise InputError(f"{name}: expected one of {list(options)}, got {value}.")
            if name in self.columns:
                genome[self.columns[name]] = options.index(value)


def _named(name: str, value: Any) -> tuple[Any, ...]:
    return (name, *value) if isinstance(value, tuple) else (name, value)
