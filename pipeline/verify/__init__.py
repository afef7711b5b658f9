"""Verifying a cache: its shards are read back, and compared with what its tables say."""
