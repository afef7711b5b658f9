"""Manifests from one values file: ``python -m infra.manifests`` writes them."""
