"""How much of the dense network's accuracy another keeps."""

from __future__ import annotations

import numpy as np

from evaluators.detection import Accuracy


def retention(found: Accuracy, dense: Accuracy) -> tuple[float, float]:
    """Return the share of the dense mAP50-95 that is kept, and its standard error, both in %.

    The error is the luck of these images: the spread over resamples that are the same for both
    networks (`evaluators.bootstrap`).
    """
    shares = np.divide(found.resampled, dense.resampled)
    return 100 * found.map50_95 / dense.map50_95, 100 * float(np.std(shares, ddof=1))


def as_text(kept: tuple[float, float]) -> str:
    """Return a retention as tables show it."""
    return f"{kept[0]:.1f} ± {kept[1]:.1f}"
