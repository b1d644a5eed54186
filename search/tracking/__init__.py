"""Where a run tells how it stands, while it goes on.

Once a minute the `heartbeat` takes the state of the session and hands it to some trackers, each a
module with one small class: `log_line`, `ray_metrics`, `tensorboard`, `mlflow`, `wandb`, and
`mirror`, which copies the run folder. A tracker that fails is warned of and asked again the next
minute: no run ends because somebody who watches it is not there.
"""
