"""The meter on Ray: every node's agent exports what its processes tell it, for Prometheus."""

from typing import Any

import ray
from ray.util import metrics as ray_metrics

from pipeline.metrics import Metric


class RayMeter:
    """Tells Ray, where this process has joined a cluster.

    Travels to workers, where it starts anew; any number in a process count as one.
    """

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __reduce__(self) -> tuple[type["RayMeter"], tuple[()]]:
        return RayMeter, ()

    def add(self, metric: Metric, amount: float, **labels: str) -> None:
        """Count up; Ray refuses to count nothing."""
        metric.require("counter", labels)
        if amount and ray.is_initialized():
            self._of(metric, ray_metrics.Counter).inc(amount, labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Give a gauge its value."""
        metric.require("gauge", labels)
        if ray.is_initialized():
            self._of(metric, ray_metrics.Gauge).set(value, labels)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        metric.require("histogram", labels)
        if ray.is_initialized():
            bounds = list(metric.bounds)
            self._of(metric, ray_metrics.Histogram, boundaries=bounds).observe(value, labels)

    def _of(self, metric: Metric, kind: type[Any], **options: Any) -> Any:
        if metric.name not in self._made:
            help_ = f"{metric.unit}: {metric.help}"
            self._made[metric.name] = kind(
                metric.name, help_, tag_keys=tuple(metric.labels), **options
            )
        return self._made[metric.name]
