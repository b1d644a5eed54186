"""Metrics of the run beside Ray's own, for whoever scrapes the nodes (Prometheus)."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from search.tracking.state import State


class RayMetrics:
    """Exports the state as `ray_paretrim_...` from the driver's node.

    Args:
        run: Name of the run, to tell it from others on the cluster.
    """

    def __init__(self, run: str) -> None:
        tags = {"run": run}
        self._counters = {
            name: Counter(f"paretrim_{name}", f"{what} by this driver", ("run",))
            for name, what in (("evaluations", "Evaluations"), ("failures", "Failed evaluations"))
        }
        self._gauges = {
            name: Gauge(f"paretrim_{name}", what, ("run",))
            for name, what in (
                ("actors", "Evaluation actors"),
                ("busy", "Share of the actors' time spent on evaluations"),
                ("hypervolume", "Share of the box up to the dense model that the front covers"),
            )
        }
        self._counted = dict.fromkeys(self._counters, 0.0)
        for metric in (*self._counters.values(), *self._gauges.values()):
            metric.set_default_tags(tags)

    def report(self, state: State) -> None:
        """Export it; Ray's agent collects what is exported every few seconds."""
        values = state.values
        for name, gauge in self._gauges.items():
            gauge.set(values[name])
        for name, counter in self._counters.items():
            if (more := values[name] - self._counted[name]) > 0:  # Ray refuses to count by 0
                counter.inc(more)
            self._counted[name] = values[name]

    def close(self) -> None:
        """Nothing: metrics end with the driver."""
