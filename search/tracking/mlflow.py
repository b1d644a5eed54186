"""`--track mlflow`: a run on an MLflow server, or in the folder of MLFLOW_TRACKING_URI."""

from __future__ import annotations

import mlflow

from search.run_folder import RunFolder
from search.settings import Settings
from search.tracking.state import State


class MLflow:
    """Logs options, metrics and the files of the front. The step is the number of evaluations."""

    def __init__(self, run: RunFolder, settings: Settings) -> None:
        self._run = run
        mlflow.set_experiment("paretrim")
        mlflow.start_run(run_name=run.path.name)
        mlflow.log_params(settings.model_dump(mode="json"))

    def report(self, state: State) -> None:
        """Log the metrics of a state."""
        mlflow.log_metrics(state.values, step=state.evaluations)

    def close(self) -> None:
        """Hand over the front, if there is one, and end the run."""
        for path in (self._run.study, self._run.front, self._run.picks, self._run.report):
            if path.exists():
                mlflow.log_artifact(str(path))
        mlflow.end_run()
