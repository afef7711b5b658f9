"""Snapshots in the formats of other loaders."""
