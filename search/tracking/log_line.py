"""The heartbeat line in the log: that the run is alive, and what it is at."""

from __future__ import annotations

import logging

from search.tracking.state import State

log = logging.getLogger(__name__)


class LogLine:
    """Writes one line a beat."""

    def report(self, state: State) -> None:
        """Write it."""
        log.info(
            "heartbeat: %.0f s, %d evaluations, %d failed, %d actors busy %.0f %% of the time, "
            "hypervolume %.4f",
            state.seconds,
            state.evaluations,
            state.failures,
            state.actors,
            100 * state.busy,
            state.hypervolume,
        )

    def close(self) -> None:
        """Nothing: the log says how a run ends."""
