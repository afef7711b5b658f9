"""A meter that remembers."""

from collections import Counter, defaultdict

from pipeline.metrics import SilentMeter


class Remembering(SilentMeter):
    """Totals, last values and observations by exported name and label values."""

    def __init__(self):
        self.totals, self.values, self.observed = Counter(), {}, defaultdict(list)
        self.seen = defaultdict(list)

    def add(self, metric, amount, **labels):
        super().add(metric, amount, **labels)
        self.totals[(metric.name, *labels.values())] += amount

    def set(self, metric, value, **labels):
        super().set(metric, value, **labels)
        self.values[(metric.name, *labels.values())] = value
        self.seen[(metric.name, *labels.values())].append(value)

    def observe(self, metric, value, **labels):
        super().observe(metric, value, **labels)
        self.observed[metric.name].append(value)
