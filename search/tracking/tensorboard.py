"""`--track tensorboard`: scalars in the run folder, for `tensorboard --logdir RUN`."""

from __future__ import annotations

from tensorboardX import SummaryWriter

from search.run_folder import RunFolder
from search.settings import Settings
from search.tracking.state import State


class TensorBoard:
    """Writes event files. The step is the number of evaluations."""

    def __init__(self, run: RunFolder, settings: Settings) -> None:
        self._writer = SummaryWriter(str(run.tensorboard))
        rows = (f"| {name} | {value} |" for name, value in settings.model_dump(mode="json").items())
        self._writer.add_text("settings", "\n".join(("| option | value |", "| --- | --- |", *rows)))

    def report(self, state: State) -> None:
        """Write the scalars of a state."""
        for name, value in state.values.items():
            self._writer.add_scalar(name, value, state.evaluations)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
