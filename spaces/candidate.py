"""One point of a search space, in the words of the model: groups, layers, bits."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hw_models.errors import InputError


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a compressed variant keeps. The order of the tuples has no meaning.

    Args:
        imgsz: Rows and columns of the input picture.
        kept: (channel group, channels kept); a group not named stays dense. Where none is kept
            inside of a residual block, the block is dropped.
        bits: (layer, weight bits, activation bits); a layer not named keeps its bits.
        patterns: (layer, sparsity pattern); a layer not named stays dense.
    """

    imgsz: int
    kept: tuple[tuple[str, int], ...] = ()
    bits: tuple[tuple[str, int, int], ...] = ()
    patterns: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form: equal for equal candidates, on every machine."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return a form that JSON can hold, with everything sorted."""
        return {
            "imgsz": self.imgsz,
            "kept": [list(item) for item in sorted(self.kept)],
            "bits": [list(item) for item in sorted(self.bits)],
            "patterns": [list(item) for item in sorted(self.patterns)],
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Candidate:
        """Return the candidate that `to_dict` wrote.

        Raises:
            InputError: The record has missing or additional keys, or values of another type.
        """
        try:
            candidate = cls(
                imgsz=_typed(record["imgsz"], int),
                kept=tuple((_typed(g, str), _typed(n, int)) for g, n in record["kept"]),
                bits=tuple(
                    (_typed(layer, str), _typed(w, int), _typed(a, int))
                    for layer, w, a in record["bits"]
                ),
                patterns=tuple((_typed(la, str), _typed(p, str)) for la, p in record["patterns"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                "Not a candidate: expected imgsz, kept, bits and patterns as "
                f"Candidate.to_dict writes them, got {str(record)[:200]} ({error!r})."
            ) from error
        return candidate


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value


def check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that are not the model's, or are given twice.

    Raises:
        InputError: One is unknown or repeated.
    """
    known = list(known)
    for name, count in Counter(list(names)).items():
        if name not in known:
            example = f", such as {known[0]}" if known else ""
            raise InputError(
                f"Unknown {what} {name!r}; expected one of the model's {len(known)}{example}."
            )
        if count > 1:
            raise InputError(f"The {what} {name} is given {count} times; expected once.")
