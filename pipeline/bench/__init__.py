"""What the benchmark job measures, one module a subcommand."""
