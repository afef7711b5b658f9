"""Monitoring: a Grafana dashboard and Prometheus alerts over a run's metrics and Ray's own."""
