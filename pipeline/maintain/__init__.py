"""Keeping a cache: its history, tags, restoring, vacuum and compaction. No run is needed for it."""
