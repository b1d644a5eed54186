"""`--track wandb`: a run at Weights & Biases; with WANDB_MODE=offline in the run folder only."""

from __future__ import annotations

import wandb

from search.run_folder import RunFolder
from search.settings import Settings
from search.tracking.state import State


class Wandb:
    """Logs options and metrics."""

    def __init__(self, run: RunFolder, settings: Settings) -> None:
        self._run = wandb.init(
            project="paretrim",
            name=run.path.name,
            config=settings.model_dump(mode="json"),
            dir=str(run.path),
        )

    def report(self, state: State) -> None:
        """Log the metrics of a state."""
        self._run.log(state.values)

    def close(self) -> None:
        """End the run."""
        self._run.finish()
